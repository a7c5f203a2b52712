//! Sticky refusal after a failed write or sync.
//!
//! A failed fsync may drop the dirty pages and the next fsync may say "fine" with the data gone, so nothing is retried:
//! the first failure trips the fence and every later write, length change or sync behind it is refused with the cause.
//! Invariant: a tripped fence never opens again; recovery means opening the files anew, with a new fence.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::{DiskFile, StorageError};

/// Shared by everything that is fenced together (one file, or all files of a commit group).
#[derive(Debug, Clone, Default)]
pub struct Fence {
    cause: Arc<OnceLock<(PathBuf, String)>>,
}

impl Fence {
    pub fn new() -> Fence {
        Fence::default()
    }

    /// Refuses if an earlier operation failed.
    pub fn check(&self) -> Result<(), StorageError> {
        match self.cause.get() {
            None => Ok(()),
            Some((path, cause)) => {
                Err(StorageError::Fenced { path: path.clone(), cause: cause.clone() })
            }
        }
    }

    /// Refuses everything from now on. The first cause is kept.
    pub fn trip(&self, path: &Path, error: &StorageError) {
        // A second failure adds nothing: the first is the cause.
        self.cause.get_or_init(|| (path.to_path_buf(), error.to_string()));
    }

    /// Runs a write, length change or sync: refused if fenced, and its failure fences.
    pub fn guard<T>(
        &self,
        path: &Path,
        operation: impl FnOnce() -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.check()?;
        operation().inspect_err(|error| self.trip(path, error))
    }

    /// Why it is fenced, if it is.
    pub fn cause(&self) -> Option<&str> {
        self.cause.get().map(|(_, cause)| cause.as_str())
    }
}

/// A file behind a fence: reads go through, everything that changes the disk is guarded.
#[derive(Debug, Clone)]
pub struct FencedFile {
    file: Arc<dyn DiskFile>,
    fence: Fence,
}

impl FencedFile {
    pub fn new(file: Arc<dyn DiskFile>, fence: Fence) -> FencedFile {
        FencedFile { file, fence }
    }

    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The file itself, for the rare change whose failure is judged by the caller.
    pub(crate) fn unguarded(&self) -> &dyn DiskFile {
        self.file.as_ref()
    }
}

impl DiskFile for FencedFile {
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
        self.fence.guard(self.path(), || self.file.write_all_at(slices, offset))
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        self.fence.guard(self.path(), || self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        self.fence.guard(self.path(), || self.file.allocate(len))
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        self.fence.guard(self.path(), || self.file.sync_data())
    }

    fn drop_cached(&self) -> Result<(), StorageError> {
        self.file.drop_cached()
    }
}
