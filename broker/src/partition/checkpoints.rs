//! The offset checkpoints of a data directory: recovery points, log starts, high watermarks, compaction progress.
//!
//! They are lower bounds that make a start quick and a loss visible, so they are written now and then, at a clean stop, and
//! (the log starts) before retention deletes anything. Partitions that nothing opened keep what the files said.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tailway_metadata::ids::TopicPartition;
use tailway_storage::{Disk, StorageError, atomic_replace};
use tokio::sync::Notify;

use super::shared::Shared;
use super::space::DiskSpace;
use crate::log::checkpoint::{
    CLEAN_SHUTDOWN, CLEAN_SHUTDOWN_BYTES, CLEANER, HIGH_WATERMARK, LOG_START, Offsets,
    RECOVERY_POINT, decode_offsets, encode_offsets,
};
use crate::log::read_small;

const FILES: [&str; 4] = [RECOVERY_POINT, LOG_START, HIGH_WATERMARK, CLEANER];

pub(super) struct Checkpoints {
    disk: Arc<dyn Disk>,
    data_dir: PathBuf,
    /// The last stop was clean.
    pub(super) clean: bool,
    state: Mutex<State>,
    /// Held while files are written, so that an older state never replaces a newer one.
    writing: Mutex<()>,
    dirty: AtomicBool,
    pub(super) changed: Notify,
    space: Arc<DiskSpace>,
}

#[derive(Default)]
struct State {
    /// What the files say of partitions that are not open.
    stored: BTreeMap<&'static str, Offsets>,
    open: BTreeMap<TopicPartition, Arc<Shared>>,
}

/// What the files say of one partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stored {
    pub(super) recovery_point: i64,
    pub(super) log_start: i64,
    pub(super) cleaned: i64,
}

impl Checkpoints {
    /// Reads the files and takes the clean-shutdown marker away: from now on a stop without a new one is not clean.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        data_dir: PathBuf,
        space: Arc<DiskSpace>,
    ) -> Result<Self, StorageError> {
        let mut stored = BTreeMap::new();
        let mut readable = true;
        for name in FILES {
            let offsets = match read_small(disk.as_ref(), &data_dir.join(name))? {
                None => Offsets::new(),
                Some(bytes) => decode_offsets(&bytes).unwrap_or_else(|error| {
                    tracing::warn!(file = name, %error, "this checkpoint is unreadable and made anew; the logs are checked from their start");
                    readable = false;
                    Offsets::new()
                }),
            };
            stored.insert(name, offsets);
        }
        let marker = data_dir.join(CLEAN_SHUTDOWN);
        let marked = disk.exists(&marker)?;
        if marked && !tailway_faults::is_planted("broker.clean_marker_kept") {
            disk.remove_file(&marker)?;
            disk.sync_dir(&data_dir)?;
        }
        Ok(Self {
            disk,
            data_dir,
            clean: marked && readable,
            state: Mutex::new(State { stored, open: BTreeMap::new() }),
            writing: Mutex::new(()),
            dirty: AtomicBool::new(false),
            changed: Notify::new(),
            space,
        })
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn log_dir(&self, tp: &TopicPartition) -> PathBuf {
        self.data_dir.join(tp.to_string())
    }

    pub(super) fn stored(&self, tp: &TopicPartition) -> Stored {
        let state = self.lock();
        let of = |name| state.stored.get(name).and_then(|o| o.get(tp)).copied().unwrap_or(0);
        Stored {
            recovery_point: of(RECOVERY_POINT),
            log_start: of(LOG_START),
            cleaned: of(CLEANER),
        }
    }

    /// From now on the files follow this partition.
    pub(super) fn follow(&self, shared: &Arc<Shared>) {
        self.lock().open.insert(shared.topic_partition.clone(), Arc::clone(shared));
    }

    /// The partition is gone: so is what the files say of it.
    pub(super) fn forget(&self, tp: &TopicPartition) {
        let mut state = self.lock();
        state.open.remove(tp);
        for offsets in state.stored.values_mut() {
            offsets.remove(tp);
        }
        drop(state);
        self.mark_dirty();
    }

    /// Something moved; the files are written before long.
    pub(super) fn mark_dirty(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.changed.notify_one();
        }
    }

    /// Writes all files.
    pub(super) fn write_all(&self) -> Result<(), StorageError> {
        self.dirty.store(false, Ordering::Release);
        FILES.iter().try_for_each(|name| self.write(name))
    }

    /// Makes the log starts durable.
    pub(super) fn write_log_starts(&self) -> Result<(), StorageError> {
        self.write(LOG_START)
    }

    /// Says that everything is written.
    pub(super) fn write_clean_marker(&self) -> Result<(), StorageError> {
        let marker = self.data_dir.join(CLEAN_SHUTDOWN);
        atomic_replace(self.disk.as_ref(), &marker, CLEAN_SHUTDOWN_BYTES)
    }

    fn write(&self, name: &'static str) -> Result<(), StorageError> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = encode_offsets(&self.lock().offsets(name));
        let path = self.data_dir.join(name);
        match atomic_replace(self.disk.as_ref(), &path, &bytes) {
            // Deletions need this file: they are what makes room.
            Err(error) if error.is_disk_full() && self.space.make_room() => {
                atomic_replace(self.disk.as_ref(), &path, &bytes)
            }
            done => done,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn offsets(&self, name: &'static str) -> Offsets {
        let mut offsets = self.stored.get(name).cloned().unwrap_or_default();
        for (tp, shared) in &self.open {
            let now = *shared.watermarks.borrow();
            let offset = match name {
                RECOVERY_POINT if tailway_faults::is_planted("broker.checkpoint_ahead_of_sync") => {
                    now.log_end
                }
                RECOVERY_POINT => shared.view.recovery_point(),
                LOG_START => now.log_start,
                HIGH_WATERMARK => now.high_watermark,
                _ => shared.cleaned.load(Ordering::Acquire),
            };
            if name != CLEANER || offset > 0 {
                offsets.insert(tp.clone(), offset);
            }
        }
        offsets
    }
}
