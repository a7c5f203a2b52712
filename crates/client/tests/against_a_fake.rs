//! The client against a small cluster of our own making: what real ones seldom do is planted.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "each test uses its part of the cluster")]
mod fake;

use std::time::Duration;

use bytes::Bytes;
use fake::Cluster;
use tailway_client::produce::{PartitionSender, ProducerRecord, SenderEvent, SenderOptions};
use tailway_client::{
    Acks, ActiveProducer, Client, ClientConfig, ClientError, Consumer, ConsumerOptions,
    ProduceError, Producer, ProducerIdentity, ProducerOptions, StartAt, TopicPartition,
};
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{BatchBuilder, BatchHeader, Compression, RecordRef};

const SOON: Duration = Duration::from_secs(5);

fn client(cluster: &Cluster) -> Client {
    Client::new(ClientConfig::new(cluster.bootstrap(), "test").with_request_timeout(SOON))
}

fn value(text: &str) -> ProducerRecord {
    let value = Some(Bytes::copy_from_slice(text.as_bytes()));
    ProducerRecord { value, ..ProducerRecord::default() }
}

fn batch(values: &[&str]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(Compression::None);
    for value in values {
        builder.append(0, None, Some(value.as_bytes()), &[]).unwrap();
    }
    builder
}

fn texts(records: &[RecordRef]) -> Vec<String> {
    let text = |record: &RecordRef| {
        let value = record.value.as_ref().unwrap();
        format!("{}:{}", record.offset, String::from_utf8_lossy(value))
    };
    records.iter().map(text).collect()
}

/// Everything that a consumer finds until nothing more comes.
async fn read_all(client: &Client, topic: &str, start: StartAt) -> Vec<String> {
    let mut consumer = Consumer::new(client.clone(), quick());
    consumer.assign_topic(topic, start).await.unwrap();
    let mut found = Vec::new();
    while consumer.lag() != Some(0) {
        for consumed in consumer.poll(Duration::from_millis(20)).await.unwrap() {
            found.extend(texts(&consumed.records));
        }
    }
    found
}

fn quick() -> ConsumerOptions {
    ConsumerOptions { wait_max: Duration::from_millis(1), ..ConsumerOptions::default() }
}

#[tokio::test]
async fn records_go_in_and_come_out_in_order_through_every_fault() {
    let cluster = Cluster::start(2).await;
    cluster.add_topic("logs", 1);
    let client = client(&cluster);
    let options = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
    let producer = Producer::new(client.clone(), options);
    let faults = [
        Some(ErrorCode::NOT_ENOUGH_REPLICAS),
        None,
        Some(ErrorCode::KAFKA_STORAGE_ERROR),
        None,
        None,
        Some(ErrorCode::REQUEST_TIMED_OUT),
    ];
    let mut expected = Vec::new();
    for n in 0..40 {
        if n == 10 {
            cluster.with(|state| state.produce_faults.extend(faults));
        }
        if n == 20 {
            cluster.with(|state| state.leader = 1);
        }
        let delivery = producer.send("logs", value(&n.to_string())).await.unwrap();
        if n % 5 == 0 {
            assert_eq!(delivery.wait().await.unwrap().offset, n);
        }
        expected.push(format!("{n}:{n}"));
    }
    producer.flush().await;
    assert!(cluster.with(|state| state.produce_faults.is_empty()), "every fault was met");
    assert_eq!(read_all(&client, "logs", StartAt::Earliest).await, expected);
}

#[tokio::test]
async fn one_refused_batch_fails_alone() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    let client = client(&cluster);
    let options = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
    let producer = Producer::new(client.clone(), options);
    let first = producer.send("logs", value("first")).await.unwrap();
    first.wait().await.unwrap();
    cluster.with(|state| state.produce_faults.push_back(Some(ErrorCode::MESSAGE_TOO_LARGE)));
    let large = producer.send("logs", value("large")).await.unwrap();
    let last = producer.send("logs", value("last")).await.unwrap();
    let error = large.wait().await.unwrap_err();
    assert!(!error.in_doubt);
    assert!(error.to_string().contains("MESSAGE_TOO_LARGE (10)"), "{error}");
    assert!(error.to_string().contains("try: smaller records or batches"), "{error}");
    // Both may have shared the refused batch; what counts is that the producer goes on.
    drop(last.wait().await);
    producer.send("logs", value("after")).await.unwrap().wait().await.unwrap();
    let found = read_all(&client, "logs", StartAt::Earliest).await;
    assert!(found.first().unwrap().ends_with(":first"), "{found:?}");
    assert!(found.last().unwrap().ends_with(":after"), "{found:?}");
    assert!(!found.iter().any(|text| text.ends_with(":large")), "{found:?}");
}

/// What was given up may still be under way: the next epoch keeps it out.
#[tokio::test]
async fn after_giving_up_a_producer_goes_on_in_its_next_epoch() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    let options = ProducerOptions {
        linger: Duration::ZERO,
        delivery_timeout: Duration::from_millis(300),
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client(&cluster), options);
    let send = async |text| producer.send("logs", value(text)).await.unwrap().wait().await;
    send("first").await.unwrap();
    let never = [Some(ErrorCode::NOT_ENOUGH_REPLICAS); 1_000];
    cluster.with(|state| state.produce_faults.extend(never));
    assert!(send("given up").await.unwrap_err().in_doubt);
    cluster.with(|state| state.produce_faults.clear());
    send("next").await.unwrap();
    let sessions: Vec<(i64, i16, i32)> = cluster.with(|state| {
        let batches = &state.topics["logs"][0].batches;
        let headers = batches.iter().map(|(_, _, bytes)| BatchHeader::parse(bytes).unwrap());
        headers.map(|h| (h.producer_id, h.producer_epoch, h.base_sequence)).collect()
    });
    let id = sessions[0].0;
    assert_eq!(sessions, [(id, 0, 0), (id, 1, 0)]);
}

#[tokio::test]
async fn the_owner_of_a_sender_sequences_journals_and_hears_acks() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    let client = client(&cluster);
    let identity = client.init_producer_id().await.unwrap();
    let partition = TopicPartition::new("logs", 0);
    let (mut sender, mut events) =
        PartitionSender::start(client, partition, identity, SenderOptions::default());
    cluster.with(|state| state.produce_faults.extend([None, None]));
    for n in 0..20_i32 {
        // An owner must hear while it pushes: acks make the room.
        loop {
            tokio::select! {
                ready = sender.ready() => break ready.unwrap(),
                event = events.recv() => assert!(event.is_some()),
            }
        }
        let sequence = sender.next_batch_sequence(2);
        assert_eq!((sequence.base_sequence, sequence.last_sequence), (2 * n, 2 * n + 1));
        let mut builder = batch(&["a", "b"]);
        builder.set_producer(identity.producer_id, identity.producer_epoch, 2 * n);
        sender.push(builder.finish().unwrap(), 2).await.unwrap();
    }
    cluster.with(|state| {
        state.produce_faults.push_back(Some(ErrorCode::INVALID_PRODUCER_EPOCH));
    });
    while sender.ready().await.is_ok() {
        let mut builder = batch(&["x"]);
        let sequence = sender.next_batch_sequence(1).base_sequence;
        builder.set_producer(identity.producer_id, identity.producer_epoch, sequence);
        if sender.push(builder.finish().unwrap(), 1).await.is_err() {
            break;
        }
    }
    let mut last = None;
    while let Some(event) = events.recv().await {
        last = Some(event);
    }
    let Some(SenderEvent::Stopped { reason, open }) = last else { panic!("{last:?}") };
    assert!(format!("{reason:?}").contains("INVALID_PRODUCER_EPOCH"), "{reason:?}");
    assert!(!open.is_empty());
    let stored = cluster.with(|state| state.topics["logs"][0].end());
    assert_eq!(stored % 2, 0, "the pairs, and none of the batches after the refusal: {stored}");
}

#[tokio::test]
async fn a_consumer_skips_what_is_not_for_it_and_loses_nothing() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    cluster.with(|state| {
        let log = &mut state.topics.get_mut("logs").unwrap()[0];
        log.start = 5;
        let mut put = |base: i64, mut builder: BatchBuilder| {
            builder.set_base_offset(base);
            log.put(builder.finish().unwrap());
        };
        put(5, batch(&["a", "b", "c"]));
        // Compaction took what followed in this batch's range (8 to 11) but for one.
        let mut compacted = batch(&["d"]);
        compacted.skip_to(4);
        put(8, compacted);
        let mut control = batch(&["commit"]);
        control.set_control(true);
        put(12, control);
        put(13, batch(&["e"]));
        // All that is left of the end is a range of offsets.
        let mut hollow = batch(&["f"]);
        hollow.skip_to(3);
        put(14, hollow);
    });
    let client = client(&cluster);
    let all = ["5:a", "6:b", "7:c", "8:d", "13:e", "14:f"];
    assert_eq!(read_all(&client, "logs", StartAt::Earliest).await, all);
    // In the middle of a batch, in a hole, before the start (retention), and beyond the end.
    assert_eq!(read_all(&client, "logs", StartAt::Offset(6)).await, all[1..]);
    assert_eq!(read_all(&client, "logs", StartAt::Offset(10)).await, all[4..]);
    assert_eq!(read_all(&client, "logs", StartAt::Offset(0)).await, all);
    assert_eq!(read_all(&client, "logs", StartAt::Offset(99)).await, all);
    assert_eq!(read_all(&client, "logs", StartAt::Timestamp(1)).await, [""; 0]);
}

#[tokio::test]
async fn a_consumer_may_refuse_to_jump_and_says_what_is_damaged() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    cluster.with(|state| {
        let log = &mut state.topics.get_mut("logs").unwrap()[0];
        let mut bytes = batch(&["a"]).finish().unwrap().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        log.put(bytes.into());
    });
    let client = client(&cluster);
    let partition = TopicPartition::new("logs", 0);
    let options = ConsumerOptions { out_of_range: None, ..quick() };
    let mut consumer = Consumer::new(client, options);
    consumer.seek(partition.clone(), 7);
    let error = consumer.poll(SOON).await.unwrap_err().to_string();
    assert!(error.contains("logs-0 at offset 7: OFFSET_OUT_OF_RANGE (1)"), "{error}");
    consumer.seek(partition, 0);
    let error = consumer.poll(SOON).await.unwrap_err();
    assert!(matches!(error, ClientError::BadRecords { offset: 0, .. }), "{error}");
}

#[tokio::test]
async fn versions_are_negotiated_down_and_refused_by_name() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 1);
    cluster.with(|state| {
        state.versions = Some(vec![
            (ApiKey::ApiVersions, 0, 2),
            (ApiKey::Metadata, 0, 1),
            (ApiKey::Produce, 0, 2),
            (ApiKey::InitProducerId, 0, 0),
        ]);
    });
    let client = client(&cluster);
    client.topic("logs").await.unwrap();
    let identity = client.init_producer_id().await.unwrap();
    assert!(identity != ProducerIdentity::NONE);
    let bytes = batch(&["a"]).finish().unwrap();
    let partition = TopicPartition::new("logs", 0);
    let error = client.produce(&partition, bytes, Acks::Leader, SOON).await.unwrap_err();
    assert!(matches!(error, ProduceError::NotSent { .. }));
    let error = error.to_string();
    assert!(error.contains("serves Produce 0-2, this client needs 3-"), "{error}");
    assert!(error.contains("the broker is too old"), "{error}");
    let sent = cluster.with(|state| state.requests.clone());
    let start: Vec<_> = sent.iter().take(3).map(|(_, api, version)| (*api, *version)).collect();
    let expected = [(ApiKey::ApiVersions, 3), (ApiKey::ApiVersions, 0), (ApiKey::Metadata, 1)];
    assert_eq!(start, expected);
}

#[tokio::test]
async fn errors_name_the_broker_the_cause_and_the_next_command() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", 2);
    let client = client(&cluster);
    let error = client.topic("nothing").await.unwrap_err().to_string();
    assert!(error.starts_with("topic `nothing` does not exist on broker "), "{error}");
    assert!(error.contains("try: tailway topic create nothing"), "{error}");

    let partition = TopicPartition::new("logs", 7);
    let error = client.route(&partition).await.unwrap_err().to_string();
    assert_eq!(error, "topic `logs` has no partition 7 (it has 2)");

    // The cluster advertises an address that does not work from here.
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = closed.local_addr().unwrap().port();
    drop(closed);
    cluster.with(|state| {
        state.brokers.insert(3, ("127.0.0.1".to_owned(), port));
        state.leader = 3;
    });
    client.invalidate("logs");
    let partition = TopicPartition::new("logs", 0);
    let error = client.route(&partition).await.unwrap_err().to_string();
    assert!(error.contains(&format!("broker 3 advertises itself as 127.0.0.1:{port}")), "{error}");
    assert!(error.contains("which does not work from here: cannot connect"), "{error}");

    let nowhere = ClientConfig::new(vec![tailway_client::HostPort::new("127.0.0.1", port)], "t");
    let error = Client::new(nowhere).describe_cluster().await.unwrap_err().to_string();
    assert!(error.starts_with("no broker could be reached:\n  cannot connect to"), "{error}");
    assert!(error.contains("connection refused"), "{error}");
}

/// A broker that lists DescribeProducers beside what a test needs.
fn with_describe_producers(cluster: &Cluster, served: bool) {
    cluster.with(|state| {
        let apis = tailway_wire::api::served(tailway_wire::api::Server::Broker);
        let listed = apis.into_iter().map(|(key, v)| (key, v.min, v.max));
        let mut listed: Vec<_> =
            listed.filter(|(key, ..)| *key != ApiKey::DescribeProducers).collect();
        if served {
            listed.push((ApiKey::DescribeProducers, 0, 0));
        }
        state.versions = Some(listed);
    });
}

#[tokio::test]
async fn the_leader_tells_of_its_producers_or_why_not() {
    let partition = TopicPartition::new("logs", 0);
    let cluster = Cluster::start(2).await;
    with_describe_producers(&cluster, true);
    cluster.add_topic("logs", 1);
    let client = client(&cluster);
    assert_eq!(client.describe_producers(&partition).await.unwrap(), []);
    let options = ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() };
    let producer = Producer::new(client.clone(), options);
    for text in ["a", "b"] {
        producer.send("logs", value(text)).await.unwrap().wait().await.unwrap();
    }
    let told = ActiveProducer { producer_id: 1, producer_epoch: 0, last_sequence: 1 };
    assert_eq!(client.describe_producers(&partition).await.unwrap(), [told]);
    // The leader is another one now, and only it can tell; what passes is tried again.
    cluster.with(|state| {
        state.leader = 1;
        state.describe_producers_refused.push_back(ErrorCode::NOT_LEADER_OR_FOLLOWER);
    });
    assert_eq!(client.describe_producers(&partition).await.unwrap(), [told]);
    for (code, no_permission) in [
        (ErrorCode::TOPIC_AUTHORIZATION_FAILED, true),
        (ErrorCode::CLUSTER_AUTHORIZATION_FAILED, true),
        (ErrorCode::UNKNOWN_SERVER_ERROR, false),
    ] {
        cluster.with(|state| state.describe_producers_refused.push_back(code));
        let error = client.describe_producers(&partition).await.unwrap_err();
        assert_eq!(error.code(), Some(code), "{error}");
        assert_eq!(error.cannot_describe_producers(), no_permission, "{error}");
        assert_eq!(error.is_no_permission(), no_permission, "{error}");
    }
}

#[tokio::test]
async fn a_broker_without_describe_producers_is_named() {
    let cluster = Cluster::start(1).await;
    with_describe_producers(&cluster, false);
    cluster.add_topic("logs", 1);
    let asked = client(&cluster).describe_producers(&TopicPartition::new("logs", 0)).await;
    let error = asked.unwrap_err();
    assert!(error.cannot_describe_producers() && !error.is_no_permission(), "{error}");
    assert!(error.to_string().contains("serves DescribeProducers not at all"), "{error}");
}
