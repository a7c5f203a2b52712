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

/// One step of the walk.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
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

/// The walk.
#[derive(Debug)]
pub struct Scanner<'a> {
    file: &'a dyn DiskFile,
    len: u64,
    position: u64,
    /// The next batch must not begin below this.
    next_offset: i64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scanner<'a> {
    /// Walks from `position` to `len`; the first batch begins at `next_offset` or above.
    pub fn new(file: &'a dyn DiskFile, position: u64, len: u64, next_offset: i64) -> Self {
        Self { file, len, position, next_offset, window: Vec::new(), window_at: 0 }
    }

    /// The next batch, its CRC checked if `verify`.
    pub fn step(&mut self, verify: bool) -> Result<Step, StorageError> {
        let position = self.position;
        if position >= self.len {
            return Ok(Step::End);
        }
        let (len, next_offset) = (self.len, self.next_offset);
        let window = if verify { CHECK_WINDOW } else { HEADER_WINDOW };
        let head = self.view(position, BATCH_OVERHEAD, window)?;
        let header = match plausible(head, position, len, next_offset) {
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
        self.next_offset = header.next_offset();
        Ok(Step::Batch { position, header })
    }

    /// Up to `len` bytes at `position`, through the window.
    fn view(
        &mut self,
        position: u64,
        len: usize,
        window: usize,
    ) -> Result<&[u8], StorageError> {
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
fn plausible(
    head: &[u8],
    position: u64,
    len: u64,
    next_offset: i64,
) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(head).map_err(|error| error.to_string())?;
    if header.size() as u64 > len - position {
        return Err(format!(
            "the batch at offset {} has {} bytes, {} are there",
            header.base_offset,
            header.size(),
            len - position
        ));
    }
    if header.base_offset < next_offset {
        return Err(format!("offset {} where {next_offset} is due", header.base_offset));
    }
    if header.last_offset_delta < 0 || header.records_count < 0 {
        return Err(format!("negative counts at offset {}", header.base_offset));
    }
    Ok(header)
}

/// What a place without a valid batch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// An unfinished write: nothing whole follows, or sectors of it were never written.
    Torn,
    /// Whole batches follow and nothing in between is unwritten: these bytes were once right.
    Corrupt,
}

/// Judges the bytes from `bad` to the end. Un-synced writes reach the disk in any order, sector by sector, so a whole
/// batch may follow a hole; a hole reads as zeros, or is missing at the end. `followed`: a later segment has batches.
pub fn classify(
    file: &dyn DiskFile,
    bad: u64,
    len: u64,
    next_offset: i64,
    followed: bool,
) -> Result<Damage, StorageError> {
    let mut scanner = Scanner::new(file, bad, len, next_offset);
    let mut hole = is_cut(scanner.view(bad, BATCH_OVERHEAD, CHECK_WINDOW)?, len - bad);
    let mut zeros_from = None;
    let mut whole_follows = followed;
    for at in bad..len {
        let head = scanner.view(at, BATCH_OVERHEAD, CHECK_WINDOW)?;
        let first = head.first().copied().unwrap_or(0);
        if at > bad && plausible(head, at, len, next_offset).is_ok() {
            let mut from_here = Scanner::new(file, at, len, next_offset);
            if matches!(from_here.step(true)?, Step::Batch { .. }) {
                whole_follows = true;
                break;
            }
        }
        if first == 0 {
            zeros_from.get_or_insert(at);
        } else {
            zeros_from = None;
        }
        // A hole fills a sector, or the rest of one from where the durable bytes ended. The first bytes of a batch are
        // zeros anyway, so that less than four prove nothing.
        let end = at + 1;
        if end % SECTOR == 0
            && let Some(from) = zeros_from
        {
            let begin = (end - SECTOR).max(bad);
            hole |= from <= begin && end - begin >= 4;
        }
    }
    Ok(if whole_follows && !hole { Damage::Corrupt } else { Damage::Torn })
}

/// The file ends inside the header, or before the length that the header says.
fn is_cut(head: &[u8], available: u64) -> bool {
    BatchHeader::parse(head).map_or(available < BATCH_OVERHEAD as u64, |header| {
        header.size() as u64 > available
    })
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
