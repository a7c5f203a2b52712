//! K10: after the stop, every replica holds the same records below the high watermark, in batches whose CRC holds.
//!
//! Above it replicas may differ: nobody was promised anything there, and a crash may have torn it.

use std::collections::BTreeMap;

use crate::finding::{Finding, Findings, Witness};
use crate::records::Records;
use crate::report::Check;

/// What a replica holds at an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) val: Option<u64>,
    pub(crate) epoch: Option<u32>,
    pub(crate) crc: Option<u32>,
    pub(crate) valid: bool,
    pub(crate) witness: Witness,
}

#[derive(Debug, Default)]
pub(crate) struct Replicas {
    /// By partition, replica and offset.
    held: BTreeMap<(u32, u32), BTreeMap<u64, Held>>,
}

impl Replicas {
    pub(crate) fn dump(&mut self, tp: u32, off: u64, held: Held, findings: &mut Findings) {
        let replica = self.held.entry((tp, held.witness.who)).or_default();
        if let Some(before) = replica.insert(off, held) {
            findings.add(Finding {
                check: Check::K10,
                tp,
                off: Some(off),
                vals: before.val.into_iter().chain(held.val).collect(),
                witnesses: vec![before.witness, held.witness],
                meaning: "a replica holds two records at one offset".into(),
            });
        }
    }

    /// `limits`: the high watermarks; where none is known, all that any replica holds is compared.
    pub(crate) fn finish(
        &self,
        limits: &BTreeMap<u32, u64>,
        records: &Records,
        findings: &mut Findings,
    ) {
        let mut first_of: BTreeMap<u32, &BTreeMap<u64, Held>> = BTreeMap::new();
        let mut ends: BTreeMap<u32, u64> = BTreeMap::new();
        for ((tp, _), replica) in &self.held {
            let last = replica.last_key_value().map_or(0, |(off, _)| off.saturating_add(1));
            let end = ends.entry(*tp).or_default();
            *end = last.max(*end);
        }
        ends.extend(limits.iter().map(|(tp, limit)| (*tp, *limit)));
        for ((tp, _), replica) in &self.held {
            let limit = ends.get(tp).copied().unwrap_or(0);
            let first = *first_of.entry(*tp).or_insert(replica);
            compare(*tp, limit, first, replica, records, findings);
        }
    }
}

fn compare(
    tp: u32,
    limit: u64,
    first: &BTreeMap<u64, Held>,
    replica: &BTreeMap<u64, Held>,
    records: &Records,
    findings: &mut Findings,
) {
    let mut say = |check, off, vals, witnesses, meaning: String| {
        findings.add(Finding { check, tp, off: Some(off), vals, witnesses, meaning });
    };
    let mut next = 0;
    for (off, held) in replica.range(..limit) {
        if *off != next {
            say(
                Check::K10,
                next,
                vec![],
                vec![held.witness],
                format!(
                    "a replica lacks offsets {next} to {off}, below the high watermark {limit}"
                ),
            );
        }
        next = off.saturating_add(1);
        if !held.valid {
            say(
                Check::K10,
                *off,
                vec![],
                vec![held.witness],
                "the CRC of the batch does not hold".into(),
            );
        }
        let same =
            |other: &Held| (other.val, other.epoch, other.crc) == (held.val, held.epoch, held.crc);
        if let Some(other) = first.get(off).filter(|other| !same(other)) {
            say(
                Check::K10,
                *off,
                other.val.into_iter().chain(held.val).collect(),
                vec![other.witness, held.witness],
                "two replicas differ below the high watermark".into(),
            );
        }
        if let Some((val, seen)) = records.differs(tp, *off, held.val) {
            say(
                Check::K1,
                *off,
                val.into_iter().chain(held.val).collect(),
                vec![seen, held.witness],
                "a replica holds another value than a client saw".into(),
            );
        }
    }
    if next < limit
        && let Some((_, last)) = replica.last_key_value()
    {
        say(
            Check::K10,
            next,
            vec![],
            vec![last.witness],
            format!("a replica ends at {next}, below the high watermark {limit}"),
        );
    }
}
