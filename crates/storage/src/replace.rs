//! Replace a small file as a whole: after a crash it is the old one or the new one, never a mixture.

use std::io::IoSlice;
use std::path::{Path, PathBuf};

use crate::fs::parent_of;
use crate::{Disk, OpenMode, StorageError};

/// Writes `bytes` to `PATH.tmp`, syncs it, renames it over `path` and syncs the directory. On return it is durable.
/// A left-over `PATH.tmp` of an earlier crash is overwritten.
pub fn atomic_replace(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
    let tmp = tmp_path(path);
    let file = disk.open(&tmp, OpenMode::Create)?;
    file.set_len(0)?;
    file.write_all_at(&[IoSlice::new(bytes)], 0)?;
    if !tailway_faults::is_planted("storage.replace_not_synced") {
        file.sync_data()?;
    }
    drop(file);
    disk.rename(&tmp, path)?;
    if tailway_faults::is_planted("storage.replace_name_not_synced") {
        return Ok(());
    }
    disk.sync_dir(parent_of(path))
}

/// `PATH.tmp`, beside the file so that the rename stays within one directory.
pub(crate) fn tmp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
