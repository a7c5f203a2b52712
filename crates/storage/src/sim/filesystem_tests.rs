//! syncfs on the simulated disk: all or an error, told once.

use std::io;
use std::path::Path;

use super::*;
use crate::{Disk, Filesystem, OpenMode};

const DIRS: [&str; 3] = ["/a", "/b", "/b/c"];

/// A directory each with a file, nothing synced but the directories' own names.
fn dirty(seed: u64) -> (SimDisk, Arc<dyn Filesystem>) {
    let disk = SimDisk::with_seed(seed);
    let filesystem = disk.filesystem(Path::new("/")).unwrap().unwrap();
    for dir in DIRS {
        disk.create_dir_all(Path::new(dir)).unwrap();
        let file = disk.open(&Path::new(dir).join("f"), OpenMode::Create).unwrap();
        file.write_at(dir.repeat(400).as_bytes(), 0).unwrap();
    }
    (disk, filesystem)
}

fn durable(disk: &SimDisk, dir: &str) -> Option<Vec<u8>> {
    disk.durable_image(&Path::new(dir).join("f"))
}

#[test]
fn everything_is_durable_after_it() {
    for seed in 0..20 {
        let (disk, filesystem) = dirty(seed);
        assert!(DIRS.iter().all(|dir| durable(&disk, dir).is_none_or(|bytes| bytes.is_empty())));
        filesystem.sync().unwrap();
        assert_eq!(disk.count(Operation::SyncFilesystem), 1);
        let after = disk.crash(seed);
        for dir in DIRS {
            assert_eq!(durable(&after, dir), Some(dir.repeat(400).into_bytes()), "{seed} {dir}");
        }
        assert!(filesystem.sync().is_err(), "its program has ended");
    }
}

#[test]
fn an_error_is_told_once_and_then_only_by_the_files_that_lost_something() {
    let mut lost = [0, 0];
    for seed in 0..50 {
        let (disk, filesystem) = dirty(seed);
        for dir in DIRS {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        disk.fail(Operation::SyncFilesystem, 1, io::ErrorKind::Other);
        assert!(filesystem.sync().is_err());
        filesystem.sync().expect("as Linux does: it was told");
        for dir in DIRS {
            let file = disk.open(&Path::new(dir).join("f"), OpenMode::Write).unwrap();
            let told = file.sync_data().is_err();
            file.sync_data().expect("it was told as well");
            let whole = durable(&disk, dir) == Some(dir.repeat(400).into_bytes());
            assert!(whole || told, "seed {seed}: {dir} has lost something and does not say so");
            lost[usize::from(told)] += 1;
        }
    }
    assert!(lost.iter().all(|count| *count > 20), "both happen: {lost:?}");
}

#[test]
fn a_power_cut_in_the_middle_decides_for_each_file() {
    let mut survived = [0, 0];
    for seed in 0..50 {
        let (disk, filesystem) = dirty(seed);
        for dir in DIRS {
            disk.sync_dir(Path::new(dir)).unwrap();
        }
        disk.power_off_after(0);
        assert!(filesystem.sync().is_err());
        let after = disk.crash(seed);
        for dir in DIRS {
            let whole = durable(&after, dir) == Some(dir.repeat(400).into_bytes());
            survived[usize::from(whole)] += 1;
        }
    }
    assert!(survived.iter().all(|count| *count > 5), "both happen: {survived:?}");
}
