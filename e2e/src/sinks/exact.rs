//! Each line that an agent tailed is in the index once, as it was written, whatever happens on the way.

#![allow(clippy::print_stdout, reason = "prints what was hit and found")]

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::node::{Node, Proxy};
use super::stage::{STREAM, Stage};
use crate::group::{Check, need};
use crate::lines::{Plan, write};
use crate::process::finish;
use crate::programs::{Programs, repository};

pub const CHECKS: &[Check] = &[
    (
        "OpenSearch: each line once through kill -9 of broker, agent and OpenSearch, a rollover at each",
        kills,
    ),
    (
        "OpenSearch: each line once through 429, 503, hangs, resets, truncated answers and rollovers",
        faults,
    ),
    ("OpenSearch: with the lookup off, rollovers make duplicates", lookup_off),
];

pub const FILES: usize = 8;
const ROTATE_EVERY: usize = 2_000;
/// One after the other, each this often.
const ROUNDS: usize = 3;
/// Longer than the rounds take, so that each hits something.
const WRITING: Duration = Duration::from_mins(2);
const HITS_MIN: u64 = 20;
const KINDS: [&str; 8] =
    ["429", "503", "unsent", "done-503", "hang", "reset", "truncate", "rollover"];

fn kills() -> Result<()> {
    let (dir, lines) = (tempfile::tempdir()?, super::lines());
    needs()?;
    let node = Node::start(&dir.path().join("node"), &[])?;
    let proxy = Proxy::start(&node, &dir.path().join("proxy.out"), &[])?;
    let mut stage =
        Stage::start(Programs::built()?, dir.path(), &sink(&proxy, records(lines, 200), "30s"))?;
    stage.sink(&["setup", "es", "--config", &stage.config()])?;
    stage.deployment.start_daemon("agent")?;
    let writer = writer(&stage.logs(), lines, WRITING);
    for round in 0..ROUNDS {
        let bulk = || proxy.wait_for_bulk(15).with_context(|| format!("round {round}"));
        bulk()?;
        stage.deployment.kill_daemon("broker")?;
        let rolled = node.ask("POST", &format!("/{STREAM}/_rollover"), None)?;
        ensure!(rolled["rolled_over"] == true, "{rolled}");
        stage.deployment.start_daemon("broker")?;
        bulk()?;
        stage.deployment.kill_daemon("agent")?;
        stage.deployment.start_daemon("agent")?;
        bulk()?;
        node.kill()?;
        node.start_again()?;
    }
    writer.join().map_err(|_| anyhow!("the writer panicked"))??;
    stage.settle(lines)?;
    let found = judge(&node, lines, ROTATE_EVERY, &[])?;
    println!("  {ROUNDS} kills of each: {found}");
    ensure_exact(&found)?;
    let indices = found["indices"].as_object().map_or(0, serde_json::Map::len);
    ensure!(indices > ROUNDS, "a rollover hit nothing: {found}");
    stage.deployment.stop()
}

fn faults() -> Result<()> {
    let (dir, lines) = (tempfile::tempdir()?, super::lines());
    let (found, state) = misbehaving(dir.path(), lines, None)?;
    println!("  {state}\n  {found}");
    ensure_exact(&found)?;
    for kind in KINDS {
        ensure!(state["hits"][kind].as_u64() >= Some(HITS_MIN), "{kind} was not hit: {state}");
    }
    ensure!(
        state["busy_items"].as_u64() >= Some(HITS_MIN),
        "no record met a full write queue: {state}"
    );
    Ok(())
}

fn lookup_off() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let plant = "broker.forward_doubts_not_looked_up";
    let (found, state) = misbehaving(dir.path(), 10_000, Some(plant))?;
    println!("  {state}\n  {found}");
    ensure!(found["repeated"].as_u64() > Some(0), "nothing was there twice: {found}");
    ensure!(found["lost"] == 0, "{found}");
    Ok(())
}

/// What the judge found, and what the proxy did.
fn misbehaving(dir: &Path, lines: usize, plant: Option<&str>) -> Result<(Value, Value)> {
    needs()?;
    let queue_of_one = ["thread_pool.write.size=1", "thread_pool.write.queue_size=1"];
    let node = Node::start(&dir.join("node"), &queue_of_one)?;
    let proxy = Proxy::start(&node, &dir.join("proxy.out"), &[])?;
    let programs = if plant.is_some() { Programs::armed()? } else { Programs::built()? };
    let sink = sink(&proxy, records(lines, 50), "2s");
    let mut stage = Stage::start_planted(programs, dir, &sink, plant)?;
    stage.sink(&["setup", "es", "--config", &stage.config()])?;
    let kinds: &[&str] = if plant.is_some() { &["rollover"] } else { &KINDS };
    proxy.misbehave(kinds, 3, HITS_MIN)?;
    stage.deployment.start_daemon("agent")?;
    writer(&stage.logs(), lines, Duration::ZERO)
        .join()
        .map_err(|_| anyhow!("the writer panicked"))??;
    stage.settle(lines)?;
    let found = judge(&node, lines, ROTATE_EVERY, &[])?;
    let state = proxy.state()?;
    stage.deployment.stop()?;
    Ok((found, state))
}

/// What all checks with a real OpenSearch need.
pub fn needs() -> Result<()> {
    need("java", "default-jre-headless")?;
    need("mvn", "maven")?;
    need("curl", "curl")?;
    need("python3", "python3")
}

/// Of a bulk: as many bulks for more lines.
fn records(lines: usize, least: usize) -> usize {
    (lines / 1_000).clamp(least, 2_000)
}

/// The `sinks` entry.
pub fn sink(proxy: &Proxy, batch_records: usize, timeout: &str) -> String {
    format!(
        "- name: es\n  type: opensearch\n  topics: [logs]\n  urls: [\"http://127.0.0.1:{}\"]\n  \
         batch_records: {batch_records}\n  request_timeout: {timeout}\n",
        proxy.port()
    )
}

pub fn plan(lines: usize, over: Duration, rotate_every: usize) -> Plan {
    const CHUNK: usize = 25;
    let rounds = u32::try_from(lines / FILES / CHUNK).unwrap_or(u32::MAX).max(1);
    Plan { files: FILES, lines, rotate_every, pause: over / rounds, chunk: CHUNK }
}

fn writer(logs: &Path, lines: usize, over: Duration) -> thread::JoinHandle<Result<()>> {
    let logs = logs.to_owned();
    thread::spawn(move || write(&logs, plan(lines, over, ROTATE_EVERY)))
}

/// What `clients/opensearch_lines.py` finds, of each of `agents`.
pub fn judge(node: &Node, lines: usize, rotate_every: usize, agents: &[&str]) -> Result<Value> {
    judge_from(node, 0, lines, rotate_every, agents)
}

/// The same without the first `from` lines.
pub fn judge_from(
    node: &Node,
    from: usize,
    lines: usize,
    rotate_every: usize,
    agents: &[&str],
) -> Result<Value> {
    let mut command = Command::new("python3");
    command.arg(repository().join("e2e/clients/opensearch_lines.py"));
    command.args([&node.url(), STREAM, &FILES.to_string(), &format!("{from}-{lines}")]);
    command.arg(rotate_every.to_string()).args(agents);
    let output = finish(&mut command, Duration::from_mins(20))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut found: Value = serde_json::from_str(&text).with_context(why)?;
    found["exact"] = output.status.success().into();
    Ok(found)
}

pub fn ensure_exact(found: &Value) -> Result<()> {
    ensure!(found["exact"] == true, "not each line once: {found}");
    Ok(())
}
