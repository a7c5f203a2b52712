//! File to consumer, counted by kcat over TLS: `tailway dev`, the three exported processes, and both under restarts.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{numbered, text};
use crate::deployment::{DAEMONS, Deployment, PATIENCE, start_dev, stop_by_ctrl_c};
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

fn dev() -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let (data, input, output) =
        (dir.path().join("data"), dir.path().join("app.log"), dir.path().join("dev.out"));
    std::fs::write(&input, numbered(100, 40))?;
    Programs::built()?;
    let begin = Instant::now();
    let (process, dev) = start_dev(&data, &input, &output)?;
    let topic = dev.topics.values().next().context("dev.json names no topic")?.clone();
    let mut first = command(&dev, Transport::Tls)?;
    run(first.args(["-C", "-q", "-c", "1", "-o", "beginning", "-t", &topic]), PATIENCE)?;
    let elapsed = begin.elapsed();
    ensure!(
        elapsed <= Duration::from_secs(3),
        "the first record was consumed {elapsed:?} after the start"
    );
    wait_until(PATIENCE, || {
        Ok(count(&dev, Transport::Tls, &topic).is_ok_and(|count| count == 100))
    })?;
    stop_by_ctrl_c(process)?;

    let (process, dev) = start_dev(&data, &input, &output)?;
    std::fs::write(dir.path().join("later.log"), "")?;
    let mut file = std::fs::File::options().append(true).open(&input)?;
    std::io::Write::write_all(&mut file, b"one more\n")?;
    wait_until(PATIENCE, || Ok(count(&dev, Transport::Tls, &topic)? >= 101))?;
    let documents = consume(&dev, Transport::Tls, &topic)?;
    ensure!(messages(&documents)?.len() == 101, "a second run repeated lines:\n{documents}");
    stop_by_ctrl_c(process)
}

fn export() -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("app.log");
    std::fs::write(&input, numbered(100, 40))?;
    let deployment = Deployment::start(&dir.path().join("run"), &[text(&input)?])?;
    ensure!(
        deployment.dev.pids.is_empty(),
        "an export has no processes, yet dev.json lists {:?}",
        deployment.dev.pids
    );
    let topic = deployment.dev.topics.values().next().context("dev.json names no topic")?.clone();
    wait_until(PATIENCE, || {
        Ok(count(&deployment.dev, Transport::Tls, &topic).is_ok_and(|count| count >= 100))
    })?;
    let documents = consume(&deployment.dev, Transport::Tls, &topic)?;
    let wanted: Vec<String> = numbered(100, 40).lines().map(str::to_owned).collect();
    ensure!(messages(&documents)? == wanted, "not the file's lines in order:\n{documents}");
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
