//! Being a member of the cluster: connect, register, heartbeat, follow; again and again.
//!
//! One task. It publishes whether the coordinator is there, and says in the log only when that changes or changes its
//! reason. What restarting cannot heal (another cluster's data directory, another process with this id) ends the broker
//! with the coordinator's own words.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::ready::Condition;
use tailway_daemon::{Stop, Tasks};
use tailway_metadata::broker::Endpoint;
use tailway_metadata::control::{ERROR_MESSAGE_TAG, FollowMetadataResponse};
use tailway_metadata::security::Serial;
use tailway_metadata::{BrokerEpoch, BrokerId, ClusterId, IncarnationId};
use tailway_net::backoff::Backoff;
use tailway_net::{DialError, HostPort, PeerIdentity, RpcConnection, RpcOptions, dial};
use tailway_storage::Disk;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::broker_registration_request::Listener as RegisteredListener;
use tailway_wire::messages::{
    BrokerHeartbeatRequest, BrokerHeartbeatResponse, BrokerRegistrationRequest,
    BrokerRegistrationResponse, StrBytes,
};
use tokio::sync::watch;

use super::follower::{AdvanceError, Follower, MAX_WAIT_MS};
use super::identity::{Identity, IdentityError};
use super::link::{self, CLIENT_ID, CallError, Link, LinkState};
use crate::config::CoordinatorConfig;
use crate::metrics::BrokerMetrics;

const REGISTRATION_VERSION: i16 = 4;
const HEARTBEAT_VERSION: i16 = 1;
const FOLLOW_VERSION: i16 = 0;
const HEARTBEAT_EVERY: Duration = Duration::from_millis(1_500);
/// While fenced, sooner: nothing is led before the answer says otherwise.
const HEARTBEAT_WHILE_FENCED: Duration = Duration::from_millis(100);
/// What the goodbye may cost a stop.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Snapshots come in one answer.
const RESPONSE_BYTES_MAX: usize = 64 << 20;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("{address} answers with a certificate that names no coordinator ({identity})")]
    NoCoordinator { address: HostPort, identity: String },
    #[error(
        "the coordinator's certificate was revoked: {identity} at {address}, serial number {serial}"
    )]
    Revoked { address: HostPort, identity: String, serial: Serial },
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the coordinator refused this broker's registration: {text}")]
    Registration { code: ErrorCode, text: String },
    #[error("the coordinator refused a heartbeat: {text}")]
    Heartbeat { text: String },
    #[error("the coordinator's metadata cannot be read: {0}")]
    FollowFormat(serde_json::Error),
    #[error(transparent)]
    Advance(#[from] AdvanceError),
    #[error("no coordinator is configured")]
    NoAddress,
    /// None of several; one line each.
    #[error("no coordinator could be used:\n  {}", .attempts.join("\n  "))]
    NoneUsable { attempts: Vec<String> },
}

impl SessionError {
    /// Trying again cannot help.
    fn is_fatal(&self) -> bool {
        match self {
            Self::Registration { code, .. } => [
                ErrorCode::INVALID_REGISTRATION,
                ErrorCode::DUPLICATE_BROKER_REGISTRATION,
                ErrorCode::INCONSISTENT_CLUSTER_ID,
            ]
            .contains(code),
            Self::Identity(IdentityError::OtherCluster { .. }) => true,
            _ => false,
        }
    }

    /// This broker's directory belongs to another cluster than the coordinator it was told to ask.
    fn is_misconfiguration(&self) -> bool {
        match self {
            Self::Registration { code, .. } => *code == ErrorCode::INCONSISTENT_CLUSTER_ID,
            Self::Identity(IdentityError::OtherCluster { .. }) => true,
            _ => false,
        }
    }
}

/// What the session task is made of.
pub struct Session {
    pub me: BrokerId,
    pub rack: Option<String>,
    pub endpoints: Arc<[Endpoint]>,
    pub config: CoordinatorConfig,
    pub incarnation: IncarnationId,
    pub identity: Identity,
    pub disk: Arc<dyn Disk>,
    pub data_dir: PathBuf,
    pub follower: Follower,
    pub link: watch::Sender<LinkState>,
    pub ready: Condition,
    pub tasks: Tasks,
    pub metrics: BrokerMetrics,
    pub seed: u64,
}

impl Session {
    /// The task.
    pub async fn run(mut self, mut stop: Stop) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE, self.seed);
        let mut previous_epoch = BrokerEpoch::NONE;
        if !self.follower.image().cluster_id.as_str().is_empty() {
            // The last run's image is served whether or not a coordinator answers.
            self.ready.holds();
        }
        while let Some(ended) = stop.unless(self.once(&mut previous_epoch, &mut backoff)).await {
            let Err(error) = ended;
            if error.is_fatal() {
                if error.is_misconfiguration() {
                    self.tasks.fail_misconfigured(error.to_string());
                } else {
                    self.tasks.fail(error.to_string());
                }
                break;
            }
            self.away(&error);
            let pause = backoff.next_pause();
            if stop.unless(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        self.goodbye().await;
    }

    /// From one connection to its end.
    async fn once(
        &mut self,
        previous_epoch: &mut BrokerEpoch,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, SessionError> {
        let (rpc, address, cluster) = self.connect().await?;
        self.identity.join(&self.disk, &self.data_dir, &cluster)?;
        let epoch = self.register(&rpc, &cluster, *previous_epoch).await?;
        *previous_epoch = epoch;
        backoff.reset();
        tracing::info!(coordinator = %address, cluster_id = %cluster, broker_epoch = epoch.0, "registered with the coordinator");
        self.metrics.coordinator_connected.set(1);
        let link = Link { rpc: rpc.clone(), address, broker_epoch: epoch };
        self.link.send_replace(LinkState::Up(link));
        self.serve(&rpc, &cluster, epoch).await
    }

    /// The first configured coordinator that answers and proves to be one, and its cluster.
    async fn connect(&self) -> Result<(RpcConnection, HostPort, ClusterId), SessionError> {
        let mut failed: Vec<SessionError> = Vec::new();
        for address in &self.config.addresses {
            match self.connect_to(address).await {
                Ok((rpc, cluster)) => return Ok((rpc, address.clone(), cluster)),
                Err(error) => failed.push(error),
            }
        }
        Err(match failed.len() {
            0 | 1 => failed.pop().unwrap_or(SessionError::NoAddress),
            // Each may fail for a reason of its own, and none tells of another's.
            _ => SessionError::NoneUsable {
                attempts: failed.iter().map(ToString::to_string).collect(),
            },
        })
    }

    async fn connect_to(
        &self,
        address: &HostPort,
    ) -> Result<(RpcConnection, ClusterId), SessionError> {
        let stream = dial(address, Some(&self.config.tls), self.config.request_timeout).await?;
        let identity = stream.peer_identity();
        let Some(cluster) = coordinator_of(identity.as_ref()) else {
            let identity = identity.map_or_else(|| "unnamed".to_owned(), |id| id.to_string());
            return Err(SessionError::NoCoordinator { address: address.clone(), identity });
        };
        // As far as this broker has heard, by the coordinator's records up to now.
        if let Some(identity) =
            identity.filter(|it| self.follower.image().security.is_revoked(&it.serial))
        {
            let (address, serial) = (address.clone(), identity.serial.clone());
            return Err(SessionError::Revoked { address, identity: identity.to_string(), serial });
        }
        let options = RpcOptions {
            client_id: Some(CLIENT_ID.to_owned()),
            response_bytes_max: RESPONSE_BYTES_MAX,
            ..RpcOptions::default()
        };
        let peer = format!("coordinator {address}");
        Ok((RpcConnection::start(stream, peer, options), cluster))
    }

    async fn register(
        &self,
        rpc: &RpcConnection,
        cluster: &ClusterId,
        previous_epoch: BrokerEpoch,
    ) -> Result<BrokerEpoch, SessionError> {
        let listeners = self.endpoints.iter().map(|endpoint| {
            RegisteredListener::default()
                .with_name(text(&endpoint.name))
                .with_host(text(&endpoint.host))
                .with_port(endpoint.port)
                .with_security_protocol(endpoint.protocol.code())
        });
        let request = BrokerRegistrationRequest::default()
            .with_broker_id(self.me.0.into())
            .with_cluster_id(text(cluster.as_str()))
            .with_incarnation_id(self.incarnation.0)
            .with_listeners(listeners.collect())
            .with_rack(self.rack.as_deref().map(text))
            .with_log_dirs(vec![self.identity.directory_id.0])
            .with_previous_broker_epoch(previous_epoch.0);
        let answer: BrokerRegistrationResponse = link::call(
            rpc,
            ApiKey::BrokerRegistration,
            REGISTRATION_VERSION,
            &request,
            self.config.request_timeout,
        )
        .await?;
        let code = ErrorCode::from(answer.error_code);
        if code.is_error() {
            let text = error_text(code, &answer.unknown_tagged_fields);
            return Err(SessionError::Registration { code, text });
        }
        Ok(BrokerEpoch(answer.broker_epoch))
    }

    /// Follows and heartbeats until one of them cannot go on.
    async fn serve(
        &mut self,
        rpc: &RpcConnection,
        cluster: &ClusterId,
        epoch: BrokerEpoch,
    ) -> Result<std::convert::Infallible, SessionError> {
        let (tell_offset, offset) = watch::channel(None);
        let heartbeats = Heartbeats {
            me: self.me,
            epoch,
            rpc,
            timeout: self.config.request_timeout,
            offset,
            ready: self.ready.clone(),
        };
        let (me, timeout) = (self.me, self.config.request_timeout);
        let follower = &mut self.follower;
        let follow = async {
            loop {
                let request = follower.request(cluster, epoch).encode();
                let wait = Duration::from_millis(MAX_WAIT_MS.into()) + timeout;
                let api = ApiKey::FollowMetadata;
                let body = link::call_raw(rpc, api, FOLLOW_VERSION, &request, wait).await?;
                let response =
                    FollowMetadataResponse::decode(&body).map_err(SessionError::FollowFormat)?;
                follower.advance(&response).await?;
                let image = follower.image();
                if image.brokers.get(&me).is_some_and(|broker| broker.epoch == epoch) {
                    tell_offset.send_replace(Some(image.offset.0));
                }
            }
        };
        tokio::select! {
            biased;
            ended = follow => ended,
            ended = heartbeats.run() => ended,
        }
    }

    fn away(&self, error: &SessionError) {
        self.metrics.coordinator_connected.set(0);
        let cause: Arc<str> = error.to_string().into();
        let said = match &*self.link.borrow() {
            LinkState::Away { cause: known } => *known == cause,
            LinkState::Up(_) => false,
        };
        if !said {
            tracing::warn!(
                error = &*cause,
                "no coordinator: what this broker leads is served on, topics cannot be created or deleted"
            );
        }
        if self.follower.image().cluster_id.as_str().is_empty() {
            self.ready.not_yet(format!("waiting for the coordinator: {cause}"));
        }
        self.link.send_replace(LinkState::Away { cause });
    }

    /// Gives the leaderships up, so that they need not time out. Never a reason to linger.
    async fn goodbye(&self) {
        let LinkState::Up(link) = self.link.borrow().clone() else { return };
        let request = heartbeat(self.me, link.broker_epoch, self.follower.image().offset.0)
            .with_want_shut_down(true);
        let (api, version) = (ApiKey::BrokerHeartbeat, HEARTBEAT_VERSION);
        let said: Result<BrokerHeartbeatResponse, CallError> =
            link::call(&link.rpc, api, version, &request, GOODBYE_TIMEOUT).await;
        if let Err(error) = said {
            tracing::info!(%error, "the coordinator was not told of this stop");
        }
        link.rpc.close("the broker stops");
    }
}

/// The heartbeats of one session.
struct Heartbeats<'a> {
    me: BrokerId,
    epoch: BrokerEpoch,
    rpc: &'a RpcConnection,
    timeout: Duration,
    /// The image's offset, once it has this registration.
    offset: watch::Receiver<Option<i64>>,
    ready: Condition,
}

impl Heartbeats<'_> {
    async fn run(mut self) -> Result<std::convert::Infallible, SessionError> {
        let mut was_fenced = true;
        loop {
            // The sender lives as long as the follow loop, which ends the session when it ends.
            let registered = self.offset.wait_for(Option::is_some).await.map(|offset| *offset);
            let Ok(Some(offset)) = registered else {
                return std::future::pending().await;
            };
            let request = heartbeat(self.me, self.epoch, offset);
            let (api, version) = (ApiKey::BrokerHeartbeat, HEARTBEAT_VERSION);
            let answer: BrokerHeartbeatResponse =
                link::call(self.rpc, api, version, &request, self.timeout).await?;
            let code = ErrorCode::from(answer.error_code);
            if code.is_error() {
                let text = error_text(code, &answer.unknown_tagged_fields);
                return Err(SessionError::Heartbeat { text });
            }
            if !answer.is_fenced && was_fenced {
                self.ready.holds();
            }
            if answer.is_fenced && !was_fenced {
                let text = "the coordinator has fenced this broker; it leads nothing until it is let in again";
                tracing::warn!("{text}");
                self.ready.not_yet(text);
            }
            was_fenced = answer.is_fenced;
            let pause = if was_fenced { HEARTBEAT_WHILE_FENCED } else { HEARTBEAT_EVERY };
            tokio::time::sleep(pause).await;
        }
    }
}

fn heartbeat(me: BrokerId, epoch: BrokerEpoch, offset: i64) -> BrokerHeartbeatRequest {
    BrokerHeartbeatRequest::default()
        .with_broker_id(me.0.into())
        .with_broker_epoch(epoch.0)
        .with_current_metadata_offset(offset)
}

/// The cluster whose coordinator this certificate names.
fn coordinator_of(identity: Option<&PeerIdentity>) -> Option<ClusterId> {
    let spiffe = identity?.spiffe.as_ref()?;
    let cluster = ClusterId(spiffe.cluster.clone());
    (spiffe.role == "coordinator" && cluster.is_valid()).then_some(cluster)
}

/// The coordinator's words for an error code of an API that has no field for them in Kafka.
pub(super) fn error_text(code: ErrorCode, tags: &BTreeMap<i32, Bytes>) -> String {
    match tags.get(&ERROR_MESSAGE_TAG) {
        Some(text) => format!("{} ({})", String::from_utf8_lossy(text), code.name()),
        None => code.to_string(),
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
