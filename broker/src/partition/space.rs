//! Refuses clients' records before the disk is full, so that nothing breaks when it is and all goes on by itself when it
//! no longer is.
//!
//! Commits, deletions and fetches still work in the reserve. Asking the file system is cheap, but not free: it is asked again
//! after a while or after some bytes, whichever comes first.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tailway_metadata::time::Mono;
use tailway_storage::Disk;

use super::PartitionError;

/// Free bytes that clients' records may not take.
const RESERVE: u64 = 64 * 1024 * 1024;

/// An answer of the file system is used for this long.
const FRESH: Duration = Duration::from_secs(1);

/// And for this many bytes appended.
const FRESH_BYTES: u64 = 16 * 1024 * 1024;

pub(super) struct DiskSpace {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    free: AtomicU64,
    asked_at: AtomicU64,
    bytes_since: AtomicU64,
}

impl DiskSpace {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> Self {
        let (free, asked_at) = (AtomicU64::new(0), AtomicU64::new(0));
        // The first append asks.
        Self { disk, dir, free, asked_at, bytes_since: AtomicU64::new(FRESH_BYTES) }
    }

    /// Takes note of `bytes` to be appended, or refuses them.
    pub(super) fn take(&self, bytes: u64, now: Mono) -> Result<(), PartitionError> {
        let since = self.bytes_since.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let asked_at = Mono(self.asked_at.load(Ordering::Relaxed));
        if since > FRESH_BYTES || now.since(asked_at) >= FRESH {
            self.asked_at.store(now.0, Ordering::Relaxed);
            self.bytes_since.store(0, Ordering::Relaxed);
            // A file system that does not say is taken to have room: the write itself will tell.
            let free = self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX);
            self.free.store(free, Ordering::Relaxed);
        }
        let free = self.free.load(Ordering::Relaxed);
        if free >= RESERVE {
            Ok(())
        } else {
            Err(PartitionError::DiskFull { free, reserve: RESERVE })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tailway_storage::{OpenMode, SimDisk};

    use super::*;

    #[test]
    fn refuses_below_the_reserve_and_goes_on_by_itself() {
        let disk = SimDisk::with_capacity(RESERVE + 1_000);
        let space = DiskSpace::new(Arc::new(disk.clone()), PathBuf::from("/"));
        let at = Mono::from_millis;
        assert_eq!(space.take(10, at(0)), Ok(()));
        let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
        file.set_len(1_001).unwrap();
        assert_eq!(space.take(10, at(999)), Ok(()), "the answer is fresh");
        let full = PartitionError::DiskFull { free: RESERVE - 1, reserve: RESERVE };
        assert_eq!(space.take(10, at(1_000)), Err(full.clone()));
        file.set_len(0).unwrap();
        assert_eq!(space.take(10, at(1_999)), Err(full));
        assert_eq!(space.take(10, at(2_000)), Ok(()));
        file.set_len(1_001).unwrap();
        assert!(space.take(FRESH_BYTES + 1, at(2_001)).is_err(), "many bytes ask again at once");
    }
}
