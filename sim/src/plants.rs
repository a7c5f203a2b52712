//! Planted bugs: does the simulation find what was broken on purpose?
//!
//! Each bug of `tailway_faults::BUGS` is one guarded line of production code. `hunt` plants one and runs seed after seed
//! until an invariant objects. Every seed runs in a process of its own: the state machines' `check()` panics, and a release
//! build aborts then. A seed that fails without the bug as well proves nothing and does not count.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::directed::Scenario;
use crate::run::Verdict;

/// Seeds that may be needed.
const SEEDS: u64 = 1_000;
/// Seeds of a directed scenario.
const DIRECTED_SEEDS: u64 = 20;
/// Real time that one seed may take: they take less than a second.
const SEED_TIMEOUT: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How a child's last word begins.
const FOUND: &str = "found after ";
const CLEAN: &str = "found nothing";
/// Longest description of a violation in the table.
const TEXT_MAX: usize = 160;

/// A bug that can be planted.
struct Plant {
    name: &'static str,
    /// What the line does wrong.
    breaks: &'static str,
    hunt: Hunt,
}

/// What finds a bug.
#[derive(Clone, Copy)]
enum Hunt {
    /// Plans made by chance.
    Seeds,
    /// A scenario of its own, as plans made by chance reach the line too rarely.
    Directed(Scenario),
    /// A named test (`cargo x teeth` has it): full disks, groups of dozens of dirty partitions, damaged journals, clocks
    /// that jump by years and dead letters whose topic cannot be made are not simulated, or hardly ever.
    Test,
}

const fn plant(name: &'static str, breaks: &'static str) -> Plant {
    Plant { name, breaks, hunt: Hunt::Seeds }
}

const fn directed(name: &'static str, breaks: &'static str, scenario: Scenario) -> Plant {
    Plant { name, breaks, hunt: Hunt::Directed(scenario) }
}

const fn tested(name: &'static str, breaks: &'static str) -> Plant {
    Plant { name, breaks, hunt: Hunt::Test }
}

/// All of `tailway_faults::BUGS`.
const PLANTS: &[Plant] = &[
    plant(
        "agent.doubts_sent_anew",
        "batches in doubt are sent again under a new identity, unlooked for",
    ),
    tested(
        "agent.expired_producer_resent",
        "a batch of a producer that the leader does not remember is sent again, unlooked for",
    ),
    plant("agent.offset_before_ack", "the journal has a batch acknowledged as soon as it is sent"),
    plant("agent.plan_not_saved", "a batch is sent without its plan in the journal"),
    tested(
        "agent.size_trusted_without_hash",
        "after a power cut a file is read on by its size, whatever its bytes are",
    ),
    plant("broker.ack_before_sync", "a flush counts as durable as soon as it is ordered"),
    plant("broker.checkpoint_ahead_of_sync", "the recovery point checkpoint says the log end"),
    plant("broker.clean_marker_kept", "the clean-shutdown marker outlives the start that reads it"),
    plant("broker.commit_before_sync", "an offset commit is answered once it is queued"),
    plant(
        "broker.failed_sync_retried",
        "a failed fdatasync is tried again instead of fencing the log",
    ),
    plant(
        "broker.forward_busy_item_dropped",
        "a record that a sink had no room for counts as delivered",
    ),
    plant(
        "broker.forward_commit_before_delivery",
        "a forwarder commits what it has read, whatever became of it",
    ),
    plant(
        "broker.forward_conflict_is_an_error",
        "a record that the sink has already is a dead letter",
    ),
    plant(
        "broker.forward_doubts_not_looked_up",
        "what may have arrived is sent again, whatever index is written to by now",
    ),
    directed(
        "broker.forward_past_lost_dead_letter",
        "a forwarder passes a record whose dead letter was not written",
        Scenario::LettersWithoutCoordinator,
    ),
    tested("broker.full_disk_acked", "a group that found no room counts as written"),
    tested("broker.group_fenced_singly", "a failed sync fences only the log whose file it was"),
    tested("broker.jumped_clock_believed", "retention goes by whatever the wall clock says"),
    plant(
        "broker.producer_ids_not_saved",
        "producer ids are handed out before they leave the disk",
    ),
    plant("broker.producers_lost_at_roll", "the producer snapshot of a new segment is empty"),
    plant(
        "broker.producers_not_rebuilt",
        "batches behind the last snapshot are not remembered after a restart",
    ),
    tested("broker.quarantine_served", "reads of a quarantined log are answered"),
    plant(
        "broker.recovery_cuts_to_checkpoint",
        "recovery cuts the log to the checkpointed recovery point",
    ),
    plant("broker.recovery_trusts_page_cache", "recovery reads the page cache instead of the disk"),
    plant("broker.recovery_without_crc", "recovery takes a batch whose CRC it has not checked"),
    plant(
        "broker.segment_name_not_synced",
        "a flush ends after the data: a new segment has no durable name",
    ),
    plant("broker.shown_before_sync", "consumers see what is written and not yet durable"),
    tested("broker.syncfs_error_ignored", "a failed syncfs counts as done"),
    tested("broker.syncfs_used_after_error", "syncfs is used again after it failed"),
    plant("broker.unmentioned_deleted", "a start deletes what no image has mentioned yet"),
    plant("client.doubt_told_as_failure", "a send without an answer is reported as not stored"),
    plant("coordinator.entry_acked_before_sync", "a Raft entry is acknowledged before its sync"),
    directed(
        "coordinator.session_by_wall_clock",
        "broker sessions expire by the wall clock",
        Scenario::ClockJumps,
    ),
    directed(
        "coordinator.vote_not_synced",
        "a Raft vote counts before its sync",
        Scenario::CutAsItLeads,
    ),
    tested("storage.journal_bad_crc", "a journal record is taken although its CRC is wrong"),
    plant("storage.replace_name_not_synced", "an atomic replace does not sync the directory"),
    plant("storage.replace_not_synced", "an atomic replace does not sync the file"),
];

/// Bugs of the reference list that wait for what they would be planted in.
const LATER: &[(&str, &str)] = &[
    ("a file unlinked before the ledger is synced", "an agent that removes files"),
    ("truncation to the high watermark, as before KIP-101", "replication"),
    ("the high watermark advances below min.insync.replicas", "replication"),
];

/// A bug that showed.
#[derive(Clone, Debug)]
struct Find {
    seed: u64,
    events: u64,
    text: String,
    scenario: Option<Scenario>,
}

/// Plants a bug and stops at the first seed that finds it. Whether one did.
pub(crate) fn hunt(name: &str, from: u64, seeds: u64) -> Result<bool> {
    let plant = plant_named(name)?;
    let find = search(plant, from, seeds)?;
    println!("{}", told(plant, find.as_ref(), seeds));
    Ok(find.is_some())
}

/// Plants one bug after the other and writes the table of what found them.
pub(crate) fn hunt_all() -> Result<bool> {
    let mut finds = Vec::new();
    for plant in PLANTS {
        let find = search(plant, 1, SEEDS)?;
        println!("{}", told(plant, find.as_ref(), SEEDS));
        finds.push(find);
    }
    let path = evidence();
    std::fs::write(&path, table(&finds)?).with_context(|| path.display().to_string())?;
    println!("wrote {}", path.display());
    Ok(PLANTS
        .iter()
        .zip(&finds)
        .all(|(plant, find)| matches!(plant.hunt, Hunt::Test) || find.is_some()))
}

/// What a child process says at its end, for `search`.
pub(crate) fn last_word(verdict: &Verdict) -> String {
    match (verdict.found_at, verdict.violations.first()) {
        (Some(events), Some(violation)) => found(events, violation),
        _ => CLEAN.to_owned(),
    }
}

/// The same for a panic.
pub(crate) fn found(events: u64, text: &str) -> String {
    format!("{FOUND}{events} events: {}", text.lines().next().unwrap_or_default())
}

fn plant_named(name: &str) -> Result<&'static Plant> {
    let known = PLANTS.iter().find(|plant| plant.name == name);
    known.with_context(|| format!("there is no bug `{name}`; there are {:?}", tailway_faults::BUGS))
}

fn search(plant: &Plant, from: u64, seeds: u64) -> Result<Option<Find>> {
    match plant.hunt {
        Hunt::Seeds => search_in(plant, None, from, seeds),
        Hunt::Directed(scenario) => search_in(plant, Some(scenario), from, DIRECTED_SEEDS),
        Hunt::Test => Ok(None),
    }
}

/// The lowest seed that finds it.
fn search_in(
    plant: &Plant,
    scenario: Option<Scenario>,
    from: u64,
    seeds: u64,
) -> Result<Option<Find>> {
    let next = AtomicU64::new(from);
    let end = AtomicU64::new(from + seeds);
    let best: Mutex<Option<Find>> = Mutex::new(None);
    let work = || -> Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some((events, text)) = child(Some(plant.name), scenario, seed)? else { continue };
            // Is it the bug that shows?
            if child(None, scenario, seed)?.is_some() {
                eprintln!("seed {seed} fails without {} as well", plant.name);
                continue;
            }
            end.fetch_min(seed, Ordering::Relaxed);
            let mut best = best.lock().unwrap_or_else(PoisonError::into_inner);
            if best.as_ref().is_none_or(|best| seed < best.seed) {
                *best = Some(Find { seed, events, text, scenario });
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(outcome) => outcome?,
                Err(_) => bail!("a thread that ran seeds has panicked"),
            }
        }
        Ok(())
    })?;
    Ok(best.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs a seed in a process of its own; what it found, if it found something.
fn child(
    bug: Option<&str>,
    scenario: Option<Scenario>,
    seed: u64,
) -> Result<Option<(u64, String)>> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--last-word", "--seed", &seed.to_string()]);
    if let Some(bug) = bug {
        command.args(["--plant", bug]);
    }
    if let Some(scenario) = scenario {
        command.args(["--scenario", scenario.name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
    let mut waited = Duration::ZERO;
    // It says one line, which any pipe holds.
    while process.try_wait()?.is_none() {
        if waited >= SEED_TIMEOUT {
            process.kill()?;
            process.wait()?;
            bail!("{command:?} did not end within {SEED_TIMEOUT:?}");
        }
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    let output = process.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if said == CLEAN {
        return Ok(None);
    }
    let rest = said.strip_prefix(FOUND).and_then(|rest| rest.split_once(" events: "));
    let (events, text) = rest
        .with_context(|| format!("{command:?} ended with {} and said {said:?}", output.status))?;
    Ok(Some((events.parse()?, text.to_owned())))
}

fn told(plant: &Plant, find: Option<&Find>, seeds: u64) -> String {
    match find {
        None if matches!(plant.hunt, Hunt::Test) => {
            format!("{}: not simulated, a test bites", plant.name)
        }
        None => format!("{}: found by nothing in {seeds} seeds", plant.name),
        Some(Find { seed, events, text, scenario }) => {
            let of = scenario.map_or(String::new(), |scenario| format!(" of {}", scenario.name()));
            format!("{}: seed {seed}{of}, {events} events: {text}", plant.name)
        }
    }
}

fn table(finds: &[Option<Find>]) -> Result<String> {
    let mut text = String::from("# Planted bugs\n\n");
    let dirty =
        !said_by("git", &["status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs"])?
            .is_empty();
    write!(
        text,
        "Written by `cargo x sim --plants` on {}, of commit {}{}. Each bug is one guarded line of production code behind the feature\n\
         `faults` (`crates/faults`); the simulation runs seed 1, 2, 3 and so on, {SEEDS} at most, until an invariant objects. A seed that\n\
         fails without the bug as well does not count. `cargo x sim --plant NAME --seed SEED` shows the trace.\n\n\
         | bug | what its line does wrong | found by seed | events until found | what objected |\n| --- | --- | --- | --- | --- |\n",
        said_by("date", &["-u", "+%Y-%m-%d"])?,
        said_by("git", &["rev-parse", "--short=12", "HEAD"])?,
        if dirty { ", with changes that are not committed" } else { "" },
    )?;
    for (plant, find) in PLANTS.iter().zip(finds) {
        let row = match find {
            None if matches!(plant.hunt, Hunt::Test) => continue,
            None => format!("none of {SEEDS} | | **nothing**"),
            Some(Find { seed, events, text, scenario }) => {
                let at = scenario.map_or_else(
                    || seed.to_string(),
                    |scenario| format!("{seed} of the directed scenario `{}`", scenario.name()),
                );
                format!("{at} | {events} | {}", cell(text))
            }
        };
        writeln!(text, "| `{}` | {} | {row} |", plant.name, plant.breaks)?;
    }
    text.push_str("\nThose that a [named test](teeth.md) finds:\n\n| bug | what its line does wrong |\n| --- | --- |\n");
    for plant in PLANTS.iter().filter(|plant| matches!(plant.hunt, Hunt::Test)) {
        writeln!(text, "| `{}` | {} |", plant.name, plant.breaks)?;
    }
    text.push_str("\nThose of the reference list that are not planted yet:\n\n| bug | waits for |\n| --- | --- |\n");
    for (bug, waits_for) in LATER {
        writeln!(text, "| {bug} | {waits_for} |")?;
    }
    Ok(text)
}

/// A violation as a cell of the table.
fn cell(text: &str) -> String {
    let short: String = text.chars().take(TEXT_MAX).collect();
    let dots = if short.len() < text.len() { " ..." } else { "" };
    format!("{}{dots}", short.trim_end().replace('|', "\\|"))
}

fn said_by(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).current_dir(workspace()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    ensure!(output.status.success(), "{program} {args:?} failed: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn evidence() -> PathBuf {
    workspace().join("docs/evidence/planted-bugs.md")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_bug_is_described() {
        let described: Vec<&str> = PLANTS.iter().map(|plant| plant.name).collect();
        assert_eq!(described, tailway_faults::BUGS);
    }

    #[test]
    fn names_of_scenarios_are_those_of_the_command_line() {
        for scenario in Scenario::value_variants() {
            assert_eq!(Scenario::from_str(scenario.name(), false), Ok(*scenario));
        }
    }

    #[test]
    fn a_violation_fits_into_a_cell() {
        assert_eq!(cell("a | b"), "a \\| b");
        assert_eq!(cell(&"x".repeat(TEXT_MAX + 1)), format!("{} ...", "x".repeat(TEXT_MAX)));
    }
}
