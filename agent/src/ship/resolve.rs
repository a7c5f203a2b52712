//! Batches in doubt: of an earlier run, or of a pipeline that stopped.
//!
//! First the link looks for them in the partition. Those that are there count as acknowledged. What
//! an earlier process sent and is not there may still arrive, long after that process died, so it
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

use std::time::Duration;

use tailway_client::ProducerIdentity;
use tailway_client::machine::pipeline::StopReason;
use tailway_metadata::time::Mono;
use tailway_wire::error_code::ErrorCode;

use super::{ShipError, Shipper};
use crate::machine::ledger::{Fence, Plan, Record, Target, record_count};
use crate::output::inbox::LaneId;
use crate::output::lane::Sent;
use crate::output::link::Resolved;
use crate::output::parcel::{Parcel, split};
use crate::output::resolve::{Doubt, LookFrom};
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
    refused: Option<ErrorCode>,
    /// It was too large and could not be split.
    hopeless: bool,
    pub(super) begun: bool,
}

impl Restart {
    fn too_large(&self) -> bool {
        self.refused.is_some_and(is_too_large)
    }
}

/// A plan whose batch is not in the partition, and its parcel if this process sent it.
struct Missing {
    plan: Plan,
    known: Option<Sent>,
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
        // Their files are not followed yet: they are read again instead.
        sent.retain(|sent| !sent.resumed);
        let too_large = refused.is_some_and(is_too_large);
        if too_large {
            self.lanes[id].shrink_batches();
        }
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
            self.ask_about_doubts(id, settle);
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
        self.ask_about_doubts(id, batches > 0);
    }

    fn ask_about_doubts(&mut self, id: LaneId, settle: bool) {
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
        lane.resolve(plans.iter().map(doubt).collect(), from, settle);
    }

    /// Open plans of the lane, oldest first.
    fn plans_in_doubt(&self, id: LaneId) -> Vec<Plan> {
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
        self.lane_of.insert(now, id);
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
        self.ask_about_doubts(id, true);
    }

    // What was found.

    /// The link has looked for the doubtful batches.
    pub(super) fn resolved(&mut self, id: LaneId, resolved: Resolved) -> Result<(), ShipError> {
        let target = self.lanes[id].target.clone();
        if !self.registry.ledger().scan_from.contains_key(&target) {
            let from = resolved.scan_from;
            self.registry.record(Record::ScanFrom { target: target.clone(), from })?;
        }
        let sent = match self.restarts.get_mut(&id) {
            Some(restart) => std::mem::take(&mut restart.sent),
            None => Vec::new(),
        };
        let (missing, torn) = self.take_found(id, &resolved, sent)?;
        if missing.is_empty() {
            let fence = self.registry.ledger().fences.get(&target);
            let fence = fence.copied().map(identity);
            self.lanes[id].start(fence);
            return self.unblock();
        }
        let records = missing.iter().map(|missing| plan_records(&missing.plan)).sum();
        self.lanes[id].unproven_below = resolved.deleted_from.map(|_| resolved.looked_to);
        let blind = tailway_faults::is_planted("agent.doubts_sent_anew");
        let may_resume = !torn && !blind && !self.restarts.contains_key(&id);
        if may_resume && self.resume(id, &target, &missing)? {
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
        self.start_anew(id, &target, missing)?;
        self.unblock()
    }

    /// Takes what is stored as acknowledged and returns the rest; also whether something is stored
    /// behind what is not.
    fn take_found(
        &mut self,
        id: LaneId,
        resolved: &Resolved,
        mut sent: Vec<Sent>,
    ) -> Result<(Vec<Missing>, bool), ShipError> {
        let plans = self.plans_in_doubt(id);
        let last_found = resolved.found.iter().rposition(Option::is_some);
        let (mut missing, mut torn) = (Vec::new(), false);
        for (at, (plan, found)) in plans.into_iter().zip(&resolved.found).enumerate() {
            let known = sent.iter().position(|sent| sent.plan == plan.number);
            let known = known.map(|at| sent.remove(at));
            if known.is_none() {
                // Its files are not followed yet.
                self.calendar.full_scan = self.clock.mono();
            }
            let records = plan_records(&plan);
            // A broker takes a producer's batches in order, so one that is stored proves those
            // before it, if what would show them is deleted.
            let proven = resolved.deleted_from.is_some() && last_found > Some(at);
            let blind = tailway_faults::is_planted("agent.doubts_sent_anew");
            let offset = found.or(proven.then_some(-1)).filter(|_| !blind);
            match offset {
                Some(offset) if missing.is_empty() => {
                    tracing::info!(
                        plan = plan.number,
                        records,
                        offset,
                        "a batch in doubt is stored"
                    );
                    self.stored(plan.number, offset)?;
                }
                Some(offset) => {
                    tracing::error!(
                        plan = plan.number,
                        offset,
                        "a batch is stored although one before it is not: the log lost it"
                    );
                    self.repeated(id, i64::from(records));
                    torn = true;
                    missing.push(Missing { plan, known });
                }
                None => {
                    tracing::info!(plan = plan.number, records, "a batch in doubt is not stored");
                    missing.push(Missing { plan, known });
                }
            }
        }
        Ok((missing, torn))
    }

    /// Sends again, as it was, what an earlier process sent; false if it cannot be.
    fn resume(
        &mut self,
        id: LaneId,
        target: &Target,
        missing: &[Missing],
    ) -> Result<bool, ShipError> {
        let Some(first) = missing.first() else { return Ok(false) };
        if missing.iter().any(|missing| !missing.plan.target.is_in_cluster(&target.cluster)) {
            // There the producer id may be somebody else's.
            return Ok(false);
        }
        let producer = first.plan.producer();
        let mut next = first.plan.first_sequence;
        let fence = self.registry.ledger().fences.get(target);
        if fence.is_some_and(|fence| *fence != producer) {
            // Something before it was voided already.
            return Ok(false);
        }
        let mut parcels = Vec::with_capacity(missing.len());
        for Missing { plan, .. } in missing {
            let built = if plan.producer() == producer && plan.first_sequence == next {
                self.rebuild(plan)
            } else {
                Err("the batch before it is another producer's".to_owned())
            };
            match built {
                Ok(parcel) => {
                    next = tailway_client::machine::pipeline::sequence_after(next, parcel.count);
                    parcels.push((plan, parcel));
                }
                Err(why) => {
                    tracing::warn!(
                        plan = plan.number,
                        why,
                        "a batch in doubt cannot be sent again as it was; sending its lines anew"
                    );
                    return Ok(false);
                }
            }
        }
        for Missing { plan, .. } in missing {
            let records = plan_records(plan);
            tracing::info!(plan = plan.number, records, "sending a batch again as it was");
            self.metrics.records_resent.inc_by(u64::from(records));
        }
        self.lanes[id].resume(identity(producer), parcels)?;
        Ok(true)
    }

    /// Voids what is missing and sends its lines anew, under the producer's next epoch.
    fn start_anew(
        &mut self,
        id: LaneId,
        target: &Target,
        missing: Vec<Missing>,
    ) -> Result<(), ShipError> {
        let Some(last) = missing.last().map(|missing| missing.plan.producer()) else {
            return Ok(());
        };
        let refused = self.restarts.get(&id).and_then(|restart| restart.refused);
        let known = self.registry.ledger().fences.get(target).copied();
        let elsewhere = |missing: &&Missing| !missing.plan.target.is_in_cluster(&target.cluster);
        let foreign: Vec<&Missing> = missing.iter().filter(elsewhere).collect();
        let fence = if let Some(first) = foreign.first() {
            let records = foreign.iter().map(|missing| plan_records(&missing.plan)).sum();
            let why = format!("they were on their way to cluster {}", first.plan.target.cluster);
            self.unproven(id, records, &why);
            // There the producer id may be somebody else's.
            None
        } else {
            next_fence(last, known, refused)
        };
        self.registry.record(Record::Fence { target: target.clone(), fence })?;
        let mut again = Vec::new();
        for Missing { plan, known } in missing {
            self.metrics.records_resent.inc_by(u64::from(plan_records(&plan)));
            let why = "it is not in the partition".to_owned();
            self.registry.record(Record::Void { plan: plan.number, why })?;
            again.extend(known);
        }
        let too_large = self.restarts.get(&id).is_some_and(Restart::too_large);
        let (parcels, hopeless) = self.parcels_again(again, too_large)?;
        if let Some(restart) = self.restarts.get_mut(&id) {
            restart.hopeless = hopeless;
        }
        self.lanes[id].send_again(parcels);
        self.lanes[id].start(fence.map(identity));
        Ok(())
    }

    /// Parcels to send again; the first is split if it was too large. Also whether it could not be.
    fn parcels_again(
        &mut self,
        sent: Vec<Sent>,
        too_large: bool,
    ) -> Result<(Vec<Parcel>, bool), ShipError> {
        let (mut parcels, mut hopeless) = (Vec::new(), false);
        for (at, sent) in sent.into_iter().enumerate() {
            let parcel = sent.parcel;
            let is_culprit = too_large && at == 0;
            let halves = if is_culprit { split(&parcel, &mut self.builder)? } else { None };
            if let Some(halves) = halves {
                self.metrics.lines_cut.inc_by(u64::from(parcel.count == 1));
                parcels.extend(halves);
            } else {
                hopeless |= is_culprit;
                parcels.push(parcel);
            }
        }
        Ok((parcels, hopeless))
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
    fn unproven(&mut self, id: LaneId, records: u32, why: &str) {
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::warn!(topic, partition, records, why, "events may be stored twice");
        let text = format!("{records} events may be stored twice since the last start: {why}");
        lane.repeated.get_or_insert(text);
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
        lane.repeated = Some(format!("{records} events are stored twice since the last start"));
        self.metrics.records_repeated.inc_by(records.unsigned_abs());
    }
}

fn is_too_large(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE)
}

fn plan_records(plan: &Plan) -> u32 {
    record_count(plan.first_sequence, plan.last_sequence).unsigned_abs()
}

fn identity(fence: Fence) -> ProducerIdentity {
    let Fence { producer_id, producer_epoch } = fence;
    ProducerIdentity { producer_id, producer_epoch }
}

/// Under which producer to go on after `last`, whose batches are voided, so that brokers refuse what
/// arrives of it later; `None`: under a new one. `known` is the fence as it is, and `refused` what a
/// batch of `last` was refused with, if it was.
fn next_fence(last: Fence, known: Option<Fence>, refused: Option<ErrorCode>) -> Option<Fence> {
    if known.is_some_and(|fence| fence != last) {
        // The run before this one ended before it could use it.
        return known;
    }
    let fenced =
        |code| matches!(code, ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED);
    let unknown = |code| {
        matches!(
            code,
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
                | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
                | ErrorCode::UNKNOWN_PRODUCER_ID
        )
    };
    // A newer epoch is not what this broker wants.
    if refused.is_some_and(|code| fenced(code) || (known.is_some() && unknown(code))) {
        return None;
    }
    let producer_epoch = last.producer_epoch.checked_add(1)?;
    Some(Fence { producer_epoch, ..last })
}

fn doubt(plan: &Plan) -> Doubt {
    Doubt {
        producer_id: plan.producer_id,
        producer_epoch: plan.producer_epoch,
        first_sequence: plan.first_sequence,
        last_sequence: plan.last_sequence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_epoch_keeps_out_what_arrives_late() {
        let of = |producer_epoch: i16| Fence { producer_id: 7, producer_epoch };
        let (gap, stale) =
            (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, ErrorCode::INVALID_PRODUCER_EPOCH);
        let large = ErrorCode::MESSAGE_TOO_LARGE;
        for (last, known, refused, expected) in [
            (0, None, None, Some(1)),
            (0, None, Some(gap), Some(1)),
            (1, Some(1), None, Some(2)),
            (1, Some(1), Some(large), Some(2)),
            // Recorded and not used yet.
            (0, Some(1), None, Some(1)),
            (0, Some(1), Some(gap), Some(1)),
            // Somebody has a newer epoch than we know of; or newer epochs are not understood.
            (0, None, Some(stale), None),
            (1, Some(1), Some(gap), None),
            (i16::MAX, None, None, None),
        ] {
            let next = next_fence(of(last), known.map(of), refused);
            assert_eq!(next, expected.map(of), "{last}, {known:?}, {refused:?}");
        }
    }
}
