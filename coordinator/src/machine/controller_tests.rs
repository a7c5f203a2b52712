//! The controller's decisions, as whole lists of actions and as tables of refusals.

use tailway_metadata::broker::{Broker, SecurityProtocol};
use tailway_metadata::record::{
    BrokerRegistrationChangeRecord, ClusterRecord, ConfigRecord, PartitionChangeRecord,
    PartitionRecord, ProducerIdsRecord, RemoveTopicRecord, TopicRecord,
};
use tailway_metadata::time::Mono;
use tailway_metadata::{LeaderEpoch, PartitionIndex};
use uuid::Uuid;

use super::controller::{Controller, WAITING_MAX};
use super::*;

const LOG: MetadataLogId = MetadataLogId(Uuid::from_u128(1));
const SESSION: Duration = Duration::from_secs(9);

pub(super) fn settings() -> Settings {
    Settings {
        cluster_id: ClusterId("c".into()),
        session_timeout: SESSION,
        default_partitions: 1,
        offsets_topic_partitions: 8,
    }
}

pub(super) fn registration(broker: i32, incarnation: u128) -> RegisterBroker {
    RegisterBroker {
        broker_id: BrokerId(broker),
        cluster_id: ClusterId("c".into()),
        incarnation: IncarnationId(Uuid::from_u128(incarnation)),
        directory: DirectoryId(Uuid::from_u128(100 + u128::try_from(broker).unwrap_or(0))),
        previous_epoch: BrokerEpoch::NONE,
        endpoints: vec![Endpoint {
            name: "tls".into(),
            host: format!("b{broker}"),
            port: 9_093,
            protocol: SecurityProtocol::Tls,
        }],
        rack: None,
    }
}

pub(super) fn topic(name: &str, id: u128, partitions: i32) -> NewTopic {
    NewTopic {
        name: name.into(),
        id: TopicId(Uuid::from_u128(id)),
        partitions,
        replication_factor: -1,
        assignments: Vec::new(),
        configs: Vec::new(),
    }
}

/// A controller with its clock and its log: what it proposes is committed when the test says so.
struct Bench {
    controller: Controller,
    now: Mono,
    next_id: u64,
}

impl Bench {
    fn new() -> Bench {
        Bench { controller: Controller::new(settings()), now: Mono::ZERO, next_id: 0 }
    }

    /// Leads a new cluster.
    fn leading() -> Bench {
        let mut bench = Bench::new();
        bench.on(Event::Leads { image: Arc::default(), fresh_log_id: LOG });
        bench.on(Event::Committed);
        bench
    }

    /// Leads, with these brokers registered and unfenced.
    fn with_brokers(brokers: &[i32]) -> Bench {
        let mut bench = Bench::leading();
        for broker in brokers {
            let Reply::Registered { broker_epoch } =
                bench.decided(Request::RegisterBroker(registration(*broker, 1)))
            else {
                panic!("broker {broker} is not registered");
            };
            let reply = bench.decided(beat(*broker, broker_epoch.0, i64::MAX));
            assert!(matches!(reply, Reply::Heartbeat(HeartbeatReply { fenced: false, .. })));
        }
        bench
    }

    fn on(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.controller.on_event(event, self.now, &mut out);
        self.controller.check();
        out
    }

    fn ask(&mut self, request: Request) -> Vec<Action> {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.on(Event::Request { id, request })
    }

    /// The reply to a request, its records committed if there are any.
    fn decided(&mut self, request: Request) -> Reply {
        let mut actions = self.ask(request);
        if let [Action::Propose(_)] = actions.as_slice() {
            actions = self.on(Event::Committed);
        }
        match actions.as_slice() {
            [Action::Reply { reply, .. }] => reply.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, request: Request) -> (ErrorCode, String) {
        match self.decided(request) {
            Reply::Refused(refusal) => (refusal.code, refusal.text),
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, topic: NewTopic) -> Result<CreatedTopic, (ErrorCode, String)> {
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        match self.decided(Request::CreateTopics(request)) {
            Reply::Created(mut outcomes) if outcomes.len() == 1 => {
                outcomes.remove(0).map_err(|refusal| (refusal.code, refusal.text))
            }
            other => panic!("{other:?}"),
        }
    }

    fn epoch(&self, broker: i32) -> i64 {
        self.controller.image().brokers[&BrokerId(broker)].epoch.0
    }

    fn leaders(&self, topic: &str) -> Vec<(i32, i32)> {
        let topic = self.controller.image().topic(topic).unwrap();
        topic.partitions.iter().map(|p| (p.leader_or_none().0, p.leader_epoch.0)).collect()
    }

    fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
    }
}

fn beat(broker: i32, epoch: i64, offset: i64) -> Request {
    Request::Heartbeat(Heartbeat {
        broker_id: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
        metadata_offset: Offset(offset),
        want_fence: false,
        want_shut_down: false,
    })
}

fn change(broker: i32, epoch: i64, fenced: bool) -> MetadataRecord {
    MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
        broker_id: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
        fenced,
    })
}

fn partition_change(id: u128, partition: i32, leader: Option<i32>, epoch: i32) -> MetadataRecord {
    MetadataRecord::PartitionChange(PartitionChangeRecord {
        topic_id: TopicId(Uuid::from_u128(id)),
        partition: PartitionIndex(partition),
        isr: vec![BrokerId(0)],
        leader: leader.map(BrokerId),
        leader_epoch: LeaderEpoch(epoch),
    })
}

fn reply(id: u64, reply: Reply) -> Action {
    Action::Reply { id: RequestId(id), reply }
}

fn heartbeat(caught_up: bool, fenced: bool, should_shut_down: bool) -> Reply {
    Reply::Heartbeat(HeartbeatReply { caught_up, fenced, should_shut_down })
}

#[test]
fn a_new_cluster_names_itself_before_it_answers() {
    let mut bench = Bench::new();
    let cluster = ClusterRecord { cluster_id: ClusterId("c".into()), log_id: LOG };
    let named = Action::Propose(vec![MetadataRecord::Cluster(cluster)]);
    assert_eq!(bench.on(Event::Leads { image: Arc::default(), fresh_log_id: LOG }), [named]);
    assert_eq!(bench.ask(beat(0, 1, 0)), [], "it waits for the proposal under way");
    let unknown = Refusal::new(
        ErrorCode::BROKER_ID_NOT_REGISTERED,
        "broker 0 is not registered with this coordinator",
    );
    assert_eq!(bench.on(Event::Committed), [reply(0, Reply::Refused(unknown))]);
}

#[test]
fn a_broker_registers_wakes_leads_is_fenced_and_returns() {
    let mut bench = Bench::leading();
    let request = registration(0, 1);
    let broker = Broker {
        id: BrokerId(0),
        incarnation: request.incarnation,
        directory: request.directory,
        epoch: BrokerEpoch(1),
        endpoints: request.endpoints.clone(),
        rack: None,
        fenced: true,
    };
    let proposed = Action::Propose(vec![MetadataRecord::RegisterBroker(broker)]);
    assert_eq!(bench.ask(Request::RegisterBroker(request.clone())), [proposed]);
    let registered = Reply::Registered { broker_epoch: BrokerEpoch(1) };
    assert_eq!(bench.on(Event::Committed), [reply(0, registered.clone())]);
    assert_eq!(bench.controller.deadline(), None, "a fenced broker has no session");
    // The same again changes nothing, so a lost answer is asked for again.
    assert_eq!(bench.ask(Request::RegisterBroker(request)), [reply(1, registered)]);
    assert_eq!(bench.ask(beat(0, 1, 1)), [reply(2, heartbeat(false, true, false))], "behind");

    let woken = [Action::Propose(vec![change(0, 1, false)])];
    assert_eq!(bench.ask(beat(0, 1, 2)), woken);
    assert_eq!(bench.on(Event::Committed), [reply(3, heartbeat(true, false, false))]);
    assert_eq!(bench.controller.deadline(), Some(Mono::ZERO + SESSION));
    bench.create(topic("logs", 7, 1)).unwrap();
    assert_eq!(bench.leaders("logs"), [(0, 0)]);

    bench.wait(SESSION - Duration::from_millis(1));
    assert_eq!(bench.on(Event::Tick), [], "not yet");
    bench.wait(Duration::from_millis(1));
    let fenced = vec![change(0, 1, true), partition_change(7, 0, None, 1)];
    assert_eq!(bench.on(Event::Tick), [Action::Propose(fenced)]);
    assert_eq!(bench.on(Event::Committed), []);
    assert_eq!(bench.leaders("logs"), [(-1, 1)]);

    let back = vec![change(0, 1, false), partition_change(7, 0, Some(0), 2)];
    assert_eq!(bench.ask(beat(0, 1, 9)), [Action::Propose(back)]);
    bench.on(Event::Committed);
    assert_eq!(bench.leaders("logs"), [(0, 2)]);
}

#[test]
fn a_new_incarnation_replaces_the_old_one_and_leads_at_a_new_epoch() {
    let mut bench = Bench::with_brokers(&[0]);
    bench.create(topic("logs", 7, 1)).unwrap();
    let old = bench.epoch(0);
    let actions = bench.ask(Request::RegisterBroker(registration(0, 2)));
    let [Action::Propose(records)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(records[0], partition_change(7, 0, None, 1));
    assert!(matches!(&records[1], MetadataRecord::RegisterBroker(b) if b.fenced));
    assert_eq!(records.len(), 2);
    bench.on(Event::Committed);
    let (code, text) = bench.refused(beat(0, old, i64::MAX));
    assert_eq!(code, ErrorCode::STALE_BROKER_EPOCH);
    assert!(text.ends_with("it has to register again"), "{text}");
    // The old process lives on (a copied directory): it is told, and does not take over again.
    let replaced = RegisterBroker { previous_epoch: BrokerEpoch(old), ..registration(0, 1) };
    let (code, _) = bench.refused(Request::RegisterBroker(replaced));
    assert_eq!(code, ErrorCode::DUPLICATE_BROKER_REGISTRATION);
    let new = bench.epoch(0);
    assert!(new > old);
    bench.decided(beat(0, new, i64::MAX));
    assert_eq!(bench.leaders("logs"), [(0, 2)]);
}

#[test]
fn a_clean_stop_gives_up_leadership_before_it_is_answered() {
    let mut bench = Bench::with_brokers(&[0]);
    bench.create(topic("logs", 7, 1)).unwrap();
    let epoch = bench.epoch(0);
    for (want_fence, want_shut_down) in [(false, true), (true, false)] {
        let beat = Heartbeat {
            broker_id: BrokerId(0),
            broker_epoch: BrokerEpoch(epoch),
            metadata_offset: Offset(i64::MAX),
            want_fence,
            want_shut_down,
        };
        let leader_epoch = bench.leaders("logs")[0].1;
        let given_up = vec![change(0, epoch, true), partition_change(7, 0, None, leader_epoch + 1)];
        assert_eq!(bench.ask(Request::Heartbeat(beat.clone())), [Action::Propose(given_up)]);
        let answers = bench.on(Event::Committed);
        let expected = heartbeat(true, true, want_shut_down);
        assert!(matches!(&answers[..], [Action::Reply { reply, .. }] if *reply == expected));
        assert_eq!(bench.decided(Request::Heartbeat(beat)), expected, "asked again");
        bench.decided(self::beat(0, epoch, i64::MAX));
        assert_eq!(bench.leaders("logs"), [(0, leader_epoch + 2)]);
    }
}

#[test]
fn registrations_that_are_refused() {
    type Spoil = fn(&mut RegisterBroker);
    let cases: [(Spoil, ErrorCode, &str); 9] = [
        (
            |r| r.cluster_id = ClusterId("d".into()),
            ErrorCode::INCONSISTENT_CLUSTER_ID,
            "this coordinator belongs to cluster c, the broker to cluster d",
        ),
        (
            |r| r.broker_id = BrokerId(-1),
            ErrorCode::INVALID_REGISTRATION,
            "broker id -1 is negative",
        ),
        (
            |r| r.directory = DirectoryId::NIL,
            ErrorCode::INVALID_REGISTRATION,
            "a registration names exactly one data directory id in log_dirs",
        ),
        (
            |r| r.incarnation = IncarnationId::NIL,
            ErrorCode::INVALID_REGISTRATION,
            "a registration names an incarnation id",
        ),
        (
            |r| r.endpoints.clear(),
            ErrorCode::INVALID_REGISTRATION,
            "a broker advertises 1 to 32 endpoints, not 0",
        ),
        (
            |r| r.endpoints[0].host = "0.0.0.0".into(),
            ErrorCode::INVALID_REGISTRATION,
            "endpoint \"tls\" advertises 0.0.0.0:9093, to which no client can connect; advertise a name or address of this host",
        ),
        (
            |r| r.endpoints[0].port = 0,
            ErrorCode::INVALID_REGISTRATION,
            "endpoint \"tls\" advertises b0:0, to which no client can connect; advertise a name or address of this host",
        ),
        (
            |r| r.endpoints.push(r.endpoints[0].clone()),
            ErrorCode::INVALID_REGISTRATION,
            "two endpoints are named tls",
        ),
        (
            |r| r.directory = DirectoryId(Uuid::from_u128(5)),
            ErrorCode::INVALID_REGISTRATION,
            "broker 0 is registered with data directory 00000000-0000-0000-0000-000000000064, but this process has data directory 00000000-0000-0000-0000-000000000005: its data directory is new, empty or another broker's; mount the directory that broker 0 had, or give this broker an id that was never used",
        ),
    ];
    let mut bench = Bench::with_brokers(&[0]);
    for (spoil, code, text) in cases {
        let mut request = registration(0, 2);
        spoil(&mut request);
        let refused = bench.refused(Request::RegisterBroker(request));
        assert_eq!(refused, (code, text.to_owned()));
    }
}

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

#[test]
fn producer_ids_come_in_blocks_to_registered_brokers() {
    let mut bench = Bench::with_brokers(&[0]);
    let epoch = bench.epoch(0);
    let ask = |broker: i32, epoch: i64| Request::AllocateProducerIds {
        broker_id: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
    };
    let record = MetadataRecord::ProducerIds(ProducerIdsRecord {
        broker_id: BrokerId(0),
        broker_epoch: BrokerEpoch(epoch),
        next_producer_id: ProducerId(1_000),
    });
    assert_eq!(bench.ask(ask(0, epoch)), [Action::Propose(vec![record])]);
    // Two that wait get a block each.
    assert_eq!(bench.ask(ask(0, epoch)), []);
    assert_eq!(bench.ask(ask(0, epoch)), []);
    let first = bench.on(Event::Committed);
    assert!(
        matches!(first[0], Action::Reply { reply: Reply::ProducerIds { start, .. }, .. } if start.0 == 0)
    );
    let rest: Vec<Reply> = bench
        .on(Event::Committed)
        .into_iter()
        .map(|action| match action {
            Action::Reply { reply, .. } => reply,
            Action::Propose(records) => panic!("{records:?}"),
        })
        .collect();
    let block = |start| Reply::ProducerIds { start: ProducerId(start), len: 1_000 };
    assert_eq!(rest, [block(1_000), block(2_000)]);
    assert_eq!(bench.refused(ask(0, epoch + 1)).0, ErrorCode::STALE_BROKER_EPOCH);
    assert_eq!(bench.refused(ask(1, 1)).0, ErrorCode::BROKER_ID_NOT_REGISTERED);
}

#[test]
fn what_waits_is_decided_together_and_sees_what_is_before_it() {
    let mut bench = Bench::with_brokers(&[0]);
    let create = |id| {
        let topics = vec![topic("a", id, 1)];
        Request::CreateTopics(CreateTopics { topics, validate_only: false })
    };
    bench.ask(Request::AllocateProducerIds {
        broker_id: BrokerId(0),
        broker_epoch: BrokerEpoch(bench.epoch(0)),
    });
    assert_eq!(bench.ask(create(1)), []);
    assert_eq!(bench.ask(create(2)), []);
    let actions = bench.on(Event::Committed);
    let [Action::Reply { .. }, Action::Propose(records)] = actions.as_slice() else {
        panic!("{actions:?}");
    };
    assert_eq!(records.len(), 2, "one topic: {records:?}");
    let answers = bench.on(Event::Committed);
    let outcomes: Vec<ErrorCode> = answers
        .iter()
        .map(|action| match action {
            Action::Reply { reply: Reply::Created(outcomes), .. } => {
                outcomes[0].as_ref().map_or_else(|refusal| refusal.code, |_| ErrorCode::NONE)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(outcomes, [ErrorCode::NONE, ErrorCode::TOPIC_ALREADY_EXISTS]);
}

#[test]
fn a_heartbeat_behind_a_slow_disk_keeps_the_session() {
    let mut bench = Bench::with_brokers(&[0]);
    let epoch = bench.epoch(0);
    let slow =
        Request::AllocateProducerIds { broker_id: BrokerId(0), broker_epoch: BrokerEpoch(epoch) };
    bench.ask(slow);
    bench.wait(SESSION - Duration::from_secs(1));
    assert_eq!(bench.ask(beat(0, epoch, i64::MAX)), []);
    assert_eq!(bench.controller.deadline(), None, "nothing is decided meanwhile");
    bench.wait(SESSION - Duration::from_secs(1));
    let answers = bench.on(Event::Committed);
    assert_eq!(answers.len(), 2, "two replies and no fencing: {answers:?}");
    bench.wait(Duration::from_secs(1));
    let fenced = bench.on(Event::Tick);
    assert_eq!(fenced, [Action::Propose(vec![change(0, epoch, true)])]);
}

#[test]
fn leadership_lost_answers_everybody_and_regained_begins_sessions_anew() {
    let mut bench = Bench::with_brokers(&[0]);
    let epoch = bench.epoch(0);
    let image = Arc::clone(bench.controller.image());
    bench.next_id = 0;
    bench.ask(Request::CreateTopics(CreateTopics {
        topics: vec![topic("a", 1, 1)],
        validate_only: false,
    }));
    bench.ask(beat(0, epoch, i64::MAX));
    let unknown =
        Refusal::new(ErrorCode::REQUEST_TIMED_OUT, "the outcome is not known: the disk failed");
    let not_leading =
        Refusal::new(ErrorCode::NOT_CONTROLLER, "this coordinator does not lead: the disk failed");
    let failed = bench.on(Event::ProposalFailed { why: "the disk failed".into() });
    let refused = |id, refusal: &Refusal| reply(id, Reply::Refused(refusal.clone()));
    assert_eq!(failed, [refused(0, &unknown), refused(1, &not_leading)]);
    assert_eq!(bench.ask(beat(0, epoch, 0)), [refused(2, &not_leading)]);
    bench.wait(SESSION * 2);
    assert_eq!(bench.on(Event::Tick), []);
    assert_eq!(bench.on(Event::Leads { image, fresh_log_id: LOG }), []);
    assert_eq!(bench.controller.deadline(), Some(bench.now + SESSION), "nobody is fenced for it");
}

#[test]
fn those_who_wait_are_bounded() {
    let mut bench = Bench::with_brokers(&[0]);
    let epoch = bench.epoch(0);
    bench.ask(Request::AllocateProducerIds {
        broker_id: BrokerId(0),
        broker_epoch: BrokerEpoch(epoch),
    });
    for _ in 0..WAITING_MAX {
        assert_eq!(bench.ask(beat(0, epoch, 0)), []);
    }
    let refused = bench.ask(beat(0, epoch, 0));
    let [Action::Reply { reply: Reply::Refused(refusal), .. }] = refused.as_slice() else {
        panic!("{refused:?}");
    };
    assert_eq!(refusal.code, ErrorCode::THROTTLING_QUOTA_EXCEEDED);
    assert_eq!(bench.on(Event::Committed).len(), 1 + WAITING_MAX);
}
