//! Power cuts of a broker's and a coordinator's disk under a foreign producer and reader.
//!
//! The data lies on an image of its own, ext4 or xfs. Both programs are stopped (SIGSTOP), `xfs_io -x -c shutdown` keeps
//! everything that is not on the image from ever reaching it, they are killed, the image is mounted anew, and they start.
//! They are stopped first because a power cut stops programs too, and because Linux 6.18 answers an fdatasync that meets the
//! shutdown with success now and then: a loop of write and fdatasync, and nothing else, loses what it was told is durable.
//!
//! The clients live through all cuts, and the checker of histories judges what they saw: every acknowledged record is there at
//! the end, where it was acknowledged; and what the reader was given between two cuts is still there, so that nothing was shown
//! which the disk did not have.

#![allow(clippy::print_stdout, reason = "says what was seen")]

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::mounts::Mount;
use super::{Bench, text};
use crate::deployment::Deployment;
use crate::group::{Check, need};
use crate::kcat::Transport;
use crate::process::{Process, Signal, finish, wait_until};
use crate::programs::Programs;
use crate::python;

pub const CHECKS: &[Check] = &[
    ("three power cuts of ext4: what was acknowledged or shown is there", || cuts("ext4", 3, 1)),
    ("three power cuts of xfs: what was acknowledged or shown is there", || cuts("xfs", 3, 1)),
];

const TOPIC: &str = "history";
const PARTITIONS: u32 = 4;
/// Sends per second.
const RATE: &str = "400";
/// Acknowledged sends per cut below which it shows too little.
const ACKED_PER_CUT_MIN: usize = 50;
/// How long the broker runs before a cut, milliseconds.
const RUN_MS: std::ops::Range<u64> = 300..2_000;
const PATIENCE: Duration = Duration::from_mins(1);

/// What `cargo x power-cuts` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct PowerCutsArgs {
    /// How many, half of them on each file system.
    #[arg(long, default_value_t = 200)]
    pub cuts: u64,
    /// Of the moments.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Many cuts, for evidence.
pub fn run(args: &PowerCutsArgs) -> Result<()> {
    cuts("ext4", args.cuts / 2, args.seed)?;
    cuts("xfs", args.cuts - args.cuts / 2, args.seed)
}

fn cuts(kind: &str, count: u64, seed: u64) -> Result<()> {
    need("python3", "python3 python3-venv")?;
    let mut dir = tempfile::Builder::new().prefix("power-cuts-").tempdir()?;
    let result = cut_all(kind, count, seed, dir.path());
    if result.is_err() {
        dir.disable_cleanup(true);
        println!("what is left of the run: {}", dir.path().display());
    }
    result
}

fn cut_all(kind: &str, count: u64, seed: u64, dir: &Path) -> Result<()> {
    let mount = Mount::image(kind, dir, "4G")?;
    let input = dir.join("unused.log");
    fs::write(&input, "")?;
    let mut deployment = Deployment::export(&dir.join("run"), &[text(&input)?])?;
    for daemon in ["coordinator", "broker"] {
        deployment.move_data(daemon, &mount.at.join(daemon))?;
        deployment.start_daemon(daemon)?;
    }
    // Segments of a second or two, so that cuts hit their beginnings.
    Bench::create(&deployment, TOPIC, PARTITIONS, &["segment.bytes=65536"])?;
    let clients = [
        client(&deployment, dir, "confluent-producer", &["produce", "1", RATE])?,
        client(&deployment, dir, "confluent-reader", &["assign"])?,
    ];
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut acks = Acks { history: clients[0].1.clone(), read: 0, count: 0 };
    for cut in 0..count {
        sleep(Duration::from_millis(rng.gen_range(RUN_MS)));
        let enough = acks.count + ACKED_PER_CUT_MIN;
        wait_until(PATIENCE, || Ok(acks.count()? >= enough)).with_context(|| {
            format!("cut {cut}: nothing is acknowledged:\n{}", clients[0].0.tail())
        })?;
        for daemon in ["broker", "coordinator"] {
            freeze(deployment.process(daemon)?)?;
        }
        mount.cut_power()?;
        for daemon in ["broker", "coordinator"] {
            deployment.kill_daemon(daemon)?;
        }
        mount.mount_again()?;
        for daemon in ["coordinator", "broker"] {
            deployment.start_daemon(daemon).with_context(|| format!("after cut {cut}"))?;
        }
    }
    sleep(Duration::from_secs(1));
    for (process, _) in &clients {
        process.signal(Signal::TERM)?;
    }
    for (process, _) in clients {
        let tail = process.tail();
        let status = process.wait(PATIENCE)?;
        ensure!(status.success(), "a client ended with {status}:\n{tail}");
    }
    let drain = dir.join("drain.jsonl");
    let args = ["drain", text(&drain)?, "drain", TOPIC, "4", "120"];
    python::script("confluent_history.py", &deployment.dev, Transport::Plaintext, &args)?;
    let mut command = Command::new(Programs::built()?.path("tailway-history")?);
    let files = ["confluent-producer.jsonl", "confluent-reader.jsonl", "drain.jsonl"];
    command.args(files.map(|name| dir.join(name)));
    let output = finish(&mut command, PATIENCE)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the histories are not clean:\n{said}");
    println!(
        "       {kind}, seed {seed}: {count} cuts, {} records acknowledged before the last\n{said}",
        acks.count
    );
    // In the order that frees the mount.
    for daemon in ["broker", "coordinator"] {
        deployment.stop_daemon(daemon)?;
    }
    drop(mount);
    Ok(())
}

/// SIGSTOP, until no thread runs our code any more; one within a system call stays in it.
fn freeze(process: &Process) -> Result<()> {
    process.signal(Signal::STOP)?;
    wait_until(Duration::from_secs(5), || {
        for task in fs::read_dir(format!("/proc/{}/task", process.pid()))? {
            let stat = fs::read_to_string(task?.path().join("stat"))?;
            let (_, rest) = stat.rsplit_once(") ").context("no state")?;
            if !rest.starts_with(['T', 'D']) {
                return Ok(false);
            }
        }
        Ok(true)
    })
    .context("a process does not stop")
}

/// How many sends the producer has had acknowledged so far.
struct Acks {
    history: PathBuf,
    read: u64,
    count: usize,
}

impl Acks {
    /// Counts on in what was written since.
    fn count(&mut self) -> Result<usize> {
        let mut file = File::open(&self.history)?;
        file.seek(SeekFrom::Start(self.read))?;
        let mut new = String::new();
        file.read_to_string(&mut new)?;
        let (whole, _) = new.rsplit_once('\n').unwrap_or_default();
        self.count += whole.lines().filter(|line| line.contains("\"type\": \"ok\"")).count();
        self.read += if whole.is_empty() { 0 } else { whole.len() as u64 + 1 };
        Ok(self.count)
    }
}

fn client(
    deployment: &Deployment,
    dir: &Path,
    name: &'static str,
    args: &[&str],
) -> Result<(Process, PathBuf)> {
    let history = dir.join(format!("{name}.jsonl"));
    let mut command =
        python::command("confluent_history.py", &deployment.dev, Transport::Plaintext)?;
    let (mode, rest) = args.split_first().context("a mode")?;
    let partitions = PARTITIONS.to_string();
    command.args([mode, text(&history)?, name, TOPIC, &partitions, "3600"]).args(rest);
    Ok((Process::start(name, &mut command, &dir.join(format!("{name}.log")))?, history))
}
