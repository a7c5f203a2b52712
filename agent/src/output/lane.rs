//! The shipper's side of one partition: events that wait, parcels on their way, what to send next.
//!
//! Events gather in a buffer as they are read and go out as parcels, each under a plan. A parcel of
//! an earlier process that is built again goes out under its old plan, with its old sequences, so
//! that a broker which has it, or gets it late, stores it once.
//!
//! Invariants: parcels are acknowledged in the order in which they were sent; at most five are on
//! their way; after the pipeline stopped nothing is sent before what was on its way is resolved;
//! nothing new is sent while a parcel of an earlier process has no acknowledgement.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use tailway_client::ProducerIdentity;
use tailway_client::machine::pipeline::sequence_after;
use tailway_client::resolve::{Doubt, LookFrom, Proof};
use tailway_metadata::time::{Mono, WallMs};
use tailway_wire::WireError;
use tailway_wire::record::{BatchBuilder, stamp_producer};
use tokio::sync::mpsc;

use super::inbox::LaneId;
use super::link::Command;
use super::parcel::{Buffer, Entry, Parcel, split_until};
use crate::machine::identity::{Generation, Marker};
use crate::machine::ledger::{PLANS_OPEN_MAX, Plan, Range, Target};

/// However small the batches must be, they have a few lines.
const BATCH_BYTES_MIN: usize = 2 * 1024;
/// A buffer that was not used for this long is given back.
const BUFFER_IDLE: Duration = Duration::from_secs(5);

/// A parcel that was sent under a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub plan: u64,
    pub base_sequence: i32,
    pub parcel: Parcel,
    /// Built again after the process that sent it had died.
    pub resumed: bool,
}

/// Why less is guaranteed than that each line is there once, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapse {
    pub at: WallMs,
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    Flowing(ProducerIdentity),
}

/// One partition.
#[derive(Debug)]
pub struct Lane {
    pub id: LaneId,
    pub target: Target,
    /// What the target was before its topic was deleted and made anew, or its cluster changed.
    pub former: Vec<Target>,
    /// Files that wait for room.
    pub waiting: BTreeSet<usize>,
    /// What is in the way, and is tried again.
    pub trouble: Option<String>,
    /// Why something may have been sent twice, if it may.
    pub repeated: Option<Lapse>,
    /// How it was found out what became of batches in doubt, the last time.
    pub looked: Option<String>,
    /// What was looked for in vain may have been deleted; it was looked for below this offset.
    pub unproven_below: Option<i64>,
    phase: Phase,
    next_sequence: i32,
    /// The sequence of the next new batch once the link is ready.
    start_sequence: i32,
    acked_through: i32,
    buffer: Buffer,
    opened_at: Option<Mono>,
    used_at: Mono,
    /// A buffer of this size is full.
    batch_bytes: usize,
    /// Some batch was too large for the broker, so that what waits may be as well.
    is_shrunk: bool,
    sent: VecDeque<Sent>,
    again: VecDeque<Parcel>,
    commands: mpsc::Sender<Command>,
}

impl Lane {
    /// A lane whose link listens to `commands`.
    pub fn new(
        id: LaneId,
        target: Target,
        batch_bytes: usize,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            id,
            target,
            former: Vec::new(),
            waiting: BTreeSet::new(),
            trouble: None,
            repeated: None,
            looked: None,
            unproven_below: None,
            phase: Phase::Beginning,
            next_sequence: 0,
            start_sequence: 0,
            acked_through: -1,
            buffer: Buffer::default(),
            opened_at: None,
            used_at: Mono::ZERO,
            batch_bytes,
            is_shrunk: false,
            sent: VecDeque::new(),
            again: VecDeque::new(),
            commands,
        }
    }

    // Filling.

    /// Appends one event: `write` appends its value. Lines of a generation come in order.
    pub fn append(&mut self, entry: Entry<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.append(entry, write);
    }

    /// What stands in the file before the end of what was just appended of the generation.
    pub fn mark(&mut self, generation: Generation, marker: Marker, now: Mono) {
        self.used_at = now;
        if self.opened_at.is_none() && !self.buffer.is_empty() {
            self.opened_at = Some(now);
        }
        self.buffer.mark(generation, marker);
    }

    /// Bytes that wait to become a batch.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// True if another event may be appended.
    pub fn has_room(&self) -> bool {
        self.buffer.len() < self.batch_bytes && self.buffer.has_room()
    }

    /// True if bytes of the generation wait or are on their way.
    pub fn holds(&self, generation: Generation) -> bool {
        let is = |range: &Range| range.generation == generation;
        self.buffer.holds(generation)
            || self.again.iter().any(|parcel| parcel.ranges.iter().any(is))
            || self.sent.iter().any(|sent| sent.parcel.ranges.iter().any(is))
    }

    // Sending.

    pub fn is_flowing(&self) -> bool {
        matches!(self.phase, Phase::Flowing(_))
    }

    /// Parcels of an earlier process have no acknowledgement yet.
    pub fn is_resuming(&self) -> bool {
        self.sent.iter().any(|sent| sent.resumed)
    }

    /// Whether a new parcel may be sent now.
    fn may_send(&self) -> bool {
        self.is_flowing() && self.sent.len() < PLANS_OPEN_MAX && !self.is_resuming()
    }

    /// Nothing waits and nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.again.is_empty() && self.sent.is_empty()
    }

    /// Bytes of finished batches.
    pub fn parcel_bytes(&self) -> usize {
        let again = self.again.iter().map(|parcel| parcel.bytes.len());
        again.chain(self.sent.iter().map(|sent| sent.parcel.bytes.len())).sum()
    }

    /// When the buffer is to be sent although it is not full; `None` if it cannot be anyway.
    pub fn deadline(&self, linger: Duration) -> Option<Mono> {
        self.opened_at.filter(|_| self.may_send()).map(|at| at + linger)
    }

    /// The next parcel to send, if there is one and it may be sent now.
    pub fn next_parcel(
        &mut self,
        builder: &mut BatchBuilder,
        linger: Duration,
        now: Mono,
    ) -> Result<Option<Parcel>, WireError> {
        if !self.may_send() {
            return Ok(None);
        }
        if let Some(parcel) = self.again.pop_front() {
            return Ok(Some(parcel));
        }
        let due = self.opened_at.is_some_and(|at| at + linger <= now);
        if self.buffer.is_empty() || (!due && self.has_room()) {
            return Ok(None);
        }
        self.opened_at = None;
        let parcel = self.buffer.finish(builder)?;
        if !self.is_shrunk {
            return Ok(Some(parcel));
        }
        // It may have gathered before that was known.
        let limit = self.batch_bytes.saturating_mul(2);
        self.again = split_until(parcel, builder, &|parcel| parcel.value_bytes < limit)?.into();
        Ok(self.again.pop_front())
    }

    /// The plan under which the parcel goes out next.
    pub fn plan(&self, number: u64, at: WallMs, parcel: &Parcel, pipeline: u64) -> Option<Plan> {
        let Phase::Flowing(identity) = self.phase else { return None };
        Some(Plan {
            number,
            at,
            target: self.target.clone(),
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            first_sequence: self.next_sequence,
            last_sequence: sequence_after(self.next_sequence, parcel.count - 1),
            acked_through: self.acked_through,
            ranges: parcel.ranges.clone(),
            lines: parcel.lines_hash(),
            pipeline,
            shared: false,
        })
    }

    /// Sends the parcel whose plan is recorded.
    pub fn send(&mut self, plan: &Plan, mut parcel: Parcel) -> Result<(), WireError> {
        parcel.bytes = stamp_producer(
            parcel.bytes,
            plan.producer_id,
            plan.producer_epoch,
            plan.first_sequence,
        )?;
        let batch = Command::Batch { bytes: parcel.bytes.clone(), count: parcel.count };
        // The channel holds more than may be on its way; if the link is gone, the program stops.
        drop(self.commands.try_send(batch));
        self.next_sequence = sequence_after(plan.first_sequence, parcel.count);
        let base_sequence = plan.first_sequence;
        self.sent.push_back(Sent { plan: plan.number, base_sequence, parcel, resumed: false });
        Ok(())
    }

    /// The oldest parcel is stored.
    pub fn acked(&mut self, base_sequence: i32) -> Option<Sent> {
        let oldest = self.sent.front()?;
        assert_eq!(oldest.base_sequence, base_sequence, "acknowledgements come in order");
        let sent = self.sent.pop_front()?;
        self.acked_through = sequence_after(sent.base_sequence, sent.parcel.count - 1);
        Some(sent)
    }

    /// Gives back a buffer that is not needed at the moment.
    pub fn shrink(&mut self, now: Mono) {
        if now.since(self.used_at) >= BUFFER_IDLE {
            self.buffer.shrink();
        }
    }

    // Beginning, and beginning again.

    /// Whether plans of that target are this lane's.
    pub fn has_plans_of(&self, target: &Target) -> bool {
        self.target == *target || self.former.contains(target)
    }

    /// Asks the link to find out about `doubts`.
    pub fn resolve(&mut self, doubts: Vec<Doubt>, from: LookFrom, settle: bool, proof: Proof) {
        self.phase = Phase::Beginning;
        drop(self.commands.try_send(Command::Resolve { doubts, from, settle, proof }));
    }

    /// Asks the link to get ready to send under this identity from sequence 0 on, `None`: under
    /// one that was never used.
    pub fn start(&mut self, identity: Option<ProducerIdentity>) {
        self.start_sequence = 0;
        self.acked_through = -1;
        let command = Command::Start { identity, first_sequence: 0, resent: Vec::new() };
        drop(self.commands.try_send(command));
    }

    /// Sends parcels of an earlier process again as they were, under their open plans, and goes on
    /// with that process's sequences.
    pub fn resume(
        &mut self,
        identity: ProducerIdentity,
        parcels: Vec<(&Plan, Parcel)>,
    ) -> Result<(), WireError> {
        let first_sequence = parcels.first().map_or(0, |(plan, _)| plan.first_sequence);
        self.acked_through = parcels.first().map_or(-1, |(plan, _)| plan.acked_through);
        let mut resent = Vec::with_capacity(parcels.len());
        for (plan, mut parcel) in parcels {
            let (id, epoch) = (identity.producer_id, identity.producer_epoch);
            parcel.bytes = stamp_producer(parcel.bytes, id, epoch, plan.first_sequence)?;
            resent.push((parcel.bytes.clone(), parcel.count));
            self.start_sequence = sequence_after(plan.first_sequence, parcel.count);
            let base_sequence = plan.first_sequence;
            self.sent.push_back(Sent { plan: plan.number, base_sequence, parcel, resumed: true });
        }
        let command = Command::Start { identity: Some(identity), first_sequence, resent };
        drop(self.commands.try_send(command));
        Ok(())
    }

    /// A batch with values of so many bytes was refused because it was too large: those that follow
    /// have half of that, however many are refused that were made before.
    pub fn shrink_batches(&mut self, refused: usize) {
        self.batch_bytes = self.batch_bytes.min((refused / 2).max(BATCH_BYTES_MIN));
        self.is_shrunk = true;
    }

    /// The link is ready: batches go out under this identity.
    pub fn started(&mut self, identity: ProducerIdentity) {
        self.phase = Phase::Flowing(identity);
        self.next_sequence = self.start_sequence;
        self.trouble = None;
    }

    /// Takes what was on its way when the pipeline stopped: each is in doubt.
    pub fn take_sent(&mut self) -> VecDeque<Sent> {
        self.phase = Phase::Beginning;
        std::mem::take(&mut self.sent)
    }

    /// Takes what was to be sent again and was not.
    pub fn take_again(&mut self) -> VecDeque<Parcel> {
        std::mem::take(&mut self.again)
    }

    /// Sends these parcels again, before anything else, in order.
    pub fn send_again(&mut self, parcels: Vec<Parcel>) {
        for parcel in parcels.into_iter().rev() {
            self.again.push_front(parcel);
        }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
