//! Batches in doubt: of an earlier run, or of a pipeline that stopped.
//!
//! First the link asks the leader for them, or looks into the partition. Those that are there, and
//! committed, count as acknowledged. What an earlier process sent and is not there, or is appended
//! and not known to be committed, may still arrive, long after that process died, so it
//! is sent again as it was, with its producer id, epoch and sequences: whichever comes second, the
//! broker knows it. Where that cannot be - the bytes do not make the same records any more, or the
//! broker does not know the producer - and after a pipeline stopped, the plans are voided and the
//! lines are sent anew under the producer's next epoch, which keeps the old requests out. The new
//! epoch is in the journal before the plans are voided.
//!
//! A topic that was made anew is looked into from before the first plan on, because requests go to
//! a topic by its name. In another cluster the producer id may be somebody else's: there lines go
//! out under a new one. What cannot be known - that cluster, or what retention deleted before it
//! was looked at - is sent and said: these lines are there at least once.

use std::sync::Arc;
use std::time::Duration;

use tailway_client::ProducerIdentity;
use tailway_client::machine::pipeline::StopReason;
use tailway_client::resolve::{Doubt, How, LookFrom, Proof, Resolved, Standing};
use tailway_metadata::time::Mono;
use tailway_wire::error_code::ErrorCode;

use super::resume::identity;
use super::{ShipError, Shipper};
use crate::machine::ledger::{Plan, Record, Target, record_count};
use crate::output::inbox::LaneId;
use crate::output::lane::{Lapse, Sent};
use crate::output::parcel::{ORIGIN_HEADER, origin};
use crate::output::topic::TopicFound;

/// Between the stop of a pipeline and its new beginning; doubles up to the maximum.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// How far our clock and a broker's may be apart where a place to look from is known by its time.
const CLOCKS_APART_MS: i64 = 3_600_000;

/// A lane whose pipeline stopped.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) at: Mono,
    pause: Duration,
    /// What was on its way, oldest first.
    sent: Vec<Sent>,
    /// What the broker refused the oldest with.
    pub(super) refused: Option<ErrorCode>,
    /// It was too large and could not be split.
    pub(super) hopeless: bool,
    pub(super) begun: bool,
}

impl Restart {
    pub(super) fn too_large(&self) -> bool {
        self.refused.is_some_and(is_too_large)
    }
}

/// A plan whose batch is not in the partition, and its parcel if this process sent it.
pub(super) struct Missing {
    pub(super) plan: Plan,
    pub(super) known: Option<Sent>,
}

impl Shipper {
    // What stopped.

    pub(super) fn stopped(&mut self, id: LaneId, reason: &StopReason, open: usize) {
        let (text, refused) = match reason {
            StopReason::Refused { code, message: Some(message) } => {
                (format!("refused: {code}: {message}"), Some(*code))
            }
            StopReason::Refused { code, message: None } => {
                (format!("refused: {code}"), Some(*code))
            }
            StopReason::DeliveryTimedOut { cause, .. } => (cause.clone(), None),
        };
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::warn!(
            topic,
            partition,
            reason = text,
            batches = open,
            "a partition's sender stopped"
        );
        lane.trouble = Some(text);
        let now = self.clock.mono();
        let mut sent = Vec::from(lane.take_sent());
        let too_large = refused.is_some_and(is_too_large);
        if let Some(oldest) = sent.first().filter(|_| too_large) {
            lane.shrink_batches(oldest.parcel.value_bytes);
        }
        // Their files are not followed yet: they are read again instead.
        sent.retain(|sent| !sent.resumed);
        let pause = match self.restarts.get(&id) {
            None if too_large => Duration::ZERO,
            Some(before) if too_large && !before.hopeless => Duration::ZERO,
            Some(before) => (before.pause * 2).clamp(RESTART_FIRST, RESTART_MAX),
            None => RESTART_FIRST,
        };
        let at = now + pause;
        let restart = Restart { at, pause, sent, refused, hopeless: false, begun: false };
        self.restarts.insert(id, restart);
        self.restart_lanes(now);
    }

    /// Begins again where the pause is over.
    pub(super) fn restart_lanes(&mut self, now: Mono) {
        let due = |restart: &Restart| !restart.begun && restart.at <= now;
        let due: Vec<LaneId> =
            self.restarts.iter().filter(|(_, restart)| due(restart)).map(|(id, _)| *id).collect();
        for id in due {
            let Some(restart) = self.restarts.get_mut(&id) else { continue };
            restart.begun = true;
            // What was refused for its size is not on its way any more.
            let settle = !restart.too_large();
            self.ask_about_doubts(id, settle, Proof::Committed);
        }
    }

    /// The first beginning of a lane: an earlier run may have left something in doubt.
    pub(super) fn resolve_lane(&mut self, id: LaneId) {
        let batches = self.plans_in_doubt(id).len();
        let target = &self.lanes[id].target;
        if batches > 0 {
            tracing::info!(
                topic = target.topic,
                partition = target.partition,
                batches,
                "finding out what became of batches that were sent before"
            );
        }
        self.ask_about_doubts(id, batches > 0, Proof::Appended);
    }

    /// `proof`: what was sent by an earlier process may be sent again as it was, and the answer
    /// tells then that it is committed; for the rest that must be known.
    fn ask_about_doubts(&mut self, id: LaneId, settle: bool, proof: Proof) {
        let plans = self.plans_in_doubt(id);
        let lane = &mut self.lanes[id];
        let from = if plans.iter().any(|plan| plan.target != lane.target) {
            // Offsets of the topic as it was say nothing about this one.
            let first = plans.iter().map(|plan| plan.at.0).min().unwrap_or_default();
            LookFrom::Time(first.saturating_sub(CLOCKS_APART_MS).max(0))
        } else {
            let known = self.registry.ledger().scan_from.get(&lane.target);
            known.map_or(LookFrom::End, |from| LookFrom::Offset(*from))
        };
        let doubts = plans.iter().map(|plan| doubt(plan, &lane.target)).collect();
        lane.resolve(doubts, from, settle, proof);
    }

    /// Open plans of the lane, oldest first.
    pub(super) fn plans_in_doubt(&self, id: LaneId) -> Vec<Plan> {
        let lane = &self.lanes[id];
        let plans = self.registry.ledger().plans.values();
        plans.filter(|plan| lane.has_plans_of(&plan.target)).cloned().collect()
    }

    /// The lane's topic was deleted and made anew, or its cluster is another. What was on its way is
    /// looked for there: requests go to a topic by its name.
    pub(super) fn moved(&mut self, id: LaneId, found: TopicFound) {
        let lane = &mut self.lanes[id];
        let former = lane.target.clone();
        let now = Target {
            cluster: found.cluster.clone(),
            topic_id: found.topic_id.clone(),
            ..former.clone()
        };
        tracing::warn!(
            topic = former.topic,
            partition = former.partition,
            was = former.topic_id,
            is = now.topic_id,
            "the topic is another one of its name now; looking for what was on its way"
        );
        let mut sent = Vec::from(lane.take_sent());
        sent.retain(|sent| !sent.resumed);
        lane.target.clone_from(&now);
        lane.former.push(former.clone());
        self.lane_of.remove(&former);
        self.lane_of.insert(Arc::new(now), id);
        if let Some(topic) = self.topics.get_mut(&former.topic) {
            topic.found = Some(found);
        }
        let begun = true;
        let at = self.clock.mono();
        let (pause, refused, hopeless) = (RESTART_FIRST, None, false);
        let restart = Restart { at, pause, sent: Vec::new(), refused, hopeless, begun };
        let restart = self.restarts.entry(id).or_insert(restart);
        restart.begun = begun;
        restart.sent.extend(sent);
        self.ask_about_doubts(id, true, Proof::Committed);
    }

    // What was found.

    /// The link knows what became of the doubtful batches, or that it cannot be known.
    pub(super) fn resolved(&mut self, id: LaneId, resolved: Resolved) -> Result<(), ShipError> {
        let target = self.lanes[id].target.clone();
        if !self.registry.ledger().scan_from.contains_key(&target) {
            let from = resolved.scan_from;
            self.registry.record(Record::ScanFrom { target: target.clone(), from })?;
        }
        self.note_how(id, &resolved.how);
        // Somebody else may send, or sends, under its producer.
        let is_shared = resolved.usurped || self.plans_in_doubt(id).iter().any(|plan| plan.shared);
        let may_resume = !is_shared && !self.restarts.contains_key(&id);
        let is_provisional = resolved.found.contains(&Standing::Appended);
        if is_provisional && !(may_resume && self.can_resume(id, &target)) {
            self.ask_about_doubts(id, false, Proof::Committed);
            return Ok(());
        }
        let sent = match self.restarts.get_mut(&id) {
            Some(restart) => std::mem::take(&mut restart.sent),
            None => Vec::new(),
        };
        let in_doubt = self.in_doubt(id, sent);
        if tailway_faults::is_planted("agent.doubts_sent_anew") && !in_doubt.is_empty() {
            return self.start_anew(id, &target, in_doubt, false);
        }
        let (missing, torn) = self.take_found(id, &resolved, in_doubt)?;
        if missing.is_empty() {
            let fence = self.registry.ledger().fences.get(&target);
            let fence = fence.copied().map(identity);
            self.lanes[id].start(fence);
            return self.unblock();
        }
        let records = missing.iter().map(|missing| plan_records(&missing.plan)).sum();
        if let How::Blind(why) = &resolved.how {
            self.unproven(id, records, why);
        }
        self.lanes[id].unproven_below = resolved.deleted_from.map(|_| resolved.looked_to);
        if may_resume && !torn && self.resume(id, &target, &missing)? {
            return self.unblock();
        }
        if let Some(from) = resolved.deleted_from {
            let to = resolved.looked_to;
            self.unproven(
                id,
                records,
                &format!("retention deleted offsets from {from} on, below {to}"),
            );
        }
        if resolved.usurped {
            tracing::error!(
                topic = target.topic,
                partition = target.partition,
                "somebody else sends under this agent's producer: was its data directory copied?"
            );
        }
        self.start_anew(id, &target, missing, is_shared)?;
        self.unblock()
    }

    fn note_how(&mut self, id: LaneId, how: &How) {
        let text = match how {
            How::Nothing => return,
            How::Described => "the leader told (DescribeProducers)".to_owned(),
            How::Scanned(None) => {
                "the partition was read: its leader remembers nothing of them".to_owned()
            }
            How::Scanned(Some(why)) => format!("the partition was read: {why}"),
            How::Blind(why) => format!("not at all: {why}"),
        };
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::info!(topic, partition, how = text, "looked for batches in doubt");
        lane.looked = Some(text);
    }

    /// Open plans of the lane, oldest first, with what this process sent for them.
    fn in_doubt(&mut self, id: LaneId, mut sent: Vec<Sent>) -> Vec<Missing> {
        let mut in_doubt = Vec::new();
        for plan in self.plans_in_doubt(id) {
            let known = sent.iter().position(|sent| sent.plan == plan.number);
            let known = known.map(|at| sent.remove(at));
            if known.is_none() {
                // Its files are not followed yet.
                self.calendar.full_scan = self.clock.mono();
            }
            in_doubt.push(Missing { plan, known });
        }
        in_doubt
    }

    /// Takes what is stored as acknowledged and returns the rest; also whether something is stored
    /// behind what is not.
    fn take_found(
        &mut self,
        id: LaneId,
        resolved: &Resolved,
        in_doubt: Vec<Missing>,
    ) -> Result<(Vec<Missing>, bool), ShipError> {
        let offsets: Vec<_> = resolved.found.iter().map(|found| found.offset()).collect();
        let last_found = offsets.iter().rposition(Option::is_some);
        let (mut missing, mut torn) = (Vec::new(), false);
        for (at, (doubtful, found)) in in_doubt.into_iter().zip(offsets).enumerate() {
            let (plan, records) = (doubtful.plan.number, plan_records(&doubtful.plan));
            // A broker takes a producer's batches in order, so one that is stored proves those
            // before it, if what would show them is deleted.
            let proven = resolved.deleted_from.is_some() && last_found > Some(at);
            match found.or(proven.then_some(-1)) {
                Some(offset) if missing.is_empty() => {
                    tracing::info!(plan, records, offset, "a batch in doubt is stored");
                    self.metrics.plans_found.inc();
                    self.stored(plan, offset)?;
                }
                Some(offset) => {
                    tracing::error!(
                        plan,
                        offset,
                        "a batch is stored although one before it is not: the log lost it"
                    );
                    self.repeated(id, i64::from(records));
                    torn = true;
                    missing.push(doubtful);
                }
                None if resolved.found.get(at) == Some(&Standing::Appended) => {
                    tracing::info!(
                        plan,
                        records,
                        "a batch in doubt is appended, not yet committed"
                    );
                    missing.push(doubtful);
                }
                None => {
                    tracing::info!(plan, records, "a batch in doubt is not stored");
                    missing.push(doubtful);
                }
            }
        }
        Ok((missing, torn))
    }

    // What came of it.

    /// The link is ready.
    pub(super) fn started(
        &mut self,
        id: LaneId,
        identity: ProducerIdentity,
    ) -> Result<(), ShipError> {
        self.lanes[id].started(identity);
        self.pump(id)?;
        self.unblock()
    }

    /// A batch of an earlier process is stored, the first or the second time it was sent.
    pub(super) fn resumed(&mut self, id: LaneId, sent: &Sent, base_offset: i64) {
        if self.lanes[id].unproven_below.is_some_and(|end| base_offset >= end) {
            // It is new there: the broker did not know it any more, or never had it.
            let records = sent.parcel.count.unsigned_abs();
            self.unproven(id, records, "retention deleted what would show them");
        }
        if !self.lanes[id].is_resuming() {
            // Nothing of its files is in doubt now, so they may be followed.
            self.calendar.full_scan = self.clock.mono();
        }
    }

    /// Records are sent again of which nobody knows whether they were stored before.
    pub(super) fn unproven(&mut self, id: LaneId, records: u32, why: &str) {
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::warn!(topic, partition, records, why, "events may be stored twice");
        let why = format!("{records} events may be stored twice: {why}");
        lane.repeated.get_or_insert(Lapse { at: self.clock.wall(), why });
        self.metrics.records_unproven.inc_by(u64::from(records));
    }

    pub(super) fn repeated(&mut self, id: LaneId, records: i64) {
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::error!(
            topic,
            partition,
            records,
            "events are stored twice: a request was carried out after it had been looked for"
        );
        let why = format!(
            "{records} events are stored twice: a request was carried out after it had been looked for"
        );
        lane.repeated = Some(Lapse { at: self.clock.wall(), why });
        self.metrics.records_repeated.inc_by(records.unsigned_abs());
    }
}

fn is_too_large(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE)
}

pub(super) fn plan_records(plan: &Plan) -> u32 {
    record_count(plan.first_sequence, plan.last_sequence).unsigned_abs()
}

fn doubt(plan: &Plan, target: &Target) -> Doubt {
    Doubt {
        producer_id: plan.producer_id,
        producer_epoch: plan.producer_epoch,
        first_sequence: plan.first_sequence,
        last_sequence: plan.last_sequence,
        header: ORIGIN_HEADER,
        origin: origin(&plan.ranges),
        foreign: plan.shared || !plan.target.is_in_cluster(&target.cluster),
    }
}
