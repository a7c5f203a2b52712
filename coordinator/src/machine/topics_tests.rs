//! Which topics are created and deleted, with what, and the table of refusals.

use tailway_metadata::record::{ConfigRecord, PartitionRecord, RemoveTopicRecord, TopicRecord};
use tailway_metadata::{LeaderEpoch, PartitionIndex};
use uuid::Uuid;

use super::bench::*;
use super::*;

#[test]
fn topics_are_created_with_their_configs_on_the_least_loaded_brokers() {
    let mut bench = Bench::with_brokers(&[0, 1, 2]);
    let mut new = topic("a", 7, 2);
    new.configs = vec![("retention.ms".into(), Some(" 5 ".into()))];
    let id = TopicId(Uuid::from_u128(7));
    let partition = |index: i32, broker: i32| {
        MetadataRecord::Partition(PartitionRecord {
            topic_id: id,
            partition: PartitionIndex(index),
            replicas: vec![BrokerId(broker)],
            isr: vec![BrokerId(broker)],
            leader: Some(BrokerId(broker)),
            leader_epoch: LeaderEpoch(0),
        })
    };
    let expected = vec![
        MetadataRecord::Topic(TopicRecord { name: "a".into(), topic_id: id }),
        MetadataRecord::Config(ConfigRecord {
            topic_id: id,
            key: "retention.ms".into(),
            value: Some("5".into()),
        }),
        partition(0, 0),
        partition(1, 1),
    ];
    let request = CreateTopics { topics: vec![new], validate_only: false };
    assert_eq!(bench.ask(Request::CreateTopics(request)), [Action::Propose(expected)]);
    bench.on(Event::Committed);
    bench.create(topic("b", 8, 5)).unwrap();
    assert_eq!(bench.leaders("b"), [(2, 0), (0, 0), (1, 0), (2, 0), (0, 0)]);
    bench.create(topic("c", 9, -1)).unwrap();
    assert_eq!(bench.leaders("c"), [(1, 0)], "the default is one, and broker 1 has the fewest");
    let mut assigned = topic("d", 10, -1);
    assigned.assignments = vec![(1, vec![BrokerId(2)]), (0, vec![BrokerId(1)])];
    bench.create(assigned).unwrap();
    assert_eq!(bench.leaders("d"), [(1, 0), (2, 0)]);
}

#[test]
fn the_offsets_topic_is_compacted() {
    let mut bench = Bench::with_brokers(&[0]);
    let offsets = "__consumer_offsets";
    let mut deleting = topic(offsets, 6, -1);
    deleting.configs = vec![("cleanup.policy".into(), Some("delete".into()))];
    let (code, text) = bench.create(deleting).unwrap_err();
    assert_eq!(code, ErrorCode::INVALID_CONFIG);
    assert_eq!(text, "__consumer_offsets is compacted: write cleanup.policy=compact");
    let created = bench.create(topic(offsets, 7, -1)).unwrap();
    assert_eq!((created.partitions, created.configs["cleanup.policy"].as_str()), (8, "compact"));
    let Reply::Deleted(deleted) =
        bench.decided(Request::DeleteTopics(vec![TopicRef::Name(offsets.into())]))
    else {
        panic!("no answer to the deletion");
    };
    let refusal = deleted[0].outcome.clone().unwrap_err();
    assert_eq!(refusal.code, ErrorCode::TOPIC_DELETION_DISABLED);
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table")]
fn topics_that_are_refused() {
    type Spoil = fn(&mut NewTopic);
    let cases: [(Spoil, ErrorCode, &str); 14] = [
        (
            |t| t.name = "a/b".into(),
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            "topic name \"a/b\" is invalid",
        ),
        (
            |t| t.name = "my.logs".into(),
            ErrorCode::TOPIC_ALREADY_EXISTS,
            "Topic 'my.logs' already exists.",
        ),
        (
            |t| t.name = "my_logs".into(),
            ErrorCode::INVALID_TOPIC_EXCEPTION,
            "Topic 'my_logs' collides with existing topic 'my.logs'",
        ),
        (
            |t| t.partitions = 0,
            ErrorCode::INVALID_PARTITIONS,
            "Number of partitions was set to an invalid",
        ),
        (
            |t| t.partitions = -2,
            ErrorCode::INVALID_PARTITIONS,
            "Number of partitions was set to an invalid",
        ),
        (
            |t| t.partitions = 10_001,
            ErrorCode::POLICY_VIOLATION,
            "one request creates at most 10000 partitions",
        ),
        (
            |t| t.replication_factor = 3,
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "replication factor 3 is not supported yet: every partition has one replica; write 1 or -1",
        ),
        (
            |t| t.replication_factor = 0,
            ErrorCode::INVALID_REPLICATION_FACTOR,
            "replication factor 0 is not supported yet",
        ),
        (
            |t| t.configs = vec![("flush.ms".into(), Some("1".into()))],
            ErrorCode::INVALID_CONFIG,
            "flush.ms is a Kafka topic config that does not act",
        ),
        (
            |t| t.configs = vec![("segment.bytes".into(), None)],
            ErrorCode::INVALID_CONFIG,
            "Null value not supported for topic configs: segment.bytes",
        ),
        (
            |t| t.assignments = vec![(0, vec![BrokerId(0)])],
            ErrorCode::INVALID_REQUEST,
            "A manual partition assignment was specified, but numPartitions was not set to -1.",
        ),
        (
            |t| {
                t.partitions = -1;
                t.assignments = vec![(0, vec![BrokerId(9)])];
            },
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            "broker 9 of partition 0 is not registered",
        ),
        (
            |t| {
                t.partitions = -1;
                t.assignments = vec![(0, vec![BrokerId(0)]), (2, vec![BrokerId(0)])];
            },
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            "partitions of a manual assignment are 0, 1, 2 ... without a gap",
        ),
        (
            |t| {
                t.partitions = -1;
                t.assignments = vec![(0, vec![BrokerId(0), BrokerId(1)])];
            },
            ErrorCode::INVALID_REPLICA_ASSIGNMENT,
            "partition 0 is assigned to 2 brokers",
        ),
    ];
    let mut bench = Bench::with_brokers(&[0]);
    bench.create(topic("my.logs", 7, 1)).unwrap();
    for (spoil, code, text) in cases {
        let mut new = topic("logs", 8, 1);
        spoil(&mut new);
        let shown = format!("{new:?}");
        let refused = bench.create(new).unwrap_err();
        assert_eq!(refused.0, code, "{shown}: {}", refused.1);
        assert!(refused.1.starts_with(text), "{shown}: {}", refused.1);
    }
    let mut nobody = Bench::leading();
    let (code, text) = nobody.create(topic("logs", 8, 1)).unwrap_err();
    assert_eq!(code, ErrorCode::INVALID_REPLICATION_FACTOR);
    assert!(text.ends_with("no broker is registered and alive"), "{text}");
}

#[test]
fn one_request_is_decided_topic_by_topic() {
    let mut bench = Bench::with_brokers(&[0]);
    let topics = vec![topic("a", 1, 1), topic("b", 2, 1), topic("a", 3, 1), topic("b.", 4, 9_999)];
    let validate = CreateTopics { topics: topics.clone(), validate_only: true };
    let create = CreateTopics { topics, validate_only: false };
    let outcomes = |reply: Reply| -> Vec<ErrorCode> {
        match reply {
            Reply::Created(outcomes) => outcomes
                .into_iter()
                .map(|o| o.map_or_else(|r| r.code, |_| ErrorCode::NONE))
                .collect(),
            other => panic!("{other:?}"),
        }
    };
    let expected: Vec<ErrorCode> = vec![
        ErrorCode::INVALID_REQUEST,
        ErrorCode::NONE,
        ErrorCode::INVALID_REQUEST,
        ErrorCode::NONE,
    ];
    let offset = bench.controller.image().offset;
    assert_eq!(outcomes(bench.decided(Request::CreateTopics(validate))), expected);
    assert_eq!(bench.controller.image().offset, offset, "validated only");
    assert_eq!(outcomes(bench.decided(Request::CreateTopics(create))), expected);
    let more = CreateTopics {
        topics: vec![topic("c", 5, 6_000), topic("d", 6, 4_001)],
        validate_only: false,
    };
    let expected: Vec<ErrorCode> = vec![ErrorCode::NONE, ErrorCode::POLICY_VIOLATION];
    assert_eq!(outcomes(bench.decided(Request::CreateTopics(more))), expected);
}

#[test]
fn topics_are_deleted_by_name_and_id() {
    let mut bench = Bench::with_brokers(&[0]);
    bench.create(topic("a", 1, 1)).unwrap();
    bench.create(topic("b", 2, 1)).unwrap();
    let id = |id: u128| TopicId(Uuid::from_u128(id));
    let wanted = vec![
        TopicRef::Id(id(1)),
        TopicRef::Name("b".into()),
        TopicRef::Name("b".into()),
        TopicRef::Id(id(9)),
    ];
    let remove = |n| MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: id(n) });
    let actions = bench.ask(Request::DeleteTopics(wanted));
    assert_eq!(actions, [Action::Propose(vec![remove(1), remove(2)])]);
    let gone = |name: &str, n| DeletedTopic { name: Some(name.into()), id: id(n), outcome: Ok(()) };
    let answers = bench.on(Event::Committed);
    let [Action::Reply { reply: Reply::Deleted(deleted), .. }] = answers.as_slice() else {
        panic!("{answers:?}");
    };
    assert_eq!(deleted[..2], [gone("a", 1), gone("b", 2)]);
    let codes: Vec<ErrorCode> =
        deleted[2..].iter().map(|d| d.outcome.clone().unwrap_err().code).collect();
    assert_eq!(codes, [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::UNKNOWN_TOPIC_ID]);
}
