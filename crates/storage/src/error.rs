//! What can go wrong with a disk, each with the file it happened to.
//!
//! `StorageError` is `Clone`, because one failed sync answers every waiter of a commit group.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A failure of the disk, of what is on it, or of how it is used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused `operation`.
    #[error("{operation} {}: {source}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: Arc<io::Error> },
    /// An earlier write or sync failed; what is on the disk is unknown until the file is opened anew.
    #[error("{} is fenced after an earlier failure: {cause}", path.display())]
    Fenced { path: PathBuf, cause: String },
    /// Bytes that had been made durable do not read back.
    #[error("{} is corrupt at offset {offset}: {reason}", path.display())]
    Corrupt { path: PathBuf, offset: u64, reason: String },
    /// The file is of another kind, version or owner than the caller expects.
    #[error("{} is not the expected file: {reason}", path.display())]
    Foreign { path: PathBuf, reason: String },
    /// A record is larger than the journal's bound.
    #[error("record of {bytes} bytes for {} is larger than {bytes_max}", path.display())]
    TooLarge { path: PathBuf, bytes: usize, bytes_max: usize },
    /// Another process (or this one) holds the directory.
    #[error("{} is in use by {holder}; stop it, or use another data directory", path.display())]
    Locked { path: PathBuf, holder: String },
}

impl StorageError {
    /// Wraps an operating system error with what was tried and on which path.
    pub fn io(operation: &'static str, path: &Path, source: io::Error) -> StorageError {
        StorageError::Io { operation, path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// Whether the file or directory does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, StorageError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    /// Whether the disk (or a quota) is full.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, StorageError::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }

    /// Whether this is the refusal that follows an earlier failure, not a failure of its own.
    pub fn is_fenced(&self) -> bool {
        matches!(self, StorageError::Fenced { .. })
    }
}
