//! The ledger and its journal on disk, as one.
//!
//! Each record is applied and appended before what it announces is done. An append goes to the page
//! cache: it survives the process, not the host; `sync` is asked for once a second and done by
//! another thread. When the journal is much longer than what it says, it is written anew; where that
//! cannot be, as on a full disk, the long one goes on.
//!
//! A disk that is full or fails does not end the agent: the ledger in memory is the truth. The
//! journal is behind then, no plan is taken, so nothing new is sent, and it is tried again: what is
//! missing is appended, or, after a failed write or sync, which is never retried on the same file,
//! a new file is written from memory. A process that dies meanwhile leaves the plans of what it sent
//! open, and its successor finds out about them.
//!
//! Invariant: replaying the journal gives exactly the ledger in memory, unless it is behind.

mod encoding;
mod replay;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailway_storage::{Disk, Journal, JournalFormat, Recovery, StorageError, SyncTicket, Synced};

use crate::machine::ledger::{Ledger, LedgerError, Plan, Record};

pub use encoding::{DecodeError, decode};
use replay::Replay;

const MAGIC: [u8; 8] = *b"TWAGENTJ";
/// 2: plans say what their lines were, and partitions have fences. 3: files are in a form that is
/// read fast, have ladders, and the journal says where it is at home. Versions 1 and 2 are read.
const VERSION: u16 = 3;
const RECORD_BYTES_MAX: u32 = 4 << 20;
/// A journal below this is never written anew.
const COMPACT_BYTES_MIN: u64 = 4 << 20;
/// About what the journal needs to remember one file.
const FILE_BYTES: u64 = 512;
/// How much longer than what it says a journal gets.
const COMPACT_RATIO: u64 = 4;
/// Of records that wait for room on the disk; beyond that the journal is written anew.
const BEHIND_BYTES_MAX: usize = 4 << 20;
/// Records that are written at once to a new file.
const RENEW_RECORDS: usize = 1_000;

/// Why something could not be remembered.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a record of the journal does not fit the ones before it: {0}")]
    Ledger(#[from] LedgerError),
    #[error("record {number} of the journal cannot be read: {cause}")]
    Decode { number: usize, cause: DecodeError },
    #[error("a record cannot be written: {0}")]
    Encode(serde_json::Error),
}

/// A journal that lacks what the ledger knows.
#[derive(Debug)]
struct Behind {
    cause: String,
    /// What it lacks, while that is all of it.
    records: Vec<Vec<u8>>,
    bytes: usize,
    /// It must be written anew.
    anew: bool,
}

/// What the agent remembers.
#[derive(Debug)]
pub struct Registry {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    ledger: Ledger,
    journal: Journal,
    behind: Option<Behind>,
    /// Length right after it was last written anew.
    base_bytes: u64,
    /// It is not written anew below this length, because that failed a while ago.
    patience_bytes: u64,
}

const FORMAT: JournalFormat = JournalFormat {
    magic: MAGIC,
    version: VERSION,
    identity: [0; 16],
    record_bytes_max: RECORD_BYTES_MAX,
};

impl Registry {
    /// Opens or makes the journal and replays it.
    pub fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<(Self, Recovery), RegistryError> {
        let mut replay = Replay::default();
        let (journal, recovery) =
            Journal::open_with(Arc::clone(&disk), path, FORMAT, &mut |entry| {
                replay.take(&entry.bytes);
            })?;
        let ledger = replay.finish()?;
        let path = path.to_path_buf();
        let (behind, base_bytes, patience_bytes) = (None, 0, 0);
        let mut registry = Self { disk, path, ledger, journal, behind, base_bytes, patience_bytes };
        if recovery.version < VERSION {
            // So that an older release says that it cannot read it, instead of failing at a record.
            registry.write_anew()?;
        }
        Ok((registry, recovery))
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Why the journal is behind the ledger, if it is: no plan is taken then.
    pub fn trouble(&self) -> Option<&str> {
        self.behind.as_ref().map(|behind| behind.cause.as_str())
    }

    /// Remembers a record.
    pub fn record(&mut self, record: Record) -> Result<(), RegistryError> {
        let bytes = encoding::encode(&record).map_err(RegistryError::Encode)?;
        let lost =
            matches!(record, Record::Plan(_)) && tailway_faults::is_planted("agent.plan_not_saved");
        self.ledger.apply(record)?;
        tailway_faults::verify(|| self.ledger.check());
        if lost {
            return Ok(());
        }
        if let Some(behind) = &mut self.behind {
            behind.miss(bytes);
        } else if let Err(error) = self.journal.append(&bytes) {
            self.fall_behind(&error).miss(bytes);
        }
        Ok(())
    }

    /// Remembers a plan; false if it cannot be, and its batch must not be sent.
    pub fn plan(&mut self, plan: Plan) -> Result<bool, RegistryError> {
        if self.behind.is_some() {
            return Ok(false);
        }
        let number = plan.number;
        self.record(Record::Plan(plan))?;
        if self.behind.is_none() {
            return Ok(true);
        }
        let why = "it could not be remembered, and was not sent".to_owned();
        self.record(Record::Void { plan: number, why })?;
        Ok(false)
    }

    fn fall_behind(&mut self, error: &StorageError) -> &mut Behind {
        let anew = self.journal.fence().check().is_err();
        let next = if error.is_disk_full() { "make room on its disk" } else { "look at its disk" };
        tracing::error!(
            path = %self.path.display(),
            %error,
            "the journal cannot be written: nothing new is sent until it can; {next}"
        );
        let cause = format!("the journal cannot be written: {error}");
        self.behind.insert(Behind { cause, records: Vec::new(), bytes: 0, anew })
    }

    /// Tries to write what the journal lacks; true if it has all now. Not while a sync runs.
    pub fn catch_up(&mut self) -> Result<bool, RegistryError> {
        let Some(behind) = &self.behind else { return Ok(true) };
        let caught_up = if behind.anew {
            self.renew()?
        } else {
            self.journal.append_many(&behind.records).map(drop)
        };
        match caught_up {
            Ok(()) => {
                self.behind = None;
                tracing::info!(path = %self.path.display(), "the journal can be written again");
                Ok(true)
            }
            Err(error) => {
                let anew = self.journal.fence().check().is_err();
                if let Some(behind) = &mut self.behind {
                    behind.anew |= anew;
                    behind.cause = format!("the journal cannot be written: {error}");
                }
                Ok(false)
            }
        }
    }

    /// Puts a new file with all that the ledger knows in the place of one that failed.
    fn renew(&mut self) -> Result<Result<(), StorageError>, RegistryError> {
        let records = self.encoded()?;
        let renewed = write_new(&self.disk, &self.path, &records);
        Ok(renewed.map(|journal| {
            self.base_bytes = journal.end();
            self.journal = journal;
        }))
    }

    fn encoded(&self) -> Result<Vec<Vec<u8>>, RegistryError> {
        let records: Result<Vec<_>, _> =
            self.ledger.records().iter().map(encoding::encode).collect();
        records.map_err(RegistryError::Encode)
    }

    /// What makes everything so far durable, to be run where blocking is fine; `None` if it is.
    pub fn sync_ticket(&self) -> Option<SyncTicket> {
        let is_due = self.behind.is_none() && self.journal.synced_end() < self.journal.end();
        is_due.then(|| self.journal.sync_ticket())
    }

    /// The ticket was run.
    pub fn synced(&mut self, done: Result<Synced, StorageError>) {
        match done {
            Ok(done) => self.journal.synced(done),
            Err(error) => drop(self.fall_behind(&error)),
        }
    }

    /// Makes everything durable now; false if that cannot be.
    pub fn sync(&mut self) -> Result<bool, RegistryError> {
        if !self.catch_up()? {
            return Ok(false);
        }
        if let Err(error) = self.journal.sync() {
            self.fall_behind(&error);
            return self.catch_up();
        }
        Ok(true)
    }

    /// Writes the journal anew if it has become much longer than what it says.
    pub fn compact_if_worth_it(&mut self) -> Result<bool, RegistryError> {
        let needed = self.base_bytes.max(self.ledger.files.len() as u64 * FILE_BYTES);
        let min = tailway_faults::bound("agent.journal_rewrite_bytes", COMPACT_BYTES_MIN);
        let limit = min.max(needed * COMPACT_RATIO);
        if self.behind.is_some() || self.journal.end() < limit.max(self.patience_bytes) {
            return Ok(false);
        }
        self.write_anew()
    }

    /// False if it could not be written and goes on as it is.
    fn write_anew(&mut self) -> Result<bool, RegistryError> {
        let records = self.encoded()?;
        tailway_faults::crash("agent.journal_rewrite.before");
        match self.journal.rewrite(&records) {
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
            Err(error) => {
                self.fall_behind(&error);
                Ok(false)
            }
        }
    }

    /// Bytes of the journal.
    pub fn bytes(&self) -> u64 {
        self.journal.end()
    }
}

impl Behind {
    fn miss(&mut self, record: Vec<u8>) {
        self.bytes += record.len();
        if self.anew || self.bytes > BEHIND_BYTES_MAX {
            // All of it is in the ledger.
            self.anew = true;
            self.records = Vec::new();
        } else {
            self.records.push(record);
        }
    }
}

/// Writes records to a file of their own, durably, and gives it the journal's name.
fn write_new(
    disk: &Arc<dyn Disk>,
    path: &Path,
    records: &[Vec<u8>],
) -> Result<Journal, StorageError> {
    let new = path.with_extension("new");
    if disk.exists(&new)? {
        disk.remove_file(&new)?;
    }
    let (mut journal, _) = Journal::open_with(Arc::clone(disk), &new, FORMAT, &mut |_| {})?;
    for records in records.chunks(RENEW_RECORDS) {
        journal.append_many(records)?;
    }
    journal.sync()?;
    drop(journal);
    disk.rename(&new, path)?;
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))?;
    // Under its own name from now on.
    Ok(Journal::open_with(Arc::clone(disk), path, FORMAT, &mut |_| {})?.0)
}

#[cfg(test)]
#[path = "registry/tests.rs"]
mod tests;
