//! Whole decisions, event by event.

use super::*;

const NOW: Mono = Mono::ZERO;

fn leader() -> PartitionLeader {
    PartitionLeader::new(Recovered {
        leader_epoch: 4,
        log_start: 10,
        log_end: 100,
        producers: Producers::default(),
        producer_ttl_ms: 1_000,
    })
}

fn run(leader: &mut PartitionLeader, event: Event) -> Vec<Action> {
    let mut out = Vec::new();
    leader.on_event(event, NOW, &mut out);
    leader.check();
    out
}

fn plain(count: i32) -> BatchFacts {
    BatchFacts { last_offset_delta: count - 1, producer: None }
}

fn idempotent(sequence: i32, count: i32) -> BatchFacts {
    let producer = ProducerBatch {
        producer_id: 7,
        producer_epoch: 0,
        base_sequence: sequence,
        last_offset_delta: count - 1,
    };
    BatchFacts { last_offset_delta: count - 1, producer: Some(producer) }
}

fn produce(id: u64, acks: Acks, batches: &[BatchFacts]) -> Event {
    Event::Produce {
        request: RequestId(id),
        acks,
        batches: batches.to_vec(),
        wall: WallMs(5),
        log_append_time: -1,
    }
}

fn append(id: u64, index: usize, base_offset: i64) -> Action {
    Action::Append { request: RequestId(id), index, base_offset, leader_epoch: 4 }
}

fn done(id: u64, base_offset: i64, last_offset: i64) -> Action {
    let appended = Appended { base_offset, last_offset, log_append_time: -1, log_start_offset: 10 };
    Action::CompleteProduce { request: RequestId(id), outcome: Ok(appended) }
}

fn failed(id: u64, error: &PartitionError) -> Action {
    Action::CompleteProduce { request: RequestId(id), outcome: Err(error.clone()) }
}

fn flush(through: i64) -> Action {
    Action::Flush { through }
}

fn advance(high_watermark: i64) -> Action {
    Action::AdvanceHighWatermark { high_watermark }
}

fn storage() -> PartitionError {
    PartitionError::Storage { cause: "fdatasync: EIO".into() }
}

#[test]
fn each_kind_of_ack_has_its_moment() {
    let mut leader = leader();
    assert_eq!(
        run(&mut leader, produce(1, Acks::None, &[plain(5)])),
        [append(1, 0, 100), done(1, -1, -1)]
    );
    assert_eq!(run(&mut leader, produce(2, Acks::Leader, &[plain(5)])), [append(2, 0, 105)]);
    assert_eq!(run(&mut leader, produce(3, Acks::All, &[plain(10)])), [append(3, 0, 110)]);
    assert_eq!(run(&mut leader, Event::Written), [done(2, 105, 109), flush(120)]);
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 120 }),
        [advance(120), done(3, 110, 119)]
    );
    assert_eq!(run(&mut leader, Event::Written), [], "nothing is dirty");
}

#[test]
fn one_flush_at_a_time_and_the_next_takes_all_that_gathered() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::All, &[plain(1)]));
    assert_eq!(run(&mut leader, Event::Written), [flush(101)]);
    run(&mut leader, produce(2, Acks::All, &[plain(1)]));
    assert_eq!(run(&mut leader, Event::Written), []);
    run(&mut leader, produce(3, Acks::All, &[plain(1)]));
    assert_eq!(run(&mut leader, Event::Written), []);
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 101 }),
        [advance(101), done(1, 100, 100), flush(103)]
    );
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 103 }),
        [advance(103), done(2, 101, 101), done(3, 102, 102)]
    );
}

#[test]
fn a_duplicate_is_answered_when_the_first_is_committed() {
    let mut leader = leader();
    assert_eq!(run(&mut leader, produce(1, Acks::All, &[idempotent(0, 5)])), [append(1, 0, 100)]);
    run(&mut leader, Event::Written);
    assert_eq!(run(&mut leader, produce(2, Acks::All, &[idempotent(0, 5)])), []);
    assert_eq!(
        run(&mut leader, produce(3, Acks::Leader, &[idempotent(0, 5)])),
        [done(3, 100, 104)]
    );
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 105 }),
        [advance(105), done(1, 100, 104), done(2, 100, 104)]
    );
    assert_eq!(run(&mut leader, produce(4, Acks::All, &[idempotent(0, 5)])), [done(4, 100, 104)]);
    let gap = PartitionError::OutOfOrderSequence {
        producer_id: 7,
        producer_epoch: 0,
        sequence: 6,
        expected: 5,
    };
    assert_eq!(run(&mut leader, produce(5, Acks::All, &[idempotent(6, 1)])), [failed(5, &gap)]);
}

#[test]
fn a_request_is_appended_whole_or_not_at_all() {
    let mut leader = leader();
    let in_order = [idempotent(0, 2), idempotent(2, 3), plain(1)];
    assert_eq!(
        run(&mut leader, produce(1, Acks::Leader, &in_order)),
        [append(1, 0, 100), append(1, 1, 102), append(1, 2, 105)]
    );
    assert_eq!(run(&mut leader, Event::Written), [done(1, 100, 105), flush(106)]);
    let gap = PartitionError::OutOfOrderSequence {
        producer_id: 7,
        producer_epoch: 0,
        sequence: 8,
        expected: 6,
    };
    let with_gap = [idempotent(5, 1), idempotent(8, 1)];
    assert_eq!(run(&mut leader, produce(2, Acks::All, &with_gap)), [failed(2, &gap)]);
    assert_eq!(leader.log_end(), 106);
    let half_known = [idempotent(2, 3), idempotent(5, 4)];
    assert_eq!(run(&mut leader, produce(3, Acks::Leader, &half_known)), [append(3, 1, 106)]);
    assert_eq!(run(&mut leader, Event::Written), [done(3, 102, 109)]);
}

#[test]
fn a_storage_failure_answers_everybody_and_stays() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::All, &[plain(1)]));
    run(&mut leader, Event::Written);
    run(&mut leader, produce(2, Acks::All, &[plain(1)]));
    run(&mut leader, produce(3, Acks::Leader, &[plain(1)]));
    let error = storage();
    let cause: Arc<str> = "fdatasync: EIO".into();
    assert_eq!(
        run(&mut leader, Event::StorageFailed { cause }),
        [failed(3, &error), failed(1, &error), failed(2, &error)]
    );
    assert_eq!(run(&mut leader, Event::Written), []);
    assert_eq!(run(&mut leader, Event::Flushed { durable: 103 }), [], "no ack after a failure");
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        assert_eq!(run(&mut leader, produce(4, acks, &[plain(1)])), [failed(4, &error)]);
    }
    assert_eq!(leader.high_watermark(), 100);
    assert_eq!(run(&mut leader, Event::Close), []);
    assert_eq!(run(&mut leader, produce(5, Acks::All, &[plain(1)])), [failed(5, &error)]);
}

#[test]
fn the_high_watermark_is_the_lowest_in_the_in_sync_set() {
    let mut leader = leader();
    let (two, three) = (BrokerId(2), BrokerId(3));
    run(&mut leader, Event::IsrCommitted { followers: vec![two, three] });
    run(&mut leader, produce(1, Acks::All, &[plain(10)]));
    run(&mut leader, Event::Written);
    assert_eq!(run(&mut leader, Event::Flushed { durable: 110 }), []);
    let fetch = |follower, fetch_offset| Event::FollowerFetch { follower, fetch_offset };
    assert_eq!(run(&mut leader, fetch(two, 110)), []);
    assert_eq!(run(&mut leader, fetch(three, 104)), [advance(104)]);
    assert_eq!(run(&mut leader, fetch(BrokerId(9), 1)), [], "not in the in-sync set");
    assert_eq!(
        run(&mut leader, Event::IsrCommitted { followers: vec![two] }),
        [advance(110), done(1, 100, 109)]
    );
    assert_eq!(run(&mut leader, fetch(two, 50)), [], "it never falls");
    assert_eq!(leader.high_watermark(), 110);
}

#[test]
fn followers_ahead_of_our_own_disk_do_not_commit() {
    let mut leader = leader();
    let two = BrokerId(2);
    run(&mut leader, Event::IsrCommitted { followers: vec![two] });
    run(&mut leader, produce(1, Acks::All, &[plain(10)]));
    run(&mut leader, Event::Written);
    let fetch = Event::FollowerFetch { follower: two, fetch_offset: 110 };
    assert_eq!(run(&mut leader, fetch), []);
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 110 }),
        [advance(110), done(1, 100, 109)]
    );
}

#[test]
fn log_start_stays_below_the_high_watermark_and_only_rises() {
    let mut leader = leader();
    for (moved, expected) in [(50, 50), (20, 50), (5_000, 100)] {
        run(&mut leader, Event::LogStartMoved { log_start: moved });
        assert_eq!(leader.log_start(), expected);
    }
}

#[test]
fn leader_epochs_only_rise() {
    let mut leader = leader();
    run(&mut leader, Event::BecomeLeader { leader_epoch: 3 });
    assert_eq!(leader.leader_epoch(), 4);
    run(&mut leader, Event::BecomeLeader { leader_epoch: 6 });
    let out = run(&mut leader, produce(1, Acks::Leader, &[plain(1)]));
    let at_six =
        Action::Append { request: RequestId(1), index: 0, base_offset: 100, leader_epoch: 6 };
    assert_eq!(out, [at_six]);
}

#[test]
fn closing_answers_those_who_wait() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::All, &[plain(1)]));
    assert_eq!(run(&mut leader, Event::Close), [failed(1, &PartitionError::Closed)]);
    assert_eq!(
        run(&mut leader, produce(2, Acks::None, &[plain(1)])),
        [failed(2, &PartitionError::Closed)]
    );
}

#[test]
fn ticks_expire_producers() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::Leader, &[idempotent(0, 1)]));
    run(&mut leader, Event::Tick { wall: WallMs(1_005) });
    assert_eq!(leader.producers().len(), 1);
    run(&mut leader, Event::Tick { wall: WallMs(1_006) });
    assert!(leader.producers().is_empty());
}

fn full() -> PartitionError {
    PartitionError::DiskFull { free: 1, reserve: 2 }
}

#[test]
fn what_found_no_room_is_as_if_it_had_never_come() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::All, &[idempotent(0, 5)]));
    run(&mut leader, Event::Written);
    let before = leader.producers().clone();
    assert_eq!(run(&mut leader, produce(2, Acks::All, &[idempotent(5, 2)])), [append(2, 0, 105)]);
    assert_eq!(run(&mut leader, produce(3, Acks::Leader, &[plain(1)])), [append(3, 0, 107)]);
    assert_eq!(run(&mut leader, produce(4, Acks::All, &[idempotent(7, 1)])), [append(4, 0, 108)]);
    // A duplicate of what is not written is nothing to be proud of either.
    assert_eq!(run(&mut leader, produce(5, Acks::All, &[idempotent(7, 1)])), []);
    let event = Event::DiskFull { log_end: 105, refusal: full() };
    assert_eq!(
        run(&mut leader, event),
        [failed(3, &full()), failed(2, &full()), failed(4, &full()), failed(5, &full())]
    );
    assert_eq!((leader.log_end(), leader.producers()), (105, &before));
    // What was written is answered as ever, and the producer goes on where it was.
    let out_of_order = PartitionError::OutOfOrderSequence {
        producer_id: 7,
        producer_epoch: 0,
        sequence: 7,
        expected: 5,
    };
    assert_eq!(
        run(&mut leader, produce(6, Acks::All, &[idempotent(7, 1)])),
        [failed(6, &out_of_order)]
    );
    assert_eq!(run(&mut leader, produce(7, Acks::All, &[idempotent(5, 2)])), [append(7, 0, 105)]);
    run(&mut leader, Event::Written);
    assert_eq!(
        run(&mut leader, Event::Flushed { durable: 105 }),
        [advance(105), done(1, 100, 104), flush(107)]
    );
}

#[test]
fn what_was_written_before_there_was_no_room_stays() {
    let mut leader = leader();
    run(&mut leader, produce(1, Acks::Leader, &[idempotent(0, 5)]));
    run(&mut leader, produce(2, Acks::All, &[idempotent(5, 5)]));
    run(&mut leader, produce(3, Acks::All, &[idempotent(10, 5)]));
    let event = Event::DiskFull { log_end: 110, refusal: full() };
    assert_eq!(run(&mut leader, event), [failed(3, &full()), done(1, 100, 104), flush(110)]);
    assert_eq!(run(&mut leader, produce(4, Acks::All, &[idempotent(10, 5)])), [append(4, 0, 110)]);
}
