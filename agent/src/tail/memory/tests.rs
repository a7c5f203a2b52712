//! The files in memory against the kernel's: the same things done to both look the same to a follower.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use tailway_metadata::time::WallMs;

use super::*;
use crate::output::inbox::Inbox;
use crate::tail::files::{TailFiles, read_full};
use crate::tail::os::OsFiles;
use crate::tail::watch::{Heard, Watches};

const DIRS: [&str; 2] = ["a", "b"];
const NAMES: [&str; 6] = ["a/1", "a/2", "a/3", "b/1", "b/2", "c"];

/// The same tree on the disk (below a directory) and in memory.
struct Both {
    dir: tempfile::TempDir,
    memory: MemoryFiles,
}

impl Both {
    fn new() -> Self {
        let both =
            Self { dir: tempfile::tempdir().unwrap(), memory: MemoryFiles::new(Clock::new()) };
        both.memory.create_dir_all(both.dir.path()).unwrap();
        for dir in DIRS {
            std::fs::create_dir(both.path(dir)).unwrap();
            both.memory.create_dir_all(&both.path(dir)).unwrap();
        }
        both
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Does step number `what` to `a` (and `b`) in both; both must agree whether it can be done.
    fn step(&self, what: u64, a: &str, b: &str) -> String {
        let (from, to) = (self.path(a), self.path(b));
        let memory = &self.memory;
        let is_done = |disk: io::Result<()>, memory: io::Result<()>, step: String| {
            assert_eq!(disk.is_ok(), memory.is_ok(), "{step}: {disk:?} and {memory:?}");
            step
        };
        match what {
            0..=3 => {
                let disk = OpenOptions::new().create(true).append(true).open(&from);
                let disk = disk.and_then(|mut file| file.write_all(b"some line\n"));
                is_done(disk, memory.append(&from, b"some line\n"), format!("append {a}"))
            }
            4 => {
                let disk = std::fs::remove_file(&from);
                is_done(disk, memory.remove(&from), format!("remove {a}"))
            }
            5 => {
                let disk = OpenOptions::new().write(true).open(&from);
                let disk = disk.and_then(|file| file.set_len(4));
                is_done(disk, memory.truncate(&from, 4), format!("truncate {a}"))
            }
            6 => {
                let disk = std::fs::hard_link(&from, &to);
                is_done(disk, memory.link(&from, &to), format!("link {a} {b}"))
            }
            _ => {
                let disk = std::fs::rename(&from, &to);
                is_done(disk, memory.rename(&from, &to), format!("rename {a} {b}"))
            }
        }
    }

    fn view(&self, files: &dyn TailFiles) -> Vec<String> {
        let mut seen = Vec::new();
        for name in ["", "a", "b"] {
            let mut entries = files.list(&self.path(name)).unwrap();
            entries.sort();
            for entry in entries {
                let path = self.path(name).join(&entry.name);
                let stat = files.stat(&path).unwrap();
                assert_eq!(stat.id.ino, entry.ino, "{path:?}");
                // Links of directories are nobody's business here.
                let links = if entry.is_dir { 0 } else { stat.links };
                let shown = (path, stat.kind, entry.is_link, links);
                if entry.is_dir {
                    seen.push(format!("{shown:?}"));
                    continue;
                }
                let file = files.open(&shown.0).unwrap();
                assert_eq!(file.stat().unwrap(), stat, "{shown:?}");
                let mut bytes = vec![0; 1 << 16];
                let read = read_full(file.as_ref(), 0, &mut bytes).unwrap();
                assert_eq!(read as u64, stat.size, "{shown:?}");
                bytes.truncate(read);
                seen.push(format!("{shown:?} {:?}", String::from_utf8_lossy(&bytes)));
            }
        }
        seen
    }
}

fn listen(both: &Both, files: Arc<dyn TailFiles>) -> (Watches, Inbox) {
    let inbox = Inbox::default();
    let mut watches = Watches::new(files, inbox.clone());
    for dir in DIRS {
        watches.watch_names(&both.path(dir)).unwrap();
        watches.watch_writes(&both.path(dir)).unwrap();
    }
    (watches, inbox)
}

fn add(all: &mut Heard, heard: Heard) {
    all.names.extend(heard.names);
    all.written.extend(heard.written);
    all.renames.extend(heard.renames);
    all.missed |= heard.missed;
}

#[test]
fn what_is_done_to_both_looks_the_same() {
    for seed in 0..20_u64 {
        let both = Both::new();
        let (mut on_disk, disk_inbox) = listen(&both, Arc::new(OsFiles));
        let (mut in_memory, _) = listen(&both, Arc::new(both.memory.clone()));
        let mut state = seed;
        let mut draw = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        let mut steps = Vec::new();
        for _ in 0..60 {
            let [a, b] = [0; 2].map(|_| NAMES[usize::try_from(draw(6)).unwrap()]);
            steps.push(both.step(draw(10), a, b));
            assert_eq!(both.view(&both.memory), both.view(&OsFiles), "seed {seed}: {steps:#?}");
        }
        let expected = in_memory.take();
        let mut heard = Heard::default();
        for _ in 0..100 {
            add(&mut heard, on_disk.take());
            if heard == expected {
                break;
            }
            disk_inbox.wait(Duration::from_millis(20));
            disk_inbox.take();
        }
        assert_eq!(expected, heard, "seed {seed}: memory and disk heard of {steps:#?}");
    }
}

#[test]
fn a_watched_directory_that_goes_or_moves_says_so_itself() {
    for step in ["remove", "rename"] {
        let both = Both::new();
        let (from, to) = (both.path("a"), both.path("c"));
        let (mut on_disk, disk_inbox) = listen(&both, Arc::new(OsFiles));
        let (mut in_memory, _) = listen(&both, Arc::new(both.memory.clone()));
        if step == "remove" {
            std::fs::remove_dir(&from).unwrap();
            both.memory.remove(&from).unwrap();
        } else {
            std::fs::rename(&from, &to).unwrap();
            both.memory.rename(&from, &to).unwrap();
            std::fs::write(to.join("1"), "x").unwrap();
            both.memory.append(&to.join("1"), b"x").unwrap();
        }
        let expected = in_memory.take();
        assert!(expected.names.contains(&from), "{step}: {expected:?}");
        let mut heard = Heard::default();
        for _ in 0..100 {
            add(&mut heard, on_disk.take());
            if heard.names.contains(&from) {
                break;
            }
            disk_inbox.wait(Duration::from_millis(20));
            disk_inbox.take();
        }
        assert!(heard.names.contains(&from), "{step}: {heard:?}");
        assert_eq!((in_memory.watched(), on_disk.watched()), (2, 2), "{step}");
    }
}

fn memory() -> (MemoryFiles, Clock) {
    let clock = Clock::manual(WallMs(7_000));
    let files = MemoryFiles::new(clock.clone());
    files.create_dir_all(Path::new("/logs")).unwrap();
    (files, clock)
}

#[test]
fn a_number_is_used_again_when_nobody_has_the_file_any_more() {
    let (files, clock) = memory();
    let path = Path::new("/logs/a");
    files.append(path, b"first").unwrap();
    let first = files.stat(path).unwrap();
    assert_eq!((first.written_ns, first.id.birth_ns.is_some()), (7_000_000_000, true));
    clock.set_wall(WallMs(7_001));
    let open = files.open(path).unwrap();
    files.replace(path, b"second").unwrap();
    let second = files.stat(path).unwrap();
    assert_ne!(second.id.ino, first.id.ino, "used again while it is open");
    assert_eq!((open.stat().unwrap().links, open.stat().unwrap().id), (0, first.id));
    drop(open);
    files.remove(path).unwrap();
    files.without_births();
    files.append(path, b"third").unwrap();
    let third = files.stat(path).unwrap();
    assert_eq!((third.id.ino, third.id.birth_ns), (first.id.ino, None));
    assert_eq!(third.written_ns, 7_001_000_000);
}

#[test]
fn a_writer_goes_on_with_its_file_under_any_name() {
    let (files, _) = memory();
    let (a, b) = (Path::new("/logs/a"), Path::new("/logs/a.1"));
    let writer = files.open_to_append(a).unwrap();
    writer.append(b"1");
    files.rename(a, b).unwrap();
    writer.append(b"2");
    files.append(a, b"3").unwrap();
    assert_eq!((files.read(a).unwrap(), files.read(b).unwrap()), (b"3".to_vec(), b"12".to_vec()));
    files.copy_truncate(b, Path::new("/logs/copy")).unwrap();
    writer.append(b"4");
    assert_eq!(files.read(b).unwrap(), b"4");
    assert_eq!(files.read(Path::new("/logs/copy")).unwrap(), b"12");
}

#[test]
fn a_power_cut_takes_only_what_was_not_synced() {
    let (files, _) = memory();
    let path = |name: &str| PathBuf::from(format!("/logs/{name}"));
    let names = ["new", "short", "synced", "whole", "zeros"];
    for name in names {
        files.append(&path(name), b"safe").unwrap();
        if name != "new" {
            files.sync(&path(name)).unwrap();
        }
        if name != "synced" {
            files.append(&path(name), b"lost").unwrap();
        }
    }
    let mut asked = Vec::new();
    files.power_cut(|path, len, synced| {
        asked.push((path.to_path_buf(), len, synced));
        match path.file_name().unwrap().to_str().unwrap() {
            "new" => Survivor::Nothing,
            "short" => Survivor::Short(2),
            "zeros" => Survivor::Zeros(6),
            _ => Survivor::Whole,
        }
    });
    let expected = [("new", 8, 0), ("short", 8, 4), ("whole", 8, 4), ("zeros", 8, 4)]
        .map(|(n, l, s)| (path(n), l, s));
    assert_eq!(asked, expected);
    let left = names.map(|name| files.read(&path(name)).ok());
    let bytes = |text: &[u8]| Some(text.to_vec());
    assert_eq!(
        left,
        [None, bytes(b"safe"), bytes(b"safe"), bytes(b"safelost"), bytes(b"safelo\0\0")]
    );
}

#[test]
fn what_cannot_be_watched_says_so() {
    let (files, _) = memory();
    let mut watches = Watches::new(Arc::new(files.clone()), Inbox::default());
    files.set_watching(Watching::Refused);
    watches.watch_names(Path::new("/logs")).unwrap_err();
    files.set_watching(Watching::Told);
    watches.watch_names(Path::new("/logs")).unwrap();
    files.append(Path::new("/logs/a"), b"1").unwrap();
    files.overflow();
    let names = BTreeSet::from([PathBuf::from("/logs/a")]);
    assert_eq!(watches.take(), Heard { names, missed: true, ..Heard::default() });
    files.set_watching(Watching::Foreign);
    assert_eq!(
        crate::tail::watch::trust(&files, Path::new("/logs")),
        crate::tail::watch::Trust::Polled("nfs")
    );
}

#[test]
fn something_can_happen_between_two_questions() {
    let (files, _) = memory();
    let path = Path::new("/logs/a");
    files.append(path, b"1").unwrap();
    files.record();
    files.interleave(1, |files| files.rename(Path::new("/logs/a"), Path::new("/logs/b")).unwrap());
    assert!(files.stat(path).is_ok());
    assert!(files.open(path).is_err(), "renamed before the second question");
    assert_eq!(files.recorded(), ["stat \"/logs/a\"", "open \"/logs/a\""]);
}
