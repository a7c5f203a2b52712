//! The Tailway agent: follows files, samples the host, ships both to any Kafka.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod config;
pub mod event;
pub mod host;
pub mod json;
pub mod machine;
pub mod output;
pub mod registry;
pub mod tail;
