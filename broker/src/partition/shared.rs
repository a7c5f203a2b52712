//! What the handles of a partition and its owner task share.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use tailway_daemon::clock::Clock;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tokio::sync::{mpsc, watch};

use super::driver::Command;
use super::space::DiskSpace;
use super::{PartitionError, Watermarks};
use crate::log::{LogConfig, LogView};

pub(super) struct Shared {
    pub(super) topic_partition: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) view: Arc<LogView>,
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) space: Arc<DiskSpace>,
    pub(super) clock: Clock,
    pub(super) watermarks: watch::Sender<Watermarks>,
    config: RwLock<Arc<LogConfig>>,
    pub(super) leader_epoch: AtomicI32,
    /// Offsets below were compacted.
    pub(super) cleaned: AtomicI64,
    /// Its directory lies on another file system than the data directory.
    elsewhere: AtomicBool,
    failure: OnceLock<PartitionError>,
    closed: AtomicBool,
}

impl Shared {
    pub(super) fn new(
        topic_partition: TopicPartition,
        topic_id: TopicId,
        view: Arc<LogView>,
        commands: mpsc::Sender<Command>,
        (space, clock): (Arc<DiskSpace>, Clock),
        watermarks: Watermarks,
        config: LogConfig,
    ) -> Self {
        Self {
            topic_partition,
            topic_id,
            view,
            commands,
            space,
            clock,
            watermarks: watch::Sender::new(watermarks),
            config: RwLock::new(Arc::new(config)),
            leader_epoch: AtomicI32::new(-1),
            cleaned: AtomicI64::new(0),
            elsewhere: AtomicBool::new(false),
            failure: OnceLock::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(super) fn config(&self) -> Arc<LogConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn set_config(&self, config: Arc<LogConfig>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    /// Why it refuses work, if it does.
    pub(super) fn failure(&self) -> Option<PartitionError> {
        let failure = self.failure.get().cloned();
        failure.or_else(|| self.closed.load(Ordering::Acquire).then_some(PartitionError::Closed))
    }

    /// The first failure stays. True if this is it.
    pub(super) fn fail(&self, error: PartitionError) -> bool {
        self.failure.set(error).is_ok()
    }

    /// Wakes long polls, whose next read says `Closed`.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.watermarks.send_modify(|_| {});
    }

    pub(super) fn is_elsewhere(&self) -> bool {
        self.elsewhere.load(Ordering::Acquire)
    }

    pub(super) fn set_elsewhere(&self, elsewhere: bool) {
        self.elsewhere.store(elsewhere, Ordering::Release);
    }

    pub(super) fn leader_epoch(&self) -> i32 {
        self.leader_epoch.load(Ordering::Acquire)
    }
}
