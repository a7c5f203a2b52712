//! Recovery of the journal from every crash, cut and flip that the disk model knows.

use std::io;

use super::*;
use crate::seed::Seed;
use crate::{FsDisk, Operation, SimDisk};

const FORMAT: JournalFormat =
    JournalFormat { magic: *b"TWTESTJL", version: 2, identity: [5; 16], record_bytes_max: 4096 };

fn path() -> &'static Path {
    Path::new("/data/journal")
}

fn mem() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk
}

fn open(disk: &SimDisk) -> Result<Opened, StorageError> {
    Journal::open(Arc::new(disk.clone()), path(), FORMAT)
}

fn records(opened: &Opened) -> Vec<Bytes> {
    opened.entries.iter().map(|entry| entry.bytes.clone()).collect()
}

fn record(n: u64, len: u64) -> Vec<u8> {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.extend((0..len).map(|i| u8::try_from((n * 31 + i) % 251).unwrap()));
    bytes
}

fn file_bytes(disk: &SimDisk) -> Vec<u8> {
    let file = disk.open(path(), OpenMode::Read).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

fn with_file(bytes: &[u8]) -> SimDisk {
    let disk = mem();
    disk.open(path(), OpenMode::CreateNew).unwrap().write_at(bytes, 0).unwrap();
    disk
}

#[test]
fn what_is_appended_is_read_back() {
    let disk = mem();
    let Opened { mut journal, entries, recovery } = open(&disk).unwrap();
    let identity = FORMAT.identity;
    assert_eq!(recovery, Recovery { created: true, torn_bytes: 0, version: 2, identity });
    assert_eq!(entries, []);
    let a = journal.append(b"first").unwrap();
    let more = journal.append_many(&[b"".as_slice(), &[7; 4096]]).unwrap();
    assert_eq!((a, journal.synced_end()), (40, 40));
    journal.sync().unwrap();
    assert_eq!(journal.synced_end(), journal.end());
    assert_eq!(&journal.read(a).unwrap()[..], b"first");
    assert_eq!(&journal.read(more[1]).unwrap()[..], &[7; 4096]);
    assert!(journal.read(a + 1).is_err(), "not the start of a record");
    let error = journal.append(&[0; 4097]).unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { bytes: 4097, bytes_max: 4096, .. }));
    let again = open(&disk).unwrap();
    assert_eq!(records(&again), [Bytes::from_static(b"first"), Bytes::new(), vec![7; 4096].into()]);
    assert_eq!(again.entries[1].position, more[0]);
    assert_eq!(again.journal.end(), journal.end());
    let recovery = again.recovery;
    assert_eq!(recovery, Recovery { created: false, torn_bytes: 0, version: 2, identity });
}

#[test]
fn truncate_and_rewrite_leave_what_they_say() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let positions = journal.append_many(&[b"a", b"b", b"c", b"d"]).unwrap();
    journal.truncate(positions[2]).unwrap();
    journal.append(b"C").unwrap();
    assert_eq!(records(&open(&disk).unwrap()), [&b"a"[..], b"b", b"C"]);
    let positions = journal.rewrite(&[b"b", b"C"]).unwrap();
    journal.append(b"e").unwrap();
    journal.sync().unwrap();
    assert_eq!(&journal.read(positions[1]).unwrap()[..], b"C");
    assert_eq!(records(&open(&disk).unwrap()), [&b"b"[..], b"C", b"e"]);
    journal.truncate(0).unwrap();
    assert_eq!(records(&open(&disk).unwrap()), Vec::<Bytes>::new());
}

#[test]
fn a_ticket_proves_nothing_after_a_truncate() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let a = journal.append(b"a").unwrap();
    let ticket = journal.sync_ticket();
    let b = journal.append(b"b").unwrap();
    journal.synced(ticket.run().unwrap());
    assert_eq!(journal.synced_end(), b);
    let ticket = journal.sync_ticket();
    let done = ticket.run().unwrap();
    journal.truncate(a).unwrap();
    journal.append_many(&[b"c", b"d"]).unwrap();
    journal.synced(done);
    assert_eq!(journal.synced_end(), a, "the ticket was for bytes that are gone");
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_at_the_last_good_record() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let positions = journal.append_many(&[record(1, 30), record(2, 0), record(3, 600)]).unwrap();
    let whole = file_bytes(&disk);
    let ends = [positions[1], positions[2], journal.end()];
    for len in HEADER_BYTES..=journal.end() {
        let kept = ends.iter().filter(|end| **end <= len).count();
        let good_end = if kept == 0 { HEADER_BYTES } else { ends[kept - 1] };
        let torn = with_file(&whole[..usize::try_from(len).unwrap()]);
        let mut opened = open(&torn).unwrap();
        assert_eq!(opened.entries.len(), kept, "cut at {len}");
        assert_eq!(opened.recovery.torn_bytes, len - good_end, "cut at {len}");
        // It goes on where it was cut.
        assert_eq!(opened.journal.append(b"next").unwrap(), good_end);
        let again = open(&torn).unwrap();
        assert_eq!((again.entries.len(), again.recovery.torn_bytes), (kept + 1, 0));
    }
    // A tail of zeros is what a lost write behind a surviving length leaves.
    let mut zeros = whole.clone();
    zeros.resize(whole.len() + 1000, 0);
    assert_eq!(open(&with_file(&zeros)).unwrap().recovery.torn_bytes, 1000);
}

#[test]
fn damage_of_durable_records_is_an_error_that_names_file_and_offset() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let first = journal.append(&record(1, 20)).unwrap();
    let second = journal.append(&record(2, 20)).unwrap();
    journal.sync().unwrap();
    let third = journal.append(&record(3, 20)).unwrap();
    journal.sync().unwrap();
    let whole = file_bytes(&disk);
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        let outcome = open(&with_file(&damaged));
        let at = at as u64;
        if at >= third {
            // The last commit group has no witness after it: it looks like a torn append.
            assert_eq!(outcome.unwrap().entries.len(), 2, "flip at {at}");
            continue;
        }
        let expected = match at {
            _ if at < HEADER_BYTES => 0,
            _ if at < second => first,
            _ => second,
        };
        match outcome {
            Err(StorageError::Corrupt { path: named, offset, .. }) => {
                assert_eq!((named.as_path(), offset), (path(), expected), "flip at {at}");
            }
            other => panic!("flip at {at}: {other:?}"),
        }
    }
}

/// A file made by `rewrite` was durable as a whole, so damage in it is told apart although nothing was appended since.
#[test]
fn damage_in_a_rewritten_file_is_an_error() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let positions = journal.rewrite(&[record(1, 20), record(2, 20)]).unwrap();
    let mut bytes = file_bytes(&disk);
    bytes[usize::try_from(positions[0]).unwrap() + 25] ^= 1;
    let error = open(&with_file(&bytes)).unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("/data/journal is corrupt at offset 40: a record fails"), "{said}");
}

#[test]
fn a_file_of_another_kind_owner_or_version_is_refused_by_name() {
    let disk = mem();
    drop(open(&disk).unwrap());
    let reopen = |format| {
        Journal::open(Arc::new(disk.clone()), path(), format).map(|opened| opened.recovery)
    };
    let cases = [
        (JournalFormat { magic: *b"TWOTHERS", ..FORMAT }, "it is a `TWTESTJL`"),
        (
            JournalFormat { version: 1, ..FORMAT },
            "it has version 1.2; this release reads up to 1.1",
        ),
        (JournalFormat { identity: [6; 16], ..FORMAT }, "it belongs to 0505"),
    ];
    for (format, reason) in cases {
        let said = reopen(format).unwrap_err().to_string();
        assert!(said.contains(reason), "{said}");
    }
    assert_eq!(reopen(JournalFormat { version: 3, ..FORMAT }).unwrap().version, 2);
    assert_eq!(reopen(JournalFormat { identity: [0; 16], ..FORMAT }).unwrap().identity, [5; 16]);
    // A lowered bound must not pass for a torn tail.
    open(&disk).unwrap().journal.append(&[1; 100]).unwrap();
    let error = reopen(JournalFormat { record_bytes_max: 99, ..FORMAT }).unwrap_err();
    assert!(matches!(error, StorageError::TooLarge { bytes: 100, .. }), "{error}");
}

#[test]
fn a_failed_write_or_sync_fences_for_good() {
    for operation in [Operation::Write, Operation::SyncData] {
        let disk = mem();
        let mut journal = Journal::open(Arc::new(disk.clone()), path(), FORMAT).unwrap().journal;
        journal.append(b"durable").unwrap();
        journal.sync().unwrap();
        disk.fail(operation, 1, io::ErrorKind::Other);
        let first = journal.append(b"in doubt").and_then(|_| journal.sync()).unwrap_err();
        assert!(matches!(first, StorageError::Io { .. }), "{operation:?}: {first}");
        // The disk is well again, but the answer stays: no retry can know what became of the bytes.
        for outcome in [
            journal.append(b"x").map(|_| ()),
            journal.sync(),
            journal.truncate(0),
            journal.rewrite(&[b"x"]).map(|_| ()),
            journal.sync_ticket().run().map(|_| ()),
        ] {
            assert!(outcome.unwrap_err().is_fenced(), "{operation:?}");
        }
        assert_eq!(journal.fence().cause(), Some(first.to_string().as_str()));
        let opened = Journal::open(Arc::new(disk), path(), FORMAT).unwrap();
        assert_eq!(records(&opened)[0], &b"durable"[..]);
        // Of a record whose sync failed the disk may have all or a part.
        let whole = if operation == Operation::Write { 1..=1 } else { 1..=2 };
        assert!(whole.contains(&opened.entries.len()), "{operation:?}");
    }
}

#[test]
fn a_full_disk_is_waited_out_without_a_fence() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    journal.append(b"before").unwrap();
    disk.set_capacity(Some(journal.end() + 100));
    assert!(journal.append(&[1; 500]).unwrap_err().is_disk_full());
    assert!(journal.rewrite(&[[1; 500]]).unwrap_err().is_disk_full());
    disk.set_capacity(None);
    journal.append(b"after").unwrap();
    journal.sync().unwrap();
    assert_eq!(records(&open(&disk).unwrap()), [&b"before"[..], b"after"]);
    assert!(!disk.exists(&tmp_path(path())).unwrap(), "the half-written file is gone");
}

/// Appends, syncs, truncates and rewrites at random; cuts the power after every single operation of the disk; whatever
/// survives must be the durable records, plus a prefix of what was appended since (or the content a truncate or rewrite
/// under way was making).
#[test]
fn every_crash_leaves_the_durable_records() {
    for seed in 0..12 {
        for cut in 0.. {
            let mem = mem();
            let disk = mem.clone();
            disk.power_off_after(cut);
            let mut model = Model::default();
            let finished = model.run(&disk, seed).is_ok();
            for crash in 0..4 {
                let context =
                    format!("seed {seed}, power cut after {cut} operations, crash {crash}");
                let image = mem.crash_image(seed * 1000 + crash);
                match open(&image) {
                    Ok(opened) => model.check(&records(&opened), &context),
                    Err(error) => panic!("{context}: {error}"),
                }
            }
            if finished {
                break;
            }
        }
    }
}

#[derive(Default)]
struct Model {
    durable: Vec<Vec<u8>>,
    /// Appended since the last sync.
    fresh: Vec<Vec<u8>>,
    /// What a truncate or rewrite that has begun will leave.
    underway: Option<Vec<Vec<u8>>>,
}

impl Model {
    fn run(&mut self, disk: &SimDisk, seed: u64) -> Result<(), StorageError> {
        let mut seed = Seed::new(seed);
        let mut journal = Journal::open(Arc::new(disk.clone()), path(), FORMAT)?.journal;
        let mut positions: Vec<u64> = Vec::new();
        for n in 0..12 {
            match seed.below(8) {
                0 => {
                    let keep = usize::try_from(seed.below(positions.len() as u64 + 1)).unwrap();
                    let all = [self.durable.clone(), self.fresh.clone()].concat();
                    self.underway = Some(all[..keep].to_vec());
                    journal.truncate(positions.get(keep).copied().unwrap_or(journal.end()))?;
                    positions.truncate(keep);
                    if keep < all.len() {
                        self.settle();
                    }
                    self.underway = None;
                }
                1 => {
                    let all = [self.durable.clone(), self.fresh.clone()].concat();
                    let from = usize::try_from(seed.below(all.len() as u64 + 1)).unwrap();
                    self.underway = Some(all[from..].to_vec());
                    positions = journal.rewrite(&all[from..])?;
                    self.settle();
                }
                2 | 3 => {
                    journal.sync()?;
                    self.durable.append(&mut self.fresh);
                }
                _ => {
                    let record = record(n, seed.below(1500));
                    self.fresh.push(record.clone());
                    positions.push(journal.append(&record)?);
                }
            }
        }
        Ok(())
    }

    fn settle(&mut self) {
        self.durable = self.underway.take().unwrap_or_default();
        self.fresh.clear();
    }

    fn check(&self, found: &[Bytes], context: &str) {
        let all = [self.durable.clone(), self.fresh.clone()].concat();
        let is_prefix = found.len() <= all.len() && found.iter().zip(&all).all(|(a, b)| a == b);
        let kept_durable = is_prefix && found.len() >= self.durable.len();
        let became_new = self.underway.as_ref().is_some_and(|new| {
            // A truncate of records that were not yet durable may also leave less than it keeps.
            found == new.as_slice()
                || (is_prefix && found.len() >= new.len().min(self.durable.len()))
        });
        assert!(
            kept_durable || became_new,
            "{context}: found {} records, {} durable, {} fresh, underway {:?}",
            found.len(),
            self.durable.len(),
            self.fresh.len(),
            self.underway.as_ref().map(Vec::len)
        );
    }
}

/// A program that was killed leaves its appends in the page cache. What the next one reads there counts as durable, so it
/// must have made it so: records as well as the cut of a torn tail.
#[test]
fn what_opening_returns_is_durable() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    journal.append_many(&[record(1, 700), record(2, 900)]).unwrap();
    let torn = disk.open(path(), OpenMode::Write).unwrap();
    torn.write_at(&[1; 600], journal.end()).unwrap();
    drop(journal);
    let opened = open(&disk).unwrap();
    assert_eq!((opened.entries.len(), opened.recovery.torn_bytes), (2, 600));
    assert_eq!(opened.journal.synced_end(), opened.journal.end());
    for seed in 0..50 {
        let again = open(&disk.crash_image(seed)).unwrap();
        assert_eq!((again.entries.len(), again.recovery.torn_bytes), (2, 0), "seed {seed}");
    }
}

/// A sync failed and the program was restarted. The page cache still shows the records that never reached the disk, and the
/// next sync has nothing to write and succeeds: what opening returns must be what the disk has.
#[test]
fn a_restart_after_a_failed_sync_returns_what_the_disk_has() {
    let mut found = std::collections::BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::with_seed(seed);
        disk.create_dir_all(Path::new("/data")).unwrap();
        let mut journal = open(&disk).unwrap().journal;
        journal.append(b"durable").unwrap();
        journal.sync().unwrap();
        disk.fail(Operation::SyncData, 1, io::ErrorKind::Other);
        journal.append(&record(1, 700)).unwrap();
        journal.append(&record(2, 700)).unwrap();
        journal.sync().unwrap_err();
        let disk = disk.kill();
        let restarted = open(&disk).unwrap();
        assert_eq!(restarted.journal.synced_end(), restarted.journal.end());
        let again = open(&disk.crash(seed)).unwrap();
        assert_eq!(records(&again), records(&restarted), "seed {seed}");
        found.insert(again.entries.len());
    }
    assert_eq!(found, [1, 2, 3].into(), "of the records in doubt none, one or both were there");
}

/// After any crash a replaced file is the old one or the new one, and once the call returned, the new one.
#[test]
fn a_replaced_file_is_old_or_new_after_every_crash() {
    let (old, new) = (vec![1; 3000], vec![2; 2000]);
    let read = |disk: &SimDisk| {
        let file = disk.open(path(), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    for cut in 0.. {
        let mem = mem();
        atomic_replace(&mem, path(), &old).unwrap();
        let disk = mem.clone();
        disk.power_off_after(cut);
        let finished = atomic_replace(&disk, path(), &new).is_ok();
        for seed in 0..50 {
            let image = mem.crash_image(seed);
            let found = read(&image);
            let expected = found == new || (!finished && found == old);
            assert!(expected, "seed {seed}, cut after {cut}: {} bytes", found.len());
            // A left-over of the crash does not disturb the next replace.
            atomic_replace(&image, path(), b"next").unwrap();
            assert_eq!(read(&image.crash_image(seed)), b"next");
        }
        if finished {
            assert!(cut >= 5, "create, cut, write, sync, rename, sync of the directory");
            break;
        }
    }
}

#[test]
fn who_looks_on_sees_whole_records_from_any_record_on() {
    let disk = mem();
    let mut journal = open(&disk).unwrap().journal;
    let many: Vec<Vec<u8>> = (0..20).map(|n| record(n, n)).collect();
    let positions = journal.append_many(&many).unwrap();
    let bytes = file_bytes(&disk);
    let seen = |bytes: &[u8], position| -> Vec<(u64, Bytes)> {
        let entries = Journal::entries_in(bytes, position);
        entries.into_iter().map(|entry| (entry.position, entry.bytes)).collect()
    };
    let all: Vec<(u64, Bytes)> =
        positions.iter().copied().zip(many.into_iter().map(Bytes::from)).collect();
    assert_eq!(seen(&bytes, 0), all);
    let tenth = usize::try_from(positions[10]).unwrap();
    assert_eq!(seen(&bytes[tenth..], positions[10]), all[10..]);
    assert_eq!(seen(&bytes[..bytes.len() - 1], 0), all[..19], "the last one is not whole");
    assert_eq!(seen(&bytes[tenth..], positions[11]), [], "no record begins there");
}

#[test]
fn it_works_on_the_real_disk_and_the_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let lock = FsDisk.lock_dir(dir.path()).unwrap();
    let said = FsDisk.lock_dir(dir.path()).unwrap_err().to_string();
    assert!(said.contains(&format!("this process (pid {})", std::process::id())), "{said}");
    drop(lock);
    drop(FsDisk.lock_dir(dir.path()).unwrap());
    let path = dir.path().join("journal");
    let mut journal = Journal::open(FsDisk::shared(), &path, FORMAT).unwrap().journal;
    let many: Vec<Vec<u8>> = (0..1500).map(|n| record(n, n % 90)).collect();
    journal.append_many(&many).unwrap();
    journal.sync().unwrap();
    journal.rewrite(&many[1000..]).unwrap();
    journal.append(b"last").unwrap();
    drop(journal);
    let found = records(&Journal::open(FsDisk::shared(), &path, FORMAT).unwrap());
    assert_eq!(found[..500], many[1000..]);
    assert_eq!(found[500], &b"last"[..]);
}
