//! The driver over a real Raft node in memory: sessions end by the clock, a dead disk ends the program, a stop answers.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::{Context, Deadline};
use tailway_metadata::broker::{Endpoint, SecurityProtocol};
use tailway_metadata::{
    BrokerEpoch, BrokerId, ClusterId, DirectoryId, IncarnationId, LeaderEpoch, PartitionIndex,
    TopicId,
};
use tailway_storage::{Disk, Operation, SimDisk};

use super::*;
use crate::machine::{CreateTopics, Heartbeat, NewTopic, RegisterBroker, Settings};
use crate::quorum::node::{Node, NodeSettings};
use uuid::Uuid;

const SESSION: Duration = Duration::from_secs(9);

struct House {
    context: Context,
    disk: SimDisk,
    node: Node,
    calls: mpsc::Sender<Call>,
    leadership: watch::Receiver<Leadership>,
}

impl House {
    async fn open() -> House {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/raft")).unwrap();
        let settings = NodeSettings::new(0, "127.0.0.1:9190", [7; 16]);
        let node = Node::start(Arc::new(disk.clone()), Path::new("/raft"), settings).await.unwrap();
        let context = Context::default();
        let (calls, queue) = mpsc::channel(QUEUE);
        let (leadership, leads) = watch::channel(Err("starting".to_owned()));
        let driver = Driver {
            controller: Controller::new(Settings {
                cluster_id: ClusterId("c".into()),
                session_timeout: SESSION,
                default_partitions: 1,
                offsets_topic_partitions: 8,
                first_certificates: Vec::new(),
            }),
            node_id: 0,
            proposer: node.proposer(),
            feed: node.feed().clone(),
            clock: context.clock.clone(),
            calls: queue,
            leadership,
            ready: context.ready.condition("raft", "starting"),
            metrics: CoordinatorMetrics::new(&context.metrics),
            tasks: context.tasks.clone(),
        };
        context.tasks.spawn("controller", |stop| driver.run(stop));
        context.ready.wait().await;
        House { context, disk, node, calls, leadership: leads }
    }

    async fn call(&self, request: Request) -> Option<Reply> {
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { request, reply }).await.ok()?;
        answer.await.ok()
    }

    /// Registers and wakes broker 0, and has it lead a topic; its epoch.
    async fn with_broker(&self) -> BrokerEpoch {
        let registered = self.call(Request::RegisterBroker(RegisterBroker {
            broker_id: BrokerId(0),
            cluster_id: ClusterId("c".into()),
            incarnation: IncarnationId(Uuid::from_u128(1)),
            directory: DirectoryId(Uuid::from_u128(2)),
            previous_epoch: BrokerEpoch::NONE,
            endpoints: vec![Endpoint {
                name: "tls".into(),
                host: "h".into(),
                port: 1,
                protocol: SecurityProtocol::Tls,
            }],
            rack: None,
        }));
        let Some(Reply::Registered { broker_epoch }) = registered.await else {
            panic!("not registered");
        };
        self.call(beat(broker_epoch)).await;
        let created = self.call(Request::CreateTopics(CreateTopics {
            topics: vec![NewTopic {
                name: "logs".into(),
                id: TopicId(Uuid::from_u128(7)),
                partitions: 1,
                replication_factor: 1,
                assignments: Vec::new(),
                configs: Vec::new(),
            }],
            validate_only: false,
        }));
        let Some(Reply::Created(outcomes)) = created.await else { panic!("not created") };
        assert!(outcomes[0].is_ok(), "{outcomes:?}");
        broker_epoch
    }

    /// Leader and leader epoch of the topic's partition.
    fn leader(&self) -> (Option<BrokerId>, LeaderEpoch) {
        let image = self.node.feed().image();
        let partition = image.partition("logs", PartitionIndex(0)).unwrap();
        (partition.leader, partition.leader_epoch)
    }

    async fn close(self) {
        let deadline = Deadline::after(Duration::from_secs(20));
        self.context.tasks.stop(deadline).await.unwrap();
        self.node.stop().await;
    }
}

fn beat(broker_epoch: BrokerEpoch) -> Request {
    Request::Heartbeat(Heartbeat {
        broker_id: BrokerId(0),
        broker_epoch,
        metadata_offset: Offset(i64::MAX),
        want_fence: false,
        want_shut_down: false,
    })
}

#[tokio::test]
async fn a_silent_broker_is_fenced_by_the_clock_and_leads_again_when_it_speaks() {
    let house = House::open().await;
    let epoch = house.with_broker().await;
    assert_eq!(house.leader(), (Some(BrokerId(0)), LeaderEpoch(0)));
    tokio::time::pause();
    let silent_since = house.context.clock.mono();
    let mut images = house.node.feed().subscribe();
    images.wait_for(|image| !image.is_live(BrokerId(0))).await.unwrap();
    let silent = house.context.clock.mono().since(silent_since);
    // The last heartbeat came a little before the pause.
    assert!(silent > Duration::from_secs(7), "{silent:?}");
    assert_eq!(house.leader(), (None, LeaderEpoch(1)));
    tokio::time::resume();
    house.call(beat(epoch)).await.unwrap();
    assert_eq!(house.leader(), (Some(BrokerId(0)), LeaderEpoch(2)));
    house.close().await;
}

#[tokio::test]
async fn a_dead_disk_refuses_the_request_and_ends_the_program() {
    let house = House::open().await;
    let broker_epoch = house.with_broker().await;
    house.disk.fail(Operation::SyncData, 1, std::io::ErrorKind::Other);
    let block = Request::AllocateProducerIds { broker_id: BrokerId(0), broker_epoch };
    let reply = house.call(block.clone()).await.unwrap();
    assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    let cause = house.context.tasks.failed().await;
    assert!(cause.starts_with("Raft has stopped"), "{cause}");
    assert!(!house.context.ready.is_ready());
    assert!(house.leadership.borrow().is_err());
    // Refused, or (the driver has ended) not taken: both are NOT_CONTROLLER to a broker.
    let again = house.call(block).await;
    assert!(matches!(&again, None | Some(Reply::Refused(_))), "{again:?}");
    house.close().await;
}

#[tokio::test]
async fn a_stop_leaves_nobody_waiting() {
    let house = House::open().await;
    let calls = house.calls.clone();
    let leadership = house.leadership.clone();
    house.close().await;
    let (reply, answer) = oneshot::channel();
    let call = Call { request: beat(BrokerEpoch(1)), reply };
    assert!(calls.send(call).await.is_err() || answer.await.is_err());
    assert_eq!(*leadership.borrow(), Err("the coordinator is stopping".to_owned()));
}
