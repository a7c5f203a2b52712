//! Producing one batch at a time: a route to a partition's leader, and the answer to come.
//!
//! A [`Route`] is one connection to one leader. Batches begun on it reach the broker in the order
//! in which they were begun; their answers may be awaited in any order. What kind of failure it
//! was (refused, unknown, not sent) decides what may be done next, so it is never blurred.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ids::TopicPartition;
use tailway_net::RpcError;
use tailway_net::rpc::PendingCall;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::{StrBytes, TopicName};
use tailway_wire::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};

use crate::client::{Client, Lane};
use crate::connection::Connection;
use crate::error::{ClientError, ProduceError};
use crate::requests::Acks;

const API: ApiKey = ApiKey::Produce;
/// The broker gives up on replicas this much earlier than we give up on the broker, so that its
/// answer still finds us.
const ANSWER_MARGIN_MAX: Duration = Duration::from_secs(2);

/// The way to the leader of a partition.
#[derive(Debug, Clone)]
pub struct Route {
    client: Client,
    connection: Connection,
    pub partition: TopicPartition,
    pub leader: i32,
    /// -1: unknown.
    pub leader_epoch: i32,
}

/// A stored batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// -1 with acks=0.
    pub base_offset: i64,
    /// -1 unless the topic has LogAppendTime.
    pub log_append_time: i64,
    /// Of the leader that took it; -1 if unknown.
    pub leader_epoch: i32,
}

/// A batch on its way.
#[derive(Debug)]
pub struct PendingProduce {
    route: Route,
    /// None with acks=0: there is nothing to wait for.
    call: Option<PendingCall>,
    version: i16,
}

impl Client {
    /// The way to the current leader, as far as is known; after [`Client::invalidate`], asked anew.
    pub async fn route(&self, partition: &TopicPartition) -> Result<Route, ClientError> {
        let leader = self.leader(partition).await?;
        match self.broker(leader.leader, Lane::PRODUCE).await {
            Ok(connection) => Ok(Route {
                client: self.clone(),
                connection,
                partition: partition.clone(),
                leader: leader.leader,
                leader_epoch: leader.leader_epoch,
            }),
            Err(error) => {
                self.invalidate(&partition.topic);
                Err(error)
            }
        }
    }

    /// One attempt to store a batch at the current leader. It is not tried again here, because
    /// only the owner of the sequence knows whether it may be.
    pub async fn produce(
        &self,
        partition: &TopicPartition,
        batch: Bytes,
        acks: Acks,
        timeout: Duration,
    ) -> Result<Produced, ProduceError> {
        let route = self
            .route(partition)
            .await
            .map_err(|cause| ProduceError::NotSent { partition: partition.clone(), cause })?;
        route.begin_produce(batch, acks, timeout).await?.response().await
    }
}

impl Route {
    /// Sends a batch after those begun before it on this route.
    pub async fn begin_produce(
        &self,
        batch: Bytes,
        acks: Acks,
        timeout: Duration,
    ) -> Result<PendingProduce, ProduceError> {
        let version = self.connection.version(API).map_err(|cause| self.not_sent(cause))?;
        let margin = (timeout / 5).min(ANSWER_MARGIN_MAX);
        let broker_timeout = timeout.saturating_sub(margin).as_millis();
        let request = ProduceRequest {
            transactional_id: None,
            acks: acks.code(),
            timeout_ms: i32::try_from(broker_timeout).unwrap_or(i32::MAX),
            topics: vec![TopicProduceData {
                name: TopicName(StrBytes::from_string(self.partition.topic.to_string())),
                partitions: vec![PartitionProduceData {
                    index: self.partition.partition,
                    records: Some(batch),
                }],
            }],
        };
        let rpc = self.connection.rpc();
        let encode = |id| request.encode(&rpc.header(API, version, id));
        let sent = if acks == Acks::None {
            rpc.send_raw(API.name(), version, timeout, encode).await.map(|()| None)
        } else {
            rpc.begin(API.name(), version, timeout, encode).await.map(Some)
        };
        match sent {
            Ok(call) => Ok(PendingProduce { route: self.clone(), call, version }),
            Err(error) => Err(self.not_sent(error.into())),
        }
    }

    fn not_sent(&self, cause: ClientError) -> ProduceError {
        self.client.invalidate(&self.partition.topic);
        ProduceError::NotSent { partition: self.partition.clone(), cause }
    }

    fn unknown(&self, cause: ClientError) -> ProduceError {
        self.client.invalidate(&self.partition.topic);
        ProduceError::Unknown { partition: self.partition.clone(), cause }
    }
}

impl PendingProduce {
    /// Waits for the broker's answer, within the timeout it was begun with.
    pub async fn response(self) -> Result<Produced, ProduceError> {
        let Self { route, call, version } = self;
        let leader_epoch = route.leader_epoch;
        let Some(call) = call else {
            return Ok(Produced { base_offset: -1, log_append_time: -1, leader_epoch });
        };
        let frame = call.response().await.map_err(|error| route.unknown(error.into()))?;
        let (_, response) = ProduceResponse::decode(frame, version).map_err(|cause| {
            let error: RpcError = route.connection.rpc().undecodable(API, version, &cause);
            route.unknown(error.into())
        })?;
        let answer = response
            .topics
            .into_iter()
            .filter(|topic| topic.name.as_str() == &*route.partition.topic)
            .flat_map(|topic| topic.partitions)
            .find(|partition| partition.index == route.partition.partition);
        let Some(answer) = answer else {
            let detail = format!("{} is not in it", route.partition);
            return Err(route.unknown(route.connection.nonsense(API, detail)));
        };
        if answer.error_code == ErrorCode::NONE {
            let (base_offset, log_append_time) = (answer.base_offset, answer.log_append_time_ms);
            return Ok(Produced { base_offset, log_append_time, leader_epoch });
        }
        if answer.error_code.is_retriable() {
            route.client.invalidate(&route.partition.topic);
        }
        let blamed = answer.record_errors.into_iter().find_map(|error| error.message);
        Err(ProduceError::Refused {
            broker: Arc::clone(route.connection.broker()),
            partition: route.partition.clone(),
            code: answer.error_code,
            message: answer.error_message.or(blamed).map(|text| text.to_string()),
        })
    }
}
