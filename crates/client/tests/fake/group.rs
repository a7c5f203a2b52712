//! A group coordinator that never waits: whoever is behind the generation is told to rejoin.
//!
//! Real coordinators hold JoinGroup and SyncGroup back until all members are there. This one
//! answers at once, and a member whose leader has not assigned yet gets REBALANCE_IN_PROGRESS;
//! the protocol allows it, and it makes more of the rounds that members must get through.

use std::collections::BTreeMap;

use bytes::Bytes;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::frame::{RequestHeader, decode_request, encode_response};
use tailway_wire::messages::find_coordinator_response::Coordinator;
use tailway_wire::messages::join_group_response::JoinGroupResponseMember;
use tailway_wire::messages::offset_commit_response::{
    OffsetCommitResponsePartition, OffsetCommitResponseTopic,
};
use tailway_wire::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartitions, OffsetFetchResponseTopics,
};
use tailway_wire::messages::{
    BrokerId, Encodable, FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest,
    HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, StrBytes,
    SyncGroupRequest, SyncGroupResponse,
};

#[derive(Debug, Default)]
pub(crate) struct Group {
    /// Where the group lives.
    pub(crate) coordinator: i32,
    pub(crate) generation: i32,
    /// By member id: subscription and, once assigned in this generation, assignment.
    members: BTreeMap<String, (Bytes, Option<Bytes>)>,
    ids: i32,
    /// By topic and partition.
    pub(crate) committed: BTreeMap<(String, i32), i64>,
}

impl Group {
    pub(crate) fn members(&self) -> usize {
        self.members.len()
    }

    /// Forgets everybody, as after a session timeout.
    pub(crate) fn expel_all(&mut self) {
        self.members.clear();
        self.generation += 1;
    }

    fn check(&self, member: &str, generation: i32) -> ErrorCode {
        if !self.members.contains_key(member) {
            ErrorCode::UNKNOWN_MEMBER_ID
        } else if generation != self.generation {
            ErrorCode::REBALANCE_IN_PROGRESS
        } else {
            ErrorCode::NONE
        }
    }
}

pub(super) fn answer(id: i32, header: &RequestHeader, body: Bytes, group: &mut Group) -> Bytes {
    let version = header.api_version;
    let here = id == group.coordinator;
    match header.api().unwrap() {
        ApiKey::FindCoordinator => {
            let request: FindCoordinatorRequest = decode_request(body, version).unwrap();
            let found = Coordinator::default()
                .with_key(request.coordinator_keys[0].clone())
                .with_node_id(BrokerId(group.coordinator));
            respond(header, &FindCoordinatorResponse::default().with_coordinators(vec![found]))
        }
        ApiKey::JoinGroup => {
            let request: JoinGroupRequest = decode_request(body, version).unwrap();
            respond(header, &join(&request, group, here))
        }
        ApiKey::SyncGroup => {
            let request: SyncGroupRequest = decode_request(body, version).unwrap();
            respond(header, &sync(request, group))
        }
        ApiKey::Heartbeat => {
            let request: HeartbeatRequest = decode_request(body, version).unwrap();
            let code = if here {
                group.check(&request.member_id, request.generation_id)
            } else {
                ErrorCode::NOT_COORDINATOR
            };
            respond(header, &HeartbeatResponse::default().with_error_code(code.code()))
        }
        ApiKey::LeaveGroup => {
            let request: LeaveGroupRequest = decode_request(body, version).unwrap();
            for member in &request.members {
                group.members.remove(member.member_id.as_str());
                group.generation += 1;
                for (_, assignment) in group.members.values_mut() {
                    *assignment = None;
                }
            }
            respond(header, &LeaveGroupResponse::default())
        }
        ApiKey::OffsetCommit => {
            let request: OffsetCommitRequest = decode_request(body, version).unwrap();
            respond(header, &commit(&request, group, here))
        }
        ApiKey::OffsetFetch => {
            let request: OffsetFetchRequest = decode_request(body, version).unwrap();
            respond(header, &fetch(&request, group))
        }
        other => panic!("{other} is not part of this cluster"),
    }
}

fn respond<T: Encodable>(header: &RequestHeader, response: &T) -> Bytes {
    encode_response(header, response).unwrap()
}

fn join(request: &JoinGroupRequest, group: &mut Group, here: bool) -> JoinGroupResponse {
    let refuse = |code: ErrorCode| JoinGroupResponse::default().with_error_code(code.code());
    if !here {
        return refuse(ErrorCode::NOT_COORDINATOR);
    }
    let id = request.member_id.to_string();
    if id.is_empty() {
        group.ids += 1;
        let id = StrBytes::from_string(format!("member-{}", group.ids));
        return refuse(ErrorCode::MEMBER_ID_REQUIRED).with_member_id(id);
    }
    let subscription = request.protocols[0].metadata.clone();
    // One who comes back keeps what the leader has given it in this generation.
    if let Some(member) = group.members.get_mut(&id) {
        member.0 = subscription;
    } else {
        group.members.insert(id.clone(), (subscription, None));
        group.generation += 1;
        for (_, assignment) in group.members.values_mut() {
            *assignment = None;
        }
    }
    let leader = group.members.keys().next().unwrap().clone();
    let member = |(id, (subscription, _)): (&String, &(Bytes, Option<Bytes>))| {
        JoinGroupResponseMember::default()
            .with_member_id(StrBytes::from_string(id.clone()))
            .with_metadata(subscription.clone())
    };
    let members = group.members.iter().map(member).collect();
    JoinGroupResponse::default()
        .with_generation_id(group.generation)
        .with_protocol_type(Some(StrBytes::from_static_str("consumer")))
        .with_protocol_name(Some(StrBytes::from_static_str("range")))
        .with_members(if leader == id { members } else { Vec::new() })
        .with_leader(StrBytes::from_string(leader))
        .with_member_id(request.member_id.clone())
}

fn sync(request: SyncGroupRequest, group: &mut Group) -> SyncGroupResponse {
    let code = group.check(&request.member_id, request.generation_id);
    if code.is_error() {
        return SyncGroupResponse::default().with_error_code(code.code());
    }
    for assigned in request.assignments {
        if let Some((_, slot)) = group.members.get_mut(assigned.member_id.as_str()) {
            *slot = Some(assigned.assignment);
        }
    }
    if let Some(assignment) = &group.members[request.member_id.as_str()].1 {
        return SyncGroupResponse::default().with_assignment(assignment.clone());
    }
    SyncGroupResponse::default().with_error_code(ErrorCode::REBALANCE_IN_PROGRESS.code())
}

fn commit(request: &OffsetCommitRequest, group: &mut Group, here: bool) -> OffsetCommitResponse {
    let code = match group.check(&request.member_id, request.generation_id_or_member_epoch) {
        _ if !here => ErrorCode::NOT_COORDINATOR,
        // Real coordinators still take the offsets of the generation that is ending.
        ErrorCode::REBALANCE_IN_PROGRESS => ErrorCode::NONE,
        code => code,
    };
    let mut topics = Vec::new();
    for topic in &request.topics {
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            if !code.is_error() {
                let key = (topic.name.to_string(), partition.partition_index);
                group.committed.insert(key, partition.committed_offset);
            }
            let answer = OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(code.code());
            partitions.push(answer);
        }
        let answer = OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions);
        topics.push(answer);
    }
    OffsetCommitResponse::default().with_topics(topics)
}

fn fetch(request: &OffsetFetchRequest, group: &Group) -> OffsetFetchResponse {
    let wanted = &request.groups[0];
    let mut topics = Vec::new();
    for topic in wanted.topics.iter().flatten() {
        let partition = |index: &i32| {
            let committed = group.committed.get(&(topic.name.to_string(), *index));
            OffsetFetchResponsePartitions::default()
                .with_partition_index(*index)
                .with_committed_offset(committed.copied().unwrap_or(-1))
        };
        let answer = OffsetFetchResponseTopics::default()
            .with_name(topic.name.clone())
            .with_partitions(topic.partition_indexes.iter().map(partition).collect());
        topics.push(answer);
    }
    let answer = OffsetFetchResponseGroup::default()
        .with_group_id(wanted.group_id.clone())
        .with_topics(topics);
    OffsetFetchResponse::default().with_groups(vec![answer])
}
