//! A real broker and a real coordinator on loopback, in one process: the cluster forms, the coordinator goes, what exists
//! is served on, the broker restarts alone, the coordinator comes back, all heals. No certificate but the right one works.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::{Context, Daemon, Deadline};
use tailway_net::{HostPort, RpcConnection, RpcOptions, dial};
use tailway_wire::frame::{decode_response, encode_request};
use tailway_wire::messages::create_topics_request::CreatableTopic;
use tailway_wire::messages::metadata_request::MetadataRequestTopic;
use tailway_wire::messages::{
    CreateTopicsRequest, CreateTopicsResponse, Decodable, DeleteTopicsRequest,
    DeleteTopicsResponse, Encodable, InitProducerIdRequest, InitProducerIdResponse,
    MetadataRequest, MetadataResponse, StrBytes, TopicName,
};
use tailway_wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, ProduceResponse,
    TopicProduceData,
};
use tailway_wire::record::{BatchBuilder, Compression};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader};

const CLUSTER: &str = "c-1";
const PATIENCE: Duration = Duration::from_secs(20);

/// A directory with certificates and both configurations.
struct House {
    dir: tempfile::TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let house = House { dir, ca };
        house.issue("coordinator", &format!("spiffe://{CLUSTER}/coordinator/0"));
        house.issue("broker", &format!("spiffe://{CLUSTER}/broker/3"));
        house
    }

    fn issue(&self, name: &str, uri: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.ca).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let path = self.path(&format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn coordinator(&self, listen: &str) -> Coordinator {
        let dir = self.dir.path().display();
        let yaml = format!(
            "coordinator:
  cluster_id: {CLUSTER}
  data_dir: {dir}/coordinator-data
  listen: {listen}
  tls: {{ ca: {dir}/ca.pem, cert: {dir}/coordinator.pem, key: {dir}/coordinator.key }}
"
        );
        let file = self.path("coordinator.yaml");
        std::fs::write(&file, yaml).unwrap();
        let context = Context::default();
        let config = Coordinator::load_config(&file).unwrap();
        let coordinator = Coordinator::start(config, context.clone()).await.unwrap();
        tokio::time::timeout(PATIENCE, context.ready.wait()).await.unwrap();
        coordinator
    }

    /// A broker whose data lies in `data`.
    async fn broker(&self, coordinator: SocketAddr, data: &str) -> (Broker, Context) {
        let dir = self.dir.path().display();
        let yaml = format!(
            "broker: {{ id: 3, data_dir: {dir}/{data} }}
coordinator:
  addresses: [\"{coordinator}\"]
  tls: {{ ca: {dir}/ca.pem, cert: {dir}/broker.pem, key: {dir}/broker.key }}
listeners:
  - {{ name: plain, address: \"127.0.0.1:0\", protocol: plaintext, insecure: true }}
"
        );
        let file = self.path("broker.yaml");
        std::fs::write(&file, yaml).unwrap();
        let context = Context::default();
        let config = Broker::load_config(&file).unwrap();
        (Broker::start(config, context.clone()).await.unwrap(), context)
    }
}

async fn ready(context: &Context) {
    let waited = tokio::time::timeout(PATIENCE, context.ready.wait()).await;
    assert!(waited.is_ok(), "not ready: {:?}", context.ready.reasons());
}

async fn stop(daemon: impl Daemon) {
    daemon.stop(Deadline::after(PATIENCE)).await.unwrap();
}

struct Client(RpcConnection);

impl Client {
    async fn connect(broker: &Broker) -> Client {
        let address = HostPort::from(broker.listeners()[0].bound);
        let stream = dial(&address, None, PATIENCE).await.unwrap();
        Client(RpcConnection::start(stream, "the broker", RpcOptions::default()))
    }

    async fn ask<Q: Encodable, A: Decodable>(&self, api: ApiKey, version: i16, request: &Q) -> A {
        let encode = |id| {
            encode_request(&RequestHeader::new(api, version, id, None), request).map(|f| vec![f])
        };
        let frame = self.0.call_raw(api.name(), version, PATIENCE, encode).await.unwrap();
        decode_response(api, version, frame).unwrap().1
    }

    /// Asks for one topic: its error and the error and leader of its first partition.
    async fn metadata(&self, topic: &str, create: bool) -> (ErrorCode, Option<(ErrorCode, i32)>) {
        let wanted = MetadataRequestTopic::default().with_name(Some(name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(create);
        let response: MetadataResponse = self.ask(ApiKey::Metadata, 12, &request).await;
        let topic = &response.topics[0];
        let first = topic.partitions.first().map(|p| (p.error_code.into(), p.leader_id.0));
        (topic.error_code.into(), first)
    }

    async fn create(&self, topic: &str) -> (ErrorCode, String) {
        let topic = CreatableTopic::default()
            .with_name(name(topic))
            .with_num_partitions(2)
            .with_replication_factor(1);
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
        let mut response: CreateTopicsResponse = self.ask(ApiKey::CreateTopics, 7, &request).await;
        let topic = response.topics.remove(0);
        let text = topic.error_message.map(|text| text.to_string()).unwrap_or_default();
        (topic.error_code.into(), text)
    }

    async fn delete(&self, topic: &str) -> ErrorCode {
        let request = DeleteTopicsRequest::default()
            .with_topic_names(vec![name(topic)])
            .with_timeout_ms(10_000);
        let response: DeleteTopicsResponse = self.ask(ApiKey::DeleteTopics, 5, &request).await;
        response.responses[0].error_code.into()
    }

    async fn producer_id(&self) -> Result<i64, ErrorCode> {
        let request = InitProducerIdRequest::default().with_transactional_id(None);
        let response: InitProducerIdResponse = self.ask(ApiKey::InitProducerId, 4, &request).await;
        ErrorCode::from(response.error_code).ok().map(|()| response.producer_id.0)
    }

    async fn produce(&self, topic: &str) -> PartitionProduceResponse {
        let mut batch = BatchBuilder::new(Compression::None);
        batch.append(1_700_000_000_000, None, Some(b"a line"), &[]).unwrap();
        let records: Bytes = batch.finish().unwrap();
        let partitions = vec![PartitionProduceData { index: 0, records: Some(records) }];
        let request = ProduceRequest {
            transactional_id: None,
            acks: -1,
            timeout_ms: 10_000,
            topics: vec![TopicProduceData { name: name(topic), partitions }],
        };
        let api = ApiKey::Produce;
        let encode = |id| request.encode(&RequestHeader::new(api, 9, id, None));
        let frame = self.0.call_raw(api.name(), 9, PATIENCE, encode).await.unwrap();
        let mut response = ProduceResponse::decode(frame, 9).unwrap().1;
        response.topics.remove(0).partitions.remove(0)
    }

    /// The offset that one more record gets.
    async fn store(&self, topic: &str) -> i64 {
        let stored = self.produce(topic).await;
        assert_eq!(stored.error_code, ErrorCode::NONE, "{stored:?}");
        stored.base_offset
    }
}

fn name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

#[tokio::test]
async fn a_cluster_forms_and_a_topic_is_usable_as_soon_as_it_is_answered() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let (broker, context) = house.broker(coordinator.address(), "data").await;
    ready(&context).await;
    let client = Client::connect(&broker).await;

    // Asking for a topic creates it, and the same answer has its ready leader.
    assert_eq!(client.metadata("asked", false).await.0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let led = (ErrorCode::NONE, Some((ErrorCode::NONE, 3)));
    assert_eq!(client.metadata("asked", true).await, led);
    assert_eq!(client.store("asked").await, 0);

    assert_eq!(client.create("made").await.0, ErrorCode::NONE);
    assert_eq!(client.store("made").await, 0);
    assert_eq!(client.create("made").await.0, ErrorCode::TOPIC_ALREADY_EXISTS);

    assert_eq!(client.delete("made").await, ErrorCode::NONE);
    let gone = client.produce("made").await.error_code;
    assert_eq!(gone, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(client.create("made").await.0, ErrorCode::NONE);
    assert_eq!(client.store("made").await, 0, "a new topic of the old name is empty");

    let (first, second) =
        (client.producer_id().await.unwrap(), client.producer_id().await.unwrap());
    assert_ne!(first, second);
    stop(broker).await;
    stop(coordinator).await;
}

#[tokio::test]
async fn without_the_coordinator_what_exists_is_served_and_all_heals_when_it_returns() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let address = coordinator.address();
    let (broker, context) = house.broker(address, "data").await;
    ready(&context).await;
    let client = Client::connect(&broker).await;
    assert_eq!(client.create("t").await.0, ErrorCode::NONE);
    assert_eq!(client.store("t").await, 0);
    let before = client.producer_id().await.unwrap();

    stop(coordinator).await;
    assert_eq!(client.store("t").await, 1);
    let start = tokio::time::Instant::now();
    let (code, text) = client.create("u").await;
    assert_eq!(code, ErrorCode::REQUEST_TIMED_OUT);
    assert!(text.contains("coordinator"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert_eq!(client.metadata("u", true).await.0, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);

    // It stops and starts alone, and leads what it led; its producer ids go on.
    stop(broker).await;
    let (broker, context) = house.broker(address, "data").await;
    ready(&context).await;
    let start = &context.status.json()["start"];
    assert_eq!((&start["logs"], &start["clean"]), (&2.into(), &2.into()), "{start}");
    let client = Client::connect(&broker).await;
    assert_eq!(client.store("t").await, 2);
    assert!(client.producer_id().await.unwrap() > before);

    let coordinator = house.coordinator(&address.to_string()).await;
    let created = async {
        // Its answer is an error until the broker has found the coordinator.
        while client.create("u").await.0 != ErrorCode::NONE {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, created).await.unwrap();
    assert_eq!(client.store("u").await, 0);
    assert_eq!(client.store("t").await, 3);
    stop(coordinator).await;
    stop(broker).await;
}

#[tokio::test]
async fn a_lost_data_directory_is_refused_by_name_and_ends_the_broker() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let (broker, context) = house.broker(coordinator.address(), "data").await;
    ready(&context).await;
    stop(broker).await;
    let (broker, context) = house.broker(coordinator.address(), "another").await;
    let cause = tokio::time::timeout(PATIENCE, context.tasks.failed()).await.unwrap();
    assert!(cause.contains("broker 3 is registered with data directory"), "{cause}");
    assert!(!context.ready.is_ready());
    stop(broker).await;
    stop(coordinator).await;
}

#[tokio::test]
async fn two_brokers_cannot_share_a_data_directory() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let (broker, _) = house.broker(coordinator.address(), "data").await;
    let config = Broker::load_config(&house.path("broker.yaml")).unwrap();
    let refused = Broker::start(config, Context::default()).await;
    let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    stop(broker).await;
    stop(coordinator).await;
}

#[tokio::test]
async fn a_data_directory_of_another_broker_is_a_configuration_error() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let (broker, context) = house.broker(coordinator.address(), "data").await;
    ready(&context).await;
    stop(broker).await;
    stop(coordinator).await;
    let file: &Path = &house.path("broker.yaml");
    let text = std::fs::read_to_string(file).unwrap().replace("id: 3", "id: 4");
    std::fs::write(file, text).unwrap();
    let config = Broker::load_config(file).unwrap();
    let error = Broker::start(config, Context::default()).await.err().unwrap();
    assert_eq!(error.exit().code(), 78);
    assert!(error.to_string().contains("belongs to broker 3, this is broker 4"), "{error}");
}

#[tokio::test]
async fn a_data_directory_of_another_cluster_ends_the_broker_for_good() {
    let house = House::new();
    let coordinator = house.coordinator("127.0.0.1:0").await;
    let (broker, context) = house.broker(coordinator.address(), "data").await;
    ready(&context).await;
    stop(broker).await;
    let file = house.path("data").join("meta.properties");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(&format!("cluster.id={CLUSTER}"), "cluster.id=c-2"))
        .unwrap();
    let (broker, context) = house.broker(coordinator.address(), "data").await;
    let cause = tokio::time::timeout(PATIENCE, context.tasks.failed()).await.unwrap();
    assert!(cause.contains("c-2") && cause.contains(CLUSTER), "{cause}");
    assert_eq!(context.tasks.exit().code(), 78);
    stop(broker).await;
    stop(coordinator).await;
}
