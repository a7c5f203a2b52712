//! What a partition's leader remembers of the idempotent producers that write to it: DescribeProducers (KIP-664).
//!
//! The answer is of the leader's log as it stands, also of what is above its high watermark: a sequence in it is
//! appended, and not yet committed for that. A producer that is not in it never wrote there, or has expired
//! (`producer.id.expiration.ms`).

use tailway_metadata::ids::TopicPartition;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::describe_producers_request::TopicRequest;
use tailway_wire::messages::{
    DescribeProducersRequest, DescribeProducersResponse, StrBytes, TopicName,
};

use crate::client::{Client, Lane, Retries};
use crate::error::ClientError;

/// A producer as the leader of a partition remembers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: i64,
    pub producer_epoch: i32,
    /// Of the last record that it appended under this epoch; -1: none yet.
    pub last_sequence: i32,
}

impl Client {
    /// The producers that the partition's leader remembers, tried until `request_timeout`.
    ///
    /// A broker that does not serve it ([`ClientError::Version`]: before Kafka 2.8) or that refuses it (the principal
    /// may not read the topic) is an error at once: [`ClientError::cannot_describe_producers`].
    pub async fn describe_producers(
        &self,
        partition: &TopicPartition,
    ) -> Result<Vec<ActiveProducer>, ClientError> {
        let mut retries = Retries::until(self.deadline());
        loop {
            let attempt = async {
                let answer = self.describe_producers_once(partition).await;
                answer.inspect_err(|_| self.invalidate(&partition.topic))
            };
            if let Some(producers) = retries.run(attempt).await? {
                return Ok(producers);
            }
        }
    }

    async fn describe_producers_once(
        &self,
        partition: &TopicPartition,
    ) -> Result<Vec<ActiveProducer>, ClientError> {
        const API: ApiKey = ApiKey::DescribeProducers;
        let leader = self.leader(partition).await?.leader;
        let connection = self.broker(leader, Lane::SHARED).await?;
        let build = |_| {
            let topic = TopicRequest::default()
                .with_name(TopicName(StrBytes::from_string(partition.topic.to_string())))
                .with_partition_indexes(vec![partition.partition]);
            DescribeProducersRequest::default().with_topics(vec![topic])
        };
        let timeout = self.config().request_timeout;
        let answer: DescribeProducersResponse = connection.call(API, timeout, build).await?;
        let parts = answer
            .topics
            .into_iter()
            .filter(|topic| topic.name.as_str() == &*partition.topic)
            .flat_map(|topic| topic.partitions);
        let Some(part) = parts.into_iter().find(|p| p.partition_index == partition.partition)
        else {
            return Err(connection.nonsense(API, "the partition is not in it"));
        };
        let code = ErrorCode::from(part.error_code);
        if code.is_error() {
            return Err(connection.refused(API, partition.to_string(), code, part.error_message));
        }
        let producers = part.active_producers.into_iter().map(|producer| ActiveProducer {
            producer_id: producer.producer_id.0,
            producer_epoch: producer.producer_epoch,
            last_sequence: producer.last_sequence,
        });
        Ok(producers.collect())
    }
}

impl ClientError {
    /// Whether this broker will not tell of its producers: too old, or the principal may not ask.
    pub fn cannot_describe_producers(&self) -> bool {
        match self {
            Self::Version { .. } => true,
            Self::TimedOut { last, .. } => last.cannot_describe_producers(),
            _ => self.is_no_permission() || self.code() == Some(ErrorCode::UNSUPPORTED_VERSION),
        }
    }

    /// Whether the broker refused because the principal may not do it.
    pub fn is_no_permission(&self) -> bool {
        matches!(
            self.code(),
            Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED | ErrorCode::CLUSTER_AUTHORIZATION_FAILED)
        )
    }
}
