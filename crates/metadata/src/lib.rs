//! What the cluster is: ids, topics, the records that change it and the image they add up to. Pure: bytes and decisions, no
//! IO and no clock.
//!
//! The coordinator decides and appends [`record::MetadataRecord`]s; everybody else follows that stream and applies it to a
//! [`image::ClusterImage`]. Two images that applied the same records are equal, byte for byte in their snapshot.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod authority;
pub mod broker;
pub mod control;
pub mod enrollment;
pub mod ids;
pub mod image;
pub mod record;
pub mod secret;
pub mod security;
pub mod time;
pub mod topic;
pub mod topic_config;

pub use ids::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, MetadataLogId,
    Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId, TopicPartition,
};
pub use image::ClusterImage;
pub use record::MetadataRecord;
pub use secret::Secret;
pub use security::Role;
