//! Finding the door: handlers name a partition and get a door, or the Kafka error that says where to look instead.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use tailway_metadata::{ClusterImage, PartitionIndex, TopicPartition};
use tailway_wire::error_code::ErrorCode;

use super::doors::PartitionDoor;
use super::view::ClusterView;
use crate::partition::{PartitionError, Partitions};

/// Current leader epoch of a request that does not check it.
pub const NO_EPOCH_CHECK: i32 = -1;

/// Partitions of this broker that could not be opened, with the reason.
pub type FailedPartitions = BTreeMap<TopicPartition, PartitionError>;

/// Finds the door of a partition. Clones share everything.
#[derive(Clone)]
pub struct Routes {
    view: ClusterView,
    partitions: Partitions,
    failed: Arc<RwLock<FailedPartitions>>,
}

impl Routes {
    pub fn new(view: ClusterView, partitions: Partitions) -> Self {
        Self { view, partitions, failed: Arc::default() }
    }

    /// The image to resolve one request's partitions by.
    pub fn image(&self) -> Arc<ClusterImage> {
        self.view.image()
    }

    /// The door of `topic`-`index` as of `image`, if the requester's idea of the leader epoch is right.
    pub fn partition(
        &self,
        image: &ClusterImage,
        topic: &str,
        index: i32,
        current_leader_epoch: i32,
    ) -> Result<PartitionDoor, ErrorCode> {
        let topic = image.topic(topic).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        let partition =
            topic.partition(PartitionIndex(index)).ok_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)?;
        if current_leader_epoch != NO_EPOCH_CHECK {
            match current_leader_epoch.cmp(&partition.leader_epoch.0) {
                std::cmp::Ordering::Less => return Err(ErrorCode::FENCED_LEADER_EPOCH),
                std::cmp::Ordering::Greater => return Err(ErrorCode::UNKNOWN_LEADER_EPOCH),
                std::cmp::Ordering::Equal => {}
            }
        }
        if partition.leader != Some(self.view.me()) {
            return Err(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        let tp = TopicPartition { topic: Arc::clone(&topic.name), partition: index };
        match self.partitions.handle(&tp) {
            // A deleted namesake may still be open for a moment.
            Some(handle) if handle.topic_id() == topic.id => Ok(PartitionDoor::Local(handle)),
            None if self.lock_failed().contains_key(&tp) => Err(ErrorCode::KAFKA_STORAGE_ERROR),
            Some(_) | None => Err(ErrorCode::NOT_LEADER_OR_FOLLOWER),
        }
    }

    /// What could not be opened.
    pub fn failed_partitions(&self) -> FailedPartitions {
        self.lock_failed().clone()
    }

    fn lock_failed(&self) -> std::sync::RwLockReadGuard<'_, FailedPartitions> {
        // Replaced as a whole: a panic in between leaves it whole.
        self.failed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_failed(&self, failed: FailedPartitions) {
        *self.failed.write().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    pub fn partitions(&self) -> &Partitions {
        &self.partitions
    }
}
