//! Torture: kill -9 of agent, broker and coordinator under a running writer, then the verdict of kcat: each numbered line once,
//! in order per file.
//!
//! `writer` is a process of its own, `nemesis` says who is killed when, `stage` holds what is killed (Tailway's three, or an
//! agent and a real Kafka), `agent_log` tells what the agent did about batches in doubt, `verdict` reads the topic. A run
//! fails when a line is lost, repeated, foreign or out of order; when fewer kills were made than asked, or one fell behind the
//! writer's end; when fewer than 30 % of the agent's kills hit open plans; and when the writer rotated or deleted nothing.

#![allow(clippy::print_stdout, reason = "prints the verdict")]

pub mod agent_log;
pub mod nemesis;
mod options;
pub mod report;
pub mod stage;
pub mod verdict;
pub mod writer;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::checks::text;
use crate::deployment::http_get;
use crate::group::need;
use crate::process::{self, Process, Signal};
use crate::programs::Programs;
use nemesis::Kill;
pub use options::TortureArgs;
use report::Report;
use stage::{Part, Stage, TOPIC};
use writer::Written;

const FILES: usize = 8;
/// The kills end so long before the writer does.
const LAST: Duration = Duration::from_secs(3);
/// The writer waits for a dead agent now and then before it deletes, so it may end later than it is told.
const WRITER_PATIENCE: Duration = Duration::from_mins(2);
const SETTLE: Duration = Duration::from_mins(3);
/// Of a hundred kills of the agent, how many at least must hit open plans.
const OPEN_PERCENT_MIN: usize = 30;
/// Configurations of the pipeline to change between, with `--change-config`: key and value for each.
const CHANGES: [&[(&str, &str)]; 4] = [
    &[("compression", "zstd"), ("batch_size", "512KiB"), ("name", "''")],
    &[("compression", "lz4"), ("batch_size", "64KiB"), ("name", "another-name")],
    &[("compression", "gzip"), ("batch_size", "200KiB"), ("beat_version", "8.17.0")],
    &[("compression", "none"), ("linger", "20ms"), ("name", "a-third-name")],
];

/// One run; prints the report and fails if anything is not as it should be.
pub fn run(args: TortureArgs) -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::Builder::new().prefix("torture-").tempdir()?;
    let result = tortured(&args, dir.path());
    if result.is_err() {
        println!("what is left of the run: {}", dir.keep().display());
    }
    result
}

fn tortured(args: &TortureArgs, dir: &Path) -> Result<()> {
    let plant = args.plant();
    let programs = if plant.is_some() { Programs::armed()? } else { Programs::built()? };
    let mut version = Command::new(programs.path("tailway-agent")?);
    let version = process::run(version.arg("--version"), Duration::from_secs(10))?;
    let begin = Instant::now();
    let (logs, run) = (dir.join("logs"), dir.join("run"));
    std::fs::create_dir(&logs)?;
    let pattern = logs.join("app-*.log*");
    let mut stage = if args.is_kafka() {
        Stage::kafka(programs, dir, text(&pattern)?, plant, &args.kafka_properties())?
    } else {
        Stage::tailway(programs, &run, text(&pattern)?, plant)?
    };
    let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
    let span = args.span();
    let kills = nemesis::schedule(&mut rng, args.kills, span.saturating_sub(LAST), args.is_kafka());
    let mut torture =
        Torture { args, stage: &mut stage, made: BTreeMap::new(), log_at: Vec::new() };
    let mut writer = start_writer(args, &logs, torture.stage, &dir.join("writer.out"))?;
    let started = Instant::now();
    for (index, kill) in kills.iter().enumerate() {
        sleep((started + kill.at).saturating_duration_since(Instant::now()));
        ensure!(
            !writer.has_exited()?,
            "the writer ended before kill {index} of {}: {}; use more --minutes",
            args.kills,
            writer.tail()
        );
        torture.strike(kill).with_context(|| format!("kill {index}: {kill:?}"))?;
    }
    let (made, log_at) = (torture.made, torture.log_at);
    let out = dir.join("writer.out");
    let ended = writer.wait(WRITER_PATIENCE + span);
    let status = ended.with_context(|| {
        let said = http_get(stage.deployment.admin("agent"), "/status");
        format!("it waits until the agent's /status has a file delivered; there stands {said:?}")
    })?;
    let said = std::fs::read_to_string(&out)?;
    ensure!(status.success(), "the writer ended with {status}: {said}");
    let written: Written = serde_json::from_str(said.trim()).with_context(|| said.clone())?;
    let settled = stage.settle(SETTLE);
    let (verdict, odd) = judged(&stage, args)?;
    let log = std::fs::read_to_string(stage.deployment.dir.join("agent.log"))?;
    let report = Report {
        program: version.trim().to_owned(),
        seed: args.seed,
        broker: args.describe(),
        plant: plant.map(str::to_owned),
        kills_asked: args.kills,
        kills_made: kills.len(),
        killed: made.iter().map(|(part, count)| (part.name(), *count)).collect(),
        resolved: agent_log::read(&log, &log_at)?,
        written,
        verdict,
        odd,
        seconds: begin.elapsed().as_secs(),
    };
    println!("{report}");
    report.judge(args.lines / FILES * FILES, OPEN_PERCENT_MIN)?;
    settled?;
    if let Some(path) = &args.evidence {
        report.append_to(path)?;
    }
    stage.deployment.stop()
}

/// Reads and judges; again for a while where lines are missing, because a reader may be too early.
fn judged(stage: &Stage, args: &TortureArgs) -> Result<(crate::lines::Verdict, Vec<String>)> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let read = verdict::read(stage.bootstrap()?, TOPIC, FILES, args.lines)?;
        let late = read.0.lost > 0 && read.0.repeated == 0 && args.plant().is_none();
        if !late || Instant::now() > until {
            return Ok(read);
        }
        sleep(Duration::from_secs(2));
    }
}

fn start_writer(args: &TortureArgs, logs: &Path, stage: &Stage, out: &Path) -> Result<Process> {
    let each = args.lines / FILES;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("write-lines").arg("--dir").arg(logs);
    for (name, value) in [
        ("--seed", args.seed),
        ("--files", FILES as u64),
        ("--lines", (each * FILES) as u64),
        ("--seconds", args.span().as_secs()),
        ("--rotate-every", (each / 20).max(50) as u64),
    ] {
        command.args([name, &value.to_string()]);
    }
    command.args(["--agent", stage.deployment.admin("agent")]);
    Process::start("writer", &mut command, out)
}

struct Torture<'a> {
    args: &'a TortureArgs,
    stage: &'a mut Stage,
    made: BTreeMap<Part, usize>,
    /// How long the agent's log was at each of its kills.
    log_at: Vec<usize>,
}

impl Torture<'_> {
    fn strike(&mut self, kill: &Kill) -> Result<()> {
        if let Some(stall) = kill.stall {
            self.stage.signal_broker(Signal::STOP)?;
            sleep(stall);
        }
        for part in &kill.victims {
            self.stage.kill(*part)?;
            *self.made.entry(*part).or_default() += 1;
            if *part == Part::Agent {
                let log = self.stage.deployment.dir.join("agent.log");
                self.log_at.push(usize::try_from(std::fs::metadata(log)?.len())?);
            }
        }
        let agent_died = kill.victims.contains(&Part::Agent);
        let broker_lives = !kill.victims.contains(&Part::Broker);
        if kill.stall.is_some() && broker_lives && kill.stall_on.is_none() {
            self.stage.signal_broker(Signal::CONT)?;
        }
        sleep(kill.down);
        // In the order in which they need each other.
        for part in [Part::Coordinator, Part::Broker] {
            if kill.victims.contains(&part) {
                self.stage.start(part)?;
            }
        }
        if agent_died {
            if self.args.expire_producers {
                self.resume_broker(kill)?;
                self.stage.producers_expired()?;
            }
            if self.args.change_config {
                self.change_config(kill.change)?;
            }
            self.stage.start(Part::Agent)?;
        }
        if !self.args.expire_producers {
            sleep(kill.stall_on.unwrap_or_default());
            self.resume_broker(kill)?;
        }
        Ok(())
    }

    fn resume_broker(&self, kill: &Kill) -> Result<()> {
        if kill.stall_on.is_some() { self.stage.signal_broker(Signal::CONT) } else { Ok(()) }
    }

    /// Another codec, batch size or field of each event than before the kill.
    fn change_config(&self, chosen: usize) -> Result<()> {
        let path = self.stage.deployment.dir.join("agent.yaml");
        let mut config = std::fs::read_to_string(&path)?;
        for (key, value) in CHANGES[chosen % CHANGES.len()] {
            let line = config.lines().find(|line| line.trim().starts_with(&format!("{key}:")));
            let line = line.with_context(|| format!("no {key} in {}", path.display()))?.to_owned();
            let (indent, _) = line.split_once(key).context("a key")?;
            config = config.replacen(&line, &format!("{indent}{key}: {value}"), 1);
        }
        Ok(std::fs::write(&path, config)?)
    }
}
