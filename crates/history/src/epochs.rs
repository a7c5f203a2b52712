//! K8: leader epochs. One node acknowledges in an epoch, none after it was fenced or after a newer epoch acknowledged, and
//! the epochs of a log's batches do not fall.

use std::collections::BTreeMap;

use crate::finding::{Finding, Findings, Mark, Witness};
use crate::real_time::{Seen, falls};
use crate::report::Check;

#[derive(Debug, Default)]
pub(crate) struct Epochs {
    leaders: BTreeMap<(u32, u32), Witness>,
    fenced: BTreeMap<(u32, u32), (u32, Witness)>,
    acks: BTreeMap<u32, Vec<Seen<Witness>>>,
    log: BTreeMap<(u32, u64), (u32, Witness)>,
}

impl Epochs {
    pub(crate) fn ack(&mut self, tp: u32, epoch: u32, mark: Mark, findings: &mut Findings) {
        let Mark { t0, t1, witness } = mark;
        let mut say = |first, meaning: &str| {
            findings.add(Finding {
                check: Check::K8,
                tp,
                off: None,
                vals: vec![],
                witnesses: vec![first, witness],
                meaning: format!("{meaning}{epoch}"),
            });
        };
        let leader = *self.leaders.entry((tp, epoch)).or_insert(witness);
        if leader.who != witness.who {
            say(leader, "two nodes acknowledged as leader of epoch ");
        }
        if let Some((_, fence)) =
            self.fenced.get(&(tp, witness.who)).filter(|(up_to, _)| epoch <= *up_to)
        {
            say(*fence, "acknowledged after it was fenced, as leader of epoch ");
        }
        let value = u64::from(epoch);
        self.acks.entry(tp).or_default().push(Seen { t0, t1, value, witness });
    }

    pub(crate) fn fence(&mut self, tp: u32, epoch: u32, witness: Witness) {
        let entry = self.fenced.entry((tp, witness.who)).or_insert((epoch, witness));
        if entry.0 < epoch {
            *entry = (epoch, witness);
        }
    }

    pub(crate) fn read(
        &mut self,
        tp: u32,
        off: u64,
        epoch: Option<u32>,
        witness: Witness,
        findings: &mut Findings,
    ) {
        let Some(epoch) = epoch else { return };
        let (first, seen) = *self.log.entry((tp, off)).or_insert((epoch, witness));
        if first != epoch {
            findings.add(Finding {
                check: Check::K8,
                tp,
                off: Some(off),
                vals: vec![],
                witnesses: vec![seen, witness],
                meaning: format!("one record was read with leader epochs {first} and {epoch}"),
            });
        }
    }

    pub(crate) fn finish(&self, findings: &mut Findings) {
        for (tp, acks) in &self.acks {
            for (old, new) in falls(acks) {
                findings.add(Finding {
                    check: Check::K8,
                    tp: *tp,
                    off: None,
                    vals: vec![],
                    witnesses: vec![new.witness, old.witness],
                    meaning: format!(
                        "epoch {} acknowledged after epoch {} had",
                        old.value, new.value
                    ),
                });
            }
        }
        let mut before: Option<(u32, u32, Witness)> = None;
        for ((tp, off), (epoch, witness)) in &self.log {
            if let Some((_, higher, seen)) =
                before.filter(|(same, high, _)| same == tp && high > epoch)
            {
                findings.add(Finding {
                    check: Check::K8,
                    tp: *tp,
                    off: Some(*off),
                    vals: vec![],
                    witnesses: vec![seen, *witness],
                    meaning: format!("leader epoch {epoch} stands after {higher} in the log"),
                });
            }
            before = Some((*tp, *epoch, *witness));
        }
    }
}
