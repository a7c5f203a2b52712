//! How a program lives: configuration, logging, clock, tasks, metrics, readiness, the admin port, signals, exit codes.
//!
//! The three daemons implement [`Daemon`] and hand themselves to [`run_daemon`]; `tailway dev` starts the same three
//! through the same trait in one process. Nothing here knows Kafka.
//!
//! Invariants: every task has a name and an end (`tasks`); every program stops within one deadline and names what did
//! not (`run`); a configuration is either whole or refused with all its problems at once (`config`).
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod admin;
pub mod certificates;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod exit;
pub mod holder;
pub mod host;
pub mod logging;
pub mod metrics;
pub mod metrics_listener;
pub mod notify;
pub mod pulse;
pub mod ready;
pub mod run;
pub mod shutdown;
pub mod tasks;
pub mod units;

pub use certificates::Certificates;
pub use clock::Clock;
pub use config::Problems;
pub use daemon::{Context, Daemon, Runtime, StartError};
pub use host::Hosted;
pub use metrics_listener::MetricsListener;
pub use pulse::{Pulse, Pulses};
pub use run::{command, run_daemon};
pub use tasks::{Deadline, Stop, Stragglers, Tasks};

/// Version and commit, as `--version` prints them: `0.1.0 (commit 0123456789ab)`.
pub const VERSION: &str = env!("TAILWAY_VERSION");
