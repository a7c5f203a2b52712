//! What a cursor does next: forgets, dead-letters, commits, sends and reads, in this order.

use std::sync::Arc;

use tailway_metadata::time::Mono;

use super::{Action, Batch, BatchId, Cursor, State};

/// Records of an attempt that finds out whether a pause is over.
const PROBE_RECORDS: usize = 10;

impl Cursor {
    pub(super) fn step(&mut self, now: Mono, out: &mut Vec<Action>) {
        self.forget(out);
        self.write_dead_letters(now, out);
        self.commit(now, out);
        if self.stopping {
            return;
        }
        while self.dispatch(now, out) {}
        let room = self.held_bytes < self.options.buffer_bytes && self.next < self.limit();
        if room && !self.reading {
            self.reading = true;
            out.push(Action::Read { from: self.next });
        }
    }

    fn forget(&mut self, out: &mut Vec<Action>) {
        let before = self.slots.len();
        while let Some(slot) = self.slots.pop_front_if(|slot| slot.state == State::Done) {
            self.held_bytes -= slot.bytes;
        }
        if self.slots.len() < before {
            out.push(Action::Forget { below: self.done_below() });
        }
    }

    fn write_dead_letters(&mut self, now: Mono, out: &mut Vec<Action>) {
        if !self.dead_lettering.is_empty() || now < self.dead_letters_at {
            return;
        }
        let mut records = Vec::new();
        for slot in &self.slots {
            if let State::Rejected(rejection) = &slot.state {
                records.push((slot.offset, Arc::clone(rejection)));
            }
        }
        if records.is_empty() {
            return;
        }
        self.dead_lettering = records.iter().map(|(offset, _)| *offset).collect();
        out.push(Action::DeadLetter { records });
    }

    fn commit(&mut self, now: Mono, out: &mut Vec<Action>) {
        let offset = self.done_below();
        if self.committing.is_some() || offset <= self.committed {
            return;
        }
        // Who waits for the window to move is not kept waiting, but by a failure, which may come at once again and again.
        let wanted = (self.stopping || self.next >= self.limit()) && !self.commit_failed;
        if wanted || now >= self.commit_at {
            self.committing = Some(offset);
            out.push(Action::Commit { offset });
        }
    }

    fn dispatch(&mut self, now: Mono, out: &mut Vec<Action>) -> bool {
        let mut records_max = self.options.batch_records;
        if let Some(trouble) = &self.trouble {
            if now < trouble.until || !self.in_flight.is_empty() {
                return false;
            }
            if trouble.pause.is_some() {
                records_max = records_max.min(PROBE_RECORDS);
            }
        }
        if self.in_flight.len() >= self.in_flight_max() || !self.is_turn() {
            return false;
        }
        let Some((offsets, doubtful)) = self.next_records(records_max) else { return false };
        if doubtful && self.options.looks_up {
            let batch = self.begin(&offsets, now);
            out.push(Action::LookUp { batch, offsets });
        } else {
            self.send(offsets, now, out);
        }
        true
    }

    /// Where the order is kept: the lowest record waits, and all that is in doubt with it has been read.
    fn is_turn(&self) -> bool {
        if !self.options.is_ordered {
            return true;
        }
        let Some(lowest) = self.slots.front() else { return false };
        let unread = self.next < self.doubtful_below && self.held_bytes < self.options.buffer_bytes;
        match lowest.state {
            State::Waiting { doubtful } => !(doubtful && unread),
            State::InFlight(_) | State::Rejected(_) | State::Done => false,
        }
    }

    /// The lowest records that wait, all of them doubtful or none.
    fn next_records(&self, records_max: usize) -> Option<(Vec<i64>, bool)> {
        let from = |at: i64| {
            let mut offsets = Vec::new();
            let (mut bytes, mut kind) = (0, None);
            for slot in self.slots.iter().filter(|slot| slot.offset >= at) {
                let State::Waiting { doubtful } = slot.state else { continue };
                let full = offsets.len() >= records_max || bytes + slot.bytes > self.batch_bytes;
                if *kind.get_or_insert(doubtful) != doubtful || (full && !offsets.is_empty()) {
                    break;
                }
                bytes += slot.bytes;
                offsets.push(slot.offset);
            }
            kind.map(|kind| (offsets, kind))
        };
        let probe_from = if self.options.is_ordered { i64::MIN } else { self.probe_from };
        from(probe_from).or_else(|| from(i64::MIN))
    }

    pub(super) fn send(&mut self, offsets: Vec<i64>, now: Mono, out: &mut Vec<Action>) {
        let batch = self.begin(&offsets, now);
        for offset in &offsets {
            if let Some(slot) = self.slot(*offset) {
                slot.attempts = slot.attempts.saturating_add(1);
                let again = slot.attempts > 1;
                self.tally.retried += u64::from(again);
            }
        }
        out.push(Action::Send { batch, offsets });
    }

    fn begin(&mut self, offsets: &[i64], now: Mono) -> BatchId {
        let id = BatchId(self.next_batch);
        self.next_batch += 1;
        for offset in offsets {
            self.set(*offset, State::InFlight(id));
        }
        self.in_flight.insert(id, Batch { offsets: offsets.to_vec(), since: now });
        id
    }
}
