//! A disk that fails on order, over any other disk.
//!
//! Faults are armed by operation and count, so that a test can fail "the third sync" or "everything from operation 17
//! on" (a power cut, together with `MemDisk::crash`). Reads are never failed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{DirEntry, Disk, DiskFile, OpenMode, StorageError};

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// An open that may create a file.
    Create,
    Write,
    SetLen,
    SyncData,
    Rename,
    Remove,
    SyncDir,
}

/// Clones share the same faults and counters.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    disk: Arc<dyn Disk>,
    faults: Arc<Mutex<Faults>>,
}

#[derive(Debug, Default)]
struct Faults {
    counts: BTreeMap<Operation, u64>,
    total: u64,
    armed: Vec<Armed>,
    power_off_at: Option<u64>,
}

#[derive(Debug)]
struct Armed {
    operation: Operation,
    /// 1 is the next one.
    countdown: u64,
    error: io::ErrorKind,
}

impl FaultyDisk {
    pub fn new(disk: Arc<dyn Disk>) -> FaultyDisk {
        FaultyDisk { disk, faults: Arc::default() }
    }

    /// Fails the `nth` such operation from now (1 = the next), once. Half of a failed write is written.
    pub fn fail(&self, operation: Operation, nth: u64, error: io::ErrorKind) {
        self.lock().armed.push(Armed { operation, countdown: nth, error });
    }

    /// Lets `count` more operations through and fails every one after them, as if the power were cut.
    pub fn power_off_after(&self, count: u64) {
        let mut faults = self.lock();
        faults.power_off_at = Some(faults.total + count);
    }

    /// How many operations of this kind were tried.
    pub fn count(&self, operation: Operation) -> u64 {
        self.lock().counts.get(&operation).copied().unwrap_or(0)
    }

    /// How many operations that change the disk were tried.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Faults> {
        // A panicking test thread leaves plain counters behind, which are still right.
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the operation and says with what it fails, if it does.
    fn strike(&self, operation: Operation) -> Option<io::Error> {
        let mut faults = self.lock();
        *faults.counts.entry(operation).or_default() += 1;
        faults.total += 1;
        if faults.power_off_at.is_some_and(|at| faults.total > at) {
            return Some(io::Error::other("the power is off"));
        }
        let mut struck = None;
        faults.armed.retain_mut(|armed| {
            if armed.operation != operation {
                return true;
            }
            armed.countdown = armed.countdown.saturating_sub(1);
            if armed.countdown == 0 {
                struck = Some(armed.error);
            }
            armed.countdown > 0
        });
        struck.map(io::Error::from)
    }

    fn run<T>(
        &self,
        operation: Operation,
        name: &'static str,
        path: &Path,
        perform: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        match self.strike(operation) {
            Some(error) => Err(StorageError::io(name, path, error)),
            None => perform(),
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError> {
        let open = || self.disk.open(path, mode);
        let file = match mode {
            OpenMode::Create | OpenMode::CreateNew => {
                self.run(Operation::Create, "open", path, open)?
            }
            OpenMode::Read | OpenMode::Write => open()?,
        };
        Ok(Arc::new(FaultyFile { file, disk: self.clone() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        self.run(Operation::Rename, "rename", from, || self.disk.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        self.run(Operation::Remove, "remove", path, || self.disk.remove_file(path))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.run(Operation::Remove, "remove directory", path, || self.disk.remove_dir(path))
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        self.run(Operation::Create, "create directory", path, || self.disk.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        self.run(Operation::SyncDir, "sync directory", path, || self.disk.sync_dir(path))
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        self.disk.exists(path)
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        self.disk.free_bytes(path)
    }
}

#[derive(Debug)]
struct FaultyFile {
    file: Arc<dyn DiskFile>,
    disk: FaultyDisk,
}

impl DiskFile for FaultyFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> Result<u64, StorageError> {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        self.file.read_at(buf, offset)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        let Some(error) = self.disk.strike(Operation::Write) else {
            return self.file.write_all_at(slices, offset);
        };
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
        Err(StorageError::io("write", self.path(), error))
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.disk.run(Operation::SetLen, "set length of", self.path(), || self.file.set_len(len))
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.disk.run(Operation::SyncData, "fdatasync", self.path(), || self.file.sync_data())
    }
}
