//! Time from exec to ready and idle memory of each daemon on an empty data directory: a table, not a verdict on time.
//!
//! The clock starts before the process is made and stops at the first 200 of `/readyz`, asked for each millisecond.

#![allow(clippy::print_stdout, reason = "prints what it measured")]

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::deployment::{DAEMONS, Deployment, PATIENCE, http_status};
use crate::process::Process;
use crate::programs::Programs;

/// Idle memory promised, in MiB.
const RSS_MAX: [(&str, u64); 3] = [("coordinator", 15), ("broker", 32), ("agent", 15)];

/// Starts the three daemons, measures, prints; fails only where the promised memory is exceeded.
pub fn print() -> Result<()> {
    Programs::built()?;
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("app.log");
    std::fs::write(&input, "one line\n")?;
    let deployment = Deployment::export(&dir.path().join("run"), &[super::text(&input)?])?;
    let mut rows = Vec::new();
    for daemon in DAEMONS {
        let mut command: Command = deployment.command(daemon)?;
        let begin = Instant::now();
        let process =
            Process::start(daemon, &mut command, &deployment.dir.join(format!("{daemon}.log")))?;
        while http_status(deployment.admin(daemon), "/readyz").ok() != Some(200) {
            ensure!(
                begin.elapsed() < PATIENCE,
                "{daemon} did not become ready:\n{}",
                process.tail()
            );
            sleep(Duration::from_millis(1));
        }
        rows.push((daemon, begin.elapsed(), process));
    }
    sleep(Duration::from_secs(5));
    println!(
        "{:<12} {:>13} {:>14} {:>14} {:>12}",
        "daemon", "exec-ready ms", "idle RSS MiB", "peak RSS MiB", "limit MiB"
    );
    let mut over = Vec::new();
    for ((daemon, ready, process), (_, limit)) in rows.into_iter().zip(RSS_MAX) {
        let (rss, peak) = (process.rss_bytes()?, process.peak_rss_bytes()?);
        let mib = |bytes: u64| format!("{}.{}", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20);
        println!(
            "{daemon:<12} {:>13} {:>14} {:>14} {limit:>12}",
            ready.as_millis(),
            mib(rss),
            mib(peak)
        );
        if rss > limit << 20 {
            over.push(daemon);
        }
        process.stop(PATIENCE)?;
    }
    ensure!(over.is_empty(), "over the promised idle memory: {over:?}");
    Ok(())
}
