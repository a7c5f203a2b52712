//! One segment: a data file and its two indexes, appended to by one owner, read by many.
//!
//! Readers take a short lock for facts and do all IO outside of it. A sealed segment holds no file handles: each read opens
//! the file. Compaction and retention mark a segment `retired` before they touch its files; a reader that finds the mark
//! after its IO throws the result away and starts over with the current list.
//! Invariants: `size` bytes of whole batches are in the file; index entries point below `size`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, DiskFile, OpenMode, StorageError};
use tailway_wire::record::{BATCH_OVERHEAD, BatchHeader};

use super::index::{Entry, Index, Lookup, OffsetEntry, TimeEntry};
use super::names;
use super::scan::{Due, Scanner, Step};
use crate::machine::retention::{ActiveFacts, SegmentFacts};

/// What a segment must know of a batch that was written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMeta {
    pub size: u64,
    pub last_offset: i64,
    pub max_timestamp: i64,
}

impl From<&BatchHeader> for BatchMeta {
    fn from(header: &BatchHeader) -> Self {
        Self {
            size: header.size() as u64,
            last_offset: header.last_offset(),
            max_timestamp: header.max_timestamp,
        }
    }
}

/// The greatest timestamp so far, and the last offset of the batch that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxTimestamp {
    pub timestamp: i64,
    pub offset: i64,
}

#[derive(Debug)]
pub struct Segment {
    base_offset: i64,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    retired: AtomicBool,
    state: RwLock<State>,
    cursors: Mutex<Cursors>,
}

/// Where the last few readers stopped: they go on from there.
#[derive(Debug, Default)]
struct Cursors {
    places: [(i64, u64); 8],
    next: usize,
}

impl Cursors {
    fn find(&self, offset: i64) -> Option<u64> {
        // Position 0 marks an empty slot; the index answers that one as fast.
        self.places.iter().find(|place| place.0 == offset && place.1 > 0).map(|place| place.1)
    }

    fn remember(&mut self, offset: i64, position: u64) {
        if self.find(offset).is_none() {
            self.places[self.next] = (offset, position);
            self.next = (self.next + 1) % self.places.len();
        }
    }
}

#[derive(Debug)]
struct State {
    contents: Contents,
    created: WallMs,
    last_append: WallMs,
    /// Kept while this is the active segment, or while its name is about to change.
    file: Option<Arc<dyn DiskFile>>,
}

/// What is in a segment: kept up by appends, found again by recovery.
#[derive(Debug)]
pub struct Contents {
    pub size: u64,
    pub next_offset: i64,
    pub offsets: Index<OffsetEntry>,
    pub times: Index<TimeEntry>,
    pub bytes_since_entry: u64,
    pub max_timestamp: MaxTimestamp,
    /// Greatest timestamp of the first batch.
    pub first_timestamp: Option<i64>,
    /// Batches from this offset on were checked by this process; older ones are checked when they are read.
    pub verified_from: i64,
}

impl Contents {
    /// An empty segment.
    pub fn empty(dir: &Path, base_offset: i64) -> Self {
        Self {
            size: 0,
            next_offset: base_offset,
            offsets: Index::empty(names::file(dir, base_offset, OffsetEntry::SUFFIX)),
            times: Index::empty(names::file(dir, base_offset, TimeEntry::SUFFIX)),
            bytes_since_entry: 0,
            max_timestamp: MaxTimestamp { timestamp: -1, offset: base_offset },
            first_timestamp: None,
            verified_from: base_offset,
        }
    }

    /// Kafka's rule, for appends and for rebuilding: an entry for a batch that begins more than the interval behind the
    /// last entry; the time index follows with the greatest timestamp so far, if that rose.
    pub fn account(&mut self, base_offset: i64, batch: BatchMeta, interval: u64) {
        if batch.max_timestamp > self.max_timestamp.timestamp {
            self.max_timestamp =
                MaxTimestamp { timestamp: batch.max_timestamp, offset: batch.last_offset };
        }
        if self.first_timestamp.is_none() {
            self.first_timestamp = Some(batch.max_timestamp);
        }
        if self.bytes_since_entry > interval {
            self.offsets.push(OffsetEntry {
                relative_offset: relative(base_offset, batch.last_offset),
                position: u32::try_from(self.size).unwrap_or(u32::MAX),
            });
            push_time(&mut self.times, base_offset, self.max_timestamp);
            self.bytes_since_entry = 0;
        }
        self.size += batch.size;
        self.bytes_since_entry += batch.size;
        self.next_offset = batch.last_offset + 1;
    }

    /// Writes and syncs all index entries of files that are already open.
    pub fn write_and_sync_indexes(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.offsets.write_pending(disk)?;
        self.times.write_pending(disk)?;
        for file in [self.offsets.file(), self.times.file()].into_iter().flatten() {
            file.sync_data()?;
        }
        Ok(())
    }

    /// The last time index entry, which every segment gets when no more is appended to it.
    pub fn finish_times(&mut self, base_offset: i64) {
        push_time(&mut self.times, base_offset, self.max_timestamp);
    }
}

/// Kafka's `maybeAppend`: only a greater timestamp is a new entry.
fn push_time(times: &mut Index<TimeEntry>, base_offset: i64, max: MaxTimestamp) {
    if times.last().map_or(-1, |last| last.timestamp) < max.timestamp {
        let relative_offset = relative(base_offset, max.offset);
        times.push(TimeEntry { timestamp: max.timestamp, relative_offset });
    }
}

/// Segments are rolled before this overflows. Offsets below the segment are as good as its base.
fn relative(base_offset: i64, offset: i64) -> u32 {
    u32::try_from(offset.saturating_sub(base_offset).max(0)).unwrap_or(u32::MAX)
}

impl Segment {
    pub fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        base_offset: i64,
        contents: Contents,
        now: WallMs,
    ) -> Self {
        let state = State { contents, created: now, last_append: now, file: None };
        Self {
            base_offset,
            path: names::file(dir, base_offset, names::LOG),
            disk,
            retired: AtomicBool::new(false),
            state: RwLock::new(state),
            cursors: Mutex::default(),
        }
    }

    pub fn base_offset(&self) -> i64 {
        self.base_offset
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn size(&self) -> u64 {
        self.read().contents.size
    }

    pub fn next_offset(&self) -> i64 {
        self.read().contents.next_offset
    }

    pub fn max_timestamp(&self) -> MaxTimestamp {
        self.read().contents.max_timestamp
    }

    pub fn verified_from(&self) -> i64 {
        self.read().contents.verified_from
    }

    /// Its files are about to go or to be replaced.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    pub fn facts(&self) -> SegmentFacts {
        let state = self.read();
        SegmentFacts {
            base_offset: self.base_offset,
            end_offset: state.contents.next_offset,
            bytes: state.contents.size,
            max_timestamp: state.contents.max_timestamp.timestamp,
            last_append: state.last_append,
        }
    }

    pub fn active_facts(&self) -> ActiveFacts {
        let state = self.read();
        ActiveFacts {
            base_offset: self.base_offset,
            bytes: state.contents.size,
            first_timestamp: state.contents.first_timestamp,
            created: state.created,
            index_full: state.contents.offsets.is_full() || state.contents.times.is_full(),
        }
    }

    /// The data file, opened for reading if the segment holds no handle.
    pub fn open_for_reading(&self) -> Result<Arc<dyn DiskFile>, StorageError> {
        let held = self.read().file.clone();
        held.map_or_else(|| self.disk.open(&self.path, OpenMode::Read), Ok)
    }

    /// Keeps a handle until `release_file`: the active segment's, or one whose file is being renamed.
    pub fn hold_file(&self, file: Arc<dyn DiskFile>) {
        self.write().file = Some(file);
    }

    pub fn release_file(&self) {
        self.write().file = None;
    }

    /// A position at or before the batch that holds `offset`. An entry that the log does not confirm is not used.
    pub fn seek(&self, file: &dyn DiskFile, offset: i64) -> Result<u64, StorageError> {
        let key = relative(self.base_offset, offset);
        let lookup = self.read().contents.offsets.prepare(key);
        let Some(entry) = lookup.finish(self.disk.as_ref(), key)? else { return Ok(0) };
        let position = u64::from(entry.position);
        let last_offset = self.base_offset + i64::from(entry.relative_offset);
        let confirmed =
            header_at(file, position)?.is_some_and(|header| header.last_offset() == last_offset);
        Ok(if confirmed { position } else { 0 })
    }

    /// Where the batch that holds `offset`, or the first behind it, begins. `None` past the end.
    pub fn locate(&self, file: &dyn DiskFile, offset: i64) -> Result<Option<u64>, StorageError> {
        if let Some(position) = self.lock_cursors().find(offset) {
            return Ok(Some(position));
        }
        let mut found = None;
        self.visit_headers_in(file, offset, |position, _| {
            found = Some(position);
            false
        })?;
        Ok(found)
    }

    /// A reader that got everything below `offset` will ask for `position` next.
    pub fn remember_cursor(&self, offset: i64, position: u64) {
        self.lock_cursors().remember(offset, position);
    }

    /// A position at or before `offset` that is known without reading.
    pub fn known_position(&self, offset: i64) -> Option<u64> {
        self.lock_cursors().find(offset).or_else(|| {
            let key = relative(self.base_offset, offset);
            match self.read().contents.offsets.prepare(key) {
                Lookup::Found(entry) => Some(u64::from(entry.position)),
                Lookup::Search { .. } => None,
            }
        })
    }

    /// Walks the headers of the batches that reach to `offset` or above, until `visit` says false.
    pub fn visit_headers(
        &self,
        offset: i64,
        visit: impl FnMut(u64, &BatchHeader) -> bool,
    ) -> Result<(), StorageError> {
        let file = self.open_for_reading()?;
        self.visit_headers_in(file.as_ref(), offset, visit)
    }

    fn visit_headers_in(
        &self,
        file: &dyn DiskFile,
        offset: i64,
        mut visit: impl FnMut(u64, &BatchHeader) -> bool,
    ) -> Result<(), StorageError> {
        let position = self.seek(file, offset)?;
        let (size, end) = {
            let state = self.read();
            (state.contents.size, state.contents.next_offset)
        };
        let due = Due::rising(self.base_offset, end);
        let mut scanner = Scanner::new(file, position, size, due);
        loop {
            match scanner.step(false)? {
                Step::End => return Ok(()),
                Step::Batch { position, header } => {
                    if header.last_offset() >= offset && !visit(position, &header) {
                        return Ok(());
                    }
                }
                Step::Bad { position, reason } => {
                    return Err(StorageError::Corrupt {
                        path: self.path.clone(),
                        offset: position,
                        reason,
                    });
                }
            }
        }
    }

    /// An offset such that no record below it is as new as `timestamp`.
    pub fn offset_before_time(&self, timestamp: i64) -> Result<i64, StorageError> {
        // The entry for an older timestamp: with an equal one the first such record may lie before the entry's offset.
        let key = timestamp.saturating_sub(1);
        let lookup = self.read().contents.times.prepare(key);
        let found = lookup.finish(self.disk.as_ref(), key)?;
        Ok(self.base_offset + found.map_or(0, |entry| i64::from(entry.relative_offset)))
    }

    /// Takes note of batches that were just written behind each other at `size`.
    pub fn account(&self, batches: &[BatchMeta], interval: u64, now: WallMs) {
        let mut state = self.write();
        for batch in batches {
            state.contents.account(self.base_offset, *batch, interval);
        }
        state.last_append = now;
    }

    /// Whether enough index entries gathered to be written between flushes.
    pub fn wants_index_write(&self) -> bool {
        let state = self.read();
        state.contents.offsets.wants_write() || state.contents.times.wants_write()
    }

    /// Writes index entries that are only in memory.
    pub fn write_indexes(&self) -> Result<(), StorageError> {
        let mut state = self.write();
        state.contents.offsets.write_pending(self.disk.as_ref())?;
        state.contents.times.write_pending(self.disk.as_ref())
    }

    /// No more is appended for now: the last time index entry is added and everything written. Returns the index files,
    /// to be synced.
    pub fn finish_indexes(&self) -> Result<Vec<Arc<dyn DiskFile>>, StorageError> {
        self.write().contents.finish_times(self.base_offset);
        self.write_indexes()?;
        let state = self.read();
        let files = [state.contents.offsets.file(), state.contents.times.file()];
        Ok(files.into_iter().flatten().collect())
    }

    /// Lets all file handles go.
    pub fn release(&self) {
        let mut state = self.write();
        state.file = None;
        state.contents.offsets.release();
        state.contents.times.release();
    }

    /// The paths of its three files.
    pub fn paths(&self) -> [PathBuf; 3] {
        let state = self.read();
        [
            self.path.clone(),
            state.contents.offsets.path().to_path_buf(),
            state.contents.times.path().to_path_buf(),
        ]
    }

    fn lock_cursors(&self) -> MutexGuard<'_, Cursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A thread that panicked while holding the lock aborts the process in release builds; in tests the state is whole
    // because every change is complete before the lock is released.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the header at `position`, if the file has one there.
pub(super) fn header_at(
    file: &dyn DiskFile,
    position: u64,
) -> Result<Option<BatchHeader>, StorageError> {
    let mut bytes = [0; BATCH_OVERHEAD];
    let len = file.read_at(&mut bytes, position)?;
    Ok(BatchHeader::parse(&bytes[..len]).ok())
}
