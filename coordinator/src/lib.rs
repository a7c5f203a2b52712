//! The coordinator: which brokers there are, which topics, who leads. One Raft voter with its own durable log; brokers
//! register, send heartbeats and follow its record stream.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod api;
