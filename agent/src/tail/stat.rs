//! What the kernel says about a file, by path or by descriptor: one `statx` each.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use crate::machine::identity::{FileId, Kind, Stat};

/// Asks about a path, following symbolic links.
pub(super) fn stat_path(path: &Path) -> io::Result<Stat> {
    statx(CWD, path, AtFlags::empty())
}

/// Asks about an open file.
pub(super) fn stat_fd(file: impl AsFd) -> io::Result<Stat> {
    statx(file, Path::new(""), AtFlags::EMPTY_PATH)
}

fn statx(dir: impl AsFd, path: &Path, flags: AtFlags) -> io::Result<Stat> {
    let found = rustix::fs::statx(
        dir,
        path,
        flags | AtFlags::STATX_SYNC_AS_STAT,
        StatxFlags::BASIC_STATS | StatxFlags::BTIME,
    )?;
    let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let birth = found.stx_btime;
    Ok(Stat {
        id: FileId {
            dev: u64::from(found.stx_dev_major) << 32 | u64::from(found.stx_dev_minor),
            ino: found.stx_ino,
            birth_ns: has_birth.then(|| birth.tv_sec * 1_000_000_000 + i64::from(birth.tv_nsec)),
        },
        size: found.stx_size,
        links: u64::from(found.stx_nlink),
        written_ns: found.stx_mtime.tv_sec * 1_000_000_000 + i64::from(found.stx_mtime.tv_nsec),
        kind: match rustix::fs::FileType::from_raw_mode(u32::from(found.stx_mode)) {
            rustix::fs::FileType::RegularFile => Kind::Regular,
            rustix::fs::FileType::Directory => Kind::Directory,
            _ => Kind::Other,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_files_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "four").unwrap();
        let stat = stat_path(&path).unwrap();
        assert_eq!((stat.size, stat.links, stat.kind), (4, 1, Kind::Regular));
        assert_eq!(stat_fd(std::fs::File::open(&path).unwrap()).unwrap(), stat);
        assert_eq!(stat_path(dir.path()).unwrap().kind, Kind::Directory);
        assert_eq!(stat_path(Path::new("/dev/null")).unwrap().kind, Kind::Other);
        std::os::unix::fs::symlink(&path, dir.path().join("link")).unwrap();
        assert_eq!(stat_path(&dir.path().join("link")).unwrap().id, stat.id);
    }
}
