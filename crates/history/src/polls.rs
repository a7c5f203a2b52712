//! K6: a consumer reads a partition offset by offset, from where it was assigned; and the final drain reads all of it.
//!
//! Between two assigns of a partition to a process - a stretch - nothing may be skipped or read again, as a member of a group
//! or not. A new assign starts anew: at its offset, or, for a member, where its first poll shows that it went on.

use std::collections::BTreeMap;

use crate::finding::{Finding, Findings, Witness};
use crate::report::Check;

#[derive(Clone, Copy, Debug)]
struct Stretch {
    assigned: Witness,
    group: Option<u32>,
    drain: bool,
    /// The first offset read or to be read.
    start: Option<u64>,
    /// The offset that the next poll must show; unknown until a member's first poll.
    next: Option<u64>,
    last: Witness,
}

/// What a poll was part of.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Step {
    /// It showed where a member of this group went on.
    pub(crate) began: Option<u32>,
    pub(crate) drain: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Polls(BTreeMap<(u32, u32), Stretch>);

impl Polls {
    pub(crate) fn assign(
        &mut self,
        tp: u32,
        off: Option<u64>,
        drain: bool,
        group: Option<u32>,
        assigned: Witness,
    ) {
        let stretch = Stretch { assigned, group, drain, start: off, next: off, last: assigned };
        self.0.insert((tp, assigned.who), stretch);
    }

    pub(crate) fn poll(
        &mut self,
        tp: u32,
        off: u64,
        witness: Witness,
        findings: &mut Findings,
    ) -> Step {
        let mut say = |meaning: String, witnesses| {
            findings.add(Finding {
                check: Check::K6,
                tp,
                off: Some(off),
                vals: vec![],
                witnesses,
                meaning,
            });
        };
        let Some(stretch) = self.0.get_mut(&(tp, witness.who)) else {
            say("read by a process to which the partition was not assigned".into(), vec![witness]);
            return Step::default();
        };
        let step =
            Step { began: stretch.group.filter(|_| stretch.next.is_none()), drain: stretch.drain };
        match stretch.next {
            Some(next) if next < off => {
                say(format!("offsets from {next} on were skipped"), vec![stretch.last, witness]);
            }
            Some(next) if next > off => say(
                format!("stepped back from {next}: read again or out of order"),
                vec![stretch.last, witness],
            ),
            _ => {}
        }
        stretch.start.get_or_insert(off);
        stretch.next = Some(off.saturating_add(1));
        stretch.last = witness;
        step
    }

    /// The next offset that this process has yet to read, as far as it showed.
    pub(crate) fn position(&self, tp: u32, who: u32) -> Option<(u64, Witness)> {
        let stretch = self.0.get(&(tp, who))?;
        Some((stretch.next?, stretch.last))
    }

    /// The drain says that it is done: it must have begun at 0 and come to the high watermark.
    pub(crate) fn drained(&mut self, tp: u32, hw: u64, witness: Witness, findings: &mut Findings) {
        let stretch = self.0.get(&(tp, witness.who)).filter(|stretch| stretch.drain);
        let (start, next) = stretch.map_or((None, None), |stretch| (stretch.start, stretch.next));
        if start != Some(0) || next != Some(hw) {
            let read = match (start, next) {
                (Some(start), Some(next)) => format!("it read {start} to {next}"),
                _ => "it read nothing".to_owned(),
            };
            findings.add(Finding {
                check: Check::K3,
                tp,
                off: next,
                vals: vec![],
                witnesses: stretch.map(|s| s.assigned).into_iter().chain([witness]).collect(),
                meaning: format!(
                    "the final drain did not read 0 to the high watermark {hw}: {read}"
                ),
            });
        }
    }
}
