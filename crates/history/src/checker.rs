//! Takes the events one by one, hands each to the checks that need it, and asks all of them at the end.

use std::collections::BTreeMap;

use crate::availability::Acks;
use crate::commits::Commits;
use crate::epochs::Epochs;
use crate::event::{Act, Event, Outcome};
use crate::finding::{Findings, Mark, Witness};
use crate::lines::Lines;
use crate::names::Names;
use crate::polls::Polls;
use crate::records::{Records, Sent};
use crate::replicas::{Held, Replicas};
use crate::report::{Place, Report};
use crate::watermarks::Watermarks;

/// A history being checked. Events of one process must come in its order; processes may come one after the other or mixed.
#[derive(Debug, Default)]
pub struct Checker {
    sources: Vec<String>,
    place: Place,
    procs: Names,
    tps: Names,
    groups: Names,
    counts: BTreeMap<(&'static str, Outcome), u64>,
    findings: Findings,
    records: Records,
    polls: Polls,
    watermarks: Watermarks,
    epochs: Epochs,
    commits: Commits,
    replicas: Replicas,
    lines: Lines,
    acks: Acks,
}

impl Checker {
    /// A history without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// The events that follow are the lines of this source, from 1 on.
    pub fn source(&mut self, name: &str) {
        self.sources.push(name.to_owned());
        let source = u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX);
        self.place = Place { source, line: 0 };
    }

    /// Takes the next event.
    pub fn event(&mut self, event: &Event) {
        self.place.line = self.place.line.saturating_add(1);
        *self.counts.entry((event.f(), event.outcome)).or_default() += 1;
        let who = self.procs.number(&event.proc);
        let witness = Witness { who, place: self.place };
        let mark = Mark { t0: event.t0, t1: event.t1, witness };
        let tp = event.tp().map_or(u32::MAX, |tp| self.tps.number(tp));
        match &event.act {
            Act::Send { off, val, idempotent, .. } => {
                if event.outcome == Outcome::Ok {
                    self.acks.acked(event.t1);
                }
                let sent = Sent {
                    tp,
                    off: *off,
                    outcome: event.outcome,
                    idempotent: *idempotent,
                    witness,
                };
                self.records.sent(*val, sent, &mut self.findings);
            }
            Act::Dump { off, val, epoch, crc, .. } => {
                let held = Held {
                    val: *val,
                    epoch: *epoch,
                    crc: *crc,
                    valid: event.outcome == Outcome::Ok,
                    witness,
                };
                self.replicas.dump(tp, *off, held, &mut self.findings);
            }
            Act::Ack { epoch, .. } => self.epochs.ack(tp, *epoch, mark, &mut self.findings),
            Act::Fence { epoch, .. } => self.epochs.fence(tp, *epoch, witness),
            Act::Line { val, .. } => self.lines.line(tp, *val, witness),
            Act::Doc { val, .. } => self.lines.doc(tp, *val, witness),
            Act::HighWatermark { off, epoch, .. } => self.watermarks.told(tp, *off, *epoch, mark),
            Act::Fault { note } => self.acks.fault(event.t0, event.t1, note),
            act => self.consumed(act, event.outcome, tp, mark),
        }
    }

    fn consumed(&mut self, act: &Act, outcome: Outcome, tp: u32, mark: Mark) {
        let findings = &mut self.findings;
        match act {
            Act::Assign { off, group, drain, .. } => {
                let group = group.as_ref().map(|group| self.groups.number(group));
                if let Some(group) = group {
                    self.commits.resumes(group, tp, *off, mark);
                }
                self.polls.assign(tp, *off, *drain, group, mark.witness);
            }
            Act::Poll { off, val, epoch, hw, .. } => {
                let step = self.polls.poll(tp, *off, mark.witness, findings);
                if let Some(group) = step.began {
                    self.commits.resumed(group, tp, *off, mark);
                }
                self.records.read(tp, *off, *val, step.drain, mark.witness, findings);
                self.epochs.read(tp, *off, *epoch, mark.witness, findings);
                self.watermarks.read(tp, *off, *hw, mark.witness, findings);
            }
            Act::Drain { off, .. } => {
                self.watermarks.drained(tp, *off, mark.witness);
                self.polls.drained(tp, *off, mark.witness, findings);
                self.records.drained(tp);
            }
            Act::Commit { off, group, .. } => {
                let group = self.groups.number(group);
                let read_to = self.polls.position(tp, mark.witness.who);
                self.commits.commit((group, tp), *off, outcome, read_to, mark, findings);
            }
            _ => {}
        }
    }

    /// The verdict on all events so far.
    pub fn finish(mut self) -> Report {
        let findings = &mut self.findings;
        let limits = self.watermarks.limits();
        self.replicas.finish(&limits, &self.records, findings);
        self.records.finish(&self.tps, findings);
        self.watermarks.finish(findings);
        self.epochs.finish(findings);
        self.commits.finish(findings);
        self.lines.finish(findings);
        let word = |outcome| match outcome {
            Outcome::Ok => " ok",
            Outcome::Fail => " fail",
            Outcome::Info => " info",
        };
        Report {
            violations: self.findings.in_words(&self.tps, &self.procs, &self.sources),
            counts: self
                .counts
                .into_iter()
                .map(|((f, o), n)| (format!("{f}{}", word(o)), n))
                .collect(),
            availability: self.acks.finish(),
        }
    }
}
