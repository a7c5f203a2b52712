//! Forwarding: the broker that leads a partition delivers its records to the configured sinks.
//!
//! Decisions are `machine::forward`'s; one `driver` for each sink and partition performs them. Progress is an ordinary consumer
//! group (`progress`), what a sink refuses for good goes to a topic of dead letters (`dead_letters`), and comes back from there
//! when a replay is asked for (`reading`). `supervisor` starts and ends drivers as leadership comes and goes.
//! Invariants: at most one driver of a sink and partition runs; without `sinks` nothing runs.

pub mod dead_letters;
mod driver;
mod kafka;
mod lifetime;
mod limiter;
pub mod opensearch;
pub mod progress;
mod reading;
mod record;
mod report;
mod sink;
mod stdout;
mod supervisor;
mod trial;

pub(crate) use supervisor::Forwarders;
pub use trial::{Trial, TrialError};
