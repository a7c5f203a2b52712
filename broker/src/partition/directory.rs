//! Partition directories come and go by rename, so that a crash never leaves half of one under its own name.

use std::path::{Path, PathBuf};

use tailway_storage::{Disk, StorageError};

const DELETE: &str = "-delete";
const STRAY: &str = "-stray";

/// Kafka's limit for the name of a directory.
const NAME_BYTES_MAX: usize = 255;

/// Renames `dir` out of the way, for good. Returns where it is now.
pub(super) fn put_aside(disk: &dyn Disk, dir: &Path) -> Result<PathBuf, StorageError> {
    rename(disk, dir, STRAY)
}

/// Deletes `dir` and what is in it. One that is not there is fine.
pub(super) fn delete(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    if !disk.exists(dir)? {
        return Ok(());
    }
    let doomed = rename(disk, dir, DELETE)?;
    remove(disk, &doomed)
}

/// Finishes deletions that a crash interrupted.
pub(super) fn purge_deleted(disk: &dyn Disk, data_dir: &Path) -> Result<(), StorageError> {
    for entry in disk.list(data_dir)? {
        let is_doomed = entry.name.ends_with(DELETE) && entry.name.contains('.')
            || tailway_faults::is_planted("broker.unmentioned_deleted");
        if entry.is_dir && is_doomed {
            remove(disk, &data_dir.join(&entry.name))?;
        }
    }
    Ok(())
}

fn remove(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    for entry in disk.list(dir)? {
        disk.remove_file(&dir.join(&entry.name))?;
    }
    disk.remove_dir(dir)?;
    sync_parent(disk, dir)
}

/// `<name>.<unique><suffix>`, the name cut where Kafka cuts it.
fn rename(disk: &dyn Disk, dir: &Path, suffix: &str) -> Result<PathBuf, StorageError> {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let unique = tailway_runtime::uuid().simple().to_string();
    let room = NAME_BYTES_MAX - unique.len() - suffix.len() - 1;
    let name = &name[..name.len().min(room)];
    let to = dir.with_file_name(format!("{name}.{unique}{suffix}"));
    disk.rename(dir, &to)?;
    sync_parent(disk, dir)?;
    Ok(to)
}

fn sync_parent(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    disk.sync_dir(dir.parent().unwrap_or(Path::new(".")))
}
