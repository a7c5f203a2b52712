//! Walks the batches of a segment file, with or without checking their CRCs, in bounded memory.
//!
//! Nothing from the file is trusted: a header that cannot be true ends the walk with a reason, and `classify` then says
//! whether what follows looks like an unfinished write or like damage to bytes that had been written.

use tailway_storage::{DiskFile, StorageError};
use tailway_wire::record::{BATCH_OVERHEAD, BatchHeader};

/// Read at once when CRCs are checked. Batches larger than this are checked in pieces.
const CHECK_WINDOW: usize = 256 * 1024;

/// Read at once when only headers are looked at.
const HEADER_WINDOW: usize = 4 * 1024;

/// A torn write leaves zeros where sectors were not written.
const SECTOR: u64 = 512;

/// A batch begins with its offset, whose first bytes are zeros.
const OFFSET_BYTES: u64 = 8;

/// One step of the walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Batch {
        position: u64,
        header: BatchHeader,
    },
    /// Exactly at the end of the file.
    End,
    /// No batch can be here.
    Bad {
        position: u64,
        reason: String,
    },
}

/// Which offsets may come next. Offsets lie outside a batch's CRC, so they are checked against each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// The next batch begins here or above.
    from: i64,
    /// The next batch begins exactly at `from`.
    exactly: bool,
    /// Each batch begins where the one before ended: nothing was compacted away.
    no_holes: bool,
    /// All batches end below this.
    until: i64,
}

impl Due {
    /// Offsets rise from `from`, with holes.
    pub(super) fn rising(from: i64, until: i64) -> Self {
        Self { from, exactly: false, no_holes: false, until }
    }

    /// Offsets follow each other; the first is exactly `from`.
    pub(super) fn following(from: i64, until: i64) -> Self {
        Self { from, exactly: true, no_holes: true, until }
    }
}

/// The walk.
#[derive(Debug)]
pub(super) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    position: u64,
    due: Due,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scanner<'a> {
    /// Walks from `position` to `len`; what must be there is `due`.
    pub(super) fn new(file: &'a dyn DiskFile, position: u64, len: u64, due: Due) -> Self {
        Self { file, len, position, due, window: Vec::new(), window_at: 0 }
    }

    /// The next batch, its CRC checked if `verify`.
    pub(super) fn step(&mut self, verify: bool) -> Result<Step, StorageError> {
        let position = self.position;
        if position >= self.len {
            return Ok(Step::End);
        }
        let (len, due) = (self.len, self.due);
        let window = if verify { CHECK_WINDOW } else { HEADER_WINDOW };
        let head = self.view(position, BATCH_OVERHEAD, window)?;
        let header = match plausible(head, position, len, due) {
            Ok(header) => header,
            Err(reason) => return Ok(Step::Bad { position, reason }),
        };
        if verify {
            let computed = self.crc(position, header.size() as u64)?;
            if computed != header.crc {
                let stored = header.crc;
                let reason = format!(
                    "the batch at offset {} fails its CRC (stored {stored:#010x}, computed {computed:#010x})",
                    header.base_offset
                );
                return Ok(Step::Bad { position, reason });
            }
        }
        self.position = position + header.size() as u64;
        self.due.from = header.next_offset();
        self.due.exactly = self.due.no_holes;
        Ok(Step::Batch { position, header })
    }

    /// Up to `len` bytes at `position`, through the window.
    fn view(&mut self, position: u64, len: usize, window: usize) -> Result<&[u8], StorageError> {
        let len = len.min(index(self.len - position));
        let held = self.window_at..self.window_at + self.window.len() as u64;
        if !(held.contains(&position) && position + len as u64 <= held.end) {
            self.window.resize(window.min(index(self.len - position)), 0);
            let read = self.file.read_at(&mut self.window, position)?;
            self.window.truncate(read);
            self.window_at = position;
        }
        let from = index(position - self.window_at);
        let until = (from + len).min(self.window.len());
        Ok(&self.window[from..until])
    }

    fn crc(&mut self, position: u64, size: u64) -> Result<u32, StorageError> {
        let end = position + size;
        let (mut at, mut crc) = (position + 21, 0);
        while at < end {
            let piece = self.view(at, CHECK_WINDOW.min(index(end - at)), CHECK_WINDOW)?;
            if piece.is_empty() {
                break;
            }
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
        }
        Ok(crc)
    }
}

/// Whether `head` can be the header of a batch at `position`.
fn plausible(head: &[u8], position: u64, len: u64, due: Due) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(head).map_err(|error| error.to_string())?;
    if header.size() as u64 > len - position {
        return Err(format!(
            "the batch at offset {} has {} bytes, {} are there",
            header.base_offset,
            header.size(),
            len - position
        ));
    }
    let Due { from, until, .. } = due;
    let out_of_place = header.base_offset < from || (due.exactly && header.base_offset != from);
    if out_of_place || header.last_offset() >= until {
        return Err(format!("offset {} where {from} (to {until}) is due", header.base_offset));
    }
    if header.last_offset_delta < 0 || header.records_count < 0 {
        return Err(format!("negative counts at offset {}", header.base_offset));
    }
    Ok(header)
}

/// What a place without a valid batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Damage {
    /// An unfinished write: nothing whole follows, or sectors of it were never written.
    Torn,
    /// Whole batches follow and nothing in between is unwritten: these bytes were once right.
    Corrupt,
}

/// Judges the bytes from `bad` to the end. Un-synced writes reach the disk in any order, sector by sector, so a whole
/// batch may follow a hole; a hole reads as zeros, or is missing at the end. `followed`: a later segment has batches.
pub(super) fn classify(
    file: &dyn DiskFile,
    bad: u64,
    len: u64,
    due: Due,
    followed: bool,
) -> Result<Damage, StorageError> {
    let due = Due::rising(due.from, due.until);
    let mut scanner = Scanner::new(file, bad, len, due);
    let mut hole = is_cut(scanner.view(bad, BATCH_OVERHEAD, CHECK_WINDOW)?, len - bad);
    let mut zeros_from = None;
    let mut whole_follows = followed;
    for at in bad..len {
        let head = scanner.view(at, BATCH_OVERHEAD, CHECK_WINDOW)?;
        let first = head.first().copied().unwrap_or(0);
        if at > bad && plausible(head, at, len, due).is_ok() {
            let mut from_here = Scanner::new(file, at, len, due);
            if matches!(from_here.step(true)?, Step::Batch { .. }) {
                // The leading zeros of its offset may be the last bytes of the hole's sector.
                let sector_ends = SECTOR - at % SECTOR < OFFSET_BYTES;
                hole |= sector_ends && fills_sector(zeros_from, bad, at);
                whole_follows = true;
                break;
            }
        }
        if first == 0 {
            zeros_from.get_or_insert(at);
        } else {
            zeros_from = None;
        }
        let end = at + 1;
        if end % SECTOR == 0 || end == len {
            hole |= fills_sector(zeros_from, bad, end);
        }
    }
    Ok(if whole_follows && !hole { Damage::Corrupt } else { Damage::Torn })
}

/// Whether the zeros that end at `end` fill its sector, or the rest of it from where the durable bytes ended. The first
/// bytes of a batch are zeros anyway, so that less than four prove nothing.
fn fills_sector(zeros_from: Option<u64>, bad: u64, end: u64) -> bool {
    let last = end.saturating_sub(1);
    let begin = (last - last % SECTOR).max(bad);
    zeros_from.is_some_and(|from| from <= begin && end >= begin + 4)
}

/// The file ends inside the header, or before the length that the header says.
fn is_cut(head: &[u8], available: u64) -> bool {
    BatchHeader::parse(head)
        .map_or(available < BATCH_OVERHEAD as u64, |header| header.size() as u64 > available)
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
