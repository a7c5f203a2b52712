//! Processor time per GB of lines on the way into sinks that only count, beside rsyslog's omelasticsearch and omkafka.
//!
//! Two figures of ours: the whole way from the file (agent, broker and coordinator), and the broker's forwarding alone, from
//! a topic that is full already. The sink's own time counts for nobody.

#![allow(clippy::print_stdout, reason = "prints the table")]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::node::free_port;
use super::stage::{Stage, TOPIC};
use crate::checks::text;
use crate::deployment::{DAEMONS, http_get};
use crate::group::need;
use crate::kafka::{Broker, Kafka, NEWEST};
use crate::kcat;
use crate::peers::meter::{self, Metered};
use crate::peers::shippers::write_lines;
use crate::process::{Process, wait_until};
use crate::programs::{Programs, repository};

const PATIENCE: Duration = Duration::from_mins(10);

/// `cargo x bench-sinks`.
#[derive(Clone, Debug, clap::Args)]
pub struct CostArgs {
    /// Lines of 200 bytes.
    #[arg(long, default_value_t = 2_000_000)]
    pub lines: u64,
}

/// What counts.
enum Counter {
    Bulk { _process: Process, port: u16, gzip: bool },
    Kafka(Broker),
}

impl Counter {
    fn bulk(dir: &Path, gzip: bool) -> Result<Self> {
        let mut command = Command::new("python3");
        command.arg(repository().join("e2e/clients/counting_sink.py"));
        let mut process = Process::start("counting_sink.py", &mut command, &dir.join("sink.out"))?;
        wait_until(PATIENCE, || {
            ensure!(!process.has_exited()?, "the sink ended: {}", process.tail());
            Ok(!process.lines().is_empty())
        })?;
        let port = process.lines()[0].parse()?;
        Ok(Self::Bulk { _process: process, port, gzip })
    }

    fn kafka(dir: &Path) -> Result<Self> {
        let broker = Kafka::version(NEWEST).start_broker(&dir.join("kafka"), free_port()?, &[])?;
        let tool = Kafka::version(NEWEST);
        let create = ["--create", "--topic", TOPIC, "--partitions", "3"];
        let at = ["kafka-topics", "--bootstrap-server", broker.address.as_str()];
        tool.tool(&[&at[..], &create].concat())?;
        Ok(Self::Kafka(broker))
    }

    /// How much came, by its own word.
    fn count(&self) -> Result<u64> {
        match self {
            Self::Bulk { port, .. } => {
                Ok(http_get(&format!("127.0.0.1:{port}"), "/count")?.1.trim().parse()?)
            }
            Self::Kafka(broker) => {
                let mut kcat = Command::new("kcat");
                kcat.args(["-b", &broker.address]);
                kcat::ends(kcat, TOPIC, 3)
            }
        }
    }

    fn sink(&self) -> String {
        match self {
            Self::Bulk { port, gzip, .. } => format!(
                "- name: s\n  type: opensearch\n  topics: [{TOPIC}]\n  urls: [\"http://127.0.0.1:{port}\"]\n  \
                 compression: {}\n",
                if *gzip { "gzip" } else { "none" }
            ),
            Self::Kafka(broker) => format!(
                "- name: s\n  type: kafka\n  topics: [{TOPIC}]\n  brokers: [\"{}\"]\n",
                broker.address
            ),
        }
    }

    fn rsyslog(&self, command: &mut Command) {
        match self {
            Self::Bulk { port, .. } => command.args(["-e", &port.to_string()]),
            Self::Kafka(broker) => command.args(["-b", &broker.address, "-t", TOPIC, "-z", "none"]),
        };
    }

    /// How many came, once that is all of them.
    fn until(&self, lines: u64, mut lives: impl FnMut() -> Result<bool>) -> Result<u64> {
        let end = Instant::now() + PATIENCE;
        loop {
            let count = self.count()?;
            if count >= lines {
                return Ok(count);
            }
            ensure!(lives()?, "the shipper ended, and {count} of {lines} came");
            ensure!(Instant::now() < end, "{count} of {lines} came within {PATIENCE:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Prints the table.
pub fn run(args: &CostArgs) -> Result<()> {
    let lines = args.lines;
    for program in ["kcat", "python3", "java", "mvn"] {
        need(program, program)?;
    }
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("app-0.log");
    write_lines(&input, lines)?;
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let gb = std::fs::metadata(&input)?.len() as f64 / 1e9;
    println!("{lines} lines, {gb:.2} GB; seconds of user and system time per GB of lines:");
    for kind in ["opensearch, gzip", "opensearch, not compressed", "kafka"] {
        let scratch = |name: &str| -> Result<std::path::PathBuf> {
            let scratch = dir.path().join(format!("{}-{name}", kind.replace([',', ' '], "-")));
            std::fs::create_dir(&scratch)?;
            Ok(scratch)
        };
        let counter = |dir: &Path| match kind {
            "kafka" => Counter::kafka(dir),
            _ => Counter::bulk(dir, kind.ends_with("gzip")),
        };
        let whole = whole(&scratch("whole")?, &counter, &input, lines)?;
        let [all, agent, broker] = whole.map(|seconds| seconds / gb);
        println!("  {kind}: file to sink {all:.2} (agent {agent:.2}, broker {broker:.2})");
        let alone = alone(&scratch("alone")?, &counter, &input, lines)? / gb;
        println!("  {kind}: forwarding alone {alone:.2}");
        // Debian's omelasticsearch does not compress.
        if !kind.ends_with("gzip") {
            let (seconds, came) = rsyslog(&scratch("rsyslog")?, &counter, &input, lines)?;
            println!("  {kind}: rsyslog, file to sink {:.2} ({came} lines came)", seconds / gb);
        }
    }
    Ok(())
}

type Start<'a> = &'a dyn Fn(&Path) -> Result<Counter>;

/// Agent, broker and coordinator, from the first line to the last at the sink: all, and the first two.
fn whole(dir: &Path, counter: Start<'_>, input: &Path, lines: u64) -> Result<[f64; 3]> {
    let counter = counter(dir)?;
    let mut stage = Stage::start(Programs::built()?, dir, &counter.sink())?;
    std::fs::hard_link(input, stage.logs().join("app-0.log"))?;
    let before = cpu(&stage, &["coordinator", "broker"])?;
    stage.deployment.start_daemon("agent")?;
    exactly(lines, counter.until(lines, || Ok(true))?)?;
    let all = cpu(&stage, &DAEMONS)? - before;
    let parts = [cpu(&stage, &["agent"])?, cpu(&stage, &["broker"])?];
    stage.deployment.stop()?;
    Ok([all, parts[0], parts[1]])
}

/// The broker, from its start with a full topic to the last line at the sink.
fn alone(dir: &Path, counter: Start<'_>, input: &Path, lines: u64) -> Result<f64> {
    let counter = counter(dir)?;
    // To begin with, the sink has another topic.
    let elsewhere = counter.sink().replace(&format!("[{TOPIC}]"), "[nothing]");
    let mut stage = Stage::start(Programs::built()?, dir, &elsewhere)?;
    std::fs::hard_link(input, stage.logs().join("app-0.log"))?;
    stage.deployment.start_daemon("agent")?;
    stage.stored(usize::try_from(lines)?)?;
    stage.deployment.stop_daemon("agent")?;
    stage.deployment.stop_daemon("broker")?;
    stage.deployment.configure("broker", &[("[nothing]", &format!("[{TOPIC}]"))])?;
    stage.deployment.start_daemon("broker")?;
    exactly(lines, counter.until(lines, || Ok(true))?)?;
    let seconds = cpu(&stage, &["broker"])?;
    stage.deployment.stop()?;
    Ok(seconds)
}

fn exactly(lines: u64, came: u64) -> Result<()> {
    ensure!(came == lines, "{came} came instead of {lines}");
    Ok(())
}

/// Its seconds, and how many lines came: at least all.
fn rsyslog(dir: &Path, counter: Start<'_>, input: &Path, lines: u64) -> Result<(f64, u64)> {
    let counter = counter(dir)?;
    let mut command = Command::new(repository().join("e2e/anchors/rsyslog"));
    command.args(["run", "-d", text(&dir.join("state"))?]);
    counter.rsyslog(&mut command);
    command.arg(input);
    let mut rsyslog = Metered::start(&mut command, Stdio::null(), &dir.join("rsyslog.out"))?;
    let came = counter
        .until(lines, || Ok(!rsyslog.has_exited()?))
        .with_context(|| dir.display().to_string())?;
    let cost = rsyslog.cost()?;
    rsyslog.stop(PATIENCE)?;
    Ok((cost.cpu_seconds, came))
}

fn cpu(stage: &Stage, daemons: &[&str]) -> Result<f64> {
    let pid = |daemon: &&str| stage.deployment.process(daemon).map(Process::pid);
    meter::cpu_seconds(&daemons.iter().map(pid).collect::<Result<Vec<u32>>>()?)
}
