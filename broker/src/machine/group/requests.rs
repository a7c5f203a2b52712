//! What goes into the group coordinator and what comes out, in Kafka's own decoded types, and how each request is refused.

use std::collections::BTreeMap;

use tailway_wire::ErrorCode;
use tailway_wire::messages::describe_groups_response::DescribedGroup;
use tailway_wire::messages::leave_group_response::MemberResponse;
use tailway_wire::messages::list_groups_response::ListedGroup;
use tailway_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use tailway_wire::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use tailway_wire::messages::{
    GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse,
    LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest, OffsetCommitResponse,
    OffsetDeleteRequest, OffsetDeleteResponse, StrBytes, SyncGroupRequest, SyncGroupResponse,
};

use crate::machine::offsets::schema::OffsetValue;

/// Names one request until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call(pub u64);

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The connection's number, unique in this process.
    pub connection: u64,
    /// The version of the request: some answers depend on it.
    pub api_version: i16,
    pub client_id: StrBytes,
    /// As Kafka writes it: `/10.0.0.7`.
    pub client_host: StrBytes,
}

/// A request about one group (or, for `List`, about all groups of a shard).
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// `unique` is text that no other member id has: what a new member is named with.
    Join {
        request: JoinGroupRequest,
        unique: StrBytes,
    },
    Sync(SyncGroupRequest),
    Heartbeat(HeartbeatRequest),
    Leave(LeaveGroupRequest),
    Commit(OffsetCommitRequest),
    FetchOffsets(FetchOffsets),
    Describe(StrBytes),
    List(ListFilter),
    Delete(StrBytes),
    DeleteOffsets(OffsetDeleteRequest),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
    Heartbeat(HeartbeatResponse),
    Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse),
    FetchOffsets(FetchedOffsets),
    Describe(DescribedGroup),
    List(Vec<ListedGroup>),
    Delete(ErrorCode),
    DeleteOffsets(OffsetDeleteResponse),
}

/// Which offsets of a group are asked for. None: all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchOffsets {
    pub group_id: StrBytes,
    pub topics: Option<Vec<(StrBytes, Vec<i32>)>>,
}

/// Offsets in the order asked for; None where nothing is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FetchedOffsets {
    pub error: ErrorCode,
    pub topics: Vec<(StrBytes, Vec<FetchedOffset>)>,
}

/// A partition and what is committed for it.
pub(super) type FetchedOffset = (i32, Option<OffsetValue>);

/// Empty lists let everything through. Compared without regard to case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListFilter {
    pub states: Vec<StrBytes>,
    pub types: Vec<StrBytes>,
}

impl Request {
    /// The group it is about; None for `List`.
    pub fn group_id(&self) -> Option<&StrBytes> {
        match self {
            Request::Join { request, .. } => Some(&request.group_id.0),
            Request::Sync(request) => Some(&request.group_id.0),
            Request::Heartbeat(request) => Some(&request.group_id.0),
            Request::Leave(request) => Some(&request.group_id.0),
            Request::Commit(request) => Some(&request.group_id.0),
            Request::FetchOffsets(request) => Some(&request.group_id),
            Request::Describe(group_id) | Request::Delete(group_id) => Some(group_id),
            Request::DeleteOffsets(request) => Some(&request.group_id.0),
            Request::List(_) => None,
        }
    }

    /// The answer that is nothing but an error. `List` has none per group and is answered with nothing.
    pub fn refuse(&self, version: i16, error: ErrorCode) -> Response {
        match self {
            Request::Join { request, .. } => {
                Response::Join(join_error(version, request.member_id.clone(), error))
            }
            Request::Sync(_) => Response::Sync(sync_error(error)),
            Request::Heartbeat(_) => Response::Heartbeat(heartbeat_response(error)),
            Request::Leave(_) => {
                let response = LeaveGroupResponse::default().with_error_code(error.code());
                Response::Leave(response)
            }
            Request::Commit(request) => Response::Commit(commit_response(request, |_, _| error)),
            Request::FetchOffsets(request) => {
                let nothing = |partition: &i32| (*partition, None);
                let topics = request.topics.iter().flatten().map(|(topic, partitions)| {
                    (topic.clone(), partitions.iter().map(nothing).collect())
                });
                Response::FetchOffsets(FetchedOffsets { error, topics: topics.collect() })
            }
            Request::Describe(group_id) => Response::Describe(
                DescribedGroup::default()
                    .with_error_code(error.code())
                    .with_group_id(GroupId(group_id.clone())),
            ),
            Request::List(_) => Response::List(Vec::new()),
            Request::Delete(_) => Response::Delete(error),
            Request::DeleteOffsets(_) => Response::DeleteOffsets(
                OffsetDeleteResponse::default().with_error_code(error.code()),
            ),
        }
    }
}

macro_rules! from_response {
    ($($variant:ident($type:ty)),* $(,)?) => {
        $(impl From<$type> for Response {
            fn from(response: $type) -> Response {
                Response::$variant(response)
            }
        })*
    };
}

from_response! {
    Join(JoinGroupResponse), Sync(SyncGroupResponse), Heartbeat(HeartbeatResponse), Leave(LeaveGroupResponse),
    Commit(OffsetCommitResponse), FetchOffsets(FetchedOffsets), Describe(DescribedGroup), Delete(ErrorCode),
    DeleteOffsets(OffsetDeleteResponse),
}

/// An unsuccessful join. Before version 7 the protocol's name may not be null.
pub(super) fn join_error(version: i16, member_id: StrBytes, error: ErrorCode) -> JoinGroupResponse {
    JoinGroupResponse::default()
        .with_error_code(error.code())
        .with_generation_id(-1)
        .with_protocol_name((version < 7).then(StrBytes::new))
        .with_member_id(member_id)
}

pub(super) fn sync_error(error: ErrorCode) -> SyncGroupResponse {
    SyncGroupResponse::default().with_error_code(error.code())
}

pub(super) fn heartbeat_response(error: ErrorCode) -> HeartbeatResponse {
    HeartbeatResponse::default().with_error_code(error.code())
}

/// Before version 3 a leave is about one member, whose error is the response's.
pub(super) fn leave_response(version: i16, members: Vec<MemberResponse>) -> LeaveGroupResponse {
    if version >= 3 {
        return LeaveGroupResponse::default().with_members(members);
    }
    let error = members.first().map_or(0, |member| member.error_code);
    LeaveGroupResponse::default().with_error_code(error)
}

/// The response of a commit: an error code for each partition, in the order of the request.
pub(super) fn commit_response(
    request: &OffsetCommitRequest,
    error_of: impl Fn(&StrBytes, i32) -> ErrorCode,
) -> OffsetCommitResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error_of(&topic.name.0, partition.partition_index).code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetCommitResponse::default().with_topics(topics.collect())
}

/// A commit of which nothing became durable: what was not refused before is refused now.
pub(super) fn commit_error(
    mut response: OffsetCommitResponse,
    error: ErrorCode,
) -> OffsetCommitResponse {
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        if partition.error_code == ErrorCode::NONE.code() {
            partition.error_code = error.code();
        }
    }
    response
}

/// The response of an offset deletion, with the given errors by topic and partition.
pub(super) fn delete_offsets_response(
    request: &OffsetDeleteRequest,
    errors: &BTreeMap<(StrBytes, i32), ErrorCode>,
) -> OffsetDeleteResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let key = (topic.name.0.clone(), partition.partition_index);
            let error = errors.get(&key).copied().unwrap_or_default();
            OffsetDeleteResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(error.code())
        });
        OffsetDeleteResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
