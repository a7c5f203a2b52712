//! K1 to K5: what each offset holds, and where each sent value went.
//!
//! The log of a partition is what anyone saw of it: acknowledged sends, polls, and dumps below the high watermark. A send of
//! unknown end may stand in it once or not at all; a failed one may not.

use std::collections::{BTreeMap, BTreeSet};

use crate::SEND_BITS;
use crate::event::Outcome;
use crate::finding::{Finding, Findings, Witness};
use crate::names::Names;
use crate::report::Check;

/// A send, as its client saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) tp: u32,
    pub(crate) off: Option<u64>,
    pub(crate) outcome: Outcome,
    pub(crate) idempotent: bool,
    pub(crate) witness: Witness,
}

/// What stands at an offset.
#[derive(Clone, Copy, Debug)]
struct Record {
    val: Option<u64>,
    /// Who saw it first.
    seen: Witness,
    /// Who read it first: a poll, not the send itself.
    read: Option<Witness>,
    drained: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Records {
    sends: BTreeMap<u64, Sent>,
    log: BTreeMap<(u32, u64), Record>,
    /// Where a value was first seen.
    places: BTreeMap<u64, (u32, u64)>,
    /// Values seen at a second place: value, place, witness.
    again: Vec<(u64, (u32, u64), Witness)>,
    drains: BTreeSet<u32>,
}

impl Records {
    pub(crate) fn sent(&mut self, val: u64, sent: Sent, findings: &mut Findings) {
        if let Some(before) = self.sends.get(&val) {
            findings.add(Finding {
                check: Check::K2,
                tp: sent.tp,
                off: sent.off,
                vals: vec![val],
                witnesses: vec![before.witness, sent.witness],
                meaning: "one value has two send events, yet each value is sent once".into(),
            });
            return;
        }
        self.sends.insert(val, sent);
        if let (Outcome::Ok, Some(off)) = (sent.outcome, sent.off) {
            self.see(sent.tp, off, Some(val), sent.witness, findings);
        }
    }

    pub(crate) fn read(
        &mut self,
        tp: u32,
        off: u64,
        val: Option<u64>,
        drain: bool,
        witness: Witness,
        findings: &mut Findings,
    ) {
        self.see(tp, off, val, witness, findings);
        if let Some(record) = self.log.get_mut(&(tp, off)) {
            record.read.get_or_insert(witness);
            record.drained |= drain;
        }
    }

    pub(crate) fn drained(&mut self, tp: u32) {
        self.drains.insert(tp);
    }

    /// What a replica holds below the high watermark.
    pub(crate) fn differs(
        &self,
        tp: u32,
        off: u64,
        val: Option<u64>,
    ) -> Option<(Option<u64>, Witness)> {
        let record = self.log.get(&(tp, off))?;
        (record.val != val).then_some((record.val, record.seen))
    }

    fn see(
        &mut self,
        tp: u32,
        off: u64,
        val: Option<u64>,
        witness: Witness,
        findings: &mut Findings,
    ) {
        let record = Record { val, seen: witness, read: None, drained: false };
        let first = *self.log.entry((tp, off)).or_insert(record);
        if first.val != val {
            findings.add(Finding {
                check: Check::K1,
                tp,
                off: Some(off),
                vals: first.val.into_iter().chain(val).collect(),
                witnesses: vec![first.seen, witness],
                meaning: "one offset was seen to hold two different values".into(),
            });
        }
        let Some(val) = val else { return };
        if *self.places.entry(val).or_insert((tp, off)) != (tp, off) {
            self.again.push((val, (tp, off), witness));
        }
    }

    pub(crate) fn finish(&self, tps: &Names, findings: &mut Findings) {
        self.duplicates(findings);
        self.lost(findings);
        self.phantoms(tps, findings);
        self.disorder(findings);
    }

    /// K2. Whether a value may repeat is known only with its send, which may come after its reads.
    fn duplicates(&self, findings: &mut Findings) {
        let mut said = BTreeSet::new();
        for (val, (tp, off), witness) in &self.again {
            let may_repeat = self.sends.get(val).is_some_and(|sent| !sent.idempotent);
            if may_repeat || !said.insert((*val, *tp, *off)) {
                continue;
            }
            let first = self.places.get(val).and_then(|place| self.log.get(place));
            findings.add(Finding {
                check: Check::K2,
                tp: *tp,
                off: Some(*off),
                vals: vec![*val],
                witnesses: first.map(|record| record.seen).into_iter().chain([*witness]).collect(),
                meaning: "one value of an idempotent producer stands at two offsets".into(),
            });
        }
    }

    /// K3.
    fn lost(&self, findings: &mut Findings) {
        let mut undrained: BTreeMap<u32, Witness> = BTreeMap::new();
        for (val, sent) in &self.sends {
            if sent.outcome != Outcome::Ok {
                continue;
            }
            let place =
                sent.off.map(|off| (sent.tp, off)).or_else(|| self.places.get(val).copied());
            let record = place.and_then(|place| self.log.get(&place));
            let tp = place.map_or(sent.tp, |(tp, _)| tp);
            if !self.drains.contains(&tp) {
                undrained.entry(tp).or_insert(sent.witness);
            } else if record.is_none_or(|record| !record.drained) {
                findings.add(Finding {
                    check: Check::K3,
                    tp,
                    off: sent.off,
                    vals: vec![*val],
                    witnesses: vec![sent.witness],
                    meaning: "acknowledged, yet the final drain did not read it: lost".into(),
                });
            }
        }
        for ((tp, off), record) in &self.log {
            let Some(witness) = record.read.filter(|_| !record.drained) else { continue };
            if !self.drains.contains(tp) {
                undrained.entry(*tp).or_insert(witness);
                continue;
            }
            findings.add(Finding {
                check: Check::K3,
                tp: *tp,
                off: Some(*off),
                vals: record.val.into_iter().collect(),
                witnesses: vec![witness],
                meaning: "read once, yet the final drain did not read it: gone".into(),
            });
        }
        for (tp, witness) in undrained {
            findings.add(Finding {
                check: Check::K3,
                tp,
                off: None,
                vals: vec![],
                witnesses: vec![witness],
                meaning: "records were acknowledged or read here, yet no final drain shows that they are still there".into(),
            });
        }
    }

    /// K4.
    fn phantoms(&self, tps: &Names, findings: &mut Findings) {
        for ((tp, off), record) in &self.log {
            let Some(witness) = record.read else { continue };
            let sent = record.val.and_then(|val| self.sends.get(&val));
            let meaning = match (record.val, sent) {
                (None, _) => {
                    "a payload was read that no client makes: its CRC or its form is wrong"
                }
                (Some(_), None) => "a value was read that no client sent",
                (Some(_), Some(sent)) if sent.outcome == Outcome::Fail => {
                    "a value was read whose send had failed"
                }
                (Some(_), Some(sent)) if !goes_to(tps.name(sent.tp), tps.name(*tp)) => {
                    "a value was read elsewhere than it was sent to"
                }
                _ => continue,
            };
            findings.add(Finding {
                check: Check::K4,
                tp: *tp,
                off: Some(*off),
                vals: record.val.into_iter().collect(),
                witnesses: sent.map(|sent| sent.witness).into_iter().chain([witness]).collect(),
                meaning: meaning.into(),
            });
        }
    }

    /// K5: along each log, the numbers of each client rise. Idempotence keeps that even for sends of unknown end: what
    /// comes late is refused by its sequence or its epoch.
    fn disorder(&self, findings: &mut Findings) {
        let mut last: BTreeMap<(u32, u64), (u64, Witness)> = BTreeMap::new();
        for ((tp, off), record) in &self.log {
            let Some(val) = record.val else { continue };
            if self.sends.get(&val).is_none_or(|sent| !sent.idempotent) {
                continue;
            }
            let client = (*tp, val >> SEND_BITS);
            if let Some((before, witness)) = last.insert(client, (val, record.seen))
                && before > val
            {
                findings.add(Finding {
                    check: Check::K5,
                    tp: *tp,
                    off: Some(*off),
                    vals: vec![before, val],
                    witnesses: vec![witness, record.seen],
                    meaning: "what the client sent first stands after what it sent later".into(),
                });
            }
        }
    }
}

/// Whether a record sent to `to` (a partition, or a topic alone) may stand in partition `tp`.
fn goes_to(to: &str, tp: &str) -> bool {
    to == tp || (!to.contains('/') && tp.rsplit_once('/').is_some_and(|(topic, _)| topic == to))
}
