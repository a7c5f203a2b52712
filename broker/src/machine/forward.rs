//! The cursor of one partition on its way into one sink: what is under way, what is tried again, what is given up, and
//! how far all of it is done.
//!
//! Each record between the committed offset and the read position has a state; a request takes the lowest that wait. After
//! a failure one request at a time goes out, after a pause that grows; a pause for which somebody has to mend something
//! is said, and is over with the first success. A record that may be at the sink already is looked up before it is sent
//! again, where the sink can be asked; so is whatever an earlier run may have sent.
//!
//! Invariants (`check`): an offset is committed only when every record below is delivered, or dead-lettered and that is
//! durable; nothing at or above the durable commit plus the window is sent; at most so many requests are under way; no
//! record is in two of them.

mod step;
mod types;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tailway_metadata::time::Mono;
use tailway_net::backoff::Backoff;

pub use types::{
    Action, BatchId, Event, Failure, Item, Options, Pause, PauseKind, Rejection, Taken, Tally,
};

/// After so many requests in a row that were not too large, they may be twice as large again.
const GROW_AFTER: u32 = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Not under way. `doubtful`: it may be at the sink all the same.
    Waiting {
        doubtful: bool,
    },
    InFlight(BatchId),
    /// Refused, and the dead letter is not durable yet.
    Rejected(Arc<Rejection>),
    Done,
}

#[derive(Debug, Clone)]
struct Slot {
    offset: i64,
    bytes: usize,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone)]
struct Batch {
    offsets: Vec<i64>,
    since: Mono,
}

/// Nothing goes out before `until`, and then one request at a time.
#[derive(Debug, Clone)]
struct Trouble {
    since: Mono,
    until: Mono,
    cause: Arc<str>,
    pause: Option<PauseKind>,
}

/// The cursor of one partition and sink.
#[derive(Debug)]
pub struct Cursor {
    options: Options,
    slots: VecDeque<Slot>,
    held_bytes: usize,
    /// Read up to here.
    next: i64,
    reading: bool,
    /// What is durable, and what is on its way to be.
    committed: i64,
    committing: Option<i64>,
    commit_at: Mono,
    /// The last attempt failed: the next one has to wait, whoever waits for it.
    commit_failed: bool,
    /// Below, an earlier run may have sent anything.
    doubtful_below: i64,
    in_flight: BTreeMap<BatchId, Batch>,
    next_batch: u64,
    batch_bytes: usize,
    fitting: u32,
    dead_lettering: Vec<i64>,
    dead_letters_at: Mono,
    trouble: Option<Trouble>,
    backoff: Backoff,
    rejects_in_a_row: u32,
    /// Where the next attempt of a pause for rejects begins to look for records.
    probe_from: i64,
    stopping: bool,
    tally: Tally,
}

impl Cursor {
    /// A cursor at `committed`, which is durable. Of what is below `doubtful_below` an earlier run may have sent anything.
    pub fn new(options: Options, committed: i64, doubtful_below: i64, seed: u64) -> Self {
        let doubtful_below = doubtful_below.min(committed.saturating_add(options.window));
        Self {
            slots: VecDeque::new(),
            held_bytes: 0,
            next: committed,
            reading: false,
            committed,
            committing: None,
            commit_at: Mono::ZERO,
            commit_failed: false,
            doubtful_below,
            in_flight: BTreeMap::new(),
            next_batch: 0,
            batch_bytes: options.batch_bytes,
            fitting: 0,
            dead_lettering: Vec::new(),
            dead_letters_at: Mono::ZERO,
            trouble: None,
            backoff: Backoff::new(options.backoff_first, options.backoff_cap, seed),
            rejects_in_a_row: 0,
            probe_from: i64::MIN,
            stopping: false,
            tally: Tally::default(),
            options,
        }
    }

    /// Takes note of what happened and says what to do.
    pub fn on_event(&mut self, event: Event, now: Mono, out: &mut Vec<Action>) {
        match event {
            Event::Read { records, next } => self.read(&records, next),
            Event::Trimmed { log_start } => {
                self.reading = false;
                self.next = self.next.max(log_start);
            }
            Event::Sent { batch, outcome } => self.sent(batch, outcome, now, out),
            Event::LookedUp { batch, outcome } => self.looked_up(batch, outcome, now, out),
            Event::DeadLettered { durable } => self.dead_lettered(durable, now),
            Event::Committed { durable } => {
                if let Some(offset) = self.committing.take().filter(|_| durable) {
                    self.committed = offset;
                }
                self.commit_failed = !durable;
                self.commit_at = now + self.options.commit_interval;
            }
            Event::Tick => {}
            Event::Stop => {
                self.stopping = true;
                // One more attempt, whatever became of the last one.
                self.commit_failed = false;
            }
        }
        self.step(now, out);
    }

    /// When to be told `Tick`.
    pub fn deadline(&self) -> Option<Mono> {
        let commit = (self.committing.is_none() && self.done_below() > self.committed)
            .then_some(self.commit_at);
        let retry = self.trouble.as_ref().map(|trouble| trouble.until).filter(|_| {
            !self.stopping && self.in_flight.is_empty() && self.slots.iter().any(Slot::is_waiting)
        });
        let letters = (self.dead_lettering.is_empty() && self.slots.iter().any(Slot::is_rejected))
            .then_some(self.dead_letters_at);
        [commit, retry, letters].into_iter().flatten().min()
    }

    /// Panics if an invariant does not hold.
    pub fn check(&self) {
        assert!(self.committed <= self.done_below(), "committed beyond what is done");
        assert!(self.committing.is_none_or(|offset| offset <= self.done_below()));
        assert!(self.in_flight.len() <= self.in_flight_max());
        let limit = self.limit();
        let mut before = i64::MIN;
        for slot in &self.slots {
            assert!(slot.offset > before && slot.offset < self.next, "slots are in order");
            assert!(slot.offset < limit, "beyond the window");
            before = slot.offset;
            if let State::InFlight(id) = &slot.state {
                let batch = self.in_flight.get(id);
                assert!(
                    batch.is_some_and(|batch| batch.offsets.binary_search(&slot.offset).is_ok())
                );
            }
        }
        let flying = self.slots.iter().filter(|s| matches!(s.state, State::InFlight(_))).count();
        let listed: usize = self.in_flight.values().map(|batch| batch.offsets.len()).sum();
        assert_eq!(flying, listed, "each record under way is in one request");
        assert_eq!(self.held_bytes, self.slots.iter().map(|s| s.bytes).sum::<usize>());
    }

    /// The offset that is durably committed.
    pub fn committed(&self) -> i64 {
        self.committed
    }

    /// Everything below has been taken.
    pub fn read_position(&self) -> i64 {
        self.next
    }

    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Nothing that was read is open: whatever was sent has its answer.
    pub fn is_settled(&self) -> bool {
        self.slots.is_empty() && self.in_flight.is_empty()
    }

    /// Everything is answered and committed, as far as it will be: the driver may end.
    pub fn is_stopped(&self) -> bool {
        self.stopping
            && self.in_flight.is_empty()
            && self.dead_lettering.is_empty()
            && self.committing.is_none()
    }

    /// What is in the way, in words, and whether somebody has to mend it.
    pub fn trouble(&self) -> Option<(&str, Option<PauseKind>)> {
        self.trouble.as_ref().map(|trouble| (&*trouble.cause, trouble.pause))
    }

    fn read(&mut self, records: &[Taken], next: i64) {
        self.reading = false;
        let limit = self.limit();
        for record in records {
            if record.offset < self.next {
                continue;
            }
            if record.offset >= limit {
                // Read again once the commit has moved: up to here there is nothing.
                self.next = record.offset;
                return;
            }
            let doubtful = record.offset < self.doubtful_below;
            let state = State::Waiting { doubtful };
            let Taken { offset, bytes } = *record;
            self.slots.push_back(Slot { offset, bytes, attempts: 0, state });
            self.held_bytes += bytes;
            self.next = offset + 1;
        }
        self.next = self.next.max(next);
    }

    fn sent(
        &mut self,
        id: BatchId,
        outcome: Result<Vec<Item>, Failure>,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        let Some(batch) = self.in_flight.remove(&id) else { return };
        match outcome {
            Ok(items) if items.len() == batch.offsets.len() => {
                self.fitted();
                self.settle(&batch, items, now, out);
            }
            Ok(items) => {
                let (got, want) = (items.len(), batch.offsets.len());
                let cause = format!("the answer has {got} items for {want} records");
                self.fail(&batch, Failure::doubtful(cause), now, out);
            }
            Err(Failure::Split { rejection }) => self.split(&batch, rejection, now, out),
            Err(failure) => self.fail(&batch, failure, now, out),
        }
    }

    fn looked_up(
        &mut self,
        id: BatchId,
        outcome: Result<Vec<bool>, Failure>,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        let Some(batch) = self.in_flight.remove(&id) else { return };
        let found = match outcome {
            Ok(found) if found.len() == batch.offsets.len() => found,
            Ok(_) => {
                let cause = "the answer to a lookup has not one item for each record".into();
                return self.look_failed(&batch, Failure::Unsent { cause }, now, out);
            }
            Err(failure) => return self.look_failed(&batch, failure, now, out),
        };
        let mut missing = Vec::new();
        for (offset, found) in batch.offsets.iter().zip(found) {
            if found {
                self.tally.found += 1;
                self.tally.delivered += 1;
                self.set(*offset, State::Done);
            } else {
                self.set(*offset, State::Waiting { doubtful: false });
                missing.push(*offset);
            }
        }
        self.cleared(batch.since, out);
        if !missing.is_empty() && !self.stopping {
            self.send(missing, now, out);
        }
    }

    /// A lookup changes nothing: what was doubtful still is.
    fn look_failed(&mut self, batch: &Batch, failure: Failure, now: Mono, out: &mut Vec<Action>) {
        self.fail(batch, failure, now, out);
        for offset in &batch.offsets {
            self.set(*offset, State::Waiting { doubtful: true });
        }
    }

    fn settle(&mut self, batch: &Batch, items: Vec<Item>, now: Mono, out: &mut Vec<Action>) {
        let (mut done, mut again, mut stuck) = (false, false, None);
        let mut rejected = Vec::new();
        for (offset, item) in batch.offsets.iter().zip(items) {
            let state = match item {
                Item::Done => {
                    done = true;
                    self.rejects_in_a_row = 0;
                    self.tally.delivered += 1;
                    State::Done
                }
                Item::Again { doubtful } => {
                    again = true;
                    State::Waiting { doubtful }
                }
                Item::Stuck(pause) => {
                    stuck.get_or_insert(pause);
                    State::Waiting { doubtful: false }
                }
                Item::Rejected(rejection) => {
                    self.rejects_in_a_row = self.rejects_in_a_row.saturating_add(1);
                    rejected.push(*offset);
                    State::Rejected(rejection)
                }
            };
            self.set(*offset, state);
        }
        if let Some(pause) = stuck {
            return self.pause(pause, now, out);
        }
        let paused = self.paused() == Some(PauseKind::Rejects);
        let in_a_row = self.rejects_in_a_row > self.options.rejects_in_a_row_max;
        if !rejected.is_empty() && !done && (paused || in_a_row) {
            return self.too_many_rejects(&rejected, now, out);
        }
        if done || !rejected.is_empty() {
            self.cleared(batch.since, out);
        }
        if again {
            self.delay(now, "the sink is busy with some of the records".into(), None);
        }
    }

    /// The run is unbroken: these are kept, not given up, until something gets through.
    fn too_many_rejects(&mut self, rejected: &[i64], now: Mono, out: &mut Vec<Action>) {
        let mut said = String::new();
        for offset in rejected {
            let Some(slot) = self.slot(*offset) else { continue };
            if let State::Rejected(rejection) = &slot.state {
                let Rejection { status, kind, reason } = &**rejection;
                said = format!("{status} {kind}: {reason}");
            }
            slot.state = State::Waiting { doubtful: false };
        }
        self.probe_from = rejected.last().map_or(i64::MIN, |offset| offset + 1);
        let count = self.rejects_in_a_row;
        let cause = format!("{count} records in a row were refused, the last one with {said}");
        self.pause(Pause { kind: PauseKind::Rejects, cause: cause.into() }, now, out);
    }

    fn split(
        &mut self,
        batch: &Batch,
        rejection: Arc<Rejection>,
        now: Mono,
        out: &mut Vec<Action>,
    ) {
        self.fitting = 0;
        if let [_] = batch.offsets[..] {
            return self.settle(batch, vec![Item::Rejected(rejection)], now, out);
        }
        let size: usize = batch.offsets.iter().map(|o| self.bytes_of(*o)).sum();
        self.batch_bytes = (size / 2).max(1);
        for offset in &batch.offsets {
            self.set(*offset, State::Waiting { doubtful: false });
        }
    }

    fn fitted(&mut self) {
        self.fitting += 1;
        if self.fitting >= GROW_AFTER && self.batch_bytes < self.options.batch_bytes {
            self.fitting = 0;
            self.batch_bytes = (self.batch_bytes * 2).min(self.options.batch_bytes);
        }
    }

    fn fail(&mut self, batch: &Batch, failure: Failure, now: Mono, out: &mut Vec<Action>) {
        let doubtful = matches!(failure, Failure::Doubtful { .. });
        for offset in &batch.offsets {
            self.set(*offset, State::Waiting { doubtful });
        }
        match failure {
            Failure::Unsent { cause } => self.delay(now, cause, None),
            Failure::Split { rejection } => self.delay(now, rejection.reason.as_str().into(), None),
            Failure::Doubtful { cause, retry_after } | Failure::Busy { cause, retry_after } => {
                self.delay(now, cause, retry_after);
            }
            Failure::Pause(pause) => self.pause(pause, now, out),
        }
    }

    fn dead_lettered(&mut self, durable: bool, now: Mono) {
        let offsets = std::mem::take(&mut self.dead_lettering);
        if !durable && !tailway_faults::is_planted("broker.forward_past_lost_dead_letter") {
            self.dead_letters_at = now + self.options.backoff_cap.min(self.options.commit_interval);
            return;
        }
        for offset in offsets {
            self.tally.dead += 1;
            self.set(offset, State::Done);
        }
    }

    // What stands in the way.

    fn delay(&mut self, now: Mono, cause: Arc<str>, at_least: Option<std::time::Duration>) {
        let wait = self.backoff.next_pause().max(at_least.unwrap_or_default());
        let pause = self.paused();
        let until = self.trouble.as_ref().map_or(Mono::ZERO, |t| t.until).max(now + wait);
        self.trouble = Some(Trouble { since: now, until, cause, pause });
    }

    fn pause(&mut self, pause: Pause, now: Mono, out: &mut Vec<Action>) {
        let known = self.paused() == Some(pause.kind);
        self.delay(now, Arc::clone(&pause.cause), None);
        if let Some(trouble) = &mut self.trouble {
            trouble.pause = Some(pause.kind);
        }
        if !known {
            out.push(Action::Paused(pause));
        }
    }

    fn paused(&self) -> Option<PauseKind> {
        self.trouble.as_ref().and_then(|trouble| trouble.pause)
    }

    /// A request that went out at `since` got through: what stood in the way before that is over.
    fn cleared(&mut self, since: Mono, out: &mut Vec<Action>) {
        let Some(trouble) = self.trouble.take_if(|trouble| trouble.since <= since) else { return };
        self.backoff.reset();
        self.rejects_in_a_row = 0;
        self.probe_from = i64::MIN;
        if trouble.pause.is_some() {
            out.push(Action::Resumed);
        }
    }

    // Slots.

    /// Every record below is delivered or dead-lettered.
    fn done_below(&self) -> i64 {
        if tailway_faults::is_planted("broker.forward_commit_before_delivery") {
            return self.next;
        }
        self.slots.front().map_or(self.next, |slot| slot.offset)
    }

    fn in_flight_max(&self) -> usize {
        if self.options.is_ordered { 1 } else { self.options.in_flight_max }
    }

    fn limit(&self) -> i64 {
        self.committed.saturating_add(self.options.window)
    }

    fn slot(&mut self, offset: i64) -> Option<&mut Slot> {
        let at = self.slots.binary_search_by_key(&offset, |slot| slot.offset).ok()?;
        self.slots.get_mut(at)
    }

    fn set(&mut self, offset: i64, state: State) {
        if let Some(slot) = self.slot(offset) {
            slot.state = state;
        }
    }

    fn bytes_of(&mut self, offset: i64) -> usize {
        self.slot(offset).map_or(0, |slot| slot.bytes)
    }
}

impl Slot {
    fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }

    fn is_rejected(&self) -> bool {
        matches!(self.state, State::Rejected(_))
    }
}

#[cfg(test)]
#[path = "forward/forward_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "forward/model_tests.rs"]
mod model_tests;
