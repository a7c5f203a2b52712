//! What records add up to, and what is refused.

use std::os::unix::ffi::OsStrExt;

use super::*;

fn target(partition: i32) -> Target {
    Target { cluster: "c".into(), topic: "logs".into(), topic_id: "t".into(), partition }
}

fn file(generation: u128, ordinal: u64) -> FileEntry {
    FileEntry {
        generation: Generation(generation),
        ordinal,
        id: FileId { dev: 1, ino: 2, birth_ns: Some(3) },
        path: Path::new("/var/log/a.log").into(),
        origin: Path::new("/var/log/a.log").into(),
        input: "i".into(),
        offset: 0,
        marker: Marker::default(),
        head: Head::default(),
        target: None,
        seen: WallMs(5),
        ladder: Ladder::default(),
        rebooted: false,
    }
}

fn plan(number: u64, generation: u128, from: u64, to: u64) -> Plan {
    let sequence = i32::try_from(number).unwrap() * 10;
    Plan {
        number,
        at: WallMs(5),
        target: target(0),
        producer_id: 7,
        producer_epoch: 0,
        first_sequence: sequence,
        last_sequence: sequence + 9,
        acked_through: sequence - 1,
        ranges: vec![Range {
            generation: Generation(generation),
            from,
            to,
            marker: Marker::of(b"marker"),
        }],
        lines: Some(11),
        pipeline: 9,
        shared: false,
    }
}

fn ledger(records: Vec<Record>) -> Ledger {
    let mut ledger = Ledger::default();
    for record in records {
        ledger.apply(record).unwrap();
        ledger.check();
    }
    ledger
}

#[test]
fn an_ack_moves_the_offset_and_the_place_to_scan_from() {
    let mut ledger = ledger(vec![
        Record::File(file(1, 0).into()),
        Record::Plan(plan(0, 1, 0, 100)),
        Record::Plan(plan(1, 1, 100, 250)),
    ]);
    ledger.apply(Record::Acked { plan: 0, base_offset: 40 }).unwrap();
    assert_eq!(ledger.files[&Generation(1)].offset, 100);
    assert_eq!(ledger.files[&Generation(1)].marker, Marker::of(b"marker"));
    assert_eq!(ledger.scan_from[&target(0)], 50);
    assert_eq!(ledger.plans.keys().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(ledger.plan_next(), 2);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let mut ledger = ledger(vec![
        Record::File(file(1, 0).into()),
        Record::Plan(plan(0, 1, 0, 100)),
        Record::Plan(plan(1, 1, 100, 250)),
    ]);
    let gap = LedgerError::Gap { plan: 2, generation: Generation(1), from: 300, offset: 250 };
    for (record, expected) in [
        (Record::Acked { plan: 1, base_offset: 0 }, LedgerError::OutOfOrder(1)),
        (Record::Acked { plan: 9, base_offset: 0 }, LedgerError::NoPlan(9)),
        (Record::Done { generation: Generation(8) }, LedgerError::NoGeneration(Generation(8))),
    ] {
        let before = ledger.clone();
        assert_eq!(ledger.apply(record), Err(expected));
        assert_eq!(ledger, before);
    }
    ledger.apply(Record::Acked { plan: 0, base_offset: 0 }).unwrap();
    ledger.apply(Record::Acked { plan: 1, base_offset: 0 }).unwrap();
    ledger.apply(Record::Plan(plan(2, 1, 300, 400))).unwrap();
    assert_eq!(ledger.apply(Record::Acked { plan: 2, base_offset: 0 }), Err(gap));
    for number in 3..7 {
        ledger.apply(Record::Plan(plan(number, 1, 400 * number, 400 * number + 1))).unwrap();
    }
    let sixth = Record::Plan(plan(7, 1, 9_000, 9_001));
    assert_eq!(ledger.apply(sixth), Err(LedgerError::TooManyPlans(0, "logs".into())));
}

#[test]
fn a_voided_plan_leaves_the_offset_where_it_was() {
    let mut ledger =
        ledger(vec![Record::File(file(1, 0).into()), Record::Plan(plan(0, 1, 0, 100))]);
    ledger.apply(Record::Void { plan: 0, why: "not in the partition".into() }).unwrap();
    assert_eq!(ledger.files[&Generation(1)].offset, 0);
    assert!(ledger.plans.is_empty());
}

const FENCE: Fence = Fence { producer_id: 7, producer_epoch: 1 };

#[test]
fn a_fence_stays_until_something_under_it_is_acknowledged() {
    let fence = Record::Fence { target: target(0), fence: Some(FENCE) };
    let under = |number: u64, producer_epoch: i16| {
        Record::Plan(Plan { producer_epoch, ..plan(number, 1, number * 100, number * 100 + 100) })
    };
    let mut ledger = ledger(vec![Record::File(file(1, 0).into()), under(0, 0), fence, under(1, 1)]);
    ledger.apply(Record::Acked { plan: 0, base_offset: 0 }).unwrap();
    assert_eq!(ledger.fences, BTreeMap::from([(target(0), FENCE)]), "by another epoch");
    ledger.apply(Record::Acked { plan: 1, base_offset: 10 }).unwrap();
    assert_eq!(ledger.fences, BTreeMap::new());
    ledger.apply(Record::Fence { target: target(0), fence: Some(FENCE) }).unwrap();
    ledger.apply(Record::Fence { target: target(0), fence: None }).unwrap();
    assert_eq!(ledger.fences, BTreeMap::new());
}

/// As the version before this one wrote it.
#[test]
fn a_plan_that_does_not_say_what_its_lines_were_is_read() {
    let mut old = serde_json::to_value(Record::Plan(plan(0, 1, 0, 100))).unwrap();
    old.as_object_mut().unwrap().remove("lines").unwrap();
    let read: Record = serde_json::from_value(old).unwrap();
    assert_eq!(read, Record::Plan(Plan { lines: None, ..plan(0, 1, 0, 100) }));
}

/// Asked before or after, once the index is there or not yet.
#[test]
fn the_newest_generation_of_an_inode_is_its_current_one() {
    let id = file(1, 1).id;
    let current = |ledger: &Ledger| ledger.current(&id).map(|entry| entry.generation.0);
    let mut ledger = ledger(vec![Record::File(file(9, 0).into()), Record::File(file(1, 1).into())]);
    let other = FileId { ino: 77, ..id };
    assert_eq!((current(&ledger), ledger.current(&other)), (Some(1), None));
    ledger.apply(Record::File(file(5, 2).into())).unwrap();
    assert_eq!(current(&ledger), Some(5), "a newer one came");
    let moved = FileEntry { id: other, ..file(5, 2) };
    ledger.apply(Record::File(moved.into())).unwrap();
    assert_eq!((current(&ledger), ledger.current(&other).unwrap().generation.0), (Some(1), 5));
    ledger.apply(Record::Done { generation: Generation(1) }).unwrap();
    assert_eq!(current(&ledger), Some(9), "the newest is done");
    ledger.apply_files(vec![(Generation(3), file(3, 1).into())]);
    assert_eq!(current(&ledger), Some(3), "many came");
    ledger.apply(Record::Done { generation: Generation(3) }).unwrap();
    ledger.apply(Record::Done { generation: Generation(9) }).unwrap();
    assert_eq!(current(&ledger), None, "all are done");
}

#[test]
fn many_files_at_once_are_the_same_as_one_by_one() {
    let at = |offset, generation| FileEntry { offset, ..file(generation, 0) };
    for known in [0, 5, 100] {
        let mut one_by_one = Ledger::default();
        for generation in 0..known {
            one_by_one.apply(Record::File(at(1, generation).into())).unwrap();
        }
        let mut at_once = one_by_one.clone();
        // Out of order, some known, some twice: the last one counts.
        let more = [7, 3, 12, 3, 0].into_iter().zip(10..);
        let more = more.map(|(generation, offset)| Box::new(at(offset, generation)));
        let more: Vec<_> = more.map(|entry| (entry.generation, entry)).collect();
        at_once.apply_files(more.clone());
        for (_, entry) in more {
            one_by_one.apply(Record::File(entry)).unwrap();
        }
        assert_eq!(at_once, one_by_one, "{known} known");
        assert_eq!(at_once.files[&Generation(3)].offset, 13, "{known} known");
    }
}

#[test]
fn its_records_make_it_again_also_as_text() {
    let mut odd = file(2, 0);
    odd.path = Path::new(std::ffi::OsStr::from_bytes(b"/tmp/\xff")).into();
    let ledger = ledger(vec![
        Record::Input { input: "i".into() },
        Record::File(file(1, 0).into()),
        Record::File(odd.into()),
        Record::Pin { generation: Generation(1), target: target(0).into() },
        Record::Head { generation: Generation(1), head: Head::of(b"head") },
        Record::ScanFrom { target: target(0), from: 4 },
        Record::Fence { target: target(0), fence: Some(FENCE) },
        Record::Plan(plan(0, 1, 0, 100)),
        Record::Home(home("m", "b", 1)),
        Record::Rest,
    ]);
    let mut again = Ledger::default();
    for record in ledger.records() {
        let text = serde_json::to_vec(&record).unwrap();
        again.apply(serde_json::from_slice(&text).unwrap()).unwrap();
    }
    assert_eq!(again, ledger);
}

#[test]
fn sequences_wrap() {
    assert_eq!(record_count(0, 0), 1);
    assert_eq!(record_count(5, 14), 10);
    assert_eq!(record_count(i32::MAX, 1), 3);
}

fn home(machine: &str, boot: &str, ino: u64) -> Home {
    let place = Some(FileId { dev: 1, ino, birth_ns: None });
    Home { machine: machine.into(), boot: boot.into(), place }
}

#[test]
fn another_start_of_the_host_and_another_place_are_remembered() {
    let fence = Record::Fence { target: target(0), fence: Some(FENCE) };
    for (now, rebooted, copied) in [
        (home("m", "b", 1), false, false),
        (home("m", "other", 1), true, false),
        (home("other", "other", 1), true, true),
        (home("m", "b", 2), false, true),
        (Home::default(), false, false),
        (Home { place: None, ..home("m", "", 1) }, false, false),
    ] {
        let mut ledger = ledger(vec![
            Record::File(file(1, 0).into()),
            Record::Home(home("m", "b", 1)),
            Record::Plan(plan(0, 1, 0, 100)),
            fence.clone(),
        ]);
        ledger.apply(Record::Home(now.clone())).unwrap();
        assert_eq!(ledger.files[&Generation(1)].rebooted, rebooted, "{now:?}");
        assert_eq!(ledger.plans[&0].shared, copied, "{now:?}");
        assert_eq!(ledger.fences.is_empty(), copied, "{now:?}");
        assert_eq!(ledger.home, Some(now));
    }
}

#[test]
fn each_acknowledged_end_is_a_rung() {
    let mut ledger = ledger(vec![
        Record::File(file(1, 0).into()),
        Record::Plan(plan(0, 1, 0, 100)),
        Record::Plan(plan(1, 1, 100, 250)),
    ]);
    for plan in 0..2 {
        ledger.apply(Record::Acked { plan, base_offset: 0 }).unwrap();
    }
    let rung = |offset| Rung { offset, marker: Marker::of(b"marker") };
    assert_eq!(ledger.files[&Generation(1)].ladder, Ladder::of([rung(100), rung(250)]));
}
