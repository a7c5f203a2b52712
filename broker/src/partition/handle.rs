//! The async door to one partition: cheap to clone, one bounded queue behind it.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tokio::sync::watch;

use super::{
    AppendOptions, Appended, ListOffset, ListedOffset, PartitionError, ReadSlice, Watermarks,
};
use crate::log::LogConfig;

/// The door to one partition led by this broker. Clones share the partition.
#[derive(Clone)]
pub struct PartitionHandle {
    inner: Arc<()>,
}

/// A batch that has its place in the partition's order and waits for its answer.
pub struct PendingAppend {
    answer: tokio::sync::oneshot::Receiver<Result<Appended, PartitionError>>,
}

impl PendingAppend {
    /// Waits for the answer that the append's `acks` asks for. Dropping it does not take the append back.
    pub async fn answer(self) -> Result<Appended, PartitionError> {
        self.answer.await.unwrap_or(Err(PartitionError::Closed))
    }
}

impl PartitionHandle {
    pub fn topic_partition(&self) -> &TopicPartition {
        unimplemented!()
    }

    pub fn topic_id(&self) -> TopicId {
        unimplemented!()
    }

    /// Validates `batches` (one or more v2 record batches, consecutive) and appends them: `submit` and `answer` in one.
    pub async fn append(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> Result<Appended, PartitionError> {
        self.submit(batches, options).await?.answer().await
    }

    /// Validates and queues `batches`; waits only while the queue is full. Once it returned, the place in the order is
    /// fixed: a connection that calls `submit` in request order keeps its producers' order, and may then wait for
    /// many answers at once.
    pub fn submit(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> impl Future<Output = Result<PendingAppend, PartitionError>> + Send {
        let _ = (batches, options, &self.inner);
        async { unimplemented!() }
    }

    /// Whole batches from the one that holds `offset` on, below the high watermark, up to `max_bytes`; with
    /// `min_one_batch` the first batch comes even if it is larger. Empty at the high watermark; below the log start or
    /// above the log end: `OffsetOutOfRange`.
    pub async fn read(
        &self,
        offset: i64,
        max_bytes: usize,
        min_one_batch: bool,
    ) -> Result<ReadSlice, PartitionError> {
        let _ = (offset, max_bytes, min_one_batch);
        unimplemented!()
    }

    pub async fn list_offset(&self, which: ListOffset) -> Result<ListedOffset, PartitionError> {
        let _ = which;
        unimplemented!()
    }

    /// The end offset of `leader_epoch` (OffsetForLeaderEpoch): the largest epoch at most that, and where it ends.
    /// `(-1, -1)` where none is known.
    pub async fn end_offset_for_epoch(
        &self,
        leader_epoch: i32,
    ) -> Result<(i32, i64), PartitionError> {
        let _ = leader_epoch;
        unimplemented!()
    }

    /// Follows log start, high watermark and log end: for long polls. The sender goes when the partition closes.
    pub fn watermarks(&self) -> watch::Receiver<Watermarks> {
        unimplemented!()
    }

    /// Where the partition stands now.
    pub fn current(&self) -> Watermarks {
        unimplemented!()
    }

    /// Why this partition refuses work (fenced after a disk error), if it does.
    pub fn failure(&self) -> Option<PartitionError> {
        unimplemented!()
    }

    pub fn leader_epoch(&self) -> i32 {
        unimplemented!()
    }

    /// Bytes of all its segments.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// New batches are stored with this leader epoch from now on. Lower epochs are ignored.
    pub async fn become_leader(&self, leader_epoch: i32) -> Result<(), PartitionError> {
        let _ = leader_epoch;
        unimplemented!()
    }

    /// Applies changed topic settings.
    pub async fn reconfigure(&self, config: LogConfig) -> Result<(), PartitionError> {
        let _ = config;
        unimplemented!()
    }
}
