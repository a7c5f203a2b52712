//! A file system in memory that remembers what is durable.

use std::path::Path;
use std::sync::Arc;

use crate::{DirEntry, Disk, DiskFile, OpenMode, StorageError};

/// Clones share the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemDisk {}

impl MemDisk {
    /// An empty disk without a size limit.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// An empty disk on which writes fail with "no space left" beyond `bytes_max`.
    pub fn with_capacity(_bytes_max: u64) -> MemDisk {
        unimplemented!()
    }

    /// What a power cut at this moment may leave: each un-synced 512-byte sector, length change, creation, rename and
    /// removal survives or not, as the seed says. The result is a disk of its own; this one is unchanged.
    pub fn crash(&self, _seed: u64) -> MemDisk {
        unimplemented!()
    }
}

impl Disk for MemDisk {
    fn open(&self, _path: &Path, _mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError> {
        unimplemented!()
    }
    fn rename(&self, _from: &Path, _to: &Path) -> Result<(), StorageError> {
        unimplemented!()
    }
    fn remove_file(&self, _path: &Path) -> Result<(), StorageError> {
        unimplemented!()
    }
    fn remove_dir(&self, _path: &Path) -> Result<(), StorageError> {
        unimplemented!()
    }
    fn create_dir_all(&self, _path: &Path) -> Result<(), StorageError> {
        unimplemented!()
    }
    fn list(&self, _path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        unimplemented!()
    }
    fn sync_dir(&self, _path: &Path) -> Result<(), StorageError> {
        unimplemented!()
    }
    fn exists(&self, _path: &Path) -> Result<bool, StorageError> {
        unimplemented!()
    }
    fn free_bytes(&self, _path: &Path) -> Result<u64, StorageError> {
        unimplemented!()
    }
}
