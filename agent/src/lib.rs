//! The Tailway agent: follows files, samples the host, ships both to any Kafka.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod event;
pub mod host;
pub mod json;
pub mod machine;
pub mod tail;
