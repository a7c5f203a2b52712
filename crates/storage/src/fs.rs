//! The real file system.
//!
//! Files are made 0600 and directories 0700: what Tailway keeps is its user's own. The fault points here are what a test
//! build fails or crashes at; they compile to nothing without the `faults` feature.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::Errno;

use crate::filesystem::FsFilesystem;
use crate::{DirEntry, DirLock, Disk, DiskFile, Filesystem, OpenMode, StorageError};

/// Slices handed to one pwritev call at most (IOV_MAX is 1024).
const SLICES_PER_WRITE_MAX: usize = 1024;

/// The operating system's files.
#[derive(Debug, Clone, Copy, Default)]
pub struct FsDisk;

impl FsDisk {
    /// As the handle that everything takes.
    pub fn shared() -> Arc<dyn Disk> {
        Arc::new(FsDisk)
    }
}

impl Disk for FsDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> Result<Arc<dyn DiskFile>, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).mode(0o600);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
        }
        let file = tailway_faults::check("storage.open")
            .and_then(|()| options.open(path))
            .map_err(|error| StorageError::io("open", path, error))?;
        Ok(Arc::new(FsFile { file, path: path.to_path_buf() }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        tailway_faults::check("storage.rename")
            .and_then(|()| fs::rename(from, to))
            .inspect(|()| tailway_faults::crash("storage.rename.after"))
            .map_err(|error| StorageError::io("rename", from, error))
    }

    fn remove_file(&self, path: &Path) -> Result<(), StorageError> {
        tailway_faults::check("storage.remove")
            .and_then(|()| fs::remove_file(path))
            .inspect(|()| tailway_faults::crash("storage.remove.after"))
            .map_err(|error| StorageError::io("remove", path, error))
    }

    fn remove_dir(&self, path: &Path) -> Result<(), StorageError> {
        fs::remove_dir(path).map_err(|error| StorageError::io("remove directory", path, error))
    }

    fn create_dir_all(&self, path: &Path) -> Result<(), StorageError> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|part| !part.as_os_str().is_empty() && !part.exists())
            .collect();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|error| StorageError::io("create directory", path, error))?;
        for made in missing.into_iter().rev() {
            self.sync_dir(parent_of(made))?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<DirEntry>, StorageError> {
        let failed = |error| StorageError::io("list", path, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_dir = entry.file_type().map_err(failed)?.is_dir();
            if let Ok(name) = entry.file_name().into_string() {
                entries.push(DirEntry { name, is_dir });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn sync_dir(&self, path: &Path) -> Result<(), StorageError> {
        tailway_faults::check("storage.sync_dir")
            .and_then(|()| File::open(path))
            .and_then(|dir| dir.sync_all())
            .inspect(|()| tailway_faults::crash("storage.sync_dir.after"))
            .map_err(|error| StorageError::io("sync directory", path, error))
    }

    fn exists(&self, path: &Path) -> Result<bool, StorageError> {
        fs::exists(path).map_err(|error| StorageError::io("look for", path, error))
    }

    fn free_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|error| StorageError::io("statvfs", path, error.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn total_bytes(&self, path: &Path) -> Result<u64, StorageError> {
        let stat = rustix::fs::statvfs(path)
            .map_err(|error| StorageError::io("statvfs", path, error.into()))?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    fn filesystem(&self, dir: &Path) -> Result<Option<Arc<dyn Filesystem>>, StorageError> {
        let filesystem = FsFilesystem::open(dir)?;
        Ok(filesystem.map(|filesystem| Arc::new(filesystem) as Arc<dyn Filesystem>))
    }

    fn lock_dir(&self, dir: &Path) -> Result<DirLock, StorageError> {
        DirLock::flock(dir)
    }
}

/// The directory that holds `path`'s entry; a bare name lies in the current one.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[derive(Debug)]
struct FsFile {
    file: File,
    path: PathBuf,
}

impl DiskFile for FsFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> Result<u64, StorageError> {
        let metadata =
            self.file.metadata().map_err(|error| StorageError::io("stat", &self.path, error))?;
        Ok(metadata.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StorageError> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }

    fn write_all_at(&self, slices: &[IoSlice<'_>], offset: u64) -> Result<(), StorageError> {
        tailway_faults::check("storage.write")
            .and_then(|()| write_all_at(&self.file, slices, offset))
            .inspect(|()| tailway_faults::crash("storage.write.after"))
            .map_err(|error| StorageError::io("write", &self.path, error))
    }

    fn set_len(&self, len: u64) -> Result<(), StorageError> {
        tailway_faults::check("storage.set_len")
            .and_then(|()| self.file.set_len(len))
            .inspect(|()| tailway_faults::crash("storage.set_len.after"))
            .map_err(|error| StorageError::io("set length of", &self.path, error))
    }

    fn allocate(&self, len: u64) -> Result<(), StorageError> {
        let failed = |error: io::Error| StorageError::io("allocate", &self.path, error);
        let now = self.file.metadata().map_err(failed)?.len();
        if now >= len {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // The file system has no such call: what is written takes room as well.
            Err(Errno::OPNOTSUPP) => fill(&self.file, now, len).map_err(failed),
            Err(error) => Err(failed(error.into())),
        }
    }

    fn sync_data(&self) -> Result<(), StorageError> {
        tailway_faults::check("storage.sync_data")
            .and_then(|()| self.file.sync_data())
            .inspect(|()| tailway_faults::crash("storage.sync_data.after"))
            .map_err(|error| StorageError::io("fdatasync", &self.path, error))
    }

    fn drop_cached(&self) -> Result<(), StorageError> {
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)
            .map_err(|error| StorageError::io("fadvise", &self.path, error.into()))
    }
}

/// Writes zeros from `from` to `to`.
fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let zeros = vec![0; usize::try_from(PIECE).unwrap_or_default()];
    let mut at = from;
    while at < to {
        let piece = usize::try_from((to - at).min(PIECE)).unwrap_or_default();
        file.write_all_at(&zeros[..piece], at)?;
        at += piece as u64;
    }
    Ok(())
}

/// pwritev until everything is written: the kernel may take less than it was given.
fn write_all_at(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
    let mut owned: Vec<IoSlice<'_>> = slices.to_vec();
    let mut rest: &mut [IoSlice<'_>] = &mut owned;
    let mut offset = offset;
    // Empty slices in front would make pwritev write 0 bytes, which reads as "no progress".
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(SLICES_PER_WRITE_MAX)];
        match rustix::io::pwritev(file, batch, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
