//! Each fault does what it says, where and when it says, and the dead stay dead.

use std::collections::BTreeSet;

use super::*;
use crate::{DirLock, Disk, DiskFile, OpenMode, StorageError};

fn path(text: &str) -> &Path {
    Path::new(text)
}

/// A durable file of `sectors` sectors of this byte.
fn durable_file(disk: &SimDisk, name: &str, byte: u8, sectors: usize) -> Arc<dyn DiskFile> {
    let file = disk.open(path(name), OpenMode::CreateNew).unwrap();
    file.write_at(&vec![byte; sectors * 512], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file
}

fn read(file: &Arc<dyn DiskFile>) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Linux marks the pages clean after a failed writeback: the sync that follows succeeds and the bytes are gone.
#[test]
fn a_failed_sync_forgets_what_was_pending_and_the_next_one_succeeds() {
    let mut kept = BTreeSet::new();
    for seed in 0..60 {
        let disk = SimDisk::with_seed(seed);
        let file = durable_file(&disk, "/f", 1, 4);
        file.write_at(&[2; 2048], 0).unwrap();
        disk.fail(Operation::SyncData, 1, io::ErrorKind::Other);
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(read(&file), [2; 2048], "the cache still has it");
        let image = disk.crash_image(seed).live_image(path("/f")).unwrap();
        assert_eq!(Some(&image), disk.durable_image(path("/f")).as_ref(), "nothing is pending");
        kept.insert(image.chunks(512).filter(|sector| sector[0] == 2).count());
        disk.drop_caches();
        assert_eq!(read(&file), image, "seed {seed}: what was lost is seen once the cache is gone");
    }
    assert_eq!(kept, BTreeSet::from([0, 1, 2, 3, 4]), "none, some or all got through");
}

/// The file goes on growing behind the hole that the failed sync left.
#[test]
fn bytes_after_a_failed_sync_do_not_heal_it() {
    let disk = SimDisk::new();
    let file = durable_file(&disk, "/f", 1, 1);
    let lost = (0..50).any(|_| {
        file.write_at(&[2; 512], 512).unwrap();
        disk.fail(Operation::SyncData, 1, io::ErrorKind::Other);
        assert!(file.sync_data().is_err());
        disk.durable_image(path("/f")).unwrap().len() == 512
    });
    assert!(lost, "of 50 failed syncs one lost the length");
    file.write_at(&[3; 512], 1024).unwrap();
    file.sync_data().unwrap();
    let expected = [[1_u8; 512], [0; 512], [3; 512]].concat();
    assert_eq!(disk.durable_image(path("/f")), Some(expected));
    assert_eq!(read(&file), [[1_u8; 512], [2; 512], [3; 512]].concat());
}

/// The kernel keeps the length in memory when it forgets the pages: zeros are read where nothing is on the platter.
#[test]
fn a_dropped_cache_shows_zeros_for_a_lost_tail() {
    let lost = (0..50).find_map(|seed| {
        let disk = SimDisk::with_seed(seed);
        let file = durable_file(&disk, "/f", 1, 1);
        file.write_at(&[2; 512], 512).unwrap();
        disk.fail(Operation::SyncData, 1, io::ErrorKind::Other);
        assert!(file.sync_data().is_err());
        (disk.durable_image(path("/f")).unwrap().len() == 512).then_some((disk, file))
    });
    let (disk, file) = lost.expect("of 50 failed syncs one lost the length");
    assert_eq!(read(&file), [[1_u8; 512], [2; 512]].concat());
    disk.drop_caches();
    assert_eq!(read(&file), [[1_u8; 512], [0; 512]].concat());
}

#[test]
fn a_failed_write_leaves_a_part() {
    let mut parts = BTreeSet::new();
    let disk = SimDisk::new();
    for n in 0..100 {
        let name = format!("/{n}");
        let file = disk.open(path(&name), OpenMode::Create).unwrap();
        disk.fail(Operation::Write, 1, io::ErrorKind::Other);
        let slices = [io::IoSlice::new(b"ab"), io::IoSlice::new(b"cd")];
        assert!(file.write_all_at(&slices, 0).is_err());
        parts.insert(String::from_utf8(read(&file)).unwrap());
    }
    assert_eq!(parts, BTreeSet::from(["", "a", "ab", "abc"].map(str::to_owned)));
}

#[test]
fn room_comes_and_goes() {
    let disk = SimDisk::with_capacity(1000);
    let file = durable_file(&disk, "/f", 1, 1);
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 488);
    assert!(file.write_at(&[2; 500], 512).unwrap_err().is_disk_full());
    assert_eq!((file.len().unwrap(), disk.free_bytes(path("/")).unwrap()), (1000, 0));
    assert!(file.write_at(&[2; 10], 2000).unwrap_err().is_disk_full());
    assert!(file.set_len(1001).unwrap_err().is_disk_full());
    assert_eq!(file.len().unwrap(), 1000, "nothing of it fits");
    file.write_at(&[3; 1000], 0).unwrap();
    disk.set_capacity(Some(400));
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 0);
    file.write_at(&[4; 1000], 0).unwrap();
    file.set_len(100).unwrap();
    file.write_at(&[5; 300], 100).unwrap();
    disk.open(path("/g"), OpenMode::Create).unwrap();
    disk.rename(path("/g"), path("/f")).unwrap();
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 400, "the replaced file is gone");
    file.write_at(&[6; 9000], 0).unwrap_err();
}

#[test]
fn chances_hit_what_they_name_where_they_are_told() {
    let always = 1_000_000;
    let none = SimFaults::default();
    let cases = [
        (Operation::Read, SimFaults { read_error: always, ..none.clone() }),
        (Operation::Write, SimFaults { write_error: always, ..none.clone() }),
        (Operation::SetLen, SimFaults { set_len_error: always, ..none.clone() }),
        (Operation::SyncData, SimFaults { sync_error: always, ..none.clone() }),
        (Operation::SyncDir, SimFaults { sync_dir_error: always, ..none.clone() }),
        (Operation::Create, SimFaults { name_error: always, ..none.clone() }),
    ];
    for (operation, faults) in cases {
        let disk = SimDisk::new();
        disk.create_dir_all(path("/bad/d")).unwrap();
        disk.create_dir_all(path("/good/d")).unwrap();
        let files = ["/bad", "/good"].map(|dir| {
            let file = disk.open(&path(dir).join("f"), OpenMode::Create).unwrap();
            file.write_at(&[1; 100], 0).unwrap();
            (path(dir), file)
        });
        let call = |dir: &Path, file: &Arc<dyn DiskFile>| match operation {
            Operation::Read => file.read_at(&mut [0; 10], 0).map(|_| ()),
            Operation::Write => file.write_at(b"x", 0),
            Operation::SetLen => file.set_len(50),
            Operation::SyncData => file.sync_data(),
            Operation::SyncDir => disk.sync_dir(dir),
            _ => disk
                .open(&dir.join("new"), OpenMode::Create)
                .and_then(|_| disk.rename(&dir.join("new"), &dir.join("old")))
                .and_then(|()| disk.remove_file(&dir.join("old"))),
        };
        disk.set_faults(SimFaults { under: "/bad".into(), ..faults.clone() });
        assert_eq!(disk.faults().under, path("/bad"));
        let said = call(files[0].0, &files[0].1).unwrap_err().to_string();
        assert!(said.contains("/bad") && said.contains("os error 5"), "{operation:?}: {said}");
        assert!(call(files[1].0, &files[1].1).is_ok(), "{operation:?}");
        disk.set_faults(SimFaults::default());
        assert!(call(files[0].0, &files[0].1).is_ok(), "{operation:?}: switched off");
    }
}

#[test]
fn rot_flips_one_durable_bit() {
    let mut places = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "/f", 0, 3);
        let at = usize::try_from(disk.rot(path("/f"), seed).unwrap()).unwrap();
        let image = disk.durable_image(path("/f")).unwrap();
        assert_eq!(read(&file), image, "it is read at once");
        assert_eq!(disk.crash_image(1).live_image(path("/f")).as_ref(), Some(&image));
        let flipped: u32 = image.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!((flipped, image[at].count_ones()), (1, 1), "seed {seed}");
        places.insert(at / 512);
        // What is about to be written is not shown rotten.
        file.write_at(&[0; 1536], 0).unwrap();
        disk.rot(path("/f"), seed + 1).unwrap();
        assert_eq!(read(&file), [0; 1536]);
    }
    assert_eq!(places, BTreeSet::from([0, 1, 2]));
    let disk = SimDisk::new();
    disk.open(path("/empty"), OpenMode::Create).unwrap().write_at(b"x", 0).unwrap();
    assert_eq!((disk.rot(path("/empty"), 0), disk.rot(path("/none"), 0)), (None, None));
}

#[test]
fn a_phantom_write_is_gone_after_the_power_cut() {
    for seed in 0..20 {
        let disk = SimDisk::new();
        let file = durable_file(&disk, "/f", 1, 1);
        disk.arm(SimFault::PhantomWrite, 2);
        file.write_at(&[2; 512], 512).unwrap();
        file.write_at(&[3; 512], 1024).unwrap();
        file.sync_data().unwrap();
        assert_eq!(read(&file), [[1_u8; 512], [2; 512], [3; 512]].concat());
        let left = [[1_u8; 512], [2; 512], [0; 512]].concat();
        assert_eq!(disk.crash_image(seed).live_image(path("/f")), Some(left.clone()));
        let disk = disk.kill();
        assert_eq!(disk.live_image(path("/f")).unwrap()[1024], 3, "a kill leaves the cache");
        disk.drop_caches();
        assert_eq!(disk.live_image(path("/f")), Some(left));
    }
}

#[test]
fn a_misdirected_write_lands_on_other_sectors_of_some_file() {
    let mut victims = BTreeSet::new();
    for seed in 0..60 {
        let disk = SimDisk::with_seed(seed);
        let file = durable_file(&disk, "/f", 1, 4);
        durable_file(&disk, "/g", 2, 4);
        disk.arm(SimFault::MisdirectedWrite, 1);
        file.write_at(&[9; 100], 512 + 7).unwrap();
        assert_eq!(read(&file)[519..619], [9; 100]);
        file.sync_data().unwrap();
        let images = ["/f", "/g"].map(|name| disk.durable_image(path(name)).unwrap());
        let hits: Vec<(usize, usize)> = (0..2)
            .filter_map(|file| {
                let at = images[file].iter().position(|byte| *byte == 9)?;
                Some((file, at))
            })
            .collect();
        let [(victim, at)] = hits[..] else { panic!("seed {seed}: {hits:?}") };
        assert_eq!(at % 512, 7, "seed {seed}: as far into a sector as it should");
        assert_ne!((victim, at), (0, 519), "seed {seed}: not where it should");
        let (before, after) = images[victim].split_at(at + 100);
        assert_eq!(before[at..], [9; 100], "seed {seed}");
        assert!(!after.contains(&9), "seed {seed}");
        victims.insert((victim, at / 512));
        let after = disk.crash(seed);
        assert_eq!(after.live_image(path("/f")).as_ref(), Some(&images[0]));
        assert_eq!(after.live_image(path("/g")).as_ref(), Some(&images[1]));
    }
    let expected = [(0, 0), (0, 2), (0, 3), (1, 0), (1, 1), (1, 2), (1, 3)];
    assert_eq!(victims, BTreeSet::from(expected));
}

#[test]
fn a_misdirected_write_lands_only_where_things_go_wrong() {
    for seed in 0..60 {
        let disk = SimDisk::with_seed(seed);
        disk.create_dir_all(path("/d")).unwrap();
        disk.sync_dir(path("/")).unwrap();
        durable_file(&disk, "/f", 1, 4);
        durable_file(&disk, "/d/g", 2, 4);
        let file = durable_file(&disk, "/d/h", 3, 4);
        disk.set_faults(SimFaults {
            under: "/d".into(),
            misdirected_write: 1_000_000,
            ..SimFaults::default()
        });
        file.write_at(&[9; 100], 512).unwrap();
        file.sync_data().unwrap();
        assert_eq!(disk.durable_image(path("/f")), Some(vec![1; 2048]), "seed {seed}");
    }
}

#[test]
fn the_power_goes_during_an_operation_and_stays_away() {
    let mut lengths = BTreeSet::new();
    for seed in 0..40 {
        let disk = SimDisk::with_seed(seed);
        let file = durable_file(&disk, "/f", 1, 1);
        disk.power_off_after(1);
        file.write_at(&[2; 4], 512).unwrap();
        assert!(!disk.is_off());
        let said = file.write_at(&[3; 4], 516).unwrap_err().to_string();
        assert_eq!(said, "write /f: the power is off");
        assert!(disk.is_off());
        for outcome in every_call(&disk, &file) {
            assert!(outcome.unwrap_err().to_string().ends_with("the power is off"));
        }
        let disk = disk.kill();
        lengths.insert(disk.live_image(path("/f")).unwrap().len());
        assert!(!disk.is_off());
        disk.open(path("/f"), OpenMode::Write).unwrap().write_at(b"on", 0).unwrap();
    }
    assert_eq!(lengths, BTreeSet::from([516, 517, 518, 519]), "done in part");
}

/// One of each call.
fn every_call(disk: &SimDisk, file: &Arc<dyn DiskFile>) -> Vec<Result<(), StorageError>> {
    vec![
        disk.open(path("/f"), OpenMode::Read).map(drop),
        disk.open(path("/f"), OpenMode::Create).map(drop),
        disk.rename(path("/f"), path("/g")),
        disk.remove_file(path("/f")),
        disk.remove_dir(path("/d")),
        disk.create_dir_all(path("/e")),
        disk.list(path("/")).map(drop),
        disk.sync_dir(path("/")),
        disk.exists(path("/f")).map(drop),
        disk.free_bytes(path("/")).map(drop),
        disk.lock_dir(path("/d")).map(drop),
        file.len().map(drop),
        file.read_at(&mut [0; 1], 0).map(drop),
        file.write_at(b"x", 0),
        file.set_len(0),
        file.sync_data(),
    ]
}

#[test]
fn the_dead_change_nothing() {
    type End = fn(&SimDisk) -> SimDisk;
    let ends: [(End, &str); 2] = [
        (|disk| disk.crash(1), "the power was cut since it was opened"),
        (SimDisk::kill, "the program was killed since it was opened"),
    ];
    for (end, cause) in ends {
        let disk = SimDisk::new();
        disk.create_dir_all(path("/d")).unwrap();
        let file = durable_file(&disk, "/f", 1, 1);
        let lock = disk.lock_dir(path("/d")).unwrap();
        let next = end(&disk);
        let before = (next.total(), next.digest());
        for outcome in every_call(&disk, &file) {
            let said = outcome.unwrap_err().to_string();
            assert!(said.ends_with(cause), "{said}");
        }
        assert_eq!((next.total(), next.digest()), before, "as if they had not been");
        assert_eq!(next.live_image(path("/f")), Some(vec![1; 512]));
        // The lock went with its program; what the dead drops is no longer its own.
        let held = next.lock_dir(path("/d")).unwrap();
        drop(lock);
        assert!(matches!(next.lock_dir(path("/d")), Err(StorageError::Locked { .. })));
        drop(held);
        next.lock_dir(path("/d")).unwrap();
        let file = next.open(path("/f"), OpenMode::Write).unwrap();
        assert!(every_call(&next, &file).into_iter().take(3).all(|outcome| outcome.is_ok()));
        let said = { end(&next).kill() };
        assert!(disk.exists(path("/f")).unwrap_err().to_string().contains("long ended"));
        assert!(said.exists(path("/g")).unwrap());
        assert!(disk.current().exists(path("/g")).unwrap());
    }
}

#[test]
fn a_directory_has_one_owner() {
    let disk = SimDisk::new();
    assert!(disk.lock_dir(path("/d")).unwrap_err().is_not_found());
    disk.create_dir_all(path("/d")).unwrap();
    disk.create_dir_all(path("/e")).unwrap();
    let lock: DirLock = disk.lock_dir(path("/d")).unwrap();
    assert_eq!(lock.path(), path("/d/.lock"));
    let said = disk.clone().lock_dir(path("/d")).unwrap_err().to_string();
    let expected = "/d is in use by another user of this simulated disk; stop it, or use another data directory";
    assert_eq!(said, expected);
    disk.lock_dir(path("/e")).unwrap();
    drop(lock);
    disk.lock_dir(path("/d")).unwrap();
    assert_eq!(disk.live_paths(), ["/d/.lock", "/e/.lock"].map(PathBuf::from));
}

#[test]
fn what_happened_can_be_read() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/d")).unwrap();
    let file = disk.open(path("/d/f"), OpenMode::CreateNew).unwrap();
    file.write_at(&[1; 100], 5).unwrap();
    file.read_at(&mut [0; 10], 100).unwrap();
    disk.arm(SimFault::PhantomWrite, 1);
    file.write_at(&[1; 100], 0).unwrap();
    disk.fail(Operation::SyncData, 1, io::ErrorKind::StorageFull);
    assert!(file.sync_data().unwrap_err().is_disk_full());
    file.sync_data().unwrap();
    disk.rename(path("/d/f"), path("/d/g")).unwrap();
    assert!(disk.remove_file(path("/d/f")).unwrap_err().is_not_found());
    let disk = disk.kill().crash(7);
    let lines: Vec<String> = disk.trace().iter().map(ToString::to_string).collect();
    let expected = [
        "0 open /d",
        "1 sync directory /",
        "2 open /d/f",
        "3 write /d/f 5+100",
        "5 write /d/f 0+100: phantom",
        "6 fdatasync /d/f: no storage space",
        "7 fdatasync /d/f",
        "8 rename /d/f to /d/g",
        "9 remove /d/f: entity not found",
        "10 kill /",
        "11 power cut with seed 7 /",
    ];
    assert_eq!(lines, expected);
    assert_eq!((disk.count(Operation::Write), disk.total()), (2, 9));
}

#[test]
fn the_digest_tells_contents_apart() {
    let run = |bytes: &[u8], at: u64| {
        let disk = SimDisk::new();
        let file = disk.open(path("/f"), OpenMode::Create).unwrap();
        file.write_at(bytes, at).unwrap();
        disk.digest()
    };
    assert_eq!(run(b"abc", 0), run(b"abc", 0));
    assert_eq!(BTreeSet::from([run(b"abc", 0), run(b"abd", 0), run(b"abc", 1)]).len(), 3);
}

#[test]
fn a_hook_sees_each_event_and_may_take_images() {
    let disk = SimDisk::new();
    let images: Arc<Mutex<Vec<Option<Vec<u8>>>>> = Arc::default();
    let taken = Arc::clone(&images);
    disk.on_event(move |disk, event| {
        if event.operation() == Some(Operation::SyncData) {
            lock(&taken).push(disk.crash_image(0).live_image(path("/f")));
        }
    });
    let file = durable_file(&disk, "/f", 1, 1);
    file.write_at(&[2; 512], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(lock(&images).last(), Some(&Some(vec![2; 512])));
    assert_eq!(lock(&images).len(), 2);
}
