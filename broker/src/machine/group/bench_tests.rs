//! A shard, its clock and its answers, and the requests of ordinary clients: what the tests of the groups share.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use tailway_metadata::record::{ClusterRecord, PartitionRecord, TopicRecord};
use tailway_metadata::time::{Mono, WallMs};
use tailway_metadata::{
    ClusterId, ClusterImage, LeaderEpoch, MetadataLogId, MetadataRecord, PartitionIndex, TopicId,
};
use tailway_wire::ErrorCode;
use tailway_wire::messages::join_group_request::JoinGroupRequestProtocol;
use tailway_wire::messages::leave_group_request::MemberIdentity;
use tailway_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tailway_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use tailway_wire::messages::{
    GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetCommitRequest, StrBytes, SyncGroupRequest, SyncGroupResponse, TopicName,
};
use uuid::Uuid;

use super::*;
use crate::machine::offsets::schema::OffsetsRecord;

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn group_id(group: &str) -> GroupId {
    GroupId(text(group))
}

pub(super) fn join(
    group: &str,
    id: &StrBytes,
    instance: Option<&StrBytes>,
    protocols: &[&str],
) -> Request {
    let protocols = protocols.iter().map(|name| {
        JoinGroupRequestProtocol::default()
            .with_name(text(name))
            .with_metadata(Bytes::copy_from_slice(format!("sub-{name}").as_bytes()))
    });
    let request = JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(id.clone())
        .with_group_instance_id(instance.cloned())
        .with_protocol_type(text("consumer"))
        .with_protocols(protocols.collect());
    Request::Join { request, unique: text("1") }
}

pub(super) fn sync(
    group: &str,
    id: &StrBytes,
    instance: Option<&StrBytes>,
    generation: i32,
    given: &[(StrBytes, Bytes)],
) -> Request {
    let assignments = given.iter().map(|(id, assignment)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(id.clone())
            .with_assignment(assignment.clone())
    });
    let request = SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(id.clone())
        .with_group_instance_id(instance.cloned())
        .with_assignments(assignments.collect());
    Request::Sync(request)
}

pub(super) fn heartbeat(
    group: &str,
    id: &StrBytes,
    instance: Option<&StrBytes>,
    generation: i32,
) -> Request {
    let request = HeartbeatRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(generation)
        .with_member_id(id.clone())
        .with_group_instance_id(instance.cloned());
    Request::Heartbeat(request)
}

pub(super) fn leave(
    group: &str,
    id: &StrBytes,
    instance: Option<&StrBytes>,
    version: i16,
) -> Request {
    let request = LeaveGroupRequest::default().with_group_id(group_id(group));
    let identity = MemberIdentity::default()
        .with_member_id(id.clone())
        .with_group_instance_id(instance.cloned());
    Request::Leave(if version >= 3 {
        request.with_members(vec![identity])
    } else {
        request.with_member_id(id.clone())
    })
}

pub(super) fn commit(
    group: &str,
    id: &StrBytes,
    generation: i32,
    topic: &str,
    partition: i32,
    offset: i64,
) -> Request {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(partition)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(3)
        .with_committed_metadata(Some(text("md")));
    let topic = OffsetCommitRequestTopic::default()
        .with_name(TopicName(text(topic)))
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(id.clone())
        .with_retention_time_ms(-1)
        .with_topics(vec![topic]);
    Request::Commit(request)
}

/// A cluster with these topics of two partitions each: name and id.
pub(super) fn image_with(topics: &[(&str, u128)]) -> Arc<ClusterImage> {
    let mut image = ClusterImage::default();
    let mut apply = |record| image.apply(&record).unwrap();
    apply(MetadataRecord::Cluster(ClusterRecord {
        cluster_id: ClusterId("c".to_owned()),
        log_id: MetadataLogId(Uuid::from_u128(9)),
    }));
    for (name, id) in topics {
        let topic_id = TopicId(Uuid::from_u128(*id));
        apply(MetadataRecord::Topic(TopicRecord { name: (*name).into(), topic_id }));
        for index in 0..2 {
            apply(MetadataRecord::Partition(PartitionRecord {
                topic_id,
                partition: PartitionIndex(index),
                replicas: vec![],
                isr: vec![],
                leader: None,
                leader_epoch: LeaderEpoch(0),
            }));
        }
    }
    Arc::new(image)
}

/// A shard, a clock, and the answers by call.
pub(super) struct Bench {
    pub(super) shard: GroupShard,
    pub(super) now: Mono,
    pub(super) wall: WallMs,
    pub(super) calls: u64,
    pub(super) answers: BTreeMap<Call, Response>,
    pub(super) appends: Vec<(AppendId, Vec<OffsetsRecord>)>,
    pub(super) notices: Vec<Notice>,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench::with(GroupConfig::default())
    }

    pub(super) fn with(config: GroupConfig) -> Bench {
        let mut bench = Bench {
            shard: GroupShard::new(config, image_with(&[("t", 1)])),
            now: Mono::from_millis(1000),
            wall: WallMs(1_700_000_000_000),
            calls: 0,
            answers: BTreeMap::new(),
            appends: Vec::new(),
            notices: Vec::new(),
        };
        bench.event(Event::Loaded);
        bench
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.shard.on_event(event, self.now, self.wall, &mut actions);
        self.shard.check();
        for action in actions {
            match action {
                Action::Reply { call, response } => {
                    assert_eq!(
                        self.answers.insert(call, response),
                        None,
                        "{call:?} answered twice"
                    );
                }
                Action::Append { append, records } => self.appends.push((append, records)),
                Action::Drop(_) => {}
                Action::Notice(notice) => self.notices.push(notice),
            }
        }
    }

    pub(super) fn send_on(
        &mut self,
        connection: u64,
        api_version: i16,
        mut request: Request,
    ) -> Call {
        self.calls += 1;
        if let Request::Join { unique, .. } = &mut request {
            *unique = text(&self.calls.to_string());
        }
        let call = Call(self.calls);
        let (client_id, client_host) = (text("c"), text("/10.0.0.1"));
        let caller = Caller { connection, api_version, client_id, client_host };
        self.event(Event::Request { call, caller, request });
        call
    }

    /// Sends at version 5 (dynamic members still get their id first), each call on its own connection.
    pub(super) fn send(&mut self, request: Request) -> Call {
        self.send_on(1000 + self.calls, 5, request)
    }

    pub(super) fn take<T>(&mut self, call: Call, pick: impl Fn(Response) -> Option<T>) -> T {
        let response = self.answers.remove(&call).expect("answered");
        pick(response.clone()).unwrap_or_else(|| panic!("{response:?}"))
    }

    pub(super) fn joined(&mut self, call: Call) -> JoinGroupResponse {
        self.take(call, |response| if let Response::Join(it) = response { Some(it) } else { None })
    }

    pub(super) fn synced(&mut self, call: Call) -> SyncGroupResponse {
        self.take(call, |response| if let Response::Sync(it) = response { Some(it) } else { None })
    }

    /// The error code of any answer.
    pub(super) fn code(&mut self, call: Call) -> ErrorCode {
        let code = self.take(call, |response| {
            Some(match response {
                Response::Join(it) => it.error_code,
                Response::Sync(it) => it.error_code,
                Response::Heartbeat(it) => it.error_code,
                Response::Leave(it) => it.members.first().map_or(it.error_code, |m| m.error_code),
                Response::Commit(it) => it.topics[0].partitions[0].error_code,
                Response::DeleteOffsets(it) => {
                    let first = it.topics.first().and_then(|topic| topic.partitions.first());
                    first.map_or(it.error_code, |partition| partition.error_code)
                }
                Response::Delete(code) => code.code(),
                Response::FetchOffsets(it) => it.error.code(),
                Response::Describe(_) | Response::List(_) => return None,
            })
        });
        ErrorCode::from(code)
    }

    pub(super) fn is_waiting(&self, call: Call) -> bool {
        !self.answers.contains_key(&call)
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        self.wall = WallMs(self.wall.0 + i64::try_from(ms).unwrap());
        self.event(Event::Tick);
    }

    /// All appends become durable. Returns their records.
    pub(super) fn durable(&mut self) -> Vec<OffsetsRecord> {
        let mut all = Vec::new();
        while !self.appends.is_empty() {
            let (append, records) = self.appends.remove(0);
            all.extend(records);
            self.event(Event::Appended { append, outcome: Ok(()) });
        }
        all
    }

    /// The two steps of a newcomer's join: asks for an id, comes back with it. Returns the id and the waiting call.
    pub(super) fn knock(&mut self, group: &str, protocols: &[&str]) -> (StrBytes, Call) {
        let call = self.send(join(group, &StrBytes::new(), None, protocols));
        let response = self.joined(call);
        assert_eq!(ErrorCode::from(response.error_code), ErrorCode::MEMBER_ID_REQUIRED);
        let call = self.send(join(group, &response.member_id, None, protocols));
        (response.member_id, call)
    }

    /// A stable group "g" of members with these protocols. Returns their ids; the first leads.
    pub(super) fn stable(&mut self, members: &[&[&str]]) -> Vec<StrBytes> {
        let joins: Vec<_> = members.iter().map(|protocols| self.knock("g", protocols)).collect();
        self.advance(250);
        self.advance(250);
        let generation = self.joined(joins[0].1).generation_id;
        let ids: Vec<StrBytes> = joins.iter().map(|(id, _)| id.clone()).collect();
        let given: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| (id.clone(), Bytes::from(format!("part-{n}"))))
            .collect();
        for (n, id) in ids.iter().enumerate().rev() {
            let given = if n == 0 { &given[..] } else { &[] };
            self.send(sync("g", id, None, generation, given));
        }
        self.durable();
        self.answers.clear();
        self.notices.clear();
        ids
    }
}

pub(super) fn none() -> StrBytes {
    StrBytes::new()
}
