//! The partition log: Kafka's on-disk format.

mod config;

pub use config::LogConfig;
