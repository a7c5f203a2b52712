//! Handlers against a broker on a simulated disk: what Kafka answers, case by case.

use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::record::RemoveTopicRecord;
use tailway_metadata::{ClusterId, MetadataRecord};
use tailway_net::{PeerIdentity, SpiffeId};
use tailway_wire::ErrorCode;
use tailway_wire::fetch::FetchedPartition;
use tailway_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use tailway_wire::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use tailway_wire::messages::metadata_request::MetadataRequestTopic;
use tailway_wire::messages::metadata_response::MetadataResponseTopic;
use tailway_wire::messages::{
    CreateTopicsRequest, FetchRequest, FindCoordinatorRequest, ListOffsetsRequest, MetadataRequest,
    TopicName, create_topics_request::CreatableTopic,
};
use tailway_wire::produce::{
    PartitionProduceData, PartitionProduceResponse, ProduceRequest, TopicProduceData,
};
use uuid::Uuid;

use super::{create_topics, fetch, find_coordinator, list_offsets, metadata, produce, text};
use crate::server::Closing;
use crate::server::access::Principal;
use crate::server::testing::{LISTENER, ME, PATIENCE, TestBroker, batch, limits};

fn name(topic: &str) -> TopicName {
    TopicName(text(topic))
}

fn produce_request(topic: &str, index: i32, acks: i16, records: Option<Bytes>) -> ProduceRequest {
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: 10_000,
        topics: vec![TopicProduceData {
            name: name(topic),
            partitions: vec![PartitionProduceData { index, records }],
        }],
    }
}

async fn send(broker: &TestBroker, request: ProduceRequest) -> PartitionProduceResponse {
    let started = produce::start(request, &broker.services.routes).await;
    started.finish().await.topics.remove(0).partitions.remove(0)
}

/// Stores one batch a value and says where the last one went.
async fn store(broker: &TestBroker, topic: &str, values: &[&[u8]]) -> i64 {
    let mut last = -1;
    for value in values {
        let request = produce_request(topic, 0, -1, Some(batch(&[value])));
        let stored = send(broker, request).await;
        assert_eq!(stored.error_code, ErrorCode::NONE, "{stored:?}");
        last = stored.base_offset;
    }
    last
}

/// A fetch of single partitions: (topic, partition, offset, leader epoch, partition max bytes).
fn fetch_request(wanted: &[(&str, i32, i64, i32, i32)]) -> FetchRequest {
    let topics = wanted.iter().map(|(topic, partition, offset, epoch, max_bytes)| {
        let partition = FetchPartition::default()
            .with_partition(*partition)
            .with_fetch_offset(*offset)
            .with_current_leader_epoch(*epoch)
            .with_partition_max_bytes(*max_bytes);
        FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition])
    });
    FetchRequest::default()
        .with_session_epoch(-1)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(topics.collect())
}

async fn read(broker: &TestBroker, request: FetchRequest) -> Vec<FetchedPartition> {
    let (_tell, closing) = Closing::new();
    let limits = fetch::FetchLimits {
        fetch_size: broker.services.limits.fetch_size,
        responses: &broker.services.responses,
        closing,
    };
    let fetched = fetch::handle(request, &broker.services.routes, limits);
    let fetched = tokio::time::timeout(PATIENCE, fetched).await.expect("an answer in time");
    assert_eq!(fetched.response.error_code, ErrorCode::NONE);
    fetched.response.topics.into_iter().flat_map(|topic| topic.partitions).collect()
}

#[tokio::test]
async fn produce_answers_each_partition_for_itself() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    broker.topic("__consumer_offsets", 1, 0).await;
    let good = || Some(batch(&[b"a"]));
    let mut corrupt = batch(&[b"a"]).to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let cases = [
        (produce_request("t", 0, -1, good()), ErrorCode::NONE),
        (produce_request("t", 0, 1, good()), ErrorCode::NONE),
        (produce_request("t", 1, -1, good()), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (produce_request("t", -1, -1, good()), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (produce_request("u", 0, -1, good()), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
        (produce_request("t", 0, 2, good()), ErrorCode::INVALID_REQUIRED_ACKS),
        (produce_request("t", 0, -1, None), ErrorCode::INVALID_RECORD),
        (produce_request("t", 0, -1, Some(corrupt.into())), ErrorCode::CORRUPT_MESSAGE),
        (produce_request("__consumer_offsets", 0, -1, good()), ErrorCode::INVALID_TOPIC_EXCEPTION),
        (
            ProduceRequest {
                transactional_id: Some(text("x")),
                ..produce_request("t", 0, -1, good())
            },
            ErrorCode::INVALID_TXN_STATE,
        ),
    ];
    let mut stored = 0;
    for (request, expected) in cases {
        let answer = send(&broker, request.clone()).await;
        assert_eq!(answer.error_code, expected, "{request:?}");
        let offset = if expected.is_none() { stored } else { -1 };
        assert_eq!(answer.base_offset, offset, "{request:?}");
        stored += i64::from(expected.is_none());
    }
    // A bad partition does not keep a good one of the same request out.
    let mut both = produce_request("t", 5, -1, good());
    both.topics[0].partitions.push(PartitionProduceData { index: 0, records: good() });
    let response = produce::start(both, &broker.services.routes).await.finish().await;
    let codes: Vec<_> = response.topics[0].partitions.iter().map(|p| p.error_code).collect();
    assert_eq!(codes, [ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ErrorCode::NONE]);
    broker.stop().await;
}

#[tokio::test]
async fn fetch_gives_whole_batches_within_the_limits_and_the_first_always() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 3).await;
    store(&broker, "t", &[&[1; 1000], &[2; 1000], &[3; 1000]]).await;
    let one = batch(&[&[1; 1000]]).len();
    let bytes = i32::try_from(one).unwrap();
    for (max_bytes, batches) in
        [(1, 1), (bytes, 1), (2 * bytes, 2), (2 * bytes + 5, 2), (1 << 20, 3)]
    {
        let got = read(&broker, fetch_request(&[("t", 0, 0, -1, max_bytes)])).await.remove(0);
        assert_eq!(got.records_len(), batches * one, "{max_bytes}");
        assert_eq!((got.high_watermark, got.last_stable_offset, got.log_start_offset), (3, 3, 0));
        let got =
            read(&broker, fetch_request(&[("t", 0, 0, -1, 1 << 20)]).with_max_bytes(max_bytes))
                .await
                .remove(0);
        assert_eq!(got.records_len(), batches * one, "whole request {max_bytes}");
    }
    // Only the first partition of an answer may break the limits.
    let got = read(&broker, fetch_request(&[("t", 0, 0, -1, 1), ("t", 0, 1, -1, 1)])).await;
    assert_eq!((got[0].records_len(), got[1].records_len()), (one, 0));
    broker.stop().await;
}

#[tokio::test]
async fn fetch_errors_come_at_once() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 3).await;
    store(&broker, "t", &[b"a"]).await;
    for ((partition, offset, epoch), expected) in [
        ((0, 2, -1), ErrorCode::OFFSET_OUT_OF_RANGE),
        ((0, -1, -1), ErrorCode::OFFSET_OUT_OF_RANGE),
        ((0, 0, 2), ErrorCode::FENCED_LEADER_EPOCH),
        ((0, 0, 4), ErrorCode::UNKNOWN_LEADER_EPOCH),
        ((0, 0, 3), ErrorCode::NONE),
        ((1, 0, -1), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION),
    ] {
        let request = fetch_request(&[("t", partition, offset, epoch, 1 << 20)])
            .with_min_bytes(if expected.is_none() { 1 } else { 1000 })
            .with_max_wait_ms(3_600_000);
        let got = read(&broker, request).await.remove(0);
        assert_eq!(got.error_code, expected, "{partition} {offset} {epoch}");
    }
    // At the end there is nothing, and that is no error.
    let got = read(&broker, fetch_request(&[("t", 0, 1, -1, 1 << 20)])).await.remove(0);
    assert_eq!((got.error_code, got.records_len(), got.high_watermark), (ErrorCode::NONE, 0, 1));
    broker.stop().await;
}

#[tokio::test]
async fn a_long_poll_ends_with_enough_bytes_from_any_partition() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    broker.topic("u", 1, 0).await;
    let one = batch(&[&[1; 1000]]).len();
    let min_bytes = i32::try_from(3 * one).unwrap();
    let request = fetch_request(&[("t", 0, 0, -1, 1 << 20), ("u", 0, 0, -1, 1 << 20)])
        .with_min_bytes(min_bytes)
        .with_max_wait_ms(3_600_000);
    let (got, ()) = tokio::join!(read(&broker, request), async {
        for topic in ["t", "u", "t", "t"] {
            store(&broker, topic, &[&[1; 1000]]).await;
        }
    });
    let total: usize = got.iter().map(FetchedPartition::records_len).sum();
    assert!((3 * one..=4 * one).contains(&total), "{total}");
    let first = &got[0].records[0];
    assert_eq!(first[..8], [0; 8], "from the offset asked for on");
    broker.stop().await;
}

#[tokio::test]
async fn fetch_sessions_are_not_kept() {
    let broker = TestBroker::new(limits()).await;
    let (_tell, closing) = Closing::new();
    let limits = |closing| fetch::FetchLimits {
        fetch_size: 1 << 20,
        responses: &broker.services.responses,
        closing,
    };
    let request = fetch_request(&[]).with_session_id(5).with_session_epoch(1);
    let fetched = fetch::handle(request, &broker.services.routes, limits(closing.clone())).await;
    assert_eq!(fetched.response.error_code, ErrorCode::FETCH_SESSION_ID_NOT_FOUND);
    let request = fetch_request(&[]).with_session_epoch(0);
    let fetched = fetch::handle(request, &broker.services.routes, limits(closing)).await;
    assert_eq!((fetched.response.error_code, fetched.response.session_id), (ErrorCode::NONE, 0));
    broker.stop().await;
}

#[tokio::test]
async fn list_offsets_answers_what_kafka_answers() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 2, 3).await;
    store(&broker, "t", &[b"a", b"b"]).await;
    let time = 1_700_000_000_000;
    // (partition, timestamp, epoch, version) -> (error, offset, timestamp, epoch)
    for ((partition, timestamp, epoch, version), expected) in [
        ((0, -1, -1, 7), (0, 2, -1, 3)),
        ((0, -2, -1, 7), (0, 0, -1, 3)),
        ((0, -3, -1, 7), (0, 0, time, 3)),
        ((0, -3, -1, 6), (42, -1, -1, -1)),
        ((0, -4, -1, 7), (42, -1, -1, -1)),
        ((0, time, -1, 7), (0, 0, time, 3)),
        ((0, time + 1, -1, 7), (0, -1, -1, -1)),
        ((1, -1, -1, 7), (0, 0, -1, 3)),
        ((0, -1, 3, 7), (0, 2, -1, 3)),
        ((0, -1, 2, 7), (74, -1, -1, -1)),
        ((0, -1, 4, 7), (75, -1, -1, -1)),
        ((2, -1, -1, 7), (3, -1, -1, -1)),
    ] {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_timestamp(timestamp)
            .with_current_leader_epoch(epoch);
        let topic = ListOffsetsTopic::default().with_name(name("t")).with_partitions(vec![asked]);
        let request = ListOffsetsRequest::default().with_topics(vec![topic]);
        let response = list_offsets::handle(request, version, &broker.services.routes).await;
        let got = &response.topics[0].partitions[0];
        let got = (got.error_code, got.offset, got.timestamp, got.leader_epoch);
        assert_eq!(got, expected, "{partition} {timestamp} {epoch} v{version}");
    }
    broker.stop().await;
}

async fn ask_metadata(
    broker: &TestBroker,
    version: i16,
    topics: Option<&[&str]>,
    create: bool,
) -> Vec<MetadataResponseTopic> {
    let topics = topics.map(|names| {
        names.iter().map(|n| MetadataRequestTopic::default().with_name(Some(name(n)))).collect()
    });
    let request =
        MetadataRequest::default().with_topics(topics).with_allow_auto_topic_creation(create);
    let (view, creator) = (&broker.services.view, &broker.services.creator);
    metadata::handle(request, version, (LISTENER, &Principal::insecure()), view, creator)
        .await
        .topics
}

#[tokio::test]
async fn metadata_means_all_or_none_by_version() {
    let mut broker = TestBroker::new(limits()).await;
    let id = broker.topic("t", 2, 4).await;
    let count = async |version, topics: Option<&[&str]>| {
        ask_metadata(&broker, version, topics, false).await.len()
    };
    assert_eq!((count(0, Some(&[])).await, count(0, None).await), (1, 1));
    assert_eq!((count(1, Some(&[])).await, count(1, None).await), (0, 1));
    let topic = ask_metadata(&broker, 12, Some(&["t"]), false).await.remove(0);
    assert_eq!((topic.error_code, topic.topic_id, topic.is_internal), (0, id.0, false));
    let leaders: Vec<_> = topic
        .partitions
        .iter()
        .map(|p| (p.partition_index, p.leader_id.0, p.leader_epoch))
        .collect();
    assert_eq!(leaders, [(0, ME.0, 4), (1, ME.0, 4)]);
    let codes: Vec<_> = ask_metadata(&broker, 9, Some(&["u", "a b", ""]), false)
        .await
        .iter()
        .map(|topic| topic.error_code)
        .collect();
    assert_eq!(codes, [3, 17, 17]);
    broker.stop().await;
}

#[tokio::test]
async fn metadata_tells_who_asks_what_it_may_do_with_a_topic() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let role = |role: &str| {
        let spiffe = SpiffeId::parse(&format!("spiffe://c/{role}/7"));
        let identity = PeerIdentity { spiffe, ..PeerIdentity::default() };
        Principal::of_certificate(Some(&identity), &ClusterId("c".into()))
    };
    let operations = async |caller: &Principal, topic: &str, asked| {
        let topics = vec![MetadataRequestTopic::default().with_name(Some(name(topic)))];
        let request = MetadataRequest::default()
            .with_topics(Some(topics))
            .with_allow_auto_topic_creation(false)
            .with_include_topic_authorized_operations(asked);
        let (view, creator) = (&broker.services.view, &broker.services.creator);
        let answer = metadata::handle(request, 9, (LISTENER, caller), view, creator).await;
        answer.topics[0].topic_authorized_operations
    };
    // Read 3, write 4, delete 6, describe 8, describe configs 10.
    for (caller, expected) in [
        (role("broker"), 1 << 3 | 1 << 8),
        (role("agent"), 1 << 3 | 1 << 4 | 1 << 8 | 1 << 10),
        (role("client"), 1 << 3 | 1 << 4 | 1 << 8 | 1 << 10),
        (role("admin"), 1 << 3 | 1 << 4 | 1 << 6 | 1 << 8 | 1 << 10),
    ] {
        assert_eq!(operations(&caller, "t", true).await, expected, "{caller}");
        assert_eq!(operations(&caller, "t", false).await, i32::MIN, "not asked");
        assert_eq!(operations(&caller, "u", true).await, i32::MIN, "not there");
    }
    broker.stop().await;
}

#[tokio::test]
async fn metadata_finds_topics_by_id_and_says_when_the_id_is_gone() {
    let mut broker = TestBroker::new(limits()).await;
    let id = broker.topic("t", 1, 0).await;
    for (id, expected) in [(id.0, (0, Some("t"))), (Uuid::from_u128(9), (100, None))] {
        let topic = MetadataRequestTopic::default().with_name(None).with_topic_id(id);
        let request = MetadataRequest::default().with_topics(Some(vec![topic]));
        let (view, creator) = (&broker.services.view, &broker.services.creator);
        let response =
            metadata::handle(request, 12, (LISTENER, &Principal::insecure()), view, creator).await;
        let got = &response.topics[0];
        assert_eq!((got.error_code, got.name.as_ref().map(|n| n.as_str())), expected);
        assert_eq!(response.brokers[0].host.as_str(), "broker.example");
    }
    broker.stop().await;
}

#[tokio::test]
async fn without_a_coordinator_creating_fails_at_once_and_says_why() {
    let broker = TestBroker::new(limits()).await;
    let start = tokio::time::Instant::now();
    // Asking for a topic that would be created: Kafka's answer for "not there (yet)".
    assert_eq!(ask_metadata(&broker, 9, Some(&["t"]), true).await[0].error_code, 3);
    let topic = CreatableTopic::default().with_name(name("t")).with_num_partitions(1);
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000);
    let services = &broker.services;
    let response = create_topics::handle(
        request,
        7,
        &services.controller,
        &services.creator,
        &services.facts.topic_defaults,
    )
    .await;
    assert_eq!(ErrorCode::from(response.topics[0].error_code), ErrorCode::REQUEST_TIMED_OUT);
    let said = response.topics[0].error_message.as_ref().unwrap();
    assert!(said.contains("no coordinator answers (refused)"), "{said}");
    assert!(said.contains("127.0.0.1:9190"), "{said}");
    let request = FindCoordinatorRequest::default().with_key(text("g"));
    let (view, creator) = (&services.view, &services.creator);
    let response = find_coordinator::handle(request, 3, LISTENER, view, creator).await;
    let code = ErrorCode::from(response.error_code);
    assert_eq!(code, ErrorCode::COORDINATOR_NOT_AVAILABLE);
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    broker.stop().await;
}

#[tokio::test]
async fn groups_are_found_on_this_listener_and_transactions_are_not() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("__consumer_offsets", 8, 0).await;
    let (view, creator) = (&broker.services.view, &broker.services.creator);
    let request = FindCoordinatorRequest::default().with_key(text("g"));
    let response = find_coordinator::handle(request, 0, LISTENER, view, creator).await;
    let got = (response.error_code, response.node_id.0, response.host.as_str(), response.port);
    assert_eq!(got, (0, ME.0, "broker.example", 9092));
    let request =
        FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g"), text("h")]);
    let response = find_coordinator::handle(request, 4, LISTENER, view, creator).await;
    let keys: Vec<_> =
        response.coordinators.iter().map(|c| (c.key.as_str(), c.node_id.0)).collect();
    assert_eq!(keys, [("g", ME.0), ("h", ME.0)]);
    let request = FindCoordinatorRequest::default().with_key(text("x")).with_key_type(1);
    let response = find_coordinator::handle(request, 3, LISTENER, view, creator).await;
    assert_eq!(response.error_code, 42);
    assert!(response.error_message.unwrap().contains("transactions are not served"));
    broker.stop().await;
}

#[tokio::test]
async fn a_deleted_topic_is_gone_and_its_name_is_free_for_another() {
    let mut broker = TestBroker::new(limits()).await;
    let id = broker.topic("t", 1, 0).await;
    store(&broker, "t", &[b"old"]).await;
    broker.apply(vec![MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: id })]).await;
    let answer = send(&broker, produce_request("t", 0, -1, Some(batch(&[b"a"])))).await;
    assert_eq!(answer.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    let again = broker.topic("t", 1, 0).await;
    assert_ne!(id, again);
    assert_eq!(store(&broker, "t", &[b"new"]).await, 0, "no old record in the new topic");
    broker.stop().await;
}

#[tokio::test]
async fn a_restart_without_coordinator_serves_what_was_led() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 5).await;
    store(&broker, "t", &[b"a", b"b"]).await;
    let disk = std::sync::Arc::clone(&broker.disk);
    broker.stop().await;
    let broker = TestBroker::on(disk, limits()).await;
    assert_eq!(store(&broker, "t", &[b"c"]).await, 2);
    let got = read(&broker, fetch_request(&[("t", 0, 0, 5, 1 << 20)])).await.remove(0);
    assert_eq!((got.error_code, got.high_watermark), (ErrorCode::NONE, 3));
    broker.stop().await;
}

#[tokio::test]
async fn data_that_the_image_does_not_mention_is_left_alone() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    store(&broker, "t", &[b"a"]).await;
    let disk = std::sync::Arc::clone(&broker.disk);
    broker.stop().await;
    // The image is lost: a new one knows nothing of the topic.
    let data = std::path::Path::new(crate::server::testing::DATA);
    disk.remove_file(&data.join("cluster-image.json")).unwrap();
    let broker = TestBroker::on(std::sync::Arc::clone(&disk), limits()).await;
    let answer = send(&broker, produce_request("t", 0, -1, Some(batch(&[b"a"])))).await;
    assert_eq!(answer.error_code, ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(broker.services.routes.partitions().unclaimed().await.unwrap(), ["t-0"]);
    broker.stop().await;
    assert!(disk.exists(&data.join("t-0/00000000000000000000.log")).unwrap());
}
