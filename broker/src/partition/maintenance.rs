//! Work on one partition that may block: deleting what retention let go, compacting.
//!
//! One piece at a time, on a blocking thread. The new log start is durable before the first file goes, so that a crash in
//! between leaves files that the next start removes, never a hole.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tailway_metadata::time::WallMs;
use tailway_storage::StorageError;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::checkpoints::Checkpoints;
use super::driver::Driver;
use super::shared::Shared;
use crate::log::{Compaction, MAP_BYTES_MAX, Segment, delete_segments};

pub(super) type Outcome = Result<(), StorageError>;

#[derive(Default)]
pub(super) struct Maintenance {
    running: Option<JoinHandle<Outcome>>,
    cancelled: Arc<AtomicBool>,
    tell: Vec<oneshot::Sender<()>>,
}

/// What the thread works on.
struct Job {
    shared: Arc<Shared>,
    checkpoints: Arc<Checkpoints>,
    gone: Vec<Arc<Segment>>,
    compaction: Option<Compaction>,
}

impl Maintenance {
    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Tells `done` when nothing runs any more.
    pub(super) fn also_tell(&mut self, done: Option<oneshot::Sender<()>>) {
        if self.running.is_some() {
            self.tell.extend(done);
        } else if let Some(done) = done {
            done.send(()).ok();
        }
    }

    /// Deletes `gone` and compacts, if either is due.
    pub(super) fn start(
        &mut self,
        driver: &Driver,
        gone: Vec<Arc<Segment>>,
        keep_offsets: Vec<i64>,
        now: WallMs,
    ) {
        let shared = Arc::clone(&driver.shared);
        let config = driver.log.config();
        let compaction = config.compact.then(|| Compaction {
            disk: Arc::clone(driver.checkpoints.disk()),
            dir: driver.log.dir().to_path_buf(),
            view: Arc::clone(&shared.view),
            limit: driver.leader.high_watermark(),
            first_dirty: shared.cleaned.load(Ordering::Acquire),
            segment_bytes: u64::from(config.segment_bytes),
            index_interval: u64::from(config.index_interval_bytes),
            delete_retention_ms: config.delete_retention_ms,
            map_bytes_max: MAP_BYTES_MAX,
            keep_offsets,
            now,
            cancelled: Arc::clone(&self.cancelled),
        });
        let compaction = compaction.filter(Compaction::is_due);
        if gone.is_empty() && compaction.is_none() {
            return;
        }
        let job = Job { shared, checkpoints: Arc::clone(&driver.checkpoints), gone, compaction };
        self.running = Some(tailway_runtime::spawn_blocking(move || job.run()));
    }

    /// Waits for the end of what runs; for ever if nothing does.
    pub(super) async fn finished(&mut self) -> Outcome {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        // A panic in there has been reported where it happened.
        let outcome = running.await.unwrap_or(Ok(()));
        self.running = None;
        for done in self.tell.drain(..) {
            done.send(()).ok();
        }
        outcome
    }

    /// Ends what runs at its next safe point.
    pub(super) async fn cancel(&mut self) {
        self.cancelled.store(true, Ordering::Release);
        if self.running.is_some() {
            // The work is done again after the next start.
            self.finished().await.ok();
        }
    }
}

impl Job {
    fn run(self) -> Outcome {
        let Self { shared, checkpoints, gone, compaction } = self;
        if !gone.is_empty() {
            checkpoints.write_log_starts()?;
            for segment in &gone {
                segment.retire();
            }
            let dir = checkpoints.log_dir(&shared.topic_partition);
            delete_segments(checkpoints.disk().as_ref(), &dir, &gone)?;
        }
        if let Some(compaction) = compaction {
            let cleaned = compaction.run()?;
            shared.cleaned.store(cleaned, Ordering::Release);
        }
        Ok(())
    }
}
