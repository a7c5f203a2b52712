//! The broker: stores partitions and speaks the Kafka protocol.
//!
//! `server` turns sockets into requests, `api` turns one request into one response, `partition` and `group` own
//! the state, `log` the bytes on disk, `cluster` what the coordinator says, `forward` what sinks get. `broker` wires them and is the
//! `Daemon` that the thin binary and `tailway dev` start.
//! Invariant: handlers in `api` reach a partition or a group through an async door only, never the log itself.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod api;
pub mod broker;
pub mod cluster;
pub mod config;
pub mod forward;
pub mod group;
pub mod log;
pub mod machine;
pub mod metrics;
pub mod partition;
pub mod server;
mod start_report;
mod status;

pub use broker::Broker;
pub use config::Config;
