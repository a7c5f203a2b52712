//! OffsetForLeaderEpoch (23), versions 2-4. KIP-320.
//!
//! Tells where a leader epoch ended, so that a consumer notices when the log it read from was cut. Both epochs of the
//! request may be -1: the current one is then not checked.

use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::offset_for_leader_epoch_request::OffsetForLeaderPartition;
use tailway_wire::messages::offset_for_leader_epoch_response::{
    EpochEndOffset, OffsetForLeaderTopicResult,
};
use tailway_wire::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

use super::error::partition_error_code;
use crate::cluster::Routes;

pub async fn handle(
    request: OffsetForLeaderEpochRequest,
    routes: &Routes,
) -> OffsetForLeaderEpochResponse {
    let image = routes.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let epoch = partition.current_leader_epoch;
            let found = match routes.partition(&image, &topic.topic, partition.partition, epoch) {
                Ok(door) => door
                    .end_offset_for_epoch(partition.leader_epoch)
                    .await
                    .map_err(|error| partition_error_code(&error)),
                Err(code) => Err(code),
            };
            partitions.push(answer(partition, found));
        }
        topics.push(
            OffsetForLeaderTopicResult::default()
                .with_topic(topic.topic)
                .with_partitions(partitions),
        );
    }
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

fn answer(
    asked: &OffsetForLeaderPartition,
    found: Result<(i32, i64), ErrorCode>,
) -> EpochEndOffset {
    let response = EpochEndOffset::default().with_partition(asked.partition);
    match found {
        Ok((epoch, end_offset)) => response.with_leader_epoch(epoch).with_end_offset(end_offset),
        Err(code) => response.with_error_code(code.code()),
    }
}
