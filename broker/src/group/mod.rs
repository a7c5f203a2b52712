//! Classic consumer groups and their committed offsets: the async door to the group coordinator.
//!
//! Every group belongs to one partition of `__consumer_offsets`; whoever leads that partition coordinates its groups. One
//! owner task per led partition drives `machine::group` over that partition: it loads the state from the partition's
//! start, answers requests, and answers what must be durable only after the append is.
//! Invariants: no commit is acknowledged before its record is durable; each request is answered exactly once; everything a
//! client can grow is bounded by `GroupConfig`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailway_daemon::clock::Clock;
use tailway_daemon::tasks::Tasks;
use tailway_metadata::ClusterImage;
use tailway_wire::messages::{
    DescribeGroupsRequest, DescribeGroupsResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest,
    ListGroupsResponse, OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest,
    OffsetFetchResponse, StrBytes, SyncGroupRequest, SyncGroupResponse,
};

use crate::partition::PartitionHandle;

/// The topic that holds groups and offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// How many partitions the offsets topic is created with. It can never change afterwards: groups are hashed over it.
pub const OFFSETS_TOPIC_PARTITIONS: i32 = 16;

/// The settings that the offsets topic is created with.
pub fn offsets_topic_configs() -> BTreeMap<String, String> {
    [("cleanup.policy", "compact"), ("segment.bytes", "104857600")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The partition of `__consumer_offsets` that a group belongs to: Java's `String.hashCode` as Kafka uses it.
pub fn partition_for_group(_group_id: &str, _partitions: i32) -> i32 {
    unimplemented!()
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The connection's number, unique in this process. `connection_closed` ends what hangs on it.
    pub connection: u64,
    /// The version of the request: some answers depend on it.
    pub api_version: i16,
    pub client_id: StrBytes,
    /// As Kafka writes it: `/10.0.0.7`.
    pub client_host: StrBytes,
}

/// What the door needs from the broker.
#[derive(Debug, Clone)]
pub struct GroupsOptions {
    pub clock: Clock,
    pub tasks: Tasks,
}

/// The group coordinator of this broker. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Groups {
    _inner: Arc<()>,
}

impl Groups {
    pub fn new(_options: GroupsOptions) -> Groups {
        unimplemented!()
    }

    /// Takes note of what the cluster is and which partitions of `__consumer_offsets` this broker leads now: new ones are
    /// loaded, those not in `led` are given up, a changed leader epoch loads anew. Call it after every image, once
    /// the handles are open; it does not wait.
    pub fn reconcile(&self, _image: &Arc<ClusterImage>, _led: &[PartitionHandle]) {
        unimplemented!()
    }

    /// Waits for the rebalance: up to the group's rebalance timeout.
    pub async fn join(&self, _caller: &Caller, _request: JoinGroupRequest) -> JoinGroupResponse {
        unimplemented!()
    }

    /// Waits for the leader's assignment: up to the group's rebalance timeout.
    pub async fn sync(&self, _caller: &Caller, _request: SyncGroupRequest) -> SyncGroupResponse {
        unimplemented!()
    }

    pub async fn heartbeat(
        &self,
        _caller: &Caller,
        _request: HeartbeatRequest,
    ) -> HeartbeatResponse {
        unimplemented!()
    }

    pub async fn leave(&self, _caller: &Caller, _request: LeaveGroupRequest) -> LeaveGroupResponse {
        unimplemented!()
    }

    /// Answered once the offsets are durable. Topics and partitions that the image does not have are refused.
    pub async fn commit(
        &self,
        _caller: &Caller,
        _request: OffsetCommitRequest,
    ) -> OffsetCommitResponse {
        unimplemented!()
    }

    pub async fn fetch_offsets(
        &self,
        _caller: &Caller,
        _request: OffsetFetchRequest,
    ) -> OffsetFetchResponse {
        unimplemented!()
    }

    pub async fn describe(
        &self,
        _caller: &Caller,
        _request: DescribeGroupsRequest,
    ) -> DescribeGroupsResponse {
        unimplemented!()
    }

    pub async fn list(&self, _caller: &Caller, _request: ListGroupsRequest) -> ListGroupsResponse {
        unimplemented!()
    }

    /// Ends what hangs on a connection: pending members, and members that wait in their first join.
    pub async fn connection_closed(&self, _connection: u64) {
        unimplemented!()
    }
}
