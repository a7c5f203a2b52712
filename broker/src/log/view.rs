//! What readers see of a log: the list of its segments, and how batches are found and read.
//!
//! Reads never wait for the owner task. Whole batches come back as one slice of one read. They are checked against their
//! CRC where this process has not done so, and wherever they come from the disk again rather than from the page cache that
//! this process filled: a disk may have lost since what it had.
//! Invariants: a result comes from segments that were not being replaced while it was read; nothing at or above the
//! caller's limit is returned.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tailway_storage::{DiskFile, ReadBuffer, StorageError};
use tailway_wire::record::{BATCH_OVERHEAD, Batch, BatchHeader, compute_crc};

use super::epochs::LeaderEpochs;
use super::recovery;
use super::segment::Segment;

/// Read at least this much at once, so that small limits do not mean many reads.
const READ_BYTES_MIN: u64 = 16 * 1024;

/// A batch may decompress to this much when a timestamp is looked for in it.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

pub(crate) type Segments = Arc<Vec<Arc<Segment>>>;

/// Shared by the owner and all readers.
#[derive(Debug)]
pub struct LogView {
    segments: RwLock<Segments>,
    epochs: RwLock<LeaderEpochs>,
    /// Offsets below are durable: what the checkpoint file gets.
    recovery_point: AtomicI64,
}

/// A record found by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundByTime {
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

/// How a read of one segment ended.
enum Outcome {
    Batches(Bytes),
    /// Nothing at or behind the offset in this segment.
    PastEnd,
    /// The first batch is too large or not visible yet.
    Nothing,
}

impl LogView {
    pub fn new(segments: Vec<Arc<Segment>>, epochs: LeaderEpochs, recovery_point: i64) -> Self {
        Self {
            segments: RwLock::new(Arc::new(segments)),
            epochs: RwLock::new(epochs),
            recovery_point: AtomicI64::new(recovery_point),
        }
    }

    pub fn segments(&self) -> Segments {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the list of segments at once.
    pub fn change_segments(&self, change: impl FnOnce(&mut Vec<Arc<Segment>>)) {
        let mut held = self.segments.write().unwrap_or_else(PoisonError::into_inner);
        let mut segments = held.as_ref().clone();
        change(&mut segments);
        *held = Arc::new(segments);
    }

    /// Reads or changes the leader epochs.
    pub fn with_epochs<T>(&self, act: impl FnOnce(&mut LeaderEpochs) -> T) -> T {
        act(&mut self.epochs.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// The leader epoch of the batch at `offset`, -1 if none is known.
    pub fn epoch_at(&self, offset: i64) -> i32 {
        self.with_epochs(|epochs| epochs.at(offset))
    }

    pub fn recovery_point(&self) -> i64 {
        self.recovery_point.load(Ordering::Acquire)
    }

    pub fn advance_recovery_point(&self, offset: i64) {
        self.recovery_point.fetch_max(offset, Ordering::AcqRel);
    }

    pub fn size_bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.size()).sum()
    }

    /// Whether a read at `offset` is likely served from the page cache: it is near the end of the active segment.
    pub fn is_hot(&self, offset: i64) -> bool {
        const HOT_BYTES: u64 = 8 * 1024 * 1024;
        let segments = self.segments();
        let Some(active) = segments.last() else { return false };
        let size = active.size();
        let near_end = || {
            let position = active.known_position(offset);
            position.is_some_and(|position| size.saturating_sub(position) <= HOT_BYTES)
        };
        offset >= active.verified_from() && (size <= HOT_BYTES || near_end())
    }

    /// Whole batches from the one that holds `offset` on, below `limit`, up to `max_bytes`; with `min_one` the first even
    /// if it is larger. At most one segment is read; empty if nothing is visible.
    pub fn read(
        &self,
        offset: i64,
        limit: i64,
        max_bytes: usize,
        min_one: bool,
    ) -> Result<Bytes, StorageError> {
        let trusted = self.is_hot(offset);
        self.retry_while_replaced(|segments| {
            let first = segments.partition_point(|segment| segment.base_offset() <= offset);
            for segment in &segments[first.saturating_sub(1)..] {
                if segment.base_offset() >= limit {
                    break;
                }
                match read_segment(segment, offset, limit, max_bytes, min_one, trusted)? {
                    Outcome::Batches(batches) => return Ok(batches),
                    Outcome::PastEnd => {}
                    Outcome::Nothing => break,
                }
            }
            Ok(Bytes::new())
        })
    }

    /// The first record at `log_start` or above, below `limit`, whose timestamp is at least `timestamp`.
    pub fn find_timestamp(
        &self,
        timestamp: i64,
        log_start: i64,
        limit: i64,
    ) -> Result<Option<FoundByTime>, StorageError> {
        self.retry_while_replaced(|segments| {
            for segment in segments.iter() {
                if segment.max_timestamp().timestamp < timestamp
                    || segment.next_offset() <= log_start
                {
                    continue;
                }
                let from = segment.offset_before_time(timestamp)?.max(log_start);
                let found = find_in_segment(segment, from, limit, |time| time >= timestamp)?;
                if found.is_some() {
                    return Ok(found);
                }
            }
            Ok(None)
        })
    }

    /// The first record below `limit` that has the greatest timestamp.
    pub fn find_max_timestamp(
        &self,
        log_start: i64,
        limit: i64,
    ) -> Result<Option<FoundByTime>, StorageError> {
        self.retry_while_replaced(|segments| {
            let mut best: Option<(i64, &Arc<Segment>)> = None;
            for segment in segments.iter() {
                let newest = visible_max_timestamp(segment, log_start, limit)?;
                if newest >= 0 && best.is_none_or(|(timestamp, _)| newest > timestamp) {
                    best = Some((newest, segment));
                }
            }
            let Some((timestamp, segment)) = best else { return Ok(None) };
            let from = segment.offset_before_time(timestamp)?.max(log_start);
            find_in_segment(segment, from, limit, |time| time >= timestamp)
        })
    }

    /// Runs `act` again for as long as segments it may have used are being replaced.
    fn retry_while_replaced<T>(
        &self,
        act: impl Fn(&Segments) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        loop {
            let segments = self.segments();
            let result = act(&segments);
            let replaced = segments.iter().any(|segment| segment.is_retired());
            if !replaced {
                return result;
            }
            // The list is changed before segments are marked, so the next try has the new one.
        }
    }
}

fn read_segment(
    segment: &Segment,
    offset: i64,
    limit: i64,
    max_bytes: usize,
    min_one: bool,
    trusted: bool,
) -> Result<Outcome, StorageError> {
    let (size, verified_from) = (segment.size(), segment.verified_from());
    if offset >= segment.next_offset() {
        return Ok(Outcome::PastEnd);
    }
    let file = segment.open_for_reading()?;
    let Some(start) = segment.locate(file.as_ref(), offset)? else { return Ok(Outcome::PastEnd) };
    let mut window =
        read_window(file.as_ref(), start, (max_bytes as u64).max(READ_BYTES_MIN), size)?;
    let first = header_in(&window, segment, start)?;
    if first.last_offset() >= limit || !(min_one || first.size() <= max_bytes) {
        return Ok(Outcome::Nothing);
    }
    if first.size() > window.len() {
        window = read_window(file.as_ref(), start, first.size() as u64, size)?;
    }
    let (mut end, mut next_offset) = (0, first.base_offset);
    while window.len() - end >= BATCH_OVERHEAD {
        let position = start + end as u64;
        let header = header_in(&window[end..], segment, position)?;
        if header.base_offset < next_offset {
            let reason = format!("offset {} where {next_offset} is due", header.base_offset);
            return Err(corrupt(segment, position, reason));
        }
        let after = end + header.size();
        let over = end > 0 && after > max_bytes;
        if header.last_offset() >= limit || after > window.len() || over {
            break;
        }
        if !trusted || header.base_offset < verified_from {
            check_crc(&window[end..after], &header, segment, position)?;
        }
        (end, next_offset) = (after, header.next_offset());
    }
    if end == 0 {
        // A whole batch is within `size`, so the file is shorter than it was.
        return Err(corrupt(segment, start, "the file is cut".to_owned()));
    }
    segment.remember_cursor(next_offset, start + end as u64);
    window.truncate(end);
    Ok(Outcome::Batches(window.into_bytes()))
}

/// Up to `len` bytes at `position`, but nothing behind `size`.
fn read_window(
    file: &dyn DiskFile,
    position: u64,
    len: u64,
    size: u64,
) -> Result<ReadBuffer, StorageError> {
    let len = len.min(size.saturating_sub(position));
    ReadBuffer::read(file, position, usize::try_from(len).unwrap_or(0))
}

/// The header at the front of `bytes`, which were read at `position`.
fn header_in(bytes: &[u8], segment: &Segment, position: u64) -> Result<BatchHeader, StorageError> {
    let header =
        BatchHeader::parse(bytes).map_err(|error| corrupt(segment, position, error.to_string()))?;
    let outside =
        header.base_offset < segment.base_offset() || header.next_offset() > segment.next_offset();
    if outside || header.last_offset_delta < 0 {
        let reason = format!("offset {} cannot be here", header.base_offset);
        return Err(corrupt(segment, position, reason));
    }
    Ok(header)
}

fn check_crc(
    batch: &[u8],
    header: &BatchHeader,
    segment: &Segment,
    position: u64,
) -> Result<(), StorageError> {
    let computed = compute_crc(batch);
    if computed == header.crc {
        return Ok(());
    }
    let reason = format!(
        "the batch at offset {} fails its CRC (stored {:#010x}, computed {computed:#010x})",
        header.base_offset, header.crc
    );
    Err(corrupt(segment, position, reason))
}

fn corrupt(segment: &Segment, position: u64, reason: String) -> StorageError {
    recovery::corrupt(segment.path(), position, reason)
}

/// The first record at `from` or above, below `limit`, whose timestamp is wanted.
fn find_in_segment(
    segment: &Segment,
    from: i64,
    limit: i64,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<FoundByTime>, StorageError> {
    let mut candidates = Vec::new();
    let mut found = None;
    // Headers first, one batch at a time: most batches are ruled out by their greatest timestamp.
    let mut next = from;
    while found.is_none() {
        segment.visit_headers(next, |position, header| {
            if header.last_offset() < limit && !wanted(header.max_timestamp) {
                return true;
            }
            if header.last_offset() < limit {
                candidates.push((position, header.clone()));
            }
            false
        })?;
        let Some((position, header)) = candidates.pop() else { return Ok(None) };
        found = find_in_batch(segment, position, &header, from, &wanted)?;
        next = header.next_offset();
    }
    Ok(found)
}

fn find_in_batch(
    segment: &Segment,
    position: u64,
    header: &BatchHeader,
    from: i64,
    wanted: impl Fn(i64) -> bool,
) -> Result<Option<FoundByTime>, StorageError> {
    let file = segment.open_for_reading()?;
    let bytes = read_window(file.as_ref(), position, header.size() as u64, segment.size())?;
    let leader_epoch = header.partition_leader_epoch;
    let fail = |error: tailway_wire::WireError| corrupt(segment, position, error.to_string());
    let batch = Batch::parse(&bytes.into_bytes()).map_err(fail)?;
    batch.validate().map_err(fail)?;
    // Records that cannot be read are the producer's doing: the batch itself is what was stored.
    let whole = FoundByTime {
        offset: header.base_offset.max(from),
        timestamp: header.max_timestamp,
        leader_epoch,
    };
    let Ok(records) = batch.records(DECOMPRESSED_BYTES_MAX) else { return Ok(Some(whole)) };
    for record in records {
        let Ok(record) = record else { return Ok(Some(whole)) };
        if record.offset >= from && wanted(record.timestamp) {
            let (offset, timestamp) = (record.offset, record.timestamp);
            return Ok(Some(FoundByTime { offset, timestamp, leader_epoch }));
        }
    }
    Ok(None)
}

/// The greatest timestamp of batches between the log start and `limit`; -1 if there is none.
fn visible_max_timestamp(
    segment: &Segment,
    log_start: i64,
    limit: i64,
) -> Result<i64, StorageError> {
    let max = segment.max_timestamp();
    if segment.base_offset() >= log_start && segment.next_offset() <= limit {
        return Ok(max.timestamp);
    }
    let mut newest = -1;
    segment.visit_headers(log_start.max(segment.base_offset()), |_, header| {
        let visible = header.last_offset() < limit;
        if visible {
            newest = newest.max(header.max_timestamp);
        }
        visible
    })?;
    Ok(newest)
}
