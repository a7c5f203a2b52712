//! The idempotent send pipeline of one partition: what is sent when, and what each answer means.
//!
//! A batch gets its sequence when it is pushed and keeps it for life, so any number of resends is
//! stored once. At most five batches are open (a broker remembers the last five), and only one is
//! on its way until the round has its first ack: a leader without state for this producer (a new
//! producer; a state that expired by the timestamps of its records, then a restart) takes any
//! first sequence, so a second batch must not overtake a first that was refused.
//!
//! Batches are sent in rounds. A round's attempts go to one leader over one connection; the first
//! answer that is no ack ends it: nothing more is sent until every attempt of the round has its
//! outcome, then all batches without an ack are sent again, in order, as the next round. An
//! attempt whose outcome is unknown is simply sent again; the broker recognises the duplicate.
//!
//! Kafka's own brokers remember only the last batch across a restart. A batch in doubt that is
//! sent again and is not that last one then gets error 45, as if there were a hole. So the next
//! batch in doubt is tried: a leader that takes or recognises it has every batch before it,
//! because it took them in sequence. Only if none is accepted is the error what it says. The same
//! holds for batches that a process sent before it died and that its successor sends again.
//!
//! Invariants: open batches have consecutive sequences; acks are reported in order, each once; a
//! batch is dropped only by its ack or by the stop. After a fatal answer the pipeline stops and
//! hands back what is open: what was fatal is never retried under the same identity.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::time::Mono;
use tailway_net::backoff::Backoff;
use tailway_wire::error_code::ErrorCode;

/// Open batches per partition: a broker recognises duplicates among the last five.
pub const OPEN_MAX: usize = 5;

/// A producer id with its epoch; sequences count within it, per partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIdentity {
    pub producer_id: i64,
    pub producer_epoch: i16,
}

impl ProducerIdentity {
    /// No idempotence: sequences are -1, one batch in flight, a doubtful resend may repeat it.
    pub const NONE: Self = Self { producer_id: -1, producer_epoch: -1 };

    pub const fn is_idempotent(self) -> bool {
        self.producer_id >= 0
    }

    /// The same producer in its next epoch, whose sequences begin at 0: once a partition has a batch of it, what arrives
    /// late of this epoch is refused (error 47). `None` where there is none; a new producer id must do then.
    pub fn next_epoch(self) -> Option<ProducerIdentity> {
        let producer_epoch = self.producer_epoch.checked_add(1)?;
        self.is_idempotent().then_some(ProducerIdentity { producer_epoch, ..self })
    }
}

/// What a batch header must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSequence {
    pub identity: ProducerIdentity,
    pub base_sequence: i32,
    /// The sequence of the batch's last record.
    pub last_sequence: i32,
}

/// A batch whose header carries its sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SequencedBatch {
    pub base_sequence: i32,
    pub record_count: i32,
    pub bytes: Bytes,
}

/// Which send an outcome belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attempt(pub u64);

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it, as durably as `acks` asked.
    Acked { base_offset: i64, log_append_time: i64, leader_epoch: i32 },
    /// The broker answered with an error.
    Refused { code: ErrorCode, message: Option<String> },
    /// It may or may not be stored: no answer came.
    Unknown { cause: String },
    /// It was certainly not sent.
    NotSent { cause: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Takes [`Pipeline::next_batch_sequence`]'s next batch; only while there is room.
    Push(SequencedBatch),
    /// An attempt ended; in any order.
    Ended { attempt: Attempt, outcome: Outcome },
    /// [`Pipeline::deadline`] has passed.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Choose the leader (anew if `refresh`) for the attempts up to the next `NewRound`.
    NewRound { round: u64, refresh: bool },
    /// Send to the leader of the current round, after the sends before it.
    Send { attempt: Attempt, bytes: Bytes },
    /// The oldest open batch is stored.
    Acked(Ack),
    /// Something is in the way and is tried again; for logs and status.
    Retrying { cause: String, attempts: u32 },
    /// The pipeline has stopped. `open` is what has no ack, oldest first.
    Stopped { reason: StopReason, open: Vec<SequencedBatch> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub base_sequence: i32,
    pub record_count: i32,
    /// -1 where the broker does not tell (acks=0, or an old batch that a later one proves).
    pub base_offset: i64,
    /// -1 unless the topic has LogAppendTime.
    pub log_append_time: i64,
    /// Of the leader that acked; -1 if unknown.
    pub leader_epoch: i32,
}

/// Why a pipeline stopped. The oldest open batch is the one that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// The broker refuses the batch or the producer for good (too large, not authorised, wrong
    /// sequence, fenced, ...).
    Refused { code: ErrorCode, message: Option<String> },
    /// The delivery timeout passed; the last cause.
    DeliveryTimedOut { after: Duration, cause: String },
}

#[derive(Debug, Clone)]
pub struct PipelineOptions {
    /// Give up on a batch after this long; `None`: never.
    pub delivery_timeout: Option<Duration>,
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    /// The first so many batches were sent before, by a process that died. Nothing is sent until
    /// all of them are pushed: only together do they tell what error 45 means.
    pub sent_before: usize,
    /// For the jitter of retries.
    pub seed: u64,
}

impl Default for PipelineOptions {
    fn default() -> Self {
        Self {
            delivery_timeout: None,
            retry_backoff: Duration::from_millis(50),
            retry_backoff_max: Duration::from_secs(1),
            sent_before: 0,
            seed: 0,
        }
    }
}

#[derive(Debug)]
struct Open {
    batch: SequencedBatch,
    pushed: Mono,
    /// How often it was sent.
    sends: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Not sent in this round.
    Waiting,
    Sent(Attempt),
    /// Ended; handled when everything before it is.
    Ended(Outcome),
    /// Refused as out of order when sent again: stored, if a batch behind it is.
    Presumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sending as batches come.
    Flowing,
    /// An attempt failed; waiting for the outcome of the others.
    Draining,
    /// Waiting before the next round.
    Pausing {
        until: Mono,
    },
    Stopped,
}

#[derive(Debug)]
pub struct Pipeline {
    identity: ProducerIdentity,
    options: PipelineOptions,
    backoff: Backoff,
    open: VecDeque<Open>,
    next_sequence: i32,
    next_attempt: u64,
    round: u64,
    round_announced: bool,
    refresh: bool,
    /// The leader of this round has acked a batch, so it checks the sequence of what follows.
    established: bool,
    /// Batches that an earlier process sent and that are still to be pushed.
    sent_before: usize,
    phase: Phase,
    last_cause: String,
}

impl Pipeline {
    /// A pipeline whose next batch has `next_sequence` (0 for a new producer identity).
    pub fn new(identity: ProducerIdentity, next_sequence: i32, options: PipelineOptions) -> Self {
        let backoff = Backoff::new(options.retry_backoff, options.retry_backoff_max, options.seed);
        Self {
            identity,
            sent_before: options.sent_before,
            options,
            backoff,
            open: VecDeque::with_capacity(OPEN_MAX),
            next_sequence: if identity.is_idempotent() { next_sequence } else { -1 },
            next_attempt: 0,
            round: 0,
            round_announced: false,
            refresh: false,
            established: false,
            phase: Phase::Flowing,
            last_cause: String::new(),
        }
    }

    pub fn identity(&self) -> ProducerIdentity {
        self.identity
    }

    /// What the header of the next batch must carry. Changes only by a push.
    pub fn next_batch_sequence(&self, record_count: i32) -> BatchSequence {
        BatchSequence {
            identity: self.identity,
            base_sequence: self.next_sequence,
            last_sequence: if self.identity.is_idempotent() {
                sequence_after(self.next_sequence, record_count - 1)
            } else {
                -1
            },
        }
    }

    /// Whether another batch may be pushed.
    pub fn has_room(&self) -> bool {
        self.phase != Phase::Stopped && self.open.len() < self.open_max()
    }

    /// Batches without an ack.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    pub fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// When to call with [`Event::Tick`] at the latest.
    pub fn deadline(&self) -> Option<Mono> {
        let give_up = self.give_up_at();
        match self.phase {
            Phase::Pausing { until } => Some(give_up.map_or(until, |at| at.min(until))),
            // Attempts end by themselves (each has a deadline), and only then is giving up sound.
            Phase::Flowing | Phase::Draining | Phase::Stopped => None,
        }
    }

    pub fn on_event(&mut self, event: Event, now: Mono, out: &mut Vec<Action>) {
        match event {
            Event::Push(batch) => self.push(batch, now, out),
            Event::Ended { attempt, outcome } => self.ended(attempt, outcome, now, out),
            Event::Tick => self.tick(now, out),
        }
    }

    /// [`Event::Push`] as a method.
    pub fn push(&mut self, batch: SequencedBatch, now: Mono, out: &mut Vec<Action>) {
        assert!(self.has_room(), "a batch was pushed although the pipeline is full or stopped");
        assert!(
            batch.base_sequence == self.next_sequence && batch.record_count > 0,
            "a batch with sequence {} and {} records was pushed, {} is next",
            batch.base_sequence,
            batch.record_count,
            self.next_sequence
        );
        if self.identity.is_idempotent() {
            self.next_sequence = sequence_after(self.next_sequence, batch.record_count);
        }
        let sends = u32::from(self.sent_before > 0);
        self.sent_before = self.sent_before.saturating_sub(1);
        self.open.push_back(Open { batch, pushed: now, sends, state: State::Waiting });
        self.send_waiting(out);
    }

    fn ended(&mut self, attempt: Attempt, outcome: Outcome, now: Mono, out: &mut Vec<Action>) {
        let sent = |open: &&mut Open| matches!(open.state, State::Sent(a) if a == attempt);
        let Some(open) = self.open.iter_mut().find(sent) else { return };
        open.state = State::Ended(outcome);
        self.settle(now, out);
    }

    fn tick(&mut self, now: Mono, out: &mut Vec<Action>) {
        let Phase::Pausing { until } = self.phase else { return };
        if self.give_up_at().is_some_and(|at| now >= at) {
            return self.give_up(out);
        }
        if now >= until {
            self.start_round();
            self.send_waiting(out);
        }
    }

    /// Handles ended attempts from the oldest on, up to the first that is no ack.
    fn settle(&mut self, now: Mono, out: &mut Vec<Action>) {
        while let Some(index) = self.oldest() {
            // One after the other: only alone in its round does an error mean this batch.
            let may_presume = !self.established && self.may_be_forgotten(index);
            let Some(Open { state, .. }) = self.open.get_mut(index) else { break };
            match state {
                State::Ended(Outcome::Acked { base_offset, log_append_time, leader_epoch }) => {
                    let ack = (*base_offset, *log_append_time, *leader_epoch);
                    self.acked(index, ack, out);
                }
                State::Ended(Outcome::Refused { code, .. })
                    if may_presume && *code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER =>
                {
                    *state = State::Presumed;
                }
                State::Ended(_) => {
                    self.phase = Phase::Draining;
                    break;
                }
                State::Waiting | State::Sent(_) | State::Presumed => break,
            }
        }
        match self.phase {
            Phase::Draining if self.in_flight() == 0 => self.end_round(now, out),
            Phase::Flowing => self.send_waiting(out),
            _ => {}
        }
    }

    /// The oldest batch that is not presumed to be stored.
    fn oldest(&self) -> Option<usize> {
        self.open.iter().position(|open| !matches!(open.state, State::Presumed))
    }

    /// Whether error 45 may mean that the leader has forgotten that it stored this batch: it was
    /// sent before, and so was a batch behind it, which can prove it.
    fn may_be_forgotten(&self, index: usize) -> bool {
        let sends = |index| self.open.get(index).map_or(0, |open: &Open| open.sends);
        sends(index) >= 2 && sends(index + 1) >= 1
    }

    /// The batch at `index` is stored, and with it all before it, which are presumed to be.
    fn acked(&mut self, index: usize, ack: (i64, i64, i32), out: &mut Vec<Action>) {
        let (base_offset, log_append_time, leader_epoch) = ack;
        for (position, open) in self.open.drain(..=index).enumerate() {
            let told = position == index;
            out.push(Action::Acked(Ack {
                base_sequence: open.batch.base_sequence,
                record_count: open.batch.record_count,
                base_offset: if told { base_offset } else { -1 },
                log_append_time: if told { log_append_time } else { -1 },
                leader_epoch,
            }));
        }
        self.established = true;
        self.backoff.reset();
    }

    /// Every attempt of the round has ended and the oldest open batch was not acked.
    fn end_round(&mut self, now: Mono, out: &mut Vec<Action>) {
        let Some(index) = self.oldest() else { return };
        let forgotten = self.established && self.may_be_forgotten(index);
        let Some(Open { state: State::Ended(outcome), .. }) = self.open.get(index) else { return };
        let cause = match outcome {
            Outcome::Refused { code, message } => {
                // In a round of several it is not clear what 45 means: sending it alone tells.
                let unclear = forgotten && *code == ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
                if !unclear && !is_retriable(*code) {
                    let reason = StopReason::Refused { code: *code, message: message.clone() };
                    return self.stop(reason, out);
                }
                match message {
                    Some(message) => format!("{code}: {message}"),
                    None => code.to_string(),
                }
            }
            Outcome::Unknown { cause } | Outcome::NotSent { cause } => cause.clone(),
            Outcome::Acked { .. } => return,
        };
        self.last_cause.clone_from(&cause);
        self.refresh = true;
        for open in &mut self.open {
            // A later batch that is stored stays so; it is reported when its turn comes.
            if !matches!(open.state, State::Ended(Outcome::Acked { .. })) {
                open.state = State::Waiting;
            }
        }
        if self.give_up_at().is_some_and(|at| now >= at) {
            return self.give_up(out);
        }
        self.phase = Phase::Pausing { until: now + self.backoff.next_pause() };
        out.push(Action::Retrying { cause, attempts: self.backoff.attempts() });
    }

    fn start_round(&mut self) {
        self.phase = Phase::Flowing;
        self.established = false;
        self.round += 1;
        self.round_announced = false;
    }

    fn send_waiting(&mut self, out: &mut Vec<Action>) {
        if self.phase != Phase::Flowing || self.sent_before > 0 {
            return;
        }
        let mut in_flight = self.in_flight();
        let window = if self.established { self.open_max() } else { 1 };
        for open in &mut self.open {
            if in_flight >= window {
                break;
            }
            if !matches!(open.state, State::Waiting) {
                continue;
            }
            if !self.round_announced {
                out.push(Action::NewRound { round: self.round, refresh: self.refresh });
                self.round_announced = true;
                self.refresh = false;
            }
            let attempt = Attempt(self.next_attempt);
            self.next_attempt += 1;
            open.state = State::Sent(attempt);
            open.sends = open.sends.saturating_add(1);
            in_flight += 1;
            out.push(Action::Send { attempt, bytes: open.batch.bytes.clone() });
        }
    }

    fn give_up(&mut self, out: &mut Vec<Action>) {
        let after = self.options.delivery_timeout.unwrap_or_default();
        let cause = std::mem::take(&mut self.last_cause);
        self.stop(StopReason::DeliveryTimedOut { after, cause }, out);
    }

    fn stop(&mut self, reason: StopReason, out: &mut Vec<Action>) {
        self.phase = Phase::Stopped;
        let open = self.open.drain(..).map(|open| open.batch).collect();
        out.push(Action::Stopped { reason, open });
    }

    fn give_up_at(&self) -> Option<Mono> {
        Some(self.open.front()?.pushed + self.options.delivery_timeout?)
    }

    fn in_flight(&self) -> usize {
        self.open.iter().filter(|open| matches!(open.state, State::Sent(_))).count()
    }

    fn open_max(&self) -> usize {
        if self.identity.is_idempotent() { OPEN_MAX } else { 1 }
    }

    /// Asserts what must hold between events.
    pub fn check(&self) {
        assert!(self.open.len() <= self.open_max(), "{} batches are open", self.open.len());
        let mut expected = None;
        for open in &self.open {
            let base = open.batch.base_sequence;
            assert!(expected.is_none_or(|e| e == base), "sequence {base}, expected {expected:?}");
            if self.identity.is_idempotent() {
                expected = Some(sequence_after(base, open.batch.record_count));
            }
        }
        assert!(expected.is_none_or(|e| e == self.next_sequence), "{expected:?} is not next");
        let in_flight = self.in_flight();
        assert!(self.established || in_flight <= 1, "{in_flight} in flight before the first ack");
        match self.phase {
            Phase::Stopped => assert!(self.open.is_empty(), "stopped with open batches"),
            Phase::Pausing { .. } => assert!(in_flight == 0, "{in_flight} in flight in a pause"),
            Phase::Draining => assert!(in_flight > 0, "draining nothing"),
            Phase::Flowing if self.sent_before > 0 => {
                assert!(
                    in_flight == 0,
                    "{in_flight} in flight before all of an earlier process came"
                );
            }
            Phase::Flowing => assert!(
                match self.oldest().and_then(|index| self.open.get(index)) {
                    Some(oldest) => matches!(oldest.state, State::Sent(_)),
                    None => self.open.is_empty(),
                },
                "flowing, and the oldest batch is not on its way"
            ),
        }
    }
}

/// Whether sending the same batch again, under the same identity, can end well.
fn is_retriable(code: ErrorCode) -> bool {
    match code {
        // These say that the broker's idea of this producer differs from ours: a resend cannot
        // mend it, and could store the batch twice or out of order.
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::PRODUCER_FENCED => false,
        // The broker names no cause; Kafka answers so for what passes (a failed disk, a bug that
        // a restart ends), and giving up would lose the batch.
        ErrorCode::UNKNOWN_SERVER_ERROR => true,
        code => code.is_retriable(),
    }
}

/// Sequences wrap from `i32::MAX` to 0.
pub fn sequence_after(sequence: i32, records: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(records);
    let wrapped = sum.rem_euclid(i64::from(i32::MAX) + 1);
    i32::try_from(wrapped).unwrap_or(0)
}

#[cfg(test)]
mod tests;
