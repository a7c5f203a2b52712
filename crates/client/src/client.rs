//! A cluster through one door: connections, metadata, routing, retries.
//!
//! Connections are made when needed and shared per broker and lane. A lane keeps requests that
//! wait at the broker (a long poll, a JoinGroup) off the connection of others: a broker answers
//! one connection's requests one after the other. Metadata is asked of any broker that answers,
//! the bootstrap list last, so that the list may age without harm.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_metadata::ids::TopicPartition;
use tailway_net::HostPort;
use tailway_net::backoff::Backoff;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::metadata_request::MetadataRequestTopic;
use tailway_wire::messages::{
    Decodable, Encodable, InitProducerIdRequest, InitProducerIdResponse, MetadataRequest,
    MetadataResponse, StrBytes, TopicName,
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::machine::pipeline::ProducerIdentity;
use crate::metadata::{ClusterMetadata, MetadataCache, PartitionInfo, TopicInfo, Wanted};

pub use crate::requests::{Acks, FetchFrom, FetchLimits, Fetched, ListedOffset, OffsetSpec};
pub use crate::route::{PendingProduce, Produced, Route};

const RETRY_FIRST: Duration = Duration::from_millis(50);
/// How long a topic that a request should create may go on not existing.
const CREATION_WAIT: Duration = Duration::from_secs(5);
const RETRY_CAP: Duration = Duration::from_secs(1);

/// Requests that may share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane(u64);

impl Lane {
    /// Quick questions.
    pub(crate) const SHARED: Self = Self(0);
    pub(crate) const PRODUCE: Self = Self(1);
}

/// A lane of one user's own; its connections close when this is dropped.
#[derive(Debug)]
pub(crate) struct OwnLane {
    client: Client,
    lane: Lane,
}

impl OwnLane {
    pub(crate) fn lane(&self) -> Lane {
        self.lane
    }
}

impl Drop for OwnLane {
    fn drop(&mut self) {
        self.client.slots().retain(|(_, lane), _| *lane != self.lane);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Broker(i32),
    Bootstrap(usize),
}

#[derive(Debug, Default)]
struct Slot {
    state: tokio::sync::Mutex<SlotState>,
}

#[derive(Debug, Default)]
struct SlotState {
    connection: Option<Connection>,
    /// The last failure to connect, for those who waited while it happened.
    failed: Option<(Instant, ClientError)>,
}

type Slots = BTreeMap<(Target, Lane), Arc<Slot>>;

#[derive(Debug)]
struct Inner {
    config: ClientConfig,
    slots: Mutex<Slots>,
    metadata: MetadataCache,
    /// One refresh at a time; those who waited use its result.
    refreshing: tokio::sync::Mutex<()>,
    next_lane: AtomicU64,
    next_candidate: AtomicU64,
}

/// A client of one cluster. Clones share everything.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl Client {
    /// Nothing is connected until something is asked.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                slots: Mutex::default(),
                metadata: MetadataCache::default(),
                refreshing: tokio::sync::Mutex::default(),
                next_lane: AtomicU64::new(2),
                next_candidate: AtomicU64::new(0),
            }),
        }
    }

    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// What is known now, without asking.
    pub fn known(&self) -> Arc<ClusterMetadata> {
        self.inner.metadata.snapshot()
    }

    /// Asks for the brokers and all topics.
    pub async fn describe_cluster(&self) -> Result<Arc<ClusterMetadata>, ClientError> {
        self.fetch_metadata(Wanted::All, false).await
    }

    /// The topic as of now or a short while ago. `UnknownTopic` if there is none.
    pub async fn topic(&self, name: &str) -> Result<Arc<TopicInfo>, ClientError> {
        self.topic_with(name, false).await
    }

    /// As [`Self::topic`]; the cluster may create it, if its settings say so.
    pub async fn topic_or_create(&self, name: &str) -> Result<Arc<TopicInfo>, ClientError> {
        let mut retries = Retries::until(self.deadline());
        let started = Instant::now();
        loop {
            let being_created = started.elapsed() < CREATION_WAIT;
            let attempt = self.topic_with_leaders(name, being_created);
            if let Some(topic) = retries.run(attempt).await? {
                return Ok(topic);
            }
        }
    }

    async fn topic_with_leaders(
        &self,
        name: &str,
        being_created: bool,
    ) -> Result<Arc<TopicInfo>, ClientError> {
        let leaderless = |index, detail: &str| {
            self.invalidate(name);
            Err(no_leader(&TopicPartition::new(name, index), detail))
        };
        let topic = match self.topic_with(name, true).await {
            // Brokers say so while they create it.
            Err(ClientError::UnknownTopic { .. }) if being_created => {
                return leaderless(0, "the topic does not exist (yet)");
            }
            other => other?,
        };
        match topic.partitions.values().find(|p| p.leader < 0) {
            None if topic.partitions.is_empty() => leaderless(0, "the topic is being created"),
            None => Ok(topic),
            // One partition without a leader is no reason to stop what goes to the others.
            Some(_) if topic.partitions.values().any(|p| p.leader >= 0) => Ok(topic),
            Some(p) => leaderless(p.index, "an election is going on"),
        }
    }

    /// The topic's partitions, whoever leads them now: as known, else as asked for; if asking
    /// fails, as known from longer ago.
    pub(crate) async fn partitions_of(
        &self,
        name: &str,
        create: bool,
    ) -> Result<Arc<TopicInfo>, ClientError> {
        let max_age = self.inner.config.metadata_max_age;
        if let Some(topic) = self.inner.metadata.known_topic(name, max_age)
            && !topic.partitions.is_empty()
        {
            return Ok(topic);
        }
        let asked = if create { self.topic_or_create(name).await } else { self.topic(name).await };
        asked.or_else(|error| match self.known().topic(name) {
            Some(topic) if error.is_retriable() && !topic.partitions.is_empty() => {
                Ok(Arc::clone(topic))
            }
            _ => Err(error),
        })
    }

    /// What is known about the topic is wrong: ask before it is used again.
    pub fn invalidate(&self, topic: &str) {
        self.inner.metadata.mark_stale(topic);
    }

    /// A new producer id at epoch 0, tried until `request_timeout`.
    pub async fn init_producer_id(&self) -> Result<ProducerIdentity, ClientError> {
        const API: ApiKey = ApiKey::InitProducerId;
        let mut retries = Retries::until(self.deadline());
        loop {
            let attempt = async {
                let connection = self.any_connection().await?;
                let timeout = self.inner.config.request_timeout;
                let build = |_| {
                    InitProducerIdRequest::default()
                        .with_transactional_id(None)
                        .with_transaction_timeout_ms(i32::MAX)
                };
                let answer: InitProducerIdResponse = connection.call(API, timeout, build).await?;
                let code = ErrorCode::from(answer.error_code);
                if code.is_error() {
                    return Err(connection.refused(API, "", code, None));
                }
                Ok(ProducerIdentity {
                    producer_id: answer.producer_id.0,
                    producer_epoch: answer.producer_epoch,
                })
            };
            if let Some(identity) = retries.run(attempt).await? {
                return Ok(identity);
            }
        }
    }

    /// Closes all connections; whatever is under way ends with an error.
    pub async fn close(&self) {
        let slots: Vec<Arc<Slot>> = std::mem::take(&mut *self.slots()).into_values().collect();
        for slot in slots {
            if let Some(connection) = slot.state.lock().await.connection.take() {
                connection.rpc().close("the client was closed");
            }
        }
    }

    // Routing.

    /// The leader of a partition, from fresh metadata.
    pub(crate) async fn leader(
        &self,
        partition: &TopicPartition,
    ) -> Result<PartitionInfo, ClientError> {
        let topic = self.topic_with(&partition.topic, false).await?;
        let Some(info) = topic.partitions.get(&partition.partition) else {
            return Err(ClientError::UnknownPartition {
                topic: partition.topic.to_string(),
                partition: partition.partition,
                partitions: topic.partitions.len(),
            });
        };
        if info.leader < 0 {
            self.invalidate(&partition.topic);
            let mut detail = "its replicas are ".to_owned();
            // Writing to a String cannot fail.
            let _infallible = write!(detail, "{:?}, in sync {:?}", info.replicas, info.isr);
            return Err(no_leader(partition, &detail));
        }
        Ok(info.clone())
    }

    async fn topic_with(&self, name: &str, create: bool) -> Result<Arc<TopicInfo>, ClientError> {
        let max_age = self.inner.config.metadata_max_age;
        if let Some(topic) = self.inner.metadata.fresh_topic(name, max_age) {
            return Ok(topic);
        }
        let asked = Instant::now();
        let _turn = self.inner.refreshing.lock().await;
        // Somebody else may have asked while we waited for our turn.
        if self.inner.metadata.fetched_at(name).is_some_and(|at| at >= asked)
            && let Some(topic) = self.inner.metadata.fresh_topic(name, max_age)
        {
            return Ok(topic);
        }
        let wanted = Wanted::Topics(vec![name.into()]);
        let (connection, answer) = self.ask_metadata(&wanted, create).await?;
        let topic = answer.topic(name).cloned();
        self.inner.metadata.merge(answer, &wanted);
        let Some(topic) = topic else {
            return Err(connection.nonsense(ApiKey::Metadata, format!("`{name}` is not in it")));
        };
        match topic.error {
            ErrorCode::NONE => Ok(topic),
            // Some partitions may work: the caller looks at its own.
            ErrorCode::LEADER_NOT_AVAILABLE if !topic.partitions.is_empty() => Ok(topic),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Err(ClientError::UnknownTopic {
                topic: name.to_owned(),
                broker: Arc::clone(connection.broker()),
            }),
            code => Err(connection.refused(
                ApiKey::Metadata,
                format!("topic `{name}`"),
                code,
                Some(StrBytes::from_static_str(code.message())),
            )),
        }
    }

    pub(crate) async fn fetch_metadata(
        &self,
        wanted: Wanted,
        create: bool,
    ) -> Result<Arc<ClusterMetadata>, ClientError> {
        let (_, answer) = self.ask_metadata(&wanted, create).await?;
        Ok(self.inner.metadata.merge(answer, &wanted))
    }

    async fn ask_metadata(
        &self,
        wanted: &Wanted,
        create: bool,
    ) -> Result<(Connection, ClusterMetadata), ClientError> {
        let timeout = self.inner.config.request_timeout;
        let connection = self.any_connection().await?;
        let request = |version| metadata_request(wanted, create, version);
        let answer: MetadataResponse = connection.call(ApiKey::Metadata, timeout, request).await?;
        match ClusterMetadata::from_response(answer) {
            Some(answer) => Ok((connection, answer)),
            None => Err(connection.nonsense(ApiKey::Metadata, "a broker's port is no port")),
        }
    }

    // Connections.

    /// A connection to a broker of the cluster.
    pub(crate) async fn broker(&self, id: i32, lane: Lane) -> Result<Connection, ClientError> {
        if !self.known().brokers.contains_key(&id) {
            self.fetch_metadata(Wanted::Topics(Vec::new()), false).await?;
        }
        self.connect(Target::Broker(id), lane).await
    }

    /// A connection to any broker that answers: known ones in turn, then the bootstrap list.
    pub(crate) async fn any_connection(&self) -> Result<Connection, ClientError> {
        let known = self.known();
        let mut targets: Vec<Target> = known.brokers.keys().copied().map(Target::Broker).collect();
        if !targets.is_empty() {
            let turn = self.inner.next_candidate.load(Ordering::Relaxed);
            let turn = usize::try_from(turn % targets.len() as u64).unwrap_or(0);
            targets.rotate_left(turn);
        }
        targets.extend((0..self.inner.config.bootstrap.len()).map(Target::Bootstrap));
        if targets.is_empty() {
            return Err(ClientError::Usage("the list of bootstrap brokers is empty".into()));
        }
        let deadline = self.deadline();
        let mut attempts: Vec<String> = Vec::new();
        for target in targets {
            match timeout_at(deadline, self.connect(target, Lane::SHARED)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => {
                    self.inner.next_candidate.fetch_add(1, Ordering::Relaxed);
                    let text = error.to_string();
                    if !attempts.contains(&text) {
                        attempts.push(text);
                    }
                }
                Err(_) => {
                    attempts
                        .push(format!("no time left after {:?}", self.config().request_timeout));
                    break;
                }
            }
        }
        Err(ClientError::NoBroker { attempts })
    }

    async fn connect(&self, target: Target, lane: Lane) -> Result<Connection, ClientError> {
        let asked = Instant::now();
        let (address, name) = self.address_of(target)?;
        let slot = Arc::clone(self.slots().entry((target, lane)).or_default());
        let mut state = slot.state.lock().await;
        if let Some(connection) = &state.connection
            && !connection.is_dead()
            && connection.address == address
        {
            return Ok(connection.clone());
        }
        state.connection = None;
        if let Some((at, error)) = &state.failed
            && *at >= asked
        {
            return Err(error.clone());
        }
        match Connection::open(&self.inner.config, &address, name).await {
            Ok(connection) => {
                state.failed = None;
                state.connection = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                let error = self.advertised(target, &address, error);
                state.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    fn address_of(&self, target: Target) -> Result<(HostPort, Arc<str>), ClientError> {
        match target {
            Target::Bootstrap(index) => {
                let address = self.inner.config.bootstrap.get(index).cloned();
                let address =
                    address.ok_or_else(|| ClientError::Usage("no such bootstrap broker".into()))?;
                let name = format!("broker {address}").into();
                Ok((address, name))
            }
            Target::Broker(id) => {
                let known = self.known();
                let Some(broker) = known.brokers.get(&id) else {
                    let ids: Vec<i32> = known.brokers.keys().copied().collect();
                    return Err(ClientError::NoBroker {
                        attempts: vec![format!(
                            "broker {id} is not (or no longer) in the cluster, which has {ids:?}"
                        )],
                    });
                };
                let name = format!("broker {id} at {}", broker.address).into();
                Ok((broker.address.clone(), name))
            }
        }
    }

    /// An address that we did not choose but were told deserves to be said so.
    fn advertised(&self, target: Target, address: &HostPort, error: ClientError) -> ClientError {
        match target {
            Target::Broker(id) if !self.inner.config.bootstrap.contains(address) => {
                ClientError::Advertised {
                    broker_id: id,
                    address: address.clone(),
                    told_by: self.inner.config.bootstrap_text(),
                    cause: Box::new(error),
                }
            }
            _ => error,
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn own_lane(&self) -> OwnLane {
        let lane = Lane(self.inner.next_lane.fetch_add(1, Ordering::Relaxed));
        OwnLane { client: self.clone(), lane }
    }

    // Retries.

    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.inner.config.request_timeout
    }

    /// A request to any broker, tried until `request_timeout`.
    pub(crate) async fn ask_any<Req: Encodable, Resp: Decodable>(
        &self,
        api: ApiKey,
        build: impl Fn(i16) -> Req,
    ) -> Result<(Connection, Resp), ClientError> {
        let mut retries = Retries::until(self.deadline());
        loop {
            let attempt = async {
                let connection = self.any_connection().await?;
                let timeout = self.inner.config.request_timeout;
                let answer = connection.call(api, timeout, &build).await?;
                Ok((connection, answer))
            };
            if let Some(answered) = retries.run(attempt).await? {
                return Ok(answered);
            }
        }
    }
}

/// A series of attempts, with pauses, up to a deadline.
#[derive(Debug)]
pub(crate) struct Retries {
    started: Instant,
    deadline: Instant,
    backoff: Backoff,
}

impl Retries {
    /// Attempts until `deadline`; see [`Retries::run`].
    pub(crate) fn until(deadline: Instant) -> Retries {
        let backoff = Backoff::new(RETRY_FIRST, RETRY_CAP, tailway_runtime::seed());
        Retries { started: Instant::now(), deadline, backoff }
    }

    /// Runs one attempt. `None`: it failed, a pause was made, try again. An error: it cannot
    /// work, or the time is over. No broker at all ends it at once: every broker was just tried,
    /// and the caller knows best whether to wait.
    pub(crate) async fn run<T>(
        &mut self,
        attempt: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<Option<T>, ClientError> {
        let error = match timeout_at(self.deadline, attempt).await {
            Ok(Ok(value)) => return Ok(Some(value)),
            Ok(Err(error)) => error,
            Err(_) => ClientError::NoTime,
        };
        let lasting = !error.is_retriable()
            || matches!(error, ClientError::NoBroker { .. } | ClientError::UnknownTopic { .. });
        if lasting {
            return Err(error);
        }
        let pause = self.backoff.next_pause();
        if Instant::now() + pause >= self.deadline {
            let after = self.started.elapsed();
            return Err(ClientError::TimedOut { after, last: Box::new(error) });
        }
        sleep(pause).await;
        Ok(None)
    }
}

fn no_leader(partition: &TopicPartition, detail: &str) -> ClientError {
    ClientError::NoLeader { partition: partition.clone(), detail: detail.to_owned() }
}

pub(crate) fn metadata_request(wanted: &Wanted, create: bool, version: i16) -> MetadataRequest {
    let topic = |name: &Arc<str>| {
        let name = TopicName(StrBytes::from_string(name.to_string()));
        MetadataRequestTopic::default().with_name(Some(name))
    };
    let topics = match wanted {
        // An empty list means all topics in version 0, and none later.
        Wanted::All if version == 0 => Some(Vec::new()),
        Wanted::All => None,
        Wanted::Topics(names) => Some(names.iter().map(topic).collect()),
    };
    MetadataRequest::default()
        .with_topics(topics)
        .with_allow_auto_topic_creation(create || version < 4)
}
