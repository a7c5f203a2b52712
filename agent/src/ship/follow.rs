//! Starting to follow a file: where it was left if it is known, else as its input says.
//!
//! What was saved under the file's inode is taken up only if the file's bytes agree with it; the
//! decision is one line in the log, with its reason. A file of which an earlier run left batches in
//! doubt is not followed before they are resolved, because they decide where to go on. After another
//! start of the host a file may have less in it than was read: see `home`.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Before, Followed, fresh_generation, open};
use super::home::{Proven, proven};
use super::{ShipError, Shipper};
use crate::config::Start;
use crate::machine::identity::{Generation, HEAD_BYTES, Head, Ladder, Stat, Verdict, judge};
use crate::machine::ledger::{FileEntry, Record};
use crate::machine::tail_file::{Event, TailFile};
use crate::output::lane::Lapse;
use crate::tail::files::{TailFiles, read_full};

/// How far back from the end the start of a line is looked for, with `start: end`.
const LINE_START_BYTES: u64 = 64 * 1024;

/// Where a file is read from, and why.
struct Position {
    generation: Generation,
    ordinal: u64,
    origin: PathBuf,
    offset: u64,
    before: Before,
    head: Head,
    reason: &'static str,
    /// Why lines of it may come twice, if they may.
    repeated: Option<String>,
    journal: Journalled,
}

/// What the journal knows of a position.
enum Journalled {
    /// It has no entry of it yet; this is its ladder.
    No(Ladder),
    Yes,
    /// It has an entry, whose bytes are there after the host was started anew.
    Doubted,
}

impl Shipper {
    /// Starts to follow a file. `origin`: the name it had first, if that is not its path.
    pub(super) fn follow(
        &mut self,
        path: PathBuf,
        stat: &Stat,
        input: usize,
        origin: Option<PathBuf>,
    ) -> Result<(), ShipError> {
        let saved = self.registry.ledger().current(&stat.id).cloned();
        let is_held = |entry: &FileEntry| {
            self.registry.ledger().plans_with(entry.generation).next().is_some()
        };
        if saved.as_ref().is_some_and(is_held) {
            return Ok(());
        }
        let Some(entry) = saved else {
            let Some(position) = self.first_position(&path, stat, input, origin) else {
                self.look_at_dir_again(&path);
                return Ok(());
            };
            return self.follow_from(path, stat, input, position);
        };
        let position = match self.position_of(&path, &entry, stat) {
            Ok(Some(position)) => position,
            Ok(None) => {
                self.look_at_dir_again(&path);
                return Ok(());
            }
            Err(error) => {
                let cause = error.to_string();
                if self.troubles.get(&path) != Some(&cause) {
                    tracing::warn!(path = %path.display(), cause, "cannot look into a file");
                    self.troubles.insert(path, cause);
                }
                return Ok(());
            }
        };
        if position.generation != entry.generation {
            self.ended.insert(entry.generation);
        }
        self.follow_from(path, stat, input, position)
    }

    /// Where a file that is known is read on; `None`: the path leads to another one by now.
    fn position_of(
        &self,
        path: &Path,
        entry: &FileEntry,
        stat: &Stat,
    ) -> io::Result<Option<Position>> {
        let source = self.source.as_ref();
        let Some((verdict, before)) = verdict(source, path, entry, stat)? else { return Ok(None) };
        let is_less = verdict != Verdict::OtherBirth;
        Ok(match verdict {
            Verdict::Same => Some(as_saved(entry.clone(), before)),
            _ if entry.rebooted && is_less => {
                let proven = proven(source, path, entry, stat)?;
                proven.map(|proven| after_power_cut(entry, proven))
            }
            other => Some(anew(path, entry.ordinal + 1, other.reason())),
        })
    }

    /// The path leads to another file than a moment ago, or to none: names are moving.
    fn look_at_dir_again(&mut self, path: &Path) {
        if let Some(dir) = path.parent() {
            self.look_again.insert(dir.to_path_buf());
        }
    }

    /// Of a file that was never seen before; `None` if it is not at its path any more.
    fn first_position(
        &self,
        path: &Path,
        stat: &Stat,
        input: usize,
        origin: Option<PathBuf>,
    ) -> Option<Position> {
        let mut position = anew(path, 0, "it is new");
        if let Some(origin) = origin {
            position.origin = origin;
        } else if self.config.inputs[input].start == Start::End && self.new_inputs.contains(&input)
        {
            start_at_end(self.source.as_ref(), &mut position, path, stat)?;
        }
        Some(position)
    }

    fn follow_from(
        &mut self,
        path: PathBuf,
        stat: &Stat,
        input: usize,
        position: Position,
    ) -> Result<(), ShipError> {
        let Position { generation, ordinal, origin, offset, before, head, reason, .. } = position;
        tracing::info!(
            path = %path.display(),
            %generation,
            offset,
            size = stat.size,
            reason,
            "following a file"
        );
        if let Some(why) = &position.repeated {
            tracing::warn!(path = %path.display(), why, "lines may be stored twice");
        }
        let key = self.file_next;
        self.file_next += 1;
        let marker = before.marker();
        let (limit, now) = (self.config.inputs[input].line_bytes_max, self.clock.mono());
        let file = Followed {
            id: stat.id,
            path: path.clone(),
            generation,
            ordinal,
            part: None,
            opened: 0,
            origin,
            input,
            machine: TailFile::new(offset, limit, self.policy, now),
            descriptor: None,
            before,
            head,
            head_saved: head.len,
            lane: None,
            scheduled: None,
            trouble: None,
            repeated: position.repeated.map(|why| Lapse { at: self.clock.wall(), why }),
            misses: 0,
            lost: 0,
        };
        self.files.insert(key, file);
        self.by_id.insert(stat.id, key);
        self.by_path.insert(path.clone(), key);
        self.by_generation.insert(generation, key);
        self.put_into_dir(key, &path);
        let seen = self.clock.wall();
        let saved_path = self.registry.ledger().files.get(&generation).map(|entry| &entry.path);
        let has_path = saved_path.is_some_and(|saved| **saved == *path);
        match position.journal {
            Journalled::No(ladder) => {
                if let Some(entry) = self.entry_of(key, offset, marker) {
                    self.registry.record(Record::File(Box::new(FileEntry { ladder, ..entry })))?;
                }
            }
            Journalled::Doubted => self.note_proven(generation, path)?,
            Journalled::Yes if has_path => {}
            Journalled::Yes => {
                self.registry.record(Record::Path { generation, path, seen })?;
            }
        }
        self.end_generations()?;
        self.tell(key, Event::Observed(stat.look()))
    }
}

/// Where the journal says.
fn as_saved(entry: FileEntry, before: Before) -> Position {
    Position {
        generation: entry.generation,
        ordinal: entry.ordinal,
        origin: entry.origin.to_path_buf(),
        offset: entry.offset,
        before,
        head: entry.head,
        reason: Verdict::Same.reason(),
        repeated: None,
        journal: if entry.rebooted { Journalled::Doubted } else { Journalled::Yes },
    }
}

/// A new generation of a file that lost its end, from what is proven of it on.
fn after_power_cut(entry: &FileEntry, proven: Proven) -> Position {
    Position {
        generation: fresh_generation(),
        ordinal: entry.ordinal + 1,
        origin: entry.origin.to_path_buf(),
        offset: proven.offset,
        repeated: proven.repeated(),
        before: proven.before,
        head: proven.head,
        reason: "the host was started anew, and so much of what was read is there still",
        journal: Journalled::No(proven.ladder),
    }
}

/// A new generation, from its start.
fn anew(path: &Path, ordinal: u64, reason: &'static str) -> Position {
    Position {
        generation: fresh_generation(),
        ordinal,
        origin: path.to_path_buf(),
        offset: 0,
        before: Before::default(),
        head: Head::default(),
        reason,
        repeated: None,
        journal: Journalled::No(Ladder::default()),
    }
}

/// Compares a saved position with the file, and reads what stands before it. `None`: the path leads
/// to another file by now, whose bytes say nothing about this one.
fn verdict(
    files: &dyn TailFiles,
    path: &Path,
    entry: &FileEntry,
    stat: &Stat,
) -> io::Result<Option<(Verdict, Before)>> {
    let saved = entry.saved();
    if saved.offset == 0 && saved.head.len == 0 {
        return Ok(Some((Verdict::Same, Before::default())));
    }
    let (file, opened) = match open(files, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut last_read = Vec::new();
    if opened.id != stat.id {
        return Ok(None);
    }
    let verdict = judge(&saved, &opened, |at, len| {
        let mut bytes = vec![0; len];
        let read = read_full(file.as_ref(), at, &mut bytes)?;
        bytes.truncate(read);
        last_read.clone_from(&bytes);
        Ok(bytes)
    })?;
    let has_marker = saved.marker.len > 0;
    Ok(Some((verdict, if has_marker { Before::of(&last_read) } else { Before::default() })))
}

/// With `start: end`: at the start of the last line. `None` if the path leads to another file by now.
fn start_at_end(
    files: &dyn TailFiles,
    position: &mut Position,
    path: &Path,
    stat: &Stat,
) -> Option<()> {
    let file = match open(files, path) {
        Ok((file, opened)) if opened.id == stat.id => file,
        Ok(_) => return None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(_) => return Some(()),
    };
    let from = stat.size.saturating_sub(LINE_START_BYTES);
    let mut tail = vec![0; usize::try_from(stat.size - from).unwrap_or_default()];
    let mut head = vec![0; HEAD_BYTES];
    let (Ok(read), Ok(head_read)) =
        (read_full(file.as_ref(), from, &mut tail), read_full(file.as_ref(), 0, &mut head))
    else {
        return Some(());
    };
    tail.truncate(read);
    // Without any line end in reach, the middle of a line is the best there is.
    let end = memchr::memrchr(b'\n', &tail).map_or(tail.len(), |at| at + 1);
    position.offset = from + end as u64;
    position.before = Before::of(&tail[..end]);
    let head_len = head_read.min(usize::try_from(position.offset).unwrap_or(usize::MAX));
    position.head = Head::of(&head[..head_len]);
    position.reason = "it is new, and its input starts at the end";
    Some(())
}
