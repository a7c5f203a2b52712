//! `tailway bench start`: from exec to ready and to the first durable ack, after what a broker may find on its disk.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tailway_daemon::exit::Exit;

use super::args::StartArgs;
use super::frame::{self, Findings, Place, heading, mib};
use super::latencies::ms;
use super::load::{self, Load};
use super::servers::Servers;
use crate::output::{Output, complain};

const TOPIC: &str = "start";
const RECORD_BYTES: usize = 1_000;
const RECORDS_PER_BATCH: i32 = 16;

#[derive(Debug, Serialize)]
struct Starts {
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    found: String,
    ready_us: u32,
    first_ack_us: u32,
    rss_bytes: u64,
}

impl Findings for Starts {
    fn method(&self) -> String {
        "the broker's exec until /readyz answers 200, and until a batch of one new producer is durable and acknowledged; the coordinator runs"
            .to_owned()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![heading(["the broker finds", "ready ms", "first ack ms", "RSS MiB"])];
        rows.extend(self.rows.iter().map(|row| {
            let (ready, ack) = (ms(row.ready_us), ms(row.first_ack_us));
            vec![row.found.clone(), ready, ack, mib(row.rss_bytes)]
        }));
        rows
    }
}

/// How the broker went before it is started again.
#[derive(Debug, Clone, Copy)]
enum Gone {
    Stopped,
    Killed,
}

pub(super) fn run(args: &StartArgs, output: Output) -> Result<Exit> {
    let partitions = args.partitions;
    frame::run(&args.common, output, async |place| {
        let mut rows = vec![nothing(place).await?];
        for (gone, how) in [(Gone::Stopped, "a clean stop"), (Gone::Killed, "kill -9")] {
            let found = format!("{partitions} partitions with a batch each, after {how}");
            rows.push(again(place, &found, partitions, u64::from(partitions), gone).await?);
        }
        let batch_bytes = RECORD_BYTES as u64 * u64::from(RECORDS_PER_BATCH.unsigned_abs());
        let found = format!("{} in one partition, after kill -9", args.size);
        rows.push(again(place, &found, 1, (args.size.0 / batch_bytes).max(1), Gone::Killed).await?);
        Ok(Starts { rows })
    })
}

async fn nothing(place: &Place) -> Result<Row> {
    complain("an empty directory ...");
    let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    load::make_topic(&servers, TOPIC, 1).await?;
    let row = first_ack(place, &servers, "an empty directory").await?;
    servers.stop().await?;
    place.dir.clear()?;
    Ok(row)
}

async fn again(
    place: &Place,
    found: &str,
    partitions: u16,
    batches: u64,
    gone: Gone,
) -> Result<Row> {
    complain(&format!("{found} ..."));
    let mut servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    load::make_topic(&servers, TOPIC, partitions).await?;
    load::send_batches(&servers, TOPIC, load(place, partitions), batches).await?;
    let broker = servers.take_broker()?;
    match gone {
        Gone::Stopped => broker.stop().await?,
        Gone::Killed => broker.kill()?,
    }
    servers.start_broker().await?;
    let row = first_ack(place, &servers, found).await.with_context(|| found.to_owned())?;
    servers.stop().await?;
    place.dir.clear()?;
    Ok(row)
}

async fn first_ack(place: &Place, servers: &Servers, found: &str) -> Result<Row> {
    load::send_batches(servers, TOPIC, load(place, 1), 1).await?;
    let broker = servers.broker()?;
    Ok(Row {
        found: found.to_owned(),
        first_ack_us: micros(since(broker.started)),
        ready_us: micros(broker.ready_after),
        rss_bytes: broker.usage()?.rss_bytes,
    })
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
fn since(begun: Instant) -> Duration {
    begun.elapsed()
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

fn load(place: &Place, partitions: u16) -> Load {
    Load {
        partitions,
        record_bytes: RECORD_BYTES,
        records_per_batch: RECORDS_PER_BATCH,
        open_max: 5,
        rate: None,
        timestamp: place.clock.wall().0,
    }
}
