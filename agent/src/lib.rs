//! The Tailway agent: follows files, samples the host, ships both to any Kafka.
//!
//! [`Agent`] is the daemon. Inside, decisions are pure ([`machine`]), one thread owns files, journal
//! and lanes ([`ship`]), and tasks talk to brokers ([`output`]). A line's way: a watch or a poll
//! ([`tail`]) says that a file grew, its machine asks for a read, the line becomes an event
//! ([`event`]) in its partition's lane, the lane's batch is planned in the journal ([`registry`])
//! and sent, and its acknowledgement moves the file's offset.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod agent;
pub mod config;
pub mod event;
pub mod host;
pub mod json;
pub mod machine;
pub mod metrics;
pub mod output;
pub mod registry;
pub mod ship;
pub mod tail;

pub use agent::Agent;
pub use config::Config;
