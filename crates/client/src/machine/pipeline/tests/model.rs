//! A log with Kafka's rules for sequences, and what a network may do on the way to it.

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
