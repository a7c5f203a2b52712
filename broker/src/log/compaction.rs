//! Compaction: keeps the last record of each key.
//!
//! Kafka's scheme: read the dirty segments into a bounded map of key -> last offset, then rewrite all sealed segments up to
//! there without the records that a later one replaces. Tombstones go once they were seen by a pass and are older than
//! `delete.retention.ms`. Offsets never change; the last batch of each rewritten group stays (empty if need be), so that
//! segments still meet without a hole, and so do the last batches of known producers.
//! Crash safety: the rewritten files are synced as `.cleaned`; renaming the log to `.log.swap` decides; whatever happens
//! after that is finished at the next start.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, DiskFile, OpenMode, StorageError};
use tailway_wire::record::{Batch, BatchHeader};

use super::index::{Entry, Index, OffsetEntry, TimeEntry};
use super::recovery::corrupt;
use super::refilter::{Refiltered, emptied, refilter, visit};
use super::segment::{BatchMeta, Contents, Segment};
use super::view::LogView;
use super::{files, names};

/// Keys remembered in one pass by default, in bytes; what does not fit is for the next pass.
pub const MAP_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What a key costs besides its own bytes.
const MAP_ENTRY_BYTES: usize = 64;

/// Written at once.
const WRITE_BYTES: usize = 1024 * 1024;

/// One pass over one log. Runs on a thread that may block.
#[derive(Debug)]
pub struct Compaction {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub view: Arc<LogView>,
    /// Only what is committed is compacted.
    pub limit: i64,
    pub first_dirty: i64,
    pub segment_bytes: u64,
    pub index_interval: u64,
    pub delete_retention_ms: i64,
    pub map_bytes_max: usize,
    /// Last offsets of known producers, ascending: their batches stay.
    pub keep_offsets: Vec<i64>,
    pub now: WallMs,
    pub cancelled: Arc<AtomicBool>,
}

/// The last offset of each key in the dirty part, which ends at `end`.
#[derive(Debug, Default)]
struct KeyMap {
    last: HashMap<Box<[u8]>, i64>,
    bytes: usize,
    end: i64,
}

/// The rewritten file while it is written.
struct Output {
    file: Arc<dyn DiskFile>,
    contents: Contents,
    base: i64,
    buffer: Vec<u8>,
    written: u64,
}

impl Compaction {
    /// Kafka's `min.cleanable.dirty.ratio`: at least half of the sealed bytes are new.
    pub fn is_due(&self) -> bool {
        let sealed = self.sealed();
        let bytes = |segments: &mut dyn Iterator<Item = &Arc<Segment>>| -> u64 {
            segments.map(|segment| segment.size()).sum()
        };
        let total = bytes(&mut sealed.iter());
        let dirty = bytes(&mut sealed.iter().filter(|s| s.next_offset() > self.first_dirty));
        dirty > 0 && dirty * 2 >= total
    }

    /// Compacts; returns the offset up to which the log is clean now.
    pub fn run(&self) -> Result<i64, StorageError> {
        let sealed = self.sealed();
        let map = self.map_keys(&sealed)?;
        let mut group: Vec<Arc<Segment>> = Vec::new();
        let mut group_bytes = 0;
        for segment in sealed.iter().filter(|segment| segment.base_offset() < map.end) {
            let first = group.first().map_or(segment.base_offset(), |first| first.base_offset());
            let full = group_bytes + segment.size() > self.segment_bytes
                || segment.next_offset() - first > i64::from(i32::MAX);
            if full && !group.is_empty() {
                self.rewrite(&std::mem::take(&mut group), &map)?;
                group_bytes = 0;
            }
            if self.is_cancelled() {
                return Ok(self.first_dirty);
            }
            group_bytes += segment.size();
            group.push(Arc::clone(segment));
        }
        if !group.is_empty() {
            self.rewrite(&group, &map)?;
        }
        Ok(if self.is_cancelled() { self.first_dirty } else { map.end })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// All but the active segment, as far as they are committed.
    fn sealed(&self) -> Vec<Arc<Segment>> {
        let segments = self.view.segments();
        let sealed = segments.len().saturating_sub(1);
        let committed = |segment: &&Arc<Segment>| segment.next_offset() <= self.limit;
        segments[..sealed].iter().take_while(committed).cloned().collect()
    }

    fn map_keys(&self, sealed: &[Arc<Segment>]) -> Result<KeyMap, StorageError> {
        let mut map = KeyMap { end: self.first_dirty, ..KeyMap::default() };
        for segment in sealed.iter().filter(|segment| segment.next_offset() > self.first_dirty) {
            let complete = for_each_batch(segment, self.first_dirty, |batch| {
                if self.is_cancelled() || map.bytes >= self.map_bytes_max {
                    return Ok(false);
                }
                map.add(batch).map_err(|error| damaged(segment, batch, &error.to_string()))?;
                Ok(true)
            })?;
            if !complete {
                return Ok(map);
            }
            map.end = segment.next_offset();
        }
        Ok(map)
    }

    fn rewrite(&self, group: &[Arc<Segment>], map: &KeyMap) -> Result<(), StorageError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else { return Ok(()) };
        let base = first.base_offset();
        let end = last.next_offset();
        let mut output = self.create_output(base)?;
        for segment in group {
            let complete = for_each_batch(segment, base, |batch| {
                if self.is_cancelled() {
                    return Ok(false);
                }
                let kept = self.filter(batch, map, batch.header.next_offset() == end);
                let kept = kept.map_err(|error| damaged(segment, batch, &error.to_string()))?;
                if let Some((header, parts)) = kept {
                    output.push(&header, &parts, self.index_interval)?;
                }
                Ok(true)
            })?;
            if !complete {
                // What was written is removed at the next pass or start.
                return Ok(());
            }
        }
        let before: u64 = group.iter().map(|segment| segment.size()).sum();
        output.finish(self.disk.as_ref())?;
        if group.len() == 1 && output.contents.size == before {
            return self.remove_cleaned(base);
        }
        self.swap(group, output)
    }

    /// What is kept of a batch, as header and pieces; `None` if nothing is.
    fn filter(
        &self,
        batch: &Batch,
        map: &KeyMap,
        is_last: bool,
    ) -> Result<Option<(BatchHeader, Vec<Bytes>)>, tailway_wire::WireError> {
        let unchanged = || Some((batch.header.clone(), vec![batch.bytes.clone()]));
        if batch.header.attributes.is_control() {
            return Ok(unchanged());
        }
        let seen_before = batch.header.last_offset() < self.first_dirty;
        let age = self.now.0.saturating_sub(batch.header.max_timestamp);
        let expired = seen_before && age > self.delete_retention_ms;
        let kept = refilter(batch, |record| {
            let Some(key) = record.key else { return false };
            let is_latest = map.last.get(key).is_none_or(|latest| record.offset >= *latest);
            is_latest && !(record.is_tombstone && expired)
        })?;
        let last_offset = batch.header.last_offset();
        let pinned = is_last || self.keep_offsets.binary_search(&last_offset).is_ok();
        let in_pieces = |header: BatchHeader, body| {
            let head = Bytes::copy_from_slice(&header.encode());
            Some((header, vec![head, body]))
        };
        Ok(match kept {
            Refiltered::Unchanged => unchanged(),
            Refiltered::Changed(header, body) => in_pieces(header, body),
            Refiltered::Empty if pinned => {
                let (header, body) = emptied(batch);
                in_pieces(header, body)
            }
            Refiltered::Empty => None,
        })
    }

    fn cleaned_path(&self, base: i64, suffix: &str) -> PathBuf {
        names::file(&self.dir, base, &format!("{suffix}.cleaned"))
    }

    fn create_output(&self, base: i64) -> Result<Output, StorageError> {
        let create = |suffix: &str| -> Result<Arc<dyn DiskFile>, StorageError> {
            let file = self.disk.open(&self.cleaned_path(base, suffix), OpenMode::Create)?;
            file.set_len(0)?;
            Ok(file)
        };
        let mut contents = Contents::empty(&self.dir, base);
        let path = |suffix| names::file(&self.dir, base, suffix);
        contents.offsets = Index::in_file(path(OffsetEntry::SUFFIX), create(OffsetEntry::SUFFIX)?);
        contents.times = Index::in_file(path(TimeEntry::SUFFIX), create(TimeEntry::SUFFIX)?);
        let file = create(names::LOG)?;
        Ok(Output { file, contents, base, buffer: Vec::new(), written: 0 })
    }

    fn remove_cleaned(&self, base: i64) -> Result<(), StorageError> {
        for suffix in [names::LOG, OffsetEntry::SUFFIX, TimeEntry::SUFFIX] {
            files::remove_if_there(self.disk.as_ref(), &self.cleaned_path(base, suffix))?;
        }
        Ok(())
    }

    /// Puts the rewritten segment in the place of the group.
    fn swap(&self, group: &[Arc<Segment>], output: Output) -> Result<(), StorageError> {
        let (disk, dir, base) = (self.disk.as_ref(), &self.dir, output.base);
        let swap = names::file(dir, base, "log.swap");
        disk.rename(&self.cleaned_path(base, names::LOG), &swap)?;
        disk.sync_dir(dir)?;
        // It counts now. Readers get the new segment, which holds its files open while their names change.
        let Output { file, contents, .. } = output;
        let segment = Arc::new(Segment::new(Arc::clone(&self.disk), dir, base, contents, self.now));
        segment.hold_file(file);
        self.view.change_segments(|segments| {
            let at = segments.iter().position(|known| known.base_offset() == base);
            let at = at.unwrap_or(0);
            segments.splice(at..at + group.len(), [Arc::clone(&segment)]);
        });
        for old in group {
            old.retire();
        }
        for old in group {
            let old_base = old.base_offset();
            if old_base == base {
                files::remove_if_there(disk, &names::file(dir, base, OffsetEntry::SUFFIX))?;
                files::remove_if_there(disk, &names::file(dir, base, TimeEntry::SUFFIX))?;
            } else {
                files::remove_segment(disk, dir, old_base)?;
            }
        }
        disk.sync_dir(dir)?;
        disk.rename(&swap, segment.path())?;
        for suffix in [OffsetEntry::SUFFIX, TimeEntry::SUFFIX] {
            disk.rename(&self.cleaned_path(base, suffix), &names::file(dir, base, suffix))?;
        }
        disk.sync_dir(dir)?;
        segment.release();
        Ok(())
    }
}

fn damaged(segment: &Segment, batch: &Batch, reason: &str) -> StorageError {
    let reason = format!("the batch at offset {}: {reason}", batch.header.base_offset);
    corrupt(segment.path(), 0, reason)
}

impl KeyMap {
    fn add(&mut self, batch: &Batch) -> Result<(), tailway_wire::WireError> {
        if !batch.header.attributes.is_control() {
            visit(batch, |record| {
                let Some(key) = record.key else { return };
                if let Some(last) = self.last.get_mut(key) {
                    *last = record.offset.max(*last);
                } else {
                    self.bytes += key.len() + MAP_ENTRY_BYTES;
                    self.last.insert(key.into(), record.offset);
                }
            })?;
        }
        self.end = batch.header.next_offset();
        Ok(())
    }
}

impl Output {
    fn push(
        &mut self,
        header: &BatchHeader,
        parts: &[Bytes],
        interval: u64,
    ) -> Result<(), StorageError> {
        self.contents.account(self.base, BatchMeta::from(header), interval);
        for part in parts {
            self.buffer.extend_from_slice(part);
        }
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<(), StorageError> {
        self.file.write_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Everything written and durable.
    fn finish(&mut self, disk: &dyn Disk) -> Result<(), StorageError> {
        self.write()?;
        self.file.sync_data()?;
        self.contents.finish_times(self.base);
        self.contents.write_and_sync_indexes(disk)
    }
}

/// Calls `act` with each batch from `from` on, its CRC checked, until it says false. True if none was left out.
fn for_each_batch(
    segment: &Segment,
    from: i64,
    mut act: impl FnMut(&Batch) -> Result<bool, StorageError>,
) -> Result<bool, StorageError> {
    let file = segment.open_for_reading()?;
    let mut places = Vec::new();
    segment.visit_headers(from, |position, header| {
        places.push((position, header.size()));
        true
    })?;
    for (position, size) in places {
        let mut bytes = vec![0; size];
        file.read_exact_at(&mut bytes, position)?;
        let fail =
            |error: tailway_wire::WireError| corrupt(segment.path(), position, error.to_string());
        let batch = Batch::parse(&Bytes::from(bytes)).map_err(fail)?;
        batch.validate().map_err(fail)?;
        if !act(&batch)? {
            return Ok(false);
        }
    }
    Ok(true)
}
