//! The worker behind a producer's partition: fills batches, hands them to the partition's sender,
//! and tells each record's waiter what became of it.
//!
//! Batches get their sequence when they are pushed, not before, so that a batch that never was
//! pushed leaves no hole. Invariant: every waiter is answered exactly once, in record order.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ids::TopicPartition;
use tailway_net::backoff::Backoff;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{BatchBuilder, stamp_producer};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};

use super::producer::{Delivered, DeliveryError, ProducerOptions, ProducerRecord};
use super::sender::{PartitionSender, SenderEvent, SenderOptions, SenderStopped};
use crate::client::{Acks, Client};
use crate::error::ClientError;
use crate::machine::pipeline::{Ack, PipelineOptions, ProducerIdentity, StopReason};

/// Full batches that wait for the sender; more records wait in the queue.
const READY_MAX: usize = 2;

pub(super) enum Item {
    Record { record: ProducerRecord, waiter: Waiter },
    Flush(oneshot::Sender<()>),
}

/// Who wants to know about a record; its share of the buffer is free once it is answered.
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<Result<Delivered, DeliveryError>>,
    pub(super) _room: OwnedSemaphorePermit,
}

struct Batch {
    /// Without producer and sequence.
    bytes: Bytes,
    waiters: Vec<Waiter>,
    begun: Instant,
}

struct Link {
    sender: PartitionSender,
    events: mpsc::Receiver<SenderEvent>,
}

pub(super) struct Worker {
    client: Client,
    partition: TopicPartition,
    options: ProducerOptions,
    builder: BatchBuilder,
    filling: Vec<Waiter>,
    /// When the batch being filled was begun.
    begun: Instant,
    ready: VecDeque<Batch>,
    /// Pushed, without an ack; oldest first.
    open: VecDeque<Batch>,
    flushes: Vec<oneshot::Sender<()>>,
    link: Option<Link>,
    /// Under what the next link begins: an epoch that keeps out what was given up and may still arrive.
    successor: Option<ProducerIdentity>,
    closed: bool,
}

enum Turn {
    Item(Option<Item>),
    Linger,
    Room(Result<(), SenderStopped>),
    Event(Option<SenderEvent>),
}

impl Worker {
    pub(super) fn new(client: Client, partition: TopicPartition, options: ProducerOptions) -> Self {
        Self {
            client,
            partition,
            builder: BatchBuilder::new(options.compression),
            options,
            filling: Vec::new(),
            begun: Instant::now(),
            ready: VecDeque::new(),
            open: VecDeque::new(),
            flushes: Vec::new(),
            link: None,
            successor: None,
            closed: false,
        }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Item>) {
        loop {
            if self.is_idle() {
                for flush in self.flushes.drain(..) {
                    flush.send(()).ok();
                }
                if self.closed {
                    return;
                }
            }
            if !self.ready.is_empty() && self.link.is_none() {
                self.make_link().await;
            }
            match self.turn(&mut queue).await {
                Turn::Item(Some(Item::Record { record, waiter })) => self.add(&record, waiter),
                Turn::Item(Some(Item::Flush(done))) => {
                    self.seal();
                    self.flushes.push(done);
                }
                Turn::Item(None) => {
                    self.closed = true;
                    self.seal();
                }
                Turn::Linger => self.seal(),
                Turn::Room(Ok(())) => self.push().await,
                // The event that says why is on its way.
                Turn::Room(Err(_)) => self.wait_for_stop().await,
                Turn::Event(Some(event)) => self.hear(event),
                Turn::Event(None) => self.link = None,
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.ready.is_empty() && self.open.is_empty()
    }

    async fn turn(&mut self, queue: &mut mpsc::Receiver<Item>) -> Turn {
        let linger = self.begun + self.options.linger;
        let may_take = !self.closed && self.ready.len() < READY_MAX;
        let wants_room = !self.ready.is_empty();
        let (events, sender) = match &mut self.link {
            Some(link) => (Some(&mut link.events), Some(&mut link.sender)),
            None => (None, None),
        };
        let hear = async {
            match events {
                Some(events) => events.recv().await,
                None => pending().await,
            }
        };
        let room = async {
            match sender {
                Some(sender) => sender.ready().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            event = hear => Turn::Event(event),
            room = room, if wants_room => Turn::Room(room),
            item = queue.recv(), if may_take => Turn::Item(item),
            () = sleep_until(linger), if !self.filling.is_empty() => Turn::Linger,
        }
    }

    fn add(&mut self, record: &ProducerRecord, waiter: Waiter) {
        let size =
            record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
        if !self.builder.is_empty()
            && self.builder.uncompressed_size() + size > self.options.batch_bytes
        {
            self.seal();
        }
        let headers: Vec<(&str, Option<&[u8]>)> =
            record.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        let added = self.builder.append(
            record.timestamp,
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
        if let Err(error) = added {
            return self.fail(vec![waiter], &error.to_string(), false);
        }
        if self.filling.is_empty() {
            self.begun = Instant::now();
        }
        self.filling.push(waiter);
        if self.builder.uncompressed_size() >= self.options.batch_bytes {
            self.seal();
        }
    }

    /// Ends the batch being filled.
    fn seal(&mut self) {
        if self.filling.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut self.filling);
        match self.builder.finish() {
            Ok(bytes) => self.ready.push_back(Batch { bytes, waiters, begun: self.begun }),
            Err(error) => self.fail(waiters, &error.to_string(), false),
        }
    }

    /// There is room: the oldest ready batch gets its sequence and goes.
    async fn push(&mut self) {
        let (Some(batch), Some(link)) = (self.ready.pop_front(), &mut self.link) else { return };
        let count = i32::try_from(batch.waiters.len()).unwrap_or(i32::MAX);
        let sequence = link.sender.next_batch_sequence(count);
        let stamped = stamp_producer(
            batch.bytes.clone(),
            sequence.identity.producer_id,
            sequence.identity.producer_epoch,
            sequence.base_sequence,
        );
        let bytes = match stamped {
            Ok(bytes) => bytes,
            Err(error) => return self.fail(batch.waiters, &error.to_string(), false),
        };
        if link.sender.push(bytes, count).await.is_ok() {
            self.open.push_back(batch);
        } else {
            self.ready.push_front(batch);
            self.wait_for_stop().await;
        }
    }

    /// The sender has stopped: hears its last events.
    async fn wait_for_stop(&mut self) {
        while let Some(link) = &mut self.link {
            match link.events.recv().await {
                Some(event) => self.hear(event),
                None => self.link = None,
            }
        }
    }

    fn hear(&mut self, event: SenderEvent) {
        match event {
            SenderEvent::Acked(ack) => self.acked(ack),
            // Said when it begins, then ever more rarely.
            SenderEvent::Retrying { attempts, .. } if !attempts.is_power_of_two() => {}
            SenderEvent::Retrying { cause, attempts } => {
                tracing::warn!(partition = %self.partition, attempts, cause, "trying again");
            }
            SenderEvent::Stopped { reason, .. } => self.stopped(reason),
        }
    }

    fn acked(&mut self, ack: Ack) {
        let Some(batch) = self.open.pop_front() else { return };
        let mut offset = ack.base_offset;
        for waiter in batch.waiters {
            let delivered = Delivered { partition: self.partition.clone(), offset };
            // Nobody needs to listen.
            drop(waiter.reply.send(Ok(delivered)));
            if offset >= 0 {
                offset += 1;
            }
        }
    }

    fn stopped(&mut self, reason: StopReason) {
        let identity = self.link.take().map(|link| link.sender.identity());
        let is_behind = matches!(
            reason,
            StopReason::Refused {
                code: ErrorCode::INVALID_PRODUCER_EPOCH | ErrorCode::PRODUCER_FENCED,
                ..
            }
        );
        let next = identity.and_then(ProducerIdentity::next_epoch);
        self.successor = next.filter(|_| !is_behind);
        let mut open = std::mem::take(&mut self.open);
        match reason {
            StopReason::Refused { code, message } => {
                let tail = message.map_or_else(String::new, |message| format!(" ({message})"));
                let hint = refusal_hint(code);
                let cause = format!("{code}{tail}{hint}");
                let of_batch = !is_about_producer(code);
                if let Some(batch) = open.pop_front() {
                    self.fail(batch.waiters, &cause, !of_batch);
                }
                for batch in open.into_iter().rev() {
                    if of_batch {
                        // Behind a sequence that was refused nothing can have been stored.
                        self.ready.push_front(batch);
                    } else {
                        self.fail(batch.waiters, &cause, true);
                    }
                }
            }
            StopReason::DeliveryTimedOut { after, cause } => {
                let cause = format!("gave up after {after:?}: {cause}");
                let in_doubt = !tailway_faults::is_planted("client.doubt_told_as_failure");
                for batch in open {
                    self.fail(batch.waiters, &cause, in_doubt);
                }
            }
        }
    }

    fn fail(&self, waiters: Vec<Waiter>, cause: &str, in_doubt: bool) {
        for waiter in waiters {
            let partition = self.partition.clone();
            let error = DeliveryError { partition, cause: cause.to_owned(), in_doubt };
            // Nobody needs to listen.
            drop(waiter.reply.send(Err(error)));
        }
    }

    /// Gets a producer id and starts a sender; when the oldest batch has run out of time or it
    /// cannot work at all, what is ready fails instead.
    async fn make_link(&mut self) {
        let mut backoff = Backoff::new(
            Duration::from_millis(100),
            Duration::from_secs(1),
            tailway_runtime::seed(),
        );
        let error = loop {
            match self.identity().await {
                Ok(identity) => {
                    let options = SenderOptions {
                        next_sequence: 0,
                        acks: self.options.acks,
                        request_timeout: self.client.config().request_timeout,
                        pipeline: PipelineOptions {
                            delivery_timeout: Some(self.options.delivery_timeout),
                            seed: tailway_runtime::seed(),
                            ..PipelineOptions::default()
                        },
                    };
                    let (sender, events) = PartitionSender::start(
                        self.client.clone(),
                        self.partition.clone(),
                        identity,
                        options,
                    );
                    self.link = Some(Link { sender, events });
                    return;
                }
                Err(error) if !error.is_retriable() => break error,
                Err(error) => {
                    let begun = self.ready.front().map_or_else(Instant::now, |batch| batch.begun);
                    if begun.elapsed() >= self.options.delivery_timeout {
                        break error;
                    }
                    sleep(backoff.next_pause()).await;
                }
            }
        };
        for batch in std::mem::take(&mut self.ready) {
            self.fail(batch.waiters, &error.to_string(), false);
        }
    }

    async fn identity(&mut self) -> Result<ProducerIdentity, ClientError> {
        if let Some(successor) = self.successor.take() {
            return Ok(successor);
        }
        match self.options.acks {
            Acks::All => self.client.init_producer_id().await,
            // Idempotence needs every replica's word.
            Acks::None | Acks::Leader => Ok(ProducerIdentity::NONE),
        }
    }
}

/// Whether an error says that the broker's idea of this producer is not ours, in which case it is
/// unknown what is stored.
fn is_about_producer(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::UNKNOWN_PRODUCER_ID
            | ErrorCode::PRODUCER_FENCED
    )
}

fn refusal_hint(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => {
            "; try: smaller records or batches, or a larger max.message.bytes of the topic"
        }
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            "; try: give this client's principal the right to write"
        }
        ErrorCode::UNSUPPORTED_COMPRESSION_TYPE => "; try: another compression",
        _ => "",
    }
}
