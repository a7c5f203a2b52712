//! `tailway bench ack`: how long an acks=all batch takes until it is durable, with N partitions written at the same time.
//!
//! Each partition has one idempotent producer, which sends its next batch as soon as the last is acknowledged: so all N are
//! dirty all the time. A few partitions share a connection. The disk's own sync rate is taken before and after, on the same
//! file system, because it is what an ack costs at least.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use tailway_client::admin::NewTopic;
use tailway_client::produce::{PartitionSender, SenderEvent, SenderOptions};
use tailway_client::{Admin, Client, TopicPartition};
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_wire::record::{BatchBuilder, Compression};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::conditions::Conditions;
use super::disk::{self, DiskSpeed};
use super::latencies::{Latencies, Percentiles, ms};
use super::system::{BenchDir, Servers, Transport};
use crate::args::BenchAckArgs;
use crate::output::{complain, say, table};

const PARTITIONS_PER_CONNECTION: u16 = 8;
const RECORDS_PER_BATCH: i32 = 10;
const RECORD: [u8; 100] = [b'x'; 100];
const WARM_UP: Duration = Duration::from_secs(2);

/// A thousand partitions are some thousand files to be made and synced.
const TOPIC_TIMEOUT: Duration = Duration::from_mins(3);

/// A batch that is not acknowledged after this long ends the run.
const ACK_TIMEOUT: Duration = Duration::from_mins(1);

#[derive(Debug, Serialize)]
struct AckBench {
    conditions: Conditions,
    records_per_batch: i32,
    record_bytes: usize,
    seconds: u64,
    disk_before: DiskSpeed,
    rows: Vec<Row>,
    disk_after: DiskSpeed,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    partitions: u16,
    acks_per_second: u64,
    ack: Percentiles,
}

/// Where all producers of a row are.
#[derive(Debug)]
struct Phase(AtomicU8);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

impl Phase {
    fn is(&self) -> u8 {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Release);
    }
}

pub(super) fn run(args: &BenchAckArgs) -> Result<Exit> {
    let transport = if args.plaintext { Transport::Plaintext } else { Transport::Tls };
    let clock = Clock::new();
    let mut conditions = Conditions::before(&args.dir, transport, &clock);
    let dir = BenchDir::make(&args.dir)?;
    complain("the disk alone ...");
    let disk_before = disk::measure(&dir.path)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let rows = runtime.block_on(rows(args, &dir, transport, &clock));
    runtime.shutdown_timeout(Duration::from_millis(100));
    let rows = rows?;
    complain("the disk alone, again ...");
    let disk_after = disk::measure(&dir.path)?;
    conditions.after();
    let result = AckBench {
        conditions,
        records_per_batch: RECORDS_PER_BATCH,
        record_bytes: RECORD.len(),
        seconds: args.seconds,
        disk_before,
        rows,
        disk_after,
    };
    show(&result)?;
    if let Some(path) = &args.json {
        super::write_json(path, &result)?;
    }
    Ok(Exit::Ok)
}

async fn rows(
    args: &BenchAckArgs,
    dir: &BenchDir,
    transport: Transport,
    clock: &Clock,
) -> Result<Vec<Row>> {
    let servers = Servers::start(dir, transport, clock).await?;
    let mut rows = Vec::new();
    for partitions in &args.partitions {
        complain(&format!("{partitions} active partitions ..."));
        match row(&servers, *partitions, Duration::from_secs(args.seconds), clock).await {
            Ok(row) => rows.push(row),
            Err(error) => {
                // Of the two errors the first is the cause.
                servers.stop().await.ok();
                return Err(error.context(format!("with {partitions} partitions")));
            }
        }
    }
    servers.stop().await?;
    Ok(rows)
}

/// Makes a topic, writes to all its partitions and deletes it.
async fn row(servers: &Servers, partitions: u16, time: Duration, clock: &Clock) -> Result<Row> {
    let topic = format!("ack-{partitions}");
    let admin = Admin::new(servers.client()?);
    let new = NewTopic { partitions: Some(i32::from(partitions)), ..NewTopic::new(&topic) };
    admin.create_topic(&new).await.context("cannot create the topic")?;
    let known = tokio::time::timeout(TOPIC_TIMEOUT, until_known(admin.client(), &topic)).await;
    known.context("the topic was created, but the broker does not lead its partitions in time")?;
    let phase = Arc::new(Phase(AtomicU8::new(WARMING)));
    let mut producers = JoinSet::new();
    let mut clients = Vec::new();
    for first in (0..partitions).step_by(usize::from(PARTITIONS_PER_CONNECTION)) {
        let client = servers.client()?;
        client.topic(&topic).await.context("cannot find the topic")?;
        for index in first..partitions.min(first + PARTITIONS_PER_CONNECTION) {
            let partition = TopicPartition::new(topic.as_str(), i32::from(index));
            let one = produce(client.clone(), partition, Arc::clone(&phase), clock.wall().0);
            producers.spawn(tailway_runtime::task(one));
        }
        clients.push(client);
    }
    tokio::time::sleep(WARM_UP).await;
    phase.set(MEASURING);
    tokio::time::sleep(time).await;
    phase.set(ENDED);
    let mut latencies = Latencies::default();
    while let Some(ended) = producers.join_next().await {
        latencies.join(ended??);
    }
    for client in clients {
        client.close().await;
    }
    admin.delete_topics(&[topic]).await.context("cannot delete the topic")?;
    let ack = latencies.percentiles();
    let acks = u64::try_from(ack.samples).unwrap_or(u64::MAX);
    Ok(Row { partitions, acks_per_second: acks / time.as_secs().max(1), ack })
}

/// The broker shows a topic once it has made and synced the files of all its partitions.
async fn until_known(client: &Client, topic: &str) {
    while client.topic(topic).await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends batch after batch to one partition; the latencies of those that were begun and acknowledged while it was measured.
#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn produce(
    client: Client,
    partition: TopicPartition,
    phase: Arc<Phase>,
    timestamp: i64,
) -> Result<Latencies> {
    let identity = client.init_producer_id().await?;
    let options = SenderOptions::default();
    let (mut sender, mut events) = PartitionSender::start(client, partition, identity, options);
    let mut latencies = Latencies::default();
    while phase.is() != ENDED {
        let measured = phase.is() == MEASURING;
        let sequence = sender.next_batch_sequence(RECORDS_PER_BATCH).base_sequence;
        let bytes = batch(identity.producer_id, identity.producer_epoch, sequence, timestamp)?;
        let began = Instant::now();
        sender.push(bytes, RECORDS_PER_BATCH).await?;
        tokio::time::timeout(ACK_TIMEOUT, acked(&mut events))
            .await
            .context("no ack came in a minute; the broker's log is dev.log in its directory")??;
        if measured && phase.is() == MEASURING {
            latencies.add(began.elapsed());
        }
    }
    Ok(latencies)
}

fn batch(producer_id: i64, epoch: i16, sequence: i32, timestamp: i64) -> Result<Bytes> {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(producer_id, epoch, sequence);
    for _ in 0..RECORDS_PER_BATCH {
        builder.append(timestamp, None, Some(&RECORD), &[])?;
    }
    Ok(builder.finish()?)
}

async fn acked(events: &mut mpsc::Receiver<SenderEvent>) -> Result<()> {
    loop {
        match events.recv().await {
            Some(SenderEvent::Acked(_)) => return Ok(()),
            Some(SenderEvent::Retrying { .. }) => {}
            Some(SenderEvent::Stopped { reason, .. }) => bail!("the producer stopped: {reason:?}"),
            None => bail!("the producer has ended"),
        }
    }
}

fn show(result: &AckBench) -> Result<()> {
    let heading = ["partitions", "acks/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms", "samples"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let cells = |name: String, per_second: String, of: &Percentiles| {
        let Percentiles { samples, p50_us, p99_us, p999_us, max_us } = *of;
        let times = [p50_us, p99_us, p999_us, max_us].map(ms);
        [vec![name, per_second], times.to_vec(), vec![samples.to_string()]].concat()
    };
    for row in &result.rows {
        rows.push(cells(row.partitions.to_string(), row.acks_per_second.to_string(), &row.ack));
    }
    for (when, speed) in [("before", &result.disk_before), ("after", &result.disk_after)] {
        let name = |what: &str| format!("disk {when}: 4 KiB + {what}");
        rows.push(cells(name("fdatasync"), String::new(), &speed.fdatasync));
        rows.push(cells(name("syncfs"), String::new(), &speed.syncfs));
    }
    for line in result.conditions.lines() {
        say(&line)?;
    }
    say(&format!(
        "each partition: one idempotent producer, acks=all, one batch of {} records of {} B in flight; {} s per row",
        result.records_per_batch, result.record_bytes, result.seconds
    ))?;
    table(&rows).iter().try_for_each(|line| say(line))
}
