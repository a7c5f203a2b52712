//! What a power cut may leave, and what it may not touch.

use std::collections::BTreeSet;
use std::io::IoSlice;

use super::images::index;
use super::*;
use crate::{Disk, OpenMode, StorageError};

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn read(disk: &dyn Disk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(path(name), OpenMode::Read).ok()?;
    let mut bytes = vec![0; index(file.len().unwrap())];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// The distinct images of one file over many seeds.
fn outcomes(disk: &SimDisk, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|seed| read(&disk.crash_image(seed), name)).collect()
}

#[test]
fn synced_bytes_under_a_synced_name_survive_every_crash() {
    let disk = SimDisk::new();
    let file = disk.open(path("/f"), OpenMode::CreateNew).unwrap();
    file.write_at(&[7; 1000], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(outcomes(&disk, "/f"), BTreeSet::from([Some(vec![7; 1000])]));
}

#[test]
fn each_unsynced_sector_survives_or_not() {
    let disk = SimDisk::new();
    let file = disk.open(path("/f"), OpenMode::CreateNew).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.write_at(&[2; 1024], 0).unwrap();
    let image = |first: u8, second: u8| Some([[first; 512], [second; 512]].concat());
    let expected = [image(1, 1), image(1, 2), image(2, 1), image(2, 2)];
    assert_eq!(outcomes(&disk, "/f"), BTreeSet::from(expected));
}

#[test]
fn an_unsynced_length_survives_wholly_partly_or_not_and_may_be_zeros() {
    let disk = SimDisk::new();
    let file = disk.open(path("/f"), OpenMode::CreateNew).unwrap();
    file.write_at(&[1; 100], 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    file.write_at(&[2; 100], 100).unwrap();
    let images: Vec<Vec<u8>> = outcomes(&disk, "/f").into_iter().flatten().collect();
    assert!(images.iter().all(|image| image.starts_with(&[1; 100])));
    assert!(images.iter().any(|image| image.len() == 100));
    assert!(images.iter().any(|image| image.len() == 200 && image[199] == 2));
    assert!(images.iter().any(|image| image.len() == 200 && image[199] == 0));
    assert!(images.iter().any(|image| image.len() > 100 && image.len() < 200));
    // A cut that was not synced may be undone.
    file.sync_data().unwrap();
    file.set_len(50).unwrap();
    let lengths: BTreeSet<usize> =
        outcomes(&disk, "/f").into_iter().flatten().map(|image| image.len()).collect();
    assert!(lengths.contains(&50) && lengths.contains(&200), "{lengths:?}");
}

#[test]
fn a_name_is_durable_only_after_its_directory_is_synced() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/d")).unwrap();
    let file = disk.open(path("/d/a"), OpenMode::CreateNew).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    let there = |name: &str| -> BTreeSet<bool> {
        outcomes(&disk, name).into_iter().map(|image| image.is_some()).collect()
    };
    assert_eq!(there("/d/a"), BTreeSet::from([false, true]));
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(there("/d/a"), BTreeSet::from([false, true]), "another directory's sync is no help");
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(there("/d/a"), BTreeSet::from([true]));
    disk.rename(path("/d/a"), path("/d/b")).unwrap();
    for seed in 0..50 {
        let image = disk.crash_image(seed);
        let names: Vec<String> =
            image.list(path("/d")).unwrap().into_iter().map(|entry| entry.name).collect();
        assert!(names == ["a"] || names == ["b"], "seed {seed}: {names:?}");
    }
    disk.sync_dir(path("/d")).unwrap();
    disk.remove_file(path("/d/b")).unwrap();
    assert_eq!(there("/d/b"), BTreeSet::from([false, true]));
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(there("/d/b"), BTreeSet::from([false]));
}

#[test]
fn a_directory_moves_with_what_is_in_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/topics/t-0")).unwrap();
    let file = disk.open(path("/topics/t-0/log"), OpenMode::CreateNew).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/topics/t-0")).unwrap();
    disk.rename(path("/topics/t-0"), path("/topics/t-0-delete")).unwrap();
    assert_eq!(read(&disk, "/topics/t-0-delete/log"), Some(b"x".to_vec()));
    for seed in 0..50 {
        let image = disk.crash_image(seed);
        let old = read(&image, "/topics/t-0/log").is_some();
        let new = read(&image, "/topics/t-0-delete/log").is_some();
        assert!(old != new, "seed {seed}");
    }
    let error = disk.remove_dir(path("/topics/t-0-delete")).unwrap_err();
    assert!(error.to_string().contains("/topics/t-0-delete"), "{error}");
}

#[test]
fn misuse_and_a_full_disk_are_errors() {
    let disk = SimDisk::with_capacity(1000);
    assert!(disk.open(path("/no/f"), OpenMode::Create).unwrap_err().is_not_found());
    assert!(disk.open(path("/f"), OpenMode::Write).unwrap_err().is_not_found());
    let file = disk.open(path("/f"), OpenMode::Create).unwrap();
    file.write_at(&[1; 900], 0).unwrap();
    assert_eq!(disk.free_bytes(path("/")).unwrap(), 100);
    assert!(file.write_at(&[1; 200], 900).unwrap_err().is_disk_full());
    file.write_at(&[2; 900], 0).unwrap();
    assert!(disk.open(path("/f"), OpenMode::CreateNew).is_err());
    let reader = disk.open(path("/f"), OpenMode::Read).unwrap();
    assert!(reader.write_at(b"x", 0).is_err());
    let mut buf = [0; 10];
    assert_eq!(reader.read_at(&mut buf, 995).unwrap(), 5, "what there was room for is written");
    assert_eq!(reader.read_at(&mut buf, 2000).unwrap(), 0);
}

/// The same script on the real file system and in memory gives the same answers.
#[test]
fn memory_behaves_as_the_file_system_does() {
    let dir = tempfile::tempdir().unwrap();
    let run = |disk: &dyn Disk, root: &Path| -> Vec<String> {
        let at = |name: &str| root.join(name);
        let mut said = Vec::new();
        let mut say = |what: &str, outcome: Result<String, StorageError>| {
            let text = match outcome {
                Ok(text) => text,
                Err(StorageError::Io { operation, source, .. }) => {
                    format!("{operation}: {:?}", source.kind())
                }
                Err(other) => panic!("{other}"),
            };
            said.push(format!("{what}: {text}"));
        };
        let list = |dir: &str| disk.list(&at(dir)).map(|entries| format!("{entries:?}"));
        let open = |name: &str, mode| {
            disk.open(&at(name), mode).and_then(|file| Ok(file.len()?.to_string()))
        };
        say("mkdir", disk.create_dir_all(&at("a/b")).map(|()| String::new()));
        say("open missing", open("a/f", OpenMode::Write));
        say("create", open("a/f", OpenMode::CreateNew));
        say("create again", open("a/f", OpenMode::CreateNew));
        say("list", list("a"));
        let file = disk.open(&at("a/f"), OpenMode::Write).unwrap();
        let slices = [b"".as_slice(), b"hello", b"", b" world"].map(IoSlice::new);
        say("write", file.write_all_at(&slices, 3).map(|()| String::new()));
        let mut buf = [9; 20];
        say("read", file.read_at(&mut buf, 0).map(|n| format!("{n} {buf:?}")));
        say("cut", file.set_len(5).and_then(|()| Ok(file.len()?.to_string())));
        say("grow", file.set_len(8).and_then(|()| Ok(file.len()?.to_string())));
        say("read", file.read_at(&mut buf, 1).map(|n| format!("{n} {buf:?}")));
        say(
            "sync",
            file.sync_data().and_then(|()| disk.sync_dir(&at("a"))).map(|()| String::new()),
        );
        say("rename", disk.rename(&at("a/f"), &at("a/b/g")).map(|()| String::new()));
        say("rename missing", disk.rename(&at("a/f"), &at("a/b/g")).map(|()| String::new()));
        say("list b", list("a/b"));
        say("rmdir full", disk.remove_dir(&at("a/b")).map(|()| String::new()));
        say("rm", disk.remove_file(&at("a/b/g")).map(|()| String::new()));
        say("rm missing", disk.remove_file(&at("a/b/g")).map(|()| String::new()));
        say("rmdir", disk.remove_dir(&at("a/b")).map(|()| String::new()));
        say("exists", disk.exists(&at("a/b")).map(|there| there.to_string()));
        say("list missing", list("a/b"));
        say("sync missing", disk.sync_dir(&at("a/b")).map(|()| String::new()));
        said
    };
    let mem = SimDisk::new();
    mem.create_dir_all(path("/root")).unwrap();
    assert_eq!(run(&mem, path("/root")), run(&crate::FsDisk, dir.path()));
}

/// A node moves as a whole: it never has two names, and is not lost if its name was durable.
#[test]
fn renames_are_whole_or_not_at_all() {
    let disk = SimDisk::new();
    for dir in ["/d", "/e"] {
        disk.create_dir_all(path(dir)).unwrap();
    }
    let file = disk.open(path("/d/a"), OpenMode::CreateNew).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/d")).unwrap();
    let mut seen = BTreeSet::new();
    let names = ["/d/a", "/d/b", "/d/c", "/e/c"];
    for (from, to) in [("/d/a", "/d/b"), ("/d/b", "/d/c"), ("/d/c", "/e/c")] {
        disk.rename(path(from), path(to)).unwrap();
        for seed in 0..100 {
            let there = disk.crash_image(seed).live_paths();
            assert_eq!(there.len(), 1, "seed {seed}: {there:?}");
            seen.extend(there);
        }
    }
    assert_eq!(seen, names.map(PathBuf::from).into());
    // Neither directory is ahead of a rename between them.
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(disk.durable_paths(), [PathBuf::from("/e/c")]);
}

/// Syncing the directory anew after it was removed and made again must not let the old removal take the new one.
#[test]
fn a_directory_made_again_is_durable() {
    let disk = SimDisk::new();
    disk.create_dir_all(path("/d/t")).unwrap();
    disk.remove_dir(path("/d/t")).unwrap();
    disk.create_dir_all(path("/d/t")).unwrap();
    let file = disk.open(path("/d/t/f"), OpenMode::CreateNew).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/d/t")).unwrap();
    assert_eq!(outcomes(&disk, "/d/t/f"), BTreeSet::from([Some(b"x".to_vec())]));
    let error = disk.rename(path("/d"), path("/d/t/d")).unwrap_err();
    assert!(error.to_string().contains("rename /d"), "{error}");
}

/// Of one sector written several times any version may be left, and each with what was in it before.
#[test]
fn a_sector_keeps_one_of_its_versions() {
    let disk = SimDisk::new();
    let file = disk.open(path("/f"), OpenMode::CreateNew).unwrap();
    file.write_at(b"....", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(path("/")).unwrap();
    for (at, byte) in [(0, b"a"), (1, b"b"), (2, b"c")] {
        file.write_at(byte, at).unwrap();
    }
    let expected = ["....", "a...", "ab..", "abc."].map(|text| Some(text.as_bytes().to_vec()));
    assert_eq!(outcomes(&disk, "/f"), BTreeSet::from(expected));
}

fn survivors(disk: &SimDisk) -> BTreeSet<Vec<PathBuf>> {
    (0..200).map(|seed| disk.crash_image(seed).live_paths()).collect()
}

/// A directory's changes survive as a prefix or as a subset.
#[test]
fn a_later_name_may_survive_an_earlier_one() {
    let disk = SimDisk::new();
    for name in ["/a", "/b", "/c"] {
        disk.open(path(name), OpenMode::CreateNew).unwrap();
    }
    let names = ["/a", "/b", "/c"].map(PathBuf::from);
    let subsets = (0..8_usize).map(|set| {
        let kept = names.iter().enumerate().filter(|(n, _)| set & (1 << n) != 0);
        kept.map(|(_, name)| name.clone()).collect()
    });
    assert_eq!(survivors(&disk), subsets.collect());
}

/// While something moves between directories, what survives is a prefix over all of them.
#[test]
fn a_rename_between_directories_keeps_the_order() {
    let disk = SimDisk::new();
    for dir in ["/d", "/e"] {
        disk.create_dir_all(path(dir)).unwrap();
    }
    let create = |name: &str| drop(disk.open(path(name), OpenMode::CreateNew).unwrap());
    create("/d/a");
    create("/e/b");
    disk.rename(path("/d/a"), path("/e/a")).unwrap();
    create("/d/c");
    let prefixes: [&[&str]; 5] =
        [&[], &["/d/a"], &["/d/a", "/e/b"], &["/e/a", "/e/b"], &["/d/c", "/e/a", "/e/b"]];
    let prefixes = prefixes.map(|names| names.iter().map(PathBuf::from).collect());
    assert_eq!(survivors(&disk), BTreeSet::from(prefixes));
}
