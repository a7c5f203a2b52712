//! The owner's side of a log: appends groups of batches, rolls segments, hands out what has to be synced.
//!
//! Appends go to the page cache at once. What a sync has to cover gathers here (data, sealed files, new names, small files
//! to rewrite) and leaves as one `FlushJob`, which runs on a thread that may block.
//! Invariants: after a failed write or sync nothing is written any more (`Fence`), except that a disk without room breaks
//! nothing: what was written of a group is cut off again; a flush job covers everything that was
//! appended before it was taken; small files are rewritten only after the data they speak of is durable.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, DiskFile, Fence, OpenMode, StorageError, atomic_replace};
use tailway_wire::record::BatchHeader;

use super::config::LogConfig;
use super::segment::{BatchMeta, Contents, Segment};
use super::view::LogView;
use super::{checkpoint, files, names, snapshot};
use crate::machine::producers::Producers;
use crate::machine::retention::{self, RetentionLimits, Trusted};

/// Snapshots kept besides the newest: should that one be unreadable, less of the log has to be read.
const OLDER_SNAPSHOTS_KEPT: usize = 1;

/// A batch with its place: the patched header, and the bytes to write.
#[derive(Debug, Clone)]
pub struct PlacedBatch {
    pub header: BatchHeader,
    pub parts: [Bytes; 2],
}

/// The writing side of one log.
#[derive(Debug)]
pub struct Log {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    config: LogConfig,
    view: Arc<LogView>,
    fence: Fence,
    active: Arc<Segment>,
    file: Option<Arc<dyn DiskFile>>,
    unsynced: Unsynced,
    postponed: Rewrites,
    snapshots: Vec<i64>,
    /// Something was appended since it was opened.
    changed: bool,
    /// Something was appended since the last check for idleness.
    busy: bool,
}

/// Small files that found no room, for the next flush: a start does without them.
type Rewrites = Arc<Mutex<BTreeMap<PathBuf, Vec<u8>>>>;

#[derive(Debug, Default)]
struct Unsynced {
    data: bool,
    sealed: Vec<Arc<dyn DiskFile>>,
    names: bool,
    rewrites: BTreeMap<PathBuf, Vec<u8>>,
    removals: Vec<PathBuf>,
}

/// Everything that makes the log durable up to a point. Runs on a thread that may block.
#[derive(Debug)]
pub struct FlushJob {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    fence: Fence,
    syncs: Vec<Arc<dyn DiskFile>>,
    names: bool,
    rewrites: BTreeMap<PathBuf, Vec<u8>>,
    removals: Vec<PathBuf>,
    /// Where small files go for which there is no room; `None`: they have to be written now.
    postponed: Option<Rewrites>,
}

impl FlushJob {
    /// Files and directories to be synced.
    pub fn files(&self) -> usize {
        self.syncs.len() + usize::from(self.names)
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The whole file system was synced: what is left to do. `None`: nothing.
    pub fn after_filesystem_sync(self) -> Option<Self> {
        let rest = Self { syncs: Vec::new(), names: false, ..self };
        let is_done = rest.rewrites.is_empty() && rest.removals.is_empty();
        (!is_done).then_some(rest)
    }

    /// Syncs everything. A failure fences the log. `make_room` is called when the disk is full, and says whether there is
    /// more room now.
    pub fn run(self, make_room: impl Fn() -> bool) -> Result<(), StorageError> {
        let Self { disk, dir, fence, syncs, names, rewrites, removals, postponed } = self;
        for file in syncs {
            let retries = tailway_faults::is_planted("broker.failed_sync_retried");
            if retries && file.sync_data().is_err() {
                continue;
            }
            fence.guard(file.path(), || file.sync_data())?;
        }
        if tailway_faults::is_planted("broker.segment_name_not_synced") {
            return Ok(());
        }
        if names {
            fence.guard(&dir, || disk.sync_dir(&dir))?;
        }
        for (path, bytes) in rewrites {
            let replace = || atomic_replace(disk.as_ref(), &path, &bytes);
            fence.check()?;
            let replaced = match replace() {
                // It is written anew from its first byte, so nothing of the failed attempt counts.
                Err(error) if error.is_disk_full() && make_room() => replace(),
                done => done,
            };
            match (replaced, &postponed) {
                (Ok(()), _) => {}
                (Err(error), Some(postponed)) if error.is_disk_full() => {
                    lock(postponed).insert(path, bytes);
                }
                (Err(error), _) => {
                    fence.trip(&path, &error);
                    return Err(error);
                }
            }
        }
        for path in removals {
            // A file that stays takes room, no more; the next start removes it.
            files::remove_if_there(disk.as_ref(), &path).ok();
        }
        Ok(())
    }
}

impl Log {
    /// Goes on where recovery ended.
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: LogConfig,
        view: Arc<LogView>,
        active: Arc<Segment>,
        snapshots: Vec<i64>,
    ) -> Self {
        Self {
            disk,
            dir: dir.to_path_buf(),
            config,
            view,
            fence: Fence::new(),
            active,
            file: None,
            unsynced: Unsynced::default(),
            postponed: Rewrites::default(),
            snapshots,
            changed: false,
            busy: false,
        }
    }

    pub fn config(&self) -> &LogConfig {
        &self.config
    }

    pub fn reconfigure(&mut self, config: LogConfig) {
        self.config = config;
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn log_end(&self) -> i64 {
        self.active.next_offset()
    }

    /// Writes `batches`, whose offsets follow the log end, as few writes as segments allow. `producers` is the state that
    /// includes them. If the disk is full, what lies below the log end then is written, and nothing of the rest.
    pub fn append(
        &mut self,
        batches: &[PlacedBatch],
        producers: &Producers,
        now: WallMs,
    ) -> Result<(), StorageError> {
        let mut facts = self.active.active_facts();
        let mut run = 0;
        for (i, batch) in batches.iter().enumerate() {
            let header = &batch.header;
            let size = header.size() as u64;
            let full = retention::should_roll(
                &facts,
                size,
                header.last_offset(),
                header.max_timestamp,
                u64::from(self.config.segment_bytes),
                self.config.segment_ms,
                now,
            );
            if full && facts.bytes > 0 {
                self.write(&batches[run..i], now)?;
                self.roll(header.base_offset, producers, now)?;
                (run, facts) = (i, self.active.active_facts());
            }
            facts.bytes += size;
            facts.first_timestamp.get_or_insert(header.max_timestamp);
        }
        self.write(&batches[run..], now)
    }

    fn write(&mut self, batches: &[PlacedBatch], now: WallMs) -> Result<(), StorageError> {
        let Some(first) = batches.first() else { return Ok(()) };
        debug_assert!(first.header.base_offset >= self.active.next_offset());
        let file = self.active_file()?;
        let slices: Vec<IoSlice<'_>> =
            batches.iter().flat_map(|batch| &batch.parts).map(|part| IoSlice::new(part)).collect();
        let position = self.active.size();
        self.unless_full(file.path(), || file.write_all_at(&slices, position)).inspect_err(
            |_| {
                // A part may have been written. What cannot be cut off again fences the log.
                self.fence.guard(file.path(), || file.set_len(position)).ok();
            },
        )?;
        let metas: Vec<BatchMeta> =
            batches.iter().map(|batch| BatchMeta::from(&batch.header)).collect();
        self.note_epochs(batches);
        self.active.account(&metas, u64::from(self.config.index_interval_bytes), now);
        (self.unsynced.data, self.changed, self.busy) = (true, true, true);
        if self.active.wants_index_write() {
            self.write_indexes()?;
        }
        Ok(())
    }

    /// Runs a write: refused if fenced, and its failure fences, except that a disk without room is no reason to distrust it.
    fn unless_full<T>(
        &self,
        path: &Path,
        operation: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.fence.check()?;
        operation().inspect_err(|error| {
            if !error.is_disk_full() {
                self.fence.trip(path, error);
            }
        })
    }

    fn note_epochs(&mut self, batches: &[PlacedBatch]) {
        let encoded = self.view.with_epochs(|epochs| {
            let mut changed = false;
            for PlacedBatch { header, .. } in batches {
                changed |= epochs.assign(header.partition_leader_epoch, header.base_offset);
            }
            changed.then(|| epochs.encode())
        });
        if let Some(bytes) = encoded {
            self.unsynced.rewrites.insert(self.dir.join(checkpoint::LEADER_EPOCHS), bytes);
        }
    }

    fn active_file(&mut self) -> Result<Arc<dyn DiskFile>, StorageError> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let path = self.active.path();
        let file = self.unless_full(path, || self.disk.open(path, OpenMode::Write))?;
        self.active.hold_file(Arc::clone(&file));
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// On a full disk the entries stay in memory until the next time.
    fn write_indexes(&self) -> Result<(), StorageError> {
        match self.unless_full(self.active.path(), || self.active.write_indexes()) {
            Err(error) if error.is_disk_full() => Ok(()),
            done => done,
        }
    }

    /// Seals the active segment and begins a new one at `base_offset`.
    pub fn roll(
        &mut self,
        base_offset: i64,
        producers: &Producers,
        now: WallMs,
    ) -> Result<(), StorageError> {
        tailway_faults::crash("broker.roll.before");
        let sealed = self.active_file()?;
        let old = Arc::clone(&self.active);
        let indexes = self.unless_full(old.path(), || old.finish_indexes())?;
        let contents = Contents::empty(&self.dir, base_offset);
        let segment =
            Arc::new(Segment::new(Arc::clone(&self.disk), &self.dir, base_offset, contents, now));
        let file = self.unless_full(segment.path(), || {
            let file = self.disk.open(segment.path(), OpenMode::Create)?;
            file.set_len(0)?;
            segment.write_indexes()?;
            Ok(file)
        })?;
        // From here on nothing fails: a roll that found no room is tried again as if it had never begun.
        self.unsynced.sealed.push(sealed);
        self.unsynced.sealed.extend(indexes);
        if tailway_faults::is_planted("broker.producers_lost_at_roll") {
            self.snapshot(base_offset, &Producers::default());
        }
        self.snapshot(base_offset, producers);
        segment.hold_file(Arc::clone(&file));
        self.file = Some(file);
        (self.unsynced.data, self.unsynced.names, self.changed) = (true, true, true);
        self.active = Arc::clone(&segment);
        self.view.change_segments(|segments| segments.push(segment));
        old.release();
        tailway_faults::crash("broker.roll.after");
        Ok(())
    }

    fn snapshot(&mut self, offset: i64, producers: &Producers) {
        if self.snapshots.last() == Some(&offset) {
            return;
        }
        let path = names::file(&self.dir, offset, names::SNAPSHOT);
        self.unsynced.rewrites.insert(path, snapshot::encode(producers, offset));
        self.snapshots.push(offset);
        let old = self.snapshots.len().saturating_sub(1 + OLDER_SNAPSHOTS_KEPT);
        let gone = self.snapshots.drain(..old);
        let gone = gone.map(|offset| names::file(&self.dir, offset, names::SNAPSHOT));
        self.unsynced.removals.extend(gone);
    }

    /// Lets the file handles go if nothing was appended since the last call. Only between flushes.
    pub fn release_if_idle(&mut self) {
        if !std::mem::take(&mut self.busy) && !self.unsynced.data && self.unsynced.sealed.is_empty()
        {
            self.file = None;
            self.active.release();
        }
    }

    /// What has to be synced so that everything appended so far is durable.
    pub fn take_flush(&mut self) -> Result<FlushJob, StorageError> {
        self.fence.check()?;
        if self.unsynced.data {
            self.write_indexes()?;
        }
        let Unsynced { data, sealed: mut syncs, names, mut rewrites, removals } =
            std::mem::take(&mut self.unsynced);
        for (path, bytes) in std::mem::take(&mut *lock(&self.postponed)) {
            // There may be a newer one by now.
            rewrites.entry(path).or_insert(bytes);
        }
        if data && let Some(file) = &self.file {
            syncs.push(Arc::clone(file));
        }
        let (disk, dir, fence) = (Arc::clone(&self.disk), self.dir.clone(), self.fence.clone());
        let postponed = Some(Arc::clone(&self.postponed));
        Ok(FlushJob { disk, dir, fence, syncs, names, rewrites, removals, postponed })
    }

    /// Writes everything that a clean start relies on; the job makes it durable. Nothing may be appended afterwards.
    pub fn close(&mut self, producers: &Producers) -> Result<FlushJob, StorageError> {
        self.fence.check()?;
        if self.changed {
            let active = Arc::clone(&self.active);
            let indexes = self.fence.guard(active.path(), || active.finish_indexes())?;
            self.unsynced.sealed.extend(indexes);
            self.unsynced.names = true;
            self.snapshot(active.next_offset(), producers);
        }
        let mut job = self.take_flush()?;
        job.postponed = None;
        self.active.release();
        self.file = None;
        Ok(job)
    }

    /// Takes the segments that retention lets go out of the list and returns them, oldest first; the log then starts at
    /// the first that is left. Their files are still there.
    pub fn apply_retention(
        &mut self,
        log_start: i64,
        high_watermark: i64,
        producers: &Producers,
        now: Trusted,
    ) -> Result<Vec<Arc<Segment>>, StorageError> {
        let segments = self.view.segments();
        let facts: Vec<_> = segments.iter().map(|segment| segment.facts()).collect();
        let limits = RetentionLimits {
            retention_ms: if self.config.compact { None } else { self.config.retention_ms },
            retention_bytes: if self.config.compact { None } else { self.config.retention_bytes },
        };
        let count = retention::deletable(&facts, log_start, high_watermark, limits, now);
        if count == segments.len() {
            self.roll(self.log_end(), producers, now.now)?;
        }
        if count > 0 {
            self.view.change_segments(|segments| drop(segments.drain(..count)));
        }
        Ok(segments[..count].to_vec())
    }
}

fn lock(postponed: &Rewrites) -> MutexGuard<'_, BTreeMap<PathBuf, Vec<u8>>> {
    postponed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Deletes the files of segments that no list has any more, oldest first.
pub fn delete_segments(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[Arc<Segment>],
) -> Result<(), StorageError> {
    for segment in segments {
        files::remove_segment(disk, dir, segment.base_offset())?;
    }
    if segments.is_empty() { Ok(()) } else { disk.sync_dir(dir) }
}
