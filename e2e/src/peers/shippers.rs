//! The agent beside rsyslog's imfile + omkafka and `cat FILE | kcat -P`: one file, one broker (ours), shippers on the other
//! core.
//!
//! Cost is user and system time of the shipper per GB of input lines, from its start until every line is in the topic.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::meter::{self, CLIENT_CORE, Metered, median};
use super::subject::Subject;
use super::{Options, progress};
use crate::kcat;
use crate::kcat::Transport;
use crate::process::wait_until;
use crate::programs::{Programs, repository};

const PARTITIONS: u32 = 6;
const LINE_BYTES: usize = 200;
const PATIENCE: Duration = Duration::from_mins(5);
/// The agent's batches, and so the blocks that zstd alone is given.
const BATCH: &str = "512KiB";
const BATCH_BYTES: usize = 512 << 10;

/// One row: medians.
pub struct Shipped {
    pub name: String,
    pub cpu_per_gb: f64,
    pub mb_s: f64,
    pub peak_rss_mib: f64,
}

/// What came out, per GB of input where it says so.
pub struct Shippers {
    pub input_bytes: u64,
    pub rows: Vec<Shipped>,
    /// zstd 1 alone, one thread, over what the agent encoded of each format: seconds per GB of input.
    pub zstd_raw: f64,
    pub zstd_ecs: f64,
}

#[derive(Clone, Copy, Debug)]
enum Shipper {
    Kcat { codec: &'static str },
    Rsyslog { codec: &'static str },
    Agent { format: &'static str, codec: &'static str, transport: Transport },
}

const SHIPPERS: [Shipper; 9] = [
    Shipper::Kcat { codec: "none" },
    Shipper::Kcat { codec: "zstd" },
    Shipper::Rsyslog { codec: "none" },
    Shipper::Rsyslog { codec: "zstd" },
    Shipper::Agent { format: "raw", codec: "none", transport: Transport::Plaintext },
    Shipper::Agent { format: "raw", codec: "zstd", transport: Transport::Plaintext },
    Shipper::Agent { format: "raw", codec: "zstd", transport: Transport::Tls },
    Shipper::Agent { format: "ecs", codec: "none", transport: Transport::Plaintext },
    Shipper::Agent { format: "ecs", codec: "zstd", transport: Transport::Tls },
];

impl Shipper {
    fn name(self) -> String {
        match self {
            Shipper::Kcat { codec } => format!("cat FILE \\| kcat -P, {codec}"),
            Shipper::Rsyslog { codec } => format!("rsyslog imfile + omkafka, {codec}"),
            Shipper::Agent { format, codec, transport } => {
                let tls = if transport == Transport::Tls { ", TLS" } else { "" };
                format!("tailway-agent, {format}, {codec}{tls}")
            }
        }
    }
}

/// Name of the row that a target is about.
pub const RAW_NONE: &str = "tailway-agent, raw, none";
pub const RAW_ZSTD_TLS: &str = "tailway-agent, raw, zstd, TLS";
pub const ECS_ZSTD_TLS: &str = "tailway-agent, ecs, zstd, TLS";
pub const KCAT_NONE: &str = "cat FILE \\| kcat -P, none";

/// Has each ship the same file, round after round.
pub fn ship(options: &Options, broker: &Subject, dir: &Path) -> Result<Shippers> {
    broker.ensure_fit(options.warm_up_bytes())?;
    let input = dir.join("input.log");
    let lines = options.shipped_lines();
    write_lines(&input, lines)?;
    let input_bytes = std::fs::metadata(&input)?.len();
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let gb = input_bytes as f64 / 1e9;
    let mut runs: Vec<Vec<meter::Cost>> = vec![Vec::new(); SHIPPERS.len()];
    for round in 0..options.rounds {
        for (runs, shipper) in runs.iter_mut().zip(SHIPPERS) {
            progress(&format!("round {}: {}", round + 1, shipper.name()));
            let scratch = dir.join(format!("ship-{round}"));
            std::fs::create_dir_all(&scratch)?;
            broker.create_topic(TOPIC, PARTITIONS)?;
            let cost = one(shipper, broker, &input, lines, &scratch);
            runs.push(cost.with_context(|| shipper.name())?);
            broker.delete_topic(TOPIC)?;
            std::fs::remove_dir_all(&scratch)?;
        }
    }
    let rows = SHIPPERS.iter().zip(&runs).map(|(shipper, runs)| {
        let of = |figure: fn(&meter::Cost) -> f64| {
            median(&runs.iter().map(figure).collect::<Vec<f64>>())
        };
        Shipped {
            name: shipper.name(),
            cpu_per_gb: of(|cost| cost.cpu_seconds) / gb,
            mb_s: gb * 1e3 / of(|cost| cost.seconds),
            peak_rss_mib: of(|cost| cost.peak_rss_mib),
        }
    });
    let rows = rows.collect();
    let zstd_raw = zstd_alone(&input, dir)? / gb;
    let encoded = encode_as_ecs(broker, &input, lines, dir)?;
    let zstd_ecs = zstd_alone(&encoded, dir)? / gb;
    std::fs::remove_file(&encoded)?;
    std::fs::remove_file(&input)?;
    Ok(Shippers { input_bytes, rows, zstd_raw, zstd_ecs })
}

const TOPIC: &str = "shipped";

fn one(
    shipper: Shipper,
    broker: &Subject,
    input: &Path,
    lines: u64,
    scratch: &Path,
) -> Result<meter::Cost> {
    let address = &broker.endpoint(Transport::Plaintext).address;
    match shipper {
        Shipper::Kcat { codec } => {
            let mut cat = meter::pinned(CLIENT_CORE, "cat");
            let mut cat = cat.arg(input).stdout(Stdio::piped()).spawn()?;
            let pipe = cat.stdout.take().context("cat has no output")?;
            let mut kcat = meter::pinned(CLIENT_CORE, "kcat");
            kcat.args(["-P", "-b", address, "-t", TOPIC, "-z", codec, "-X", "acks=all"]);
            let kcat = Metered::start(&mut kcat, pipe.into(), &scratch.join("kcat.log"))?;
            let cat_cpu = await_zombie(&cat)?;
            let mut cost = kcat.finish(PATIENCE)?;
            ensure!(cat.wait()?.success(), "cat failed");
            cost.cpu_seconds += cat_cpu;
            ensure_all_there(broker, lines)?;
            Ok(cost)
        }
        Shipper::Rsyslog { codec } => {
            let mut rsyslog = rsyslog(scratch, address, TOPIC, codec, input);
            until_there(broker, &mut rsyslog, lines, &scratch.join("rsyslog.log"))
        }
        Shipper::Agent { format, codec, transport } => {
            let follower = Follower { topic: TOPIC, format, codec, transport };
            let mut agent = agent(broker, scratch, input, follower)?;
            until_there(broker, &mut agent, lines, &scratch.join("agent.log"))
        }
    }
}

/// Processor time of a child at its end, before it is reaped.
fn await_zombie(child: &std::process::Child) -> Result<f64> {
    let stat = format!("/proc/{}/stat", child.id());
    wait_until(PATIENCE, || Ok(std::fs::read_to_string(&stat)?.contains(") Z ")))?;
    meter::cpu_seconds(&[child.id()])
}

/// Starts a shipper that follows the file, and stops it when all is in the topic.
fn until_there(
    broker: &Subject,
    command: &mut Command,
    lines: u64,
    log: &Path,
) -> Result<meter::Cost> {
    let mut shipper = Metered::start(command, Stdio::null(), log)?;
    await_records(broker, TOPIC, lines, &mut shipper, log)?;
    let cost = shipper.cost()?;
    shipper.stop(Duration::from_secs(20))?;
    ensure_all_there(broker, lines)?;
    Ok(cost)
}

/// Waits until the topic has that many records; an error, with what the shipper said, when that takes too long.
pub fn await_records(
    broker: &Subject,
    topic: &str,
    lines: u64,
    shipper: &mut Metered,
    log: &Path,
) -> Result<()> {
    let begun = Instant::now();
    while records(broker, topic)? < lines {
        if shipper.has_exited()? || begun.elapsed() > PATIENCE {
            let (there, took) = (records(broker, topic)?, begun.elapsed());
            let said = std::fs::read_to_string(log).unwrap_or_default();
            bail!("{there} of {lines} lines after {took:?}; it said:\n{said}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn ensure_all_there(broker: &Subject, lines: u64) -> Result<()> {
    let there = records(broker, TOPIC)?;
    ensure!(there == lines, "{there} records in the topic for {lines} lines");
    Ok(())
}

/// Sum of the ends of the topic's partitions, as kcat is told them.
fn records(broker: &Subject, topic: &str) -> Result<u64> {
    let mut kcat = meter::pinned(meter::BROKER_CORE, "kcat");
    kcat.args(["-b", &broker.endpoint(Transport::Plaintext).address]);
    kcat::ends(kcat, topic, PARTITIONS)
}

/// rsyslog's imfile + omkafka, with a state of its own in `scratch`.
pub fn rsyslog(scratch: &Path, broker: &str, topic: &str, codec: &str, input: &Path) -> Command {
    let mut rsyslog = meter::pinned(CLIENT_CORE, repository().join("e2e/anchors/rsyslog"));
    rsyslog.args(["run", "-b", broker, "-t", topic, "-z", codec, "-d"]);
    rsyslog.arg(scratch.join("rsyslog")).arg(input);
    rsyslog
}

/// What an agent does with the lines.
#[derive(Clone, Copy, Debug)]
pub struct Follower {
    pub topic: &'static str,
    pub format: &'static str,
    pub codec: &'static str,
    pub transport: Transport,
}

/// An agent with a state of its own in `scratch`, whose input is a path or a glob.
pub fn agent(
    broker: &Subject,
    scratch: &Path,
    input: &Path,
    follower: Follower,
) -> Result<Command> {
    let Follower { topic, format, codec, transport } = follower;
    let address = &broker.endpoint(transport).address;
    let tls = broker.deployment()?.dir.join("tls");
    let security = match transport {
        Transport::Plaintext => "  insecure: true\n".to_owned(),
        Transport::Tls => {
            let file = |name: &str| tls.join(name).display().to_string();
            format!(
                "  tls:\n    ca: {}\n    cert: {}\n    key: {}\n",
                file("ca.pem"),
                file("agent.pem"),
                file("agent.key")
            )
        }
    };
    let config = format!(
        "agent:\n  data_dir: {}\noutput:\n  brokers: [\"{address}\"]\n  topic: {topic}\n  compression: {codec}\n  \
         batch_size: {BATCH}\n{security}inputs:\n  - type: filestream\n    id: bench\n    paths: [\"{}\"]\n    \
         format: {format}\nmetrics:\n  enabled: false\nadmin:\n  address: 127.0.0.1:19594\n",
        scratch.join("agent").display(),
        input.display()
    );
    let path = scratch.join("agent.yaml");
    std::fs::write(&path, config)?;
    let mut agent = meter::pinned(CLIENT_CORE, Programs::built()?.path("tailway-agent")?);
    agent.arg("--config").arg(path);
    Ok(agent)
}

/// Lines as an application writes them: a time, a level, words; 200 bytes each with their line end.
pub fn write_lines(path: &Path, lines: u64) -> Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    for n in 0..lines {
        let mut line = format!(
            "2026-11-27T10:{:02}:{:02}.{:03}Z INFO  http.server request_id={:016x} method=GET path=/api/v1/items/{} status=200 bytes={} took_ms={} ",
            n / 60_000 % 60,
            n / 1_000 % 60,
            n % 1_000,
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            n % 5_000,
            n.wrapping_mul(7_919) % 65_536,
            n % 97
        );
        while line.len() < LINE_BYTES - 1 {
            line.push_str("agent=\"curl/8.5\" ");
        }
        line.truncate(LINE_BYTES - 1);
        line.push('\n');
        file.write_all(line.as_bytes())?;
    }
    file.flush().map_err(Into::into)
}

/// The values of what the agent makes of the file in ECS, as kcat reads them.
fn encode_as_ecs(broker: &Subject, input: &Path, lines: u64, dir: &Path) -> Result<PathBuf> {
    let scratch = dir.join("ecs");
    std::fs::create_dir_all(&scratch)?;
    broker.create_topic(TOPIC, PARTITIONS)?;
    let follower =
        Follower { topic: TOPIC, format: "ecs", codec: "zstd", transport: Transport::Plaintext };
    let mut agent = agent(broker, &scratch, input, follower)?;
    until_there(broker, &mut agent, lines, &scratch.join("agent.log"))?;
    let path = dir.join("encoded.json");
    let deployment = broker.deployment()?;
    let mut kcat = kcat::command(&deployment.dev, Transport::Plaintext)?;
    kcat.args(["-C", "-q", "-e", "-o", "beginning", "-t", TOPIC]);
    let status = kcat.stdout(File::create(&path)?).stdin(Stdio::null()).status()?;
    ensure!(status.success(), "kcat could not read the encoded lines");
    broker.delete_topic(TOPIC)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(path)
}

/// Seconds of one core that zstd 1 takes for a file in blocks as large as the agent's batches.
fn zstd_alone(path: &Path, dir: &Path) -> Result<f64> {
    let mut zstd = meter::pinned(CLIENT_CORE, "zstd");
    zstd.args(["-b1", "-e1", "-i3", &format!("-B{BATCH_BYTES}"), "--single-thread", "-q"])
        .arg(path);
    let log = dir.join("zstd.log");
    let output = zstd.stdin(Stdio::null()).output()?;
    std::fs::write(&log, [&output.stdout[..], &output.stderr[..]].concat())?;
    let said = std::fs::read_to_string(&log)?;
    let rate =
        zstd_rate(&said).with_context(|| format!("zstd -b1 printed another form:\n{said}"))?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    Ok(std::fs::metadata(path)?.len() as f64 / 1e6 / rate)
}

/// MB/s of compression, from `-1   20363545 (1.327)  555.65 MB/s  1216.5 MB/s  input.log`.
fn zstd_rate(said: &str) -> Option<f64> {
    let line = said.split(['\r', '\n']).rev().find(|line| line.matches("MB/s").count() == 2)?;
    line.split(" MB/s").next()?.rsplit([' ', ',']).next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_long_as_they_are_said_to_be_and_differ() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lines");
        write_lines(&path, 1_000).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().all(|line| line.len() == LINE_BYTES - 1));
        let different: std::collections::BTreeSet<&str> = text.lines().collect();
        assert_eq!(different.len(), 1_000);
    }

    #[test]
    fn the_rate_of_compression_is_read() {
        let said = "bench 1.5.4 : input 27017546 bytes, 1 seconds, 512 KB blocks\n\
                    -1        20363545 (1.327)  555.65 MB/s  1216.5 MB/s  z.txt\n";
        assert_eq!(zstd_rate(said), Some(555.65));
        assert_eq!(zstd_rate("nothing"), None);
    }
}
