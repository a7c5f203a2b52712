//! One partition's task: find out what is in doubt, get a producer identity, send.
//!
//! The shipper's lane says `Resolve` once at its start and again after its pipeline stopped, and is
//! told which doubtful batches are stored: by the leader's memory of its producers where that says
//! it all, else by a scan. Where neither is allowed, it is told that, and nothing is known. Then it says `Start`, with those of an earlier process
//! that are to be sent again as they were, and from then on batches go out in the order in which
//! they come. Until something works it is tried again, and what is in the way is told.
//!
//! A request of a process that was killed may still be on its way when its successor looks for it.
//! A batch that is sent again with its own sequences is stored once whichever comes first. What is
//! sent anew is not: the new epoch of the producer keeps the old request out from the first batch
//! on, and not before. So what lies between the look and the first acknowledgement is looked at
//! again, and a batch found twice is told instead of hidden. An acknowledgement without an offset
//! does not say how far to look, so the next one that has an offset does. Looking again holds up
//! neither the acknowledgements nor a stop, and is tried until it works.
//!
//! A topic that was deleted and made anew is another topic: before it is looked into, and when
//! sending has trouble, the link compares its id, and the cluster's, with those that the lane knows.

use std::time::Duration;

use bytes::Bytes;
use tailway_client::admin::ConfigResource;
use tailway_client::machine::pipeline::{
    Ack, PipelineOptions, ProducerIdentity, SequencedBatch, StopReason,
};
use tailway_client::produce::{SenderEvent, SenderOptions};
use tailway_client::resolve::{Doubt, LookFrom, Proof, look, scan};
use tailway_client::{Admin, Client, ClientError, PartitionSender, TopicPartition};
use tailway_daemon::Stop;
use tailway_net::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::inbox::{Inbox, LaneId, Message};
use super::second_look::{Missing, end_of, records_repeated};
use super::topic::TopicFound;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// For requests of a process that died a moment ago.
const SETTLE: Duration = Duration::from_secs(1);
/// Second looks under way; of more, the oldest is given up.
const LOOKS_MAX: usize = 16;

/// After so many milliseconds without a batch a broker forgets a producer.
const PRODUCER_EXPIRATION: &str = "producer.id.expiration.ms";

/// What the lane wants.
#[derive(Debug)]
pub enum Command {
    /// Find out about `doubts`. `settle`: requests may still be on their way.
    Resolve { doubts: Vec<Doubt>, from: LookFrom, settle: bool, proof: Proof },
    /// Get ready to send under `identity`, or under one that was never used. `resent`, with their
    /// counts of records, are the first batches, from `first_sequence` on; an earlier process has
    /// sent them.
    Start { identity: Option<ProducerIdentity>, first_sequence: i32, resent: Vec<(Bytes, i32)> },
    /// A batch with the next sequences of the identity in `Started`.
    Batch { bytes: Bytes, count: i32 },
}

/// The task's side of a lane.
#[derive(Debug, Clone)]
pub struct Link {
    pub lane: LaneId,
    pub client: Client,
    pub partition: TopicPartition,
    /// The topic that the lane knows.
    pub topic: TopicFound,
    pub request_timeout: Duration,
    /// A batch that has no acknowledgement for this long is looked for instead of sent again.
    pub delivery_timeout: Duration,
    pub inbox: Inbox,
}

fn is_other(known: &TopicFound, found: &TopicFound) -> bool {
    let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
    differ(&known.cluster, &found.cluster) || differ(&known.topic_id, &found.topic_id)
}

/// What a task keeps from one pipeline to the next.
#[derive(Debug)]
struct Memory {
    topic: TopicFound,
    missing: Missing,
    /// Of the last look, before it is known whether it is sent again as it was.
    fresh: Missing,
    looks: JoinSet<()>,
    /// How long a batch without an answer is sent again, once that is known.
    patience: Option<Duration>,
}

impl Link {
    /// Runs until the lane is dropped or the program stops.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>, mut stop: Stop) {
        let mut memory = Memory {
            topic: self.topic.clone(),
            missing: Missing::default(),
            fresh: Missing::default(),
            looks: JoinSet::new(),
            patience: None,
        };
        while self.turn(&mut memory, &mut commands, &mut stop).await.is_some() {}
    }

    async fn turn(
        &self,
        memory: &mut Memory,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut Stop,
    ) -> Option<()> {
        match stop.unless(commands.recv()).await?? {
            Command::Resolve { doubts, from, settle, proof } => {
                if settle {
                    stop.unless(tokio::time::sleep(SETTLE)).await?;
                }
                if !doubts.is_empty() {
                    let known = &memory.topic;
                    let moved = self.until_it_works(|| self.moved(known), stop).await?;
                    if let Some(found) = moved {
                        self.tell_moved(memory, found);
                        return Some(());
                    }
                }
                let look = || look(&self.client, &self.partition, &doubts, from, proof);
                let resolved = self.until_it_works(look, stop).await?;
                memory.fresh = Missing::of(&doubts, &resolved);
                self.inbox.send(Message::Resolved { lane: self.lane, resolved });
            }
            Command::Start { identity, first_sequence, resent } => {
                let identity = match identity {
                    Some(identity) => identity,
                    None => self.until_it_works(|| self.client.init_producer_id(), stop).await?,
                };
                self.inbox.send(Message::Started { lane: self.lane, identity });
                let mut fresh = std::mem::take(&mut memory.fresh);
                for (_, allowed) in &mut fresh.doubts {
                    *allowed = u32::from(!resent.is_empty());
                }
                memory.missing.join(fresh);
                self.send(identity, (first_sequence, resent), memory, commands, stop).await?;
            }
            // It was on its way when its pipeline stopped: it comes again later.
            Command::Batch { .. } => {}
        }
        Some(())
    }

    async fn until_it_works<T, F>(&self, attempt: impl Fn() -> F, stop: &mut Stop) -> Option<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut backoff = self.backoff();
        loop {
            match stop.unless(attempt()).await? {
                Ok(value) => return Some(value),
                Err(error) => self.tell_trouble(error.to_string()),
            }
            stop.unless(tokio::time::sleep(backoff.next_pause())).await?;
        }
    }

    fn backoff(&self) -> Backoff {
        let seed = self.partition.partition.unsigned_abs();
        Backoff::new(PAUSE_FIRST, PAUSE_MAX, u64::from(seed))
    }

    /// The topic as it is now, if it is not the one that is known.
    async fn moved(&self, known: &TopicFound) -> Result<Option<TopicFound>, ClientError> {
        let name = &self.partition.topic;
        self.client.invalidate(name);
        let topic = self.client.topic_or_create(name).await?;
        let found = TopicFound::of(&self.client, &topic);
        Ok(is_other(known, &found).then_some(found))
    }

    /// The same, as far as it is known without asking.
    fn has_moved(&self, known: &TopicFound) -> Option<TopicFound> {
        let cluster = self.client.known();
        let topic = cluster.topic(&self.partition.topic)?;
        let found = TopicFound::of(&self.client, topic);
        is_other(known, &found).then_some(found)
    }

    fn tell_moved(&self, memory: &mut Memory, found: TopicFound) {
        memory.topic = found.clone();
        // What is looked for a second time was in the topic that is gone.
        memory.missing = Missing::default();
        self.inbox.send(Message::Moved { lane: self.lane, found });
    }

    /// Sends until the pipeline stops (`Some`), or nobody wants to send any more.
    async fn send(
        &self,
        identity: ProducerIdentity,
        (first_sequence, resent): (i32, Vec<(Bytes, i32)>),
        memory: &mut Memory,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut Stop,
    ) -> Option<()> {
        let patience = match memory.patience {
            Some(patience) => patience,
            None => stop.unless(self.patience()).await?,
        };
        memory.patience = Some(patience);
        let pipeline = PipelineOptions {
            delivery_timeout: Some(patience),
            sent_before: resent.len(),
            ..PipelineOptions::default()
        };
        let options = SenderOptions {
            next_sequence: first_sequence,
            request_timeout: self.request_timeout,
            pipeline,
            ..SenderOptions::default()
        };
        let (mut sender, mut events) =
            PartitionSender::start(self.client.clone(), self.partition.clone(), identity, options);
        let mut resent_left = resent.len();
        for (bytes, count) in resent {
            // There is room for as many as may be open. If it stopped, it says so as its last event.
            if sender.push(bytes, count).await.is_err() {
                break;
            }
        }
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => return None,
                event = events.recv() => match event? {
                    SenderEvent::Acked(ack) => {
                        if resent_left > 0 {
                            memory.missing.settle(&ack);
                        }
                        resent_left = resent_left.saturating_sub(1);
                        if resent_left == 0 {
                            self.look_again(memory, &ack);
                        }
                        self.inbox.send(Message::Acked { lane: self.lane, ack });
                    }
                    SenderEvent::Retrying { cause, .. } => {
                        self.tell_trouble(cause);
                        stop.unless(self.create_if_gone()).await?;
                        if let Some(found) = self.has_moved(&memory.topic) {
                            self.tell_moved(memory, found);
                            return Some(());
                        }
                    }
                    SenderEvent::Stopped { reason, open } => {
                        self.tell_stopped(reason, open);
                        return Some(());
                    }
                },
                command = commands.recv() => match command? {
                    // A pipeline that stopped meanwhile says so as its last event.
                    Command::Batch { bytes, count } => drop(sender.push(bytes, count).await),
                    other => {
                        tracing::error!(partition = %self.partition, ?other, "it is sending already");
                    }
                },
                Some(_) = memory.looks.join_next() => {}
            }
        }
    }

    /// How long a batch without an answer is sent again: not for so long that the broker may have
    /// forgotten the producer, and with it that it has the batch. A broker that does not tell has
    /// Kafka's default, which is far longer than ours.
    async fn patience(&self) -> Duration {
        let asked = async {
            let leader = self.client.route(&self.partition).await?.leader;
            Admin::new(self.client.clone()).describe_configs(&ConfigResource::Broker(leader)).await
        };
        let configs = asked.await.unwrap_or_default();
        let expiration = configs.iter().find(|entry| entry.name == PRODUCER_EXPIRATION);
        let expiration = expiration.and_then(|entry| entry.value.as_ref()?.parse().ok());
        match expiration.map(Duration::from_millis) {
            Some(expiration) => self.delivery_timeout.min(expiration / 2),
            None => self.delivery_timeout,
        }
    }

    /// A topic that was deleted is created anew, as it was the first time.
    async fn create_if_gone(&self) {
        let topic = &self.partition.topic;
        let found = self.client.topic(topic).await;
        if !matches!(found, Err(ClientError::UnknownTopic { .. })) {
            return;
        }
        if let Err(error) = self.client.topic_or_create(topic).await {
            self.tell_trouble(error.to_string());
        }
    }

    /// After the first acknowledgement: is anything stored by now that should not be?
    fn look_again(&self, memory: &mut Memory, ack: &Ack) {
        let end = end_of(ack);
        let doubts = memory.missing.take_before(end);
        if doubts.is_empty() {
            return;
        }
        while memory.looks.try_join_next().is_some() {}
        if memory.looks.len() >= LOOKS_MAX {
            self.tell_trouble("too many batches wait to be looked for again".to_owned());
            return;
        }
        let (link, from) = (self.clone(), memory.missing.from);
        let look = async move {
            let wanted: Vec<Doubt> = doubts.iter().map(|(doubt, _)| doubt.clone()).collect();
            let mut backoff = link.backoff();
            let scanned = loop {
                match scan(&link.client, &link.partition, from, end, &wanted).await {
                    Ok(scanned) => break scanned,
                    Err(error) if error.is_no_permission() => {
                        let records = wanted.iter().map(Doubt::record_count).sum();
                        let (lane, why) = (link.lane, error.to_string());
                        link.inbox.send(Message::Unproven { lane, records, why });
                        return;
                    }
                    Err(error) => link.tell_trouble(format!("cannot look again: {error}")),
                }
                tokio::time::sleep(backoff.next_pause()).await;
            };
            let records = records_repeated(&doubts, &scanned);
            if records > 0 {
                link.inbox.send(Message::Repeated { lane: link.lane, records });
            }
        };
        memory.looks.spawn(tailway_runtime::task(look));
    }

    fn tell_trouble(&self, cause: String) {
        self.inbox.send(Message::LaneTrouble { lane: self.lane, cause });
    }

    fn tell_stopped(&self, reason: StopReason, open: Vec<SequencedBatch>) {
        self.inbox.send(Message::Stopped { lane: self.lane, reason, open });
    }
}
