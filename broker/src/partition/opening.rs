//! Opens one partition: its directory, its identity, its log. Blocks.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tailway_daemon::clock::Clock;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_storage::{Filesystem, StorageError, atomic_replace};
use tokio::sync::mpsc;

use super::checkpoints::Checkpoints;
use super::directory;
use super::driver::{Driver, QUEUE};
use super::flusher::Flusher;
use super::registry::PartitionReport;
use super::shared::Shared;
use super::space::DiskSpace;
use super::trusted::TrustedClock;
use super::{PartitionError, Watermarks};
use crate::log::checkpoint::{
    PARTITION_METADATA, decode_partition_metadata, encode_partition_metadata,
};
use crate::log::{Found, Log, LogConfig, LogView, Report, Told, read_small, recover, snapshots};
use crate::machine::partition::{PartitionLeader, Recovered};

pub(super) struct Opening {
    pub(super) tp: TopicPartition,
    pub(super) topic_id: TopicId,
    pub(super) config: LogConfig,
    pub(super) leader_epoch: i32,
    pub(super) clock: Clock,
    pub(super) trusted: Arc<TrustedClock>,
    pub(super) filesystem: Option<Arc<dyn Filesystem>>,
    pub(super) producer_ttl_ms: i64,
    pub(super) checkpoints: Arc<Checkpoints>,
    pub(super) flusher: Flusher,
    pub(super) space: Arc<DiskSpace>,
}

/// Why a partition could not be opened.
pub(super) struct NotOpened {
    pub(super) error: PartitionError,
    /// Trying again is right: nothing was found damaged and no sync failed.
    pub(super) retriable: bool,
}

impl From<StorageError> for NotOpened {
    fn from(error: StorageError) -> Self {
        // After a failed sync the page cache may show what the disk does not have, so reading again proves nothing.
        let retriable =
            matches!(&error, StorageError::Io { operation, .. } if !operation.contains("sync"));
        Self { error: error.into(), retriable }
    }
}

/// The owner task to be, and what recovery did.
pub(super) fn open(opening: Opening) -> (Result<Driver, NotOpened>, PartitionReport) {
    let mut report = PartitionReport {
        topic_partition: opening.tp.clone(),
        log_start_offset: -1,
        log_end_offset: -1,
        trimmed_bytes: 0,
        rebuilt_indexes: 0,
        checked_bytes: 0,
        quarantined: None,
    };
    let found = claim(&opening).and_then(|created| find(&opening, created));
    let result = found.and_then(|found| {
        report.log_start_offset = found.log_start;
        report.log_end_offset = found.log_end;
        let Report { trimmed_bytes, rebuilt_indexes, checked_bytes } = found.report;
        report.trimmed_bytes = trimmed_bytes;
        report.rebuilt_indexes = rebuilt_indexes;
        report.checked_bytes = checked_bytes;
        build(opening, found)
    });
    let result = result.map_err(NotOpened::from);
    if let Err(NotOpened { error, .. }) = &result {
        report.quarantined = Some(error.to_string().into());
        tailway_faults::reached("broker.partition_quarantined");
    }
    say(&report);
    (result, report)
}

/// Makes the directory ours: creates it, or puts a deleted namesake's aside. True if it is new.
fn claim(opening: &Opening) -> Result<bool, StorageError> {
    let disk = opening.checkpoints.disk().as_ref();
    let dir = opening.checkpoints.log_dir(&opening.tp);
    let metadata = dir.join(PARTITION_METADATA);
    let mut exists = disk.exists(&dir)?;
    if exists {
        let stored = read_small(disk, &metadata)?.map(|bytes| decode_partition_metadata(&bytes));
        match stored {
            Some(Ok(id)) if id == opening.topic_id => return Ok(false),
            Some(Ok(_)) => {
                let aside = directory::put_aside(disk, &dir)?;
                let (topic, partition) = (&opening.tp.topic, opening.tp.partition);
                tracing::warn!(%topic, partition, path = %aside.display(), "this directory belongs to a deleted topic of the same name; it is kept aside");
                opening.checkpoints.forget(&opening.tp);
                opening.checkpoints.write_all()?;
                exists = false;
            }
            // A crash came between the directory and its identity, or the file is damaged: the log is what counts.
            Some(Err(_)) | None => {}
        }
    }
    disk.create_dir_all(&dir)?;
    // It may be there since an attempt that ended before this.
    disk.sync_dir(opening.checkpoints.data_dir())?;
    atomic_replace(disk, &metadata, &encode_partition_metadata(opening.topic_id))?;
    Ok(!exists)
}

fn find(opening: &Opening, created: bool) -> Result<Found, StorageError> {
    let checkpoints = &opening.checkpoints;
    let stored = checkpoints.stored(&opening.tp);
    let dir = checkpoints.log_dir(&opening.tp);
    recover(&Told {
        disk: checkpoints.disk(),
        dir: &dir,
        clean: checkpoints.clean && !created,
        recovery_point: stored.recovery_point,
        log_start: stored.log_start,
        index_interval: u64::from(opening.config.index_interval_bytes),
        compacted: opening.config.compact || stored.cleaned > 0,
        now: opening.clock.wall(),
    })
}

fn build(opening: Opening, found: Found) -> Result<Driver, StorageError> {
    let producer_ttl_ms = opening.producer_ttl_ms;
    let Opening { tp, topic_id, config, leader_epoch, clock, checkpoints, flusher, space, .. } =
        opening;
    let (trusted, filesystem) = (opening.trusted, opening.filesystem);
    let Found { segments, log_start, log_end, producers, epochs, .. } = found;
    let disk = Arc::clone(checkpoints.disk());
    let dir = checkpoints.log_dir(&tp);
    let known = snapshots(disk.as_ref(), &dir)?;
    let active = segments.last().map(Arc::clone).ok_or_else(|| StorageError::Corrupt {
        path: dir.clone(),
        offset: 0,
        reason: "no segment".to_owned(),
    })?;
    let leader_epoch = leader_epoch.max(epochs.latest().unwrap_or(-1));
    let view = Arc::new(LogView::new(segments, epochs, log_end));
    let log = Log::new(disk, &dir, config.clone(), Arc::clone(&view), active, known);
    let leader = PartitionLeader::new(Recovered {
        leader_epoch,
        log_start,
        log_end,
        producers,
        producer_ttl_ms,
    });
    let (sender, commands) = mpsc::channel(QUEUE);
    let watermarks = Watermarks { log_start, high_watermark: log_end, log_end };
    let cleaned = checkpoints.stored(&tp).cleaned.min(log_end);
    let shared =
        Shared::new(tp, topic_id, view, sender, (space, clock.clone()), watermarks, config);
    shared.leader_epoch.store(leader_epoch, Ordering::Release);
    shared.cleaned.store(cleaned, Ordering::Release);
    shared.set_elsewhere(filesystem.is_some_and(|known| !known.holds(&dir).unwrap_or(false)));
    let shared = Arc::new(shared);
    Ok(Driver { shared, commands, log, leader, flusher, clock, trusted, checkpoints })
}

/// One line about what was unusual.
fn say(report: &PartitionReport) {
    let TopicPartition { topic, partition } = &report.topic_partition;
    let PartitionReport { trimmed_bytes, rebuilt_indexes, checked_bytes, log_end_offset, .. } =
        report;
    if let Some(error) = &report.quarantined {
        tracing::error!(%topic, partition, %error, "the partition is not served; its files are left as they are");
    } else if *trimmed_bytes > 0 || *rebuilt_indexes > 0 {
        tracing::warn!(%topic, partition, trimmed_bytes, rebuilt_indexes, checked_bytes, log_end_offset, "recovered the log: 0 records acknowledged with acks=all were lost");
    } else {
        tracing::debug!(%topic, partition, checked_bytes, log_end_offset, "opened the log");
    }
}
