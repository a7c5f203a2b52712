//! The coordinator: which brokers there are, which topics, who leads. One Raft voter with its own durable log; brokers
//! register, send heartbeats and follow its record stream.
//!
//! Layers: [`machine`] decides (pure), [`driver`] owns it, [`quorum`] makes decisions durable, [`api`] is how brokers ask,
//! [`coordinator`] wires and starts all that.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod api;
pub mod authorities;
pub mod authority;
pub mod config;
pub mod coordinator;
pub mod driver;
pub mod identity;
pub mod machine;
pub mod metrics;
pub mod quorum;
mod rotation;

pub use config::{Config, RawConfig};
pub use coordinator::Coordinator;
