//! K9: a group's committed offset never falls, is never beyond what its member read, and is where the next member goes on.
//!
//! A commit of unknown end may have been written or not: it does not bind from below, and may be resumed from. Without any
//! commit a group begins at 0 (`auto.offset.reset=earliest`).

use std::collections::BTreeMap;

use crate::event::Outcome;
use crate::finding::{Finding, Findings, Mark, Witness};
use crate::real_time::{Seen, falls};
use crate::report::Check;

#[derive(Debug, Default)]
struct Committed {
    ok: Vec<Seen<Witness>>,
    /// Offsets that may have been committed, and since when.
    possible: BTreeMap<u64, u64>,
    /// Where members went on; value: the offset, t0: of the assign, t1: when it was seen.
    resumed: Vec<Seen<Witness>>,
    /// Per process, the assign that has not yet shown where it goes on.
    open: BTreeMap<u32, Mark>,
    /// Per process, the highest commit so far.
    own: BTreeMap<u32, (u64, Witness)>,
}

#[derive(Debug, Default)]
pub(crate) struct Commits(BTreeMap<(u32, u32), Committed>);

impl Commits {
    pub(crate) fn commit(
        &mut self,
        (group, tp): (u32, u32),
        off: u64,
        outcome: Outcome,
        read_to: Option<(u64, Witness)>,
        mark: Mark,
        findings: &mut Findings,
    ) {
        let Mark { t0, t1, witness } = mark;
        let mut say = |first, meaning: String| {
            let witnesses = Option::into_iter(first).chain([witness]).collect();
            let vals = vec![];
            findings.add(Finding {
                check: Check::K9,
                tp,
                off: Some(off),
                vals,
                witnesses,
                meaning,
            });
        };
        match read_to {
            None => say(None, "committed by a process that had read nothing".into()),
            Some((next, last)) if off > next => {
                say(Some(last), format!("committed beyond what was read, which ends at {next}"));
            }
            Some(_) => {}
        }
        if outcome == Outcome::Fail {
            return;
        }
        let committed = self.0.entry((tp, group)).or_default();
        let begun = committed.possible.entry(off).or_insert(t0);
        *begun = t0.min(*begun);
        if outcome != Outcome::Ok {
            return;
        }
        committed.ok.push(Seen { t0, t1, value: off, witness });
        // Clocks may be too coarse to tell two commits of one process apart; their order in its history is not.
        let own = committed.own.entry(witness.who).or_insert((off, witness));
        if own.0 > off {
            say(Some(own.1), format!("fell from {}", own.0));
        } else {
            *own = (off, witness);
        }
    }

    /// A member was assigned the partition; it may say at once where it goes on.
    pub(crate) fn resumes(&mut self, group: u32, tp: u32, off: Option<u64>, mark: Mark) {
        let committed = self.0.entry((tp, group)).or_default();
        committed.open.insert(mark.witness.who, mark);
        if let Some(off) = off {
            self.resumed(group, tp, off, mark);
        }
    }

    /// A member's first poll shows where it went on.
    pub(crate) fn resumed(&mut self, group: u32, tp: u32, off: u64, mark: Mark) {
        let Some(committed) = self.0.get_mut(&(tp, group)) else { return };
        let Some(assign) = committed.open.remove(&mark.witness.who) else { return };
        let (t0, t1, witness) = (assign.t0, mark.t1, mark.witness);
        committed.resumed.push(Seen { t0, t1, value: off, witness });
    }

    pub(crate) fn finish(&self, findings: &mut Findings) {
        for ((tp, _), committed) in &self.0 {
            let mut say = |off, first: Option<Witness>, second, meaning| {
                findings.add(Finding {
                    check: Check::K9,
                    tp: *tp,
                    off: Some(off),
                    vals: vec![],
                    witnesses: first.into_iter().chain([second]).collect(),
                    meaning,
                });
            };
            // What a member resumed from was committed then, so a resume binds what comes later as a commit does.
            let tag = |seen: &[Seen<Witness>], resume| -> Vec<Seen<(Witness, bool)>> {
                let tagged = |s: &Seen<Witness>| Seen {
                    t0: s.t0,
                    t1: s.t1,
                    value: s.value,
                    witness: (s.witness, resume),
                };
                seen.iter().map(tagged).collect()
            };
            let all = [tag(&committed.ok, false), tag(&committed.resumed, true)].concat();
            for (low, high) in falls(&all) {
                let ((by, resume), (before, resumed)) = (low.witness, high.witness);
                let meaning = match (resume, resumed) {
                    (true, _) => format!("a member went on below the committed {}", high.value),
                    // Said when it came.
                    (false, false) if by.who == before.who => continue,
                    (false, _) => format!("fell from {}", high.value),
                };
                say(low.value, Some(before), by, meaning);
            }
            for resume in &committed.resumed {
                let begun = committed.possible.get(&resume.value);
                if resume.value > 0 && begun.is_none_or(|begun| *begun > resume.t1) {
                    let meaning = "a member went on where nobody had committed".to_owned();
                    say(resume.value, None, resume.witness, meaning);
                }
            }
        }
    }
}
