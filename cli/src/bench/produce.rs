//! `tailway bench produce`: how fast the broker takes batches with acks=all, and what a gigabyte of record values costs it.

use std::cell::Cell;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tailway_daemon::exit::Exit;

use super::args::ProduceArgs;
use super::frame::{self, Findings, Place, heading, mib};
use super::latencies::Percentiles;
use super::load::{self, Load};
use super::servers::Servers;
use crate::output::{Output, complain};

const WARM_UP: Duration = Duration::from_secs(2);
/// What Kafka allows an idempotent producer.
const OPEN_MAX: usize = 5;

#[derive(Debug, Serialize)]
struct Produced {
    batch_bytes: u64,
    /// Asked for, over all partitions; none: as fast as it goes.
    records_per_second: Option<u64>,
    seconds: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    partitions: u16,
    record_bytes: u64,
    megabytes_per_second: f64,
    records_per_second: f64,
    ack: Percentiles,
    /// User and system time of broker and coordinator.
    cpu_seconds_per_gigabyte: f64,
    /// Of the broker, since its start.
    peak_rss_bytes: u64,
}

impl Findings for Produced {
    fn method(&self) -> String {
        let rate = self
            .records_per_second
            .map_or_else(|| "as fast as it goes".to_owned(), |rate| format!("{rate} records/s"));
        format!(
            "each partition: one idempotent producer, acks=all, uncompressed batches of {} B, at most {OPEN_MAX} open; {rate}; {} s per row\n\
             CPU of broker and coordinator per 1e9 bytes of record values",
            self.batch_bytes, self.seconds
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let names = ["partitions", "record B", "MB/s", "records/s", "CPU-s/GB", "peak RSS MiB"];
        let mut rows = vec![[heading(names), Percentiles::heading()].concat()];
        rows.extend(self.rows.iter().map(|row| {
            let cells = [
                row.partitions.to_string(),
                row.record_bytes.to_string(),
                format!("{:.1}", row.megabytes_per_second),
                format!("{:.0}", row.records_per_second),
                format!("{:.2}", row.cpu_seconds_per_gigabyte),
                mib(row.peak_rss_bytes),
            ];
            [cells.to_vec(), row.ack.cells()].concat()
        }));
        rows
    }
}

pub(super) fn run(args: &ProduceArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let mut rows = Vec::new();
        for record_bytes in args.record_size.iter().map(|size| size.0) {
            for partitions in args.partitions.iter().copied() {
                let name = format!("{partitions} partitions, records of {record_bytes} B");
                complain(&format!("{name} ..."));
                rows.push(row(args, place, partitions, record_bytes).await.context(name)?);
            }
        }
        Ok(Produced {
            batch_bytes: args.batch_size.0,
            records_per_second: args.rate,
            seconds: args.seconds,
            rows,
        })
    })
}

/// Servers of its own, so that the peak of one row is not that of another.
#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
async fn row(args: &ProduceArgs, place: &Place, partitions: u16, record_bytes: u64) -> Result<Row> {
    let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    let topic = "produce";
    load::make_topic(&servers, topic, partitions).await?;
    let records_per_batch = (args.batch_size.0 / record_bytes.max(1)).clamp(1, 1 << 20);
    let per_producer = |rate: u64| rate as f64 / f64::from(partitions) / records_per_batch as f64;
    let load = Load {
        partitions,
        record_bytes: usize::try_from(record_bytes)?,
        records_per_batch: i32::try_from(records_per_batch)?,
        open_max: OPEN_MAX,
        rate: args.rate.map(per_producer),
        timestamp: place.clock.wall().0,
    };
    let time = Duration::from_secs(args.seconds);
    let cpu = || {
        anyhow::Ok(
            servers.broker()?.usage()?.cpu_seconds + servers.coordinator()?.usage()?.cpu_seconds,
        )
    };
    let before = Cell::new(0.0);
    let sent = load::send_for(&servers, topic, load, WARM_UP, time, || {
        before.set(cpu()?);
        Ok(())
    });
    let sent = sent.await?;
    let (cpu_seconds, bytes) = (cpu()? - before.get(), (sent.records * record_bytes) as f64);
    let peak_rss_bytes = servers.broker()?.usage()?.peak_rss_bytes;
    servers.stop().await?;
    place.dir.clear()?;
    Ok(Row {
        partitions,
        record_bytes,
        megabytes_per_second: bytes / 1e6 / time.as_secs_f64(),
        records_per_second: sent.records as f64 / time.as_secs_f64(),
        ack: sent.latencies.percentiles(),
        cpu_seconds_per_gigabyte: cpu_seconds / (bytes / 1e9).max(f64::MIN_POSITIVE),
        peak_rss_bytes,
    })
}
