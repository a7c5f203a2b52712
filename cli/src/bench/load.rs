//! Producers as a benchmark needs them: one per partition, a few per connection, idempotent, acks=all, each with as many
//! batches open as an idempotent producer may have.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tailway_client::admin::NewTopic;
use tailway_client::produce::{PartitionSender, SenderEvent, SenderOptions};
use tailway_client::{Admin, Client, ProducerIdentity, TopicPartition};
use tailway_wire::record::{BatchBuilder, Compression};
use tokio::task::JoinSet;

use super::latencies::Latencies;
use super::servers::Servers;

const PARTITIONS_PER_CONNECTION: u16 = 8;

/// A thousand partitions are some thousand files to be made and synced.
const TOPIC_TIMEOUT: Duration = Duration::from_mins(3);

/// A batch that is not acknowledged after this long ends the run.
const ACK_TIMEOUT: Duration = Duration::from_mins(1);

/// What each producer sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) partitions: u16,
    pub(super) record_bytes: usize,
    pub(super) records_per_batch: i32,
    /// Batches without an ack, of each producer; never more than five, Kafka's limit.
    pub(super) open_max: usize,
    /// Batches a second of each producer; as many as go if there is none.
    pub(super) rate: Option<f64>,
    /// Of a record.
    pub(super) timestamp: i64,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Acknowledged while it was measured.
    pub(super) records: u64,
    pub(super) latencies: Latencies,
}

/// Where all producers of a run are.
#[derive(Debug)]
struct Phase {
    at: AtomicU8,
    /// Batches that may still be sent; `u64::MAX`: no end but by time.
    left: AtomicU64,
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

impl Phase {
    fn is(&self) -> u8 {
        self.at.load(Ordering::Acquire)
    }

    fn set(&self, phase: u8) {
        self.at.store(phase, Ordering::Release);
    }

    /// Whether one more batch is to be sent.
    fn one_more(&self) -> bool {
        let less = |left: u64| match left {
            u64::MAX => Some(left),
            left => left.checked_sub(1),
        };
        let more = self.left.fetch_update(Ordering::AcqRel, Ordering::Acquire, less).is_ok();
        more && self.is() != ENDED
    }
}

/// Makes a topic and waits until the broker leads it.
pub(super) async fn make_topic(servers: &Servers, topic: &str, partitions: u16) -> Result<Admin> {
    let admin = Admin::new(servers.client()?);
    let new = NewTopic { partitions: Some(i32::from(partitions)), ..NewTopic::new(topic) };
    admin.create_topic(&new).await.context("cannot create the topic")?;
    let known = tokio::time::timeout(TOPIC_TIMEOUT, until_known(admin.client(), topic)).await;
    known.context("the topic was created, but the broker does not lead its partitions in time")?;
    Ok(admin)
}

/// The broker shows a topic once it has made and synced the files of all its partitions.
async fn until_known(client: &Client, topic: &str) {
    while client.topic(topic).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Sends for `warm_up` and then for `time`, calling `measuring` between the two.
pub(super) async fn send_for(
    servers: &Servers,
    topic: &str,
    load: Load,
    warm_up: Duration,
    time: Duration,
    measuring: impl FnOnce() -> Result<()>,
) -> Result<Sent> {
    let phase = Arc::new(Phase { at: AtomicU8::new(WARMING), left: AtomicU64::new(u64::MAX) });
    let mut producers = Producers::start(servers, topic, load, &phase).await?;
    producers.fail_early(warm_up).await?;
    measuring()?;
    phase.set(MEASURING);
    producers.fail_early(time).await?;
    phase.set(ENDED);
    producers.finish().await
}

/// Sends that many batches.
pub(super) async fn send_batches(
    servers: &Servers,
    topic: &str,
    load: Load,
    batches: u64,
) -> Result<Sent> {
    let phase = Arc::new(Phase { at: AtomicU8::new(MEASURING), left: AtomicU64::new(batches) });
    Producers::start(servers, topic, load, &phase).await?.finish().await
}

/// All of a run.
struct Producers {
    running: JoinSet<Result<Sent>>,
    sent: Sent,
    clients: Vec<Client>,
}

impl Producers {
    async fn start(
        servers: &Servers,
        topic: &str,
        load: Load,
        phase: &Arc<Phase>,
    ) -> Result<Producers> {
        let (mut running, mut clients) = (JoinSet::new(), Vec::new());
        for first in (0..load.partitions).step_by(usize::from(PARTITIONS_PER_CONNECTION)) {
            let client = servers.client()?;
            client.topic(topic).await.context("cannot find the topic")?;
            for index in first..load.partitions.min(first + PARTITIONS_PER_CONNECTION) {
                let partition = TopicPartition::new(topic, i32::from(index));
                let one = produce(client.clone(), partition, Arc::clone(phase), load);
                running.spawn(tailway_runtime::task(one));
            }
            clients.push(client);
        }
        Ok(Producers { running, sent: Sent::default(), clients })
    }

    /// Waits that long; an error as soon as one of them has one.
    async fn fail_early(&mut self, time: Duration) -> Result<()> {
        tokio::select! {
            biased;
            ended = self.running.join_next() => match ended {
                Some(Ok(Err(error))) => Err(error),
                Some(Err(error)) => Err(error.into()),
                Some(Ok(Ok(_))) | None => bail!("a producer has ended too early"),
            },
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<Sent> {
        while let Some(ended) = self.running.join_next().await {
            let Sent { records, latencies } = ended??;
            self.sent.records += records;
            self.sent.latencies.join(latencies);
        }
        for client in self.clients {
            client.close().await;
        }
        Ok(self.sent)
    }
}

/// Sends batch after batch to one partition; what was begun and acknowledged while it was measured counts.
#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn produce(
    client: Client,
    partition: TopicPartition,
    phase: Arc<Phase>,
    load: Load,
) -> Result<Sent> {
    let identity = client.init_producer_id().await?;
    let options = SenderOptions::default();
    let (mut sender, mut events) = PartitionSender::start(client, partition, identity, options);
    let record = vec![b'x'; load.record_bytes];
    let (mut sent, mut open, mut pushed) = (Sent::default(), VecDeque::new(), 0_u32);
    let begun = Instant::now();
    let mut more = phase.one_more();
    while more || !open.is_empty() {
        let due = load
            .rate
            .map_or(begun, |rate| begun + Duration::from_secs_f64(f64::from(pushed) / rate));
        let room = more && open.len() < load.open_max;
        tokio::select! {
            biased;
            event = tokio::time::timeout(ACK_TIMEOUT, events.recv()), if !open.is_empty() => {
                let event = event.context("no ack came in a minute; the broker's log is broker.log in its directory")?;
                if !acked(event)? {
                    continue;
                }
                if let Some(Some(since)) = open.pop_front() && phase.is() == MEASURING {
                    let since: Instant = since;
                    sent.latencies.add(since.elapsed());
                    sent.records += u64::from(load.records_per_batch.unsigned_abs());
                }
            }
            ready = ready_at(&mut sender, due), if room => {
                ready?;
                let sequence = sender.next_batch_sequence(load.records_per_batch).base_sequence;
                let bytes = batch(identity, sequence, load, &record)?;
                open.push_back((phase.is() == MEASURING).then(Instant::now));
                sender.push(bytes, load.records_per_batch).await?;
                pushed = pushed.saturating_add(1);
                more = phase.one_more();
            }
        }
    }
    Ok(sent)
}

async fn ready_at(sender: &mut PartitionSender, due: Instant) -> Result<()> {
    tokio::time::sleep_until(due.into()).await;
    Ok(sender.ready().await?)
}

fn batch(identity: ProducerIdentity, sequence: i32, load: Load, record: &[u8]) -> Result<Bytes> {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(identity.producer_id, identity.producer_epoch, sequence);
    for _ in 0..load.records_per_batch {
        builder.append(load.timestamp, None, Some(record), &[])?;
    }
    Ok(builder.finish()?)
}

/// False: something else happened.
fn acked(event: Option<SenderEvent>) -> Result<bool> {
    match event {
        Some(SenderEvent::Acked(_)) => Ok(true),
        Some(SenderEvent::Retrying { .. }) => Ok(false),
        Some(SenderEvent::Stopped { reason, .. }) => bail!("the producer stopped: {reason:?}"),
        None => bail!("the producer has ended"),
    }
}
