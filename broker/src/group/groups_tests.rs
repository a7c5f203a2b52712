//! Groups over real partitions on a disk in memory: through the door, across power cuts, failing disks and leaderships.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use tailway_metadata::record::{ClusterRecord, PartitionRecord, TopicRecord};
use tailway_metadata::{
    ClusterId, LeaderEpoch, MetadataLogId, MetadataRecord, TopicId, TopicPartition,
};
use tailway_storage::{Disk, Operation, SimDisk};
use tailway_wire::messages::join_group_request::JoinGroupRequestProtocol;
use tailway_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tailway_wire::messages::offset_fetch_request::OffsetFetchRequestGroup;
use tailway_wire::messages::sync_group_request::SyncGroupRequestAssignment;
use tailway_wire::messages::{GroupId, TopicName};

use super::*;
use crate::log::LogConfig;
use crate::partition::{Partitions, PartitionsOptions};
use uuid::Uuid;

const PARTITIONS: i32 = 3;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_id(n: u128) -> TopicId {
    TopicId(Uuid::from_u128(n))
}

fn image(leader_epoch: i32) -> Arc<ClusterImage> {
    let mut image = ClusterImage::default();
    let mut apply = |record| image.apply(&record).unwrap();
    let log_id = MetadataLogId(Uuid::from_u128(9));
    apply(MetadataRecord::Cluster(ClusterRecord { cluster_id: ClusterId("c".into()), log_id }));
    for (name, id, partitions) in [(OFFSETS_TOPIC, topic_id(1), PARTITIONS), ("t", topic_id(2), 2)]
    {
        apply(MetadataRecord::Topic(TopicRecord { name: name.into(), topic_id: id }));
        for index in 0..partitions {
            apply(MetadataRecord::Partition(PartitionRecord {
                topic_id: id,
                partition: PartitionIndex(index),
                replicas: vec![],
                isr: vec![],
                leader: None,
                leader_epoch: LeaderEpoch(leader_epoch),
            }));
        }
    }
    Arc::new(image)
}

/// A broker's partitions and groups on one disk.
struct Node {
    groups: Groups,
    handles: Vec<PartitionHandle>,
    _partitions: Partitions,
}

impl Node {
    async fn start(disk: Arc<dyn Disk>) -> Node {
        let clock = Clock::new();
        let options = PartitionsOptions {
            disk,
            data_dir: PathBuf::from("/data"),
            clock: clock.clone(),
            retention_check_interval: Duration::from_mins(5),
            producer_id_expiration: Duration::from_hours(24),
            disk_reserve: 0,
            pulses: tailway_daemon::Pulses::default(),
        };
        let partitions = Partitions::open(options).await.unwrap();
        let mut handles = Vec::new();
        for index in 0..PARTITIONS {
            let tp = TopicPartition::new(OFFSETS_TOPIC, index);
            let config = LogConfig::offsets_topic();
            handles.push(partitions.open_or_create(&tp, topic_id(1), config, 0).await.unwrap());
        }
        let config = GroupConfig {
            initial_rebalance_delay: Duration::from_millis(1),
            ..GroupConfig::default()
        };
        let groups = Groups::with_config(GroupsOptions { clock, tasks: Tasks::new() }, config);
        groups.reconcile(&image(0), &handles);
        Node { groups, handles, _partitions: partitions }
    }

    async fn join(&self, caller: &Caller, group: &str, member: &StrBytes) -> JoinGroupResponse {
        let protocol = JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(Bytes::from_static(b"sub"));
        let request = JoinGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_session_timeout_ms(10_000)
            .with_rebalance_timeout_ms(10_000)
            .with_member_id(member.clone())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        self.groups.join(caller, request).await
    }

    /// Joins alone and takes the whole assignment. Returns the member id.
    async fn consume(&self, caller: &Caller, group: &str) -> StrBytes {
        let told = self.join(caller, group, &StrBytes::new()).await;
        assert_eq!(told.error_code, ErrorCode::MEMBER_ID_REQUIRED.code());
        let joined = self.join(caller, group, &told.member_id).await;
        assert_eq!(joined.error_code, 0);
        let given = SyncGroupRequestAssignment::default()
            .with_member_id(joined.member_id.clone())
            .with_assignment(Bytes::from_static(b"all"));
        let request = SyncGroupRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id(joined.generation_id)
            .with_member_id(joined.member_id.clone())
            .with_assignments(vec![given]);
        let synced = self.groups.sync(caller, request).await;
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
        joined.member_id
    }

    async fn commit(
        &self,
        group: &str,
        member: &StrBytes,
        generation: i32,
        offset: i64,
    ) -> ErrorCode {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(1)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(text("where I was")));
        let topic = OffsetCommitRequestTopic::default()
            .with_name(TopicName(text("t")))
            .with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(generation)
            .with_member_id(member.clone())
            .with_retention_time_ms(-1)
            .with_topics(vec![topic]);
        let response = self.groups.commit(&caller(1, 7), request).await;
        ErrorCode::from(response.topics[0].partitions[0].error_code)
    }

    /// What is committed for t-1, asked as version 8 does.
    async fn committed(&self, group: &str) -> Result<Option<i64>, ErrorCode> {
        let group = OffsetFetchRequestGroup::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(None);
        let request = OffsetFetchRequest::default().with_groups(vec![group]);
        let mut response = self.groups.fetch_offsets(&caller(1, 8), request).await;
        let group = response.groups.remove(0);
        if group.error_code != 0 {
            return Err(ErrorCode::from(group.error_code));
        }
        let Some(topic) = group.topics.first() else { return Ok(None) };
        assert_eq!(topic.partitions[0].metadata, Some(text("where I was")));
        Ok(Some(topic.partitions[0].committed_offset))
    }

    async fn heartbeat(&self, group: &str, member: &StrBytes, generation: i32) -> ErrorCode {
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id(generation)
            .with_member_id(member.clone());
        ErrorCode::from(self.groups.heartbeat(&caller(1, 4), request).await.error_code)
    }
}

fn caller(connection: u64, api_version: i16) -> Caller {
    let (client_id, client_host) = (text("c"), text("/10.0.0.1"));
    Caller { connection, api_version, client_id, client_host }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut() {
    let disk = SimDisk::new();
    let node = Node::start(Arc::new(disk.clone())).await;
    let member = node.consume(&caller(1, 5), "g").await;
    for offset in 1..=20 {
        assert_eq!(node.commit("g", &member, 1, offset).await, ErrorCode::NONE);
    }
    assert_eq!(node.commit("by-hand", &StrBytes::new(), -1, 7).await, ErrorCode::NONE);
    assert_eq!(node.committed("g").await, Ok(Some(20)));
    for seed in 0..5 {
        let after = Node::start(Arc::new(disk.crash_image(seed))).await;
        assert_eq!(after.committed("g").await, Ok(Some(20)), "seed {seed}");
        assert_eq!(after.committed("by-hand").await, Ok(Some(7)), "seed {seed}");
        assert_eq!(after.committed("nobody").await, Ok(None), "seed {seed}");
        let alive = after.heartbeat("g", &member, 1).await;
        assert_eq!(alive, ErrorCode::NONE, "seed {seed}: the member is still in its generation");
    }
}

#[tokio::test]
async fn a_commit_that_cannot_be_made_durable_is_never_acknowledged() {
    let disk = SimDisk::new();
    let node = Node::start(Arc::new(disk.clone())).await;
    assert_eq!(node.commit("by-hand", &StrBytes::new(), -1, 7).await, ErrorCode::NONE);
    disk.fail(Operation::SyncData, 1, io::ErrorKind::Other);
    for offset in 8..12 {
        // The disk fails once and is well afterwards; the answer stays.
        let code = node.commit("by-hand", &StrBytes::new(), -1, offset).await;
        assert_eq!(code, ErrorCode::NOT_COORDINATOR);
    }
    assert_eq!(node.committed("by-hand").await, Ok(Some(7)));
}

#[tokio::test]
async fn giving_up_a_partition_answers_whoever_waits_and_a_new_leadership_loads_it_again() {
    let node = Node::start(Arc::new(SimDisk::new())).await;
    assert_eq!(node.commit("g", &StrBytes::new(), -1, 7).await, ErrorCode::NONE);
    let member = node.consume(&caller(1, 5), "g").await;
    // A second member joins and waits for the first, which never comes back.
    let groups = node.groups.clone();
    let second = caller(2, 3);
    let waits = async { node.join(&second, "g", &StrBytes::new()).await };
    let resigns = async {
        while node.heartbeat("g", &member, 1).await == ErrorCode::NONE {
            tokio::task::yield_now().await;
        }
        groups.reconcile(&image(0), &[]);
    };
    let (joined, ()) = tokio::join!(waits, resigns);
    assert_eq!(ErrorCode::from(joined.error_code), ErrorCode::NOT_COORDINATOR);
    assert_eq!(node.committed("g").await, Err(ErrorCode::NOT_COORDINATOR));
    assert_eq!(node.heartbeat("g", &member, 1).await, ErrorCode::NOT_COORDINATOR);

    node.groups.reconcile(&image(1), &node.handles);
    assert_eq!(node.committed("g").await, Ok(Some(7)));
    assert_eq!(node.heartbeat("g", &member, 1).await, ErrorCode::NONE);
    // An unchanged image changes nothing: the member that joins again still waits for nobody.
    node.groups.reconcile(&image(1), &node.handles);
    assert_eq!(node.heartbeat("g", &member, 1).await, ErrorCode::NONE);
    assert!(node.groups.is_loaded());
}

#[tokio::test]
async fn a_closed_connection_ends_its_pending_member() {
    let node = Node::start(Arc::new(SimDisk::new())).await;
    let member = node.consume(&caller(1, 5), "g").await;
    let orphan = node.join(&caller(2, 5), "g", &StrBytes::new()).await;
    assert_eq!(orphan.error_code, ErrorCode::MEMBER_ID_REQUIRED.code());
    let leader = caller(1, 5);
    let rejoins = async { node.join(&leader, "g", &member).await };
    let closes = async {
        while node.heartbeat("g", &member, 1).await == ErrorCode::NONE {
            tokio::task::yield_now().await;
        }
        node.groups.connection_closed(2).await;
    };
    let (joined, ()) = tokio::join!(rejoins, closes);
    assert_eq!((joined.error_code, joined.generation_id, joined.members.len()), (0, 2, 1));
}

#[tokio::test]
async fn groups_of_all_partitions_are_listed_described_and_deleted() {
    let node = Node::start(Arc::new(SimDisk::new())).await;
    let names = ["grp-a", "simple", "a", "b", "c"];
    for name in names {
        assert_eq!(node.commit(name, &StrBytes::new(), -1, 7).await, ErrorCode::NONE);
    }
    let by = caller(1, 5);
    let list = async || {
        let listed = node.groups.list(&by, ListGroupsRequest::default()).await;
        assert_eq!(listed.error_code, 0);
        let mut listed: Vec<String> =
            listed.groups.iter().map(|group| group.group_id.to_string()).collect();
        listed.sort();
        listed
    };
    assert_eq!(list().await, ["a", "b", "c", "grp-a", "simple"]);
    let request = DescribeGroupsRequest::default()
        .with_groups(vec![GroupId(text("simple")), GroupId(text("nobody"))]);
    let described = node.groups.describe(&by, request).await.groups;
    let states: Vec<&str> = described.iter().map(|group| &*group.group_state).collect();
    assert_eq!(states, ["Empty", "Dead"]);
    let request = DeleteGroupsRequest::default()
        .with_groups_names(vec![GroupId(text("simple")), GroupId(text("nobody"))]);
    let deleted = node.groups.delete_groups(&by, request).await.results;
    let codes: Vec<i16> = deleted.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, ErrorCode::GROUP_ID_NOT_FOUND.code()]);
    assert_eq!(list().await, ["a", "b", "c", "grp-a"]);
}

/// Versions before 8 ask for one group; what is not committed is -1 with empty metadata; version 1 has no error of its own.
#[tokio::test]
async fn old_offset_fetches_are_answered_in_their_own_way() {
    use tailway_wire::messages::offset_fetch_request::OffsetFetchRequestTopic;
    let node = Node::start(Arc::new(SimDisk::new())).await;
    assert_eq!(node.commit("g", &StrBytes::new(), -1, 7).await, ErrorCode::NONE);
    let topic = OffsetFetchRequestTopic::default()
        .with_name(TopicName(text("t")))
        .with_partition_indexes(vec![0, 1]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text("g")))
        .with_topics(Some(vec![topic]));
    let response = node.groups.fetch_offsets(&caller(1, 5), request.clone()).await;
    let shown: Vec<(i64, &str)> = response.topics[0]
        .partitions
        .iter()
        .map(|partition| (partition.committed_offset, partition.metadata.as_deref().unwrap()))
        .collect();
    assert_eq!(shown, [(-1, ""), (7, "where I was")]);
    node.groups.reconcile(&image(0), &[]);
    let refused = node.groups.fetch_offsets(&caller(1, 1), request.clone()).await;
    let code = ErrorCode::NOT_COORDINATOR.code();
    assert_eq!((refused.error_code, refused.topics[0].partitions[0].error_code), (0, code));
    let refused = node.groups.fetch_offsets(&caller(1, 2), request).await;
    assert_eq!((refused.error_code, refused.topics[0].partitions[0].error_code), (code, 0));
}
