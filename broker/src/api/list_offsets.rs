//! ListOffsets (2), versions 1-7. KIP-79, KIP-320 (leader epochs from 4), KIP-734 (max timestamp, 7).
//!
//! "Latest" is the high watermark for either isolation level: there are no transactions. A current leader epoch of -1 is
//! not checked. Timestamps below -3 (tiered storage) are of later versions and refused with INVALID_REQUEST.

use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::list_offsets_request::ListOffsetsPartition;
use tailway_wire::messages::list_offsets_response::{
    ListOffsetsPartitionResponse, ListOffsetsTopicResponse,
};
use tailway_wire::messages::{ListOffsetsRequest, ListOffsetsResponse};

use super::error::partition_error_code;
use crate::cluster::Routes;
use crate::partition::{ListOffset, ListedOffset};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const MAX_TIMESTAMP_FROM: i16 = 7;
/// From this version on answers carry leader epochs.
const EPOCHS_FROM: i16 = 4;

pub async fn handle(
    request: ListOffsetsRequest,
    version: i16,
    routes: &Routes,
) -> ListOffsetsResponse {
    let image = routes.image();
    let mut topics = Vec::with_capacity(request.topics.len());
    for topic in request.topics {
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let found = match which(partition, version) {
                Some(which) => {
                    let epoch = partition.current_leader_epoch;
                    match routes.partition(&image, &topic.name, partition.partition_index, epoch) {
                        Ok(door) => door
                            .list_offset(which)
                            .await
                            .map_err(|error| partition_error_code(&error)),
                        Err(code) => Err(code),
                    }
                }
                None => Err(ErrorCode::INVALID_REQUEST),
            };
            partitions.push(answer(partition.partition_index, version, found));
        }
        topics.push(
            ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions),
        );
    }
    ListOffsetsResponse::default().with_topics(topics)
}

fn which(partition: &ListOffsetsPartition, version: i16) -> Option<ListOffset> {
    match partition.timestamp {
        LATEST => Some(ListOffset::Latest),
        EARLIEST => Some(ListOffset::Earliest),
        MAX_TIMESTAMP if version >= MAX_TIMESTAMP_FROM => Some(ListOffset::MaxTimestamp),
        timestamp => (timestamp >= 0).then_some(ListOffset::Timestamp(timestamp)),
    }
}

fn answer(
    index: i32,
    version: i16,
    found: Result<ListedOffset, ErrorCode>,
) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(index);
    match found {
        Ok(found) => {
            let response = response.with_offset(found.offset).with_timestamp(found.timestamp);
            if version >= EPOCHS_FROM {
                response.with_leader_epoch(found.leader_epoch)
            } else {
                response
            }
        }
        Err(code) => response.with_error_code(code.code()),
    }
}
