//! K7: nothing is read at or above the high watermark, and the high watermark does not fall.
//!
//! Within one leader epoch it never falls; a new leader may at first know a lower one, but in the end (the final drain's)
//! it is above everything that was ever told or read. Events without an epoch are of one chain.

use std::collections::BTreeMap;

use crate::finding::{Finding, Findings, Mark, Witness};
use crate::real_time::{Seen, falls};
use crate::report::Check;

#[derive(Debug, Default)]
pub(crate) struct Watermarks {
    told: BTreeMap<(u32, Option<u32>), Vec<Seen<Witness>>>,
    /// The highest that was told of a partition.
    highest: BTreeMap<u32, (u64, Witness)>,
    /// The end of the highest read of a partition.
    read_to: BTreeMap<u32, (u64, Witness)>,
    drained: BTreeMap<u32, (u64, Witness)>,
}

fn raise(map: &mut BTreeMap<u32, (u64, Witness)>, tp: u32, off: u64, witness: Witness) {
    let entry = map.entry(tp).or_insert((off, witness));
    if entry.0 < off {
        *entry = (off, witness);
    }
}

impl Watermarks {
    pub(crate) fn told(&mut self, tp: u32, off: u64, epoch: Option<u32>, mark: Mark) {
        let Mark { t0, t1, witness } = mark;
        self.told.entry((tp, epoch)).or_default().push(Seen { t0, t1, value: off, witness });
        raise(&mut self.highest, tp, off, witness);
    }

    pub(crate) fn read(
        &mut self,
        tp: u32,
        off: u64,
        hw: Option<u64>,
        witness: Witness,
        findings: &mut Findings,
    ) {
        raise(&mut self.read_to, tp, off.saturating_add(1), witness);
        let Some(hw) = hw else { return };
        raise(&mut self.highest, tp, hw, witness);
        if off >= hw {
            findings.add(Finding {
                check: Check::K7,
                tp,
                off: Some(off),
                vals: vec![],
                witnesses: vec![witness],
                meaning: format!("read at or above the high watermark {hw} that came with it"),
            });
        }
    }

    pub(crate) fn drained(&mut self, tp: u32, off: u64, witness: Witness) {
        raise(&mut self.drained, tp, off, witness);
    }

    /// Per partition the final high watermark, or the highest one told.
    pub(crate) fn limits(&self) -> BTreeMap<u32, u64> {
        let of = |map: &BTreeMap<u32, (u64, Witness)>| -> BTreeMap<u32, u64> {
            map.iter().map(|(tp, (off, _))| (*tp, *off)).collect()
        };
        let mut limits = of(&self.highest);
        limits.extend(of(&self.drained));
        limits
    }

    pub(crate) fn finish(&self, findings: &mut Findings) {
        for ((tp, _), told) in &self.told {
            for (low, high) in falls(told) {
                findings.add(Finding {
                    check: Check::K7,
                    tp: *tp,
                    off: Some(low.value),
                    vals: vec![],
                    witnesses: vec![high.witness, low.witness],
                    meaning: format!("the high watermark fell from {}", high.value),
                });
            }
        }
        for (tp, (end, drained)) in &self.drained {
            let seen = [(&self.highest, "was told"), (&self.read_to, "was read below")];
            for (map, how) in seen {
                let Some((off, witness)) = map.get(tp).filter(|(off, _)| off > end) else {
                    continue;
                };
                findings.add(Finding {
                    check: Check::K7,
                    tp: *tp,
                    off: Some(*off),
                    vals: vec![],
                    witnesses: vec![*witness, *drained],
                    meaning: format!("a high watermark of {off} {how}, yet the final one is {end}"),
                });
            }
        }
    }
}
