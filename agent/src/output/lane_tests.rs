//! Lanes without a network: what is sent, in which order, and what comes of a split.

use bytes::Bytes;
use tailway_wire::record::{Batch, Compression};

use super::*;
use crate::event::Format;
use crate::output::parcel::{ORIGIN_HEADER, split};

const A: Generation = Generation(0xa);
const B: Generation = Generation(0xb);
const LINGER: Duration = Duration::from_millis(20);
const NOW: Mono = Mono::from_millis(1_000);

fn target() -> Target {
    Target { cluster: "c".into(), topic: "logs".into(), topic_id: "t".into(), partition: 3 }
}

fn lane() -> (Lane, mpsc::Receiver<Command>) {
    let (commands, heard) = mpsc::channel(8);
    (Lane::new(0, target(), 1_000, commands), heard)
}

fn identity() -> ProducerIdentity {
    ProducerIdentity { producer_id: 77, producer_epoch: 0 }
}

fn put(lane: &mut Lane, generation: Generation, from: u64, to: u64, value: &str) {
    let (format, at, text) = (Format::Raw, WallMs(9), value.as_bytes());
    let entry = Entry { generation, from, to, format, at, text };
    lane.append(entry, |out| out.extend_from_slice(text));
    lane.mark(generation, Marker::of(value.as_bytes()), NOW);
}

fn builder() -> BatchBuilder {
    BatchBuilder::new(Compression::Zstd)
}

fn values(parcel: &Parcel) -> Vec<String> {
    let batch = Batch::parse(&parcel.bytes).unwrap();
    batch.validate().unwrap();
    let text = |value: Option<Bytes>| String::from_utf8(value.unwrap().to_vec()).unwrap();
    batch.records(1 << 20).unwrap().map(|record| text(record.unwrap().value)).collect()
}

fn spans(parcel: &Parcel) -> Vec<(Generation, u64, u64)> {
    parcel.ranges.iter().map(|range| (range.generation, range.from, range.to)).collect()
}

fn next(lane: &mut Lane, now: Mono) -> Option<Parcel> {
    lane.next_parcel(&mut builder(), LINGER, now).unwrap()
}

#[test]
fn nothing_is_sent_before_the_lane_began_nor_before_the_linger() {
    let (mut lane, _heard) = lane();
    put(&mut lane, A, 0, 5, "one");
    assert_eq!(next(&mut lane, NOW + LINGER), None);
    lane.started(identity());
    assert_eq!(next(&mut lane, NOW), None);
    assert_eq!(lane.deadline(LINGER), Some(NOW + LINGER));
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!((values(&parcel), spans(&parcel)), (vec!["one".into()], vec![(A, 0, 5)]));
    assert_eq!(lane.deadline(LINGER), None);
}

#[test]
fn a_full_buffer_is_sent_at_once() {
    let (mut lane, _heard) = lane();
    lane.started(identity());
    put(&mut lane, A, 0, 2_000, &"x".repeat(1_000));
    assert!(!lane.has_room());
    assert!(next(&mut lane, NOW).is_some());
}

#[test]
fn files_that_take_turns_have_one_range_each() {
    let (mut lane, _heard) = lane();
    lane.started(identity());
    for (generation, from, to) in [(A, 0, 5), (B, 10, 12), (A, 5, 9), (B, 12, 20)] {
        put(&mut lane, generation, from, to, &format!("{generation:?}{from}"));
    }
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(spans(&parcel), [(A, 0, 9), (B, 10, 20)]);
    assert_eq!(parcel.ranges[0].marker, Marker::of(format!("{A:?}5").as_bytes()));
}

#[test]
fn the_first_record_says_where_the_batch_came_from() {
    let (mut lane, _heard) = lane();
    lane.started(identity());
    put(&mut lane, A, 3, 5, "one");
    put(&mut lane, A, 5, 9, "two");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let records: Vec<_> = Batch::parse(&parcel.bytes)
        .unwrap()
        .records(1 << 20)
        .unwrap()
        .map(|r| r.unwrap())
        .collect();
    let origin = |at: usize| records[at].headers.get(ORIGIN_HEADER);
    assert_eq!(origin(0).unwrap(), format!("{A}:3-9"));
    assert_eq!(origin(1), None);
}

#[test]
fn at_most_five_are_on_their_way_and_acks_come_in_order() {
    let (mut lane, mut heard) = lane();
    lane.started(identity());
    for number in 0..6 {
        put(&mut lane, A, number, number + 1, "line");
        let parcel = next(&mut lane, NOW + LINGER);
        if number == 5 {
            assert_eq!(parcel, None, "a sixth");
            break;
        }
        let parcel = parcel.unwrap();
        let plan = lane.plan(number, WallMs(9), &parcel, 1).unwrap();
        let sequence = i32::try_from(number).unwrap();
        assert_eq!((plan.first_sequence, plan.last_sequence), (sequence, sequence));
        lane.send(&plan, parcel).unwrap();
        let Ok(Command::Batch { bytes, .. }) = heard.try_recv() else { panic!("not sent") };
        let header = Batch::parse(&bytes).unwrap().header;
        assert_eq!((header.producer_id, header.base_sequence), (77, sequence));
    }
    assert_eq!(lane.acked(0).unwrap().plan, 0);
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(lane.plan(6, WallMs(9), &parcel, 1).unwrap().acked_through, 0);
}

#[test]
fn what_was_on_its_way_goes_first_under_the_new_identity() {
    let (mut lane, mut heard) = lane();
    lane.started(identity());
    put(&mut lane, A, 0, 5, "one");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let plan = lane.plan(0, WallMs(9), &parcel, 1).unwrap();
    lane.send(&plan, parcel).unwrap();
    put(&mut lane, A, 5, 9, "two");
    let sent: Vec<Parcel> = lane.take_sent().into_iter().map(|sent| sent.parcel).collect();
    assert_eq!(next(&mut lane, NOW + LINGER), None, "sent before it began again");
    lane.send_again(sent);
    lane.start(None);
    lane.started(ProducerIdentity { producer_id: 78, producer_epoch: 0 });
    let again = next(&mut lane, NOW).unwrap();
    let plan = lane.plan(1, WallMs(9), &again, 1).unwrap();
    assert_eq!((plan.producer_id, plan.first_sequence, spans(&again)), (78, 0, vec![(A, 0, 5)]));
    lane.send(&plan, again).unwrap();
    assert!(matches!(heard.try_recv(), Ok(Command::Batch { .. })));
    assert!(matches!(heard.try_recv(), Ok(Command::Start { identity: None, .. })));
    let Ok(Command::Batch { bytes, .. }) = heard.try_recv() else { panic!("not sent") };
    let batch = Batch::parse(&bytes).unwrap();
    batch.validate().unwrap();
    assert_eq!((batch.header.producer_id, batch.header.base_sequence), (78, 0));
}

#[test]
fn a_parcel_splits_into_the_same_records_and_ranges() {
    let (mut lane, _heard) = lane();
    lane.started(identity());
    let steps = [(A, 0, 5), (A, 5, 9), (B, 0, 3), (A, 9, 10), (B, 3, 7)];
    for (generation, from, to) in steps {
        put(&mut lane, generation, from, to, &format!("{generation:?}-{from}"));
    }
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let [first, second] = split(&parcel, &mut builder()).unwrap().unwrap();
    assert_eq!([values(&first), values(&second)].concat(), values(&parcel));
    assert_eq!((first.count, second.count), (2, 3));
    assert_eq!(spans(&first), [(A, 0, 9)]);
    assert_eq!(spans(&second), [(B, 0, 7), (A, 9, 10)]);
    assert_eq!(first.ranges[0].marker, Marker::default());
    assert_eq!(second.ranges[1].marker, Marker::of(format!("{A:?}-9").as_bytes()));
    let [one, two] = split(&first, &mut builder()).unwrap().unwrap();
    assert_eq!((spans(&one), spans(&two)), (vec![(A, 0, 5)], vec![(A, 5, 9)]));
}

#[test]
fn a_parcel_of_one_line_is_cut_where_its_halves_lie_in_the_file() {
    let (mut lane, _heard) = lane();
    lane.started(identity());
    put(&mut lane, A, 100, 109, "12345678");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let [one, two] = split(&parcel, &mut builder()).unwrap().unwrap();
    assert_eq!((values(&one), spans(&one)), (vec!["1234".into()], vec![(A, 100, 104)]));
    assert_eq!((values(&two), spans(&two)), (vec!["5678".into()], vec![(A, 104, 109)]));
    put(&mut lane, A, 109, 111, "1");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(split(&parcel, &mut builder()).unwrap(), None);
}

/// Parcels of an earlier process go out with their old sequences, and nothing new before them.
#[test]
fn what_an_earlier_process_sent_goes_out_as_it_was() {
    let (mut lane, mut heard) = lane();
    let parcels: Vec<(Plan, Parcel)> = [(4, i32::MAX, 0, 5), (5, 0, 5, 9)]
        .into_iter()
        .map(|(number, sequence, from, to)| {
            let mut other = Lane::new(0, target(), 1_000, mpsc::channel(8).0);
            other.started(identity());
            put(&mut other, A, from, to, "line");
            let parcel = next(&mut other, NOW + LINGER).unwrap();
            let mut plan = other.plan(number, WallMs(9), &parcel, 1).unwrap();
            (plan.first_sequence, plan.last_sequence) = (sequence, sequence);
            (plan, parcel)
        })
        .collect();
    put(&mut lane, B, 0, 5, "new");
    let resent = parcels.iter().map(|(plan, parcel)| (plan, parcel.clone())).collect();
    lane.resume(identity(), resent).unwrap();
    let Ok(Command::Start { identity: Some(as_was), first_sequence, resent }) = heard.try_recv()
    else {
        panic!("not started")
    };
    assert_eq!((as_was, first_sequence), (identity(), i32::MAX));
    let sequences: Vec<i32> =
        resent.iter().map(|(bytes, _)| Batch::parse(bytes).unwrap().header.base_sequence).collect();
    assert_eq!(sequences, [i32::MAX, 0]);
    lane.started(identity());
    for (base_sequence, plan) in [(i32::MAX, 4), (0, 5)] {
        assert_eq!(next(&mut lane, NOW + LINGER), None, "something new before it");
        assert_eq!(lane.deadline(LINGER), None);
        assert_eq!(lane.acked(base_sequence).unwrap().plan, plan);
    }
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(lane.plan(6, WallMs(9), &parcel, 1).unwrap().first_sequence, 1);
}

/// The hash says what the lines are, not how files take turns nor when they were read.
#[test]
fn the_hash_of_the_lines_is_that_of_the_same_lines_only() {
    type Step = (Generation, u64, u64, &'static str);
    let hash = |steps: &[Step], part: Option<usize>| {
        let (mut lane, _heard) = lane();
        lane.started(identity());
        for (generation, from, to, text) in steps {
            put(&mut lane, *generation, *from, *to, text);
        }
        let parcel = next(&mut lane, NOW + LINGER).unwrap();
        match part {
            None => parcel.lines_hash().unwrap(),
            Some(at) => split(&parcel, &mut builder()).unwrap().unwrap()[at].lines_hash().unwrap(),
        }
    };
    let of = |steps: &[Step]| hash(steps, None);
    let base = of(&[(A, 0, 4, "one"), (B, 0, 4, "two"), (A, 4, 9, "four")]);
    assert_eq!(of(&[(A, 0, 4, "one"), (A, 4, 9, "four"), (B, 0, 4, "two")]), base);
    for other in [
        &[(A, 0, 4, "one"), (B, 0, 4, "two"), (A, 4, 9, "five")][..],
        &[(A, 0, 5, "one"), (B, 0, 4, "two"), (A, 5, 9, "four")],
        &[(A, 0, 9, "onefour"), (B, 0, 4, "two")],
        &[(A, 0, 4, "one"), (A, 4, 9, "four")],
    ] {
        assert_ne!(of(other), base, "{other:?}");
    }
    let four = [(A, 0, 4, "one"), (B, 0, 4, "two"), (A, 4, 9, "four"), (B, 4, 6, "1")];
    assert_eq!(hash(&four, Some(1)), of(&four[2..]), "split between lines");
    let long = [(A, 0, 9, "12345678")];
    assert_eq!(hash(&long, Some(0)), of(&[(A, 0, 4, "1234")]), "split inside of a line");
    assert_eq!(hash(&long, Some(1)), of(&[(A, 4, 9, "5678")]), "split inside of a line");
}
