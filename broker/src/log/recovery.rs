//! From files to a log: what is trimmed, what is rebuilt, what is refused.
//!
//! After a clean stop only the tail behind the last index entry is walked. Otherwise every segment that reaches above the
//! recovery point is synced, read from the disk and walked, its CRCs checked from the recovery point on and its indexes rebuilt,
//! so that the log end is durable when recovery returns.
//! Invariants: nothing below the recovery point is ever cut: damage there is `StorageError::Corrupt`, and so is damage above
//! it that no unfinished write explains. Steps may be interrupted anywhere and done again.

use std::path::Path;
use std::sync::Arc;

use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, DiskFile, OpenMode, StorageError};

use super::epochs::LeaderEpochs;
use super::index::{Index, OffsetEntry, TimeEntry};
use super::scan::{Damage, Due, Scanner, Step, classify};
use super::segment::{BatchMeta, Contents, Segment, header_at};
use super::{files, names, producers};
use crate::machine::producers::Producers;

/// What recovery is told.
#[derive(Debug)]
pub struct Told<'a> {
    pub disk: &'a Arc<dyn Disk>,
    pub dir: &'a Path,
    /// The last stop wrote everything.
    pub clean: bool,
    /// Offsets below this are durable.
    pub recovery_point: i64,
    /// The checkpointed log start offset.
    pub log_start: i64,
    pub index_interval: u64,
    /// Compaction leaves holes between segments.
    pub compacted: bool,
    pub now: WallMs,
}

/// What recovery found.
#[derive(Debug)]
pub struct Found {
    /// At least one, by base offset.
    pub segments: Vec<Arc<Segment>>,
    pub log_start: i64,
    pub log_end: i64,
    pub producers: Producers,
    pub epochs: LeaderEpochs,
    pub report: Report,
}

/// What recovery did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub trimmed_bytes: u64,
    pub rebuilt_indexes: u32,
    pub checked_bytes: u64,
}

/// Recovers the log in `told.dir`, which exists.
pub fn recover(told: &Told<'_>) -> Result<Found, StorageError> {
    let mut report = Report::default();
    let bases = files::tidy(told.disk.as_ref(), told.dir, told.log_start)?;
    let mut segments: Vec<Arc<Segment>> = Vec::new();
    let mut torn_at = None;
    for (i, &base) in bases.iter().enumerate() {
        let next_base = bases.get(i + 1).copied();
        let opened = open_segment(told, base, next_base, &mut report)?;
        let next_offset = opened.contents.next_offset;
        segments.push(Arc::new(opened.into_segment(told, base)?));
        let gap = next_base.is_some_and(|next_base| next_base != next_offset);
        if gap && !is_gap_fine(told, base, next_offset, next_base)? {
            torn_at = Some(i + 1);
            break;
        }
    }
    if let Some(first_dropped) = torn_at {
        report.trimmed_bytes +=
            files::drop_segments(told.disk.as_ref(), told.dir, &bases[first_dropped..])?;
    }
    if segments.is_empty() {
        segments.push(Arc::new(create_first(told)?));
    }
    let log_end = segments.last().map_or(0, |last| last.next_offset());
    if log_end < told.recovery_point {
        let reason = format!(
            "the log ends at offset {log_end}, but everything below {} was durable",
            told.recovery_point
        );
        return Err(corrupt(told.dir, 0, reason));
    }
    let first = segments.first().map_or(0, |first| first.base_offset());
    let log_start = told.log_start.max(first).min(log_end);
    let producers = producers::rebuild(told.disk.as_ref(), told.dir, &segments, log_end, told.now)?;
    let epochs = LeaderEpochs::load(told.disk.as_ref(), told.dir, &segments, log_start, log_end)?;
    if !told.clean {
        told.disk.sync_dir(told.dir)?;
    }
    Ok(Found { segments, log_start, log_end, producers, epochs, report })
}

/// The files of a new, empty log.
fn create_first(told: &Told<'_>) -> Result<Segment, StorageError> {
    let base = told.log_start;
    let segment = Segment::new(
        Arc::clone(told.disk),
        told.dir,
        base,
        Contents::empty(told.dir, base),
        told.now,
    );
    told.disk.open(segment.path(), OpenMode::Create)?.sync_data()?;
    segment.write_indexes()?;
    segment.release();
    told.disk.sync_dir(told.dir)?;
    Ok(segment)
}

/// A hole between two segments: compaction's, or un-synced bytes that a crash took (then later segments go), or a loss.
fn is_gap_fine(
    told: &Told<'_>,
    base: i64,
    next_offset: i64,
    next_base: Option<i64>,
) -> Result<bool, StorageError> {
    let Some(next_base) = next_base else { return Ok(true) };
    let path = names::file(told.dir, base, names::LOG);
    if next_base < next_offset {
        let reason =
            format!("it reaches offset {next_offset}, the next segment begins at {next_base}");
        return Err(corrupt(&path, 0, reason));
    }
    let above_durable = !told.clean && next_offset >= told.recovery_point;
    if above_durable {
        return Ok(false);
    }
    if told.compacted {
        return Ok(true);
    }
    let reason = format!("it ends at offset {next_offset}, the next segment begins at {next_base}");
    Err(corrupt(&path, 0, reason))
}

/// One segment's contents and whether anything of it was rewritten.
struct OpenedSegment {
    contents: Contents,
    walked: bool,
    file: Arc<dyn DiskFile>,
}

impl OpenedSegment {
    /// Makes a segment of it; what was walked is written and synced.
    fn into_segment(self, told: &Told<'_>, base: i64) -> Result<Segment, StorageError> {
        let segment = Segment::new(Arc::clone(told.disk), told.dir, base, self.contents, told.now);
        if self.walked {
            write_end_again(self.file.as_ref(), segment.size())?;
            self.file.sync_data()?;
            for index in segment.finish_indexes()? {
                index.sync_data()?;
            }
            segment.release();
        }
        Ok(segment)
    }
}

/// After a failed sync the disk may have a shorter file than the kernel shows, and what is shown behind its end reads as
/// zeros: a batch that ends in zeros passes its CRC and would be cut by the next power loss. A byte written there again
/// makes the file system write the length as well.
fn write_end_again(file: &dyn DiskFile, size: u64) -> Result<(), StorageError> {
    let Some(last) = size.checked_sub(1) else { return Ok(()) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    file.write_at(&byte, last)
}

fn open_segment(
    told: &Told<'_>,
    base: i64,
    next_base: Option<i64>,
    report: &mut Report,
) -> Result<OpenedSegment, StorageError> {
    let path = names::file(told.dir, base, names::LOG);
    let file = told.disk.open(&path, OpenMode::Write)?;
    let below_durable = next_base.is_some_and(|next| next <= told.recovery_point);
    if told.clean || below_durable {
        if let Some(contents) = quick(told, base, next_base, &file)? {
            return Ok(OpenedSegment { contents, walked: false, file });
        }
        report.rebuilt_indexes += 2;
    }
    // What the walk finds counts as durable.
    if !tailway_faults::is_planted("broker.recovery_trusts_page_cache") {
        file.settle()?;
    }
    let contents = walk(told, base, next_base, &file, report)?;
    Ok(OpenedSegment { contents, walked: true, file })
}

/// Trusts the indexes as far as the log confirms their last entries. `None`: they have to be rebuilt.
fn quick(
    told: &Told<'_>,
    base: i64,
    next_base: Option<i64>,
    file: &Arc<dyn DiskFile>,
) -> Result<Option<Contents>, StorageError> {
    let disk = told.disk.as_ref();
    let empty = Contents::empty(told.dir, base);
    let offsets = Index::<OffsetEntry>::open(disk, empty.offsets.path().to_path_buf())?;
    let times = Index::<TimeEntry>::open(disk, empty.times.path().to_path_buf())?;
    let (Ok(offsets), Ok(times)) = (offsets, times) else { return Ok(None) };
    let size = file.len()?;
    let entry_at = match offsets.last() {
        None => 0,
        Some(last) => {
            let position = u64::from(last.position);
            let header = header_at(file.as_ref(), position)?;
            let agrees = |offset| offset == base + i64::from(last.relative_offset);
            if !header.is_some_and(|header| agrees(header.last_offset())) {
                return Ok(None);
            }
            position
        }
    };
    let mut contents = Contents { size, offsets, times, ..empty };
    contents.bytes_since_entry = size - entry_at.min(size);
    let until = next_base.unwrap_or(i64::MAX);
    let mut scanner = Scanner::new(file.as_ref(), entry_at, size, Due::rising(base, until));
    let mut newest = contents.max_timestamp;
    loop {
        match scanner.step(false)? {
            Step::End => break,
            Step::Batch { header, .. } => {
                contents.next_offset = header.next_offset();
                if header.max_timestamp > newest.timestamp {
                    newest.timestamp = header.max_timestamp;
                    newest.offset = header.last_offset();
                }
            }
            Step::Bad { position, reason } => return Err(corrupt(file.path(), position, reason)),
        }
    }
    let first = if size > 0 { header_at(file.as_ref(), 0)? } else { None };
    contents.first_timestamp = first.map(|header| header.max_timestamp);
    contents.verified_from = contents.next_offset;
    if let Some(last) = contents.times.last() {
        contents.max_timestamp.timestamp = last.timestamp;
        contents.max_timestamp.offset = base + i64::from(last.relative_offset);
    }
    // Every segment that is not appended to has its greatest timestamp as the last time index entry.
    let lagging = newest.timestamp > contents.max_timestamp.timestamp;
    Ok((!lagging && contents.max_timestamp.offset <= contents.next_offset).then_some(contents))
}

/// Walks all batches, rebuilds the indexes in memory and trims an unfinished tail.
fn walk(
    told: &Told<'_>,
    base: i64,
    next_base: Option<i64>,
    file: &Arc<dyn DiskFile>,
    report: &mut Report,
) -> Result<Contents, StorageError> {
    let mut contents = Contents::empty(told.dir, base);
    let len = file.len()?;
    let until = next_base.unwrap_or(i64::MAX);
    let due = |from| {
        if told.compacted { Due::rising(from, until) } else { Due::following(from, until) }
    };
    let mut scanner = Scanner::new(file.as_ref(), 0, len, due(base));
    loop {
        // Below the recovery point batches are checked when they are read.
        let verify = !told.clean && contents.next_offset >= told.recovery_point;
        if verify && tailway_faults::is_planted("broker.recovery_cuts_to_checkpoint") {
            file.set_len(contents.size)?;
            break;
        }
        let verify = verify && !tailway_faults::is_planted("broker.recovery_without_crc");
        match scanner.step(verify)? {
            Step::End => break,
            Step::Batch { header, .. } => {
                if verify {
                    report.checked_bytes += header.size() as u64;
                } else {
                    contents.verified_from = header.next_offset();
                }
                contents.account(base, BatchMeta::from(&header), told.index_interval);
            }
            Step::Bad { position, reason } => {
                let durable = told.clean || contents.next_offset < told.recovery_point;
                let damage = if durable {
                    Damage::Corrupt
                } else {
                    let followed = next_base.is_some();
                    let due = due(contents.next_offset);
                    classify(file.as_ref(), position, len, due, followed)?
                };
                if damage == Damage::Corrupt {
                    return Err(corrupt(file.path(), position, reason));
                }
                file.set_len(position)?;
                report.trimmed_bytes += len - position;
                break;
            }
        }
    }
    Ok(contents)
}

pub(super) fn corrupt(path: &Path, offset: u64, reason: String) -> StorageError {
    StorageError::Corrupt { path: path.to_path_buf(), offset, reason }
}
