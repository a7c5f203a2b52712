//! The ladder of a disk that fills up: nothing breaks on it, and all goes on by itself once there is room again.
//!
//! A reserve file holds space back that nobody else can take. Below a limit of free space clients' records are refused with
//! the reason; commits, deletions and fetches go on. When that is used up as well, because somebody else writes to the disk or
//! a write found it full before we looked, the reserve file goes and the same few live on what it held. Once there is room
//! for the reserve again it is taken back, and then records.
//! Asking the file system is cheap, but not free: an append asks again after a while or after some bytes, and `look` is
//! called every second, which is also how soon records are taken again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailway_metadata::time::Mono;
use tailway_storage::{Disk, OpenMode, StorageError};

use super::{DiskReport, PartitionError};

/// The file that holds space back.
pub(super) const RESERVE_FILE: &str = "disk.reserve";

/// How often `look` is to be called.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// At most this part of a file system is held back: small disks are for data too.
const RESERVE_PART: u64 = 20;

/// Records are refused when less than this part of the reserve is free besides it.
const LIMIT_PART: u64 = 4;

/// And the reserve goes when less than this part of that limit is free.
const LAST_PART: u64 = 4;

/// Even without a reserve records are refused when this, or a hundredth of the disk, is all that is free.
const LIMIT_MIN: u64 = 1 << 20;

/// Appends ask again after this many bytes, or as many as the limit if that is less.
const FRESH_BYTES: u64 = 16 << 20;

/// An answer of the file system is used for this long.
const FRESH: Duration = Duration::from_secs(1);

pub(super) struct DiskSpace {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Size of the reserve file.
    reserve: u64,
    /// Free bytes that clients' records may not take.
    limit: u64,
    free: AtomicU64,
    asked_at: AtomicU64,
    bytes_since: AtomicU64,
    refusing: AtomicBool,
    /// Whether the reserve file is there. Held while it comes and goes.
    held: Mutex<bool>,
}

impl DiskSpace {
    /// Takes the reserve, `wanted` bytes or less on a small disk, if there is room for it.
    pub(super) fn open(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        wanted: u64,
    ) -> Result<Self, StorageError> {
        // A disk without a limit cannot be full.
        let total = disk.total_bytes(&dir)?;
        let (reserve, limit) = if total == u64::MAX {
            (0, 0)
        } else {
            let reserve = wanted.min(total / RESERVE_PART);
            (reserve, (reserve / LIMIT_PART).max(LIMIT_MIN.min(total / 100)))
        };
        let space = Self {
            disk,
            dir,
            reserve,
            limit,
            free: AtomicU64::new(u64::MAX),
            asked_at: AtomicU64::new(0),
            bytes_since: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            held: Mutex::new(false),
        };
        space.begin()?;
        space.look();
        Ok(space)
    }

    /// One that is there is as large as the configuration says now, or goes.
    fn begin(&self) -> Result<(), StorageError> {
        let path = self.path();
        if !self.disk.exists(&path)? {
            return Ok(());
        }
        let is_right =
            self.reserve > 0 && self.disk.open(&path, OpenMode::Read)?.len()? == self.reserve;
        if is_right {
            *self.lock_held() = true;
            Ok(())
        } else {
            self.disk.remove_file(&path)
        }
    }

    /// Takes note of `bytes` to be appended, or refuses them.
    pub(super) fn take(&self, bytes: u64, now: Mono) -> Result<(), PartitionError> {
        let since = self.bytes_since.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let asked_at = Mono(self.asked_at.load(Ordering::Relaxed));
        if since > self.fresh_bytes() || now.since(asked_at) >= FRESH {
            self.asked_at.store(now.0, Ordering::Relaxed);
            self.bytes_since.store(0, Ordering::Relaxed);
            if self.ask() < self.limit {
                self.refuse();
            }
        }
        if self.refusing.load(Ordering::Acquire) { Err(self.refusal()) } else { Ok(()) }
    }

    fn fresh_bytes(&self) -> u64 {
        if self.limit == 0 { FRESH_BYTES } else { self.limit.min(FRESH_BYTES) }
    }

    /// What refused records are answered with.
    pub(super) fn refusal(&self) -> PartitionError {
        PartitionError::DiskFull { free: self.free.load(Ordering::Relaxed), reserve: self.limit }
    }

    /// Goes up or down the ladder. Blocks.
    pub(super) fn look(&self) {
        let free = self.ask();
        let mut held = self.lock_held();
        let missing = if *held { 0 } else { self.reserve };
        if free < self.limit {
            self.refuse();
            if *held && free < self.limit / LAST_PART {
                self.release(&mut held);
            }
            return;
        }
        if missing > 0 && free - self.limit >= missing {
            match self.hold() {
                Ok(()) => *held = true,
                Err(error) => {
                    tracing::debug!(%error, "the reserve cannot be taken back yet");
                }
            }
        }
        // Without the reserve there is nothing to fall back on.
        let is_well = *held || self.reserve == 0;
        if is_well && self.refusing.swap(false, Ordering::AcqRel) {
            tracing::info!(data_dir = %self.dir.display(), free, "there is room on the disk again: records are taken");
        } else if !is_well {
            self.refuse();
        }
    }

    /// A write found the disk full: gives the reserve up. True if there is more room now than there was.
    pub(super) fn make_room(&self) -> bool {
        self.refuse();
        let mut held = self.lock_held();
        let had = *held;
        if had {
            self.release(&mut held);
        }
        self.ask();
        had && !*held
    }

    /// For `/status`.
    pub(super) fn report(&self) -> DiskReport {
        DiskReport {
            free_bytes: self.free.load(Ordering::Relaxed),
            limit_bytes: self.limit,
            reserve_bytes: if *self.lock_held() { self.reserve } else { 0 },
            refusing: self.refusing.load(Ordering::Acquire),
        }
    }

    fn ask(&self) -> u64 {
        // A file system that does not say is taken to have room: the write itself will tell.
        let free = self.disk.free_bytes(&self.dir).unwrap_or(u64::MAX);
        self.free.store(free, Ordering::Relaxed);
        free
    }

    fn refuse(&self) {
        if !self.refusing.swap(true, Ordering::AcqRel) {
            let (free, limit) = (self.free.load(Ordering::Relaxed), self.limit);
            tracing::error!(data_dir = %self.dir.display(), free, limit, "the disk is nearly full: clients' records are refused until there is room; free space, or lower retention.bytes or retention.ms");
        }
    }

    fn release(&self, held: &mut bool) {
        match self.disk.remove_file(&self.path()) {
            Ok(()) => {
                *held = false;
                tracing::warn!(data_dir = %self.dir.display(), bytes = self.reserve, "the disk is full: commits and deletions go on in the space of the reserve file");
            }
            Err(error) => {
                tracing::error!(%error, "the reserve file cannot be removed");
            }
        }
    }

    fn hold(&self) -> Result<(), StorageError> {
        let path = self.path();
        let file = self.disk.open(&path, OpenMode::Create)?;
        let held = file.allocate(self.reserve);
        drop(file);
        held.inspect_err(|_| {
            // Half a reserve is none. If it stays, the next attempt finds it.
            self.disk.remove_file(&path).ok();
        })
    }

    fn path(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    fn lock_held(&self) -> std::sync::MutexGuard<'_, bool> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tailway_storage::{DiskFile, SimDisk};

    use super::*;

    const MIB: u64 = 1 << 20;

    fn full(free: u64, reserve: u64) -> Result<(), PartitionError> {
        Err(PartitionError::DiskFull { free, reserve })
    }

    fn others(disk: &SimDisk) -> Arc<dyn DiskFile> {
        disk.open(Path::new("/others"), OpenMode::Create).unwrap()
    }

    fn opened(disk: &SimDisk, wanted: u64) -> DiskSpace {
        DiskSpace::open(Arc::new(disk.clone()), PathBuf::from("/"), wanted).unwrap()
    }

    #[test]
    fn the_reserve_is_a_twentieth_of_the_disk_at_the_most() {
        for (capacity, wanted, reserve, limit) in [
            (100 * MIB, 4 * MIB, 4 * MIB, MIB),
            (20 * MIB, 4 * MIB, MIB, MIB / 4),
            (100 * MIB, 0, 0, MIB),
            (10 * MIB, 0, 0, MIB / 10),
        ] {
            let disk = SimDisk::with_capacity(capacity);
            let space = opened(&disk, wanted);
            let report = DiskReport {
                free_bytes: capacity,
                limit_bytes: limit,
                reserve_bytes: reserve,
                refusing: false,
            };
            assert_eq!(space.report(), report);
            assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), capacity - reserve);
        }
        assert_eq!(opened(&SimDisk::new(), 4 * MIB).report().reserve_bytes, 0, "no limit, no need");
    }

    #[test]
    fn records_are_refused_below_the_limit_and_taken_when_there_is_room() {
        let disk = SimDisk::with_capacity(100 * MIB);
        let space = opened(&disk, 4 * MIB);
        let at = Mono::from_millis;
        assert_eq!(space.take(10, at(0)), Ok(()));
        let file = others(&disk);
        file.set_len(95 * MIB + 1).unwrap();
        assert_eq!(space.take(10, at(999)), Ok(()), "the answer is fresh");
        assert_eq!(space.take(10, at(1_000)), full(MIB - 1, MIB));
        file.set_len(0).unwrap();
        assert_eq!(space.take(10, at(2_000)), full(96 * MIB, MIB), "only a look takes it back");
        space.look();
        assert_eq!(space.take(10, at(2_001)), Ok(()));
        file.set_len(95 * MIB + 1).unwrap();
        assert_eq!(space.take(MIB + 1, at(2_002)), full(MIB - 1, MIB), "many bytes ask at once");
        space.look();
        assert_eq!(space.report().reserve_bytes, 4 * MIB, "what is free is enough for commits");
    }

    #[test]
    fn the_reserve_goes_when_all_is_full_and_comes_back_first() {
        let disk = SimDisk::with_capacity(100 * MIB);
        let space = opened(&disk, 4 * MIB);
        let file = others(&disk);
        file.set_len(96 * MIB).unwrap();
        space.look();
        let report = |free_bytes, reserve_bytes, refusing| DiskReport {
            free_bytes,
            limit_bytes: MIB,
            reserve_bytes,
            refusing,
        };
        assert_eq!(space.report(), report(0, 0, true));
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), 4 * MIB);
        assert!(!space.make_room(), "there is no more to give");
        space.look();
        assert!(space.report().refusing, "what is free now is the reserve's");
        file.set_len(95 * MIB + 1).unwrap();
        space.look();
        assert_eq!(space.report(), report(5 * MIB - 1, 0, true));
        file.set_len(95 * MIB).unwrap();
        space.look();
        assert_eq!(space.report(), report(5 * MIB, 4 * MIB, false));
        file.set_len(96 * MIB).unwrap();
        assert!(space.make_room(), "a write that found the disk full");
        assert_eq!(space.report(), report(4 * MIB, 0, true));
    }

    #[test]
    fn a_restart_finds_the_reserve_or_does_without() {
        let disk = SimDisk::with_capacity(100 * MIB);
        drop(opened(&disk, 4 * MIB));
        others(&disk).set_len(95 * MIB).unwrap();
        assert_eq!(opened(&disk, 4 * MIB).report().reserve_bytes, 4 * MIB);
        let smaller = opened(&disk, 2 * MIB).report();
        assert_eq!((smaller.reserve_bytes, smaller.refusing), (2 * MIB, false));
        others(&disk).set_len(98 * MIB - 1).unwrap();
        disk.remove_file(&Path::new("/").join(RESERVE_FILE)).unwrap();
        let without = opened(&disk, 2 * MIB).report();
        assert_eq!((without.reserve_bytes, without.refusing), (0, true));
    }
}
