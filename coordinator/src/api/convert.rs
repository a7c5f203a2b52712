//! Kafka's request and response structures to the controller's and back. The only place that puts an error code on the
//! wire; no decision is made here.

use std::collections::BTreeMap;

use bytes::Bytes;
use tailway_metadata::broker::{Endpoint, SecurityProtocol};
use tailway_metadata::control::ERROR_MESSAGE_TAG;
use tailway_metadata::topic_config::KEYS;
use tailway_metadata::{BrokerId, ClusterId, DirectoryId, IncarnationId, Offset, TopicId};
use tailway_wire::ErrorCode;
use tailway_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use tailway_wire::messages::delete_topics_response::DeletableTopicResult;
use tailway_wire::messages::{
    AllocateProducerIdsResponse, BrokerHeartbeatRequest, BrokerHeartbeatResponse,
    BrokerRegistrationRequest, BrokerRegistrationResponse, CreateTopicsRequest,
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, StrBytes, TopicName,
};

use crate::machine::{
    CreateTopics, CreatedTopic, DeletedTopic, Heartbeat, NewTopic, Refusal, RegisterBroker, Reply,
    TopicRef,
};

/// Sources of a config in responses: Kafka's DYNAMIC_TOPIC_CONFIG and DEFAULT_CONFIG.
const SOURCE_TOPIC: i8 = 1;
const SOURCE_DEFAULT: i8 = 5;

pub(super) fn registration(request: &BrokerRegistrationRequest) -> Result<RegisterBroker, Refusal> {
    let endpoints = request.listeners.iter().map(|listener| {
        let protocol = SecurityProtocol::from_code(listener.security_protocol).ok_or_else(|| {
            Refusal::new(
                ErrorCode::INVALID_REGISTRATION,
                format!(
                    "endpoint {:?} has security protocol {}; 0 (plaintext) and 1 (TLS) are known",
                    listener.name.as_str(),
                    listener.security_protocol
                ),
            )
        })?;
        Ok(Endpoint {
            name: listener.name.to_string(),
            host: listener.host.to_string(),
            port: listener.port,
            protocol,
        })
    });
    let directory = match request.log_dirs.as_slice() {
        [only] => DirectoryId(*only),
        _ => DirectoryId::NIL,
    };
    Ok(RegisterBroker {
        broker_id: BrokerId(request.broker_id.0),
        cluster_id: ClusterId(request.cluster_id.to_string()),
        incarnation: IncarnationId(request.incarnation_id),
        directory,
        previous_epoch: request.previous_broker_epoch.into(),
        endpoints: endpoints.collect::<Result<_, Refusal>>()?,
        rack: request.rack.as_ref().map(ToString::to_string),
    })
}

pub(super) fn registration_response(reply: Reply) -> BrokerRegistrationResponse {
    let response = BrokerRegistrationResponse::default();
    match reply {
        Reply::Registered { broker_epoch } => response.with_broker_epoch(broker_epoch.0),
        other => {
            let (code, tags) = refused(other);
            response.with_broker_epoch(-1).with_error_code(code).with_unknown_tagged_fields(tags)
        }
    }
}

pub(super) fn heartbeat(request: &BrokerHeartbeatRequest) -> Heartbeat {
    Heartbeat {
        broker_id: BrokerId(request.broker_id.0),
        broker_epoch: request.broker_epoch.into(),
        metadata_offset: Offset(request.current_metadata_offset),
        want_fence: request.want_fence || !request.offline_log_dirs.is_empty(),
        want_shut_down: request.want_shut_down,
    }
}

pub(super) fn heartbeat_response(reply: Reply) -> BrokerHeartbeatResponse {
    let response = BrokerHeartbeatResponse::default();
    match reply {
        Reply::Heartbeat(reply) => response
            .with_is_caught_up(reply.caught_up)
            .with_is_fenced(reply.fenced)
            .with_should_shut_down(reply.should_shut_down),
        other => {
            let (code, tags) = refused(other);
            response.with_is_fenced(true).with_error_code(code).with_unknown_tagged_fields(tags)
        }
    }
}

pub(super) fn producer_ids_response(reply: Reply) -> AllocateProducerIdsResponse {
    let response = AllocateProducerIdsResponse::default();
    match reply {
        Reply::ProducerIds { start, len } => {
            response.with_producer_id_start(start.0.into()).with_producer_id_len(len)
        }
        other => {
            let (code, tags) = refused(other);
            response
                .with_producer_id_start((-1).into())
                .with_error_code(code)
                .with_unknown_tagged_fields(tags)
        }
    }
}

pub(super) fn create_topics(
    request: &CreateTopicsRequest,
    mut fresh_id: impl FnMut() -> TopicId,
) -> CreateTopics {
    let topics = request.topics.iter().map(|topic| NewTopic {
        name: topic.name.to_string(),
        id: fresh_id(),
        partitions: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic
            .assignments
            .iter()
            .map(|a| (a.partition_index, a.broker_ids.iter().map(|id| BrokerId(id.0)).collect()))
            .collect(),
        configs: topic
            .configs
            .iter()
            .map(|c| (c.name.to_string(), c.value.as_ref().map(ToString::to_string)))
            .collect(),
    });
    CreateTopics { topics: topics.collect(), validate_only: request.validate_only }
}

pub(super) fn create_topics_response(
    request: &CreateTopicsRequest,
    reply: Reply,
) -> CreateTopicsResponse {
    let outcomes = match reply {
        Reply::Created(outcomes) => outcomes,
        other => vec![Err(refusal_of(other)); request.topics.len()],
    };
    let topics = request.topics.iter().zip(outcomes).map(|(topic, outcome)| {
        let result = CreatableTopicResult::default().with_name(topic.name.clone());
        match outcome {
            Ok(created) => result
                .with_topic_id(created.id.0)
                .with_num_partitions(created.partitions)
                .with_replication_factor(created.replication_factor)
                .with_configs(Some(configs_of(&created))),
            Err(refusal) => result
                .with_error_code(refusal.code.into())
                .with_error_message(Some(refusal.text.into()))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_configs(None),
        }
    });
    CreateTopicsResponse::default().with_topics(topics.collect())
}

fn configs_of(created: &CreatedTopic) -> Vec<CreatableTopicConfigs> {
    let config = |key: &'static tailway_metadata::topic_config::ConfigKey| {
        let (value, source) = match created.configs.get(key.name) {
            Some(value) => (StrBytes::from_string(value.clone()), SOURCE_TOPIC),
            None => (StrBytes::from_static_str(key.default), SOURCE_DEFAULT),
        };
        CreatableTopicConfigs::default()
            .with_name(StrBytes::from_static_str(key.name))
            .with_value(Some(value))
            .with_config_source(source)
    };
    KEYS.iter().map(config).collect()
}

pub(super) fn topics_to_delete(request: &DeleteTopicsRequest) -> Vec<TopicRef> {
    let by_name = request.topic_names.iter().map(|name| TopicRef::Name(name.to_string()));
    let by_either = request.topics.iter().map(|topic| match &topic.name {
        Some(name) => TopicRef::Name(name.to_string()),
        None => TopicRef::Id(TopicId(topic.topic_id)),
    });
    by_name.chain(by_either).collect()
}

pub(super) fn delete_topics_response(topics: &[TopicRef], reply: Reply) -> DeleteTopicsResponse {
    let deleted = match reply {
        Reply::Deleted(deleted) => deleted,
        other => {
            let refusal = refusal_of(other);
            let each = topics.iter().map(|topic| {
                let (name, id) = match topic {
                    TopicRef::Name(name) => (Some(name.clone()), TopicId::NIL),
                    TopicRef::Id(id) => (None, *id),
                };
                DeletedTopic { name, id, outcome: Err(refusal.clone()) }
            });
            each.collect()
        }
    };
    let responses = deleted.into_iter().map(|topic| {
        let name = topic.name.map(|name| TopicName(name.into()));
        let result = DeletableTopicResult::default().with_name(name).with_topic_id(topic.id.0);
        match topic.outcome {
            Ok(()) => result,
            Err(refusal) => result
                .with_error_code(refusal.code.into())
                .with_error_message(Some(refusal.text.into())),
        }
    });
    DeleteTopicsResponse::default().with_responses(responses.collect())
}

/// Code and text of a refusal, the text as Tailway's tagged field.
fn refused(reply: Reply) -> (i16, BTreeMap<i32, Bytes>) {
    let refusal = refusal_of(reply);
    (refusal.code.into(), BTreeMap::from([(ERROR_MESSAGE_TAG, Bytes::from(refusal.text))]))
}

fn refusal_of(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        // The controller answers each kind of request with its own kind of reply.
        other => panic!("the controller answered another request: {other:?}"),
    }
}
