//! What a producer hears when the disk fails to sync: never success.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, numbered, text};
use crate::group::{Check, need};
use crate::kcat::{Transport, command, consume, count, produce};
use crate::process::{Process, finish, wait_until};

pub const CHECKS: &[Check] = &[
    (
        "no acks=all success reaches kcat once fdatasync fails; a restart serves what was acked",
        || failing_sync(EVERY),
    ),
    (
        "one sync fails and the next ones succeed: still no ack until a restart, which serves what was acked",
        || failing_sync(ONE),
    ),
];

/// Which syncs fail, as strace takes it: of each thread.
const EVERY: &str = "";
const ONE: &str = ":when=1";
/// What reaches the disk, whichever way.
const SYNCS: &str = "fdatasync,fsync,syncfs,sync_file_range";

/// What the broker logs when a log takes no more.
const FENCED: &str = "a write or sync failed";

fn failing_sync(which: &str) -> Result<()> {
    need("kcat", "kcat")?;
    need("strace", "strace")?;
    let mut bench = Bench::broker()?;
    let dev = bench.deployment.dev.clone();
    bench.create_topic("durable", 1, &[])?;
    produce(&dev, Transport::Plaintext, "durable", &[], &numbered(50, 10))?;

    let pid = bench.deployment.process("broker")?.pid().to_string();
    let output = bench.dir.path().join("strace.out");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-p", &pid, "-e", &format!("trace={SYNCS}")]);
    strace.args(["-e", &format!("inject={SYNCS}:error=EIO{which}")]);
    let mut strace = Some(Process::start("strace", &mut strace, &output)?);
    let printed = || std::fs::read_to_string(&output).unwrap_or_default();
    wait_until(Duration::from_secs(10), || Ok(printed().contains("attached")))?;

    let input = bench.dir.path().join("refused.txt");
    std::fs::write(&input, numbered(20, 10))?;
    let mut kcat = command(&dev, Transport::Plaintext)?;
    kcat.args([
        "-P",
        "-t",
        "durable",
        "-X",
        "acks=all",
        "-X",
        "message.timeout.ms=5000",
        "-l",
        text(&input)?,
    ]);
    let mut kcat = Process::start("kcat", &mut kcat, &bench.dir.path().join("kcat.out"))?;
    if which == ONE {
        // As soon as the log was hit the disk is well again.
        let log = bench.deployment.dir.join("broker.log");
        let hit = || Ok(std::fs::read_to_string(&log)?.contains(FENCED));
        wait_until(Duration::from_secs(20), hit).context("no sync of a log was made to fail")?;
        end_of(strace.take())?;
    }
    wait_until(Duration::from_secs(30), || kcat.has_exited())?;
    let words = kcat.printed();
    let status = kcat.wait(Duration::from_secs(1))?;
    ensure!(printed().contains("EIO"), "no sync was made to fail:\n{}", printed());
    ensure!(
        !status.success() && words.contains("Delivery failed"),
        "kcat was told success ({status}): {words}"
    );
    ensure!(
        words.matches("Delivery failed").count() >= 20,
        "some records were acked although no sync succeeded: {words}"
    );
    end_of(strace.take())?;

    // The failed sync is not retried: even with the disk well again the fenced log refuses until a restart has re-read it.
    let mut kcat = command(&dev, Transport::Plaintext)?;
    kcat.args([
        "-P",
        "-t",
        "durable",
        "-X",
        "acks=all",
        "-X",
        "message.timeout.ms=3000",
        "-l",
        text(&input)?,
    ]);
    ensure!(
        !finish(&mut kcat, Duration::from_secs(30))?.status.success(),
        "a log whose sync failed took records again without a restart"
    );

    let log = bench.deployment.process("broker")?.printed();
    ensure!(
        log.contains(FENCED) && log.contains("then restart the broker"),
        "the broker does not say what happened and what to do:\n{log}"
    );
    bench.deployment.kill_daemon("broker")?;
    bench.deployment.start_daemon("broker")?;
    let served = consume(&dev, Transport::Plaintext, "durable")?;
    ensure!(served.starts_with(&numbered(50, 10)), "not the 50 that were acked:\n{served}");
    let held = served.lines().count();
    produce(&dev, Transport::Plaintext, "durable", &[], &numbered(5, 10))?;
    ensure!(
        count(&dev, Transport::Plaintext, "durable")? == held + 5,
        "the log does not take records after the restart"
    );
    bench.deployment.stop()
}

/// Detaches strace; the broker runs on.
fn end_of(strace: Option<Process>) -> Result<()> {
    let Some(strace) = strace else { return Ok(()) };
    strace.signal(crate::process::Signal::INT)?;
    strace.wait(Duration::from_secs(10)).map(drop)
}
