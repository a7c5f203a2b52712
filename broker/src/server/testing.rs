//! A broker without coordinator and without a real disk, for tests of handlers and connections.
//!
//! It leads the partitions of the topics it is given; changes of the cluster come from the test as records, through the
//! same follower that the coordinator's go through.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tailway_daemon::Pulses;
use tailway_daemon::{Clock, Deadline, Tasks};
use tailway_metadata::broker::{Broker, Endpoint, SecurityProtocol};
use tailway_metadata::control::FollowMetadataResponse;
use tailway_metadata::record::{
    BrokerRegistrationChangeRecord, ClusterRecord, PartitionRecord, TopicRecord,
};
use tailway_metadata::{BrokerId, ClusterImage, LeaderEpoch, MetadataRecord, TopicId};
use tailway_net::{HostPort, Security};
use tailway_storage::{Disk, SimDisk};
use tailway_wire::ApiKey;
use tailway_wire::frame::{self, RequestHeader};
use tailway_wire::messages::Encodable;
use tailway_wire::record::{BatchBuilder, Compression};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use uuid::Uuid;

use super::budget::Budget;
use super::context::{BrokerFacts, Services};
use super::listeners::Server;
use super::refusals::Refusals;
use crate::cluster::follower::Follower;
use crate::cluster::link::LinkState;
use crate::cluster::producer_ids::ProducerIds;
use crate::cluster::reconcile::Reconciler;
use crate::cluster::saved_image::SavedImage;
use crate::cluster::{ClusterView, Controller, GroupDoor, Routes, TopicCreator};
use crate::config::{Advertise, Limits, ListenerConfig};
use crate::group::{Groups, GroupsOptions};
use crate::metrics::BrokerMetrics;
use crate::partition::{Partitions, PartitionsOptions};

pub(crate) const ME: BrokerId = BrokerId(7);
pub(crate) const LISTENER: &str = "plain";
pub(crate) const DATA: &str = "/data";

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn limits() -> Limits {
    Limits {
        connections: 100,
        request_size: 1 << 20,
        request_memory: 1 << 20,
        response_memory: 1 << 20,
        fetch_size: 256 << 10,
        requests_in_flight: 4,
        idle_timeout: Duration::from_mins(10),
        read_timeout: Duration::from_secs(30),
        write_timeout: Duration::from_secs(30),
        handshake_timeout: Duration::from_secs(10),
    }
}

/// The broker.
pub(crate) struct TestBroker {
    pub(crate) services: Arc<Services>,
    pub(crate) metrics: tailway_daemon::metrics::Metrics,
    pub(crate) tasks: Tasks,
    pub(crate) disk: Arc<dyn Disk>,
    follower: Follower,
    // Dropping it would mean that the session is gone.
    _link: watch::Sender<LinkState>,
}

impl TestBroker {
    pub(crate) async fn new(limits: Limits) -> Self {
        Self::new_on(Arc::new(SimDisk::new()), limits).await
    }

    /// On an empty disk.
    pub(crate) async fn new_on(disk: Arc<dyn Disk>, limits: Limits) -> Self {
        disk.create_dir_all(Path::new(DATA)).unwrap();
        let mut broker = Self::on(disk, limits).await;
        broker.apply(Self::births()).await;
        broker
    }

    /// On a disk that a broker may have used before; knows what the saved image knows.
    pub(crate) async fn on(disk: Arc<dyn Disk>, limits: Limits) -> Self {
        let metrics = tailway_daemon::metrics::Metrics::new();
        let declared = BrokerMetrics::register(&metrics);
        let (tasks, clock) = (Tasks::new(), Clock::new());
        let partitions = Partitions::open(PartitionsOptions {
            disk: Arc::clone(&disk),
            data_dir: PathBuf::from(DATA),
            clock: clock.clone(),
            retention_check_interval: Duration::from_mins(5),
            producer_id_expiration: Duration::from_hours(24),
            disk_reserve: 0,
            pulses: Pulses::default(),
        })
        .await
        .unwrap();
        let (publish, image) = watch::channel(Arc::new(ClusterImage::default()));
        let (tell_link, link) = watch::channel(LinkState::Away { cause: "refused".into() });
        let view = ClusterView::new(ME, None, [endpoint()].into(), image);
        let routes = Routes::new(view.clone(), partitions);
        let groups = Groups::new(GroupsOptions { clock: clock.clone(), tasks: tasks.clone() });
        let addresses = [HostPort::new("127.0.0.1", 9190)];
        let controller = Controller::new(ME, &addresses, Duration::from_secs(5), link);
        let reconciler =
            Reconciler::new(ME, routes.clone(), groups.clone(), BTreeMap::new(), declared.clone());
        let saved = SavedImage::new(Arc::clone(&disk), Path::new(DATA));
        let follower =
            Follower::start(ME, saved, reconciler, publish, declared.clone()).await.unwrap();
        let producer_ids = ProducerIds::open(
            Arc::clone(&disk),
            Path::new(DATA),
            controller.clone(),
            declared.clone(),
        )
        .unwrap();
        let budget = |total, used: &_, waits: &_| {
            let (used, waits): (&tailway_daemon::metrics::Gauge, &_) = (used, waits);
            let waits: &tailway_daemon::metrics::Counter = waits;
            Budget::new(total, used.clone(), waits.clone())
        };
        let services = Services {
            creator: TopicCreator::new(view.clone(), controller.clone(), true),
            facts: BrokerFacts { settings: Vec::new(), topic_defaults: BTreeMap::new() },
            refusals: Refusals::new(declared.clone(), clock),
            requests: budget(
                limits.request_memory,
                &declared.request_memory,
                &declared.request_memory_waits,
            ),
            responses: budget(
                limits.response_memory,
                &declared.response_memory,
                &declared.response_memory_waits,
            ),
            groups: GroupDoor::Local(groups),
            limits,
            view,
            routes,
            controller,
            producer_ids,
            metrics: declared,
        };
        let services = Arc::new(services);
        Self { services, metrics, tasks, disk, follower, _link: tell_link }
    }

    fn births() -> Vec<MetadataRecord> {
        vec![
            MetadataRecord::Cluster(ClusterRecord {
                cluster_id: tailway_metadata::ClusterId("test".into()),
                log_id: Uuid::from_u128(1).into(),
            }),
            MetadataRecord::RegisterBroker(Broker {
                id: ME,
                incarnation: Uuid::from_u128(2).into(),
                directory: Uuid::from_u128(3).into(),
                epoch: 1.into(),
                endpoints: vec![endpoint()],
                rack: None,
                fenced: true,
            }),
            MetadataRecord::BrokerRegistrationChange(BrokerRegistrationChangeRecord {
                broker_id: ME,
                broker_epoch: 1.into(),
                fenced: false,
            }),
        ]
    }

    /// What a coordinator would have sent.
    pub(crate) async fn apply(&mut self, records: Vec<MetadataRecord>) {
        let base = self.follower.image().offset;
        let end = base.0 + i64::try_from(records.len()).unwrap();
        let response = FollowMetadataResponse {
            error_code: 0,
            error_message: None,
            snapshot: None,
            base_offset: base,
            records,
            end_offset: end.into(),
        };
        self.follower.advance(&response).await.unwrap();
    }

    /// Creates a topic that this broker leads, with this leader epoch.
    pub(crate) async fn topic(&mut self, name: &str, partitions: i32, epoch: i32) -> TopicId {
        let id = TopicId(tailway_runtime::uuid());
        let mut records =
            vec![MetadataRecord::Topic(TopicRecord { name: name.into(), topic_id: id })];
        for index in 0..partitions {
            records.push(MetadataRecord::Partition(PartitionRecord {
                topic_id: id,
                partition: index.into(),
                replicas: vec![ME],
                isr: vec![ME],
                leader: Some(ME),
                leader_epoch: LeaderEpoch(epoch),
            }));
        }
        self.apply(records).await;
        id
    }

    /// Listens on a free port.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let config = ListenerConfig {
            name: LISTENER.into(),
            address: HostPort::new("127.0.0.1", 0),
            security: Security::Plaintext,
            advertise: Advertise::Auto,
            connections: self.services.limits.connections,
        };
        let server = Server::bind(&[config], &self.services.limits).await.unwrap();
        let address = server.advertised()[0].bound;
        server.start(&self.services, &self.tasks);
        address
    }

    pub(crate) async fn stop(self) {
        self.tasks.stop(Deadline::after(PATIENCE)).await.unwrap();
        self.services.routes.partitions().close_all().await.unwrap();
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        name: LISTENER.into(),
        host: "broker.example".into(),
        port: 9092,
        protocol: SecurityProtocol::Plaintext,
    }
}

/// A batch of records with these values.
pub(crate) fn batch(values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.append(1_700_000_000_000, None, Some(value), &[]).unwrap();
    }
    builder.finish().unwrap()
}

/// A raw client: writes what it likes, reads frames.
pub(crate) struct RawClient {
    pub(crate) stream: TcpStream,
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap() }
    }

    pub(crate) async fn send<T: Encodable>(
        &mut self,
        api: ApiKey,
        version: i16,
        id: i32,
        request: &T,
    ) {
        let header = RequestHeader::new(api, version, id, Some("raw".into()));
        self.write(&frame::encode_request(&header, request).unwrap()).await;
    }

    /// A request of any key and version with a body of bytes.
    pub(crate) async fn send_raw(&mut self, key: i16, version: i16, id: i32, body: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_i32(i32::try_from(13 + body.len()).unwrap());
        frame.put_i16(key);
        frame.put_i16(version);
        frame.put_i32(id);
        frame.put_i16(3);
        frame.put_slice(b"raw");
        frame.put_slice(body);
        self.write(&frame).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next response frame; `None` once the broker has closed the connection.
    pub(crate) async fn read(&mut self) -> Option<Bytes> {
        tokio::time::timeout(PATIENCE, async {
            let mut length = [0; 4];
            // A connection that is closed with unread bytes is reset: closed all the same.
            self.stream.read_exact(&mut length).await.ok()?;
            let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
            self.stream.read_exact(&mut frame).await.unwrap();
            Some(frame.into())
        })
        .await
        .expect("an answer or the end of the connection")
    }

    /// The correlation id of the next response.
    pub(crate) async fn read_id(&mut self) -> Option<i32> {
        self.read().await.map(|frame| frame::peek_correlation_id(&frame).unwrap())
    }
}
