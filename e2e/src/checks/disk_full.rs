//! A full disk: what is refused, what goes on, and that all goes on by itself once there is room. Needs root for small file
//! systems of its own.

#![allow(clippy::print_stdout, reason = "says what was seen")]

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::mounts::Mount;
use super::{Bench, numbered, text};
use crate::deployment::{Deployment, PATIENCE};
use crate::group::{Check, need};
use crate::kcat::{Transport, command, consume, produce};
use crate::lines::{ensure_exact, line, messages};
use crate::process::{finish, run, wait_until};

pub const CHECKS: &[Check] = &[
    (
        "the broker's disk is full for a minute: produce is refused, fetch and commit go on, all resumes by itself",
        broker,
    ),
    ("the agent's state cannot be written for a while: every line comes once", agent),
];

const FULL: Duration = Duration::from_mins(1);
/// Below the broker's limit on a disk of 192 MiB (a quarter of its twentieth), and enough for commits.
const LEFT: u64 = 1 << 20;
const RESUMES_WITHIN: Duration = Duration::from_secs(5);
/// What librdkafka says for error 56, KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: &str = "Disk error when trying to access log file on disk";
const SETTLE: Duration = Duration::from_mins(1);

fn broker() -> Result<()> {
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let mount = Mount::tmpfs(dir.path(), "192m")?;
    let mut deployment = without_input(dir.path())?;
    deployment.move_data("broker", &mount.at.join("broker"))?;
    deployment.start_daemon("coordinator")?;
    deployment.start_daemon("broker")?;
    Bench::create(&deployment, "full", 1, &[])?;
    let dev = deployment.dev.clone();
    produce(&dev, Transport::Plaintext, "full", &[], &numbered(100, 10))?;
    let foreign = mount.fill(LEFT)?;
    // The broker asks how much is free once a second.
    sleep(Duration::from_millis(1_500));
    let begin = Instant::now();
    let mut round = 0;
    while round == 0 || begin.elapsed() < FULL {
        let said = once(&deployment, dir.path(), "refused")?;
        ensure!(said.contains(STORAGE_ERROR), "not refused with error 56, but: {said}");
        let read = consume(&dev, Transport::Plaintext, "full")?;
        ensure!(read == numbered(100, 10), "a full disk hides records:\n{read}");
        for expected in [100, 0] {
            let read = member(&deployment, &format!("group-{round}"))?;
            ensure!(
                read == expected,
                "a member read {read} records, not {expected}: are commits lost?"
            );
        }
        round += 1;
        sleep(Duration::from_secs(8));
    }
    let admin = deployment.admin("broker").to_owned();
    let (_, metrics) = crate::deployment::http_get(&admin, "/metrics")?;
    ensure!(metrics.contains("tailway"), "the admin port has no metrics: {metrics}");
    fs::remove_file(foreign)?;
    let freed = Instant::now();
    wait_until(RESUMES_WITHIN, || Ok(once(&deployment, dir.path(), "resumed")?.is_empty()))
        .context("it does not take records again by itself")?;
    println!(
        "       {round} rounds; took records again {:?} after there was room",
        freed.elapsed()
    );
    let read = consume(&dev, Transport::Plaintext, "full")?;
    ensure!(
        read.starts_with(&numbered(100, 10))
            && read.ends_with("resumed\n")
            && !read.contains("refused"),
        "not what was acknowledged:\n{read}"
    );
    deployment.stop()
}

/// Sends one record and does not try again; what kcat says to a refusal, or nothing.
fn once(deployment: &Deployment, dir: &Path, record: &str) -> Result<String> {
    let input = dir.join("record");
    fs::write(&input, format!("{record}\n"))?;
    let mut kcat = command(&deployment.dev, Transport::Plaintext)?;
    kcat.args(["-P", "-t", "full", "-X", "acks=all", "-X", "retries=0", "-l", text(&input)?]);
    let output = finish(&mut kcat, PATIENCE)?;
    Ok(if output.status.success() {
        String::new()
    } else {
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}

/// How many records a member of the group reads from where the group stands to the end; it commits what it has read.
fn member(deployment: &Deployment, group: &str) -> Result<usize> {
    let mut kcat = command(&deployment.dev, Transport::Plaintext)?;
    kcat.args(["-q", "-e", "-X", "auto.offset.reset=earliest", "-G", group, "full"]);
    Ok(run(&mut kcat, PATIENCE)?.lines().count())
}

fn without_input(dir: &Path) -> Result<Deployment> {
    let input = dir.join("unused.log");
    fs::write(&input, "")?;
    Deployment::export(&dir.join("run"), &[text(&input)?])
}

/// As a supervisor does, the agent is started again whenever it ends.
fn agent() -> Result<()> {
    const LINES: usize = 6_000;
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let mount = Mount::tmpfs(dir.path(), "1m")?;
    let input = dir.path().join("app.log");
    let mut log = File::create(&input)?;
    let mut deployment = Deployment::export(&dir.path().join("run"), &[text(&input)?])?;
    deployment.move_data("agent", &mount.at.join("agent"))?;
    for daemon in crate::deployment::DAEMONS {
        deployment.start_daemon(daemon)?;
    }
    let mut write = |range: std::ops::Range<usize>| -> Result<()> {
        let text: String = range.map(|number| line(0, 0, number) + "\n").collect();
        Ok(log.write_all(text.as_bytes())?)
    };
    write(0..1_000)?;
    sleep(Duration::from_secs(1));
    let foreign = mount.fill(0)?;
    let (begin, mut ends, mut number) = (Instant::now(), 0, 1_000);
    while begin.elapsed() < Duration::from_secs(20) {
        write(number..number + 100)?;
        number += 100;
        sleep(Duration::from_millis(400));
        let mut process = deployment.take("agent")?;
        if process.has_exited()? {
            ends += 1;
            let said = process.tail();
            ensure!(
                said.contains("No space left") || said.contains("no storage space"),
                "the agent ended without saying that its disk is full:\n{said}"
            );
            sleep(Duration::from_secs(1));
            let command = deployment.command("agent")?;
            deployment.start_unready("agent", command)?;
        } else {
            deployment.put("agent", process);
        }
    }
    fs::remove_file(foreign)?;
    let mut process = deployment.take("agent")?;
    if process.has_exited()? {
        drop(process);
    } else {
        deployment.put("agent", process);
        deployment.kill_daemon("agent")?;
    }
    deployment.start_daemon("agent")?;
    write(number..LINES)?;
    let dev = deployment.dev.clone();
    let read = || messages(&consume(&dev, Transport::Plaintext, "logs")?);
    let settled = wait_until(SETTLE, || Ok(read()?.len() >= LINES));
    ensure_exact(&read()?, 1, LINES)?;
    settled?;
    println!("       the agent ended {ends} times while its disk was full");
    deployment.stop()
}
