//! The answer to a request that the peer's role does not allow: Kafka's authorization errors, in every place where a client
//! looks for one. Nothing is looked up, so that it also says nothing.

use bytes::Bytes;
use tailway_wire::fetch::{FetchResponse, FetchableTopic, FetchedPartition};
use tailway_wire::frame::{decode_request, encode_response};
use tailway_wire::messages as kafka;
use tailway_wire::messages::StrBytes;
use tailway_wire::produce::{
    PartitionProduceResponse, ProduceRequest, ProduceResponse, TopicProduceResponse,
};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader, WireError};

const CLUSTER: ErrorCode = ErrorCode::CLUSTER_AUTHORIZATION_FAILED;
const TOPIC: ErrorCode = ErrorCode::TOPIC_AUTHORIZATION_FAILED;
const GROUP: ErrorCode = ErrorCode::GROUP_AUTHORIZATION_FAILED;

/// The response's segments; `None` when the client waits for none (acks=0), and the connection ends.
pub fn answer(
    api: ApiKey,
    header: &RequestHeader,
    body: Bytes,
    why: &str,
) -> Result<Option<Vec<Bytes>>, WireError> {
    match api {
        ApiKey::Produce => return produce(header, body, why),
        ApiKey::Fetch => return fetch(header, body).map(Some),
        _ => {}
    }
    let version = header.api_version;
    let frame = match api {
        ApiKey::ListOffsets => {
            encode_response(header, &list_offsets(&decode_request(body, version)?))
        }
        ApiKey::OffsetForLeaderEpoch => {
            encode_response(header, &offset_for_leader_epoch(&decode_request(body, version)?))
        }
        ApiKey::DescribeProducers => {
            encode_response(header, &describe_producers(&decode_request(body, version)?, why))
        }
        ApiKey::OffsetCommit => {
            encode_response(header, &offset_commit(&decode_request(body, version)?))
        }
        ApiKey::OffsetFetch => {
            encode_response(header, &offset_fetch(&decode_request(body, version)?, version))
        }
        ApiKey::FindCoordinator => encode_response(
            header,
            &find_coordinator(&decode_request(body, version)?, version, why),
        ),
        ApiKey::DescribeGroups => {
            encode_response(header, &describe_groups(&decode_request(body, version)?))
        }
        ApiKey::DeleteGroups => {
            encode_response(header, &delete_groups(&decode_request(body, version)?))
        }
        ApiKey::CreateTopics => {
            encode_response(header, &create_topics(&decode_request(body, version)?, why))
        }
        ApiKey::DeleteTopics => {
            encode_response(header, &delete_topics(&decode_request(body, version)?, why))
        }
        ApiKey::DescribeConfigs => {
            encode_response(header, &describe_configs(&decode_request(body, version)?, why))
        }
        _ => whole(api, header),
    };
    Ok(Some(vec![frame?]))
}

/// APIs whose answer has one error code, at the top.
fn whole(api: ApiKey, header: &RequestHeader) -> Result<Bytes, WireError> {
    let (cluster, group) = (CLUSTER.code(), GROUP.code());
    match api {
        ApiKey::JoinGroup => encode_response(
            header,
            &kafka::JoinGroupResponse::default().with_error_code(group).with_generation_id(-1),
        ),
        ApiKey::SyncGroup => {
            encode_response(header, &kafka::SyncGroupResponse::default().with_error_code(group))
        }
        ApiKey::Heartbeat => {
            encode_response(header, &kafka::HeartbeatResponse::default().with_error_code(group))
        }
        ApiKey::LeaveGroup => {
            encode_response(header, &kafka::LeaveGroupResponse::default().with_error_code(group))
        }
        ApiKey::ListGroups => {
            encode_response(header, &kafka::ListGroupsResponse::default().with_error_code(group))
        }
        ApiKey::OffsetDelete => {
            encode_response(header, &kafka::OffsetDeleteResponse::default().with_error_code(group))
        }
        ApiKey::InitProducerId => encode_response(
            header,
            &kafka::InitProducerIdResponse::default()
                .with_error_code(cluster)
                .with_producer_id((-1).into())
                .with_producer_epoch(-1),
        ),
        // Everybody may ask the rest, or nobody is answered.
        _ => Err(header.unknown_api()),
    }
}

fn produce(
    header: &RequestHeader,
    body: Bytes,
    why: &str,
) -> Result<Option<Vec<Bytes>>, WireError> {
    let request = ProduceRequest::decode(body, header.api_version)?;
    if request.acks == 0 {
        return Ok(None);
    }
    let topics = request.topics.into_iter().map(|topic| {
        let refused = |index| PartitionProduceResponse::refused(index, TOPIC, Some(why.to_owned()));
        let partitions = topic.partitions.iter().map(|partition| refused(partition.index));
        TopicProduceResponse { name: topic.name, partitions: partitions.collect() }
    });
    let response = ProduceResponse { topics: topics.collect(), throttle_time_ms: 0 };
    Ok(Some(vec![response.encode(header.api_version, header.correlation_id)?]))
}

fn fetch(header: &RequestHeader, body: Bytes) -> Result<Vec<Bytes>, WireError> {
    let request: kafka::FetchRequest = decode_request(body, header.api_version)?;
    let topics = request.topics.into_iter().map(|topic| {
        let partitions =
            topic.partitions.iter().map(|p| FetchedPartition::failed(p.partition, TOPIC));
        FetchableTopic { name: topic.topic, partitions: partitions.collect() }
    });
    let response = FetchResponse { topics: topics.collect(), ..FetchResponse::default() };
    response.encode(header.api_version, header.correlation_id)
}

fn list_offsets(request: &kafka::ListOffsetsRequest) -> kafka::ListOffsetsResponse {
    use kafka::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            ListOffsetsPartitionResponse::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(TOPIC.code())
        });
        ListOffsetsTopicResponse::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    kafka::ListOffsetsResponse::default().with_topics(topics.collect())
}

fn offset_for_leader_epoch(
    request: &kafka::OffsetForLeaderEpochRequest,
) -> kafka::OffsetForLeaderEpochResponse {
    use kafka::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            EpochEndOffset::default()
                .with_partition(partition.partition)
                .with_error_code(TOPIC.code())
        });
        OffsetForLeaderTopicResult::default()
            .with_topic(topic.topic.clone())
            .with_partitions(partitions.collect())
    });
    kafka::OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}

fn describe_producers(
    request: &kafka::DescribeProducersRequest,
    why: &str,
) -> kafka::DescribeProducersResponse {
    use kafka::describe_producers_response::{PartitionResponse, TopicResponse};
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            PartitionResponse::default()
                .with_partition_index(*index)
                .with_error_code(TOPIC.code())
                .with_error_message(Some(super::text(why)))
        });
        TopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
    });
    kafka::DescribeProducersResponse::default().with_topics(topics.collect())
}

fn offset_commit(request: &kafka::OffsetCommitRequest) -> kafka::OffsetCommitResponse {
    use kafka::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            OffsetCommitResponsePartition::default()
                .with_partition_index(partition.partition_index)
                .with_error_code(GROUP.code())
        });
        OffsetCommitResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    kafka::OffsetCommitResponse::default().with_topics(topics.collect())
}

fn offset_fetch(request: &kafka::OffsetFetchRequest, version: i16) -> kafka::OffsetFetchResponse {
    use kafka::offset_fetch_response::{
        OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponseTopic,
    };
    /// From this version on a request has several groups (KIP-709).
    const GROUPS_FROM: i16 = 8;
    /// From this version on an answer has an error of its own.
    const ERROR_FROM: i16 = 2;
    if version >= GROUPS_FROM {
        let groups = request.groups.iter().map(|group| {
            OffsetFetchResponseGroup::default()
                .with_group_id(group.group_id.clone())
                .with_error_code(GROUP.code())
        });
        return kafka::OffsetFetchResponse::default().with_groups(groups.collect());
    }
    let topics = request.topics.iter().flatten().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            OffsetFetchResponsePartition::default()
                .with_partition_index(*index)
                .with_committed_offset(-1)
                .with_metadata(Some(StrBytes::default()))
                .with_error_code(GROUP.code())
        });
        OffsetFetchResponseTopic::default()
            .with_name(topic.name.clone())
            .with_partitions(partitions.collect())
    });
    let response = kafka::OffsetFetchResponse::default().with_topics(topics.collect());
    if version >= ERROR_FROM { response.with_error_code(GROUP.code()) } else { response }
}

fn find_coordinator(
    request: &kafka::FindCoordinatorRequest,
    version: i16,
    why: &str,
) -> kafka::FindCoordinatorResponse {
    use kafka::find_coordinator_response::Coordinator;
    /// From this version on a request has several keys (KIP-699).
    const KEYS_FROM: i16 = 4;
    let text = Some(super::text(why));
    if version >= KEYS_FROM {
        let answers = request.coordinator_keys.iter().map(|key| {
            Coordinator::default()
                .with_key(key.clone())
                .with_node_id((-1).into())
                .with_port(-1)
                .with_error_code(GROUP.code())
                .with_error_message(text.clone())
        });
        return kafka::FindCoordinatorResponse::default().with_coordinators(answers.collect());
    }
    let response = kafka::FindCoordinatorResponse::default()
        .with_node_id((-1).into())
        .with_port(-1)
        .with_error_code(GROUP.code());
    if version >= 1 { response.with_error_message(text) } else { response }
}

fn describe_groups(request: &kafka::DescribeGroupsRequest) -> kafka::DescribeGroupsResponse {
    use kafka::describe_groups_response::DescribedGroup;
    let groups = request.groups.iter().map(|group| {
        DescribedGroup::default().with_group_id(group.clone()).with_error_code(GROUP.code())
    });
    kafka::DescribeGroupsResponse::default().with_groups(groups.collect())
}

fn delete_groups(request: &kafka::DeleteGroupsRequest) -> kafka::DeleteGroupsResponse {
    use kafka::delete_groups_response::DeletableGroupResult;
    let results = request.groups_names.iter().map(|group| {
        DeletableGroupResult::default().with_group_id(group.clone()).with_error_code(GROUP.code())
    });
    kafka::DeleteGroupsResponse::default().with_results(results.collect())
}

fn create_topics(request: &kafka::CreateTopicsRequest, why: &str) -> kafka::CreateTopicsResponse {
    use kafka::create_topics_response::CreatableTopicResult;
    let topics = request.topics.iter().map(|topic| {
        CreatableTopicResult::default()
            .with_name(topic.name.clone())
            .with_error_code(TOPIC.code())
            .with_error_message(Some(super::text(why)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(None)
    });
    kafka::CreateTopicsResponse::default().with_topics(topics.collect())
}

fn delete_topics(request: &kafka::DeleteTopicsRequest, why: &str) -> kafka::DeleteTopicsResponse {
    use kafka::delete_topics_response::DeletableTopicResult;
    let by_name = request.topic_names.iter().map(|name| (Some(name.clone()), uuid::Uuid::nil()));
    let by_either = request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id));
    let responses = by_name.chain(by_either).map(|(name, id)| {
        DeletableTopicResult::default()
            .with_name(name)
            .with_topic_id(id)
            .with_error_code(TOPIC.code())
            .with_error_message(Some(super::text(why)))
    });
    kafka::DeleteTopicsResponse::default().with_responses(responses.collect())
}

fn describe_configs(
    request: &kafka::DescribeConfigsRequest,
    why: &str,
) -> kafka::DescribeConfigsResponse {
    use kafka::describe_configs_response::DescribeConfigsResult;
    /// Kafka's resource type of a topic.
    const OF_TOPIC: i8 = 2;
    let results = request.resources.iter().map(|resource| {
        let code = if resource.resource_type == OF_TOPIC { TOPIC } else { CLUSTER };
        DescribeConfigsResult::default()
            .with_resource_type(resource.resource_type)
            .with_resource_name(resource.resource_name.clone())
            .with_error_code(code.code())
            .with_error_message(Some(super::text(why)))
    });
    kafka::DescribeConfigsResponse::default().with_results(results.collect())
}
