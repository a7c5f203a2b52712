//! The Raft node: opens log and snapshot, starts openraft, elects itself, proposes.
//!
//! Every start is a new term (Kafka's controller epoch), so that whoever watches can tell one life of the controller from
//! the next. There are no Raft timers: with one voter no heartbeat is needed and no election can be lost.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Config, Raft, RaftMetrics, ServerState, SnapshotPolicy};
use tailway_metadata::MetadataRecord;
use tailway_storage::{Disk, Recovery, StorageError as DiskError};
use tokio::sync::watch;

use super::feed::Feed;
use super::log::{OpenError, RaftLog, Writer};
use super::network::NoPeers;
use super::snapshot::SnapshotFile;
use super::state_machine::StateMachine;
use super::{Applied, Batch, TypeConfig};

/// Entries between snapshots: a restart replays at most about twice as many.
const SNAPSHOT_EVERY: u64 = 1_000;
/// How long the first election may take: a few fsyncs.
const ELECTION_WAIT: Duration = Duration::from_secs(30);

pub const LOG_FILE: &str = "raft.log";
pub const SNAPSHOT_FILE: &str = "raft.snapshot";

/// Who this node is.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    pub id: u64,
    /// Where it is reached, as the membership has it.
    pub address: String,
    /// Of the data directory.
    pub identity: [u8; 16],
    pub snapshot_every: u64,
}

impl NodeSettings {
    pub fn new(id: u64, address: impl Into<String>, identity: [u8; 16]) -> NodeSettings {
        NodeSettings {
            id,
            address: address.into(),
            identity,
            snapshot_every: tailway_faults::bound("coordinator.snapshot_every", SNAPSHOT_EVERY),
        }
    }
}

/// Why the node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Log(#[from] OpenError),
    #[error(transparent)]
    Snapshot(DiskError),
    #[error(
        "the Raft log begins after entry {purged}, but the snapshot has only {}: {SNAPSHOT_FILE} is missing or old; restore the whole data directory from one backup",
        snapshot.map_or_else(|| "nothing".to_owned(), |index| format!("entries up to {index}"))
    )]
    SnapshotMissing { purged: u64, snapshot: Option<u64> },
    #[error("the voters of this data directory are {found:?}, the configuration says {id} alone")]
    OtherVoters { id: u64, found: Vec<u64> },
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// Why records were not committed, as far as is known.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ProposeError(String);

/// The running node.
#[derive(Debug)]
pub struct Node {
    raft: Handle,
    feed: Feed,
    writer: Writer,
    recovery: Recovery,
    id: u64,
}

/// What a driver needs of the node: cheap to clone.
#[derive(Clone, Debug)]
pub struct Proposer {
    raft: Handle,
}

/// openraft's handle; it says nothing of itself.
#[derive(Clone)]
struct Handle(Raft<TypeConfig>);

impl Deref for Handle {
    type Target = Raft<TypeConfig>;

    fn deref(&self) -> &Raft<TypeConfig> {
        &self.0
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Raft")
    }
}

/// Raft's state, for `/status` and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    pub term: u64,
    pub leader: Option<u64>,
    pub leads: bool,
    pub voters: Vec<u64>,
    pub last_log_index: Option<u64>,
    pub last_applied_index: Option<u64>,
    pub snapshot_index: Option<u64>,
    /// Why Raft has stopped, if it has.
    pub failure: Option<String>,
}

impl Node {
    /// Opens the data in `dir` and becomes leader.
    pub async fn start(
        disk: Arc<dyn Disk>,
        dir: &Path,
        settings: NodeSettings,
    ) -> Result<Node, NodeError> {
        let feed = Feed::new();
        let open = open(disk, dir.to_owned(), settings.identity, feed.clone());
        let (log, writer, recovery, machine) = open.await?;
        let last_term = log.step_down();
        let config = config(&settings)?;
        let raft = Raft::new(settings.id, config, NoPeers, log, machine)
            .await
            .map_err(|fatal| NodeError::Raft(fatal.to_string()))?;
        let node = Node { raft: Handle(raft), feed, writer, recovery, id: settings.id };
        node.lead(&settings, last_term).await?;
        Ok(node)
    }

    /// Elects itself in a term after `last_term`, the last one of this directory.
    async fn lead(&self, settings: &NodeSettings, last_term: u64) -> Result<(), NodeError> {
        let failed = |error: &dyn fmt::Display| NodeError::Raft(error.to_string());
        let this = BasicNode::new(&settings.address);
        if self.raft.is_initialized().await.map_err(|error| failed(&error))? {
            let voters = self.raft.with_raft_state(|state| {
                state.membership_state.effective().voter_ids().collect::<Vec<u64>>()
            });
            let found = voters.await.map_err(|error| failed(&error))?;
            if found != [settings.id] {
                return Err(NodeError::OtherVoters { id: settings.id, found });
            }
            self.raft.trigger().elect().await.map_err(|error| failed(&error))?;
        } else {
            let members = BTreeMap::from([(settings.id, this)]);
            self.raft.initialize(members).await.map_err(|error| failed(&error))?;
        }
        let leads = |metrics: &RaftMetrics<u64, BasicNode>| {
            metrics.state == ServerState::Leader && metrics.current_term > last_term
        };
        let wait = self.raft.wait(Some(ELECTION_WAIT)).metrics(leads, "leadership").await;
        wait.map(drop).map_err(|error| failed(&error))
    }

    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// What opening the log found.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    pub fn proposer(&self) -> Proposer {
        Proposer { raft: self.raft.clone() }
    }

    pub fn status(&self) -> RaftStatus {
        status_of(self.id, &self.raft.metrics().borrow())
    }

    /// Tells when the Raft log could not be written: from then on this node is of no use.
    pub fn log_failure(&self) -> watch::Receiver<Option<DiskError>> {
        self.writer.failure()
    }

    /// Ends Raft and the log's task.
    pub async fn stop(self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(%error, "Raft ended badly");
        }
        let writer = self.writer;
        drop(self.raft);
        // It ends when openraft's tasks have dropped their handles of the log.
        writer.join().await;
    }
}

impl Proposer {
    /// Commits records as one batch and applies them.
    pub async fn propose(&self, records: Vec<MetadataRecord>) -> Result<Applied, ProposeError> {
        match self.raft.client_write(Batch(records.into())).await {
            Ok(written) => Ok(written.data),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
                Err(ProposeError("another coordinator leads".into()))
            }
            Err(error) => Err(ProposeError(error.to_string())),
        }
    }

    /// Returns when everything committed has been applied and this node still leads.
    pub async fn barrier(&self) -> Result<(), ProposeError> {
        self.raft.ensure_linearizable().await.map_err(|error| ProposeError(error.to_string()))?;
        Ok(())
    }

    /// Raft's state, and its changes.
    pub fn watch(&self) -> watch::Receiver<RaftMetrics<u64, BasicNode>> {
        self.raft.metrics()
    }

    pub fn status(&self, id: u64) -> RaftStatus {
        status_of(id, &self.raft.metrics().borrow())
    }
}

pub fn status_of(id: u64, metrics: &RaftMetrics<u64, BasicNode>) -> RaftStatus {
    RaftStatus {
        term: metrics.current_term,
        leader: metrics.current_leader,
        leads: metrics.state == ServerState::Leader && metrics.current_leader == Some(id),
        voters: metrics.membership_config.voter_ids().collect(),
        last_log_index: metrics.last_log_index,
        last_applied_index: metrics.last_applied.map(|id| id.index),
        snapshot_index: metrics.snapshot.map(|id| id.index),
        failure: metrics.running_state.as_ref().err().map(ToString::to_string),
    }
}

async fn open(
    disk: Arc<dyn Disk>,
    dir: std::path::PathBuf,
    identity: [u8; 16],
    feed: Feed,
) -> Result<(RaftLog, Writer, Recovery, StateMachine), NodeError> {
    let open = move || {
        let file = SnapshotFile::new(Arc::clone(&disk), dir.join(SNAPSHOT_FILE));
        let machine = StateMachine::open(file, feed).map_err(NodeError::Snapshot)?;
        let (log, writer, recovery) = RaftLog::open(disk, &dir.join(LOG_FILE), identity)?;
        let snapshot = machine.applied().map(|id| id.index);
        if let Some(purged) = log.purged().map(|id| id.index)
            && snapshot < Some(purged)
        {
            return Err(NodeError::SnapshotMissing { purged, snapshot });
        }
        Ok((log, writer, recovery, machine))
    };
    match tailway_runtime::spawn_blocking(open).await {
        Ok(opened) => opened,
        Err(error) => Err(NodeError::Raft(error.to_string())),
    }
}

fn config(settings: &NodeSettings) -> Result<Arc<Config>, NodeError> {
    let config = Config {
        cluster_name: "tailway".into(),
        enable_tick: false,
        enable_heartbeat: false,
        enable_elect: false,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_every),
        // Nobody replicates from here, so nothing below the snapshot is needed.
        max_in_snapshot_log_to_keep: 0,
        ..Config::default()
    };
    config.validate().map(Arc::new).map_err(|error| NodeError::Raft(error.to_string()))
}
