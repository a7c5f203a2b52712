//! Random scripts against a reference that knows only what a disk promises: after every operation the programs' view is
//! exactly the reference's, and what a power cut leaves is something that the promises allow.
//!
//! The reference keeps, per file, every content since its last sync and, per name, everything that it led to since its
//! directory's last sync. After a power cut each sector must be that of one of the contents, and each name lead to one of
//! its files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::images::{SECTOR, index};
use super::*;
use crate::seed::Seed;
use crate::{Disk, DiskFile, OpenMode};

const CAPACITY: u64 = 1 << 20;
const OPERATIONS: usize = 60;

#[derive(Debug, Default)]
struct Reference {
    /// Contents of each file since its last sync, the present one last.
    files: Vec<Vec<Vec<u8>>>,
    /// What each name led to since its directory's last sync, the present one last.
    names: BTreeMap<PathBuf, Vec<Option<usize>>>,
}

impl Reference {
    fn now(&self, path: &Path) -> Option<usize> {
        self.names.get(path).and_then(|led_to| *led_to.last()?)
    }

    fn lead(&mut self, path: &Path, to: Option<usize>) {
        self.names.entry(path.to_path_buf()).or_insert_with(|| vec![None]).push(to);
    }

    fn content(&self, file: usize) -> &[u8] {
        self.files[file].last().unwrap()
    }

    fn change(&mut self, file: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut content = self.content(file).to_vec();
        change(&mut content);
        self.files[file].push(content);
    }

    fn sync(&mut self, file: usize) {
        let last = self.files[file].len() - 1;
        self.files[file].drain(..last);
    }

    fn sync_dir(&mut self, dir: &Path) {
        for (path, led_to) in &mut self.names {
            if path.parent() == Some(dir) {
                led_to.drain(..led_to.len() - 1);
            }
        }
    }

    /// What is there now is all there is.
    fn restart(disk: &SimDisk) -> Reference {
        let mut reference = Reference::default();
        for path in disk.live_paths() {
            reference.files.push(vec![disk.live_image(&path).unwrap()]);
            reference.names.insert(path, vec![Some(reference.files.len() - 1)]);
        }
        reference
    }

    fn check_live(&self, disk: &SimDisk, context: &str) {
        let mut used = 0;
        for path in self.names.keys() {
            let expected = self.now(path).map(|file| self.content(file).to_vec());
            used += expected.as_ref().map_or(0, Vec::len);
            assert_eq!(disk.live_image(path), expected, "{context}: {}", path.display());
        }
        assert_eq!(disk.free_bytes(Path::new("/")).unwrap(), CAPACITY - used as u64, "{context}");
    }

    fn check_crashed(&self, image: &SimDisk, context: &str) {
        for path in image.live_paths() {
            assert!(self.names.contains_key(&path), "{context}: {} never was", path.display());
        }
        for (path, led_to) in &self.names {
            let found = image.live_image(path);
            assert_eq!(found, image.durable_image(path), "{context}");
            let fits = led_to.iter().any(|file| match (file, &found) {
                (None, None) => true,
                (Some(file), Some(found)) => is_possible(&self.files[*file], found),
                _ => false,
            });
            let bytes = found.map(|found| found.len());
            assert!(fits, "{context}: {} with {bytes:?} bytes, of {led_to:?}", path.display());
        }
    }
}

/// Whether each sector is that of one of the contents, and the length not beyond theirs.
fn is_possible(contents: &[Vec<u8>], found: &[u8]) -> bool {
    let lengths = contents.iter().map(Vec::len);
    let fits = lengths.clone().min() <= Some(found.len()) && Some(found.len()) <= lengths.max();
    fits && found.chunks(index(SECTOR)).enumerate().all(|(n, sector)| {
        contents.iter().any(|content| {
            let start = (n * index(SECTOR)).min(content.len());
            let there = &content[start..(start + sector.len()).min(content.len())];
            sector.starts_with(there) && sector[there.len()..].iter().all(|byte| *byte == 0)
        })
    })
}

fn start(seed: u64) -> SimDisk {
    let disk = SimDisk::with_seed(seed);
    disk.set_capacity(Some(CAPACITY));
    disk.create_dir_all(Path::new("/a")).unwrap();
    disk.create_dir_all(Path::new("/b")).unwrap();
    disk
}

/// Does one thing to both.
fn step(disk: &SimDisk, reference: &mut Reference, seed: &mut Seed, n: usize) {
    let paths = ["/a/x", "/a/y", "/a/z", "/b/x", "/b/y"].map(Path::new);
    let path = *seed.pick(&paths).unwrap();
    let dir = path.parent().unwrap();
    let file = reference.now(path);
    let open = || -> Arc<dyn DiskFile> { disk.open(path, OpenMode::Write).unwrap() };
    match (seed.below(12), file) {
        (0, _) => {
            disk.sync_dir(dir).unwrap();
            reference.sync_dir(dir);
        }
        (1 | 2, Some(file)) => {
            let to = *seed.pick(&paths).unwrap();
            disk.rename(path, to).unwrap();
            if to != path {
                reference.lead(path, None);
                reference.lead(to, Some(file));
            }
        }
        (3, Some(_)) => {
            disk.remove_file(path).unwrap();
            reference.lead(path, None);
        }
        (4 | 5, Some(file)) => {
            open().sync_data().unwrap();
            reference.sync(file);
        }
        (6, Some(file)) => {
            let len = seed.below(3000);
            open().set_len(len).unwrap();
            reference.change(file, |content| content.resize(index(len), 0));
        }
        (_, Some(file)) => {
            let (offset, len) = (index(seed.below(2500)), index(1 + seed.below(1500)));
            let bytes = vec![u8::try_from(n % 250 + 1).unwrap(); len];
            open().write_at(&bytes, offset as u64).unwrap();
            reference.change(file, |content| {
                content.resize(content.len().max(offset + len), 0);
                content[offset..offset + len].copy_from_slice(&bytes);
            });
        }
        (_, None) => {
            disk.open(path, OpenMode::CreateNew).unwrap();
            reference.files.push(vec![Vec::new()]);
            reference.lead(path, Some(reference.files.len() - 1));
        }
    }
}

/// Runs a script with a look at both sides after every operation; the digest and how many power cuts were looked at.
fn run(seed: u64) -> (u64, u32) {
    let mut disk = start(seed);
    let mut reference = Reference::default();
    let mut random = Seed::new(seed);
    let mut cuts = 0;
    for n in 0..OPERATIONS {
        step(&disk, &mut reference, &mut random, n);
        let context = format!("seed {seed}, operation {n}");
        reference.check_live(&disk, &context);
        for _ in 0..3 {
            let cut = random.next();
            let image = disk.crash_image(cut);
            reference.check_crashed(&image, &format!("{context}, cut {cut}"));
            cuts += 1;
        }
        match random.below(20) {
            0 => {
                let cut = random.next();
                let twin = disk.crash_image(cut);
                disk = disk.crash(cut);
                assert_eq!(disk.live_paths(), twin.live_paths(), "{context}");
                reference.check_crashed(&disk, &format!("{context}, crash {cut}"));
                reference = Reference::restart(&disk);
                reference.check_live(&disk, &context);
                // Nothing is pending any more.
                reference.check_crashed(&disk.crash_image(cut), &context);
            }
            1 => {
                disk = disk.kill();
                reference.check_live(&disk, &context);
            }
            2 => {
                disk.drop_caches();
                reference.check_live(&disk, &context);
            }
            _ => {}
        }
    }
    (disk.digest(), cuts)
}

#[test]
fn every_power_cut_leaves_what_the_promises_allow() {
    for seed in 0..60 {
        let (_, cuts) = run(seed);
        assert_eq!(cuts, 180);
    }
}

#[test]
fn equal_seeds_are_equal_runs() {
    let digests: Vec<u64> = (0..20).map(|seed| run(seed).0).collect();
    assert_eq!(digests, (0..20).map(|seed| run(seed).0).collect::<Vec<u64>>());
    let distinct: std::collections::BTreeSet<u64> = digests.into_iter().collect();
    assert_eq!(distinct.len(), 20);
}

/// The same faults at the same places, and the same bytes in the end.
#[test]
fn chance_follows_the_seed() {
    let run = |seed: u64| {
        let disk = start(seed);
        disk.set_faults(SimFaults {
            write_error: 100_000,
            set_len_error: 100_000,
            sync_error: 200_000,
            sync_dir_error: 100_000,
            name_error: 100_000,
            read_error: 100_000,
            phantom_write: 100_000,
            misdirected_write: 100_000,
            ..SimFaults::default()
        });
        let mut failed = 0;
        for n in 0..200_u64 {
            let path = PathBuf::from(format!("/a/{}", n % 3));
            let outcome = disk.open(&path, OpenMode::Create).and_then(|file| {
                file.write_at(&[7; 700], n * 40)?;
                file.sync_data()?;
                file.read_at(&mut [0; 100], 0)?;
                disk.sync_dir(Path::new("/a"))
            });
            failed += u32::from(outcome.is_err());
        }
        let disk = disk.crash(seed);
        let images: Vec<Option<Vec<u8>>> =
            disk.durable_paths().iter().map(|path| disk.durable_image(path)).collect();
        (failed, disk.digest(), disk.trace(), images)
    };
    let first = run(3);
    assert!((60..180).contains(&first.0), "{} of 200 failed", first.0);
    assert_eq!(first, run(3));
    assert_ne!(first.1, run(4).1);
}
