//! Reading requests on one leader or many: Fetch and ListOffsets.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tailway_metadata::ids::TopicPartition;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::fetch::FetchResponse;
use tailway_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use tailway_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tailway_wire::messages::{
    BrokerId, FetchRequest, ListOffsetsRequest, ListOffsetsResponse, StrBytes, TopicName,
};
use tokio::task::JoinSet;

use crate::client::{Client, Lane, Retries};
use crate::connection::Connection;
use crate::error::ClientError;

/// What a Produce request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Acks {
    /// Nothing: there is no answer.
    None,
    /// The leader.
    Leader,
    /// Every in-sync replica.
    #[default]
    All,
}

impl Acks {
    pub(crate) const fn code(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// Where to read one partition from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchFrom {
    pub partition: TopicPartition,
    pub offset: i64,
    /// -1: do not check.
    pub leader_epoch: i32,
    pub bytes_max: i32,
}

/// How long and how much one Fetch may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchLimits {
    /// How long the broker may wait for `bytes_min`.
    pub wait_max: Duration,
    pub bytes_min: i32,
    /// Of the whole answer; the first batch comes even if it is larger.
    pub bytes_max: i32,
}

/// What a Fetch says about one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    pub partition: TopicPartition,
    pub error: ErrorCode,
    pub high_watermark: i64,
    /// -1: unknown.
    pub log_start_offset: i64,
    /// Whole batches, then perhaps a cut one; the first may begin before the asked offset.
    pub records: Bytes,
}

/// Which offset to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetSpec {
    Earliest,
    /// The high watermark: where the next record will be.
    Latest,
    /// Of the record with the largest timestamp.
    MaxTimestamp,
    /// Of the first record with this timestamp (milliseconds) or a later one.
    Timestamp(i64),
}

impl OffsetSpec {
    const fn code(self) -> i64 {
        match self {
            Self::Earliest => -2,
            Self::Latest => -1,
            Self::MaxTimestamp => -3,
            Self::Timestamp(ms) => ms,
        }
    }
}

/// An offset; -1 where there is none (no record that late).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedOffset {
    pub partition: TopicPartition,
    pub offset: i64,
    pub timestamp: i64,
    pub leader_epoch: i32,
}

impl Client {
    /// One Fetch of partitions that `broker` leads.
    pub async fn fetch(
        &self,
        broker: i32,
        from: &[FetchFrom],
        limits: FetchLimits,
    ) -> Result<Vec<Fetched>, ClientError> {
        self.fetch_on(broker, Lane::SHARED, from, limits).await
    }

    pub(crate) async fn fetch_on(
        &self,
        broker: i32,
        lane: Lane,
        from: &[FetchFrom],
        limits: FetchLimits,
    ) -> Result<Vec<Fetched>, ClientError> {
        const API: ApiKey = ApiKey::Fetch;
        let connection = self.broker(broker, lane).await?;
        let version = connection.version(API)?;
        let request = fetch_request(from, limits);
        let rpc = connection.rpc();
        let encode = |id| {
            let header = rpc.header(API, version, id);
            tailway_wire::frame::encode_request(&header, &request).map(|frame| vec![frame])
        };
        let timeout = limits.wait_max + self.config().request_timeout;
        let frame = rpc.call_raw(API.name(), version, timeout, encode).await?;
        let (_, response) = FetchResponse::decode(frame, version)
            .map_err(|cause| rpc.undecodable(API, version, &cause))?;
        if response.error_code.is_error() {
            return Err(connection.refused(API, "", response.error_code, None));
        }
        let mut fetched = Vec::with_capacity(from.len());
        for topic in response.topics {
            let name: std::sync::Arc<str> = topic.name.as_str().into();
            for partition in topic.partitions {
                fetched.push(Fetched {
                    partition: TopicPartition::new(std::sync::Arc::clone(&name), partition.index),
                    error: partition.error_code,
                    high_watermark: partition.high_watermark,
                    log_start_offset: partition.log_start_offset,
                    records: joined(partition.records),
                });
            }
        }
        Ok(fetched)
    }

    /// Offsets of partitions, each asked of its leader, tried until `request_timeout`.
    pub async fn list_offsets(
        &self,
        wanted: &[(TopicPartition, OffsetSpec)],
    ) -> Result<Vec<ListedOffset>, ClientError> {
        let mut left: BTreeMap<TopicPartition, OffsetSpec> = wanted.iter().cloned().collect();
        let mut found = BTreeMap::new();
        let mut retries = Retries::until(self.deadline());
        while !left.is_empty() {
            let answered = retries.run(self.list_offsets_once(&left)).await?;
            // Some leaders may have answered while others could not.
            for offset in answered.unwrap_or_default() {
                left.remove(&offset.partition);
                found.insert(offset.partition.clone(), offset);
            }
        }
        Ok(found.into_values().collect())
    }

    /// Asks every leader once. What was answered counts, if anything was.
    async fn list_offsets_once(
        &self,
        left: &BTreeMap<TopicPartition, OffsetSpec>,
    ) -> Result<Vec<ListedOffset>, ClientError> {
        let mut by_leader: BTreeMap<i32, Vec<(TopicPartition, OffsetSpec)>> = BTreeMap::new();
        for (partition, spec) in left {
            let leader = self.leader(partition).await?.leader;
            by_leader.entry(leader).or_default().push((partition.clone(), *spec));
        }
        let mut asked = JoinSet::new();
        for (leader, specs) in by_leader {
            let client = self.clone();
            let asking = async move { client.list_offsets_of(leader, specs).await };
            asked.spawn(tailway_runtime::task(asking));
        }
        let mut listed = Vec::new();
        let mut failed = None;
        while let Some(answer) = asked.join_next().await {
            let (offsets, error) = answer.unwrap_or_else(|_| (Vec::new(), None));
            listed.extend(offsets);
            failed = error.or(failed);
        }
        match failed {
            Some(error) if listed.is_empty() || !error.is_retriable() => Err(error),
            None if listed.is_empty() => Err(ClientError::NoTime),
            _ => Ok(listed),
        }
    }

    /// Asks one leader; what it could not answer is the error.
    async fn list_offsets_of(
        &self,
        leader: i32,
        specs: Vec<(TopicPartition, OffsetSpec)>,
    ) -> (Vec<ListedOffset>, Option<ClientError>) {
        let result = self.ask_list_offsets(leader, &specs).await;
        let (connection, answer) = match result {
            Ok(answered) => answered,
            Err(error) => {
                for (partition, _) in &specs {
                    self.invalidate(&partition.topic);
                }
                return (Vec::new(), Some(error));
            }
        };
        let mut listed = Vec::new();
        let mut failed = None;
        for topic in answer.topics {
            for part in topic.partitions {
                let partition = TopicPartition::new(topic.name.as_str(), part.partition_index);
                let code = ErrorCode::from(part.error_code);
                if code.is_error() {
                    self.invalidate(&partition.topic);
                    let subject = partition.to_string();
                    failed = Some(connection.refused(ApiKey::ListOffsets, subject, code, None));
                } else {
                    listed.push(ListedOffset {
                        partition,
                        offset: part.offset,
                        timestamp: part.timestamp,
                        leader_epoch: part.leader_epoch,
                    });
                }
            }
        }
        (listed, failed)
    }

    async fn ask_list_offsets(
        &self,
        leader: i32,
        specs: &[(TopicPartition, OffsetSpec)],
    ) -> Result<(Connection, ListOffsetsResponse), ClientError> {
        let connection = self.broker(leader, Lane::SHARED).await?;
        let max_timestamp = specs.iter().any(|(_, spec)| *spec == OffsetSpec::MaxTimestamp);
        if max_timestamp && connection.version(ApiKey::ListOffsets)? < 7 {
            return Err(ClientError::Usage(format!(
                "{} is too old to find the record with the largest timestamp",
                connection.broker()
            )));
        }
        let timeout = self.config().request_timeout;
        let build = |_| list_offsets_request(specs);
        let answer = connection.call(ApiKey::ListOffsets, timeout, build).await?;
        Ok((connection, answer))
    }
}

/// Records come as one piece; were they more, they would have to be made one.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn fetch_request(from: &[FetchFrom], limits: FetchLimits) -> FetchRequest {
    let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
    for from in from {
        let partition = FetchPartition::default()
            .with_partition(from.partition.partition)
            .with_current_leader_epoch(from.leader_epoch)
            .with_fetch_offset(from.offset)
            .with_partition_max_bytes(from.bytes_max);
        topics.entry(&from.partition.topic).or_default().push(partition);
    }
    let topic = |(name, partitions): (&str, Vec<FetchPartition>)| {
        FetchTopic::default().with_topic(topic_name(name)).with_partitions(partitions)
    };
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(i32::try_from(limits.wait_max.as_millis()).unwrap_or(i32::MAX))
        .with_min_bytes(limits.bytes_min)
        .with_max_bytes(limits.bytes_max)
        // Without a session: every request is complete.
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(topics.into_iter().map(topic).collect())
}

fn list_offsets_request(specs: &[(TopicPartition, OffsetSpec)]) -> ListOffsetsRequest {
    let mut topics: BTreeMap<&str, Vec<ListOffsetsPartition>> = BTreeMap::new();
    for (partition, spec) in specs {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition.partition)
            .with_timestamp(spec.code());
        topics.entry(&partition.topic).or_default().push(wanted);
    }
    let topic = |(name, partitions): (&str, Vec<ListOffsetsPartition>)| {
        ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(partitions)
    };
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_topics(topics.into_iter().map(topic).collect())
}
