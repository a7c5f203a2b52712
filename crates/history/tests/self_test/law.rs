//! Which mutations leave a clean history one that a correct log could have given, and why: rules over the clean history,
//! written apart from the checker and by brute force, so that the two can disagree.

use tailway_history::{Act, Event, Outcome};

use crate::mutation::{Mutation, apply, off, val};

/// The rule by which the mutated history is still legal; `None` where it must be flagged.
pub(crate) fn legal(history: &[Event], at: usize, mutation: &Mutation) -> Option<&'static str> {
    let law = Law { history, at, event: &history[at] };
    match mutation {
        Mutation::Truncate => law.truncate(),
        Mutation::Drop => law.drop(),
        Mutation::Repeat => law.repeat(),
        Mutation::Swap(with) => law.swap(*with),
        Mutation::ReOffset(to) => law.re_offset(*to),
        Mutation::ReValue(to) => law.re_value(*to),
        Mutation::ReOutcome(to) => law.re_outcome(*to),
    }
}

struct Law<'a> {
    history: &'a [Event],
    at: usize,
    event: &'a Event,
}

fn because(holds: bool, rule: &'static str) -> Option<&'static str> {
    holds.then_some(rule)
}

impl Law<'_> {
    fn truncate(&self) -> Option<&'static str> {
        let shows = |event: &Event| match event.act {
            Act::Poll { .. } | Act::Line { .. } => true,
            Act::Send { .. } => event.outcome == Outcome::Ok,
            _ => false,
        };
        because(
            !self.history[..self.at].iter().any(shows),
            "nothing was acknowledged or read before the cut",
        )
    }

    fn drop(&self) -> Option<&'static str> {
        match self.event.act {
            Act::Send { val, .. } => {
                because(!self.is_written(val), "nobody read it, and its end was not known")
            }
            Act::Assign { .. } => self.drop_assign(),
            Act::Poll { .. } => self.drop_poll(),
            Act::Commit { off, .. } => {
                because(self.resume_has_another_cause(off), "no member went on from it alone")
            }
            Act::Drain { off, .. } => because(off == 0, "the partition is empty"),
            Act::Dump { .. } => {
                because(self.is_torn(), "above the high watermark replicas may differ")
            }
            Act::Line { .. } | Act::Doc { .. } => None,
            _ => Some("one look less"),
        }
    }

    /// Without it, the stretch is part of the one before, if that ends where it begins.
    fn drop_assign(&self) -> Option<&'static str> {
        let polls = self.stretch(self.at);
        let Some(first) = polls.first().and_then(|poll| off(&self.history[*poll])) else {
            let drains = matches!(self.event.act, Act::Assign { drain: true, .. });
            return because(!drains, "nothing was read after it");
        };
        let before =
            (0..self.at).rev().find(|i| self.same_reader(*i) && is_assign(&self.history[*i]))?;
        let last = self.stretch(before).last().and_then(|poll| off(&self.history[*poll]));
        let next = last.map(|last| last + 1).or(off(&self.history[before]));
        // A member whose stretch before showed nothing begins with this one; a reader without one begins where it said.
        because(
            next.is_none_or(|next| next == first),
            "the stretch before ends where this one begins",
        )
    }

    fn drop_poll(&self) -> Option<&'static str> {
        let assign =
            (0..self.at).rev().find(|i| self.same_reader(*i) && is_assign(&self.history[*i]))?;
        if matches!(self.history[assign].act, Act::Assign { drain: true, .. }) {
            return None;
        }
        let polls = self.stretch(assign);
        let member = off(&self.history[assign]).is_none();
        let this = off(self.event)?;
        if polls.last() == Some(&self.at) {
            let end = self.end_of_stretch(assign);
            let committed = |i: &usize| {
                self.same_reader(*i)
                    && self.history[*i].f() == "commit"
                    && off(&self.history[*i]) > Some(this)
            };
            return because(
                !(self.at..end).any(|i| committed(&i)),
                "the last of its stretch, not committed",
            );
        }
        if member && polls.first() == Some(&self.at) {
            let second = &self.history[polls[1]];
            // A commit between the two came from one who had then read nothing.
            let committed =
                (self.at..polls[1]).any(|i| self.same_reader(i) && self.history[i].f() == "commit");
            return because(
                !committed && self.may_resume(assign, second, None),
                "another commit of unknown end lets the member begin one later",
            );
        }
        None
    }

    fn repeat(&self) -> Option<&'static str> {
        let once = matches!(
            self.event.act,
            Act::Send { .. }
                | Act::Poll { .. }
                | Act::Dump { .. }
                | Act::Line { .. }
                | Act::Doc { .. }
        );
        because(!once, "said twice, true twice")
    }

    fn swap(&self, with: usize) -> Option<&'static str> {
        let other = &self.history[with];
        if (off(self.event), val(self.event)) == (off(other), val(other)) {
            return Some("they are equal");
        }
        match self.event.act {
            Act::Line { .. } | Act::Doc { .. } => {
                because(val(self.event) == val(other), "equal lines")
            }
            Act::Assign { .. } | Act::Commit { .. } | Act::HighWatermark { .. }
                if off(self.event) == off(other) =>
            {
                Some("they say the same")
            }
            Act::Assign { .. } => because(
                self.stretch(self.at).is_empty() && self.stretch(with).is_empty(),
                "nothing was read after either",
            ),
            Act::Dump { .. } => because(
                val(self.event) == val(other),
                "without idempotence one value stands at both",
            ),
            Act::Commit { .. } => {
                self.commits_hold(&apply(self.history, self.at, &Mutation::Swap(with)))
            }
            Act::HighWatermark { .. } => {
                self.watermarks_hold(&apply(self.history, self.at, &Mutation::Swap(with)))
            }
            _ => None,
        }
    }

    fn re_offset(&self, to: u64) -> Option<&'static str> {
        let mutated = || apply(self.history, self.at, &Mutation::ReOffset(to));
        match self.event.act {
            Act::Send { val: sent, .. } => because(
                self.history.iter().any(|e| {
                    e.f() == "poll"
                        && (e.tp(), off(e), val(e)) == (self.event.tp(), Some(to), Some(sent))
                }),
                "without idempotence it stands there too",
            ),
            Act::Assign { drain: false, .. } => {
                because(self.stretch(self.at).is_empty(), "nothing was read after it")
            }
            Act::Commit { .. } => self.commits_hold(&mutated()),
            Act::HighWatermark { .. } => self.watermarks_hold(&mutated()),
            Act::Dump { .. } => because(
                self.is_torn() && to >= self.end(),
                "above the high watermark replicas may differ",
            ),
            _ => None,
        }
    }

    fn re_value(&self, to: u64) -> Option<&'static str> {
        match self.event.act {
            Act::Send { val, .. } => because(
                !self.is_written(val)
                    && !self
                        .history
                        .iter()
                        .any(|e| matches!(e.act, Act::Send { val, .. } if val == to)),
                "a send that nobody knows of, called otherwise",
            ),
            Act::Dump { .. } => {
                because(self.is_torn(), "above the high watermark replicas may differ")
            }
            _ => None,
        }
    }

    fn re_outcome(&self, to: Outcome) -> Option<&'static str> {
        let Act::Send { val, .. } = self.event.act else { return None };
        match to {
            Outcome::Ok => because(self.is_written(val), "it was written: now its end is known"),
            Outcome::Info => Some("less is known"),
            Outcome::Fail => because(!self.is_written(val), "it was not written"),
        }
    }

    fn is_written(&self, sent: u64) -> bool {
        self.history.iter().any(|event| event.f() == "poll" && val(event) == Some(sent))
    }

    fn same_reader(&self, other: usize) -> bool {
        self.history[other].proc == self.event.proc && self.history[other].tp() == self.event.tp()
    }

    fn end_of_stretch(&self, assign: usize) -> usize {
        (assign + 1..self.history.len())
            .find(|i| self.same_reader(*i) && is_assign(&self.history[*i]))
            .unwrap_or(self.history.len())
    }

    /// The polls between an assign of this process and partition and the next one.
    fn stretch(&self, assign: usize) -> Vec<usize> {
        (assign + 1..self.end_of_stretch(assign))
            .filter(|i| self.same_reader(*i) && self.history[*i].f() == "poll")
            .collect()
    }

    fn end(&self) -> u64 {
        let drained = self.history.iter().find(|e| e.f() == "drain" && e.tp() == self.event.tp());
        drained.and_then(off).unwrap()
    }

    fn is_torn(&self) -> bool {
        off(self.event).unwrap() >= self.end()
    }

    /// Whether every member that went on at `off` could do so without this commit.
    fn resume_has_another_cause(&self, committed: u64) -> bool {
        let Act::Commit { group, .. } = &self.event.act else { return true };
        resumes(self.history, group, self.event.tp()).into_iter().all(|(assign, poll)| {
            off(&self.history[poll]) != Some(committed)
                || self.may_resume(assign, &self.history[poll], Some(self.at))
        })
    }

    /// Whether a commit other than `except` that may have been written by then is at this poll's offset.
    fn may_resume(&self, assign: usize, poll: &Event, except: Option<usize>) -> bool {
        let Act::Assign { group: Some(of), .. } = &self.history[assign].act else { return false };
        off(poll) == Some(0)
            || self.history.iter().enumerate().any(|(i, event)| {
                matches!(&event.act, Act::Commit { group, .. } if group == of)
                    && Some(i) != except
                    && event.tp() == poll.tp()
                    && event.outcome != Outcome::Fail
                    && off(event) == off(poll)
                    && event.t0 <= poll.t1
            })
    }

    /// K9 by its definition, over all pairs.
    fn commits_hold(&self, mutated: &[Event]) -> Option<&'static str> {
        let Act::Commit { group, .. } = &self.event.act else { return None };
        let law = Law { history: mutated, at: self.at, event: &mutated[self.at] };
        let commits = |i: &usize| {
            matches!(&mutated[*i].act, Act::Commit { group: of, .. } if of == group)
                && mutated[*i].tp() == self.event.tp()
        };
        let all: Vec<usize> = (0..mutated.len()).filter(commits).collect();
        let in_bounds = all.iter().all(|i| {
            let read = (0..*i).rev().find(|j| {
                mutated[*j].f() == "poll"
                    && mutated[*j].proc == mutated[*i].proc
                    && mutated[*j].tp() == mutated[*i].tp()
            });
            read.is_some_and(|read| off(&mutated[*i]) <= off(&mutated[read]).map(|off| off + 1))
        });
        let resumes = resumes(mutated, group, self.event.tp());
        let caused =
            resumes.iter().all(|(assign, poll)| law.may_resume(*assign, &mutated[*poll], None));
        // Begin, end, offset, process of what was surely committed, or was seen to be.
        let sure = all
            .iter()
            .filter(|i| mutated[**i].outcome == Outcome::Ok)
            .map(|i| (*i, mutated[*i].t0, mutated[*i].t1, off(&mutated[*i])));
        let seen = resumes.iter().map(|(assign, poll)| {
            (*poll, mutated[*assign].t0, mutated[*poll].t1, off(&mutated[*poll]))
        });
        let points: Vec<_> = sure.chain(seen).collect();
        let rises = points.iter().all(|(i, t0, _, low)| {
            points.iter().all(|(j, _, t1, high)| {
                let own = mutated[*i].f() == "commit"
                    && mutated[*j].f() == "commit"
                    && mutated[*i].proc == mutated[*j].proc;
                let before = t1 < t0 || (own && j < i);
                !before || high <= low
            })
        });
        because(
            in_bounds && caused && rises,
            "what the member had read, and between its neighbours",
        )
    }

    /// K7 by its definition, over all pairs.
    fn watermarks_hold(&self, mutated: &[Event]) -> Option<&'static str> {
        let looks = || {
            mutated.iter().filter_map(|event| match &event.act {
                Act::HighWatermark { tp, off, epoch } if Some(tp.as_str()) == self.event.tp() => {
                    Some((event.t0, event.t1, *off, *epoch))
                }
                _ => None,
            })
        };
        let holds = looks().all(|(t0, _, low, of)| {
            low <= self.end()
                && looks().all(|(_, t1, high, epoch)| epoch != of || t1 >= t0 || high <= low)
        });
        because(holds, "a look between its neighbours")
    }
}

fn is_assign(event: &Event) -> bool {
    event.f() == "assign"
}

/// A group's assigns with the polls that show where they went on.
fn resumes(history: &[Event], of: &str, tp: Option<&str>) -> Vec<(usize, usize)> {
    let mut out = Vec::new();
    for (i, event) in history.iter().enumerate() {
        if !matches!(&event.act, Act::Assign { group: Some(group), .. } if group == of)
            || event.tp() != tp
        {
            continue;
        }
        let of_reader = |j: &usize| history[*j].proc == event.proc && history[*j].tp() == tp;
        let next = (i + 1..history.len())
            .filter(of_reader)
            .find(|j| matches!(history[*j].f(), "poll" | "assign"));
        out.extend(next.filter(|j| history[*j].f() == "poll").map(|poll| (i, poll)));
    }
    out
}
