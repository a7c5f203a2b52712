//! The simulator: whole daemons and clients on simulated machines, one seed after the other.
//!
//! `tailway-sim --seeds 150` runs 150 seeds and exits 1 if one breaks a promise, with the command that replays it.
//! `--seed S` runs one and prints its trace. The daemons are the production's own, with simulated disks, network, clocks
//! and scheduling under them; what is checked, and what the faults are, is in `run`, `oracle` and `plan`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool")]

mod clients;
mod directed;
mod history;
mod ledger;
mod machines;
mod nemesis;
mod oracle;
mod plan;
mod plants;
mod run;
mod sink;
mod tls;
mod vault;
mod writer;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use clap::Parser;

use directed::Scenario;
use run::Verdict;
use tls::TlsFiles;

/// One seed in this many is run twice and must do the same.
const TWICE_ONE_IN: u64 = 20;
/// Violations shown of a seed.
const SHOWN: usize = 5;

#[derive(Parser)]
#[allow(clippy::struct_excessive_bools, reason = "the flags of a command line")]
#[command(name = "tailway-sim", about = "Runs whole daemons on simulated machines, seed by seed", after_help = EXAMPLES)]
struct Args {
    /// How many seeds.
    #[arg(long, default_value_t = 150)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run this one only, and print its trace.
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// With --seed: run it twice and compare instead of printing the trace.
    #[arg(long, requires = "seed")]
    twice: bool,
    /// Plant this bug, and stop at the first seed that finds it (exit 0 found, 1 not).
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Plant all bugs, one after the other, and write docs/evidence/planted-bugs.md (exit 1 if one is not found).
    #[arg(long, conflicts_with_all = ["seeds", "from", "seed", "plant"])]
    plants: bool,
    /// With --seed: run this scenario instead of the seed's own plan.
    #[arg(long, requires = "seed")]
    scenario: Option<Scenario>,
    /// With --seed: print one line that says whether something was found.
    #[arg(long, requires = "seed", hide = true)]
    last_word: bool,
    /// Print each seed's event hash.
    #[arg(long)]
    hashes: bool,
}

const EXAMPLES: &str = "Examples:\n  tailway-sim --seeds 150\n  tailway-sim --seed 42 | less\n  \
                        tailway-sim --seeds 1000 --plant broker.ack_before_sync\n  tailway-sim --plants";

fn main() -> ExitCode {
    let args = Args::parse();
    match work(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tailway-sim: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn work(args: &Args) -> Result<bool> {
    if args.plants {
        return plants::hunt_all();
    }
    if let (Some(bug), None) = (&args.plant, args.seed) {
        return plants::hunt(bug, args.from, args.seeds);
    }
    if let Some(bug) = &args.plant {
        ensure!(tailway_faults::BUGS.contains(&bug.as_str()), "there is no bug `{bug}`");
        tailway_faults::plant(Some(bug));
    }
    let tls = Arc::new(TlsFiles::make()?);
    if let Some(seed) = args.seed {
        say_who_panics(args);
        SEED.set(Some(seed));
        let verdict = match args.scenario {
            Some(scenario) => scenario.run(seed, &tls),
            None => run::run(seed, &tls, args.twice),
        };
        if args.last_word {
            println!("{}", plants::last_word(&verdict));
            return Ok(verdict.violations.is_empty());
        }
        if args.twice {
            let second = run::run(seed, &tls, args.twice);
            if second.hash != verdict.hash {
                println!("{}", difference(&verdict, &second));
                return Ok(false);
            }
        } else {
            for line in &verdict.trace {
                println!("{line}");
            }
        }
        report(seed, &verdict, args);
        return Ok(verdict.violations.is_empty());
    }
    say_who_panics(args);
    Ok(campaign(args, &tls))
}

thread_local! {
    /// The seed that this thread runs.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// A panic, such as of a state machine's `check()`, ends the process: its last words name the seed.
fn say_who_panics(args: &Args) {
    let (last_word, how) = (args.last_word, replay_options(args));
    std::panic::set_hook(Box::new(move |panic| {
        let events = tailway_runtime::sim::events();
        let text = panic.payload_as_str().unwrap_or("a panic without words");
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        if last_word {
            println!("{}", plants::found(events, &format!("panic at {at}: {text}")));
            return;
        }
        eprintln!("panic at {at}: {text}");
        if let Some(seed) = SEED.get() {
            println!(
                "seed {seed}: panic after {events} events: FAILED\n  replay: cargo x sim --seed {seed}{how}"
            );
        }
    }));
}

/// What many seeds came to.
#[derive(Default)]
struct Tally {
    done: u64,
    twice: u64,
    failed: Vec<u64>,
    events: u64,
    acknowledged: u64,
    simulated_s: u64,
    counts: BTreeMap<&'static str, u64>,
}

fn campaign(args: &Args, tls: &Arc<TlsFiles>) -> bool {
    let next = AtomicU64::new(args.from);
    let end = args.from + args.seeds;
    let tally = Mutex::new(Tally::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    one(seed, args, tls, &tally);
                }
            });
        }
    });
    let tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "{} seeds from {}: {} events, {} records acknowledged, {} simulated seconds, {} seeds run twice, {} failed",
        tally.done,
        args.from,
        tally.events,
        tally.acknowledged,
        tally.simulated_s,
        tally.twice,
        tally.failed.len()
    );
    for (what, times) in &tally.counts {
        println!("  {what} {times}");
    }
    tally.failed.is_empty()
}

fn one(seed: u64, args: &Args, tls: &Arc<TlsFiles>, tally: &Mutex<Tally>) {
    SEED.set(Some(seed));
    let mut verdict = run::run(seed, tls, false);
    let again = seed.is_multiple_of(TWICE_ONE_IN);
    if again {
        let second = run::run(seed, tls, false);
        if second.hash != verdict.hash {
            verdict.violations.push(difference(&verdict, &second));
        }
    }
    if args.hashes {
        println!("seed {seed} hash {:016x} events {}", verdict.hash, verdict.events);
    }
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    tally.done += 1;
    tally.twice += u64::from(again);
    tally.events += verdict.events;
    tally.acknowledged += verdict.acknowledged as u64;
    tally.simulated_s += verdict.simulated.as_secs();
    for (what, times) in &verdict.counts {
        *tally.counts.entry(what).or_default() += times;
    }
    if !verdict.violations.is_empty() {
        tally.failed.push(seed);
        report(seed, &verdict, args);
    }
}

/// Where two runs of one seed part.
fn difference(first: &Verdict, second: &Verdict) -> String {
    let lines = first.trace.iter().zip(&second.trace);
    let at = lines.take_while(|(one, other)| one == other).count();
    let around = |verdict: &Verdict| {
        let from = at.saturating_sub(3);
        let lines = verdict.trace.iter().skip(from).take(6);
        lines.fold(String::new(), |text, line| text + "\n      " + line)
    };
    format!(
        "the seed is not deterministic: event hash {:016x}, then {:016x}; they part at line {at}:{}\n    and{}",
        first.hash,
        second.hash,
        around(first),
        around(second)
    )
}

/// What a replay needs besides the seed.
fn replay_options(args: &Args) -> String {
    let bug = args.plant.iter().map(|bug| format!(" --plant {bug}"));
    let scenario = args.scenario.iter().map(|scenario| format!(" --scenario {}", scenario.name()));
    bug.chain(scenario).collect()
}

fn report(seed: u64, verdict: &Verdict, args: &Args) {
    println!(
        "seed {seed}: {} events, hash {:016x}, {} acknowledged, {:?} simulated: {}",
        verdict.events,
        verdict.hash,
        verdict.acknowledged,
        verdict.simulated,
        if verdict.violations.is_empty() { "good" } else { "FAILED" }
    );
    for violation in verdict.violations.iter().take(SHOWN) {
        println!("  {violation}");
    }
    if verdict.violations.len() > SHOWN {
        println!("  and {} more", verdict.violations.len() - SHOWN);
    }
    if !verdict.violations.is_empty() {
        println!("  replay: cargo x sim --seed {seed}{}", replay_options(args));
    }
}
