//! File to consumer, counted by kcat over TLS: `tailway dev`, the three exported processes, and both under restarts.

use std::io::Write;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{numbered, text};
use crate::deployment::{DAEMONS, Deployment, DevJson, PATIENCE, start_dev, stop_by_ctrl_c};
use crate::group::{Check, need};
use crate::kcat::{Transport, command, consume, count};
use crate::lines::{Plan, ensure_exact, messages, write};
use crate::process::{run, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[
    (
        "dev: 100 lines counted by kcat over TLS, the first within 3 s of the start; a second run adds none",
        dev,
    ),
    ("export: the same by three processes", export),
    ("the host's cpu, load and memory reach their topic", host_metrics),
    (
        "200,000 lines over 10 rotating files, each process restarted 5 times: each line once, in order",
        restarts,
    ),
];

/// The same for both ways of running: the first record reaches kcat within 3 s of the start, then exactly the file's lines are
/// there in order; after a stop and a start one more line makes exactly one more record.
struct Hundred {
    dir: tempfile::TempDir,
    input: PathBuf,
    lines: Vec<String>,
}

impl Hundred {
    fn new() -> Result<Self> {
        need("kcat", "kcat")?;
        Programs::built()?;
        let dir = tempfile::tempdir()?;
        let (input, text) = (dir.path().join("app.log"), numbered(100, 40));
        std::fs::write(&input, &text)?;
        Ok(Self { dir, input, lines: text.lines().map(str::to_owned).collect() })
    }

    fn arrives(&self, dev: &DevJson, begin: Instant) -> Result<()> {
        let topic = dev.topics.get(&self.input).context("dev.json does not name the file")?;
        // Until the agent has sent something there may be no topic, which kcat takes for an error.
        wait_until(PATIENCE, || {
            let mut first = command(dev, Transport::Tls)?;
            first.args(["-C", "-q", "-c", "1", "-o", "beginning", "-t", topic]);
            Ok(run(&mut first, PATIENCE).is_ok())
        })?;
        let elapsed = begin.elapsed();
        ensure!(
            elapsed <= Duration::from_secs(3),
            "the first record was consumed {elapsed:?} after the start"
        );
        self.is_all(dev)
    }

    fn one_more(&mut self, dev: &DevJson) -> Result<()> {
        let mut file = std::fs::File::options().append(true).open(&self.input)?;
        writeln!(file, "one more")?;
        self.lines.push("one more".into());
        self.is_all(dev)
    }

    /// What the topic holds, once there is as much as there should be.
    fn is_all(&self, dev: &DevJson) -> Result<()> {
        let topic = &dev.topics[&self.input];
        let enough = || Ok(count(dev, Transport::Tls, topic).is_ok_and(|n| n >= self.lines.len()));
        let waited = wait_until(PATIENCE, enough);
        let documents = consume(dev, Transport::Tls, topic)?;
        ensure!(messages(&documents)? == self.lines, "not the file's lines in order:\n{documents}");
        waited
    }
}

fn dev() -> Result<()> {
    let mut hundred = Hundred::new()?;
    let (data, output) = (hundred.dir.path().join("data"), hundred.dir.path().join("dev.out"));
    let begin = Instant::now();
    let (process, dev) = start_dev(&data, &hundred.input, &output)?;
    hundred.arrives(&dev, begin)?;
    stop_by_ctrl_c(process)?;

    let (process, dev) = start_dev(&data, &hundred.input, &output)?;
    hundred.one_more(&dev)?;
    stop_by_ctrl_c(process)
}

fn export() -> Result<()> {
    let mut hundred = Hundred::new()?;
    let begin = Instant::now();
    let mut deployment =
        Deployment::start(&hundred.dir.path().join("run"), &[text(&hundred.input)?])?;
    let dev = deployment.dev.clone();
    ensure!(dev.pids.is_empty(), "an export has no processes, yet dev.json lists {:?}", dev.pids);
    hundred.arrives(&dev, begin)?;
    for daemon in DAEMONS.iter().rev() {
        deployment.stop_daemon(daemon)?;
    }
    for daemon in DAEMONS {
        deployment.start_daemon(daemon)?;
    }
    hundred.one_more(&dev)?;
    deployment.stop()
}

fn host_metrics() -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("app.log");
    std::fs::write(&input, "one\n")?;
    let deployment = Deployment::start(&dir.path().join("run"), &[text(&input)?])?;
    // A share of cpu time needs two samples, ten seconds apart.
    let mut last = serde_json::Value::Null;
    for name in ["load", "memory", "cpu"] {
        wait_until(PATIENCE, || {
            let documents = consume(&deployment.dev, Transport::Tls, "metrics").unwrap_or_default();
            let mut events = documents.lines().filter_map(|line| serde_json::from_str(line).ok());
            let of_name = |event: &serde_json::Value| {
                event["event"]["dataset"] == format!("system.{name}")
                    && event["system"][name].is_object()
            };
            Ok(events.find(of_name).map(|event| last = event).is_some())
        })
        .with_context(|| format!("no event of system.{name}; the last found was {last}"))?;
        if name == "memory" {
            let total = last["system"]["memory"]["total"].as_u64().context("no total")?;
            let meminfo = std::fs::read_to_string("/proc/meminfo")?;
            ensure!(
                meminfo.contains(&format!(" {} kB\n", total / 1024)),
                "{total} bytes of memory are not what /proc/meminfo says:\n{meminfo}"
            );
        }
    }
    deployment.stop()
}

/// About half a minute of writing, so that the restarts fall into it.
const PLAN: Plan = Plan {
    files: 10,
    lines: 200_000,
    rotate_every: 2_000,
    pause: Duration::from_millis(25),
    chunk: 20,
};

fn restarts() -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let logs = dir.path().join("logs");
    std::fs::create_dir(&logs)?;
    let pattern = logs.join("app-*.log");
    let mut deployment = Deployment::start(&dir.path().join("run"), &[text(&pattern)?])?;
    let writer = thread::spawn({
        let logs = logs.clone();
        move || write(&logs, PLAN)
    });
    for round in 0..5 {
        for daemon in DAEMONS {
            ensure!(
                !writer.is_finished(),
                "the writer was done before round {round}: the restarts hit nothing"
            );
            deployment.stop_daemon(daemon).with_context(|| format!("round {round}"))?;
            deployment.start_daemon(daemon).with_context(|| format!("round {round}"))?;
        }
    }
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let topic = "logs";
    let settled = wait_until(Duration::from_mins(1), || {
        Ok(count(&deployment.dev, Transport::Tls, topic)? >= PLAN.lines)
    });
    let documents = consume(&deployment.dev, Transport::Tls, topic)?;
    ensure_exact(&messages(&documents)?, PLAN.files, PLAN.lines)?;
    settled?;
    deployment.stop()
}
