//! A client for Kafka's protocol, as good against Apache Kafka as against our own broker.
//!
//! What: [`Client`] (bootstrap, version negotiation, metadata, leader routing) and on top of it
//! [`produce`] (idempotent pipelines, a batching producer), [`consume`], [`group`] and [`admin`].
//! The agent, the command line and `dev --expect` all use this one.
//!
//! Invariants: every call has a deadline, every queue a bound, and every error names the broker,
//! the cause and what to try next. Decisions that correctness hangs on live in [`machine`].

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod admin;
mod client;
mod config;
mod connection;
pub mod consume;
mod error;
pub mod group;
pub mod machine;
mod membership;
mod metadata;
mod partitioner;
pub mod positions;
pub mod probe;
pub mod produce;
mod producers;
mod requests;
pub mod resolve;
mod route;

pub use admin::Admin;
pub use client::{
    Acks, Client, FetchFrom, FetchLimits, Fetched, ListedOffset, OffsetSpec, PendingProduce,
    Produced, Route,
};
pub use config::ClientConfig;
pub use consume::{Consumer, ConsumerOptions, StartAt};
pub use error::{ClientError, ProduceError};
pub use group::{GroupConsumer, GroupOptions};
pub use machine::pipeline::ProducerIdentity;
pub use metadata::{BrokerInfo, ClusterMetadata, PartitionInfo, TopicInfo};
pub use positions::GroupPositions;
pub use produce::{PartitionSender, Producer, ProducerOptions};
pub use producers::ActiveProducer;
pub use tailway_metadata::ids::TopicPartition;
pub use tailway_net::{ClientTls, ClientTlsFiles, HostPort};
