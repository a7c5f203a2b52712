//! One event of a history dropped, repeated, swapped, re-offset, re-valued or ended otherwise; or the history cut there.

use tailway_history::{Act, Event, Outcome};

use crate::generator::Rng;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    Drop,
    Repeat,
    /// The events exchange their offsets (lines and documents: their values).
    Swap(usize),
    ReOffset(u64),
    ReValue(u64),
    ReOutcome(Outcome),
    /// This event and all that follow are gone.
    Truncate,
}

/// The history with event `at` mutated.
pub(crate) fn apply(history: &[Event], at: usize, mutation: &Mutation) -> Vec<Event> {
    let mut out = history.to_vec();
    match mutation {
        Mutation::Drop => drop(out.remove(at)),
        Mutation::Repeat => out.insert(at, out[at].clone()),
        Mutation::Truncate => out.truncate(at),
        Mutation::ReOutcome(outcome) => out[at].outcome = *outcome,
        Mutation::ReOffset(to) => set_off(&mut out[at], Some(*to)),
        Mutation::ReValue(to) => set_val(&mut out[at], Some(*to)),
        Mutation::Swap(with) => {
            let (a, b) = (off(&out[at]), off(&out[*with]));
            if matches!(out[at].act, Act::Line { .. } | Act::Doc { .. }) {
                let (a, b) = (val(&out[at]), val(&out[*with]));
                set_val(&mut out[at], b);
                set_val(&mut out[*with], a);
            } else {
                set_off(&mut out[at], b);
                set_off(&mut out[*with], a);
            }
        }
    }
    out
}

/// The mutations to try on event `at`; values and offsets near and far.
pub(crate) fn candidates(history: &[Event], at: usize, rng: &mut Rng) -> Vec<Mutation> {
    let event = &history[at];
    let mut out = vec![Mutation::Drop, Mutation::Repeat, Mutation::Truncate];
    if let Some(off) = off(event) {
        let far = off + 1 + rng.below(1 << 40);
        let near =
            [off + 1, off.saturating_sub(1), rng.below(off + 1), off + 1 + rng.below(8), far];
        out.extend(near.into_iter().filter(|to| *to != off).map(Mutation::ReOffset));
    }
    if let Some(val) = val(event) {
        let other = history.iter().cycle().skip(at + 1).find_map(|event| match event.act {
            Act::Send { val: other, .. } if other != val => Some(other),
            _ => None,
        });
        out.extend([Some(val ^ (1 << 39)), other].into_iter().flatten().map(Mutation::ReValue));
    }
    if matches!(event.act, Act::Send { .. }) {
        let others = [Outcome::Ok, Outcome::Fail, Outcome::Info];
        out.extend(others.into_iter().filter(|o| *o != event.outcome).map(Mutation::ReOutcome));
    }
    let alike = |other: &&Event| {
        other.proc == event.proc && other.tp() == event.tp() && other.f() == event.f()
    };
    if let Some(with) = (at + 1..history.len()).find(|with| alike(&&history[*with]))
        && (off(event).is_some() && off(&history[with]).is_some()
            || matches!(event.act, Act::Line { .. } | Act::Doc { .. }))
    {
        out.push(Mutation::Swap(with));
    }
    out
}

pub(crate) fn off(event: &Event) -> Option<u64> {
    match &event.act {
        Act::Send { off, .. } | Act::Assign { off, .. } => *off,
        Act::Poll { off, .. }
        | Act::Drain { off, .. }
        | Act::Commit { off, .. }
        | Act::HighWatermark { off, .. }
        | Act::Dump { off, .. } => Some(*off),
        _ => None,
    }
}

fn set_off(event: &mut Event, to: Option<u64>) {
    match &mut event.act {
        Act::Send { off, .. } | Act::Assign { off, .. } => *off = to,
        Act::Poll { off, .. }
        | Act::Drain { off, .. }
        | Act::Commit { off, .. }
        | Act::HighWatermark { off, .. }
        | Act::Dump { off, .. } => *off = to.unwrap(),
        _ => panic!("no offset in {event:?}"),
    }
}

pub(crate) fn val(event: &Event) -> Option<u64> {
    match &event.act {
        Act::Send { val, .. } | Act::Line { val, .. } | Act::Doc { val, .. } => Some(*val),
        Act::Poll { val, .. } | Act::Dump { val, .. } => *val,
        _ => None,
    }
}

fn set_val(event: &mut Event, to: Option<u64>) {
    match &mut event.act {
        Act::Send { val, .. } | Act::Line { val, .. } | Act::Doc { val, .. } => *val = to.unwrap(),
        Act::Poll { val, .. } | Act::Dump { val, .. } => *val = to,
        _ => panic!("no value in {event:?}"),
    }
}
