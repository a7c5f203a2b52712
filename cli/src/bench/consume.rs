//! `tailway bench consume`: how fast the broker gives back what it stored, and what a gigabyte of record values costs it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tailway_client::{Consumer, ConsumerOptions, StartAt};
use tailway_daemon::exit::Exit;

use super::args::ConsumeArgs;
use super::frame::{self, Findings, Place, heading, mib};
use super::load::{self, Load};
use super::servers::Servers;
use crate::output::{Output, complain};

const BATCH_BYTES: u64 = 16 << 10;
const OPEN_MAX: usize = 5;
const POLL: Duration = Duration::from_secs(1);
/// Without a record for so long, the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Read {
    batch_bytes: u64,
    bytes: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    partitions: u16,
    record_bytes: u64,
    megabytes_per_second: f64,
    records_per_second: f64,
    /// User and system time of the broker.
    cpu_seconds_per_gigabyte: f64,
    peak_rss_bytes: u64,
}

impl Findings for Read {
    fn method(&self) -> String {
        format!(
            "{} B of record values, stored in batches of {} B and then read by one consumer; CPU of the broker per 1e9 bytes of record values",
            self.bytes, self.batch_bytes
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let names = ["partitions", "record B", "MB/s", "records/s", "CPU-s/GB", "peak RSS MiB"];
        let mut rows = vec![heading(names)];
        rows.extend(self.rows.iter().map(|row| {
            vec![
                row.partitions.to_string(),
                row.record_bytes.to_string(),
                format!("{:.1}", row.megabytes_per_second),
                format!("{:.0}", row.records_per_second),
                format!("{:.2}", row.cpu_seconds_per_gigabyte),
                mib(row.peak_rss_bytes),
            ]
        }));
        rows
    }
}

pub(super) fn run(args: &ConsumeArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let mut rows = Vec::new();
        for record_bytes in args.record_size.iter().map(|size| size.0.max(1)) {
            for partitions in args.partitions.iter().copied() {
                let name = format!("{partitions} partitions, records of {record_bytes} B");
                complain(&format!("{name} ..."));
                rows.push(row(args, place, partitions, record_bytes).await.context(name)?);
            }
        }
        Ok(Read { batch_bytes: BATCH_BYTES, bytes: args.size.0, rows })
    })
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn row(args: &ConsumeArgs, place: &Place, partitions: u16, record_bytes: u64) -> Result<Row> {
    let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    let topic = "consume";
    load::make_topic(&servers, topic, partitions).await?;
    let records_per_batch = (BATCH_BYTES / record_bytes).clamp(1, 1 << 20);
    let load = Load {
        partitions,
        record_bytes: usize::try_from(record_bytes)?,
        records_per_batch: i32::try_from(records_per_batch)?,
        open_max: OPEN_MAX,
        rate: None,
        timestamp: place.clock.wall().0,
    };
    let batches = (args.size.0 / (records_per_batch * record_bytes)).max(1);
    load::send_batches(&servers, topic, load, batches).await.context("cannot store it")?;
    let mut consumer = Consumer::new(servers.client()?, ConsumerOptions::default());
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let (expected, mut read) = (batches * records_per_batch, 0_u64);
    let (begun, before) = (Instant::now(), servers.broker()?.usage()?.cpu_seconds);
    let mut last = begun;
    while read < expected {
        for consumed in consumer.poll(POLL).await? {
            read += consumed.records.len() as u64;
            last = Instant::now();
        }
        ensure!(last.elapsed() < PATIENCE, "{read} of {expected} records came, and then no more");
    }
    ensure!(read == expected, "{read} records came, {expected} were stored");
    let (took, usage) = (begun.elapsed().as_secs_f64(), servers.broker()?.usage()?);
    servers.stop().await?;
    place.dir.clear()?;
    let bytes = (read * record_bytes) as f64;
    Ok(Row {
        partitions,
        record_bytes,
        megabytes_per_second: bytes / 1e6 / took,
        records_per_second: read as f64 / took,
        cpu_seconds_per_gigabyte: (usage.cpu_seconds - before) / (bytes / 1e9),
        peak_rss_bytes: usage.peak_rss_bytes,
    })
}
