//! What may have changed under a journal: the host was started anew, or the journal was copied.
//!
//! A host that loses its power loses what it had not written back: a log file may be shorter than,
//! or have NUL bytes before, the offset that was acknowledged, while our journal, which is synced,
//! knows of more. Such a file is read on at the highest rung of its ladder that its bytes prove, as
//! a new generation: what is written into it from there on is new. Between that rung and the place
//! where the old bytes end, lines may come again; nobody can tell, so it is said.
//!
//! A journal that was copied with its producers is one of two: it sends nothing under them.

use std::io;
use std::path::{Path, PathBuf};

use super::files::{Before, open};
use super::{ShipError, Shipper};
use crate::machine::identity::{
    FileId, Generation, HEAD_BYTES, Head, Ladder, MARKER_BYTES, Rung, Stat,
};
use crate::machine::ledger::{FileEntry, Home, Record};
use crate::output::lane::Lapse;
use crate::tail::files::{OpenFile, TailFiles, read_full};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const MACHINE_ID: &str = "/etc/machine-id";
/// The journal is synced once a second.
const CUT_SHORT: &str = "the host was started anew without a stop of the agent: what was sent in the \
                         last second or two before that may be sent again";
/// Both are a line of 32 digits, with or without dashes.
const ID_BYTES_MAX: usize = 64;

impl Shipper {
    /// Compares where the journal was at home with where it is, and remembers the latter.
    pub(super) fn settle_home(&mut self) -> Result<(), ShipError> {
        let now = home(self.source.as_ref(), &self.config.data_dir);
        let ledger = self.registry.ledger();
        if ledger.home.as_ref() == Some(&now) && !ledger.rested {
            return Ok(());
        }
        if let Some(before) = &ledger.home {
            if before.is_rebooted(&now) {
                tracing::info!("the host was started anew; files are compared with what was read");
                if !ledger.rested && !ledger.files.is_empty() {
                    tracing::warn!(why = CUT_SHORT, "events may be stored twice");
                    self.repeated =
                        Some(Lapse { at: self.clock.wall(), why: CUT_SHORT.to_owned() });
                }
            }
            if let Some(why) = before.copied(&now) {
                let batches = ledger.plans.len();
                tracing::warn!(
                    why,
                    batches,
                    "the journal is a copy; its producers are left to whoever has the other one"
                );
            }
        }
        Ok(self.registry.record(Record::Home(now))?)
    }

    /// The file was looked at after the host was started anew, and is what it was.
    pub(super) fn note_proven(
        &mut self,
        generation: Generation,
        path: PathBuf,
    ) -> Result<(), ShipError> {
        let seen = self.clock.wall();
        let Some(entry) = self.registry.ledger().files.get(&generation).cloned() else {
            return Ok(());
        };
        let entry = FileEntry { rebooted: false, path: path.into(), seen, ..*entry };
        Ok(self.registry.record(Record::File(Box::new(entry)))?)
    }
}

fn home(source: &dyn TailFiles, data_dir: &Path) -> Home {
    // The number of a device may be another one after each start.
    let place = source.stat(&data_dir.join(crate::agent::IDENTITY_FILE)).ok();
    let place = place.map(|stat| FileId { dev: 0, ..stat.id });
    Home { machine: id_in(source, MACHINE_ID), boot: id_in(source, BOOT_ID), place }
}

/// Empty where there is none.
fn id_in(source: &dyn TailFiles, path: &str) -> String {
    let read = || {
        let mut bytes = vec![0; ID_BYTES_MAX];
        let read = read_full(source.open(path.as_ref())?.as_ref(), 0, &mut bytes)?;
        bytes.truncate(read);
        Ok::<_, io::Error>(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}

/// Where to read on in a file with less in it than was read.
#[derive(Debug, Clone)]
pub(super) struct Proven {
    pub(super) offset: u64,
    pub(super) before: Before,
    pub(super) head: Head,
    pub(super) ladder: Ladder,
    /// Bytes behind the offset that may have been read before.
    pub(super) doubtful: u64,
}

impl Proven {
    /// In words, if anything may come again.
    pub(super) fn repeated(&self) -> Option<String> {
        let (bytes, offset) = (self.doubtful, self.offset);
        (bytes > 0).then(|| {
            format!(
                "the host lost its power, and of the file nothing above byte {offset} could be \
                 recognised: lines in {bytes} bytes from there on may come again"
            )
        })
    }
}

/// What a file proves of the entry after the host was started anew. `None`: the path leads to
/// another file by now.
pub(super) fn proven(
    files: &dyn TailFiles,
    path: &Path,
    entry: &FileEntry,
    stat: &Stat,
) -> io::Result<Option<Proven>> {
    let (file, opened) = match open(files, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if opened.id != stat.id {
        return Ok(None);
    }
    let size = opened.size;
    let read = |at: u64, len: usize| read_at(file.as_ref(), at, len);
    let known = entry.head.len;
    let has_head = size < u64::from(known) || Head::of(&read(0, known as usize)?) == entry.head;
    let by_size = || entry.ladder.rungs().iter().rfind(|rung| rung.offset <= size).copied();
    let rung = if tailway_faults::is_planted("agent.size_trusted_without_hash") {
        by_size()
    } else {
        // A rung within the head has nothing but its own bytes to show.
        let found = entry.ladder.verify(size, read)?;
        found.filter(|rung| has_head || rung.offset < u64::from(known))
    };
    let offset = rung.map_or(0, |rung| rung.offset);
    let next = entry.ladder.rungs().iter().map(|rung: &Rung| rung.offset).find(|at| *at > offset);
    // It was rewritten: what is in it is new. NUL bytes are nobody's.
    let is_other = !has_head && rung.is_none() && read(0, 1)? != [0];
    let doubtful = next.unwrap_or(entry.offset).min(size).saturating_sub(offset);
    let lead = offset.min(MARKER_BYTES as u64);
    let lead_bytes = usize::try_from(lead).unwrap_or_default();
    let head_len = usize::try_from(offset.min(HEAD_BYTES as u64)).unwrap_or_default();
    Ok(Some(Proven {
        offset,
        before: Before::of(&read(offset - lead, lead_bytes)?),
        head: Head::of(&read(0, head_len)?),
        ladder: entry.ladder.below(offset),
        doubtful: if is_other { 0 } else { doubtful },
    }))
}

fn read_at(file: &dyn OpenFile, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = read_full(file, at, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
