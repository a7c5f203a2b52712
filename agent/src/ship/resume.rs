//! Sending what is in doubt and not proven to be stored: as it was, or its lines anew.
//!
//! As it was: built again from the files, under its producer and sequences, by the process that
//! comes after the one that sent it. The broker keeps what it has, and answers when that is
//! committed. Anew: under an identity that keeps the old requests out, which is in the journal
//! before the plans are voided.

use std::path::Path;
use std::sync::Arc;

use tailway_client::ProducerIdentity;
use tailway_wire::error_code::ErrorCode;

use super::resolve::{Missing, Restart, plan_records};
use super::{ShipError, Shipper};
use crate::machine::identity::FileId;
use crate::machine::ledger::{Fence, Plan, Record, Target};
use crate::output::inbox::LaneId;
use crate::output::lane::Sent;
use crate::output::parcel::{Parcel, split, split_until};

/// Bytes that an earlier process sent, and that are to be read again.
#[derive(Debug)]
pub(super) struct Unsent {
    path: Arc<Path>,
    id: FileId,
    rebooted: bool,
    bytes: u64,
    /// Full scans since.
    scans: u32,
}

/// Full scans that look for a file before the lines that were to be read from it again count as lost.
const UNSENT_SCANS: u32 = 3;

impl Shipper {
    /// Sends again, as it was, what an earlier process sent; false if it cannot be.
    pub(super) fn resume(
        &mut self,
        id: LaneId,
        target: &Target,
        missing: &[Missing],
    ) -> Result<bool, ShipError> {
        let plans: Vec<&Plan> = missing.iter().map(|missing| &missing.plan).collect();
        let Some(parcels) = self.parcels_as_they_were(target, &plans) else { return Ok(false) };
        let Some(first) = plans.first() else { return Ok(false) };
        for plan in &plans {
            let records = plan_records(plan);
            tracing::info!(plan = plan.number, records, "sending a batch again as it was");
            self.metrics.plans_resent.inc();
            self.metrics.records_resent.inc_by(u64::from(records));
        }
        let parcels = plans.iter().copied().zip(parcels).collect();
        self.lanes[id].resume(identity(first.producer()), parcels)?;
        Ok(true)
    }

    /// Whether all that is in doubt could be sent again as it was.
    pub(super) fn can_resume(&mut self, id: LaneId, target: &Target) -> bool {
        let plans = self.plans_in_doubt(id);
        let plans: Vec<&Plan> = plans.iter().collect();
        self.parcels_as_they_were(target, &plans).is_some()
    }

    fn parcels_as_they_were(&mut self, target: &Target, plans: &[&Plan]) -> Option<Vec<Parcel>> {
        if plans.iter().any(|plan| !plan.target.is_in_cluster(&target.cluster)) {
            // There the producer id may be somebody else's.
            return None;
        }
        let first = plans.first()?;
        let (producer, mut next) = (first.producer(), first.first_sequence);
        let fence = self.registry.ledger().fences.get(target);
        if fence.is_some_and(|fence| *fence != producer) {
            // Something before it was voided already.
            return None;
        }
        let mut parcels = Vec::with_capacity(plans.len());
        for plan in plans {
            let built = if plan.producer() == producer && plan.first_sequence == next {
                self.rebuild(plan)
            } else {
                Err("the batch before it is another producer's".to_owned())
            };
            match built {
                Ok(parcel) => {
                    next = tailway_client::machine::pipeline::sequence_after(next, parcel.count);
                    parcels.push(parcel);
                }
                Err(why) => {
                    tracing::warn!(
                        plan = plan.number,
                        why,
                        "a batch in doubt cannot be sent again as it was"
                    );
                    return None;
                }
            }
        }
        Some(parcels)
    }

    /// Voids what is missing and sends its lines anew: under the producer's next epoch, or where
    /// somebody else has the producer (`is_shared`), under a new one.
    pub(super) fn start_anew(
        &mut self,
        id: LaneId,
        target: &Target,
        missing: Vec<Missing>,
        is_shared: bool,
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
        } else if is_shared {
            None
        } else {
            next_fence(last, known, refused)
        };
        self.registry.record(Record::Fence { target: target.clone(), fence })?;
        let mut again = Vec::new();
        for Missing { plan, known } in missing {
            tracing::info!(plan = plan.number, "sending the lines of a batch anew");
            self.metrics.plans_sent_anew.inc();
            self.metrics.records_resent.inc_by(u64::from(plan_records(&plan)));
            let why = "it is not in the partition".to_owned();
            if known.is_none() {
                self.note_unsent(&plan);
            }
            self.registry.record(Record::Void { plan: plan.number, why })?;
            again.extend(known);
        }
        let too_large = self.restarts.get(&id).is_some_and(Restart::too_large);
        let (parcels, hopeless) = self.parcels_again(id, again, too_large)?;
        if let Some(restart) = self.restarts.get_mut(&id) {
            restart.hopeless = hopeless;
        }
        self.lanes[id].send_again(parcels);
        self.lanes[id].start(fence.map(identity));
        Ok(())
    }

    /// Lines of an earlier process that are not stored: they are read again, if they are still there.
    fn note_unsent(&mut self, plan: &Plan) {
        for range in &plan.ranges {
            let Some(entry) = self.registry.ledger().files.get(&range.generation) else { continue };
            let unsent = self.unsent.entry(range.generation).or_insert_with(|| Unsent {
                path: Arc::clone(&entry.path),
                id: entry.id,
                rebooted: entry.rebooted,
                bytes: 0,
                scans: 0,
            });
            unsent.bytes += range.to.saturating_sub(range.from);
        }
    }

    /// After a full scan: are the files still there of which lines were to be read again?
    pub(super) fn settle_unsent(&mut self) {
        for (generation, mut unsent) in std::mem::take(&mut self.unsent) {
            let ledger = self.registry.ledger();
            unsent.scans += 1;
            // While names move, a scan may miss a file.
            let may_come = ledger.files.contains_key(&generation)
                && !self.by_generation.contains_key(&generation)
                && unsent.scans < UNSENT_SCANS;
            if may_come || ledger.plans_with(generation).next().is_some() {
                self.unsent.insert(generation, unsent);
                continue;
            }
            // What a power cut left of a file is read again as another generation.
            if self.by_generation.contains_key(&generation) || unsent.rebooted {
                continue;
            }
            let bytes = unsent.bytes;
            self.metrics.bytes_lost.inc_by(bytes);
            let key = self.by_id.get(&unsent.id);
            if let Some(file) = key.and_then(|key| self.files.get_mut(key)) {
                file.lost += bytes;
            }
            tracing::warn!(
                path = %unsent.path.display(),
                bytes,
                cause = "it was truncated, removed or moved out of sight before the broker had stored them",
                "lines that an earlier run read and could not deliver are lost; keep rotated files for \
                 longer than the agent or its broker may be away"
            );
            self.changed = true;
        }
    }

    /// Parcels to send again. The first is split if it was too large, and so is whatever is as large:
    /// how much the broker takes is found out once for all of them. Also whether it could not be.
    fn parcels_again(
        &mut self,
        id: LaneId,
        sent: Vec<Sent>,
        too_large: bool,
    ) -> Result<(Vec<Parcel>, bool), ShipError> {
        let mut sent = sent.into_iter().map(|sent| sent.parcel);
        if !too_large {
            return Ok((sent.collect(), false));
        }
        let Some(culprit) = sent.next() else { return Ok((Vec::new(), false)) };
        let refused = culprit.bytes.len();
        let fits = |parcel: &Parcel| parcel.bytes.len() < refused;
        let mut parcels = Vec::new();
        let halves = split(&culprit, &mut self.builder)?;
        let hopeless = halves.is_none();
        match halves {
            Some(halves) => {
                self.metrics.lines_cut.inc_by(u64::from(culprit.count == 1));
                parcels.extend(halves);
            }
            None => parcels.push(culprit),
        }
        for parcel in sent.chain(self.lanes[id].take_again()) {
            parcels.extend(split_until(parcel, &mut self.builder, &fits)?);
        }
        Ok((parcels, hopeless))
    }
}

pub(super) fn identity(fence: Fence) -> ProducerIdentity {
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
