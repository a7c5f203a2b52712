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

/// A log with Kafka's rules for sequences, and what a network may do on the way to it.
mod model {
    use super::*;

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }

        fn below(&mut self, n: usize) -> usize {
            usize::try_from(self.next() % n as u64).unwrap()
        }

        fn one_in(&mut self, n: usize) -> bool {
            self.below(n) == 0
        }
    }

    #[derive(Clone)]
    struct Stored {
        base_sequence: i32,
        last_sequence: i32,
        offset: usize,
    }

    /// The partition: one replicated log, whoever leads it.
    #[derive(Default)]
    struct Log {
        batches: Vec<Bytes>,
        /// What is remembered of the producer: its last five batches.
        recent: VecDeque<Stored>,
    }

    impl Log {
        /// Kafka's ProducerStateManager in a few lines: content is never looked at.
        fn append(
            &mut self,
            base_sequence: i32,
            count: i32,
            bytes: &Bytes,
        ) -> Result<usize, ErrorCode> {
            let last_sequence = sequence_after(base_sequence, count - 1);
            let same =
                |s: &&Stored| s.base_sequence == base_sequence && s.last_sequence == last_sequence;
            if let Some(duplicate) = self.recent.iter().find(same) {
                return Ok(duplicate.offset);
            }
            if let Some(last) = self.recent.back()
                && sequence_after(last.last_sequence, 1) != base_sequence
            {
                return Err(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
            }
            let offset = self.batches.len();
            self.batches.push(bytes.clone());
            self.recent.push_back(Stored { base_sequence, last_sequence, offset });
            if self.recent.len() > 5 {
                self.recent.pop_front();
            }
            Ok(offset)
        }
    }

    /// One round's connection to one broker: requests and answers keep their order.
    struct Connection {
        broker: usize,
        requests: VecDeque<(Attempt, Bytes)>,
        answers: VecDeque<(Attempt, Outcome)>,
        alive: bool,
    }

    struct World {
        random: Random,
        pipeline: Pipeline,
        now: Mono,
        log: Log,
        leader: usize,
        /// Who the client believes to lead.
        believed: usize,
        connections: Vec<Connection>,
        /// Outcomes that the driver has and the pipeline has not heard yet, in any order.
        ended: Vec<(Attempt, Outcome)>,
        pushed: Vec<SequencedBatch>,
        acked: Vec<Ack>,
        faults: bool,
    }

    fn parse(bytes: &Bytes) -> (i32, i32) {
        let text = std::str::from_utf8(bytes).unwrap();
        let (base, count) = text.split_once('+').unwrap();
        (base.parse().unwrap(), count.parse().unwrap())
    }

    impl World {
        fn new(seed: u64) -> Self {
            let mut random = Random(seed);
            let start = if random.one_in(2) { 0 } else { i32::MAX - 20 };
            let options = PipelineOptions { seed, ..PipelineOptions::default() };
            Self {
                pipeline: Pipeline::new(IDENTITY, start, options),
                random,
                now: MS(0),
                log: Log::default(),
                leader: 0,
                believed: 0,
                connections: Vec::new(),
                ended: Vec::new(),
                pushed: Vec::new(),
                acked: Vec::new(),
                faults: true,
            }
        }

        fn on(&mut self, event: Event) {
            let mut out = Vec::new();
            self.pipeline.on_event(event, self.now, &mut out);
            self.pipeline.check();
            for action in out {
                self.perform(action);
            }
        }

        fn perform(&mut self, action: Action) {
            match action {
                Action::NewRound { refresh, .. } => {
                    if refresh && !(self.faults && self.random.one_in(3)) {
                        self.believed = self.leader;
                    }
                    let broker = self.believed;
                    self.connections.push(Connection {
                        broker,
                        requests: VecDeque::new(),
                        answers: VecDeque::new(),
                        alive: true,
                    });
                }
                Action::Send { attempt, bytes } => {
                    let connection = self.connections.last_mut().expect("a round comes first");
                    if connection.alive {
                        connection.requests.push_back((attempt, bytes));
                    } else {
                        let outcome = Outcome::NotSent { cause: "dead".into() };
                        self.ended.push((attempt, outcome));
                    }
                }
                Action::Acked(ack) => self.acked.push(ack),
                Action::Retrying { .. } => {}
                Action::Stopped { reason, .. } => panic!("stopped: {reason:?}"),
            }
        }

        /// The broker takes the oldest request of a connection, dead or alive: what was written
        /// to a socket may be read after the client gave up on it.
        fn serve(&mut self, index: usize) {
            let connection = &mut self.connections[index];
            let Some((attempt, bytes)) = connection.requests.pop_front() else { return };
            let fault = if self.faults { self.random.below(12) } else { usize::MAX };
            let error = match fault {
                0 => Some(ErrorCode::NOT_ENOUGH_REPLICAS),
                1 => Some(ErrorCode::KAFKA_STORAGE_ERROR),
                _ if connection.broker != self.leader => Some(ErrorCode::NOT_LEADER_OR_FOLLOWER),
                _ => None,
            };
            let (base, count) = parse(&bytes);
            let result = match error {
                Some(error) => Err(error),
                None => match self.log.append(base, count, &bytes) {
                    Ok(_) if fault == 2 => Err(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND),
                    Ok(_) if fault == 3 => Err(ErrorCode::REQUEST_TIMED_OUT),
                    other => other,
                },
            };
            let outcome = match result {
                Ok(offset) => Outcome::Acked {
                    base_offset: i64::try_from(offset).unwrap(),
                    log_append_time: -1,
                    leader_epoch: -1,
                },
                Err(code) => Outcome::Refused { code, message: None },
            };
            if connection.alive {
                connection.answers.push_back((attempt, outcome));
            }
        }

        /// The connection dies: what has no answer is in doubt, and may still arrive.
        fn cut(&mut self, index: usize) {
            let connection = &mut self.connections[index];
            connection.alive = false;
            let unanswered = connection.requests.iter().map(|(attempt, _)| *attempt);
            let unheard = connection.answers.drain(..).map(|(attempt, _)| attempt);
            for attempt in unanswered.chain(unheard) {
                self.ended.push((attempt, Outcome::Unknown { cause: "cut".into() }));
            }
        }

        fn step(&mut self) {
            let connections = self.connections.len().max(1);
            // The newest connection matters most; older ones still hold what was given up.
            let newest = self.random.one_in(2);
            let index = if newest { connections - 1 } else { self.random.below(connections) };
            match self.random.below(10) {
                0 | 1 if self.pipeline.has_room() && self.faults => {
                    let count = i32::try_from(1 + self.random.below(9)).unwrap();
                    let base = self.pipeline.next_batch_sequence(count).base_sequence;
                    self.pushed.push(batch(base, count));
                    self.on(Event::Push(batch(base, count)));
                }
                2..=4 if index < self.connections.len() => self.serve(index),
                5 | 6 => {
                    let Some(connection) = self.connections.get_mut(index) else { return };
                    if let Some(answer) = connection.answers.pop_front() {
                        self.ended.push(answer);
                    }
                }
                7 if !self.ended.is_empty() => {
                    let at = self.random.below(self.ended.len());
                    let (attempt, outcome) = self.ended.swap_remove(at);
                    self.on(Event::Ended { attempt, outcome });
                }
                8 if self.faults && index < self.connections.len() && self.random.one_in(4) => {
                    self.cut(index);
                }
                9 if self.faults && self.random.one_in(8) => {
                    self.leader = 1 - self.leader;
                    if self.random.one_in(2) {
                        // A restarted Kafka remembers each producer's last batch only.
                        let forgotten = self.log.recent.len().saturating_sub(1);
                        self.log.recent.drain(..forgotten);
                    }
                }
                _ => {
                    if let Some(at) = self.pipeline.deadline() {
                        self.now = self.now.max(at);
                        self.on(Event::Tick);
                    }
                }
            }
        }

        fn verify(&self, seed: u64) {
            let stored: Vec<&Bytes> = self.log.batches.iter().collect();
            let pushed: Vec<&Bytes> = self.pushed.iter().map(|batch| &batch.bytes).collect();
            assert!(pushed.starts_with(&stored), "seed {seed}: {stored:?} of {pushed:?}");
            for (index, ack) in self.acked.iter().enumerate() {
                let batch = &self.pushed[index];
                assert_eq!(ack.base_sequence, batch.base_sequence, "seed {seed}: order of acks");
                let offset = i64::try_from(index).unwrap();
                assert!(
                    ack.base_offset == offset || ack.base_offset == -1,
                    "seed {seed}: acked where it is not: {ack:?}"
                );
                assert!(index < stored.len(), "seed {seed}: acked and not stored");
            }
        }
    }

    #[test]
    fn every_batch_is_stored_once_and_in_order_whatever_happens() {
        let (mut batches, mut resent, mut presumed) = (0, 0, 0);
        for seed in 0..1000 {
            let mut world = World::new(seed);
            for step in 0..2500 {
                world.step();
                if step % 50 == 0 {
                    world.verify(seed);
                }
            }
            world.faults = false;
            let mut left = 20_000;
            while world.acked.len() < world.pushed.len() {
                world.step();
                left -= 1;
                assert!(left > 0, "seed {seed}: no progress without faults");
            }
            world.verify(seed);
            batches += world.acked.len();
            resent += world.connections.len() - 1;
            presumed += world.acked.iter().filter(|ack| ack.base_offset == -1).count();
        }
        // The faults must have bitten for the result to mean anything.
        let enough = batches > 30_000 && resent > 30_000 && presumed > 1_000;
        assert!(enough, "{batches} batches, {resent} rounds, {presumed} presumed");
    }
}

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
