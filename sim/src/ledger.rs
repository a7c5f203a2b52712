//! I6 while it runs: whenever an agent's journal moves a file's offset, every line below it is in the topic, durably and once.
//!
//! The journal is read as the agent writes it, record by record, into a ledger of our own, which therefore is the agent's.
//! Where a record moves the offset of a file, the bytes between are taken from the file, and each line in them must at that
//! moment stand in the durable image of the topic's log, exactly once. Offsets end behind a line end.

use std::collections::BTreeMap;
use std::path::Path;

use tailway_agent::machine::identity::{FileId, Generation};
use tailway_agent::machine::ledger::{FileEntry, Ledger};
use tailway_agent::registry::decode;
use tailway_agent::tail::files::TailFiles;
use tailway_agent::tail::memory::MemoryFiles;
use tailway_storage::{Act, DiskEvent, Journal, Operation, SimDisk};

use crate::clients::Shared;
use crate::writer::{LOGS_DIR, line_of};

/// Where an agent keeps its journal.
const JOURNAL: &str = "/data/journal";

/// What looks over an agent's shoulder.
#[derive(Debug)]
pub(crate) struct LedgerWatch {
    name: String,
    files: MemoryFiles,
    shared: Shared,
    ledger: Ledger,
    /// Up to where the journal was read.
    read_to: u64,
}

impl LedgerWatch {
    pub(crate) fn new(name: String, files: MemoryFiles, shared: Shared) -> LedgerWatch {
        LedgerWatch { name, files, shared, ledger: Ledger::default(), read_to: 0 }
    }

    /// Something happened on the agent's disk.
    pub(crate) fn look(&mut self, disk: &SimDisk, event: &DiskEvent) {
        let is_journal = |path: &Path| path == Path::new(JOURNAL);
        match event.act {
            Act::Call(Operation::Write) if is_journal(&event.path) => self.read_on(disk),
            // Written anew, or cut: what it says is all there is.
            Act::Call(Operation::Rename) if event.to.as_deref().is_some_and(is_journal) => {
                self.read_anew(disk);
            }
            Act::Call(Operation::SetLen) if is_journal(&event.path) => self.read_anew(disk),
            _ => {}
        }
    }

    fn read_anew(&mut self, disk: &SimDisk) {
        let before = std::mem::take(&mut self.ledger);
        self.read_to = 0;
        let entries =
            Journal::entries_in(&disk.live_image(JOURNAL.as_ref()).unwrap_or_default(), 0);
        for entry in entries {
            self.read_to = entry.position_behind();
            if let Err(cause) = self.apply(&entry.bytes) {
                self.object(&cause);
            }
        }
        let after: Vec<Box<FileEntry>> = self.ledger.files.values().cloned().collect();
        for entry in after {
            let from = before.files.get(&entry.generation).map_or(0, |before| before.offset);
            self.moved(&entry, from);
        }
    }

    fn read_on(&mut self, disk: &SimDisk) {
        let rest = disk.live_image_from(JOURNAL.as_ref(), self.read_to).unwrap_or_default();
        for entry in Journal::entries_in(&rest, self.read_to) {
            self.read_to = entry.position_behind();
            let before: BTreeMap<Generation, u64> =
                self.ledger.files.iter().map(|(at, file)| (*at, file.offset)).collect();
            if let Err(cause) = self.apply(&entry.bytes) {
                self.object(&cause);
                continue;
            }
            let offset = |entry: &FileEntry| before.get(&entry.generation).copied().unwrap_or(0);
            let moved = self.ledger.files.values().filter(|entry| entry.offset > offset(entry));
            let moved: Vec<Box<FileEntry>> = moved.cloned().collect();
            for entry in moved {
                self.moved(&entry, offset(&entry));
            }
        }
    }

    fn apply(&mut self, bytes: &[u8]) -> Result<(), String> {
        let record = decode(bytes).map_err(|error| error.to_string())?;
        let text = format!("{record:?}");
        self.ledger.apply(record).map_err(|error| {
            format!("its journal has a record that does not fit what came before: {error}: {text}")
        })
    }

    /// The offset of a file has come from `from` to where it is.
    fn moved(&self, entry: &FileEntry, from: u64) {
        if let Err(cause) = self.lines_are_there(entry, from) {
            self.object(&format!(
                "{} moved from {from} to {}: {cause}",
                entry.path.display(),
                entry.offset
            ));
        }
    }

    fn lines_are_there(&self, entry: &FileEntry, from: u64) -> Result<(), String> {
        if entry.offset <= from {
            return Ok(());
        }
        let bytes = self.bytes_of(entry.id)?;
        let range = usize::try_from(from).ok().zip(usize::try_from(entry.offset).ok());
        let below = range.and_then(|(from, to)| bytes.get(from..to));
        let below = below.ok_or_else(|| format!("the file has {} bytes", bytes.len()))?;
        let Some(lines) = below.strip_suffix(b"\n") else {
            return Err("there is no line end before it".to_owned());
        };
        let mut oracle = self.shared.oracle();
        oracle.read_lines();
        for line in lines.split(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            let line = line_of(Some(&line.to_vec().into()))
                .ok_or_else(|| format!("{text:?} is no line that was written"))?;
            let places = oracle.places_of_line(&line);
            if places.len() != 1 {
                return Err(format!(
                    "{line:?} is durable in the topic {} times: {places:?}",
                    places.len()
                ));
            }
        }
        Ok(())
    }

    /// What is in a file, under whatever name.
    fn bytes_of(&self, id: FileId) -> Result<Vec<u8>, String> {
        let failed = |error: std::io::Error| error.to_string();
        for entry in self.files.list(LOGS_DIR.as_ref()).map_err(failed)? {
            let path = Path::new(LOGS_DIR).join(&entry.name);
            if entry.ino == id.ino && self.files.stat(&path).map_err(failed)?.id == id {
                return self.files.read(&path).map_err(failed);
            }
        }
        Err("there is no such file".to_owned())
    }

    fn object(&self, cause: &str) {
        self.shared.history.violation(format!("I6: {}: {cause}", self.name));
    }
}
