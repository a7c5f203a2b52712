//! The controller's decisions on brokers, sessions, commits and producer ids, as whole lists of actions.

use tailway_metadata::broker::Broker;
use tailway_metadata::record::{ClusterRecord, ProducerIdsRecord};
use tailway_metadata::time::Mono;
use uuid::Uuid;

use super::bench::*;
use super::controller::WAITING_MAX;
use super::*;

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

    bench.wait(Duration::from_millis(8_999));
    assert_eq!(bench.on(Event::Tick), [], "not yet");
    bench.wait(Duration::from_millis(1));
    let fenced = vec![change(0, 1, true), partition_change(7, 0, None, 1)];
    assert_eq!(bench.on(Event::Tick), [Action::Propose(fenced)]);
    assert!(bench.controller.is_silent(BrokerId(0), bench.now), "which the log names as the cause");
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
        assert!(!bench.controller.is_silent(BrokerId(0), bench.now), "it asked for it");
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
    bench.wait(Duration::from_secs(8));
    assert_eq!(bench.ask(beat(0, epoch, i64::MAX)), []);
    assert_eq!(bench.controller.deadline(), None, "nothing is decided meanwhile");
    bench.wait(Duration::from_secs(8));
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
