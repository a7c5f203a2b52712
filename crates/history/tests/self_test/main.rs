//! The checker checked: clean histories pass, and one event dropped, repeated, swapped, re-offset, re-valued or ended
//! otherwise is flagged, unless a rule (`law`) says that the mutated history is one a correct log could give; then it passes.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod generator;
mod law;
mod mutation;

use std::collections::BTreeMap;

use generator::{Rng, clean};
use tailway_history::{Check, Checker, Event, Report};

/// Histories per run, and which part of all mutations of each is tried; `HISTORY_SEEDS`, `HISTORY_EVERY` and `HISTORY_SEED`
/// (the first) change what is run. `HISTORY_EVERY=1` tries each mutation of each event.
const SEEDS: u64 = 6;
const EVERY: u64 = 8;
const STEPS: u64 = 220;

fn judge(history: &[Event]) -> Report {
    let mut checker = Checker::new();
    for event in history {
        checker.event(event);
    }
    checker.finish()
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

#[test]
fn every_mutation_is_flagged_or_legal_by_a_rule() {
    let (first, count) = (number("HISTORY_SEED", 1), number("HISTORY_SEEDS", SEEDS));
    let every = number("HISTORY_EVERY", EVERY);
    let (mut flagged, mut legal): (BTreeMap<_, u64>, BTreeMap<_, u64>) = Default::default();
    for seed in first..first + count {
        println!("seed {seed}");
        let history = clean(seed, STEPS);
        let report = judge(&history);
        assert!(report.violations.is_empty(), "seed {seed} is not clean:\n{report}");
        let mut rng = Rng::new(seed);
        for at in 0..history.len() {
            for mutation in mutation::candidates(&history, at, &mut rng) {
                if rng.below(every) > 0 {
                    continue;
                }
                let mutated = mutation::apply(&history, at, &mutation);
                let report = judge(&mutated);
                let rule = law::legal(&history, at, &mutation);
                assert_eq!(
                    report.violations.is_empty(),
                    rule.is_some(),
                    "seed {seed}, event {} {:?}, {mutation:?}: legal by {rule:?}, yet\n{report}",
                    at + 1,
                    history[at],
                );
                match rule {
                    Some(rule) => *legal.entry(rule).or_default() += 1,
                    None => {
                        for violation in report.violations {
                            *flagged.entry(violation.check).or_default() += 1;
                        }
                    }
                }
            }
        }
    }
    println!("flagged {flagged:?}\nlegal {legal:#?}");
    for check in Check::ALL {
        assert!(flagged.contains_key(&check), "{check:?} flagged nothing");
    }
}

#[test]
fn the_same_events_give_the_same_report() {
    let mut history = clean(7, STEPS);
    history.retain(|event| event.t0 % 5 != 0);
    assert!(!judge(&history).violations.is_empty());
    assert_eq!(judge(&history), judge(&history));
}

#[test]
fn processes_one_after_the_other_are_as_clean_as_mixed() {
    for seed in 1..=SEEDS {
        let mut history = clean(seed, STEPS);
        history.sort_by(|a, b| a.proc.cmp(&b.proc));
        let report = judge(&history);
        assert!(report.violations.is_empty(), "seed {seed}:\n{report}");
    }
}

#[test]
fn lines_say_what_events_say() {
    for event in clean(3, STEPS) {
        assert_eq!(Event::parse(&event.to_line()).unwrap(), event);
    }
}
