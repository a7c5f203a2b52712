//! The controller's decisions: pure. Requests, time and commits come in as events; records to commit and replies go out.
//!
//! [`controller`] is the machine, the other files are what it decides by. See [`controller::Controller`] for the order of
//! things and the invariants.

pub mod authorities;
pub mod brokers;
pub mod controller;
pub mod draft;
pub mod election;
pub mod guesses;
pub mod membership;
pub mod topics;

#[cfg(test)]
mod authorities_tests;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod controller_tests;
#[cfg(test)]
mod membership_tests;
#[cfg(test)]
mod topics_tests;
#[cfg(test)]
mod walk_tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::authority::{AuthorityId, CertificateAuthority};
use tailway_metadata::broker::Endpoint;
use tailway_metadata::enrollment::CertificateRef;
use tailway_metadata::security::{IssuedCertificate, JoinToken, Serial};
use tailway_metadata::time::WallMs;
use tailway_metadata::{
    BrokerEpoch, BrokerId, ClusterId, ClusterImage, DirectoryId, IncarnationId, MetadataLogId,
    MetadataRecord, Offset, ProducerId, TopicId,
};
use tailway_wire::ErrorCode;

pub use authorities::NewAuthority;
pub use membership::{Certify, Grant, NewToken};

/// What the decisions depend on besides the image.
#[derive(Clone, Debug)]
pub struct Settings {
    pub cluster_id: ClusterId,
    /// Without a heartbeat for so long a broker is fenced.
    pub session_timeout: Duration,
    /// Partitions of a topic that does not say how many.
    pub default_partitions: i32,
    /// Partitions of `__consumer_offsets`, if its creator does not say.
    pub offsets_topic_partitions: i32,
    /// Certificates in force that were made before there was a state to record them in.
    pub first_certificates: Vec<IssuedCertificate>,
}

/// Names a request until it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Raft leads and the state machine has applied everything committed. `fresh_log_id` names the stream if it is new.
    Leads {
        image: Arc<ClusterImage>,
        fresh_log_id: MetadataLogId,
    },
    /// Raft does not lead (any more).
    LeadsNoMore {
        why: String,
    },
    Request {
        id: RequestId,
        request: Request,
    },
    /// The proposal under way is durable and applied.
    Committed,
    /// The proposal under way is not known to be committed.
    ProposalFailed {
        why: String,
    },
    /// The deadline has come.
    Tick,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Commit these records as one batch; answer with `Committed` or `ProposalFailed`. At most one is under way.
    Propose(Vec<MetadataRecord>),
    Reply {
        id: RequestId,
        reply: Reply,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    RegisterBroker(RegisterBroker),
    Heartbeat(Heartbeat),
    CreateTopics(CreateTopics),
    DeleteTopics(Vec<TopicRef>),
    AllocateProducerIds {
        broker_id: BrokerId,
        broker_epoch: BrokerEpoch,
    },
    CreateToken(NewToken),
    RevokeToken(String),
    Certify(Certify),
    RevokeCertificates {
        which: CertificateRef,
        now: WallMs,
    },
    /// `first` is the one that there is while none is recorded.
    AddAuthority {
        first: NewAuthority,
        new: NewAuthority,
    },
    ActivateAuthority {
        authority: AuthorityId,
        force: bool,
        now: WallMs,
    },
    RetireAuthority {
        authority: AuthorityId,
        force: bool,
        now: WallMs,
    },
    NoteTrust {
        serial: Serial,
        knows: AuthorityId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterBroker {
    pub broker_id: BrokerId,
    pub cluster_id: ClusterId,
    pub incarnation: IncarnationId,
    /// Of the one data directory; nil if the request did not name exactly one.
    pub directory: DirectoryId,
    /// The epoch that this process had, or -1.
    pub previous_epoch: BrokerEpoch,
    pub endpoints: Vec<Endpoint>,
    pub rack: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// `ClusterImage::offset` of the broker's image.
    pub metadata_offset: Offset,
    pub want_fence: bool,
    pub want_shut_down: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopics {
    pub topics: Vec<NewTopic>,
    /// Decide, but change nothing.
    pub validate_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// The id it gets, freshly drawn by the driver.
    pub id: TopicId,
    /// -1 for the default, or when `assignments` says it.
    pub partitions: i32,
    /// -1 for the default, or when `assignments` says it.
    pub replication_factor: i16,
    /// Partition index and replicas; empty to let the controller place them.
    pub assignments: Vec<(i32, Vec<BrokerId>)>,
    pub configs: Vec<(String, Option<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicRef {
    Name(String),
    Id(TopicId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Registered {
        broker_epoch: BrokerEpoch,
    },
    Heartbeat(HeartbeatReply),
    Created(Vec<Result<CreatedTopic, Refusal>>),
    Deleted(Vec<DeletedTopic>),
    ProducerIds {
        start: ProducerId,
        len: i32,
    },
    TokenCreated(JoinToken),
    TokenRevoked,
    /// Recorded: it may be signed now.
    Certified(IssuedCertificate),
    /// These are revoked, some of them maybe before.
    CertificatesRevoked(Vec<IssuedCertificate>),
    /// As it is now.
    Authority(CertificateAuthority),
    TrustNoted,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub caught_up: bool,
    pub fenced: bool,
    pub should_shut_down: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub id: TopicId,
    pub partitions: i32,
    pub replication_factor: i16,
    /// The overrides it was created with.
    pub configs: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// As asked for, or as found by the id.
    pub name: Option<String>,
    pub id: TopicId,
    pub outcome: Result<(), Refusal>,
}

/// No, and why: a Kafka error code with a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub text: String,
}

impl Refusal {
    pub fn new(code: ErrorCode, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }
}
