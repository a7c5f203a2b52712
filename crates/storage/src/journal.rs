//! An append-only file of checksummed records, and its recovery.
//!
//! Used for the Raft log and the agent's journal. Positions are byte offsets of records in the file.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Disk, Fence, StorageError};

/// What a journal file is: checked when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalFormat {
    /// Eight bytes that name the kind of journal, for example `b"TWRAFTLG"`.
    pub magic: [u8; 8],
    /// Version of the records' encoding. A file of a higher version is refused; a lower one is reported in `Recovery`.
    pub version: u16,
    /// Whose journal it is (a cluster, a host): a file of another owner is refused. Zeros: do not check, take the file's.
    pub identity: [u8; 16],
    /// Longest record accepted by `append` and believed on recovery.
    pub record_bytes_max: u32,
}

/// One record as found on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// Where it starts; valid for `read` and `truncate` until the next `rewrite`.
    pub position: u64,
    pub bytes: Bytes,
}

/// What opening found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// No file was there; an empty one has been made.
    pub created: bool,
    /// Bytes after the last good record that were cut off: an append that a crash interrupted.
    pub torn_bytes: u64,
    /// The version in the file's header.
    pub version: u16,
    /// The identity in the file's header.
    pub identity: [u8; 16],
}

/// An opened journal with everything in it.
#[derive(Debug)]
pub struct Opened {
    pub journal: Journal,
    pub entries: Vec<JournalEntry>,
    pub recovery: Recovery,
}

/// An append-only file of records with one writer.
#[derive(Debug)]
pub struct Journal {
    _disk: Arc<dyn Disk>,
}

/// A sync that can run on another thread while the owner goes on appending: `ticket.run()`, then `journal.synced(done)`.
#[derive(Debug)]
pub struct SyncTicket {}

/// Proof that everything below a position is durable.
#[derive(Debug, Clone, Copy)]
pub struct Synced {}

impl SyncTicket {
    /// Blocks until everything appended before the ticket was taken is durable.
    pub fn run(self) -> Result<Synced, StorageError> {
        unimplemented!()
    }
}

impl Journal {
    /// Opens or makes the journal at `path` and returns all its records. The parent directory must exist.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _path: &Path,
        _format: JournalFormat,
    ) -> Result<Opened, StorageError> {
        unimplemented!()
    }

    /// As `open`, but hands each record to `visit` instead of keeping them all in memory.
    pub fn open_with(
        _disk: Arc<dyn Disk>,
        _path: &Path,
        _format: JournalFormat,
        _visit: &mut dyn FnMut(JournalEntry),
    ) -> Result<(Journal, Recovery), StorageError> {
        unimplemented!()
    }

    /// Appends one record and returns its position. Not durable before `sync`.
    pub fn append(&mut self, _record: &[u8]) -> Result<u64, StorageError> {
        unimplemented!()
    }

    /// Appends records with one write and returns their positions.
    pub fn append_many<R: AsRef<[u8]>>(
        &mut self,
        _records: &[R],
    ) -> Result<Vec<u64>, StorageError> {
        unimplemented!()
    }

    /// Makes everything appended durable. Does nothing if there is nothing new.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// A sync to run elsewhere.
    pub fn sync_ticket(&self) -> SyncTicket {
        unimplemented!()
    }

    /// Takes note of a ticket that ran.
    pub fn synced(&mut self, _done: Synced) {
        unimplemented!()
    }

    /// Reads the record at a position that `append` or `open` gave.
    pub fn read(&self, _position: u64) -> Result<Bytes, StorageError> {
        unimplemented!()
    }

    /// Removes the record at `position` and all after it, durably.
    pub fn truncate(&mut self, _position: u64) -> Result<(), StorageError> {
        unimplemented!()
    }

    /// Replaces the whole content, atomically and durably (compaction, purge of a prefix). Returns the new positions.
    pub fn rewrite<R: AsRef<[u8]>>(&mut self, _records: &[R]) -> Result<Vec<u64>, StorageError> {
        unimplemented!()
    }

    /// Where the next record will be: also the file's length in bytes.
    pub fn end(&self) -> u64 {
        unimplemented!()
    }

    /// Everything below this is durable.
    pub fn synced_end(&self) -> u64 {
        unimplemented!()
    }

    /// Trips after a failed write or sync; then every change answers `StorageError::Fenced` until it is opened anew.
    pub fn fence(&self) -> &Fence {
        unimplemented!()
    }
}
