//! How far a sink is, as an ordinary consumer group: `forward.SINK`, through the group coordinator's own door, so that every
//! Kafka tool shows the lag. Beside the offset stands what the sink has to remember (the commit's metadata).
//!
//! `replay.SINK` is the other way round: who wants dead letters delivered again commits there up to where.

use tailway_wire::ErrorCode;
use tailway_wire::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use tailway_wire::messages::offset_fetch_request::OffsetFetchRequestTopic;
use tailway_wire::messages::{
    GroupId, OffsetCommitRequest, OffsetFetchRequest, StrBytes, TopicName,
};

use crate::cluster::{GroupDoor, TopicCreator};
use crate::group::{Caller, OFFSETS_TOPIC};

/// Versions that the door is spoken to in: OffsetFetch with one group, OffsetCommit with metadata.
const FETCH_VERSION: i16 = 7;
const COMMIT_VERSION: i16 = 8;
/// No client connection has it.
const NO_CONNECTION: u64 = u64::MAX;

/// The group that a sink's progress is.
pub fn group_of(sink: &str) -> String {
    format!("forward.{sink}")
}

/// The group in which a replay is asked for.
pub fn replay_group_of(sink: &str) -> String {
    format!("replay.{sink}")
}

/// A committed position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) memory: String,
}

/// Reads and commits positions. Clones share the door.
#[derive(Clone)]
pub(crate) struct Progress {
    groups: GroupDoor,
    creator: TopicCreator,
}

impl Progress {
    pub(crate) fn new(groups: GroupDoor, creator: TopicCreator) -> Self {
        Self { groups, creator }
    }

    /// What is committed, if anything is.
    pub(crate) async fn fetch(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
    ) -> Result<Option<Committed>, String> {
        self.creator.ensure(&[OFFSETS_TOPIC]).await;
        let topics = vec![
            OffsetFetchRequestTopic::default()
                .with_name(name(topic))
                .with_partition_indexes(vec![partition]),
        ];
        let request = OffsetFetchRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_topics(Some(topics));
        let answer = self.groups.fetch_offsets(&caller(FETCH_VERSION), request).await;
        failed("the committed offset cannot be read", answer.error_code)?;
        let found = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        let Some(found) = found else { return Ok(None) };
        failed("the committed offset cannot be read", found.error_code)?;
        let memory = found.metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
        Ok((found.committed_offset >= 0)
            .then_some(Committed { offset: found.committed_offset, memory }))
    }

    /// Durable when it returns.
    pub(crate) async fn commit(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        committed: Committed,
    ) -> Result<(), String> {
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(partition)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(-1)
            .with_committed_metadata(Some(StrBytes::from_string(committed.memory)));
        let topics = vec![
            OffsetCommitRequestTopic::default()
                .with_name(name(topic))
                .with_partitions(vec![partition]),
        ];
        let request = OffsetCommitRequest::default()
            .with_group_id(GroupId(text(group)))
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics);
        let answer = self.groups.commit(&caller(COMMIT_VERSION), request).await;
        let answered = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        match answered {
            Some(partition) => failed("the offset cannot be committed", partition.error_code),
            None => Err("the offset cannot be committed: there was no answer".to_owned()),
        }
    }
}

fn failed(what: &str, code: i16) -> Result<(), String> {
    let code = ErrorCode::from(code);
    if code == ErrorCode::UNKNOWN_MEMBER_ID {
        return Err(format!(
            "{what}: a consumer has joined this sink's group; stop it, the group is the broker's own"
        ));
    }
    if code.is_error() { Err(format!("{what}: {}", code.name())) } else { Ok(()) }
}

fn caller(api_version: i16) -> Caller {
    Caller {
        connection: NO_CONNECTION,
        api_version,
        client_id: text("tailway-broker"),
        client_host: text("/127.0.0.1"),
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}
