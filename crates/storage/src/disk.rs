//! `Disk` and `DiskFile`: the few operations that everything durable is built from.
//!
//! Files are written at explicit offsets, so a handle has no hidden position and can be shared by readers and the one
//! writer. `write_at` is all or error; after an error the bytes at and after the offset are unknown.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use crate::{DirLock, StorageError};

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Read only; the file must exist.
    Read,
    /// Read and write; the file must exist.
    Write,
    /// Read and write; an empty file is made if there is none.
    Create,
    /// Read and write; fails if the file exists.
    CreateNew,
}

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    pub name: String,
    pub is_dir: bool,
}

/// A file system, real or simulated. Paths are used as given.
pub trait Disk: Debug + Send + Sync {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError>;

    /// Renames a file or directory, replacing a file at `to`. Durable after `sync_dir` of `to`'s directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError>;

    fn remove_file(&self, path: &Path) -> Result<(), StorageError>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// Makes a directory and its missing parents, and makes them durable; an existing directory is fine.
    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError>;

    /// The entries of a directory, sorted by name. Names that are not UTF-8 are left out: none of ours is.
    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError>;

    /// Makes creations, renames and removals in this directory durable.
    fn sync_dir(&self, path: &Path) -> Result<(), StorageError>;

    /// Whether a file or directory is there. An unreadable parent is an error, not "no".
    fn exists(&self, path: &Path) -> Result<bool, StorageError>;

    /// Bytes that an unprivileged process can still write to the file system of `path`.
    fn free_bytes(&self, path: &Path) -> Result<u64, StorageError>;

    /// Bytes that the file system of `path` has in all, full or free.
    fn total_bytes(&self, path: &Path) -> Result<u64, StorageError>;

    /// A way to make everything on the file system of `dir` durable at once. `None` where that would not be sure to report
    /// what could not be written: then each file has to be synced by itself.
    fn filesystem(&self, dir: &Path) -> Result<Option<Arc<dyn Filesystem>>, StorageError>;

    /// Locks a directory, which must exist, for one program at a time, or says who holds it. The lock goes when the value
    /// is dropped and when the program ends, however it does.
    fn lock_dir(&self, dir: &Path) -> Result<DirLock, StorageError>;
}

/// A whole file system.
pub trait Filesystem: Debug + Send + Sync {
    /// Makes all contents, lengths and names on it durable (syncfs). An error says that something of anybody's is not, and it
    /// is told once: whoever got it must not take a later success for the durability of what was written before, but sync
    /// each file by itself, which tells again. Not to be called twice at once, for the same reason.
    fn sync(&self) -> Result<(), StorageError>;

    /// Whether what is at `path` lies on this file system.
    fn holds(&self, path: &Path) -> Result<bool, StorageError>;
}

/// An open file.
#[allow(
    clippy::len_without_is_empty,
    reason = "a length on disk, which can fail; not a collection"
)]
pub trait DiskFile: Debug + Send + Sync {
    /// The path it was opened by, for messages.
    fn path(&self) -> &Path;

    fn len(&self) -> Result<u64, StorageError>;

    /// Fills `buf` from `offset`. Returns fewer bytes than asked only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError>;

    /// Writes all slices one after another at `offset`, extending the file if needed.
    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<(), StorageError>;

    /// Cuts or extends (with zeros) the file.
    fn set_len(&self, len: u64) -> Result<(), StorageError>;

    /// Extends the file to `len` bytes, if it is shorter, with room on the disk for all of them.
    fn allocate(&self, len: u64) -> Result<(), StorageError>;

    /// Makes contents and length durable (fdatasync). Not the directory entry: see `Disk::sync_dir`.
    fn sync_data(&self) -> Result<(), StorageError>;

    /// Has what is clean read from the disk again, not from memory.
    fn drop_cached(&self) -> Result<(), StorageError>;

    /// For whoever takes over a file of an earlier process and will count what it reads as durable. A sync alone does not
    /// make it so: after a failed sync Linux shows the bytes, calls them clean and has nothing to write, although the disk
    /// never got them. So sync what is dirty, and read what the disk has.
    fn settle(&self) -> Result<(), StorageError> {
        self.sync_data()?;
        self.drop_cached()
    }

    /// Writes one slice at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StorageError> {
        self.write_all_at(&[IoSlice::new(bytes)], offset)
    }

    /// Fills all of `buf` or fails.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StorageError> {
        if self.read_at(buf, offset)? == buf.len() {
            return Ok(());
        }
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(StorageError::io("read", self.path(), source))
    }
}
