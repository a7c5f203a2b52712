//! The protocol side of a group member: which requests go to the group's coordinator, and what
//! its answers mean. One request at a time, each with a deadline, the coordinator found anew when
//! it has moved.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tailway_metadata::ids::TopicPartition;
use tailway_wire::WireError;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::frame::{decode_message, encode_message};
use tailway_wire::messages::consumer_protocol_assignment::TopicPartition as AssignedTopic;
use tailway_wire::messages::join_group_request::JoinGroupRequestProtocol;
use tailway_wire::messages::leave_group_request::MemberIdentity;
use tailway_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tailway_wire::messages::offset_fetch_request::{
    OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics,
};
use tailway_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use tailway_wire::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, FindCoordinatorRequest,
    FindCoordinatorResponse, GroupId, HeartbeatRequest, HeartbeatResponse, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, StrBytes, SyncGroupRequest,
    SyncGroupResponse, TopicName,
};
use tokio::time::{Instant, sleep};

use crate::client::{Client, OwnLane, Retries};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::group::{GroupOptions, describe};
use crate::machine::assignor::{self, Assignment, Subscriber};

const PROTOCOL_TYPE: StrBytes = StrBytes::from_static_str("consumer");
const RANGE: StrBytes = StrBytes::from_static_str("range");
/// Rounds of joining without a pause between them, and the pause before further ones.
const ROUNDS_AT_ONCE: u32 = 3;
const ROUND_PAUSE: Duration = Duration::from_millis(50);
/// Version of subscriptions and assignments that we write; newer ones are read as far as known.
const WRITTEN_VERSION: i16 = 0;
const READ_VERSION_MAX: i16 = 3;

/// A member that has its assignment.
#[derive(Debug, Clone)]
pub(crate) struct Joined {
    pub(crate) generation: i32,
    /// The committed offset of each assigned partition, if there is one.
    pub(crate) offsets: BTreeMap<TopicPartition, Option<i64>>,
}

/// How a join went.
enum Round {
    Joined(Joined),
    /// The group has gone on without us; begin again.
    Again,
}

/// One member's dealings with its coordinator. Clones are the same member.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    client: Client,
    options: GroupOptions,
    lane: Arc<OwnLane>,
    member_id: StrBytes,
    coordinator: Option<i32>,
}

impl Membership {
    pub(crate) fn new(client: Client, options: GroupOptions) -> Self {
        let lane = Arc::new(client.own_lane());
        Self { client, options, lane, member_id: StrBytes::new(), coordinator: None }
    }

    pub(crate) fn options(&self) -> &GroupOptions {
        &self.options
    }

    /// The group no longer knows this member.
    pub(crate) fn forget(&mut self) {
        self.member_id = StrBytes::new();
    }

    /// Joins, and comes back with an assignment. Tries through rebalances and coordinator moves,
    /// at most for rebalance timeout and request timeout together.
    pub(crate) async fn join(&mut self) -> Result<Joined, ClientError> {
        let request_timeout = self.client.config().request_timeout;
        let deadline = Instant::now() + self.options.rebalance_timeout + request_timeout;
        let mut retries = Retries::until(deadline);
        let mut rounds = 0_u32;
        loop {
            let outcome = retries.run(self.join_once()).await;
            match outcome {
                Ok(Some(Round::Joined(joined))) => return Ok(joined),
                // A member id to be shown and a rebalance that overtook us cost one round each.
                Ok(Some(Round::Again)) if rounds < ROUNDS_AT_ONCE => rounds += 1,
                Ok(Some(Round::Again)) if Instant::now() < deadline => sleep(ROUND_PAUSE).await,
                Ok(Some(Round::Again)) => {
                    let after = self.options.rebalance_timeout + request_timeout;
                    return Err(ClientError::TimedOut { after, last: Box::new(self.unsettled()) });
                }
                Ok(None) => self.coordinator = None,
                Err(error) => {
                    self.coordinator = None;
                    return Err(error);
                }
            }
        }
    }

    fn unsettled(&self) -> ClientError {
        ClientError::Usage(format!(
            "group `{}` rebalances again and again: a member comes and goes",
            self.options.group_id
        ))
    }

    async fn join_once(&mut self) -> Result<Round, ClientError> {
        const API: ApiKey = ApiKey::JoinGroup;
        let connection = self.connection().await?;
        // The coordinator answers when all members are there.
        let timeout = self.options.rebalance_timeout + Duration::from_secs(10);
        let subscription = self.subscription(&connection)?;
        let build = |version| self.join_request(version, subscription);
        let answer: JoinGroupResponse = connection.call(API, timeout, build).await?;
        match ErrorCode::from(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::MEMBER_ID_REQUIRED => {
                self.member_id = answer.member_id;
                return Ok(Round::Again);
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.forget();
                return Ok(Round::Again);
            }
            code => return Err(self.refused(&connection, API, code)),
        }
        self.member_id = answer.member_id.clone();
        let assignments = if answer.leader == answer.member_id {
            self.assign(&connection, &answer).await?
        } else {
            Vec::new()
        };
        self.sync(&connection, answer.generation_id, assignments).await
    }

    async fn sync(
        &mut self,
        connection: &Connection,
        generation: i32,
        assignments: Vec<SyncGroupRequestAssignment>,
    ) -> Result<Round, ClientError> {
        const API: ApiKey = ApiKey::SyncGroup;
        let timeout = self.options.rebalance_timeout + Duration::from_secs(10);
        let build = |version| {
            let mut request = SyncGroupRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(generation)
                .with_member_id(self.member_id.clone())
                .with_assignments(assignments);
            if version >= 3 {
                request.group_instance_id = self.instance_id();
            }
            if version >= 5 {
                request.protocol_type = Some(PROTOCOL_TYPE);
                request.protocol_name = Some(RANGE);
            }
            request
        };
        let answer: SyncGroupResponse = connection.call(API, timeout, build).await?;
        match ErrorCode::from(answer.error_code) {
            ErrorCode::NONE => {}
            ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION => {
                return Ok(Round::Again);
            }
            ErrorCode::UNKNOWN_MEMBER_ID => {
                self.forget();
                return Ok(Round::Again);
            }
            code => return Err(self.refused(connection, API, code)),
        }
        let assignment = read_assignment(answer.assignment)
            .map_err(|cause| connection.nonsense(API, cause.to_string()))?;
        tracing::info!(
            group = self.options.group_id,
            generation,
            assignment = describe(&assignment),
            "joined the group"
        );
        let offsets = self.committed_offsets(&assignment).await?;
        Ok(Round::Joined(Joined { generation, offsets }))
    }

    /// As the leader: who reads what.
    async fn assign(
        &self,
        connection: &Connection,
        answer: &JoinGroupResponse,
    ) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let bad = |cause: WireError| connection.nonsense(ApiKey::JoinGroup, cause.to_string());
        let mut subscribers = Vec::with_capacity(answer.members.len());
        for member in &answer.members {
            subscribers.push(Subscriber {
                member_id: member.member_id.to_string(),
                instance_id: member.group_instance_id.as_ref().map(ToString::to_string),
                topics: read_subscription(member.metadata.clone()).map_err(bad)?,
            });
        }
        let mut partitions: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        let topics: std::collections::BTreeSet<&String> =
            subscribers.iter().flat_map(|subscriber| &subscriber.topics).collect();
        for topic in topics {
            match self.client.topic(topic).await {
                Ok(info) => {
                    partitions
                        .insert(Arc::clone(&info.name), info.partitions.keys().copied().collect());
                }
                // Others may wait for a topic to appear; it has nothing to be read now.
                Err(ClientError::UnknownTopic { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let assigned = assignor::range(&subscribers, &partitions);
        let mut assignments = Vec::with_capacity(assigned.len());
        for (member_id, assignment) in assigned {
            assignments.push(
                SyncGroupRequestAssignment::default()
                    .with_member_id(StrBytes::from_string(member_id))
                    .with_assignment(write_assignment(&assignment).map_err(bad)?),
            );
        }
        Ok(assignments)
    }

    pub(crate) async fn committed_offsets(
        &mut self,
        assignment: &Assignment,
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>, ClientError> {
        const API: ApiKey = ApiKey::OffsetFetch;
        let mut offsets = BTreeMap::new();
        for (topic, indexes) in assignment {
            for index in indexes {
                offsets.insert(TopicPartition::new(Arc::clone(topic), *index), None);
            }
        }
        if offsets.is_empty() {
            return Ok(offsets);
        }
        let connection = self.connection().await?;
        let timeout = self.client.config().request_timeout;
        let build = |version| self.offset_fetch_request(version, assignment);
        let answer: OffsetFetchResponse = connection.call(API, timeout, build).await?;
        for (topic, index, offset, code) in fetched_offsets(&answer) {
            if code.is_error() {
                return Err(self.refused(&connection, API, code));
            }
            if let Some(slot) = offsets.get_mut(&TopicPartition::new(topic, index)) {
                *slot = (offset >= 0).then_some(offset);
            }
        }
        Ok(offsets)
    }

    /// One heartbeat: the coordinator's word.
    pub(crate) async fn heartbeat(&mut self, generation: i32) -> Result<ErrorCode, ClientError> {
        let connection = self.connection().await?;
        // A heartbeat later than the session is of no use.
        let timeout = self.client.config().request_timeout.min(self.options.session_timeout);
        let build = |version| {
            let mut request = HeartbeatRequest::default()
                .with_group_id(self.group_id())
                .with_generation_id(generation)
                .with_member_id(self.member_id.clone());
            if version >= 3 {
                request.group_instance_id = self.instance_id();
            }
            request
        };
        let answer: Result<HeartbeatResponse, _> =
            connection.call(ApiKey::Heartbeat, timeout, build).await;
        let code = answer.map(|answer| ErrorCode::from(answer.error_code));
        if !matches!(code, Ok(ErrorCode::NONE | ErrorCode::REBALANCE_IN_PROGRESS)) {
            self.coordinator = None;
        }
        code
    }

    /// Commits offsets, tried until `request_timeout`.
    pub(crate) async fn commit(
        &mut self,
        generation: i32,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        let mut retries = Retries::until(self.client.deadline());
        loop {
            if retries.run(self.commit_once(generation, offsets)).await?.is_some() {
                return Ok(());
            }
        }
    }

    async fn commit_once(
        &mut self,
        generation: i32,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        const API: ApiKey = ApiKey::OffsetCommit;
        let connection = self.connection().await?;
        let timeout = self.client.config().request_timeout;
        let build = |version| self.commit_request(version, generation, offsets);
        let answer: Result<OffsetCommitResponse, _> = connection.call(API, timeout, build).await;
        let answer = answer.inspect_err(|_| self.coordinator = None)?;
        let codes = answer.topics.iter().flat_map(|topic| &topic.partitions);
        match codes.map(|p| ErrorCode::from(p.error_code)).find(|code| code.is_error()) {
            None => Ok(()),
            Some(code) => {
                self.coordinator = None;
                Err(self.refused(&connection, API, code))
            }
        }
    }

    /// Tells the group to go on without us. A static member stays known for its session.
    pub(crate) async fn leave(&mut self) -> Result<(), ClientError> {
        const API: ApiKey = ApiKey::LeaveGroup;
        if self.member_id.is_empty() || self.options.instance_id.is_some() {
            return Ok(());
        }
        let connection = self.connection().await?;
        let timeout = self.client.config().request_timeout.min(Duration::from_secs(5));
        let build = |version| {
            let request = LeaveGroupRequest::default().with_group_id(self.group_id());
            if version >= 3 {
                let member = MemberIdentity::default().with_member_id(self.member_id.clone());
                request.with_members(vec![member])
            } else {
                request.with_member_id(self.member_id.clone())
            }
        };
        let answer: LeaveGroupResponse = connection.call(API, timeout, build).await?;
        self.forget();
        match ErrorCode::from(answer.error_code) {
            ErrorCode::NONE | ErrorCode::UNKNOWN_MEMBER_ID => Ok(()),
            code => Err(self.refused(&connection, API, code)),
        }
    }

    async fn connection(&mut self) -> Result<Connection, ClientError> {
        let id = match self.coordinator {
            Some(id) => id,
            None => self.find_coordinator().await?,
        };
        self.coordinator = Some(id);
        let connection = self.client.broker(id, self.lane.lane()).await;
        connection.inspect_err(|_| self.coordinator = None)
    }

    async fn find_coordinator(&self) -> Result<i32, ClientError> {
        const API: ApiKey = ApiKey::FindCoordinator;
        let connection = self.client.any_connection().await?;
        let group = StrBytes::from_string(self.options.group_id.clone());
        let build = |version| {
            if version >= 4 {
                FindCoordinatorRequest::default().with_coordinator_keys(vec![group])
            } else {
                FindCoordinatorRequest::default().with_key(group)
            }
        };
        let timeout = self.client.config().request_timeout;
        let answer: FindCoordinatorResponse = connection.call(API, timeout, build).await?;
        let (code, message, id) = match answer.coordinators.into_iter().next() {
            Some(found) => (found.error_code, found.error_message, found.node_id),
            None => (answer.error_code, answer.error_message, answer.node_id),
        };
        let code = ErrorCode::from(code);
        if code.is_error() {
            let subject = format!("group `{}`", self.options.group_id);
            return Err(connection.refused(API, subject, code, message));
        }
        Ok(id.0)
    }

    fn refused(&self, connection: &Connection, api: ApiKey, code: ErrorCode) -> ClientError {
        connection.refused(api, format!("group `{}`", self.options.group_id), code, None)
    }

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.options.group_id.clone()))
    }

    fn instance_id(&self) -> Option<StrBytes> {
        self.options.instance_id.clone().map(StrBytes::from_string)
    }

    fn subscription(&self, connection: &Connection) -> Result<Bytes, ClientError> {
        let topics = self.options.topics.iter().cloned().map(StrBytes::from_string);
        let subscription = ConsumerProtocolSubscription::default().with_topics(topics.collect());
        encode_message(&subscription, WRITTEN_VERSION)
            .map(|body| versioned(&body))
            .map_err(|cause| connection.nonsense(ApiKey::JoinGroup, cause.to_string()))
    }

    fn join_request(&self, version: i16, subscription: Bytes) -> JoinGroupRequest {
        let millis = |d: Duration| i32::try_from(d.as_millis()).unwrap_or(i32::MAX);
        let protocol =
            JoinGroupRequestProtocol::default().with_name(RANGE).with_metadata(subscription);
        let mut request = JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(millis(self.options.session_timeout))
            .with_member_id(self.member_id.clone())
            .with_protocol_type(PROTOCOL_TYPE)
            .with_protocols(vec![protocol]);
        if version >= 1 {
            request.rebalance_timeout_ms = millis(self.options.rebalance_timeout);
        }
        if version >= 5 {
            request.group_instance_id = self.instance_id();
        }
        request
    }

    fn commit_request(
        &self,
        version: i16,
        generation: i32,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> OffsetCommitRequest {
        let mut topics: BTreeMap<&str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for (partition, offset) in offsets {
            let committed = OffsetCommitRequestPartition::default()
                .with_partition_index(partition.partition)
                .with_committed_offset(*offset)
                .with_committed_metadata(Some(StrBytes::new()));
            topics.entry(&partition.topic).or_default().push(committed);
        }
        let topic = |(name, partitions): (&str, Vec<OffsetCommitRequestPartition>)| {
            OffsetCommitRequestTopic::default()
                .with_name(topic_name(name))
                .with_partitions(partitions)
        };
        let mut request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(self.member_id.clone())
            .with_topics(topics.into_iter().map(topic).collect());
        if version >= 7 {
            request.group_instance_id = self.instance_id();
        }
        request
    }

    fn offset_fetch_request(&self, version: i16, assignment: &Assignment) -> OffsetFetchRequest {
        let request = OffsetFetchRequest::default();
        if version < 8 {
            let topic = |(name, indexes): (&Arc<str>, &Vec<i32>)| {
                OffsetFetchRequestTopic::default()
                    .with_name(topic_name(name))
                    .with_partition_indexes(indexes.clone())
            };
            return request
                .with_group_id(self.group_id())
                .with_topics(Some(assignment.iter().map(topic).collect()));
        }
        let topic = |(name, indexes): (&Arc<str>, &Vec<i32>)| {
            OffsetFetchRequestTopics::default()
                .with_name(topic_name(name))
                .with_partition_indexes(indexes.clone())
        };
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(self.group_id())
            .with_topics(Some(assignment.iter().map(topic).collect()));
        request.with_groups(vec![group])
    }
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// (topic, partition, offset, error) of every partition, in whichever layout.
fn fetched_offsets(answer: &OffsetFetchResponse) -> Vec<(String, i32, i64, ErrorCode)> {
    let mut found = Vec::new();
    let mut note = |topic: &TopicName, index, offset, code: i16| {
        found.push((topic.to_string(), index, offset, ErrorCode::from(code)));
    };
    let nowhere = TopicName::default();
    note(&nowhere, -1, -1, answer.error_code);
    for topic in &answer.topics {
        for p in &topic.partitions {
            note(&topic.name, p.partition_index, p.committed_offset, p.error_code);
        }
    }
    for group in &answer.groups {
        note(&nowhere, -1, -1, group.error_code);
        for topic in &group.topics {
            for p in &topic.partitions {
                note(&topic.name, p.partition_index, p.committed_offset, p.error_code);
            }
        }
    }
    found
}

/// Subscriptions and assignments begin with their version.
fn versioned(body: &Bytes) -> Bytes {
    let mut whole = BytesMut::with_capacity(2 + body.len());
    whole.put_i16(WRITTEN_VERSION);
    whole.put_slice(body);
    whole.freeze()
}

/// The body and the version to read it in; what newer versions add comes at the end.
fn unversioned(bytes: &Bytes) -> Option<(Bytes, i16)> {
    let version = i16::from_be_bytes(*bytes.first_chunk::<2>()?);
    Some((bytes.slice(2..), version.clamp(0, READ_VERSION_MAX)))
}

fn read_subscription(bytes: Bytes) -> Result<Vec<String>, WireError> {
    let Some((body, version)) = unversioned(&bytes) else { return Ok(Vec::new()) };
    let read: ConsumerProtocolSubscription = decode_message(body, version)?;
    Ok(read.topics.iter().map(ToString::to_string).collect())
}

fn read_assignment(bytes: Bytes) -> Result<Assignment, WireError> {
    let Some((body, version)) = unversioned(&bytes) else { return Ok(Assignment::new()) };
    let read: ConsumerProtocolAssignment = decode_message(body, version)?;
    let topic = |topic: AssignedTopic| (topic.topic.as_str().into(), topic.partitions);
    Ok(read.assigned_partitions.into_iter().map(topic).collect())
}

fn write_assignment(assignment: &Assignment) -> Result<Bytes, WireError> {
    let topic = |(name, indexes): (&Arc<str>, &Vec<i32>)| {
        AssignedTopic::default().with_topic(topic_name(name)).with_partitions(indexes.clone())
    };
    let assignment = ConsumerProtocolAssignment::default()
        .with_assigned_partitions(assignment.iter().map(topic).collect());
    Ok(versioned(&encode_message(&assignment, WRITTEN_VERSION)?))
}
