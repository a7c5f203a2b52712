//! `tailway bench ack`: how long an acks=all batch takes until it is durable, with N partitions written at the same time.
//!
//! Each partition has one idempotent producer, which sends its next batch as soon as the last is acknowledged: so all N are
//! dirty all the time. The disk's own sync rate is what an ack costs at least.

use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use tailway_daemon::exit::Exit;

use super::args::AckArgs;
use super::frame::{self, Findings, Place, heading};
use super::latencies::Percentiles;
use super::load::{self, Load};
use super::servers::Servers;
use crate::output::{Output, complain};

const RECORDS_PER_BATCH: i32 = 10;
const RECORD_BYTES: usize = 100;
const WARM_UP: Duration = Duration::from_secs(2);

#[derive(Debug, Serialize)]
struct Ack {
    records_per_batch: i32,
    record_bytes: usize,
    seconds: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    partitions: u16,
    acks_per_second: u64,
    ack: Percentiles,
}

impl Findings for Ack {
    fn method(&self) -> String {
        format!(
            "each partition: one idempotent producer, acks=all, one batch of {} records of {} B in flight; {} s per row",
            self.records_per_batch, self.record_bytes, self.seconds
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![[heading(["partitions", "acks/s"]), Percentiles::heading()].concat()];
        rows.extend(self.rows.iter().map(|row| {
            let name = vec![row.partitions.to_string(), row.acks_per_second.to_string()];
            [name, row.ack.cells()].concat()
        }));
        rows
    }
}

pub(super) fn run(args: &AckArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
        let mut rows = Vec::new();
        for partitions in args.partitions.iter().copied() {
            complain(&format!("{partitions} active partitions ..."));
            let row = row(&servers, partitions, Duration::from_secs(args.seconds), place).await;
            rows.push(row.with_context(|| format!("with {partitions} partitions"))?);
        }
        servers.stop().await?;
        let (records_per_batch, record_bytes) = (RECORDS_PER_BATCH, RECORD_BYTES);
        Ok(Ack { records_per_batch, record_bytes, seconds: args.seconds, rows })
    })
}

/// Makes a topic, writes to all its partitions and deletes it.
async fn row(servers: &Servers, partitions: u16, time: Duration, place: &Place) -> Result<Row> {
    let topic = format!("ack-{partitions}");
    let admin = load::make_topic(servers, &topic, partitions).await?;
    let load = Load {
        partitions,
        record_bytes: RECORD_BYTES,
        records_per_batch: RECORDS_PER_BATCH,
        open_max: 1,
        rate: None,
        timestamp: place.clock.wall().0,
    };
    let sent = load::send_for(servers, &topic, load, WARM_UP, time, || Ok(())).await?;
    admin.delete_topics(&[topic]).await.context("cannot delete the topic")?;
    let ack = sent.latencies.percentiles();
    let acks = u64::try_from(ack.samples).unwrap_or(u64::MAX);
    Ok(Row { partitions, acks_per_second: acks / time.as_secs().max(1), ack })
}
