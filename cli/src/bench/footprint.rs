//! `tailway bench footprint`: what each daemon takes while nothing happens.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tailway_daemon::exit::Exit;

use super::args::FootprintArgs;
use super::frame::{self, Findings, heading, mib};
use super::latencies::ms;
use super::servers::{Process, Servers};
use crate::dev::inputs::Inputs;
use crate::output::{Output, complain};

#[derive(Debug, Serialize)]
struct Footprint {
    seconds: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    daemon: &'static str,
    ready_us: u32,
    rss_bytes: u64,
    peak_rss_bytes: u64,
    /// Of one core.
    cpu_percent: f64,
    threads: u64,
    descriptors: usize,
}

impl Findings for Footprint {
    fn method(&self) -> String {
        format!(
            "empty data directories, a file of one line; exec until /readyz answers 200, then {0} s of rest and {0} s of counting",
            self.seconds
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let names =
            ["daemon", "ready ms", "RSS MiB", "peak RSS MiB", "CPU %", "threads", "descriptors"];
        let mut rows = vec![heading(names)];
        rows.extend(self.rows.iter().map(|row| {
            vec![
                row.daemon.to_owned(),
                ms(row.ready_us),
                mib(row.rss_bytes),
                mib(row.peak_rss_bytes),
                format!("{:.2}", row.cpu_percent),
                row.threads.to_string(),
                row.descriptors.to_string(),
            ]
        }));
        rows
    }
}

pub(super) fn run(args: &FootprintArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
        let input = place.dir.path.join("one.log");
        std::fs::write(&input, "one line\n")?;
        let agent = servers.start_agent(&Inputs::look(&[input])?, |_| ()).await?;
        complain(&format!("{} s of nothing, twice ...", args.seconds));
        let time = Duration::from_secs(args.seconds);
        tokio::time::sleep(time).await;
        let daemons = [servers.coordinator()?, servers.broker()?, &agent];
        let before = daemons.map(Process::usage);
        tokio::time::sleep(time).await;
        let mut rows = Vec::new();
        for (daemon, before) in daemons.into_iter().zip(before) {
            let (before, after) = (before?, daemon.usage()?);
            rows.push(Row {
                daemon: daemon.part.name(),
                ready_us: u32::try_from(daemon.ready_after.as_micros())?,
                rss_bytes: after.rss_bytes,
                peak_rss_bytes: after.peak_rss_bytes,
                cpu_percent: 100.0 * (after.cpu_seconds - before.cpu_seconds) / time.as_secs_f64(),
                threads: after.threads,
                descriptors: after.descriptors,
            });
        }
        agent.stop().await?;
        servers.stop().await?;
        Ok(Footprint { seconds: args.seconds, rows })
    })
}
