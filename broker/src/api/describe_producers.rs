//! DescribeProducers (61), version 0. KIP-664.
//!
//! Shows what a partition's leader remembers of idempotent producers, in the order of their ids: how a client finds out
//! what became of batches whose answers it never got. What is shown is appended, not yet committed, as in Kafka.
//! Differs: the last timestamp is when the broker heard of the producer last, which is what expiration goes by here. There
//! are no transactions: coordinator epoch and start offset of the open transaction are -1.

use std::time::Duration;

use tailway_daemon::Deadline;
use tailway_metadata::ClusterImage;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse,
};
use tailway_wire::messages::{DescribeProducersRequest, DescribeProducersResponse};

use super::error::partition_error_code;
use crate::cluster::Routes;
use crate::cluster::routes::NO_EPOCH_CHECK;
use crate::partition::{PartitionError, ProducerReport};

/// For all partitions of a request: each waits for its turn in the partition's queue.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Error code and what to say about it.
type Refusal = (ErrorCode, Option<String>);

pub async fn handle(
    request: DescribeProducersRequest,
    routes: &Routes,
) -> DescribeProducersResponse {
    let image = routes.image();
    let deadline = Deadline::after(TIMEOUT);
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partition_indexes.len());
        for index in topic.partition_indexes {
            let found = look(routes, &image, &topic.name, index, deadline).await;
            partitions.push(answer(index, found));
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}

async fn look(
    routes: &Routes,
    image: &ClusterImage,
    topic: &str,
    index: i32,
    deadline: Deadline,
) -> Result<Vec<ProducerReport>, Refusal> {
    let door =
        routes.partition(image, topic, index, NO_EPOCH_CHECK).map_err(|code| (code, None))?;
    let refused = |error: PartitionError| (partition_error_code(&error), Some(error.to_string()));
    if let Some(found) = deadline.run(door.producers()).await {
        found.map_err(refused)
    } else {
        let text = "the partition's queue did not move in time; the disk may be slow";
        Err((ErrorCode::REQUEST_TIMED_OUT, Some(text.to_owned())))
    }
}

fn answer(index: i32, found: Result<Vec<ProducerReport>, Refusal>) -> PartitionResponse {
    let response = PartitionResponse::default().with_partition_index(index);
    match found {
        Ok(producers) => {
            response.with_active_producers(producers.into_iter().map(describe).collect())
        }
        Err((code, text)) => {
            response.with_error_code(code.code()).with_error_message(text.map(super::text))
        }
    }
}

fn describe(producer: ProducerReport) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.producer_id.into())
        .with_producer_epoch(producer.producer_epoch.into())
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_heard.0)
        .with_coordinator_epoch(-1)
        .with_current_txn_start_offset(-1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tailway_metadata::record::PartitionChangeRecord;
    use tailway_metadata::{LeaderEpoch, MetadataRecord};
    use tailway_storage::{Operation, SimDisk};
    use tailway_wire::messages::TopicName;
    use tailway_wire::messages::describe_producers_request::TopicRequest;
    use tailway_wire::record::{BatchBuilder, Compression};

    use super::*;
    use crate::partition::{Acks, AppendOptions};
    use crate::server::testing::{ME, TestBroker, limits};

    fn name(topic: &str) -> TopicName {
        TopicName(super::super::text(topic))
    }

    async fn ask(broker: &TestBroker, topic: &str, indexes: &[i32]) -> Vec<PartitionResponse> {
        let topic =
            TopicRequest::default().with_name(name(topic)).with_partition_indexes(indexes.to_vec());
        let request = DescribeProducersRequest::default().with_topics(vec![topic]);
        handle(request, &broker.services.routes).await.topics.remove(0).partitions
    }

    /// Appends one batch of `records` records; waits for acks=all.
    async fn produce(broker: &TestBroker, topic: &str, producer: (i64, i16, i32), records: i32) {
        let mut builder = BatchBuilder::new(Compression::None);
        let (id, epoch, sequence) = producer;
        builder.set_producer(id, epoch, sequence);
        for _ in 0..records {
            builder.append(1_700_000_000_000, None, Some(b"v"), &[]).unwrap();
        }
        let routes = &broker.services.routes;
        let door = routes.partition(&routes.image(), topic, 0, NO_EPOCH_CHECK).unwrap();
        let batches = builder.finish().unwrap();
        let pending = door.submit(batches, AppendOptions::client(Acks::All)).await.unwrap();
        // Whether the disk took it is what a test says with the answers that follow.
        pending.answer().await.ok();
    }

    /// Everything but the time, which is checked to be the broker's.
    fn shown(response: &PartitionResponse) -> Vec<(i64, i32, i32)> {
        assert_eq!((response.error_code, &response.error_message), (0, &None));
        let rows = response.active_producers.iter().map(|producer| {
            assert_eq!((producer.coordinator_epoch, producer.current_txn_start_offset), (-1, -1));
            assert!(producer.last_timestamp > 1_700_000_000_000, "{producer:?}");
            (producer.producer_id.0, producer.producer_epoch, producer.last_sequence)
        });
        rows.collect()
    }

    #[tokio::test]
    async fn shows_the_last_batch_of_each_producer_and_says_the_same_after_a_restart() {
        let disk = SimDisk::new();
        let mut broker = TestBroker::new_on(Arc::new(disk.clone()), limits()).await;
        broker.topic("t", 2, 0).await;
        assert_eq!(shown(&ask(&broker, "t", &[0]).await[0]), []);
        produce(&broker, "t", (9, 0, 0), 3).await;
        produce(&broker, "t", (4, 2, 7), 1).await;
        produce(&broker, "t", (9, 0, 3), 2).await;
        let both = ask(&broker, "t", &[0, 1]).await;
        let rows = [(4, 2, 7), (9, 0, 4)];
        assert_eq!(shown(&both[0]), rows, "by producer id");
        assert_eq!(shown(&both[1]), [], "another partition knows nobody");
        produce(&broker, "t", (9, 1, 0), 1).await;
        let rows = [rows[0], (9, 1, 0)];
        assert_eq!(shown(&ask(&broker, "t", &[0]).await[0]), rows, "a new epoch begins again");
        // A crash: no snapshot was written, the log itself tells.
        let again = TestBroker::on(Arc::new(disk.crash_image(7)), limits()).await;
        assert_eq!(shown(&ask(&again, "t", &[0]).await[0]), rows);
        again.stop().await;
        broker.stop().await;
    }

    #[tokio::test]
    async fn answers_kafkas_errors_for_each_partition() {
        let disk = SimDisk::new();
        let mut broker = TestBroker::new_on(Arc::new(disk.clone()), limits()).await;
        let id = broker.topic("t", 2, 0).await;
        let elsewhere = PartitionChangeRecord {
            topic_id: id,
            partition: 1.into(),
            isr: vec![ME],
            leader: None,
            leader_epoch: LeaderEpoch(1),
        };
        broker.apply(vec![MetadataRecord::PartitionChange(elsewhere)]).await;
        let codes = |answers: Vec<PartitionResponse>| -> Vec<(i32, i16)> {
            answers.iter().map(|one| (one.partition_index, one.error_code)).collect()
        };
        let unknown = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION.code();
        let elsewhere = ErrorCode::NOT_LEADER_OR_FOLLOWER.code();
        assert_eq!(
            codes(ask(&broker, "t", &[0, 1, 2, -1]).await),
            [(0, 0), (1, elsewhere), (2, unknown), (-1, unknown)]
        );
        assert_eq!(codes(ask(&broker, "gone", &[0]).await), [(0, unknown)]);
        // After a failed sync nobody may conclude from what is only in memory that it was stored.
        disk.fail(Operation::SyncData, 1, std::io::ErrorKind::Other);
        produce(&broker, "t", (9, 0, 0), 1).await;
        let fenced = ask(&broker, "t", &[0]).await.remove(0);
        assert_eq!(fenced.error_code, ErrorCode::KAFKA_STORAGE_ERROR.code());
        assert!(fenced.error_message.unwrap().contains("fenced"), "and says why");
        assert_eq!(fenced.active_producers, []);
    }
}
