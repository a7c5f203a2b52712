//! FindCoordinator (10), versions 0-4. KIP-699 (several keys from 4).
//!
//! A group belongs to one partition of `__consumer_offsets`; the first group that asks creates the topic. The address is
//! that of the listener the request came in on. Differs: key type 1 (transactions) is refused with INVALID_REQUEST and a
//! text that clients show, because there are no transactions yet.

use tailway_metadata::{ClusterImage, PartitionIndex};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::find_coordinator_response::Coordinator;
use tailway_wire::messages::{FindCoordinatorRequest, FindCoordinatorResponse, StrBytes};

use super::text;
use crate::cluster::{ClusterView, Node, TopicCreator};
use crate::group::{OFFSETS_TOPIC, partition_for_group};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// From this version on a request has several keys.
const KEYS_FROM: i16 = 4;
/// From this version on an answer has a text.
const TEXT_FROM: i16 = 1;

pub async fn handle(
    request: FindCoordinatorRequest,
    version: i16,
    listener: &str,
    view: &ClusterView,
    creator: &TopicCreator,
) -> FindCoordinatorResponse {
    let keys = if version >= KEYS_FROM { request.coordinator_keys } else { vec![request.key] };
    let refused = check_type(request.key_type);
    if refused.is_none() && view.image().topic(OFFSETS_TOPIC).is_none() {
        creator.ensure(&[OFFSETS_TOPIC]).await;
    }
    let image = view.image();
    let found = keys.into_iter().map(|key| {
        let node = match &refused {
            Some(refusal) => Err(refusal.clone()),
            None => group_coordinator(&key, listener, view, &image),
        };
        (key, node)
    });
    let answers: Vec<Coordinator> = found.map(|(key, node)| coordinator(key, node)).collect();
    if version >= KEYS_FROM {
        return FindCoordinatorResponse::default().with_coordinators(answers);
    }
    single(answers, version)
}

fn check_type(key_type: i8) -> Option<(ErrorCode, String)> {
    match key_type {
        GROUP => None,
        TRANSACTION => Some((
            ErrorCode::INVALID_REQUEST,
            "transactions are not served by this broker: remove transactional.id from the producer's configuration".into(),
        )),
        other => Some((ErrorCode::INVALID_REQUEST, format!("coordinator type {other} is not served"))),
    }
}

fn group_coordinator(
    group: &str,
    listener: &str,
    view: &ClusterView,
    image: &ClusterImage,
) -> Result<Node, (ErrorCode, String)> {
    let unavailable = |why: &str| (ErrorCode::COORDINATOR_NOT_AVAILABLE, why.to_owned());
    let topic = image.topic(OFFSETS_TOPIC).ok_or_else(|| {
        unavailable("the topic __consumer_offsets does not exist yet and could not be created")
    })?;
    let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
    let partition = topic
        .partition(PartitionIndex(partition_for_group(group, count)))
        .ok_or_else(|| unavailable("the topic __consumer_offsets has no partitions"))?;
    let leader = partition
        .leader
        .ok_or_else(|| unavailable("the group's partition of __consumer_offsets has no leader"))?;
    view.node(image, leader, listener)
        .ok_or_else(|| unavailable("the group coordinator has no address on this listener"))
}

fn coordinator(key: StrBytes, node: Result<Node, (ErrorCode, String)>) -> Coordinator {
    let answer = Coordinator::default().with_key(key);
    match node {
        Ok(node) => answer
            .with_node_id(node.id.0.into())
            .with_host(text(node.host))
            .with_port(node.port.into())
            .with_error_message(None),
        Err((code, why)) => answer
            .with_node_id((-1).into())
            .with_port(-1)
            .with_error_code(code.code())
            .with_error_message(Some(text(why))),
    }
}

fn single(answers: Vec<Coordinator>, version: i16) -> FindCoordinatorResponse {
    let answer = answers.into_iter().next().unwrap_or_default();
    let response = FindCoordinatorResponse::default()
        .with_error_code(answer.error_code)
        .with_node_id(answer.node_id)
        .with_host(answer.host)
        .with_port(answer.port);
    if version >= TEXT_FROM { response.with_error_message(answer.error_message) } else { response }
}
