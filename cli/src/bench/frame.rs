//! What all benchmarks have in common: the conditions and the disk's own speed around them, a table, JSON, a clean end by signals.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_daemon::shutdown::Signals;

use super::args::Common;
use super::conditions::Conditions;
use super::disk::{self, DiskSpeed};
use super::latencies::{Percentiles, ms};
use super::servers::{BenchDir, Transport};
use crate::output::{Output, complain, table};

/// What a benchmark found.
pub(super) trait Findings: Serialize {
    /// How it was measured, for people.
    fn method(&self) -> String;
    /// The first row is the heading.
    fn rows(&self) -> Vec<Vec<String>>;
}

/// Where a benchmark works.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: BenchDir,
    pub(super) transport: Transport,
    pub(super) clock: Clock,
}

#[derive(Debug, Serialize)]
struct Framed<T> {
    conditions: Conditions,
    disk_before: DiskSpeed,
    #[serde(flatten)]
    findings: T,
    disk_after: DiskSpeed,
}

/// Runs one between two looks at the disk, prints what it found and writes it as JSON.
pub(super) fn run<T: Findings>(
    common: &Common,
    output: Output,
    bench: impl AsyncFnOnce(&Place) -> Result<T>,
) -> Result<Exit> {
    let (transport, clock) = (common.transport(), Clock::new());
    let mut conditions = Conditions::before(&common.dir, transport, &clock);
    let place = Place { dir: BenchDir::make(&common.dir)?, transport, clock };
    complain("the disk alone ...");
    let disk_before = disk::measure(&place.dir.path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let findings = runtime.block_on(async {
        let mut signals = Signals::new()?;
        tokio::select! {
            biased;
            signal = signals.next() => bail!("{signal}: nothing was measured to the end"),
            findings = bench(&place) => findings,
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
    let findings = findings?;
    complain("the disk alone, again ...");
    let disk_after = disk::measure(&place.dir.path)?;
    conditions.after();
    let framed = Framed { conditions, disk_before, findings, disk_after };
    output.whole(&framed, lines)?;
    if let Some(path) = &common.json {
        let mut json = serde_json::to_vec_pretty(&framed)?;
        json.push(b'\n');
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(Exit::Ok)
}

fn lines<T: Findings>(framed: &Framed<T>) -> Vec<String> {
    let mut lines = framed.conditions.lines();
    lines.extend([framed.findings.method(), String::new()]);
    lines.extend(table(&framed.findings.rows()));
    lines.push(String::new());
    let mut rows = vec![[vec!["disk alone".to_owned()], Percentiles::heading()].concat()];
    for (when, speed) in [("before", &framed.disk_before), ("after", &framed.disk_after)] {
        for (what, of) in [("fdatasync", &speed.fdatasync), ("syncfs", &speed.syncfs)] {
            rows.push([vec![format!("{when}: 4 KiB + {what}")], of.cells()].concat());
        }
    }
    lines.extend(table(&rows));
    lines
}

impl Percentiles {
    pub(super) fn heading() -> Vec<String> {
        ["p50 ms", "p99 ms", "p99.9 ms", "max ms", "samples"].map(str::to_owned).to_vec()
    }

    pub(super) fn cells(&self) -> Vec<String> {
        let Percentiles { samples, p50_us, p99_us, p999_us, max_us } = *self;
        let times = [p50_us, p99_us, p999_us, max_us].map(ms);
        [times.to_vec(), vec![samples.to_string()]].concat()
    }
}

/// MiB with one digit.
pub(super) fn mib(bytes: u64) -> String {
    format!("{}.{}", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}

/// A heading, word by word.
pub(super) fn heading<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}
