//! Kafka: into a topic of any cluster, through an idempotent producer, in order.
//!
//! Of each partition one batch is on its way at a time. Its plan stands beside the committed offset before it is sent, so that
//! after a crash it is known what may be in doubt; that is resolved as the agent does it (`tailway_client::resolve`): what the
//! target has counts, what it has not goes out again as it was, and what cannot be made as it was goes out under the
//! producer's next epoch. A partition goes to the partition of its number.
//! Invariant: everything below a plan is delivered or a durable dead letter, and nothing above it was ever sent.

pub(crate) mod batch;
mod plan;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_client::admin::NewTopic;
use tailway_client::machine::pipeline::{PipelineOptions, StopReason};
use tailway_client::produce::{SenderEvent, SenderOptions};
use tailway_client::resolve::{Doubt, How, LookFrom, Proof, Standing, look, offset_of};
use tailway_client::{
    Admin, Client, ClientConfig, ClientError, PartitionSender, ProducerIdentity, TopicInfo,
    TopicPartition,
};
use tailway_wire::ErrorCode;
use tokio::sync::mpsc;

use super::record::Record;
use super::sink::{Home, Place};
use crate::config::{KafkaConfig, SinkLimits};
use crate::machine::forward::{Failure, Item, Pause, PauseKind, Rejection};
use batch::{FORWARDED_HEADER, Form};
use plan::{Memory, Plan};

/// For requests of a run that died a moment ago.
const SETTLE: Duration = Duration::from_secs(1);

/// A sink.
pub(crate) struct Kafka {
    client: Client,
    config: KafkaConfig,
    request_timeout: Duration,
}

/// One partition's way into it.
pub(crate) struct Lane {
    sink: Arc<Kafka>,
    place: Place,
    home: Home,
    memory: Mutex<Memory>,
    /// Of the one request at a time.
    link: tokio::sync::Mutex<Link>,
}

#[derive(Default)]
struct Link {
    /// Where records go, once that is known to be good.
    target: Option<TopicPartition>,
    sender: Option<(PartitionSender, mpsc::Receiver<SenderEvent>)>,
}

impl Kafka {
    pub(crate) fn new(config: &KafkaConfig, limits: &SinkLimits) -> Self {
        let client = ClientConfig::new(config.brokers.clone(), "tailway-broker")
            .with_tls(config.tls.clone())
            .with_request_timeout(limits.request_timeout);
        Self {
            client: Client::new(client),
            config: config.clone(),
            request_timeout: limits.request_timeout,
        }
    }

    /// Its id, and how many brokers it has.
    pub(crate) async fn what_it_is(&self) -> Result<String, Failure> {
        let known = self.client.describe_cluster().await.map_err(|error| failed(&error))?;
        let id = known.cluster_id.as_deref().unwrap_or("without an id");
        Ok(format!("Kafka cluster {id}, {} broker(s)", known.brokers.len()))
    }

    fn cluster(&self) -> String {
        self.client.known().cluster_id.clone().unwrap_or_default()
    }
}

impl Lane {
    pub(crate) fn new(sink: Arc<Kafka>, place: Place, home: Home) -> Self {
        Self { sink, place, home, memory: Mutex::default(), link: tokio::sync::Mutex::default() }
    }

    /// What goes into the commit.
    pub(crate) fn memory(&self) -> String {
        self.lock().to_string()
    }

    /// What an earlier run put into it.
    pub(crate) fn remember(&self, text: &str) {
        *self.lock() = Memory::parse(text).unwrap_or_default();
    }

    /// Of what is at or above this, nothing was ever sent.
    pub(crate) fn doubtful_below(&self) -> i64 {
        self.lock().plan.map_or(0, |plan| plan.to)
    }

    /// Decides what goes out as one batch. `true`: that has to be durable before it is sent.
    pub(crate) async fn plan(&self, records: &[Arc<Record>]) -> Result<bool, Failure> {
        self.target(&mut *self.link.lock().await).await?;
        let records = self.to_send(records);
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            return Ok(false);
        };
        let (from, to) = (first.offset, last.offset + 1);
        let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
        let (identity, must_fence) = {
            let memory = self.lock();
            if memory.resumes(from, to, count) {
                return Ok(!memory.is_durable);
            }
            (memory.identity, memory.must_fence())
        };
        let next = match identity {
            Some(identity) if must_fence => identity.next_epoch(),
            identity => identity,
        };
        let next = match next {
            Some(next) => next,
            None => self.new_producer().await?,
        };
        let mut memory = self.lock();
        if memory.identity != Some(next) {
            memory.begin(next);
        }
        memory.open(from, to, count);
        Ok(true)
    }

    /// The plan is durable.
    pub(crate) fn planned(&self) {
        self.lock().is_durable = true;
    }

    /// Sends what was planned.
    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Result<Vec<Item>, Failure> {
        let sent = self.to_send(&records);
        if !sent.is_empty() {
            let mut link = self.link.lock().await;
            self.send(&mut link, sent).await?;
        }
        let item = |record: &Arc<Record>| match &record.unreadable {
            Some(why) => Item::Rejected(Arc::new(Rejection {
                status: 0,
                kind: "unreadable_batch".to_owned(),
                reason: why.clone(),
            })),
            None => Item::Done,
        };
        Ok(records.iter().map(item).collect())
    }

    /// Whether the target has the batch in doubt, which these records are from.
    pub(crate) async fn look_up(&self, records: &[Arc<Record>]) -> Result<Vec<bool>, Failure> {
        let mut link = self.link.lock().await;
        link.sender = None;
        let target = self.target(&mut link).await?;
        let mut found = vec![false; records.len()];
        let known = self.lock().clone();
        let (Some(plan), Some(identity), true) = (known.plan, known.identity, known.is_sent) else {
            return Ok(found);
        };
        let sent = self.to_send(records);
        let bounds =
            sent.first().zip(sent.last()).map(|(one, other)| (one.offset, other.offset + 1));
        let count = i32::try_from(sent.len()).unwrap_or(i32::MAX);
        let as_it_was = bounds.is_some_and(|(from, to)| known.resumes(from, to, count));
        // What is sent again as it was tells itself whether it is there.
        let proof = if as_it_was { Proof::Appended } else { Proof::Committed };
        if !as_it_was {
            tokio::time::sleep(SETTLE).await;
        }
        let doubts = [self.doubt(plan, identity)];
        let from = LookFrom::Offset(known.scan_from);
        let looked = look(&self.sink.client, &target, &doubts, from, proof).await;
        let looked = looked.map_err(|error| failed(&error))?;
        let Place { sink, topic, partition, .. } = &self.place;
        if let How::Blind(why) = &looked.how {
            tracing::error!(%sink, %topic, partition, why, "the target may not be read: a batch in doubt may be there twice");
        }
        let standing = looked.found.first().copied().unwrap_or(Standing::Missing);
        tracing::info!(%sink, %topic, partition, from = plan.from, to = plan.to, ?standing, how = ?looked.how, "looked for a batch in doubt");
        if let Some(offset) = standing.offset() {
            let end = (offset >= 0).then(|| offset.saturating_add(i64::from(plan.count)));
            // Until its last record has been asked for, others of it will be.
            if records.last().is_some_and(|last| last.offset + 1 >= plan.to) {
                self.lock().stored(end);
            }
            for (found, record) in found.iter_mut().zip(records) {
                *found = (plan.from..plan.to).contains(&record.offset);
            }
        } else if looked.usurped {
            self.lock().is_void = true;
        }
        Ok(found)
    }

    fn doubt(&self, plan: Plan, identity: ProducerIdentity) -> Doubt {
        Doubt {
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            first_sequence: plan.first_sequence,
            last_sequence: plan.last_sequence(),
            header: FORWARDED_HEADER,
            origin: batch::origin(&self.home.cluster, &self.place, &plan),
            foreign: false,
        }
    }

    /// What cannot be read is not sent, nor what came from the target or passed it.
    fn to_send(&self, records: &[Arc<Record>]) -> Vec<Arc<Record>> {
        let cluster = self.sink.cluster();
        let goes = |record: &&Arc<Record>| {
            record.unreadable.is_none() && !batch::path(record).contains(&cluster)
        };
        records.iter().filter(goes).cloned().collect()
    }

    /// Where records go; made there if it is missing.
    async fn target(&self, link: &mut Link) -> Result<TopicPartition, Failure> {
        if let Some(target) = &link.target {
            return Ok(target.clone());
        }
        let name = self.sink.config.topic.replace("{topic}", &self.place.topic);
        let topic = match self.sink.client.topic(&name).await {
            Ok(topic) => topic,
            Err(ClientError::UnknownTopic { .. }) => self.create(&name).await?,
            Err(error) => return Err(failed(&error)),
        };
        let cluster = self.sink.cluster();
        if cluster == *self.home.cluster {
            let cause = "the sink leads back into the cluster that it forwards; write the brokers of another one";
            return Err(Failure::Pause(Pause { kind: PauseKind::Target, cause: cause.into() }));
        }
        self.is_of(cluster, &name);
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX).max(1);
        let target = TopicPartition::new(name.as_str(), self.place.partition % count);
        if self.lock().identity.is_none() {
            let end = offset_of(&self.sink.client, &target, LookFrom::End).await;
            self.lock().scan_from = end.map_err(|error| failed(&error))?;
        }
        link.target = Some(target.clone());
        Ok(target)
    }

    /// What is remembered of another cluster says nothing of this one.
    fn is_of(&self, cluster: String, topic: &str) {
        let mut memory = self.lock();
        if memory.cluster == cluster {
            return;
        }
        if !memory.cluster.is_empty() {
            let sink = &self.place.sink;
            tracing::warn!(%sink, topic, was = memory.cluster, is = cluster, "the sink is another cluster now; forwarding goes on there from the committed offset");
        }
        *memory = Memory { cluster, ..Memory::default() };
    }

    async fn create(&self, name: &str) -> Result<Arc<TopicInfo>, Failure> {
        let topic = NewTopic { partitions: Some(self.home.partitions), ..NewTopic::new(name) };
        match Admin::new(self.sink.client.clone()).create_topic(&topic).await {
            Ok(_) => {}
            Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {}
            Err(error) if error.is_no_permission() => {
                let cause = format!("the topic {name} is not there and may not be made: {error}");
                let pause = Pause { kind: PauseKind::Target, cause: cause.into() };
                return Err(Failure::Pause(pause));
            }
            Err(error) => return Err(failed(&error)),
        }
        self.sink.client.topic_or_create(name).await.map_err(|error| failed(&error))
    }

    async fn new_producer(&self) -> Result<ProducerIdentity, Failure> {
        self.sink.client.init_producer_id().await.map_err(|error| failed(&error))
    }

    async fn send(&self, link: &mut Link, records: Vec<Arc<Record>>) -> Result<(), Failure> {
        let target = self.target(link).await?;
        let (plan, identity, again) = {
            let mut memory = self.lock();
            let (Some(plan), Some(identity)) = (memory.plan, memory.identity) else {
                return Err(Failure::Unsent { cause: "nothing was planned".into() });
            };
            (plan, identity, std::mem::replace(&mut memory.is_sent, true))
        };
        let origin = batch::origin(&self.home.cluster, &self.place, &plan);
        let compression = self.sink.config.compression;
        let form = Form { compression, is_replay: self.home.is_replay };
        let building = tailway_runtime::spawn_blocking(move || {
            batch::build(&records, &origin, identity, plan.first_sequence, form)
        });
        let Ok(built) = building.await else {
            return Err(Failure::doubtful("the broker stops"));
        };
        let bytes = built.map_err(|error| split(0, "unwritable", error.to_string()))?;
        let fits = link.sender.as_ref().is_some_and(|(sender, _)| {
            let next = sender.next_batch_sequence(plan.count);
            !again && (next.identity, next.base_sequence) == (identity, plan.first_sequence)
        });
        let (mut sender, mut events) = match link.sender.take().filter(|_| fits) {
            Some(kept) => kept,
            None => self.start_sender(target, identity, plan, again),
        };
        let mut is_doubtful = again;
        // Where it has stopped already, its last event says why.
        is_doubtful |= sender.push(bytes, plan.count).await.is_err();
        loop {
            match events.recv().await {
                Some(SenderEvent::Acked(ack)) => {
                    let end = ack.base_offset.saturating_add(i64::from(ack.record_count));
                    self.lock().stored((ack.base_offset >= 0).then_some(end));
                    link.sender = Some((sender, events));
                    return Ok(());
                }
                Some(SenderEvent::Retrying { .. }) => is_doubtful = true,
                Some(SenderEvent::Stopped { reason, .. }) => {
                    link.target = None;
                    return Err(self.stopped(reason, is_doubtful));
                }
                None => return Err(Failure::doubtful("the connection's task has ended")),
            }
        }
    }

    fn start_sender(
        &self,
        target: TopicPartition,
        identity: ProducerIdentity,
        plan: Plan,
        again: bool,
    ) -> (PartitionSender, mpsc::Receiver<SenderEvent>) {
        let pipeline = PipelineOptions {
            delivery_timeout: Some(self.sink.request_timeout),
            sent_before: usize::from(again),
            ..PipelineOptions::default()
        };
        let options = SenderOptions {
            next_sequence: plan.first_sequence,
            request_timeout: self.sink.request_timeout,
            pipeline,
            ..SenderOptions::default()
        };
        PartitionSender::start(self.sink.client.clone(), target, identity, options)
    }

    /// Why a batch has no acknowledgement. `is_doubtful`: an attempt before may have been taken all the same.
    fn stopped(&self, reason: StopReason, is_doubtful: bool) -> Failure {
        let (code, message) = match reason {
            StopReason::DeliveryTimedOut { cause, .. } => return Failure::doubtful(cause),
            StopReason::Refused { code, message } => (code, message),
        };
        let message = message.map_or_else(String::new, |message| format!(": {message}"));
        let cause = format!(
            "{} refused a batch with {code}{message}",
            self.sink.client.config().bootstrap_text()
        );
        match code {
            ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
            | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
            | ErrorCode::INVALID_PRODUCER_EPOCH
            | ErrorCode::UNKNOWN_PRODUCER_ID => {
                // As it was, it is refused for ever.
                self.lock().is_void = true;
                Failure::doubtful(cause)
            }
            _ if is_doubtful => Failure::doubtful(cause),
            _ => {
                // The first and only attempt was refused.
                self.lock().is_sent = false;
                refused(code, cause)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Whole between any two statements.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(code: ErrorCode, cause: String) -> Failure {
    let pause = |kind, cause: String| Failure::Pause(Pause { kind, cause: cause.into() });
    match code {
        ErrorCode::MESSAGE_TOO_LARGE
        | ErrorCode::RECORD_LIST_TOO_LARGE
        | ErrorCode::INVALID_RECORD
        | ErrorCode::INVALID_TIMESTAMP => split(code_number(code), code.name(), cause),
        ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED => {
            pause(PauseKind::Credentials, cause)
        }
        _ => pause(PauseKind::Unknown, cause),
    }
}

fn code_number(code: ErrorCode) -> u16 {
    u16::try_from(i16::from(code)).unwrap_or(0)
}

fn split(status: u16, kind: &str, reason: String) -> Failure {
    let kind = kind.to_owned();
    Failure::Split { rejection: Arc::new(Rejection { status, kind, reason }) }
}

/// A question that changes nothing was not answered as it should be.
fn failed(error: &ClientError) -> Failure {
    let cause = error.to_string().into();
    if error.is_no_permission() {
        Failure::Pause(Pause { kind: PauseKind::Credentials, cause })
    } else {
        Failure::Unsent { cause }
    }
}
