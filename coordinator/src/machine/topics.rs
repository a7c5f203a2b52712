//! Creating and deleting topics: names, counts, placement, configs. Error codes and most texts are Kafka's.

use std::collections::{BTreeMap, BTreeSet};

use tailway_metadata::record::{ConfigRecord, PartitionRecord, RemoveTopicRecord, TopicRecord};
use tailway_metadata::topic::{self, OFFSETS_TOPIC, TopicConfig};
use tailway_metadata::{
    BrokerId, ClusterImage, LeaderEpoch, MetadataRecord, PartitionIndex, TopicId,
};
use tailway_wire::ErrorCode;

use super::draft::Draft;
use super::election;
use super::{
    CreateTopics, CreatedTopic, DeletedTopic, NewTopic, Refusal, Reply, Settings, TopicRef,
};

/// Partitions that one request may create.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;
/// Partitions that the cluster may have.
pub const PARTITIONS_MAX: usize = 50_000;

/// What `__consumer_offsets` is created with: compacted, and in segments small enough to be compacted soon.
const OFFSETS_TOPIC_CONFIGS: &[(&str, &str)] = &[
    ("cleanup.policy", "compact"),
    ("compression.type", "producer"),
    ("segment.bytes", "104857600"),
];

pub fn create(draft: &mut Draft<'_>, request: &CreateTopics, settings: &Settings) -> Reply {
    if !request.validate_only {
        return Reply::Created(create_each(draft, request, settings));
    }
    let unchanged = draft.image().clone();
    Reply::Created(create_each(&mut Draft::new(&unchanged), request, settings))
}

fn create_each(
    draft: &mut Draft<'_>,
    request: &CreateTopics,
    settings: &Settings,
) -> Vec<Result<CreatedTopic, Refusal>> {
    let mut seen = BTreeSet::new();
    let twice: BTreeSet<&str> =
        request.topics.iter().map(|t| t.name.as_str()).filter(|name| !seen.insert(*name)).collect();
    let mut room = PARTITIONS_PER_REQUEST_MAX;
    request
        .topics
        .iter()
        .map(|new| {
            if twice.contains(new.name.as_str()) {
                return Err(Refusal::new(
                    ErrorCode::INVALID_REQUEST,
                    format!("topic {:?} is in the request more than once", new.name),
                ));
            }
            create_one(draft, new, settings, &mut room)
        })
        .collect()
}

fn create_one(
    draft: &mut Draft<'_>,
    new: &NewTopic,
    settings: &Settings,
    room: &mut usize,
) -> Result<CreatedTopic, Refusal> {
    check_name(draft.image(), &new.name)?;
    let configs = configs_of(new)?;
    let replicas = if new.assignments.is_empty() {
        placed(draft.image(), new, settings, *room)?
    } else {
        assigned(draft.image(), new)?
    };
    check_room(draft.image(), replicas.len(), *room)?;
    *room -= replicas.len();
    draft.push(MetadataRecord::Topic(TopicRecord {
        name: new.name.as_str().into(),
        topic_id: new.id,
    }));
    for (key, value) in &configs {
        draft.push(MetadataRecord::Config(ConfigRecord {
            topic_id: new.id,
            key: key.clone(),
            value: Some(value.clone()),
        }));
    }
    for (index, broker) in (0..).zip(&replicas) {
        let leader = draft.image().is_live(*broker).then_some(*broker);
        draft.push(MetadataRecord::Partition(PartitionRecord {
            topic_id: new.id,
            partition: PartitionIndex(index),
            replicas: vec![*broker],
            isr: vec![*broker],
            leader,
            leader_epoch: LeaderEpoch(0),
        }));
    }
    let partitions = i32::try_from(replicas.len()).unwrap_or(i32::MAX);
    Ok(CreatedTopic { id: new.id, partitions, replication_factor: 1, configs })
}

fn check_name(image: &ClusterImage, name: &str) -> Result<(), Refusal> {
    topic::validate_name(name)
        .map_err(|error| Refusal::new(ErrorCode::INVALID_TOPIC_EXCEPTION, error.to_string()))?;
    if image.topic(name).is_some() {
        return Err(Refusal::new(
            ErrorCode::TOPIC_ALREADY_EXISTS,
            format!("Topic '{name}' already exists."),
        ));
    }
    if !name.contains(['.', '_']) {
        return Ok(());
    }
    match image.topics().find(|other| topic::collides(name, &other.name)) {
        None => Ok(()),
        Some(other) => Err(Refusal::new(
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            format!(
                "Topic '{name}' collides with existing topic '{}': metrics cannot tell '.' from '_'",
                other.name
            ),
        )),
    }
}

fn configs_of(new: &NewTopic) -> Result<BTreeMap<String, String>, Refusal> {
    let invalid = |text: String| Refusal::new(ErrorCode::INVALID_CONFIG, text);
    let mut configs = BTreeMap::new();
    if new.name == OFFSETS_TOPIC {
        let own = OFFSETS_TOPIC_CONFIGS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        configs.extend(own);
    }
    for (key, value) in &new.configs {
        let value = value
            .as_ref()
            .ok_or_else(|| invalid(format!("Null value not supported for topic configs: {key}")))?;
        configs.insert(key.clone(), value.trim().to_owned());
    }
    TopicConfig::from_overrides(&configs).map_err(|error| invalid(error.to_string()))?;
    if new.name == OFFSETS_TOPIC && configs.get("cleanup.policy").is_none_or(|p| p != "compact") {
        return Err(invalid(format!("{OFFSETS_TOPIC} is compacted: write cleanup.policy=compact")));
    }
    Ok(configs)
}

/// The replicas that the controller chooses, one for each partition.
fn placed(
    image: &ClusterImage,
    new: &NewTopic,
    settings: &Settings,
    room: usize,
) -> Result<Vec<BrokerId>, Refusal> {
    if !matches!(new.replication_factor, -1 | 1) {
        return Err(Refusal::new(
            ErrorCode::INVALID_REPLICATION_FACTOR,
            format!(
                "replication factor {} is not supported yet: every partition has one replica; write 1 or -1",
                new.replication_factor
            ),
        ));
    }
    let count = match (new.partitions, new.name == OFFSETS_TOPIC) {
        (-1, true) => settings.offsets_topic_partitions,
        (-1, false) => settings.default_partitions,
        (count, _) => count,
    };
    let count = usize::try_from(count).ok().filter(|count| *count > 0).ok_or_else(|| {
        Refusal::new(
            ErrorCode::INVALID_PARTITIONS,
            "Number of partitions was set to an invalid non-positive value.",
        )
    })?;
    check_room(image, count, room)?;
    election::place(image, count).ok_or_else(|| {
        Refusal::new(
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "Unable to replicate the partition 1 time(s): no broker is registered and alive",
        )
    })
}

/// The replicas that the request chooses.
fn assigned(image: &ClusterImage, new: &NewTopic) -> Result<Vec<BrokerId>, Refusal> {
    if new.partitions != -1 {
        return Err(Refusal::new(
            ErrorCode::INVALID_REQUEST,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ));
    }
    if new.replication_factor != -1 {
        return Err(Refusal::new(
            ErrorCode::INVALID_REQUEST,
            "A manual partition assignment was specified, but replication factor was not set to -1.",
        ));
    }
    let invalid = |text: String| Refusal::new(ErrorCode::INVALID_REPLICA_ASSIGNMENT, text);
    let by_index: BTreeMap<i32, &Vec<BrokerId>> =
        new.assignments.iter().map(|(index, replicas)| (*index, replicas)).collect();
    let dense = (0..).zip(by_index.keys()).all(|(expected, index)| expected == *index);
    if by_index.len() != new.assignments.len() || !dense {
        return Err(invalid(
            "partitions of a manual assignment are 0, 1, 2 ... without a gap".into(),
        ));
    }
    by_index
        .into_iter()
        .map(|(index, replicas)| match replicas.as_slice() {
            [broker] if image.brokers.contains_key(broker) => Ok(*broker),
            [broker] => Err(invalid(format!("broker {broker} of partition {index} is not registered"))),
            _ => Err(invalid(format!(
                "partition {index} is assigned to {} brokers; more or fewer than one replica is not supported yet",
                replicas.len()
            ))),
        })
        .collect()
}

fn check_room(image: &ClusterImage, count: usize, room: usize) -> Result<(), Refusal> {
    if count > room {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!("one request creates at most {PARTITIONS_PER_REQUEST_MAX} partitions"),
        ));
    }
    let present: usize = image.topics().map(|topic| topic.partitions.len()).sum();
    if present + count > PARTITIONS_MAX {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!("the cluster has {present} partitions of at most {PARTITIONS_MAX}"),
        ));
    }
    Ok(())
}

pub fn delete(draft: &mut Draft<'_>, topics: &[TopicRef]) -> Reply {
    Reply::Deleted(topics.iter().map(|wanted| delete_one(draft, wanted)).collect())
}

fn delete_one(draft: &mut Draft<'_>, wanted: &TopicRef) -> DeletedTopic {
    let (found, code, what) = match wanted {
        TopicRef::Name(name) => (
            draft.image().topic(name),
            ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
            format!("topic {name:?} does not exist"),
        ),
        TopicRef::Id(id) => (
            draft.image().topic_by_id(*id),
            ErrorCode::UNKNOWN_TOPIC_ID,
            format!("no topic has the id {id}"),
        ),
    };
    let Some(topic) = found.cloned() else {
        let (name, id) = match wanted {
            TopicRef::Name(name) => (Some(name.clone()), TopicId::NIL),
            TopicRef::Id(id) => (None, *id),
        };
        return DeletedTopic { name, id, outcome: Err(Refusal::new(code, what)) };
    };
    let outcome = if topic::is_internal(&topic.name) {
        Err(Refusal::new(
            ErrorCode::TOPIC_DELETION_DISABLED,
            format!("{} holds the committed offsets of all groups and is not deleted", topic.name),
        ))
    } else {
        draft.push(MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: topic.id }));
        Ok(())
    };
    DeletedTopic { name: Some(topic.name.to_string()), id: topic.id, outcome }
}
