//! The async door to one partition: cheap to clone, one bounded queue behind it.
//!
//! Appends go through the owner task's queue; reads do not. A read near the end of the log is served where it is asked, any
//! other on a thread that may block.

use std::sync::Arc;

use bytes::Bytes;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_storage::StorageError;
use tokio::sync::{oneshot, watch};

use super::driver::Command;
use super::shared::Shared;
use super::validate::validate;
use super::{
    AppendOptions, AppendOrigin, Appended, ListOffset, ListedOffset, PartitionError,
    ProducerReport, ReadSlice, Watermarks,
};
use crate::log::{FoundByTime, LogConfig, LogView};

/// One read returns at most this much, however much is asked for (a larger first batch is returned whole).
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A hot read larger than this is still not done on a tokio worker.
const INLINE_BYTES_MAX: usize = 1024 * 1024;

/// The door to one partition led by this broker. Clones share the partition.
#[derive(Clone)]
pub struct PartitionHandle {
    pub(super) shared: Arc<Shared>,
}

/// A batch that has its place in the partition's order and waits for its answer.
pub struct PendingAppend {
    answer: oneshot::Receiver<Result<Appended, PartitionError>>,
}

impl PendingAppend {
    /// Waits for the answer that the append's `acks` asks for. Dropping it does not take the append back.
    pub async fn answer(self) -> Result<Appended, PartitionError> {
        self.answer.await.unwrap_or(Err(PartitionError::Closed))
    }
}

impl PartitionHandle {
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.shared.topic_partition
    }

    pub fn topic_id(&self) -> TopicId {
        self.shared.topic_id
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
    pub async fn submit(
        &self,
        batches: Bytes,
        options: AppendOptions,
    ) -> Result<PendingAppend, PartitionError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        if options.origin != AppendOrigin::GroupCoordinator {
            self.shared.space.take(batches.len() as u64, self.shared.clock.mono())?;
        }
        let batches = validate(batches, &self.shared.config(), options.origin)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append { batches, acks: options.acks, reply }).await?;
        Ok(PendingAppend { answer })
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
        self.check_readable()?;
        let now = self.current();
        if offset < now.log_start || offset > now.log_end {
            let (log_start, log_end) = (now.log_start, now.log_end);
            return Err(PartitionError::OffsetOutOfRange { offset, log_start, log_end });
        }
        let limit = now.high_watermark;
        let max_bytes = max_bytes.min(READ_BYTES_MAX);
        let records = if offset >= limit {
            Bytes::new()
        } else if max_bytes <= INLINE_BYTES_MAX && self.shared.view.is_hot(offset) {
            let read = self.shared.view.read(offset, limit, max_bytes, min_one_batch);
            read.map_err(|error| self.note(error))?
        } else {
            self.blocking(move |view| view.read(offset, limit, max_bytes, min_one_batch)).await?
        };
        Ok(ReadSlice {
            records: if records.is_empty() { Vec::new() } else { vec![records] },
            high_watermark: limit,
            log_start_offset: now.log_start,
            log_end_offset: now.log_end,
        })
    }

    pub async fn list_offset(&self, which: ListOffset) -> Result<ListedOffset, PartitionError> {
        self.check_readable()?;
        let now = self.current();
        let (log_start, limit) = (now.log_start, now.high_watermark);
        let at = |offset, leader_epoch| Ok(ListedOffset { offset, timestamp: -1, leader_epoch });
        let found = match which {
            // An empty log begins where its leader's epoch does.
            ListOffset::Earliest if log_start == now.log_end => {
                return at(log_start, self.leader_epoch());
            }
            ListOffset::Earliest => return at(log_start, self.shared.view.epoch_at(log_start)),
            // What comes next will have the leader's epoch, as Kafka answers.
            ListOffset::Latest => return at(limit, self.leader_epoch()),
            ListOffset::MaxTimestamp => {
                self.blocking(move |view| view.find_max_timestamp(log_start, limit)).await?
            }
            ListOffset::Timestamp(timestamp) => {
                self.blocking(move |view| view.find_timestamp(timestamp, log_start, limit)).await?
            }
        };
        let none = FoundByTime { offset: -1, timestamp: -1, leader_epoch: -1 };
        let FoundByTime { offset, timestamp, leader_epoch } = found.unwrap_or(none);
        Ok(ListedOffset { offset, timestamp, leader_epoch })
    }

    /// The end offset of `leader_epoch` (OffsetForLeaderEpoch): the largest epoch at most that, and where it ends.
    /// `(-1, -1)` where none is known.
    #[allow(clippy::unused_async, reason = "a door like the others: it may lead to another broker")]
    pub async fn end_offset_for_epoch(
        &self,
        leader_epoch: i32,
    ) -> Result<(i32, i64), PartitionError> {
        self.check_readable()?;
        let log_end = self.current().log_end;
        if leader_epoch == self.leader_epoch() {
            return Ok((leader_epoch, log_end));
        }
        Ok(self.shared.view.with_epochs(|epochs| epochs.end_of(leader_epoch, log_end)))
    }

    /// What the log knows of its idempotent producers, by producer id. That is what is appended, which is more than what is
    /// committed: the next acknowledged append at the same leader epoch proves the one by the other.
    pub async fn producers(&self) -> Result<Vec<ProducerReport>, PartitionError> {
        if let Some(failure) = self.shared.failure() {
            return Err(failure);
        }
        let (reply, answer) = oneshot::channel();
        self.send(Command::DescribeProducers { reply }).await?;
        answer.await.map_err(|_| self.shared.failure().unwrap_or(PartitionError::Closed))
    }

    /// Follows log start and high watermark: for long polls. Receivers are woken when either moves, and when the
    /// partition closes (a read then says so).
    pub fn watermarks(&self) -> watch::Receiver<Watermarks> {
        self.shared.watermarks.subscribe()
    }

    /// Where the partition stands now.
    pub fn current(&self) -> Watermarks {
        *self.shared.watermarks.borrow()
    }

    /// Why this partition refuses work (fenced, quarantined, closed), if it does.
    pub fn failure(&self) -> Option<PartitionError> {
        self.shared.failure()
    }

    pub fn leader_epoch(&self) -> i32 {
        self.shared.leader_epoch()
    }

    /// Bytes of all its segments.
    pub fn size_bytes(&self) -> u64 {
        self.shared.view.size_bytes()
    }

    /// New batches are stored with this leader epoch from now on. Lower epochs are ignored.
    pub async fn become_leader(&self, leader_epoch: i32) -> Result<(), PartitionError> {
        if leader_epoch <= self.leader_epoch() {
            return Ok(());
        }
        self.send(Command::BecomeLeader { leader_epoch }).await
    }

    /// Applies changed topic settings.
    pub async fn reconfigure(&self, config: LogConfig) -> Result<(), PartitionError> {
        let config = Arc::new(config);
        self.shared.set_config(Arc::clone(&config));
        self.send(Command::Reconfigure { config }).await
    }

    /// Runs retention and compaction now instead of at the next check; returns when they are done.
    pub async fn run_housekeeping(&self) -> Result<(), PartitionError> {
        let (done, finished) = oneshot::channel();
        self.send(Command::Housekeep { done: Some(done) }).await?;
        finished.await.map_err(|_| PartitionError::Closed)
    }

    pub(super) async fn send(&self, command: Command) -> Result<(), PartitionError> {
        let sent = self.shared.commands.send(command).await;
        sent.map_err(|_| self.shared.failure().unwrap_or(PartitionError::Closed))
    }

    /// A fenced log still serves what was durable before; a quarantined one serves nothing.
    fn check_readable(&self) -> Result<(), PartitionError> {
        if tailway_faults::is_planted("broker.quarantine_served") {
            return Ok(());
        }
        match self.shared.failure() {
            None | Some(PartitionError::Storage { .. }) => Ok(()),
            Some(failure) => Err(failure),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&LogView) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, PartitionError> {
        let view = Arc::clone(&self.shared.view);
        match tailway_runtime::spawn_blocking(move || read(&view)).await {
            Ok(result) => result.map_err(|error| self.note(error)),
            Err(_) => Err(PartitionError::Closed),
        }
    }

    /// Damage found by a read quarantines the partition.
    fn note(&self, error: StorageError) -> PartitionError {
        let cause: Arc<str> = error.to_string().into();
        if !matches!(error, StorageError::Corrupt { .. }) {
            return PartitionError::Storage { cause };
        }
        let failure = PartitionError::Quarantined { cause: Arc::clone(&cause) };
        if self.shared.fail(failure.clone()) {
            tailway_faults::reached("broker.partition_quarantined");
            let TopicPartition { topic, partition } = &self.shared.topic_partition;
            tracing::error!(%topic, partition, error = %cause, "stored records are damaged: the partition is quarantined, nothing of it is cut or served");
            // If the queue is full, appends are refused at the door anyway; those in the queue are answered as usual.
            self.shared.commands.try_send(Command::Quarantine { cause }).ok();
        }
        failure
    }
}
