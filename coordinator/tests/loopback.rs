//! A real coordinator on loopback with generated certificates: a client registers a broker, creates a topic, follows the
//! metadata; then the coordinator stops, starts on the same directory, and all goes on.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use tailway_coordinator::{Config, Coordinator};
use tailway_daemon::{Context, Daemon, Deadline};
use tailway_metadata::control::{ERROR_MESSAGE_TAG, FollowMetadataRequest, FollowMetadataResponse};
use tailway_metadata::{
    BrokerEpoch, BrokerId, ClusterId, ClusterImage, LeaderEpoch, PartitionIndex,
};
use tailway_net::RpcConnection;
use tailway_wire::frame::{decode_response, encode_request, encode_request_raw, split_response};
use tailway_wire::messages::broker_registration_request::Listener;
use tailway_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tailway_wire::messages::{self as kafka, Decodable, Encodable, StrBytes, TopicName};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader};
use uuid::Uuid;

use common::{CLUSTER, PATIENCE};

const DIRECTORY: Uuid = Uuid::from_u128(0xd1);

/// A directory with a CA and certificates, and the coordinator's configuration.
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
        house.issue("agent", &format!("spiffe://{CLUSTER}/agent/3"));
        house.issue("stranger", "spiffe://c-2/broker/3");
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

    fn config(&self, cluster: &str) -> Config {
        common::config(self.dir.path(), cluster, "")
    }

    async fn start(&self) -> (Coordinator, Context) {
        common::start(self.config(CLUSTER)).await
    }

    async fn connect(&self, coordinator: &Coordinator, name: &str) -> RpcConnection {
        common::connect(self.dir.path(), coordinator, name).await
    }
}

async fn stop(coordinator: Coordinator) {
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
}

async fn ask<Q: Encodable, A: Decodable>(
    connection: &RpcConnection,
    api: ApiKey,
    version: i16,
    request: &Q,
) -> A {
    let encode = |id| {
        encode_request(&RequestHeader::new(api, version, id, None), request)
            .map(|frame| vec![frame])
    };
    let frame = connection.call_raw(api.name(), version, PATIENCE, encode).await.unwrap();
    decode_response::<A>(api, version, frame).unwrap().1
}

async fn follow(
    connection: &RpcConnection,
    image: &ClusterImage,
    max_wait_ms: u32,
) -> FollowMetadataResponse {
    let request = FollowMetadataRequest {
        cluster_id: ClusterId(CLUSTER.into()),
        broker_id: BrokerId(3),
        broker_epoch: BrokerEpoch::NONE,
        log_id: image.log_id,
        from_offset: image.offset,
        max_wait_ms,
    };
    let encode = |id| {
        let header = RequestHeader::new(ApiKey::FollowMetadata, 0, id, None);
        encode_request_raw(&header, &request.encode()).map(|frame| vec![frame])
    };
    let frame = connection.call_raw("FollowMetadata", 0, PATIENCE, encode).await.unwrap();
    let (_, body) = split_response(ApiKey::FollowMetadata, 0, frame).unwrap();
    FollowMetadataResponse::decode(&body).unwrap()
}

/// Follows until there is nothing new.
async fn catch_up(connection: &RpcConnection, mut image: ClusterImage) -> ClusterImage {
    loop {
        let response = follow(connection, &image, 0).await;
        image = response.apply_to(&image).unwrap();
        image.check();
        if image.offset == response.end_offset {
            return image;
        }
    }
}

fn registration(incarnation: u128, directory: Uuid) -> kafka::BrokerRegistrationRequest {
    kafka::BrokerRegistrationRequest::default()
        .with_broker_id(3.into())
        .with_cluster_id(StrBytes::from_static_str(CLUSTER))
        .with_incarnation_id(Uuid::from_u128(incarnation))
        .with_log_dirs(vec![directory])
        .with_previous_broker_epoch(-1)
        .with_listeners(vec![
            Listener::default()
                .with_name(StrBytes::from_static_str("tls"))
                .with_host(StrBytes::from_static_str("localhost"))
                .with_port(9093)
                .with_security_protocol(1),
        ])
}

async fn register(
    connection: &RpcConnection,
    incarnation: u128,
    directory: Uuid,
) -> kafka::BrokerRegistrationResponse {
    let request = registration(incarnation, directory);
    ask(connection, ApiKey::BrokerRegistration, 4, &request).await
}

async fn beat(
    connection: &RpcConnection,
    epoch: i64,
    image: &ClusterImage,
) -> kafka::BrokerHeartbeatResponse {
    let request = kafka::BrokerHeartbeatRequest::default()
        .with_broker_id(3.into())
        .with_broker_epoch(epoch)
        .with_current_metadata_offset(image.offset.0);
    ask(connection, ApiKey::BrokerHeartbeat, 1, &request).await
}

async fn create(connection: &RpcConnection, name: &'static str, factor: i16) -> (i16, String) {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_static_str(name)))
        .with_num_partitions(2)
        .with_replication_factor(factor)
        .with_configs(vec![
            CreatableTopicConfig::default()
                .with_name(StrBytes::from_static_str("retention.ms"))
                .with_value(Some(StrBytes::from_static_str("60000"))),
        ]);
    let request =
        kafka::CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(5_000);
    let response: kafka::CreateTopicsResponse =
        ask(connection, ApiKey::CreateTopics, 7, &request).await;
    let result = &response.topics[0];
    (result.error_code, result.error_message.as_ref().map_or(String::new(), ToString::to_string))
}

async fn producer_ids(connection: &RpcConnection, epoch: i64) -> (i64, i32) {
    let request = kafka::AllocateProducerIdsRequest::default()
        .with_broker_id(3.into())
        .with_broker_epoch(epoch);
    let block: kafka::AllocateProducerIdsResponse =
        ask(connection, ApiKey::AllocateProducerIds, 0, &request).await;
    assert_eq!(block.error_code, 0);
    (block.producer_id_start.0, block.producer_id_len)
}

fn text(tags: &std::collections::BTreeMap<i32, Bytes>) -> &str {
    std::str::from_utf8(&tags[&ERROR_MESSAGE_TAG]).unwrap()
}

fn leaders(image: &ClusterImage, topic: &str) -> Vec<(Option<BrokerId>, LeaderEpoch)> {
    let topic = image.topic(topic).unwrap();
    topic.partitions.iter().map(|p| (p.leader, p.leader_epoch)).collect()
}

#[tokio::test]
async fn a_broker_lives_through_a_restart_of_the_coordinator() {
    let house = House::new();
    let (coordinator, context) = house.start().await;
    let connection = house.connect(&coordinator, "broker").await;

    let versions: kafka::ApiVersionsResponse =
        ask(&connection, ApiKey::ApiVersions, 3, &kafka::ApiVersionsRequest::default()).await;
    assert!(versions.api_keys.iter().any(|api| api.api_key == ApiKey::FollowMetadata.key()));

    let registered = register(&connection, 1, DIRECTORY).await;
    assert_eq!((registered.error_code, registered.broker_epoch), (0, 1));
    assert_eq!(register(&connection, 1, DIRECTORY).await.broker_epoch, 1, "asked again");
    let behind = beat(&connection, 1, &ClusterImage::default()).await;
    assert_eq!((behind.error_code, behind.is_fenced, behind.is_caught_up), (0, true, false));
    let image = catch_up(&connection, ClusterImage::default()).await;
    assert_eq!(image.cluster_id, ClusterId(CLUSTER.into()));
    let awake = beat(&connection, 1, &image).await;
    assert_eq!((awake.error_code, awake.is_fenced, awake.is_caught_up), (0, false, true));

    // A poll that waits does not hold up the requests behind it, and is woken by what they do.
    let image = catch_up(&connection, image).await;
    let (polled, created) =
        tokio::join!(follow(&connection, &image, 30_000), create(&connection, "logs", 1));
    assert_eq!(created, (0, String::new()));
    let image = polled.apply_to(&image).unwrap();
    assert_eq!(leaders(&image, "logs"), [(Some(BrokerId(3)), LeaderEpoch(0)); 2]);
    assert_eq!(image.topic("logs").unwrap().configs["retention.ms"], "60000");
    assert_eq!(create(&connection, "logs", 1).await.0, ErrorCode::TOPIC_ALREADY_EXISTS.code());
    let (code, why) = create(&connection, "more", 3).await;
    assert_eq!(code, ErrorCode::INVALID_REPLICATION_FACTOR.code());
    assert!(why.starts_with("replication factor 3 is not supported yet"), "{why}");

    assert_eq!(producer_ids(&connection, 1).await, (0, 1_000));

    let status = context.status.json();
    assert_eq!(status["raft"]["leads"], true, "{status}");
    assert_eq!(status["brokers"][0]["id"], 3, "{status}");
    assert_eq!(status["topics"]["count"], 1, "{status}");
    let term = status["raft"]["term"].as_u64().unwrap();
    stop(coordinator).await;

    let (coordinator, context) = house.start().await;
    let connection = house.connect(&coordinator, "broker").await;
    assert_eq!(context.status.json()["raft"]["term"].as_u64().unwrap(), term + 1);
    let image = catch_up(&connection, image).await;
    assert_eq!(
        leaders(&image, "logs"),
        [(Some(BrokerId(3)), LeaderEpoch(0)); 2],
        "nobody was fenced"
    );
    assert!(!beat(&connection, 1, &image).await.is_fenced);
    assert_eq!(producer_ids(&connection, 1).await, (1_000, 1_000), "no id is given twice");

    // The broker restarts: a new incarnation, its leaderships at a new epoch.
    let registered = register(&connection, 2, DIRECTORY).await;
    assert_eq!(registered.error_code, 0);
    let image = catch_up(&connection, image).await;
    assert_eq!(leaders(&image, "logs"), [(None, LeaderEpoch(1)); 2]);
    assert_eq!(beat(&connection, 1, &image).await.error_code, ErrorCode::STALE_BROKER_EPOCH.code());
    assert!(!beat(&connection, registered.broker_epoch, &image).await.is_fenced);
    let image = catch_up(&connection, image).await;
    assert_eq!(leaders(&image, "logs"), [(Some(BrokerId(3)), LeaderEpoch(2)); 2]);

    let emptied = register(&connection, 3, Uuid::from_u128(0xd2)).await;
    assert_eq!(emptied.error_code, ErrorCode::INVALID_REGISTRATION.code());
    let why = text(&emptied.unknown_tagged_fields);
    assert!(why.contains("its data directory is new, empty or another broker's"), "{why}");

    let delete = kafka::DeleteTopicsRequest::default()
        .with_topic_names(vec![TopicName(StrBytes::from_static_str("logs"))])
        .with_timeout_ms(5_000);
    let deleted: kafka::DeleteTopicsResponse =
        ask(&connection, ApiKey::DeleteTopics, 5, &delete).await;
    assert_eq!(deleted.responses[0].error_code, 0);
    let image = catch_up(&connection, image).await;
    assert!(image.topic("logs").is_none());
    assert!(image.partition("logs", PartitionIndex(0)).is_none());
    stop(coordinator).await;
}

#[tokio::test]
async fn certificates_decide_who_may_do_what() {
    let house = House::new();
    let (coordinator, context) = house.start().await;
    let connection = house.connect(&coordinator, "stranger").await;
    let header = |id| RequestHeader::new(ApiKey::ApiVersions, 3, id, None);
    let encode =
        |id| encode_request(&header(id), &kafka::ApiVersionsRequest::default()).map(|f| vec![f]);
    let error = connection.call_raw("ApiVersions", 3, PATIENCE, encode).await.unwrap_err();
    assert!(error.to_string().contains("closed the connection"), "{error}");
    // An agent is a member, but none of a broker's calls is its own.
    let connection = house.connect(&coordinator, "agent").await;
    let response: kafka::BrokerRegistrationResponse =
        ask(&connection, ApiKey::BrokerRegistration, 4, &registration(1, DIRECTORY)).await;
    assert_eq!(response.error_code, ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code());
    assert!(text(&response.unknown_tagged_fields).contains("may not call BrokerRegistration"));
    // A broker's certificate does not let it act as another broker.
    let connection = house.connect(&coordinator, "broker").await;
    let request = registration(1, DIRECTORY).with_broker_id(4.into());
    let response: kafka::BrokerRegistrationResponse =
        ask(&connection, ApiKey::BrokerRegistration, 4, &request).await;
    assert_eq!(response.error_code, ErrorCode::CLUSTER_AUTHORIZATION_FAILED.code());
    assert_eq!(
        text(&response.unknown_tagged_fields),
        "the certificate names broker 3, which cannot act as broker 4"
    );
    let text = context.metrics.encode();
    assert!(text.contains("tailway_coordinator_connections_refused_total 1\n"), "{text}");
    stop(coordinator).await;
}

#[tokio::test]
async fn a_data_directory_has_one_user_and_one_cluster() {
    let house = House::new();
    let (coordinator, _context) = house.start().await;
    let second = Coordinator::start(house.config(CLUSTER), Context::default()).await.unwrap_err();
    let pid = std::process::id();
    assert!(
        second.to_string().contains(&format!("is in use by this process (pid {pid})")),
        "{second}"
    );
    stop(coordinator).await;
    let other = Coordinator::start(house.config("c-2"), Context::default()).await.unwrap_err();
    assert!(
        other.to_string().contains("belongs to cluster c-1, the configuration says c-2"),
        "{other}"
    );
    assert_eq!(other.exit().code(), 78);
}

#[tokio::test]
async fn garbage_ends_its_connection_and_no_other() {
    let house = House::new();
    let (coordinator, _context) = house.start().await;
    let good = house.connect(&coordinator, "broker").await;
    let frames: [&'static [u8]; 4] = [
        &[0, 0, 0, 4, 0, 62, 0, 4],
        &[0, 0, 0, 12, 0, 62, 0, 4, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        &[0, 0, 0, 10, 0x4e, 0x21, 0, 9, 0, 0, 0, 0, 0xff, 0xff],
        &[0x7f, 0xff, 0xff, 0xff],
    ];
    for frame in frames {
        let bad = house.connect(&coordinator, "broker").await;
        let encode = |_| Ok::<_, std::convert::Infallible>(vec![Bytes::from_static(frame)]);
        let error = bad.call_raw("garbage", 0, PATIENCE, encode).await.unwrap_err();
        assert!(error.to_string().contains("closed the connection"), "{frame:?}: {error}");
    }
    assert_eq!(register(&good, 1, DIRECTORY).await.error_code, 0);
    stop(coordinator).await;
}

#[tokio::test]
async fn many_followers_get_the_same_stream() {
    let house = House::new();
    let (coordinator, _context) = house.start().await;
    let connection = Arc::new(house.connect(&coordinator, "broker").await);
    register(&connection, 1, DIRECTORY).await;
    let image = catch_up(&connection, ClusterImage::default()).await;
    beat(&connection, 1, &image).await;
    let followers: Vec<_> = (0..10)
        .map(|_| {
            let connection = Arc::clone(&connection);
            tailway_runtime::spawn(async move {
                let mut image = ClusterImage::default();
                while image.topic("last").is_none() {
                    let response = follow(&connection, &image, 10_000).await;
                    image = response.apply_to(&image).unwrap();
                }
                image
            })
        })
        .collect();
    for name in ["a", "b", "c", "last"] {
        assert_eq!(create(&connection, name, -1).await.0, 0);
    }
    let expected = catch_up(&connection, ClusterImage::default()).await;
    for follower in followers {
        assert_eq!(follower.await.unwrap().encode_snapshot(), expected.encode_snapshot());
    }
    assert!(Path::new(&house.path("data/raft.log")).exists());
    stop(coordinator).await;
}
