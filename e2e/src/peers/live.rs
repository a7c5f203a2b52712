//! A file that grows at a fixed rate: how long from the append of a line until the broker has it, by the broker's clock in the
//! record (`message.timestamp.type=LogAppendTime`), read by kcat. And what ten thousand idle files cost.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};

use super::meter::{self, Cost, Metered};
use super::shippers::{Follower, agent, rsyslog};
use super::subject::Subject;
use super::{Options, progress};
use crate::kcat::Transport;
use crate::process::run;
use crate::programs::Programs;

const TOPIC: &str = "live";
const RATE: u64 = 10_000;
/// Lines at once, as a program that flushes each millisecond writes them.
const BURST: u64 = 10;
const PATIENCE: Duration = Duration::from_mins(2);
/// For the shipper to find the file.
const SETTLE: Duration = Duration::from_secs(3);
const IDLE_FILES: usize = 10_000;
const IDLE_SETTLE: Duration = Duration::from_secs(20);
const IDLE_OVER: Duration = Duration::from_secs(30);

/// One shipper's times.
pub struct Live {
    pub name: String,
    pub p50_ms: i64,
    pub p99_ms: i64,
    pub max_ms: i64,
    pub cpu_percent: f64,
}

/// What idle files cost the agent.
pub struct Idle {
    pub cpu_percent: f64,
    pub descriptors: usize,
    pub rss_mib: f64,
}

/// The agent and rsyslog behind the same writer, one after the other.
pub fn latencies(options: &Options, broker: &Subject, dir: &Path) -> Result<Vec<Live>> {
    let mut rows = Vec::new();
    for (name, format) in [("tailway-agent, raw, zstd, TLS", Some("raw")), ("rsyslog", None)] {
        progress(&format!("{RATE} lines/s through {name}"));
        rows.push(latency(options, broker, dir, name, format).with_context(|| name.to_owned())?);
    }
    Ok(rows)
}

fn latency(
    options: &Options,
    broker: &Subject,
    dir: &Path,
    name: &str,
    format: Option<&'static str>,
) -> Result<Live> {
    let scratch = dir.join("live");
    std::fs::create_dir_all(&scratch)?;
    let address = &broker.endpoint(Transport::Plaintext).address;
    let mut create = Command::new(Programs::built()?.path("tailway")?);
    create.args(["topic", "create", TOPIC, "--partitions", "1", "--bootstrap", address]);
    run(create.args(["--config", "message.timestamp.type=LogAppendTime"]), PATIENCE)?;
    let input = scratch.join("live.log");
    File::create(&input)?;
    let mut command = if let Some(format) = format {
        let follower = Follower { topic: TOPIC, format, codec: "zstd", transport: Transport::Tls };
        agent(broker, &scratch, &input, follower)?
    } else {
        rsyslog(&scratch, address, TOPIC, "zstd", &input)
    };
    let shipper = Metered::start(&mut command, Stdio::null(), &scratch.join("shipper.log"))?;
    std::thread::sleep(SETTLE);
    let before = shipper.cost()?;
    let lines = RATE * options.seconds * 2;
    write_live(&input, lines)?;
    let after = shipper.cost()?;
    let mut delays = delays(broker, lines)?;
    shipper.stop(Duration::from_secs(20))?;
    broker.delete_topic(TOPIC)?;
    std::fs::remove_dir_all(&scratch)?;
    delays.sort_unstable();
    let rank = |per_mille: usize| delays[(delays.len() * per_mille).div_ceil(1_000).max(1) - 1];
    let (p50_ms, p99_ms, max_ms) = (rank(500), rank(990), rank(1_000));
    Ok(Live { name: name.into(), p50_ms, p99_ms, max_ms, cpu_percent: percent(before, after) })
}

fn percent(before: Cost, after: Cost) -> f64 {
    100.0 * (after.cpu_seconds - before.cpu_seconds) / (after.seconds - before.seconds)
}

/// Each line begins with the milliseconds of its append.
fn write_live(path: &Path, lines: u64) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let begun = Instant::now();
    let (filler, mut text) = ("x".repeat(180), Vec::new());
    for burst in 0..lines / BURST {
        let due = Duration::from_micros(burst * BURST * 1_000_000 / RATE);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        text.clear();
        for n in burst * BURST..(burst + 1) * BURST {
            writeln!(text, "{now} {n} {filler}")?;
        }
        file.write_all(&text)?;
    }
    Ok(())
}

/// Milliseconds from each line's own time to the time that the broker gave its record.
fn delays(broker: &Subject, lines: u64) -> Result<Vec<i64>> {
    let begun = Instant::now();
    loop {
        let mut kcat = Command::new("kcat");
        kcat.args(["-C", "-q", "-e", "-o", "beginning", "-t", TOPIC, "-f", "%T %s\\n"]);
        kcat.args(["-b", &broker.endpoint(Transport::Plaintext).address]);
        let said = run(&mut kcat, PATIENCE)?;
        let delays: Option<Vec<i64>> = said.lines().map(delay).collect();
        let delays = delays.context("kcat printed lines of another form")?;
        if delays.len() as u64 == lines {
            return Ok(delays);
        }
        if begun.elapsed() > PATIENCE {
            bail!("{} of {lines} lines arrived", delays.len());
        }
    }
}

fn delay(line: &str) -> Option<i64> {
    let mut words = line.split(' ');
    let stored: i64 = words.next()?.parse().ok()?;
    let appended: i64 = words.next()?.parse().ok()?;
    Some(stored - appended)
}

/// The agent among ten thousand files that nobody writes to.
pub fn idle(broker: &Subject, dir: &Path) -> Result<Idle> {
    progress(&format!("{IDLE_FILES} idle files"));
    let scratch = dir.join("idle");
    let files = scratch.join("files");
    std::fs::create_dir_all(&files)?;
    for n in 0..IDLE_FILES {
        std::fs::write(files.join(format!("{n}.log")), "one line\n")?;
    }
    broker.create_topic(TOPIC, 1)?;
    let follower =
        Follower { topic: TOPIC, format: "ecs", codec: "zstd", transport: Transport::Tls };
    let mut command = agent(broker, &scratch, &files.join("*.log"), follower)?;
    let agent = Metered::start(&mut command, Stdio::null(), &scratch.join("agent.log"))?;
    std::thread::sleep(IDLE_SETTLE);
    let address = &broker.endpoint(Transport::Plaintext).address;
    let ends = run(
        Command::new("kcat").args(["-Q", "-b", address, "-t", &format!("{TOPIC}:0:-1")]),
        PATIENCE,
    )?;
    ensure!(
        ends.trim().ends_with(&format!("offset {IDLE_FILES}")),
        "the lines of {IDLE_FILES} files are not all there: {ends}"
    );
    let before = agent.cost()?;
    std::thread::sleep(IDLE_OVER);
    let after = agent.cost()?;
    let idle = Idle {
        cpu_percent: percent(before, after),
        descriptors: meter::descriptors(agent.pid())?,
        rss_mib: after.peak_rss_mib,
    };
    agent.stop(Duration::from_secs(20))?;
    broker.delete_topic(TOPIC)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(idle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_the_records_time_less_the_lines() {
        assert_eq!(delay("1000 990 5 xxx"), Some(10));
        assert_eq!(delay("1000 x"), None);
    }
}
