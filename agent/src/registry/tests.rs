//! The journal on a disk that tears, fills up and fails.

use super::*;
use crate::machine::identity::{FileId, Generation, Head, Ladder, Marker};
use crate::machine::ledger::{FileEntry, Range, Target};
use tailway_metadata::time::WallMs;
use tailway_storage::{Operation, SimDisk};

fn file(generation: u128) -> Record {
    Record::File(Box::new(FileEntry {
        generation: Generation(generation),
        ordinal: 0,
        id: FileId { dev: 1, ino: 2, birth_ns: None },
        path: Path::new("/var/log/a.log").into(),
        origin: Path::new("/var/log/a.log").into(),
        input: "i".into(),
        offset: 0,
        marker: Marker::default(),
        head: Head::default(),
        target: None,
        seen: WallMs(0),
        ladder: Ladder::default(),
        rebooted: false,
    }))
}

const PATH: &str = "/journal";

fn plan(number: u64) -> Plan {
    let target =
        Target { cluster: "c".into(), topic: "t".into(), topic_id: String::new(), partition: 0 };
    let range = Range { generation: Generation(1), from: 0, to: 9, marker: Marker::default() };
    Plan {
        number,
        at: WallMs(0),
        target,
        producer_id: 7,
        producer_epoch: 0,
        first_sequence: 0,
        last_sequence: 8,
        acked_through: -1,
        ranges: vec![range],
        lines: None,
        pipeline: 0,
        shared: false,
    }
}

fn open(disk: &SimDisk) -> (Registry, Recovery) {
    Registry::open(Arc::new(disk.clone()), Path::new(PATH)).unwrap()
}

#[test]
fn what_was_recorded_is_there_again() {
    let disk = SimDisk::new();
    let (mut registry, recovery) = open(&disk);
    assert!(recovery.created);
    for generation in 0..100 {
        registry.record(file(generation)).unwrap();
    }
    registry.record(Record::Done { generation: Generation(7) }).unwrap();
    let expected = registry.ledger().clone();
    drop(registry);
    assert_eq!(*open(&disk).0.ledger(), expected);
}

#[test]
fn after_a_power_cut_a_prefix_is_there() {
    for seed in 0..50 {
        let disk = SimDisk::new();
        let (mut registry, _) = open(&disk);
        for generation in 0..20 {
            registry.record(file(generation)).unwrap();
            if generation == 9 {
                registry.sync().unwrap();
            }
        }
        let (again, _) = open(&disk.crash_image(seed));
        let count = again.ledger().files.len();
        assert!((10..=20).contains(&count), "seed {seed}: {count} of 20, 10 durable");
        let last = Generation(count as u128 - 1);
        assert!(again.ledger().files.contains_key(&last), "seed {seed}: not a prefix");
    }
}

#[test]
fn a_long_journal_that_says_little_is_written_anew() {
    let disk = SimDisk::new();
    let (mut registry, _) = open(&disk);
    while !registry.compact_if_worth_it().unwrap() {
        registry.record(file(1)).unwrap();
    }
    assert!(registry.bytes() < 1_000, "{} bytes", registry.bytes());
    registry.record(file(2)).unwrap();
    let expected = registry.ledger().clone();
    drop(registry);
    assert_eq!(*open(&disk).0.ledger(), expected);
}

#[test]
fn where_it_cannot_be_written_anew_the_long_one_goes_on() {
    let disk = SimDisk::new();
    let (mut registry, _) = open(&disk);
    let grow = |registry: &mut Registry, by: u64| {
        let until = registry.bytes() + by;
        for generation in (0..100).cycle() {
            registry.record(file(generation)).unwrap();
            if registry.bytes() >= until {
                return;
            }
        }
    };
    grow(&mut registry, COMPACT_BYTES_MIN);
    // There is no room for what it says, beside what it is.
    disk.set_capacity(Some(registry.bytes() + 10_000));
    assert!(!registry.compact_if_worth_it().unwrap());
    registry.record(file(2)).unwrap();
    let expected = registry.ledger().clone();
    disk.set_capacity(None);
    assert!(!registry.compact_if_worth_it().unwrap(), "again at once");
    grow(&mut registry, COMPACT_BYTES_MIN);
    assert!(registry.compact_if_worth_it().unwrap());
    assert_eq!(*registry.ledger(), expected);
    drop(registry);
    assert_eq!(*open(&disk).0.ledger(), expected);
}

#[test]
fn journals_of_older_versions_are_read_and_written_anew() {
    for version in [1, 2] {
        let disk = SimDisk::new();
        let format = JournalFormat { version, ..FORMAT };
        let opened =
            Journal::open_with(Arc::new(disk.clone()), Path::new(PATH), format, &mut |_| {});
        let mut old = opened.unwrap().0;
        // All of it was JSON.
        old.append(&serde_json::to_vec(&file(1)).unwrap()).unwrap();
        drop(old);
        let (registry, recovery) = open(&disk);
        assert_eq!((registry.ledger().files.len(), recovery.version), (1, version));
        drop(registry);
        let (registry, recovery) = open(&disk);
        assert_eq!((registry.ledger().files.len(), recovery.version), (1, VERSION));
    }
}

/// A full disk: no plan is taken, everything else is remembered, and written when there is room.
#[test]
fn what_finds_no_room_is_written_when_there_is_some() {
    for much in [false, true] {
        let disk = SimDisk::new();
        let (mut registry, _) = open(&disk);
        registry.record(file(1)).unwrap();
        disk.set_capacity(Some(registry.bytes()));
        assert!(!registry.plan(plan(0)).unwrap(), "much: {much}");
        assert!(registry.trouble().unwrap().contains("cannot be written"), "much: {much}");
        assert!(registry.ledger().plans.is_empty(), "much: {much}");
        let more: u128 = if much { 40_000 } else { 10 };
        for generation in 2..more {
            registry.record(file(generation)).unwrap();
        }
        assert!(!registry.catch_up().unwrap(), "much: {much}: there is no room yet");
        assert!(registry.sync_ticket().is_none(), "much: {much}");
        disk.set_capacity(None);
        assert!(registry.catch_up().unwrap(), "much: {much}");
        assert!(registry.plan(plan(9)).unwrap(), "much: {much}");
        assert!(registry.sync().unwrap(), "much: {much}");
        let expected = registry.ledger().clone();
        assert_eq!(*open(&disk.crash_image(1)).0.ledger(), expected, "much: {much}");
    }
}

/// A failed sync is not tried again: a new file is written from memory, and only that counts.
#[test]
fn after_a_failed_sync_the_journal_is_another_file() {
    use std::io::ErrorKind;
    for also in [None, Some(Operation::Rename), Some(Operation::SyncData)] {
        let disk = SimDisk::new();
        let (mut registry, _) = open(&disk);
        registry.record(file(1)).unwrap();
        registry.sync().unwrap();
        registry.record(file(2)).unwrap();
        disk.fail(Operation::SyncData, 1, ErrorKind::Other);
        let ticket = registry.sync_ticket().unwrap();
        registry.synced(ticket.run());
        assert!(registry.trouble().is_some(), "{also:?}");
        assert!(!registry.plan(plan(0)).unwrap(), "{also:?}");
        registry.record(file(3)).unwrap();
        if let Some(operation) = also {
            disk.fail(operation, 1, ErrorKind::Other);
            assert!(!registry.catch_up().unwrap(), "{also:?}");
            assert!(registry.trouble().is_some(), "{also:?}");
        }
        assert!(registry.catch_up().unwrap(), "{also:?}");
        assert!(registry.plan(plan(5)).unwrap(), "{also:?}");
        assert!(registry.sync().unwrap(), "{also:?}");
        let expected = registry.ledger().clone();
        for seed in 0..10 {
            let image = disk.crash_image(seed);
            assert_eq!(*open(&image).0.ledger(), expected, "{also:?}, seed {seed}");
        }
    }
}
