//! The pipeline's decisions one by one, then against a model of Kafka's sequence rules.

use super::*;

const IDENTITY: ProducerIdentity = ProducerIdentity { producer_id: 7, producer_epoch: 0 };
const MS: fn(u64) -> Mono = Mono::from_millis;

fn batch(base_sequence: i32, record_count: i32) -> SequencedBatch {
    let bytes = Bytes::from(format!("{base_sequence}+{record_count}"));
    SequencedBatch { base_sequence, record_count, bytes }
}

struct Bench {
    pipeline: Pipeline,
    now: Mono,
}

impl Bench {
    fn new(options: PipelineOptions) -> Self {
        Self { pipeline: Pipeline::new(IDENTITY, 0, options), now: MS(0) }
    }

    /// One whose first batch (sequence 0, one record) has been acked: five may fly.
    fn established() -> Self {
        let mut bench = Self::new(PipelineOptions::default());
        bench.on(Event::Push(batch(0, 1)));
        bench.on(acked(0, 100));
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.pipeline.on_event(event, self.now, &mut out);
        self.pipeline.check();
        out
    }

    fn tick(&mut self) -> Vec<Action> {
        self.now = self.pipeline.deadline().expect("something to wait for");
        self.on(Event::Tick)
    }
}

fn acked(attempt: u64, base_offset: i64) -> Event {
    let outcome = Outcome::Acked { base_offset, log_append_time: -1, leader_epoch: 3 };
    Event::Ended { attempt: Attempt(attempt), outcome }
}

fn refused(attempt: u64, code: ErrorCode) -> Event {
    Event::Ended { attempt: Attempt(attempt), outcome: Outcome::Refused { code, message: None } }
}

fn unknown(attempt: u64) -> Event {
    let outcome = Outcome::Unknown { cause: "cut".into() };
    Event::Ended { attempt: Attempt(attempt), outcome }
}

fn send(attempt: u64, base_sequence: i32, record_count: i32) -> Action {
    let bytes = batch(base_sequence, record_count).bytes;
    Action::Send { attempt: Attempt(attempt), bytes }
}

fn ack(base_sequence: i32, record_count: i32, base_offset: i64) -> Action {
    Action::Acked(Ack {
        base_sequence,
        record_count,
        base_offset,
        log_append_time: -1,
        leader_epoch: 3,
    })
}

fn round(round: u64) -> Action {
    Action::NewRound { round, refresh: round > 0 }
}

fn retrying(cause: &str, attempts: u32) -> Action {
    Action::Retrying { cause: cause.into(), attempts }
}

#[test]
fn the_first_batch_flies_alone_then_five() {
    let mut bench = Bench::new(PipelineOptions::default());
    assert_eq!(bench.on(Event::Push(batch(0, 10))), [round(0), send(0, 0, 10)]);
    for n in 1..5 {
        assert!(bench.pipeline.has_room());
        assert_eq!(bench.on(Event::Push(batch(n * 10, 10))), []);
    }
    assert!(!bench.pipeline.has_room());
    let sends = [send(1, 10, 10), send(2, 20, 10), send(3, 30, 10), send(4, 40, 10)];
    let expected: Vec<Action> = [ack(0, 10, 500)].into_iter().chain(sends).collect();
    assert_eq!(bench.on(acked(0, 500)), expected);
    assert!(bench.pipeline.has_room());
    assert_eq!(bench.pipeline.next_batch_sequence(10).last_sequence, 59);
}

#[test]
fn acks_are_told_in_order_whatever_order_they_are_heard_in() {
    let mut bench = Bench::established();
    bench.on(Event::Push(batch(1, 1)));
    bench.on(Event::Push(batch(2, 1)));
    assert_eq!(bench.on(acked(2, 102)), []);
    assert_eq!(bench.on(acked(1, 101)), [ack(1, 1, 101), ack(2, 1, 102)]);
    assert_eq!(bench.on(acked(1, 101)), [], "an attempt that is over is over");
}

#[test]
fn a_failure_waits_for_the_rest_of_its_round_and_the_oldest_is_sent_again_first() {
    let mut bench = Bench::established();
    bench.on(Event::Push(batch(1, 1)));
    bench.on(Event::Push(batch(2, 1)));
    assert_eq!(bench.on(refused(1, ErrorCode::NOT_LEADER_OR_FOLLOWER)), []);
    assert_eq!(bench.on(Event::Push(batch(3, 1))), [], "nothing new joins a round that failed");
    let error = ErrorCode::NOT_LEADER_OR_FOLLOWER.to_string();
    let told = bench.on(refused(2, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER));
    assert_eq!(told, [retrying(&error, 1)], "the second's error follows from the first's");
    assert_eq!(bench.tick(), [round(1), send(3, 1, 1)], "alone: this leader may not know us");
    assert_eq!(bench.on(acked(3, 101)), [ack(1, 1, 101), send(4, 2, 1), send(5, 3, 1)]);
}

#[test]
fn a_later_batch_that_is_stored_is_not_sent_again() {
    let mut bench = Bench::established();
    bench.on(Event::Push(batch(1, 1)));
    bench.on(Event::Push(batch(2, 1)));
    // Appended, but not replicated in time; then the replicas caught up, with both.
    bench.on(refused(1, ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND));
    bench.on(acked(2, 102));
    assert_eq!(bench.tick(), [round(1), send(3, 1, 1)]);
    assert_eq!(bench.on(acked(3, 101)), [ack(1, 1, 101), ack(2, 1, 102)]);
}

/// Kafka 4.3.1, killed and restarted with three batches in doubt, answered 45 to the first.
#[test]
fn a_leader_that_remembers_only_its_last_batch_is_asked_for_that_one() {
    let mut bench = Bench::established();
    for n in 1..4 {
        bench.on(Event::Push(batch(n, 1)));
    }
    for attempt in 1..4 {
        bench.on(unknown(attempt));
    }
    let forgotten = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    assert_eq!(bench.tick(), [round(1), send(4, 1, 1)]);
    assert_eq!(bench.on(Event::Push(batch(4, 1))), []);
    assert_eq!(bench.on(refused(4, forgotten)), [send(5, 2, 1)]);
    assert_eq!(bench.on(refused(5, forgotten)), [send(6, 3, 1)]);
    let acks = [ack(1, 1, -1), ack(2, 1, -1), ack(3, 1, 103), send(7, 4, 1)];
    assert_eq!(bench.on(acked(6, 103)), acks);
    assert_eq!(bench.on(acked(7, 104)), [ack(4, 1, 104)]);
}

/// What a process left behind when it died is sent again by its successor: the leader may know all
/// of it, only the last of it, or none.
#[test]
fn what_an_earlier_process_sent_is_asked_for_once_all_of_it_is_there() {
    let resumed = || {
        let options = PipelineOptions { sent_before: 3, ..PipelineOptions::default() };
        let mut bench = Bench { pipeline: Pipeline::new(IDENTITY, 5, options), now: MS(0) };
        assert_eq!(bench.on(Event::Push(batch(5, 1))), []);
        assert_eq!(bench.on(Event::Push(batch(6, 1))), []);
        assert_eq!(bench.on(Event::Push(batch(7, 1))), [round(0), send(0, 5, 1)]);
        bench
    };
    let forgotten = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    let mut known = resumed();
    assert_eq!(known.on(acked(0, 105)), [ack(5, 1, 105), send(1, 6, 1), send(2, 7, 1)]);

    let mut only_last = resumed();
    assert_eq!(only_last.on(refused(0, forgotten)), [send(1, 6, 1)]);
    assert_eq!(only_last.on(refused(1, forgotten)), [send(2, 7, 1)]);
    assert_eq!(only_last.on(acked(2, 107)), [ack(5, 1, -1), ack(6, 1, -1), ack(7, 1, 107)]);
    assert_eq!(only_last.on(Event::Push(batch(8, 1))), [send(3, 8, 1)]);

    let mut none = resumed();
    none.on(refused(0, forgotten));
    none.on(refused(1, forgotten));
    let reason = StopReason::Refused { code: forgotten, message: None };
    let open = vec![batch(5, 1), batch(6, 1), batch(7, 1)];
    assert_eq!(none.on(refused(2, forgotten)), [Action::Stopped { reason, open }]);
}

#[test]
fn a_hole_that_no_later_batch_disproves_stops_the_pipeline() {
    let mut bench = Bench::established();
    bench.on(Event::Push(batch(1, 1)));
    bench.on(Event::Push(batch(2, 1)));
    bench.on(unknown(1));
    bench.on(unknown(2));
    bench.tick();
    bench.on(Event::Push(batch(3, 1)));
    let code = ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
    assert_eq!(bench.on(refused(3, code)), [send(4, 2, 1)]);
    // A pass through another leader starts over: what the last one said proves nothing here.
    bench.on(refused(4, ErrorCode::NOT_LEADER_OR_FOLLOWER));
    assert_eq!(bench.tick(), [round(2), send(5, 1, 1)]);
    assert_eq!(bench.on(refused(5, code)), [send(6, 2, 1)]);
    let reason = StopReason::Refused { code, message: None };
    let open = vec![batch(1, 1), batch(2, 1), batch(3, 1)];
    assert_eq!(bench.on(refused(6, code)), [Action::Stopped { reason, open }], "3 was never sent");
}

#[test]
fn what_cannot_be_mended_stops_the_pipeline_and_gives_back_what_is_open() {
    for code in [
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER,
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::UNKNOWN_PRODUCER_ID,
        ErrorCode::PRODUCER_FENCED,
        ErrorCode::MESSAGE_TOO_LARGE,
        ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        ErrorCode::INVALID_RECORD,
    ] {
        let mut bench = Bench::established();
        bench.on(Event::Push(batch(1, 1)));
        bench.on(Event::Push(batch(2, 1)));
        assert_eq!(bench.on(refused(1, code)), [], "{code}: the second is still on its way");
        let reason = StopReason::Refused { code, message: None };
        let stopped = Action::Stopped { reason, open: vec![batch(1, 1), batch(2, 1)] };
        assert_eq!(bench.on(unknown(2)), [stopped], "{code}");
        assert!(bench.pipeline.is_stopped() && !bench.pipeline.has_room());
        assert_eq!(bench.pipeline.deadline(), None);
    }
}

#[test]
fn what_passes_is_tried_for_ever_with_growing_pauses() {
    let mut bench = Bench::established();
    bench.on(Event::Push(batch(1, 1)));
    let mut longest = Duration::ZERO;
    for (attempt, code) in [
        ErrorCode::REQUEST_TIMED_OUT,
        ErrorCode::NOT_ENOUGH_REPLICAS,
        ErrorCode::KAFKA_STORAGE_ERROR,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
        ErrorCode::CORRUPT_MESSAGE,
        ErrorCode::UNKNOWN_SERVER_ERROR,
        ErrorCode::FENCED_LEADER_EPOCH,
    ]
    .into_iter()
    .cycle()
    .take(100)
    .enumerate()
    {
        let before = bench.now;
        bench.on(refused(attempt as u64 + 1, code));
        let sent = bench.tick();
        assert_eq!(sent, [round(attempt as u64 + 1), send(attempt as u64 + 2, 1, 1)], "{code}");
        longest = longest.max(bench.now.since(before));
    }
    let cap = PipelineOptions::default().retry_backoff_max;
    assert!(longest <= cap && longest > cap / 2, "{longest:?}");
}

#[test]
fn delivery_has_an_end_but_not_while_an_answer_may_come() {
    let options = PipelineOptions {
        delivery_timeout: Some(Duration::from_millis(100)),
        ..PipelineOptions::default()
    };
    let mut bench = Bench::new(options);
    bench.on(Event::Push(batch(0, 1)));
    bench.now = MS(99);
    assert_eq!(bench.pipeline.deadline(), None, "the attempt has a deadline of its own");
    bench.on(unknown(0));
    assert_eq!(bench.pipeline.deadline(), Some(MS(100)), "the pause would end later");
    let reason =
        StopReason::DeliveryTimedOut { after: Duration::from_millis(100), cause: "cut".into() };
    assert_eq!(bench.tick(), [Action::Stopped { reason, open: vec![batch(0, 1)] }]);

    let mut late = Bench::new(PipelineOptions {
        delivery_timeout: Some(Duration::from_millis(100)),
        ..PipelineOptions::default()
    });
    late.on(Event::Push(batch(0, 1)));
    late.now = MS(5000);
    assert_eq!(late.on(acked(0, 1)), [ack(0, 1, 1)], "late, and stored all the same");
}

#[test]
fn without_idempotence_one_flies_at_a_time() {
    let mut pipeline = Pipeline::new(ProducerIdentity::NONE, 0, PipelineOptions::default());
    let mut out = Vec::new();
    pipeline.push(batch(-1, 3), MS(0), &mut out);
    assert!(!pipeline.has_room());
    pipeline.on_event(acked(0, 1), MS(0), &mut out);
    assert_eq!(out, [round(0), send(0, -1, 3), ack(-1, 3, 1)]);
    assert_eq!(pipeline.next_batch_sequence(3).base_sequence, -1);
    pipeline.check();
}

#[test]
fn sequences_wrap_as_kafka_wraps_them() {
    for (sequence, records, after) in
        [(0, 1, 1), (i32::MAX, 1, 0), (i32::MAX - 1, 1, i32::MAX), (i32::MAX - 4, 10, 5)]
    {
        assert_eq!(sequence_after(sequence, records), after, "{sequence} + {records}");
    }
}

#[test]
#[should_panic(expected = "a batch with sequence 2 and 1 records was pushed, 1 is next")]
fn a_hole_in_the_sequence_is_refused_at_once() {
    Bench::established().on(Event::Push(batch(2, 1)));
}

mod model;

#[test]
fn the_epochs_of_a_producer_end() {
    let at = |producer_epoch| ProducerIdentity { producer_id: 7, producer_epoch };
    let cases = [
        (at(0), Some(at(1))),
        (at(i16::MAX - 1), Some(at(i16::MAX))),
        (at(i16::MAX), None),
        (ProducerIdentity::NONE, None),
    ];
    for (identity, next) in cases {
        assert_eq!(identity.next_epoch(), next, "{identity:?}");
    }
}
