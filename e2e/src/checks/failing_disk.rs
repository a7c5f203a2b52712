//! What a producer hears when the disk fails to sync: never success.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, numbered, text};
use crate::group::{Check, need};
use crate::kcat::{Transport, command, count, produce};
use crate::process::{Process, finish, wait_until};

pub const CHECKS: &[Check] = &[(
    "no acks=all success reaches kcat once fdatasync fails; a restart serves what was acked",
    failing_sync,
)];

fn failing_sync() -> Result<()> {
    need("kcat", "kcat")?;
    need("strace", "strace")?;
    let mut bench = Bench::broker()?;
    let dev = bench.deployment.dev.clone();
    bench.create_topic("durable", 1, &[])?;
    produce(&dev, Transport::Plaintext, "durable", &[], &numbered(50, 10))?;

    let pid = bench.deployment.process("broker")?.pid().to_string();
    let output = bench.dir.path().join("strace.out");
    let calls = "fdatasync,fsync,syncfs,sync_file_range";
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-p",
        &pid,
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={calls}:error=EIO"),
    ]);
    let strace = Process::start("strace", &mut strace, &output)?;
    wait_until(Duration::from_secs(10), || Ok(strace.printed().contains("attached")))?;

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
    let said = finish(&mut kcat, Duration::from_secs(30))?;
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    ensure!(strace.printed().contains("EIO"), "no sync was made to fail:\n{}", strace.tail());
    ensure!(
        !said.status.success() && words.contains("Delivery failed"),
        "kcat was told success ({}): {words}",
        said.status
    );
    ensure!(
        words.matches("Delivery failed").count() >= 20,
        "some records were acked although no sync succeeded: {words}"
    );
    strace.signal(crate::process::Signal::INT)?;
    drop(strace);

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

    bench.deployment.kill_daemon("broker")?;
    bench.deployment.start_daemon("broker")?;
    let held = count(&dev, Transport::Plaintext, "durable")?;
    ensure!(held >= 50, "{held} records are left of the 50 that were acked");
    produce(&dev, Transport::Plaintext, "durable", &[], &numbered(5, 10))?;
    ensure!(
        count(&dev, Transport::Plaintext, "durable")? == held + 5,
        "the log does not take records after the restart"
    );
    bench.deployment.stop()
}
