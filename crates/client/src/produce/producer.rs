//! A producer of single records: partitions them, batches them, and says where each one went.
//!
//! One worker task per partition owns the batch being filled and that partition's sender. Memory
//! is bounded by `buffer_bytes` over all partitions: `send` waits for room. Idempotent with
//! acks=all: no record is stored twice or out of order, whatever is resent. When a batch is refused,
//! its records fail and those behind it are sent under a new producer id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ids::TopicPartition;
use tailway_wire::record::Compression;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::worker::{Item, Waiter, Worker};
use crate::client::{Acks, Client};
use crate::error::ClientError;
use crate::partitioner::{self, Sticky};

/// Records on their way to a worker.
const QUEUE: usize = 1024;
/// What a record costs beyond its key, value and headers.
const RECORD_OVERHEAD: usize = 64;

/// Settings of a producer.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    pub acks: Acks,
    pub compression: Compression,
    /// How long a batch may wait for more records.
    pub linger: Duration,
    /// A batch is sent when it has this many bytes (before compression).
    pub batch_bytes: usize,
    /// Of all records that are not yet delivered.
    pub buffer_bytes: usize,
    /// From `send` to failure, retries included.
    pub delivery_timeout: Duration,
    /// Let the cluster create missing topics, if its settings allow.
    pub create_topics: bool,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            acks: Acks::All,
            compression: Compression::None,
            linger: Duration::from_millis(5),
            batch_bytes: 64 * 1024,
            buffer_bytes: 32 * 1024 * 1024,
            delivery_timeout: Duration::from_mins(2),
            create_topics: true,
        }
    }
}

/// A record to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProducerRecord {
    /// `None`: by key, or where the batch of the moment goes.
    pub partition: Option<i32>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
}

impl ProducerRecord {
    fn size(&self) -> usize {
        let bytes = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + bytes(v) + 8).sum();
        RECORD_OVERHEAD + bytes(&self.key) + bytes(&self.value) + headers
    }
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    pub partition: TopicPartition,
    /// -1 where the broker did not tell (acks=0, or an ack that only a later one proved).
    pub offset: i64,
}

/// A record that was not delivered.
#[derive(Debug, Clone, thiserror::Error)]
#[error("a record for {partition} was not delivered{}: {cause}", if *.in_doubt { " (or its ack was lost)" } else { "" })]
pub struct DeliveryError {
    pub partition: TopicPartition,
    pub cause: String,
    /// It may be stored all the same.
    pub in_doubt: bool,
}

/// The fate of a record that was taken.
#[derive(Debug)]
pub struct Delivery {
    pub(super) partition: TopicPartition,
    pub(super) reply: oneshot::Receiver<Result<Delivered, DeliveryError>>,
}

impl Delivery {
    /// Waits for the ack or the failure, `delivery_timeout` at most.
    pub async fn wait(self) -> Result<Delivered, DeliveryError> {
        self.reply.await.unwrap_or_else(|_| {
            Err(DeliveryError {
                partition: self.partition,
                cause: "the producer was dropped".into(),
                in_doubt: true,
            })
        })
    }
}

/// Produces records. Shared by reference; dropping it sends what was taken, then ends.
#[derive(Debug)]
pub struct Producer {
    client: Client,
    options: ProducerOptions,
    workers: Mutex<BTreeMap<TopicPartition, mpsc::Sender<Item>>>,
    sticky: Mutex<BTreeMap<String, Sticky>>,
    buffer: Arc<Semaphore>,
}

impl Producer {
    pub fn new(client: Client, options: ProducerOptions) -> Self {
        let buffer = Arc::new(Semaphore::new(options.buffer_bytes.min(Semaphore::MAX_PERMITS)));
        Self { client, options, workers: Mutex::default(), sticky: Mutex::default(), buffer }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Takes a record, as soon as there is room for it. Records sent one after the other to one
    /// partition stay in order.
    pub async fn send(&self, topic: &str, record: ProducerRecord) -> Result<Delivery, ClientError> {
        let info = self.client.partitions_of(topic, self.options.create_topics).await?;
        let count = info.partitions.len();
        let size = record.size();
        let index = match (record.partition, &record.key) {
            (Some(index), _) if info.partitions.contains_key(&index) => Some(index),
            (Some(partition), _) => {
                let topic = topic.to_owned();
                return Err(ClientError::UnknownPartition { topic, partition, partitions: count });
            }
            (None, Some(key)) => partitioner::for_key(key, count),
            (None, None) => self.stick(topic, size, count),
        };
        let Some(index) = index else {
            let partition = TopicPartition::new(topic, 0);
            return Err(ClientError::NoLeader { partition, detail: "it has no partitions".into() });
        };
        let partition = TopicPartition::new(Arc::clone(&info.name), index);
        let permits = u32::try_from(size.min(self.options.buffer_bytes)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.buffer).acquire_many_owned(permits).await;
        let room = room.map_err(|_| ClientError::Stopped("producer"))?;
        let (reply, answer) = oneshot::channel();
        let item = Item::Record { record, waiter: Waiter { reply, _room: room } };
        self.hand_over(&partition, item).await?;
        Ok(Delivery { partition, reply: answer })
    }

    /// Sends what waits for more records now, and returns when everything taken before has been
    /// delivered or has failed.
    pub async fn flush(&self) {
        let workers: Vec<_> = self.lock(|workers| workers.values().cloned().collect());
        let mut done = Vec::new();
        for worker in workers {
            let (reply, answer) = oneshot::channel();
            if worker.send(Item::Flush(reply)).await.is_ok() {
                done.push(answer);
            }
        }
        for answer in done {
            // A worker that is gone has nothing left to flush.
            drop(answer.await);
        }
    }

    fn stick(&self, topic: &str, size: usize, partitions: usize) -> Option<i32> {
        let mut sticky = self.sticky.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sticky) = sticky.get_mut(topic) {
            return sticky.next(size, self.options.batch_bytes, partitions);
        }
        let mut new = Sticky::default();
        let index = new.next(size, self.options.batch_bytes, partitions);
        sticky.insert(topic.to_owned(), new);
        index
    }

    async fn hand_over(&self, partition: &TopicPartition, item: Item) -> Result<(), ClientError> {
        let worker = self.lock(|workers| {
            if let Some(worker) = workers.get(partition) {
                return worker.clone();
            }
            let (items, queue) = mpsc::channel(QUEUE);
            let worker = Worker::new(self.client.clone(), partition.clone(), self.options.clone());
            tailway_runtime::spawn(worker.run(queue));
            workers.insert(partition.clone(), items.clone());
            items
        });
        worker.send(item).await.map_err(|_| ClientError::Stopped("producer"))
    }

    fn lock<T>(&self, f: impl FnOnce(&mut BTreeMap<TopicPartition, mpsc::Sender<Item>>) -> T) -> T {
        f(&mut self.workers.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
