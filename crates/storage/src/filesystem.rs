//! syncfs on the file systems where its errors can be relied on.
//!
//! Linux reports through syncfs what could not be written back since 5.8, once per open descriptor: so one descriptor is
//! held from before the first write. Behind overlay and network file systems the error may stay where the bytes are; there
//! everything is synced file by file.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::{Filesystem, StorageError};

/// The first kernel whose syncfs reports write-back errors (major, minor).
const REPORTS_SINCE: (u32, u32) = (5, 8);

/// ext4, XFS and tmpfs (`linux/magic.h`): they write back what is theirs, with the errors on their own superblock.
const RELIABLE: [u64; 3] = [0xef53, 0x5846_5342, 0x0102_1994];

/// The operating system's file system.
#[derive(Debug)]
pub(crate) struct FsFilesystem {
    dir: File,
    path: PathBuf,
    device: u64,
}

impl FsFilesystem {
    /// `None` if its errors are not to be relied on.
    pub(crate) fn open(path: &Path) -> Result<Option<FsFilesystem>, StorageError> {
        let system = rustix::system::uname();
        if !reports_errors(&system.release().to_string_lossy()) {
            return Ok(None);
        }
        let failed = |error| StorageError::io("open", path, error);
        let dir = File::open(path).map_err(failed)?;
        let stat = rustix::fs::fstatfs(&dir)
            .map_err(|error| StorageError::io("statfs", path, error.into()))?;
        let device = dir.metadata().map_err(failed)?.dev();
        let is_reliable = u64::try_from(stat.f_type).is_ok_and(|kind| RELIABLE.contains(&kind));
        Ok(is_reliable.then(|| FsFilesystem { dir, path: path.to_path_buf(), device }))
    }
}

impl Filesystem for FsFilesystem {
    fn sync(&self) -> Result<(), StorageError> {
        tailway_faults::check("storage.sync_filesystem")
            .and_then(|()| rustix::fs::syncfs(&self.dir).map_err(Into::into))
            .inspect(|()| tailway_faults::crash("storage.sync_filesystem.after"))
            .map_err(|error| StorageError::io("syncfs", &self.path, error))
    }

    fn holds(&self, path: &Path) -> Result<bool, StorageError> {
        let metadata =
            std::fs::metadata(path).map_err(|error| StorageError::io("stat", path, error))?;
        Ok(metadata.dev() == self.device)
    }
}

/// `release` as uname gives it: `6.1.0-18-amd64`.
fn reports_errors(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= REPORTS_SINCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_keep_errors_to_themselves_are_known() {
        let table = [
            ("5.7.19", false),
            ("5.8.0", true),
            ("5.10.0-28-amd64", true),
            ("6.1.0-18-amd64", true),
            ("10.0", true),
            ("4.19.0-26", false),
            ("3.10.0-1160.el7.x86_64", false),
            ("5", false),
            ("", false),
            ("next", false),
        ];
        for (release, reports) in table {
            assert_eq!(reports_errors(release), reports, "{release}");
        }
    }

    #[test]
    fn a_file_system_knows_what_lies_on_it() {
        let dir = tempfile::tempdir().unwrap();
        if let Some(filesystem) = FsFilesystem::open(dir.path()).unwrap() {
            assert!(filesystem.holds(dir.path()).unwrap());
            assert!(!filesystem.holds(Path::new("/proc")).unwrap());
            assert!(filesystem.holds(&dir.path().join("gone")).unwrap_err().is_not_found());
        }
        // Nobody knows what /proc could report.
        assert!(FsFilesystem::open(Path::new("/proc")).unwrap().is_none());
    }
}
