//! What the machine's tests share: a controller with its clock and its log, and short ways to say requests and records.

use tailway_metadata::broker::SecurityProtocol;
use tailway_metadata::record::{BrokerRegistrationChangeRecord, PartitionChangeRecord};
use tailway_metadata::time::Mono;
use tailway_metadata::{LeaderEpoch, PartitionIndex};
use uuid::Uuid;

use super::controller::Controller;
use super::*;

pub(super) const LOG: MetadataLogId = MetadataLogId(Uuid::from_u128(1));
pub(super) const SESSION: Duration = Duration::from_secs(9);

pub(super) fn settings() -> Settings {
    Settings {
        cluster_id: ClusterId("c".into()),
        session_timeout: SESSION,
        default_partitions: 1,
        offsets_topic_partitions: 8,
        first_certificates: Vec::new(),
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
pub(super) struct Bench {
    pub(super) controller: Controller,
    pub(super) now: Mono,
    pub(super) next_id: u64,
}

impl Bench {
    pub(super) fn new() -> Bench {
        Bench { controller: Controller::new(settings()), now: Mono::ZERO, next_id: 0 }
    }

    /// Leads a new cluster.
    pub(super) fn leading() -> Bench {
        let mut bench = Bench::new();
        bench.on(Event::Leads { image: Arc::default(), fresh_log_id: LOG });
        bench.on(Event::Committed);
        bench
    }

    /// Leads, with these brokers registered and unfenced.
    pub(super) fn with_brokers(brokers: &[i32]) -> Bench {
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

    pub(super) fn on(&mut self, event: Event) -> Vec<Action> {
        let mut out = Vec::new();
        self.controller.on_event(event, self.now, &mut out);
        self.controller.check();
        out
    }

    pub(super) fn ask(&mut self, request: Request) -> Vec<Action> {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.on(Event::Request { id, request })
    }

    /// The reply to a request, its records committed if there are any.
    pub(super) fn decided(&mut self, request: Request) -> Reply {
        let mut actions = self.ask(request);
        if let [Action::Propose(_)] = actions.as_slice() {
            actions = self.on(Event::Committed);
        }
        match actions.as_slice() {
            [Action::Reply { reply, .. }] => reply.clone(),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn refused(&mut self, request: Request) -> (ErrorCode, String) {
        match self.decided(request) {
            Reply::Refused(refusal) => (refusal.code, refusal.text),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn create(&mut self, topic: NewTopic) -> Result<CreatedTopic, (ErrorCode, String)> {
        let request = CreateTopics { topics: vec![topic], validate_only: false };
        match self.decided(Request::CreateTopics(request)) {
            Reply::Created(mut outcomes) if outcomes.len() == 1 => {
                outcomes.remove(0).map_err(|refusal| (refusal.code, refusal.text))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn epoch(&self, broker: i32) -> i64 {
        self.controller.image().brokers[&BrokerId(broker)].epoch.0
    }

    pub(super) fn leaders(&self, topic: &str) -> Vec<(i32, i32)> {
        let topic = self.controller.image().topic(topic).unwrap();
        topic.partitions.iter().map(|p| (p.leader_or_none().0, p.leader_epoch.0)).collect()
    }

    pub(super) fn wait(&mut self, span: Duration) {
        self.now = self.now + span;
    }
}

pub(super) fn beat(broker: i32, epoch: i64, offset: i64) -> Request {
    Request::Heartbeat(Heartbeat {
        broker_id: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
        metadata_offset: Offset(offset),
        want_fence: false,
        want_shut_down: false,
    })
}

pub(super) fn change(broker: i32, epoch: i64, fenced: bool) -> MetadataRecord {
    MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
        broker_id: BrokerId(broker),
        broker_epoch: BrokerEpoch(epoch),
        fenced,
    })
}

pub(super) fn partition_change(
    id: u128,
    partition: i32,
    leader: Option<i32>,
    epoch: i32,
) -> MetadataRecord {
    MetadataRecord::PartitionChange(PartitionChangeRecord {
        topic_id: TopicId(Uuid::from_u128(id)),
        partition: PartitionIndex(partition),
        isr: vec![BrokerId(0)],
        leader: leader.map(BrokerId),
        leader_epoch: LeaderEpoch(epoch),
    })
}

pub(super) fn reply(id: u64, reply: Reply) -> Action {
    Action::Reply { id: RequestId(id), reply }
}

pub(super) fn heartbeat(caught_up: bool, fenced: bool, should_shut_down: bool) -> Reply {
    Reply::Heartbeat(HeartbeatReply { caught_up, fenced, should_shut_down })
}
