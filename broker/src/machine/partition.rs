//! One partition's leader: gives out offsets, decides when an append is answered, moves the high watermark.
//!
//! The driver appends what `Append` says, in that order, and reports `Written` once the group is in the page cache; it
//! performs one `Flush` at a time and reports `Flushed`. The high watermark is the lowest offset that every in-sync replica
//! has durably: our own durable offset, and for followers the offset they fetch from.
//! Invariants: log start <= high watermark <= durable <= written <= log end; the high watermark never falls; every request
//! is completed exactly once; after a storage failure nothing is appended, flushed or acknowledged.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailway_metadata::ids::BrokerId;
use tailway_metadata::time::{Mono, WallMs};

use super::producers::{ProducerBatch, Producers, Undo, Verdict};
use crate::partition::{Acks, Appended, PartitionError};

/// Names a produce request until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What of a validated batch matters for decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchFacts {
    pub last_offset_delta: i32,
    /// `None` for batches without a producer id.
    pub producer: Option<ProducerBatch>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Validated batches that want to be appended together.
    Produce {
        request: RequestId,
        acks: Acks,
        batches: Vec<BatchFacts>,
        wall: WallMs,
        /// What the batches are stamped with, -1 if they keep their own time.
        log_append_time: i64,
    },
    /// All appends given out so far are in the page cache.
    Written,
    /// The disk had no room: of the appends given out so far those below `log_end` are in the page cache and nothing is left
    /// of the others. Nothing is broken.
    DiskFull { log_end: i64, refusal: PartitionError },
    /// The log is durable below this offset.
    Flushed { durable: i64 },
    /// A write or sync failed: nothing is known about the log any more.
    StorageFailed { cause: Arc<str> },
    /// Durable bytes turned out to be damaged.
    Quarantined { cause: Arc<str> },
    /// A follower fetches from this offset: it has everything below, durably.
    FollowerFetch { follower: BrokerId, fetch_offset: i64 },
    /// The controller committed a new in-sync set; these are in it besides the leader.
    IsrCommitted { followers: Vec<BrokerId> },
    /// This broker leads at this epoch. Older epochs are ignored.
    BecomeLeader { leader_epoch: i32 },
    /// Retention or DeleteRecords moved the start.
    LogStartMoved { log_start: i64 },
    /// Housekeeping, every few minutes.
    Tick { wall: WallMs },
    /// The partition goes away: what still waits is told so.
    Close,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Append batch `index` of `request` at `base_offset`.
    Append {
        request: RequestId,
        index: usize,
        base_offset: i64,
        leader_epoch: i32,
    },
    /// Make the log durable below `through`.
    Flush {
        through: i64,
    },
    AdvanceHighWatermark {
        high_watermark: i64,
    },
    CompleteProduce {
        request: RequestId,
        outcome: Result<Appended, PartitionError>,
    },
}

/// What recovery found, to begin with. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    pub leader_epoch: i32,
    pub log_start: i64,
    pub log_end: i64,
    pub producers: Producers,
    pub producer_ttl_ms: i64,
}

/// The machine.
#[derive(Debug)]
pub struct PartitionLeader {
    leader_epoch: i32,
    log_start: i64,
    high_watermark: i64,
    durable: i64,
    written: i64,
    log_end: i64,
    flushing: bool,
    in_sync: Vec<BrokerId>,
    /// Durable offsets of the followers, by their last fetch at this leader epoch.
    followers: BTreeMap<BrokerId, i64>,
    producers: Producers,
    producer_ttl_ms: i64,
    /// What the producers' batches that are not written yet changed, oldest first.
    unwritten: Vec<Undo>,
    /// Answered once the log is written up to the key's offset.
    until_written: BTreeMap<(i64, RequestId), Appended>,
    /// Answered once the high watermark reached the key's offset.
    until_committed: BTreeMap<(i64, RequestId), Appended>,
    refusal: Option<PartitionError>,
}

impl PartitionLeader {
    pub fn new(recovered: Recovered) -> Self {
        let Recovered { leader_epoch, log_start, log_end, producers, producer_ttl_ms } = recovered;
        Self {
            leader_epoch,
            log_start,
            high_watermark: log_end,
            durable: log_end,
            written: log_end,
            log_end,
            flushing: false,
            in_sync: Vec::new(),
            followers: BTreeMap::new(),
            producers,
            producer_ttl_ms,
            unwritten: Vec::new(),
            until_written: BTreeMap::new(),
            until_committed: BTreeMap::new(),
            refusal: None,
        }
    }

    pub fn log_start(&self) -> i64 {
        self.log_start
    }

    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    pub fn log_end(&self) -> i64 {
        self.log_end
    }

    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    pub fn producers(&self) -> &Producers {
        &self.producers
    }

    pub fn on_event(&mut self, event: Event, _now: Mono, out: &mut Vec<Action>) {
        match event {
            Event::Produce { request, acks, batches, wall, log_append_time } => {
                self.produce(request, acks, &batches, wall, log_append_time, out);
            }
            Event::Written => self.written(out),
            Event::DiskFull { log_end, refusal } => self.disk_full(log_end, &refusal, out),
            Event::Flushed { durable } => self.flushed(durable, out),
            Event::StorageFailed { cause } => self.refuse(PartitionError::Storage { cause }, out),
            Event::Quarantined { cause } => {
                self.refuse(PartitionError::Quarantined { cause }, out);
            }
            Event::FollowerFetch { follower, fetch_offset } => {
                self.followers.insert(follower, fetch_offset.min(self.log_end));
                self.advance(out);
            }
            Event::IsrCommitted { followers } => {
                self.in_sync = followers;
                self.advance(out);
            }
            Event::BecomeLeader { leader_epoch } => {
                if leader_epoch > self.leader_epoch {
                    self.leader_epoch = leader_epoch;
                    self.followers.clear();
                }
            }
            Event::LogStartMoved { log_start } => {
                self.log_start = log_start.clamp(self.log_start, self.high_watermark);
            }
            Event::Tick { wall } => self.producers.expire(wall, self.producer_ttl_ms),
            Event::Close => self.refuse(PartitionError::Closed, out),
        }
    }

    /// No timer of its own: an idle partition costs nothing.
    pub fn deadline(&self) -> Option<Mono> {
        None
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        assert!(0 <= self.log_start && self.log_start <= self.high_watermark, "{self:?}");
        assert!(self.high_watermark <= self.durable, "{self:?}");
        assert!(self.durable <= self.written && self.written <= self.log_end, "{self:?}");
        if let Some(((until, _), _)) = self.until_written.first_key_value() {
            assert!(*until > self.written, "a written append is not answered: {self:?}");
        }
        if let Some(((until, _), _)) = self.until_committed.first_key_value() {
            assert!(*until > self.high_watermark, "a committed append is not answered: {self:?}");
        }
        if self.refusal.is_some() {
            assert!(!self.flushing && self.until_written.is_empty(), "{self:?}");
            assert!(self.until_committed.is_empty(), "{self:?}");
        } else {
            assert_eq!(self.flushing, self.durable < self.written, "{self:?}");
        }
        self.producers.check();
    }

    /// All batches of a request are appended or none. Leading duplicates of a longer request are left out.
    fn produce(
        &mut self,
        request: RequestId,
        acks: Acks,
        batches: &[BatchFacts],
        wall: WallMs,
        log_append_time: i64,
        out: &mut Vec<Action>,
    ) {
        let plan = match self.refusal.clone() {
            Some(refusal) => Err(refusal),
            None => self.plan(batches),
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                out.push(Action::CompleteProduce { request, outcome: Err(error) });
                return;
            }
        };
        let mut appended = Appended {
            base_offset: -1,
            last_offset: -1,
            log_append_time,
            log_start_offset: self.log_start,
        };
        for (index, (batch, known)) in batches.iter().zip(plan).enumerate() {
            let (base_offset, last_offset) =
                known.unwrap_or_else(|| self.append(request, index, batch, wall, out));
            if index == 0 {
                appended.base_offset = base_offset;
            }
            appended.last_offset = appended.last_offset.max(last_offset);
        }
        let until = appended.last_offset + 1;
        match acks {
            Acks::None => {
                let nothing = Appended { base_offset: -1, last_offset: -1, ..appended };
                out.push(Action::CompleteProduce { request, outcome: Ok(nothing) });
            }
            Acks::Leader if until > self.written => {
                self.until_written.insert((until, request), appended);
            }
            Acks::All if until > self.high_watermark => {
                self.until_committed.insert((until, request), appended);
            }
            Acks::Leader | Acks::All => {
                out.push(Action::CompleteProduce { request, outcome: Ok(appended) });
            }
        }
    }

    /// Per batch: the offsets it has already (a duplicate), or `None`: append it.
    fn plan(&self, batches: &[BatchFacts]) -> Result<Vec<Option<(i64, i64)>>, PartitionError> {
        if let [batch] = batches {
            return Ok(vec![judge(&self.producers, batch)?]);
        }
        // Later batches follow earlier ones of the same request, so they are judged on a copy that has those.
        let mut ahead: Option<Producers> = None;
        let mut plan = Vec::with_capacity(batches.len());
        for batch in batches {
            let known = judge(ahead.as_ref().unwrap_or(&self.producers), batch)?;
            if let (None, Some(producer)) = (known, batch.producer) {
                let ahead = ahead.get_or_insert_with(|| self.producers.clone());
                let offset = ahead.last_offsets().last().map_or(self.log_end, |last| last + 1);
                ahead.remember(&producer, offset.max(self.log_end), WallMs(0));
            }
            plan.push(known);
        }
        Ok(plan)
    }

    fn append(
        &mut self,
        request: RequestId,
        index: usize,
        batch: &BatchFacts,
        wall: WallMs,
        out: &mut Vec<Action>,
    ) -> (i64, i64) {
        let base_offset = self.log_end;
        let last_offset = base_offset + i64::from(batch.last_offset_delta);
        self.log_end = last_offset + 1;
        if let Some(producer) = &batch.producer {
            self.unwritten.push(self.producers.remember(producer, base_offset, wall));
        }
        let leader_epoch = self.leader_epoch;
        out.push(Action::Append { request, index, base_offset, leader_epoch });
        (base_offset, last_offset)
    }

    fn written(&mut self, out: &mut Vec<Action>) {
        if self.refusal.is_some() {
            return;
        }
        self.written = self.log_end;
        self.unwritten.clear();
        complete_through(&mut self.until_written, self.written, out);
        self.flush_if_dirty(out);
    }

    /// What was not written is as if it had never come, so that its producers' resends find their place.
    fn disk_full(&mut self, log_end: i64, refusal: &PartitionError, out: &mut Vec<Action>) {
        if self.refusal.is_some() {
            return;
        }
        while let Some(undo) = self.unwritten.pop_if(|undo| undo.base_offset >= log_end) {
            self.producers.undo(undo);
        }
        self.log_end = log_end.clamp(self.written, self.log_end);
        let first = (self.log_end + 1, RequestId(0));
        for waiting in [&mut self.until_written, &mut self.until_committed] {
            for (_, request) in waiting.split_off(&first).into_keys() {
                out.push(Action::CompleteProduce { request, outcome: Err(refusal.clone()) });
            }
        }
        self.written(out);
    }

    fn flushed(&mut self, durable: i64, out: &mut Vec<Action>) {
        if self.refusal.is_some() {
            return;
        }
        self.flushing = false;
        self.durable = durable.clamp(self.durable, self.written);
        self.advance(out);
        self.flush_if_dirty(out);
    }

    fn flush_if_dirty(&mut self, out: &mut Vec<Action>) {
        if !self.flushing && self.durable < self.written {
            self.flushing = true;
            out.push(Action::Flush { through: self.written });
        }
    }

    fn advance(&mut self, out: &mut Vec<Action>) {
        let lowest = self
            .in_sync
            .iter()
            .map(|id| self.followers.get(id).copied().unwrap_or(self.high_watermark))
            .fold(self.durable, i64::min);
        if self.refusal.is_none() && lowest > self.high_watermark {
            self.high_watermark = lowest;
            out.push(Action::AdvanceHighWatermark { high_watermark: lowest });
            complete_through(&mut self.until_committed, lowest, out);
        }
    }

    /// From now on every request gets this answer; so do those that wait. The first refusal stays.
    fn refuse(&mut self, error: PartitionError, out: &mut Vec<Action>) {
        let error = self.refusal.get_or_insert(error).clone();
        self.flushing = false;
        let waiting = [&mut self.until_written, &mut self.until_committed];
        for (_, request) in waiting.into_iter().flat_map(std::mem::take).map(|(key, _)| key) {
            out.push(Action::CompleteProduce { request, outcome: Err(error.clone()) });
        }
    }
}

fn judge(producers: &Producers, batch: &BatchFacts) -> Result<Option<(i64, i64)>, PartitionError> {
    let Some(producer) = &batch.producer else { return Ok(None) };
    let ProducerBatch { producer_id, producer_epoch, base_sequence: sequence, .. } = *producer;
    match producers.judge(producer) {
        Verdict::Append => Ok(None),
        Verdict::Duplicate { base_offset, last_offset } => {
            tailway_faults::reached("broker.duplicate_recognised");
            Ok(Some((base_offset, last_offset)))
        }
        Verdict::OutOfOrder { expected } => {
            tailway_faults::reached("broker.sequence_refused");
            Err(PartitionError::OutOfOrderSequence {
                producer_id,
                producer_epoch,
                sequence,
                expected,
            })
        }
        Verdict::StaleEpoch { current } => {
            tailway_faults::reached("broker.sequence_refused");
            Err(PartitionError::InvalidProducerEpoch { producer_id, producer_epoch, current })
        }
    }
}

fn complete_through(
    waiting: &mut BTreeMap<(i64, RequestId), Appended>,
    through: i64,
    out: &mut Vec<Action>,
) {
    while let Some(entry) = waiting.first_entry()
        && entry.key().0 <= through
    {
        let ((_, request), appended) = entry.remove_entry();
        out.push(Action::CompleteProduce { request, outcome: Ok(appended) });
    }
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
