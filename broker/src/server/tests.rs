//! Connections against a raw client: order, ends, bounds and refusals.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_wire::fetch::FetchResponse;
use tailway_wire::frame::{self, RequestHeader};
use tailway_wire::messages::fetch_request::{FetchPartition, FetchTopic};
use tailway_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, FetchRequest, MetadataRequest, TopicName,
};
use tailway_wire::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use tailway_wire::{ApiKey, ErrorCode};
use tokio::io::AsyncWriteExt;

use super::testing::{PATIENCE, RawClient, TestBroker, batch, limits};

fn produce(topic: &str, acks: i16, records: Option<Bytes>) -> ProduceRequest {
    ProduceRequest {
        transactional_id: None,
        acks,
        timeout_ms: 10_000,
        topics: vec![TopicProduceData {
            name: TopicName(topic.to_owned().into()),
            partitions: vec![PartitionProduceData { index: 0, records }],
        }],
    }
}

fn produce_frame(id: i32, request: &ProduceRequest) -> Vec<u8> {
    let header = RequestHeader::new(ApiKey::Produce, 8, id, Some("raw".into()));
    request.encode(&header).unwrap().concat()
}

pub(super) fn fetch(topic: &str, offset: i64, min_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default()
        .with_partition(0)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default()
        .with_topic(TopicName(topic.to_owned().into()))
        .with_partitions(vec![partition]);
    FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(min_bytes)
        .with_max_bytes(1 << 20)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

#[tokio::test]
async fn pipelined_produces_are_stored_and_answered_in_order() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let mut client = RawClient::connect(broker.listen().await).await;
    let mut all = Vec::new();
    for id in 0..50 {
        let value = format!("value {id}");
        all.extend(produce_frame(id, &produce("t", -1, Some(batch(&[value.as_bytes()])))));
    }
    client.send(ApiKey::Metadata, 4, 1_000, &MetadataRequest::default().with_topics(None)).await;
    client.write(&all).await;
    client.send(ApiKey::Metadata, 4, 1_001, &MetadataRequest::default().with_topics(None)).await;
    assert_eq!(client.read_id().await, Some(1_000));
    for id in 0..50 {
        let (got, response) = ProduceResponse::decode(client.read().await.unwrap(), 8).unwrap();
        let partition = &response.topics[0].partitions[0];
        assert_eq!(
            (got, partition.error_code, partition.base_offset),
            (id, ErrorCode::NONE, id.into())
        );
    }
    assert_eq!(client.read_id().await, Some(1_001));
    broker.stop().await;
}

#[tokio::test]
async fn acks_zero_has_no_response_and_its_failure_ends_the_connection() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut client = RawClient::connect(address).await;
    client.write(&produce_frame(1, &produce("t", 0, Some(batch(&[b"a"]))))).await;
    client.send(ApiKey::Fetch, 11, 2, &fetch("t", 0, 1, 10_000)).await;
    let (id, response) = FetchResponse::decode(client.read().await.unwrap(), 11).unwrap();
    assert_eq!((id, response.topics[0].partitions[0].high_watermark), (2, 1));
    client.write(&produce_frame(3, &produce("missing", 0, Some(batch(&[b"a"]))))).await;
    assert_eq!(client.read().await, None);
    broker.stop().await;
}

#[tokio::test]
async fn what_was_sent_before_the_end_of_the_stream_is_still_handled() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut client = RawClient::connect(address).await;
    for id in 0..5 {
        client.write(&produce_frame(id, &produce("t", 0, Some(batch(&[b"a"]))))).await;
    }
    client.write(&produce_frame(5, &produce("t", -1, Some(batch(&[b"a"]))))).await;
    client.stream.shutdown().await.unwrap();
    let (id, response) = ProduceResponse::decode(client.read().await.unwrap(), 8).unwrap();
    assert_eq!((id, response.topics[0].partitions[0].base_offset), (5, 5));
    assert_eq!(client.read().await, None, "and then the broker closes too");
    broker.stop().await;
}

#[tokio::test]
async fn a_long_poll_ends_with_its_connection() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut client = RawClient::connect(address).await;
    for id in [1, 2, 3] {
        client.send(ApiKey::Fetch, 11, id, &fetch("t", 0, 1, 3_600_000)).await;
    }
    client.stream.shutdown().await.unwrap();
    // Far sooner than the polls would end.
    for id in [1, 2, 3] {
        assert_eq!(client.read_id().await, Some(id));
    }
    assert_eq!(client.read().await, None);
    broker.stop().await;
}

#[tokio::test]
async fn a_stop_answers_what_waits_and_ends_every_connection() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut poll = RawClient::connect(address).await;
    let mut idle = RawClient::connect(address).await;
    poll.send(ApiKey::Fetch, 11, 1, &fetch("t", 0, 1, 3_600_000)).await;
    idle.send(ApiKey::ApiVersions, 0, 2, &ApiVersionsRequest::default()).await;
    assert_eq!(idle.read_id().await, Some(2));
    broker.stop().await;
    assert_eq!(poll.read_id().await, Some(1));
    assert_eq!((poll.read().await, idle.read().await), (None, None));
}

#[tokio::test]
async fn versions_above_ours_are_answered_so_that_clients_come_down() {
    let broker = TestBroker::new(limits()).await;
    let mut client = RawClient::connect(broker.listen().await).await;
    client.send_raw(18, 9, 5, &[0, 1, 1, 0]).await;
    let frame = client.read().await.unwrap();
    let (id, response): (i32, ApiVersionsResponse) =
        frame::decode_response(ApiKey::ApiVersions, 0, frame).unwrap();
    assert_eq!((id, response.error_code), (5, 35));
    let only: Vec<_> =
        response.api_keys.iter().map(|a| (a.api_key, a.min_version, a.max_version)).collect();
    assert_eq!(only, [(18, 0, 4)]);
    // The same connection goes on with what both have.
    client.send(ApiKey::ApiVersions, 2, 6, &ApiVersionsRequest::default()).await;
    assert_eq!(client.read_id().await, Some(6));
    broker.stop().await;
}

#[tokio::test]
async fn what_is_not_served_ends_the_connection_and_is_counted() {
    let broker = TestBroker::new(limits()).await;
    let address = broker.listen().await;
    let cases: [(&str, Vec<u8>); 8] = [
        ("unknown_api", request(99, 0, &[])),
        ("unknown_api", request(62, 4, &[0])), // the coordinator's
        ("unsupported_version", request(3, 99, &[])),
        ("old_message_format", request(0, 2, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0])),
        ("malformed", request(3, 1, &[0x7f, 0xff, 0xff, 0xff])),
        ("too_large", vec![0x7f, 0, 0, 0]),
        ("tls_on_plaintext", vec![0x16, 3, 1, 2, 0, 1]),
        ("not_kafka", b"GET / HTTP/1.1\r\n".to_vec()),
    ];
    for (reason, bytes) in cases {
        let before = refused(&broker, reason);
        let mut client = RawClient::connect(address).await;
        client.write(&bytes).await;
        assert_eq!(client.read().await, None, "{reason}");
        assert_eq!(refused(&broker, reason), before + 1, "{reason}");
    }
    broker.stop().await;
}

fn request(key: i16, version: i16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(i32::try_from(13 + body.len()).unwrap().to_be_bytes());
    frame.extend(key.to_be_bytes());
    frame.extend(version.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 3]);
    frame.extend(b"raw");
    frame.extend(body);
    frame
}

fn refused(broker: &TestBroker, reason: &str) -> u64 {
    let text = broker.metrics.encode();
    let wanted = format!("tailway_broker_refused_total{{reason=\"{reason}\"");
    let lines = text.lines().filter(|line| line.starts_with(&wanted));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[tokio::test]
async fn old_record_formats_are_refused_by_name() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let mut client = RawClient::connect(broker.listen().await).await;
    let mut old = batch(&[b"a"]).to_vec();
    old[16] = 1; // the magic byte
    client.write(&produce_frame(1, &produce("t", -1, Some(old.into())))).await;
    let (_, response) = ProduceResponse::decode(client.read().await.unwrap(), 8).unwrap();
    let partition = &response.topics[0].partitions[0];
    assert_eq!(partition.error_code, ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT);
    assert!(partition.error_message.as_ref().unwrap().contains("v1"), "{partition:?}");
    assert_eq!(refused(&broker, "old_message_format"), 1);
    broker.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed_and_those_inside_served() {
    let broker = TestBroker::new(super::super::config::Limits { connections: 2, ..limits() }).await;
    let address = broker.listen().await;
    let mut inside = [RawClient::connect(address).await, RawClient::connect(address).await];
    for (id, client) in (0..).zip(&mut inside) {
        client.send(ApiKey::ApiVersions, 0, id, &ApiVersionsRequest::default()).await;
        assert_eq!(client.read_id().await, Some(id));
    }
    let mut outside = RawClient::connect(address).await;
    assert_eq!(outside.read().await, None);
    inside[0].send(ApiKey::ApiVersions, 0, 9, &ApiVersionsRequest::default()).await;
    assert_eq!(inside[0].read_id().await, Some(9));
    assert_eq!(refused(&broker, "too_many_connections"), 1);
    broker.stop().await;
}

#[tokio::test]
async fn large_requests_wait_for_memory_and_small_ones_pass() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    // Announces all the memory there is, and sends nothing of it.
    let mut hoarder = RawClient::connect(address).await;
    hoarder.write(&(1_i32 << 20).to_be_bytes()).await;
    let used = broker.services.metrics.request_memory.clone();
    tokio::time::timeout(PATIENCE, async {
        while used.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let mut small = RawClient::connect(address).await;
    small.write(&produce_frame(1, &produce("t", -1, Some(batch(&[b"a"]))))).await;
    assert_eq!(small.read_id().await, Some(1));
    let mut large = RawClient::connect(address).await;
    let value = vec![7; 100_000];
    large.write(&produce_frame(2, &produce("t", -1, Some(batch(&[&value]))))).await;
    let waits = broker.services.metrics.request_memory_waits.clone();
    tokio::time::timeout(PATIENCE, async {
        while waits.get() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    drop(hoarder);
    assert_eq!(large.read_id().await, Some(2));
    broker.stop().await;
    assert_eq!(used.get(), 0, "every share came back");
}

#[tokio::test]
async fn a_fetch_holds_response_memory_until_it_is_sent() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut client = RawClient::connect(address).await;
    let value = vec![7; 60_000];
    for id in 0..4 {
        client.write(&produce_frame(id, &produce("t", -1, Some(batch(&[&value]))))).await;
        assert_eq!(client.read_id().await, Some(id));
    }
    let header = |id| RequestHeader::new(ApiKey::Fetch, 11, id, None);
    let mut requests = Vec::new();
    for id in 10..110 {
        requests.extend(frame::encode_request(&header(id), &fetch("t", 0, 1, 0)).unwrap());
    }
    // Asks for far more than there is memory for and reads none of it yet.
    client.write(&requests).await;
    let held = broker.services.metrics.response_memory.clone();
    let mut most = 0;
    for id in 10..110 {
        assert_eq!(client.read_id().await, Some(id));
        most = most.max(held.get());
    }
    assert!(most <= 1 << 20, "{most}");
    let services = Arc::clone(&broker.services);
    broker.stop().await;
    assert_eq!(services.metrics.response_memory.get(), 0);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_that_waits_is_not() {
    let quick =
        super::super::config::Limits { idle_timeout: Duration::from_millis(50), ..limits() };
    let mut broker = TestBroker::new(quick).await;
    broker.topic("t", 1, 0).await;
    let address = broker.listen().await;
    let mut waiting = RawClient::connect(address).await;
    waiting.send(ApiKey::Fetch, 11, 1, &fetch("t", 0, 1, 300)).await;
    let mut idle = RawClient::connect(address).await;
    assert_eq!(idle.read().await, None);
    assert_eq!(waiting.read_id().await, Some(1));
    broker.stop().await;
}
