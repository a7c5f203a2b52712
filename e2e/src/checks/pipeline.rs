//! File to consumer, counted by kcat over TLS: `tailway dev`, the three exported processes, and both under restarts.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{numbered, text};
use crate::deployment::{DAEMONS, Deployment, DevJson, PATIENCE};
use crate::group::{Check, need};
use crate::kcat::{Transport, command, consume, count};
use crate::lines::{Plan, ensure_exact, messages, write};
use crate::process::{Process, Signal, finish, run, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[
    (
        "dev: 100 lines counted by kcat over TLS, the first within 3 s of the start; a second run adds none",
        dev,
    ),
    ("dev --expect exits 0 at the count and 1 beyond it", dev_expect),
    ("export: the same by three processes", export),
    (
        "200,000 lines over 10 rotating files, each process restarted 5 times: each line once, in order",
        restarts,
    ),
];

/// `tailway dev`, started and ready.
fn start_dev(data: &Path, input: &Path, output: &Path) -> Result<(Process, DevJson)> {
    let ready = data.join("dev.json");
    if ready.exists() {
        std::fs::remove_file(&ready)?;
    }
    let mut command = Command::new(Programs::built()?.path("tailway")?);
    let mut dev = Process::start(
        "tailway dev",
        command.arg("dev").arg(input).arg("--data").arg(data),
        output,
    )?;
    wait_until(PATIENCE, || {
        ensure!(!dev.has_exited()?, "tailway dev exited; it printed:\n{}", dev.tail());
        Ok(ready.exists())
    })?;
    Ok((dev, DevJson::read(&ready)?))
}

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
    wait_until(PATIENCE, || Ok(count(&dev, Transport::Tls, &topic)? == 100))?;
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

fn stop_by_ctrl_c(process: Process) -> Result<()> {
    process.signal(Signal::INT)?;
    let status = process.wait(Duration::from_secs(5))?;
    ensure!(status.success(), "Ctrl-C ended tailway dev with {status}");
    Ok(())
}

fn dev_expect() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (data, input) = (dir.path().join("data"), dir.path().join("app.log"));
    std::fs::write(&input, numbered(100, 40))?;
    for (expected, timeout, code) in
        [("100", "60", 0), ("99", "60", 1), ("101", "3", 1), ("100", "60", 0)]
    {
        let mut command = Command::new(Programs::built()?.path("tailway")?);
        command.arg("dev").arg(&input).arg("--data").arg(&data).args([
            "--expect",
            expected,
            "--timeout",
            timeout,
        ]);
        let output = finish(&mut command, Duration::from_secs(90))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(code),
            "--expect {expected} ended with {}:\n{said}",
            output.status
        );
    }
    Ok(())
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
    wait_until(PATIENCE, || Ok(count(&deployment.dev, Transport::Tls, &topic)? >= 100))?;
    let documents = consume(&deployment.dev, Transport::Tls, &topic)?;
    let wanted: Vec<String> = numbered(100, 40).lines().map(str::to_owned).collect();
    ensure!(messages(&documents)? == wanted, "not the file's lines in order:\n{documents}");
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
