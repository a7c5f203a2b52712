//! Metadata (3), versions 0-12. KIP-430 (authorized operations of topics), KIP-516 (topic ids from 10), KIP-526, KIP-700.
//!
//! An empty list means all topics in version 0 and none later, null means all. Addresses are those of the listener the
//! request came in on. Asking for a topic by name may create it (`topics.auto_create` here and
//! `allow_auto_topic_creation` from version 4); the answer then has the ready leader already, because
//! LEADER_NOT_AVAILABLE breaks simple clients. Creating it at most holds the answer up for 5 s.
//! `controller_id` is this broker: each broker forwards what only the coordinator may decide.
//! Authorized operations are those of the caller's role, the same for each topic; of the cluster they are not reported.

use std::collections::BTreeMap;

use tailway_metadata::image::Topic;
use tailway_metadata::{ClusterImage, TopicId, topic};
use tailway_wire::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::metadata_request::MetadataRequestTopic;
use tailway_wire::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use tailway_wire::messages::{MetadataRequest, MetadataResponse, TopicName};

use super::text;
use crate::cluster::{ClusterView, Node, TopicCreator};
use crate::server::access::Principal;

/// The only version in which an empty list means everything.
const EMPTY_MEANS_ALL: i16 = 0;
/// From this version on the request says whether it wants topics created.
const SAYS_CREATE_FROM: i16 = 4;
const NAME_MAY_BE_NULL_FROM: i16 = 12;

pub async fn handle(
    request: MetadataRequest,
    version: i16,
    (listener, caller): (&str, &Principal),
    view: &ClusterView,
    creator: &TopicCreator,
) -> MetadataResponse {
    let operations = request.include_topic_authorized_operations.then(|| operations_of(caller));
    let wanted = request.topics.filter(|topics| version != EMPTY_MEANS_ALL || !topics.is_empty());
    let may_create =
        creator.auto_create() && (version < SAYS_CREATE_FROM || request.allow_auto_topic_creation);
    let refused = match &wanted {
        Some(topics) if may_create => create_missing(topics, view, creator).await,
        _ => BTreeMap::new(),
    };
    let image = view.image();
    let nodes = view.nodes(&image, listener);
    let topics: Vec<MetadataResponseTopic> = match wanted {
        None => image.topics().map(|topic| describe(topic, &nodes)).collect(),
        Some(wanted) => {
            wanted.iter().map(|topic| answer(topic, version, &image, &nodes, &refused)).collect()
        }
    };
    let topics = topics.into_iter().map(|topic| match operations {
        Some(bits) if topic.error_code == 0 => topic.with_topic_authorized_operations(bits),
        _ => topic,
    });
    let cluster_id = image.cluster_id.as_str();
    MetadataResponse::default()
        .with_brokers(nodes.iter().map(broker).collect())
        .with_cluster_id((!cluster_id.is_empty()).then(|| text(cluster_id)))
        .with_controller_id(view.me().0.into())
        .with_topics(topics.collect())
}

/// What the caller may do with any topic: one bit per Kafka `AclOperation`, at its code.
fn operations_of(caller: &Principal) -> i32 {
    let operations = [
        (3, ApiKey::Fetch),
        (4, ApiKey::Produce),
        (6, ApiKey::DeleteTopics),
        (8, ApiKey::Metadata),
        (10, ApiKey::DescribeConfigs),
    ];
    let allowed = operations.into_iter().filter(|(_, api)| caller.may(*api));
    allowed.fold(0, |bits, (code, _)| bits | 1 << code)
}

async fn create_missing(
    topics: &[MetadataRequestTopic],
    view: &ClusterView,
    creator: &TopicCreator,
) -> BTreeMap<String, ErrorCode> {
    let image = view.image();
    let missing: Vec<&str> = topics
        .iter()
        .filter(|topic| topic.topic_id.is_nil())
        .filter_map(|topic| topic.name.as_ref())
        .map(|name| name.as_str())
        .filter(|name| image.topic(name).is_none())
        .collect();
    if missing.is_empty() { BTreeMap::new() } else { creator.ensure(&missing).await }
}

fn answer(
    wanted: &MetadataRequestTopic,
    version: i16,
    image: &ClusterImage,
    nodes: &[Node],
    refused: &BTreeMap<String, ErrorCode>,
) -> MetadataResponseTopic {
    let failed = |code: ErrorCode| {
        MetadataResponseTopic::default()
            .with_error_code(code.code())
            .with_name(wanted.name.clone().or_else(|| no_name(version)))
            .with_topic_id(wanted.topic_id)
    };
    if !wanted.topic_id.is_nil() {
        return match image.topic_by_id(TopicId(wanted.topic_id)) {
            Some(topic) => describe(topic, nodes),
            None => failed(ErrorCode::UNKNOWN_TOPIC_ID),
        };
    }
    let Some(name) = wanted.name.as_ref().map(|name| name.as_str()) else {
        return failed(ErrorCode::INVALID_REQUEST);
    };
    match image.topic(name) {
        Some(topic) => describe(topic, nodes),
        None if topic::validate_name(name).is_err() => failed(ErrorCode::INVALID_TOPIC_EXCEPTION),
        None => failed(refused.get(name).copied().unwrap_or(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)),
    }
}

/// How a topic that was asked for by id alone is named before its name is known.
fn no_name(version: i16) -> Option<TopicName> {
    (version < NAME_MAY_BE_NULL_FROM).then(TopicName::default)
}

fn describe(topic: &Topic, nodes: &[Node]) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().map(|partition| {
        // A leader that this listener's clients cannot reach is none to them.
        let reachable = partition.leader.filter(|id| nodes.iter().any(|node| node.id == *id));
        let code = match (partition.leader, reachable) {
            (_, Some(_)) => ErrorCode::NONE,
            (Some(_), None) => ErrorCode::LISTENER_NOT_FOUND,
            (None, None) => ErrorCode::LEADER_NOT_AVAILABLE,
        };
        let ids = |brokers: &[tailway_metadata::BrokerId]| {
            brokers.iter().map(|id| id.0.into()).collect::<Vec<_>>()
        };
        let offline = partition
            .replicas
            .iter()
            .filter(|id| !nodes.iter().any(|node| node.id == **id))
            .map(|id| id.0.into())
            .collect();
        MetadataResponsePartition::default()
            .with_error_code(code.code())
            .with_partition_index(partition.index.0)
            .with_leader_id(reachable.map_or(-1, |id| id.0).into())
            .with_leader_epoch(partition.leader_epoch.0)
            .with_replica_nodes(ids(&partition.replicas))
            .with_isr_nodes(ids(&partition.isr))
            .with_offline_replicas(offline)
    });
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic::is_internal(&topic.name))
        .with_partitions(partitions.collect())
}

fn broker(node: &Node) -> MetadataResponseBroker {
    MetadataResponseBroker::default()
        .with_node_id(node.id.0.into())
        .with_host(text(&node.host))
        .with_port(node.port.into())
        .with_rack(node.rack.as_deref().map(text))
}
