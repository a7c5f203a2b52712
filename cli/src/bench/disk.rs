//! The disk's own speed: what no program on it can beat.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::latencies::{Latencies, Percentiles};

/// Appended before each sync.
const BLOCK: [u8; 4096] = [7; 4096];

/// How long each kind of sync is repeated.
const SECONDS: Duration = Duration::from_secs(2);

/// Of one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct DiskSpeed {
    /// 4 KiB appended to one file, then fdatasync.
    pub(super) fdatasync: Percentiles,
    /// The same, then syncfs: everything that others have written to this file system counts too.
    pub(super) syncfs: Percentiles,
}

/// Measures in `dir`, with a file that is removed again. Blocks.
#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
pub(super) fn measure(dir: &Path) -> Result<DiskSpeed> {
    let path = dir.join("disk-speed");
    let failed = || format!("cannot write {}", path.display());
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .with_context(failed)?;
    let mut at = 0;
    let mut repeat = |sync: &dyn Fn(&File) -> std::io::Result<()>| -> std::io::Result<Latencies> {
        let (mut latencies, began) = (Latencies::default(), Instant::now());
        while began.elapsed() < SECONDS {
            let one = Instant::now();
            file.write_all_at(&BLOCK, at)?;
            sync(&file)?;
            latencies.add(one.elapsed());
            at += BLOCK.len() as u64;
        }
        Ok(latencies)
    };
    let fdatasync = repeat(&File::sync_data).with_context(failed)?.percentiles();
    let syncfs = repeat(&|file| rustix::fs::syncfs(file).map_err(Into::into));
    let syncfs = syncfs.with_context(failed)?.percentiles();
    drop(file);
    std::fs::remove_file(&path).with_context(failed)?;
    Ok(DiskSpeed { fdatasync, syncfs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_measured_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let speed = measure(dir.path()).unwrap();
        assert!(speed.fdatasync.samples > 0 && speed.syncfs.samples > 0, "{speed:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(measure(&dir.path().join("gone")).unwrap_err().to_string().contains("disk-speed"));
    }
}
