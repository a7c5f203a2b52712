//! An append-only file of checksummed records with one writer, and its recovery. Under the Raft log and the agent's journal.
//!
//! The file is a header (see `frame`) and frames. Positions are byte offsets of frames. Each frame's checksum covers its
//! own position, so that a misplaced one is not believed; and each says up to where the file was durable when it was
//! written. That tells a torn tail from damage: a bad frame with a later good one that says "below me all was durable" is
//! damage of durable bytes, an error that names file and offset. Without such a witness it is an interrupted append, and
//! is cut. (Only damage within the very last commit group has no witness.)
//! Invariants: `synced_end <= end`; the header is durable before the first frame is written; a failed write or sync fences.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::frame::{
    EncodedFrameHeader, FRAME_BYTES, FrameHeader, HEADER_BYTES, JournalHeader, Scanner, frames_in,
};
use crate::fs::parent_of;
use crate::replace::{atomic_replace, tmp_path};
use crate::{Disk, DiskFile, Fence, FencedFile, OpenMode, StorageError};

/// Bytes written at once by `rewrite`.
const REWRITE_CHUNK_BYTES: usize = 1 << 20;

/// Bytes read at once when the whole file is read, and when one record is.
const SCAN_CHUNK_BYTES: u64 = 256 << 10;
const READ_CHUNK_BYTES: u64 = 4 << 10;

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

impl JournalEntry {
    /// Where the next record begins.
    pub fn position_behind(&self) -> u64 {
        self.position + FRAME_BYTES + self.bytes.len() as u64
    }
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
    disk: Arc<dyn Disk>,
    path: PathBuf,
    format: JournalFormat,
    file: FencedFile,
    fence: Fence,
    end: u64,
    synced_end: u64,
    /// Changes when records are removed, so that a ticket taken before proves nothing about what came after.
    generation: u64,
}

/// A new file of a rewrite, written but not synced.
struct Written {
    file: Arc<dyn DiskFile>,
    positions: Vec<u64>,
    end: u64,
}

/// A sync that can run on another thread while the owner goes on appending: `ticket.run()`, then `journal.synced(done)`.
#[derive(Debug)]
pub struct SyncTicket {
    file: FencedFile,
    done: Synced,
}

/// Proof that everything below a position is durable.
#[derive(Debug, Clone, Copy)]
pub struct Synced {
    end: u64,
    generation: u64,
}

impl SyncTicket {
    /// Blocks until everything appended before the ticket was taken is durable.
    pub fn run(self) -> Result<Synced, StorageError> {
        self.file.sync_data()?;
        Ok(self.done)
    }
}

impl Journal {
    /// The records in a journal's bytes from `position` on, which is 0 or the end of an earlier record; for whoever looks
    /// on while another writes. It ends before what is not whole.
    pub fn entries_in(bytes: &[u8], position: u64) -> Vec<JournalEntry> {
        frames_in(bytes, position)
            .map(|(position, payload)| JournalEntry {
                position,
                bytes: Bytes::copy_from_slice(payload),
            })
            .collect()
    }

    /// Opens or makes the journal at `path` and returns all its records. The parent directory must exist.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        format: JournalFormat,
    ) -> Result<Opened, StorageError> {
        let mut entries = Vec::new();
        let (journal, recovery) =
            Journal::open_with(disk, path, format, &mut |entry| entries.push(entry))?;
        Ok(Opened { journal, entries, recovery })
    }

    /// As `open`, but hands each record to `visit` instead of keeping them all in memory.
    pub fn open_with(
        disk: Arc<dyn Disk>,
        path: &Path,
        format: JournalFormat,
        visit: &mut dyn FnMut(JournalEntry),
    ) -> Result<(Journal, Recovery), StorageError> {
        let created = !disk.exists(path)?;
        if created {
            let header = JournalHeader { version: format.version, identity: format.identity };
            atomic_replace(disk.as_ref(), path, &header.encode(format.magic))?;
        } else if disk.exists(&tmp_path(path))? {
            // A rewrite that a crash interrupted before its rename.
            disk.remove_file(&tmp_path(path))?;
        }
        let fence = Fence::new();
        let file = FencedFile::new(disk.open(path, OpenMode::Write)?, fence.clone());
        // What is read below counts as durable.
        file.settle()?;
        let mut scanner = Scanner::new(&file, format.record_bytes_max, SCAN_CHUNK_BYTES)?;
        let header = scanner.header(&format)?;
        let file_len = scanner.file_len();
        let mut end = HEADER_BYTES;
        while let Some(bytes) = scanner.frame(end)? {
            let position = end;
            end += FRAME_BYTES + bytes.len() as u64;
            visit(JournalEntry { position, bytes });
        }
        if end < file_len {
            if let Some(witness) = scanner.witness_of(end)? {
                let reason = format!(
                    "a record fails its checksum, but the one at {witness} was written after it was durable"
                );
                return Err(StorageError::Corrupt {
                    path: path.to_path_buf(),
                    offset: end,
                    reason,
                });
            }
            file.set_len(end)?;
            file.sync_data()?;
        }
        disk.sync_dir(parent_of(path))?;
        let recovery = Recovery {
            created,
            torn_bytes: file_len - end,
            version: header.version,
            identity: header.identity,
        };
        let format = JournalFormat { identity: header.identity, ..format };
        let path = path.to_path_buf();
        let journal =
            Journal { disk, path, format, file, fence, end, synced_end: end, generation: 0 };
        Ok((journal, recovery))
    }

    /// Appends one record and returns its position. Not durable before `sync`.
    pub fn append(&mut self, record: &[u8]) -> Result<u64, StorageError> {
        let position = self.end;
        let header = self.frame_header(position, self.synced_end, record)?;
        let slices = [IoSlice::new(&header), IoSlice::new(record)];
        self.write(&slices, position + FRAME_BYTES + record.len() as u64)?;
        Ok(position)
    }

    /// Appends records with one write and returns their positions.
    pub fn append_many<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Vec<u64>, StorageError> {
        let mut positions = Vec::with_capacity(records.len());
        let mut headers = Vec::with_capacity(records.len());
        let mut end = self.end;
        for record in records {
            let record = record.as_ref();
            headers.push(self.frame_header(end, self.synced_end, record)?);
            positions.push(end);
            end += FRAME_BYTES + record.len() as u64;
        }
        let slices: Vec<IoSlice<'_>> = headers
            .iter()
            .zip(records)
            .flat_map(|(header, record)| [IoSlice::new(header), IoSlice::new(record.as_ref())])
            .collect();
        self.write(&slices, end)?;
        Ok(positions)
    }

    /// Makes everything appended durable. Does nothing if there is nothing new.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        self.fence.check()?;
        if self.synced_end < self.end {
            self.file.sync_data()?;
            self.synced_end = self.end;
        }
        Ok(())
    }

    /// A sync to run elsewhere.
    pub fn sync_ticket(&self) -> SyncTicket {
        let done = Synced { end: self.end, generation: self.generation };
        SyncTicket { file: self.file.clone(), done }
    }

    /// Takes note of a ticket that ran.
    pub fn synced(&mut self, done: Synced) {
        if done.generation == self.generation {
            self.synced_end = self.synced_end.max(done.end);
        }
    }

    /// Reads the record at a position that `append` or `open` gave.
    pub fn read(&self, position: u64) -> Result<Bytes, StorageError> {
        let mut scanner = Scanner::new(&self.file, self.format.record_bytes_max, READ_CHUNK_BYTES)?;
        scanner.frame(position)?.ok_or_else(|| StorageError::Corrupt {
            path: self.path.clone(),
            offset: position,
            reason: "no record with a good checksum starts here".to_owned(),
        })
    }

    /// Removes the record at `position` and all after it, durably.
    pub fn truncate(&mut self, position: u64) -> Result<(), StorageError> {
        self.fence.check()?;
        if position >= self.end {
            return Ok(());
        }
        let position = position.max(HEADER_BYTES);
        self.file.set_len(position)?;
        self.file.sync_data()?;
        self.end = position;
        self.synced_end = position;
        self.generation += 1;
        Ok(())
    }

    /// Replaces the whole content, atomically and durably (compaction, purge of a prefix). Returns the new positions.
    /// If the new file cannot be written (a full disk), the old one stays and the journal goes on.
    pub fn rewrite<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Vec<u64>, StorageError> {
        self.fence.check()?;
        let tmp = tmp_path(&self.path);
        let Written { file, positions, end } = match self.write_anew(&tmp, records) {
            Ok(written) => written,
            Err(error) => {
                // The old file is untouched. A left-over is removed by the next open or overwritten by the next rewrite.
                let _left_over = self.disk.remove_file(&tmp);
                return Err(error);
            }
        };
        let (disk, path) = (&self.disk, &self.path);
        let file = self.fence.guard(path, || {
            file.sync_data()?;
            disk.rename(&tmp, path)?;
            disk.sync_dir(parent_of(path))?;
            disk.open(path, OpenMode::Write)
        })?;
        self.file = FencedFile::new(file, self.fence.clone());
        self.end = end;
        self.synced_end = end;
        self.generation += 1;
        Ok(positions)
    }

    /// Where the next record will be: also the file's length in bytes.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Everything below this is durable.
    pub fn synced_end(&self) -> u64 {
        self.synced_end
    }

    /// Trips after a failed write or sync; then every change answers `StorageError::Fenced` until it is opened anew.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn frame_header(
        &self,
        position: u64,
        synced: u64,
        record: &[u8],
    ) -> Result<EncodedFrameHeader, StorageError> {
        let too_large = || StorageError::TooLarge {
            path: self.path.clone(),
            bytes: record.len(),
            bytes_max: self.format.record_bytes_max as usize,
        };
        let len = u32::try_from(record.len()).map_err(|_| too_large())?;
        if len > self.format.record_bytes_max {
            return Err(too_large());
        }
        Ok(FrameHeader { len, synced, payload_crc: crc32c::crc32c(record) }.encode(position))
    }

    /// Writes frames at the end. A full disk is not a reason to fence: nothing that was there is in doubt, so the part
    /// that was written is taken back and the journal goes on when there is room.
    fn write(&mut self, slices: &[IoSlice<'_>], end: u64) -> Result<(), StorageError> {
        self.fence.check()?;
        // Not through the fenced file: it would fence before we can look at the cause.
        match self.file.unguarded().write_all_at(slices, self.end) {
            Ok(()) => {
                self.end = end;
                Ok(())
            }
            Err(error) => {
                if !error.is_disk_full() || self.file.unguarded().set_len(self.end).is_err() {
                    self.fence.trip(&self.path, &error);
                }
                Err(error)
            }
        }
    }

    /// Writes header and records to a file of their own, not synced.
    fn write_anew<R: AsRef<[u8]>>(
        &self,
        tmp: &Path,
        records: &[R],
    ) -> Result<Written, StorageError> {
        let file = self.disk.open(tmp, OpenMode::Create)?;
        file.set_len(0)?;
        let header = JournalHeader { version: self.format.version, identity: self.format.identity };
        let mut chunk = header.encode(self.format.magic).to_vec();
        let mut written = 0;
        let mut positions = Vec::with_capacity(records.len());
        for record in records {
            let record = record.as_ref();
            let position = written + chunk.len() as u64;
            // The file gets its name only when all of it is durable, so each frame vouches for those before it.
            chunk.extend_from_slice(&self.frame_header(position, position, record)?);
            chunk.extend_from_slice(record);
            positions.push(position);
            if chunk.len() >= REWRITE_CHUNK_BYTES {
                file.write_at(&chunk, written)?;
                written += chunk.len() as u64;
                chunk.clear();
            }
        }
        file.write_at(&chunk, written)?;
        Ok(Written { file, positions, end: written + chunk.len() as u64 })
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
