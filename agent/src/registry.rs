//! The ledger and its journal on disk, as one.
//!
//! Each record is applied and appended before what it announces is done. An append goes to the page
//! cache: it survives the process, not the host; `sync` is asked for once a second and done by
//! another thread. When the journal is much longer than what it says, it is written anew; where that
//! cannot be, as on a full disk, the long one goes on.
//!
//! Invariant: replaying the journal gives exactly the ledger in memory.

use std::path::Path;
use std::sync::Arc;

use tailway_storage::{Disk, Journal, JournalFormat, Recovery, StorageError, SyncTicket, Synced};

use crate::machine::ledger::{Ledger, LedgerError, Record};

const MAGIC: [u8; 8] = *b"TWAGENTJ";
/// 2: plans say what their lines were, and partitions have fences. Version 1 is read as it is.
const VERSION: u16 = 2;
const RECORD_BYTES_MAX: u32 = 4 << 20;
/// A journal below this is never written anew.
const COMPACT_BYTES_MIN: u64 = 4 << 20;
/// About what the journal needs to remember one file.
const FILE_BYTES: u64 = 512;
/// How much longer than what it says a journal gets.
const COMPACT_RATIO: u64 = 4;

/// Why something could not be remembered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a record of the journal does not fit the ones before it: {0}")]
    Ledger(#[from] LedgerError),
    #[error("record {number} of the journal cannot be read: {cause}")]
    Decode { number: usize, cause: serde_json::Error },
    #[error("a record cannot be written: {0}")]
    Encode(serde_json::Error),
}

/// What the agent remembers.
#[derive(Debug)]
pub struct Registry {
    ledger: Ledger,
    journal: Journal,
    /// Length right after it was last written anew.
    base_bytes: u64,
    /// It is not written anew below this length, because that failed a while ago.
    patience_bytes: u64,
}

impl Registry {
    /// Opens or makes the journal and replays it.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, Recovery), RegistryError> {
        let format = JournalFormat {
            magic: MAGIC,
            version: VERSION,
            identity: [0; 16],
            record_bytes_max: RECORD_BYTES_MAX,
        };
        let mut ledger = Ledger::default();
        let (mut number, mut failed) = (0, None);
        let (journal, recovery) = Journal::open_with(disk, path, format, &mut |entry| {
            let replayed = serde_json::from_slice::<Record>(&entry.bytes)
                .map_err(|cause| RegistryError::Decode { number, cause })
                .and_then(|record| Ok(ledger.apply(record)?));
            number += 1;
            if let Err(error) = replayed {
                failed.get_or_insert(error);
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        let mut registry = Self { ledger, journal, base_bytes: 0, patience_bytes: 0 };
        if recovery.version < VERSION {
            // So that an older release says that it cannot read it, instead of failing at a record.
            registry.write_anew()?;
        }
        Ok((registry, recovery))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Remembers a record.
    pub fn record(&mut self, record: Record) -> Result<(), RegistryError> {
        let bytes = serde_json::to_vec(&record).map_err(RegistryError::Encode)?;
        let lost =
            matches!(record, Record::Plan(_)) && tailway_faults::is_planted("agent.plan_not_saved");
        self.ledger.apply(record)?;
        tailway_faults::verify(|| self.ledger.check());
        if !lost {
            self.journal.append(&bytes)?;
        }
        Ok(())
    }

    /// What makes everything so far durable, to be run where blocking is fine; `None` if it is.
    pub fn sync_ticket(&self) -> Option<SyncTicket> {
        (self.journal.synced_end() < self.journal.end()).then(|| self.journal.sync_ticket())
    }

    /// The ticket was run.
    pub fn synced(&mut self, done: Synced) {
        self.journal.synced(done);
    }

    /// Makes everything durable now.
    pub fn sync(&mut self) -> Result<(), RegistryError> {
        Ok(self.journal.sync()?)
    }

    /// Writes the journal anew if it has become much longer than what it says.
    pub fn compact_if_worth_it(&mut self) -> Result<bool, RegistryError> {
        let needed = self.base_bytes.max(self.ledger.files.len() as u64 * FILE_BYTES);
        let min = tailway_faults::bound("agent.journal_rewrite_bytes", COMPACT_BYTES_MIN);
        let limit = min.max(needed * COMPACT_RATIO);
        if self.journal.end() < limit.max(self.patience_bytes) {
            return Ok(false);
        }
        self.write_anew()
    }

    /// False if it could not be written and goes on as it is.
    fn write_anew(&mut self) -> Result<bool, RegistryError> {
        tailway_faults::crash("agent.journal_rewrite.before");
        let records: Result<Vec<_>, _> =
            self.ledger.records().iter().map(serde_json::to_vec).collect();
        match self.journal.rewrite(&records.map_err(RegistryError::Encode)?) {
            Ok(_) => {
                tailway_faults::crash("agent.journal_rewrite.after");
                self.base_bytes = self.journal.end();
                Ok(true)
            }
            Err(error) if self.journal.fence().check().is_ok() => {
                let bytes = self.journal.end();
                tracing::warn!(
                    bytes,
                    %error,
                    "the journal cannot be written anew and grows on; make room on its disk"
                );
                self.patience_bytes = bytes + COMPACT_BYTES_MIN / 4;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of the journal.
    pub fn bytes(&self) -> u64 {
        self.journal.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::identity::{FileId, Generation, Head, Ladder, Marker};
    use crate::machine::ledger::FileEntry;
    use tailway_metadata::time::WallMs;
    use tailway_storage::SimDisk;

    fn file(generation: u128) -> Record {
        Record::File(FileEntry {
            generation: Generation(generation),
            ordinal: 0,
            id: FileId { dev: 1, ino: 2, birth_ns: None },
            path: "/var/log/a.log".into(),
            origin: "/var/log/a.log".into(),
            input: "i".into(),
            offset: 0,
            marker: Marker::default(),
            head: Head::default(),
            target: None,
            seen: WallMs(0),
            ladder: Ladder::default(),
            rebooted: false,
        })
    }

    const PATH: &str = "/journal";

    fn open(disk: &SimDisk) -> (Registry, Recovery) {
        Registry::open(Arc::new(disk.clone()), Path::new(PATH)).unwrap()
    }

    #[test]
    fn what_was_recorded_is_there_again() {
        let disk = SimDisk::new();
        let (mut registry, recovery) = open(&disk);
        assert!(recovery.created);
        for generation in 0..100 {
            registry.record(file(generation)).unwrap();
        }
        registry.record(Record::Done { generation: Generation(7) }).unwrap();
        let expected = registry.ledger().clone();
        drop(registry);
        assert_eq!(*open(&disk).0.ledger(), expected);
    }

    #[test]
    fn after_a_power_cut_a_prefix_is_there() {
        for seed in 0..50 {
            let disk = SimDisk::new();
            let (mut registry, _) = open(&disk);
            for generation in 0..20 {
                registry.record(file(generation)).unwrap();
                if generation == 9 {
                    registry.sync().unwrap();
                }
            }
            let (again, _) = open(&disk.crash_image(seed));
            let count = again.ledger().files.len();
            assert!((10..=20).contains(&count), "seed {seed}: {count} of 20, 10 durable");
            let last = Generation(count as u128 - 1);
            assert!(again.ledger().files.contains_key(&last), "seed {seed}: not a prefix");
        }
    }

    #[test]
    fn a_long_journal_that_says_little_is_written_anew() {
        let disk = SimDisk::new();
        let (mut registry, _) = open(&disk);
        while !registry.compact_if_worth_it().unwrap() {
            registry.record(file(1)).unwrap();
        }
        assert!(registry.bytes() < 1_000, "{} bytes", registry.bytes());
        registry.record(file(2)).unwrap();
        let expected = registry.ledger().clone();
        drop(registry);
        assert_eq!(*open(&disk).0.ledger(), expected);
    }

    #[test]
    fn where_it_cannot_be_written_anew_the_long_one_goes_on() {
        let disk = SimDisk::new();
        let (mut registry, _) = open(&disk);
        let grow = |registry: &mut Registry, by: u64| {
            let until = registry.bytes() + by;
            for generation in (0..100).cycle() {
                registry.record(file(generation)).unwrap();
                if registry.bytes() >= until {
                    return;
                }
            }
        };
        grow(&mut registry, COMPACT_BYTES_MIN);
        // There is no room for what it says, beside what it is.
        disk.set_capacity(Some(registry.bytes() + 10_000));
        assert!(!registry.compact_if_worth_it().unwrap());
        registry.record(file(2)).unwrap();
        let expected = registry.ledger().clone();
        disk.set_capacity(None);
        assert!(!registry.compact_if_worth_it().unwrap(), "again at once");
        grow(&mut registry, COMPACT_BYTES_MIN);
        assert!(registry.compact_if_worth_it().unwrap());
        assert_eq!(*registry.ledger(), expected);
        drop(registry);
        assert_eq!(*open(&disk).0.ledger(), expected);
    }

    #[test]
    fn a_journal_of_an_older_version_is_read_and_written_anew() {
        let disk = SimDisk::new();
        let format = JournalFormat {
            magic: MAGIC,
            version: 1,
            identity: [0; 16],
            record_bytes_max: RECORD_BYTES_MAX,
        };
        let opened =
            Journal::open_with(Arc::new(disk.clone()), Path::new(PATH), format, &mut |_| {});
        let mut old = opened.unwrap().0;
        old.append(&serde_json::to_vec(&file(1)).unwrap()).unwrap();
        drop(old);
        let (registry, recovery) = open(&disk);
        assert_eq!((registry.ledger().files.len(), recovery.version), (1, 1));
        drop(registry);
        let (registry, recovery) = open(&disk);
        assert_eq!((registry.ledger().files.len(), recovery.version), (1, 2));
    }
}
