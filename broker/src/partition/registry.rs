//! All partitions of this broker's data directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::clock::Clock;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_storage::Disk;

use super::{PartitionError, PartitionHandle};
use crate::log::LogConfig;

/// What the registry needs from the broker.
#[derive(Clone)]
pub struct PartitionsOptions {
    pub disk: Arc<dyn Disk>,
    /// The data directory (Kafka's `log.dirs` entry): partition directories and checkpoints live in it.
    pub data_dir: PathBuf,
    pub clock: Clock,
    /// How often retention and compaction look at every log (Kafka: `log.retention.check.interval.ms`, 5 min).
    pub retention_check_interval: Duration,
    /// Idempotent producers unheard of for this long are forgotten (Kafka: `producer.id.expiration.ms`, 1 day).
    pub producer_id_expiration: Duration,
}

/// What recovery found in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    pub topic_partition: TopicPartition,
    pub log_start_offset: i64,
    pub log_end_offset: i64,
    /// Bytes of an unfinished tail that were cut. They were never acknowledged with acks=all.
    pub trimmed_bytes: u64,
    /// Index files that had to be rebuilt.
    pub rebuilt_indexes: u32,
    /// Records or bytes checked by CRC because the last stop was not clean.
    pub checked_bytes: u64,
    /// Why the partition is quarantined, if it is.
    pub quarantined: Option<Arc<str>>,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    inner: Arc<()>,
}

impl Partitions {
    /// Reads the checkpoints and the clean-shutdown marker of the data directory and starts the flusher. Partitions are
    /// recovered when `open_or_create` names them; directories that nothing names are left alone.
    pub async fn open(options: PartitionsOptions) -> Result<Self, PartitionError> {
        let _ = options;
        unimplemented!()
    }

    /// The handle of `tp`, recovering it from disk or creating it. A directory of the same name with another topic id
    /// is a deleted namesake's: it is renamed to `<name>.<id>-stray` and never touched again. A partition that cannot be
    /// served (quarantined) is an error, and stays one.
    pub async fn open_or_create(
        &self,
        tp: &TopicPartition,
        topic_id: TopicId,
        config: LogConfig,
        leader_epoch: i32,
    ) -> Result<PartitionHandle, PartitionError> {
        let _ = (tp, topic_id, config, leader_epoch, &self.inner);
        unimplemented!()
    }

    /// The handle of an open partition.
    pub fn handle(&self, tp: &TopicPartition) -> Option<PartitionHandle> {
        let _ = tp;
        unimplemented!()
    }

    /// All open partitions, by name.
    pub fn all(&self) -> Vec<PartitionHandle> {
        unimplemented!()
    }

    /// What recovery did, per partition opened so far.
    pub fn reports(&self) -> Vec<PartitionReport> {
        unimplemented!()
    }

    /// Partition directories on disk that nothing opened.
    pub async fn unclaimed(&self) -> Result<Vec<String>, PartitionError> {
        unimplemented!()
    }

    /// Closes `tp` and deletes its directory (renamed to `<name>.<id>-delete` first, so that a crash never leaves a
    /// half-deleted log under its own name). Waiting appends get `Closed`.
    pub async fn delete(&self, tp: &TopicPartition) -> Result<(), PartitionError> {
        let _ = tp;
        unimplemented!()
    }

    /// Flushes and closes everything, writes checkpoints, producer snapshots and the clean-shutdown marker.
    /// Waiting appends are answered first. Fenced partitions make it an error, after the others are closed.
    pub async fn close_all(&self) -> Result<(), PartitionError> {
        unimplemented!()
    }
}
