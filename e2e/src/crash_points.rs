//! Every crash point of every daemon: the process ends there while it works, starts again without, and kcat finds each line
//! exactly once.
//!
//! The points are those that `crates/faults` lists, in programs built with them. One deployment lives through all: a writer
//! appends and rotates, one daemon at a time is started with `TAILWAY_CRASH_AT`, and works until it ends at the point, at a
//! hit that the seed chooses. Bounds are made small so that logs roll, journals are written anew and the coordinator takes
//! snapshots all the time. A point at which no process ended fails the run, and so does one that the list does not have.

#![allow(clippy::print_stdout, reason = "prints what was seen")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::checks::text;
use crate::deployment::{DAEMONS, Deployment, http_get};
use crate::group::need;
use crate::lines::{self, Verdict};
use crate::process::{Process, finish, run, wait_until};
use crate::programs::{Programs, repository};
use crate::torture::verdict;

const TOPIC: &str = "logs";
const FILES: usize = 2;
/// Lines of one file between two rotations.
const ROTATE_EVERY: usize = 600;
/// Lines per file and step of the work.
const STEP: usize = 12;
const PAUSE: Duration = Duration::from_millis(25);
/// How long a daemon works towards its point.
const REACH: Duration = Duration::from_secs(12);
const SETTLE: Duration = Duration::from_secs(40);
const BOUNDS: &str =
    "agent.journal_rewrite_bytes:12000,broker.syncfs_from_files:2,coordinator.snapshot_every:4";
/// Operations of the disk that a daemon never does.
const NEVER: [(&str, &str); 4] = [
    ("agent", "storage.remove"),
    ("agent", "storage.sync_filesystem"),
    ("coordinator", "storage.remove"),
    ("coordinator", "storage.sync_filesystem"),
];

/// What to run.
#[derive(Clone, Debug, clap::Args)]
pub struct CrashPointsArgs {
    /// Chooses at which hit each process ends.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How often each point is armed, at a later hit each time.
    #[arg(long, default_value_t = 2)]
    pub hits: u32,
    /// Only points whose `daemon point` contains one of these words.
    pub words: Vec<String>,
}

/// A daemon and a point.
type Pair = (&'static str, String);

/// Ends a process at every point; fails unless everything is exact afterwards and every point was reached.
pub fn run_all(args: &CrashPointsArgs) -> Result<()> {
    need("kcat", "kcat")?;
    let pairs = pairs(&args.words)?;
    let dir = tempfile::Builder::new().prefix("crash-points-").tempdir()?;
    let mut bench = Bench::start(dir.path())?;
    let result = bench.all(args, &pairs);
    if result.is_err() {
        println!("what is left of the run: {}", dir.keep().display());
    }
    result
}

/// The list as it stands in the source: nothing of ours is linked here.
pub fn listed() -> Result<Vec<String>> {
    let source = fs::read_to_string(repository().join("crates/faults/src/lib.rs"))?;
    let list = source.split_once("pub const CRASHES: &[&str] = &[").context("no list of points")?.1;
    let (list, _) = list.split_once("];").context("no end of the list")?;
    let points: Vec<String> = list.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    ensure!(!points.is_empty(), "the list of points is empty");
    Ok(points)
}

fn pairs(words: &[String]) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for point in listed()? {
        let (owner, _) = point.split_once('.').with_context(|| point.clone())?;
        let never =
            |daemon| NEVER.iter().any(|(who, what)| *who == daemon && point.starts_with(what));
        let before = pairs.len();
        for daemon in DAEMONS {
            if owner == daemon || (owner == "storage" && !never(daemon)) {
                pairs.push((daemon, point.clone()));
            }
        }
        ensure!(pairs.len() > before, "no daemon has the point {point}");
    }
    if !words.is_empty() {
        let wanted = |(daemon, point): &Pair| {
            let name = format!("{daemon} {point}");
            words.iter().any(|word| name.contains(word.as_str()))
        };
        pairs.retain(wanted);
    }
    ensure!(!pairs.is_empty(), "no point is named like {words:?}");
    Ok(pairs)
}

struct Bench {
    deployment: Deployment,
    logs: PathBuf,
    outputs: Vec<File>,
    /// Lines per file so far.
    number: usize,
    generation: usize,
    topics: usize,
}

impl Bench {
    fn start(dir: &Path) -> Result<Self> {
        let programs = Programs::armed()?;
        let logs = dir.join("logs");
        fs::create_dir(&logs)?;
        let pattern = logs.join("app-*.log*");
        let mut deployment = Deployment::export_of(programs, &dir.join("run"), &[text(&pattern)?])?;
        deployment.set_environment("TAILWAY_BOUNDS", BOUNDS);
        deployment.start_daemon("coordinator")?;
        deployment.start_daemon("broker")?;
        let mut bench =
            Self { deployment, logs, outputs: Vec::new(), number: 0, generation: 0, topics: 0 };
        let mut create = bench.tailway(&["topic", "create", TOPIC])?;
        run(create.args(["--config", "segment.bytes=4096"]), SETTLE)?;
        bench.deployment.start_daemon("agent")?;
        bench.open_files()?;
        Ok(bench)
    }

    fn tailway(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(Programs::armed()?.path("tailway")?);
        command.args(args).args(["--bootstrap", self.deployment.dev.plaintext()?]);
        Ok(command)
    }

    fn all(&mut self, args: &CrashPointsArgs, pairs: &[Pair]) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(args.seed);
        let begin = Instant::now();
        let mut reached: BTreeMap<&Pair, Vec<u64>> = BTreeMap::new();
        println!("seed {}", args.seed);
        for round in 0..args.hits {
            for pair in pairs {
                let later = u64::from(round) * 4;
                let hit = rng.gen_range(1 + later.min(1)..=2 + later);
                for hit in [hit, 1] {
                    let (daemon, point) = pair;
                    let ended = self.case(daemon, point, hit);
                    let what = || format!("seed {}: {daemon} at {point}, hit {hit}", args.seed);
                    if ended.with_context(what)? {
                        reached.entry(pair).or_default().push(hit);
                        break;
                    }
                    println!("{daemon} {point}: no hit {hit} within {REACH:?}");
                }
            }
        }
        let missed: BTreeSet<&Pair> =
            pairs.iter().filter(|pair| !reached.contains_key(pair)).collect();
        let ends: usize = reached.values().map(Vec::len).sum();
        println!(
            "{ends} ends at {} points of {} daemons, {} lines once each after every one, {} s",
            reached.len(),
            DAEMONS.len(),
            self.number * FILES,
            begin.elapsed().as_secs()
        );
        ensure!(missed.is_empty(), "points that no process reached: {missed:?}");
        Ok(())
    }

    /// Whether the daemon ended at the point; in any case everything is exact afterwards.
    fn case(&mut self, daemon: &'static str, point: &str, hit: u64) -> Result<bool> {
        self.deployment.kill_daemon(daemon)?;
        let log = self.deployment.dir.join(format!("{daemon}.log"));
        let mut command = self.deployment.command(daemon)?;
        command.env("TAILWAY_CRASH_AT", format!("{point}:{hit}"));
        let before = fs::read_to_string(&log)?.len();
        let mut process = Process::start(daemon, &mut command, &log)?;
        let end = Instant::now() + REACH;
        let mut ended = process.has_exited()?;
        while !ended && Instant::now() < end {
            self.work(daemon)?;
            sleep(PAUSE);
            ended = process.has_exited()?;
        }
        if ended {
            let status = process.wait(Duration::from_secs(1))?;
            let said = fs::read_to_string(&log)?.split_off(before);
            // A point that can also fail stands in the list without `.before`.
            let bare = point.strip_suffix(".before").unwrap_or(point);
            ensure!(
                status.signal() == Some(6)
                    && said.contains(&format!("crash at the armed point {bare}")),
                "it ended otherwise ({status}):\n{said}"
            );
        } else {
            process.kill()?;
        }
        self.deployment.start_daemon(daemon)?;
        self.exact()?;
        Ok(ended)
    }

    /// A few lines, a rotation now and then, and for the coordinator something to write down.
    fn work(&mut self, daemon: &str) -> Result<()> {
        for index in 0..FILES {
            let mut text = String::new();
            for number in self.number..self.number + STEP {
                text += &lines::line(index, self.generation, number);
                text.push('\n');
            }
            self.outputs[index].write_all(text.as_bytes())?;
        }
        self.number += STEP;
        if self.number.is_multiple_of(ROTATE_EVERY) {
            for index in 0..FILES {
                let path = self.path(index);
                fs::rename(&path, path.with_extension(format!("log.{}", self.generation)))?;
            }
            self.generation += 1;
            self.open_files()?;
        }
        if daemon == "coordinator" {
            self.topics += 1;
            let name = format!("made-{}", self.topics);
            // While the coordinator is down this fails, as it should.
            finish(&mut self.tailway(&["topic", "create", &name])?, SETTLE)?;
        }
        Ok(())
    }

    fn path(&self, index: usize) -> PathBuf {
        self.logs.join(format!("app-{index}.log"))
    }

    fn open_files(&mut self) -> Result<()> {
        let open = |index| {
            let path = self.path(index);
            File::options()
                .create_new(true)
                .append(true)
                .open(&path)
                .context(path.display().to_string())
        };
        self.outputs = (0..FILES).map(open).collect::<Result<_>>()?;
        Ok(())
    }

    /// Waits until the agent has delivered everything; then kcat must find each line once, in order.
    fn exact(&self) -> Result<()> {
        let lines = self.number * FILES;
        let broker = self.deployment.dev.plaintext()?;
        let mut last = (Verdict::default(), Vec::new());
        let settled = wait_until(SETTLE, || {
            let Ok((200, body)) = http_get(self.deployment.admin("agent"), "/status") else {
                return Ok(false);
            };
            let status: serde_json::Value = serde_json::from_str(&body)?;
            let idle = ["behind", "spool_bytes", "plans_open"];
            if idle.iter().any(|name| status["shipper"][name] != 0) {
                return Ok(false);
            }
            last = verdict::read(broker, TOPIC, FILES, lines)?;
            Ok(last.0.lost == 0 || last.0.repeated > 0)
        });
        settled.with_context(|| format!("not delivered: {last:?}"))?;
        ensure!(verdict::is_exact(&last.0, lines), "not exactly once: {last:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_point_has_a_daemon() {
        let pairs = pairs(&[]).unwrap();
        for point in listed().unwrap() {
            assert!(pairs.iter().any(|(_, of)| *of == point), "{point}");
        }
        assert!(super::pairs(&["no such point".into()]).is_err());
    }
}
