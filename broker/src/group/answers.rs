//! Between Kafka's request and response types and those of the shards: the versions of OffsetFetch, and taking each answer
//! out of its envelope.

use tailway_wire::ErrorCode;
use tailway_wire::messages::delete_groups_response::DeletableGroupResult;
use tailway_wire::messages::describe_groups_response::DescribedGroup;
use tailway_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
    OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use tailway_wire::messages::{
    GroupId, HeartbeatResponse, JoinGroupResponse, LeaveGroupResponse, OffsetCommitResponse,
    OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, StrBytes, SyncGroupResponse,
    TopicName,
};

use super::{FetchOffsets, FetchedOffsets, Response};
use crate::machine::offsets::schema::OffsetValue;

/// From this version on OffsetFetch asks for several groups.
const GROUPS_FROM: i16 = 8;
/// From this version on an older OffsetFetch has one error for the whole answer.
const TOP_LEVEL_ERROR_FROM: i16 = 2;

macro_rules! take {
    ($($name:ident: $variant:ident($type:ty);)*) => {
        $(pub(super) fn $name(response: Response) -> $type {
            match response {
                Response::$variant(response) => response,
                // A shard answers every request in kind.
                other => unreachable_kind(stringify!($variant), &other),
            }
        })*
    };
}

take! {
    join: Join(JoinGroupResponse);
    sync: Sync(SyncGroupResponse);
    heartbeat: Heartbeat(HeartbeatResponse);
    leave: Leave(LeaveGroupResponse);
    commit: Commit(OffsetCommitResponse);
    fetched: FetchOffsets(FetchedOffsets);
    described: Describe(DescribedGroup);
    deleted_offsets: DeleteOffsets(OffsetDeleteResponse);
    deletion: Delete(ErrorCode);
}

fn unreachable_kind(wanted: &str, got: &Response) -> ! {
    panic!("a shard answered a {wanted} request with {got:?}")
}

pub(super) fn deleted(group_id: GroupId, response: Response) -> DeletableGroupResult {
    DeletableGroupResult::default()
        .with_group_id(group_id)
        .with_error_code(deletion(response).code())
}

/// What an OffsetFetch asks for, group by group.
pub(super) fn fetches(request: OffsetFetchRequest, version: i16) -> Vec<FetchOffsets> {
    if version < GROUPS_FROM {
        let topics = request.topics.map(|topics| {
            topics.into_iter().map(|topic| (topic.name.0, topic.partition_indexes)).collect()
        });
        return vec![FetchOffsets { group_id: request.group_id.0, topics }];
    }
    let of_group =
        |group: tailway_wire::messages::offset_fetch_request::OffsetFetchRequestGroup| {
            let topics = group.topics.map(|topics| {
                topics.into_iter().map(|topic| (topic.name.0, topic.partition_indexes)).collect()
            });
            FetchOffsets { group_id: group.group_id.0, topics }
        };
    request.groups.into_iter().map(of_group).collect()
}

pub(super) fn fetch_response(
    fetched: Vec<(StrBytes, FetchedOffsets)>,
    version: i16,
) -> OffsetFetchResponse {
    if version >= GROUPS_FROM {
        let groups = fetched.into_iter().map(|(group_id, fetched)| group(group_id, fetched));
        return OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let fetched = fetched.into_iter().next().map(|(_, fetched)| fetched).unwrap_or_default();
    let per_partition =
        if version < TOP_LEVEL_ERROR_FROM { fetched.error } else { ErrorCode::NONE };
    let topics = fetched.topics.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(index, value)| {
            let (offset, leader_epoch, metadata) = shown(value);
            OffsetFetchResponsePartition::default()
                .with_partition_index(index)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(leader_epoch)
                .with_metadata(metadata)
                .with_error_code(per_partition.code())
        });
        OffsetFetchResponseTopic::default()
            .with_name(TopicName(topic))
            .with_partitions(partitions.collect())
    });
    let response = OffsetFetchResponse::default().with_topics(topics.collect());
    if version < TOP_LEVEL_ERROR_FROM {
        response
    } else {
        response.with_error_code(fetched.error.code())
    }
}

fn group(group_id: StrBytes, fetched: FetchedOffsets) -> OffsetFetchResponseGroup {
    let topics = fetched.topics.into_iter().map(|(topic, partitions)| {
        let partitions = partitions.into_iter().map(|(index, value)| {
            let (offset, leader_epoch, metadata) = shown(value);
            OffsetFetchResponsePartitions::default()
                .with_partition_index(index)
                .with_committed_offset(offset)
                .with_committed_leader_epoch(leader_epoch)
                .with_metadata(metadata)
        });
        OffsetFetchResponseTopics::default()
            .with_name(TopicName(topic))
            .with_partitions(partitions.collect())
    });
    OffsetFetchResponseGroup::default()
        .with_group_id(GroupId(group_id))
        .with_topics(topics.collect())
        .with_error_code(fetched.error.code())
}

/// Offset, leader epoch and metadata as a response shows them: -1, -1 and "" where nothing is committed.
fn shown(value: Option<OffsetValue>) -> (i64, i32, Option<StrBytes>) {
    match value {
        Some(value) => (value.offset, value.leader_epoch, Some(value.metadata)),
        None => (-1, -1, Some(StrBytes::new())),
    }
}
