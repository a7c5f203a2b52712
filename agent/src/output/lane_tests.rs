//! Lanes without a network: what is sent, in which order, and what comes of a split.

use tailway_wire::record::Compression;

use super::*;

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
    lane.append(generation, from..to, Format::Raw, WallMs(9), |out| {
        out.extend_from_slice(value.as_bytes());
    });
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
    lane.began(identity());
    assert_eq!(next(&mut lane, NOW), None);
    assert_eq!(lane.deadline(LINGER), Some(NOW + LINGER));
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!((values(&parcel), spans(&parcel)), (vec!["one".into()], vec![(A, 0, 5)]));
    assert_eq!(lane.deadline(LINGER), None);
}

#[test]
fn a_full_buffer_is_sent_at_once() {
    let (mut lane, _heard) = lane();
    lane.began(identity());
    put(&mut lane, A, 0, 2_000, &"x".repeat(1_000));
    assert!(!lane.has_room());
    assert!(next(&mut lane, NOW).is_some());
}

#[test]
fn files_that_take_turns_have_one_range_each() {
    let (mut lane, _heard) = lane();
    lane.began(identity());
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
    lane.began(identity());
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
    lane.began(identity());
    for number in 0..6 {
        put(&mut lane, A, number, number + 1, "line");
        let parcel = next(&mut lane, NOW + LINGER);
        if number == 5 {
            assert_eq!(parcel, None, "a sixth");
            break;
        }
        let parcel = parcel.unwrap();
        let plan = lane.plan(number, &parcel, 1).unwrap();
        let sequence = i32::try_from(number).unwrap();
        assert_eq!((plan.first_sequence, plan.last_sequence), (sequence, sequence));
        lane.send(&plan, parcel).unwrap();
        let Ok(Command::Batch { bytes, .. }) = heard.try_recv() else { panic!("not sent") };
        let header = Batch::parse(&bytes).unwrap().header;
        assert_eq!((header.producer_id, header.base_sequence), (77, sequence));
    }
    assert_eq!(lane.acked(0).unwrap().plan, 0);
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(lane.plan(6, &parcel, 1).unwrap().acked_through, 0);
}

#[test]
fn what_was_on_its_way_goes_first_under_the_new_identity() {
    let (mut lane, mut heard) = lane();
    lane.began(identity());
    put(&mut lane, A, 0, 5, "one");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let plan = lane.plan(0, &parcel, 1).unwrap();
    lane.send(&plan, parcel).unwrap();
    put(&mut lane, A, 5, 9, "two");
    let sent: Vec<Parcel> = lane.take_sent().into_iter().map(|sent| sent.parcel).collect();
    assert_eq!(next(&mut lane, NOW + LINGER), None, "sent before it began again");
    lane.send_again(sent);
    lane.began(ProducerIdentity { producer_id: 78, producer_epoch: 0 });
    let again = next(&mut lane, NOW).unwrap();
    let plan = lane.plan(1, &again, 1).unwrap();
    assert_eq!((plan.producer_id, plan.first_sequence, spans(&again)), (78, 0, vec![(A, 0, 5)]));
    lane.send(&plan, again).unwrap();
    heard.try_recv().unwrap();
    let Ok(Command::Batch { bytes, .. }) = heard.try_recv() else { panic!("not sent") };
    let batch = Batch::parse(&bytes).unwrap();
    batch.validate().unwrap();
    assert_eq!((batch.header.producer_id, batch.header.base_sequence), (78, 0));
}

#[test]
fn a_parcel_splits_into_the_same_records_and_ranges() {
    let (mut lane, _heard) = lane();
    lane.began(identity());
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
    lane.began(identity());
    put(&mut lane, A, 100, 109, "12345678");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    let [one, two] = split(&parcel, &mut builder()).unwrap().unwrap();
    assert_eq!((values(&one), spans(&one)), (vec!["1234".into()], vec![(A, 100, 104)]));
    assert_eq!((values(&two), spans(&two)), (vec!["5678".into()], vec![(A, 104, 109)]));
    put(&mut lane, A, 109, 111, "1");
    let parcel = next(&mut lane, NOW + LINGER).unwrap();
    assert_eq!(split(&parcel, &mut builder()).unwrap(), None);
}
