//! The verdict: what kcat reads from the topic, against what was written.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::lines::{Judge, Verdict, message};

/// Lost, repeated or disordered lines that are named.
const NAMED_MAX: usize = 20;

/// Reads the topic from its beginning to its end now, and judges; also names what is wrong.
pub fn read(
    broker: &str,
    topic: &str,
    files: usize,
    lines: usize,
) -> Result<(Verdict, Vec<String>)> {
    let mut command = Command::new("kcat");
    command.args(["-b", broker, "-C", "-q", "-e", "-o", "beginning", "-t", topic]);
    // A broker may have come back a moment ago.
    command.args(["-X", "check.crcs=true", "-X", "fetch.wait.max.ms=100"]);
    let mut kcat = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("kcat")?;
    let mut judge = Judge::new(files, lines);
    let output = kcat.stdout.take().context("kcat's output")?;
    for document in BufReader::with_capacity(1 << 20, output).lines() {
        judge.see(&message(&document?)?);
    }
    let status = kcat.wait()?;
    ensure!(status.success(), "{command:?} ended with {status}");
    let odd = judge.oddities(NAMED_MAX);
    Ok((judge.verdict(), odd))
}

/// Everything once and in order.
pub fn is_exact(verdict: &Verdict, lines: usize) -> bool {
    *verdict == Verdict { read: lines, ..Verdict::default() }
}
