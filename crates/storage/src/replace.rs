//! Replace a small file as a whole: after a crash it is the old one or the new one, never a mixture. And read one.

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

/// All of a small file; `None` if there is none. One of more than `bytes_max` bytes is not read but `Foreign`.
pub fn read_small(
    disk: &dyn Disk,
    path: &Path,
    bytes_max: u64,
) -> Result<Option<Vec<u8>>, StorageError> {
    let file = match disk.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    let Some(size) = usize::try_from(len).ok().filter(|_| len <= bytes_max) else {
        let reason = format!("it has {len} bytes");
        return Err(StorageError::Foreign { path: path.to_path_buf(), reason });
    };
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(Some(bytes))
}

/// `PATH.tmp`, beside the file so that the rename stays within one directory.
pub(crate) fn tmp_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SimDisk;

    #[test]
    fn a_small_file_is_read_whole_or_refused_by_its_length() {
        let disk = SimDisk::new();
        let path = Path::new("/small");
        assert_eq!(read_small(&disk, path, 3).unwrap(), None);
        atomic_replace(&disk, path, b"abc").unwrap();
        assert_eq!(read_small(&disk, path, 3).unwrap().as_deref(), Some(&b"abc"[..]));
        let refused = read_small(&disk, path, 2).unwrap_err().to_string();
        assert_eq!(refused, "/small is not the expected file: it has 3 bytes");
    }
}
