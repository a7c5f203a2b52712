//! One process per data directory.
//!
//! On the real file system the lock is flock(2) on `.lock` in the directory: it goes with the process however it dies, and
//! the file left behind means nothing. The pid inside is only there to name the holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::StorageError;
use crate::sim::SimLock;

/// The file that is locked, in the directory.
pub(crate) const LOCK_FILE: &str = ".lock";

/// Held as long as this value lives: see `Disk::lock_dir`.
#[derive(Debug)]
pub struct DirLock {
    path: PathBuf,
    _held: Held,
}

/// What ends the lock when it is dropped.
#[derive(Debug)]
enum Held {
    Flock { _file: File },
    Simulated { _lock: SimLock },
}

impl DirLock {
    /// Locks a directory of the real file system.
    pub(crate) fn flock(dir: &Path) -> Result<DirLock, StorageError> {
        let path = dir.join(LOCK_FILE);
        let failed = |operation| {
            let path = path.clone();
            move |error| StorageError::io(operation, &path, error)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StorageError::Locked {
                    path: dir.to_path_buf(),
                    holder: holder_of(&mut file),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        file.set_len(0).map_err(failed("write"))?;
        file.seek(SeekFrom::Start(0)).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(DirLock { path, _held: Held::Flock { _file: file } })
    }

    pub(crate) fn simulated(path: &Path, lock: SimLock) -> DirLock {
        DirLock { path: path.to_path_buf(), _held: Held::Simulated { _lock: lock } }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The process named in a lock file that somebody holds.
fn holder_of(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) if pid == std::process::id() => format!("this process (pid {pid})"),
        (Ok(_), Ok(pid)) => format!("pid {pid}"),
        // The holder has the lock but has not written its pid yet.
        _ => "another process that is just starting".to_owned(),
    }
}
