//! What lies in a log's directory when it is opened: unfinished compactions are finished or undone, leftovers go.
//!
//! A compaction writes `.cleaned` files, syncs them and renames the log to `.log.swap`: from then on it counts. Everything
//! here may be interrupted and done again.

use std::collections::BTreeSet;
use std::path::Path;

use tailway_storage::{Disk, OpenMode, StorageError};

use super::names;
use super::scan::{Due, Scanner, Step};
use crate::log::recovery::corrupt;

/// Finishes or undoes what was interrupted; returns the base offsets of the segments, ascending.
pub(super) fn tidy(disk: &dyn Disk, dir: &Path, log_start: i64) -> Result<Vec<i64>, StorageError> {
    let mut bases = BTreeSet::new();
    let mut swaps = Vec::new();
    let mut leftovers = Vec::new();
    let mut indexes = Vec::new();
    for entry in disk.list(dir)? {
        let Some((offset, suffix)) = names::parse(&entry.name) else {
            if Path::new(&entry.name).extension().is_some_and(|suffix| suffix == "tmp") {
                leftovers.push(dir.join(&entry.name));
            }
            continue;
        };
        match suffix {
            names::LOG => {
                bases.insert(offset);
            }
            "log.swap" => swaps.push(offset),
            "index" | "timeindex" => indexes.push((offset, dir.join(&entry.name))),
            names::SNAPSHOT => {}
            _ => leftovers.push(dir.join(&entry.name)),
        }
    }
    let changed = !leftovers.is_empty() || !swaps.is_empty();
    for path in leftovers {
        disk.remove_file(&path)?;
    }
    for base in swaps {
        finish_swap(disk, dir, base, &mut bases)?;
    }
    for (offset, path) in indexes {
        if !bases.contains(&offset) {
            remove_if_there(disk, &path)?;
        }
    }
    let mut bases: Vec<i64> = bases.into_iter().collect();
    // A segment that lies below the log start was on its way out.
    let kept = bases.partition_point(|base| *base <= log_start).saturating_sub(1);
    for base in bases.drain(..kept) {
        remove_segment(disk, dir, base)?;
    }
    if changed || kept > 0 {
        disk.sync_dir(dir)?;
    }
    Ok(bases)
}

/// The swap file holds all that is kept of the segments from its base to its end.
fn finish_swap(
    disk: &dyn Disk,
    dir: &Path,
    base: i64,
    bases: &mut BTreeSet<i64>,
) -> Result<(), StorageError> {
    let swap = names::file(dir, base, "log.swap");
    let file = disk.open(&swap, OpenMode::Read)?;
    let mut scanner = Scanner::new(file.as_ref(), 0, file.len()?, Due::rising(base, i64::MAX));
    let mut end = base;
    loop {
        match scanner.step(false)? {
            Step::End => break,
            Step::Batch { header, .. } => end = header.next_offset(),
            Step::Bad { position, reason } => return Err(corrupt(&swap, position, reason)),
        }
    }
    let replaced: Vec<i64> = bases.range(base..end).copied().filter(|old| *old != base).collect();
    for old in replaced {
        remove_segment(disk, dir, old)?;
        bases.remove(&old);
    }
    for suffix in ["index", "timeindex"] {
        remove_if_there(disk, &names::file(dir, base, suffix))?;
    }
    disk.sync_dir(dir)?;
    disk.rename(&swap, &names::file(dir, base, names::LOG))?;
    bases.insert(base);
    Ok(())
}

/// Removes segments that only hold un-synced leftovers of a crash; returns how many bytes that were.
pub(super) fn drop_segments(
    disk: &dyn Disk,
    dir: &Path,
    bases: &[i64],
) -> Result<u64, StorageError> {
    let mut bytes = 0;
    // The newest first: an interrupted removal never leaves a hole that was not there.
    for base in bases.iter().rev() {
        bytes += disk.open(&names::file(dir, *base, names::LOG), OpenMode::Read)?.len()?;
        remove_segment(disk, dir, *base)?;
    }
    disk.sync_dir(dir)?;
    Ok(bytes)
}

/// Removes the three files of a segment.
pub(super) fn remove_segment(disk: &dyn Disk, dir: &Path, base: i64) -> Result<(), StorageError> {
    for suffix in [names::LOG, "index", "timeindex"] {
        remove_if_there(disk, &names::file(dir, base, suffix))?;
    }
    Ok(())
}

/// Removes a file; one that is not there is as good as removed.
pub(super) fn remove_if_there(disk: &dyn Disk, path: &Path) -> Result<(), StorageError> {
    match disk.remove_file(path) {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}
