//! The way back to a build of before there were packages: its programs run on the data of today's, and today's on theirs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::{Booted, PATIENCE};
use super::package::{DAEMONS, put};
use super::services::{Appliance, NAMES};
use crate::process::run;
use crate::programs::{Programs, cargo, repository};

/// The last one on main before packages and units.
const COMMIT: &str = "71de3dfa4a603e77bd5645a252bf08412aae8cb0";
/// What its programs say they are.
const VERSION: &str = "0.0.9";
/// Its own crates; what they depend on is there from today's build.
const BUILD: Duration = Duration::from_mins(15);
/// Lines that each build ships, and how many of the first ones the group reads before the way back.
const LINES: usize = 400;
const READ_BEFORE: usize = 250;

/// A group's offset, the records and the agent's place in its file go with the data, down and up: kcat counts the lines.
pub(super) fn reads_the_data() -> Result<()> {
    let before = build()?;
    let today = Programs::built()?;
    let appliance = Appliance::start()?;
    let host = &appliance.host;
    write(host, 0)?;
    appliance.await_line(&line(LINES - 1))?;
    // `first line` is Appliance's own.
    let mut read = group(host, READ_BEFORE)?;

    exchange(host, |daemon| Ok(before.join(format!("tailway-{daemon}"))), || write(host, LINES))?;
    appliance.await_line(&line(2 * LINES - 1))?;
    for daemon in DAEMONS {
        let said = host.shell(&format!("tailway-{daemon} --version"))?;
        ensure!(said.contains(VERSION), "the {daemon} that ran is not the older one: {said}");
    }
    read.extend(group(host, 1 + 2 * LINES - READ_BEFORE)?);
    once("kcat in a group, over the way back", &read, 2 * LINES)?;
    once("kcat, from the older build", &all(host)?, 2 * LINES)?;

    let programs = |daemon: &str| Ok(today.path(&format!("tailway-{daemon}"))?.to_path_buf());
    exchange(host, programs, || write(host, 2 * LINES))?;
    appliance.await_line(&line(3 * LINES - 1))?;
    read.extend(group(host, LINES)?);
    once("kcat in a group, down and up", &read, 3 * LINES)?;
    once("kcat, after the way up", &all(host)?, 3 * LINES)
}

fn line(number: usize) -> String {
    format!("way {number:04}")
}

fn write(host: &Booted, from: usize) -> Result<()> {
    let last = from + LINES - 1;
    host.shell(&format!("seq --format='way %04.0f' {from} {last} >>/var/log/app.log")).map(drop)
}

/// Stops the daemons as their host would, and starts others in their place, the units unaltered; meanwhile the file grows.
fn exchange(
    host: &Booted,
    program: impl Fn(&str) -> Result<PathBuf>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    host.shell("systemctl stop tailway-agent tailway-broker tailway-coordinator")?;
    for daemon in DAEMONS {
        put(host.root(), &program(daemon)?)?;
    }
    meanwhile()?;
    for daemon in DAEMONS {
        host.shell(&format!("systemctl start tailway-{daemon}")).with_context(|| {
            host.journal(&format!("tailway-{daemon}.service")).unwrap_or_default()
        })?;
    }
    Ok(())
}

/// So many records more, read by kcat as the one member of a group, which commits them when it leaves.
fn group(host: &Booted, count: usize) -> Result<Vec<String>> {
    let kcat = host.kcat(NAMES[1])?;
    let reset = "-X auto.offset.reset=earliest";
    let read = host.shell(&format!("{kcat} -q {reset} -c {count} -G readers logs"))?;
    Ok(read.lines().map(str::to_owned).collect())
}

fn all(host: &Booted) -> Result<Vec<String>> {
    Ok(host.consume(NAMES[1], "logs")?.lines().map(str::to_owned).collect())
}

/// Each of the lines so far once, and the host's first one.
fn once(who: &str, records: &[String], lines: usize) -> Result<()> {
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let event: serde_json::Value = serde_json::from_str(record)
            .with_context(|| format!("{who}: this is no event: {record}"))?;
        let message = event["message"].as_str().context("an event without message")?;
        *times.entry(message.to_owned()).or_default() += 1;
    }
    let expected = (0..lines).map(line).chain(std::iter::once("first line".to_owned()));
    let expected: BTreeMap<String, usize> = expected.map(|line| (line, 1)).collect();
    let wrong: Vec<String> = expected
        .keys()
        .chain(times.keys())
        .filter(|line| times.get(*line) != expected.get(*line))
        .map(|line| format!("{line:?} {} times", times.get(line).copied().unwrap_or(0)))
        .take(10)
        .collect();
    ensure!(wrong.is_empty(), "{who}: {} of {lines} lines: {}", times.len(), wrong.join(", "));
    Ok(())
}

/// The daemons of that commit, under a version of their own: with the same one, cargo would take our crates of either commit
/// for the other's. What they depend on is compiled already; the programs lie apart, because those of the same name are today's.
fn build() -> Result<PathBuf> {
    let mut git = Command::new("git");
    let known = git.current_dir(repository()).args(["cat-file", "-e"]).arg(COMMIT);
    run(known, PATIENCE).with_context(|| {
        format!(
            "this clone has no commit {COMMIT}, the build that the way back leads to\n  next: git fetch --depth 1 origin {COMMIT}"
        )
    })?;
    let dir = repository().join("target/before");
    let source = dir.join("source");
    let script = format!(
        "mkdir -p \"$1\"; git archive {COMMIT} | tar -x -C \"$1\"; sed -i 's/^version = .*/version = \"{VERSION}\"/' \"$1/Cargo.toml\""
    );
    let mut unpack = Command::new("bash");
    unpack.args(["-euc", &format!("set -o pipefail; {script}"), "unpack"]).arg(&source);
    run(unpack.current_dir(repository()), PATIENCE)?;
    let shared = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let shared = shared.unwrap_or_else(|| repository().join("target"));
    let mut build = cargo();
    // Not `--locked`: the lock file has our crates under the version that they had.
    build.args(["build", "--quiet", "--offline", "--release", "--bins"]);
    build.args(DAEMONS.map(|daemon| format!("-ptailway-{daemon}"))).current_dir(&source);
    build.env("CARGO_BUILD_BUILD_DIR", shared).env("CARGO_TARGET_DIR", dir.join("programs"));
    run(&mut build, BUILD).with_context(|| format!("cannot build {COMMIT}"))?;
    Ok(dir.join("programs/release"))
}
