//! A round trip through any Kafka with every part of the client: versions, topics, producer with
//! each codec, consumer, two group members, configurations, deletion. Prints what it saw.
//!
//! `cargo run -p tailway-client --example roundtrip -- HOST:PORT [COUNT]`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "an example talks to people")]

use std::time::Duration;

use bytes::Bytes;
use tailway_client::admin::{ConfigResource, NewTopic};
use tailway_client::group::{GroupConsumer, GroupOptions};
use tailway_client::produce::{Producer, ProducerOptions, ProducerRecord};
use tailway_client::{
    Admin, Client, ClientConfig, Consumer, ConsumerOptions, HostPort, OffsetSpec, StartAt,
};
use tailway_wire::record::Compression;
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let bootstrap =
        HostPort::parse_list(&args.next().ok_or("usage: roundtrip HOST:PORT [COUNT]")?)?;
    let count: usize = args.next().map_or(Ok(10_000), |n| n.parse())?;
    let config = ClientConfig::new(bootstrap, "roundtrip");
    let client = Client::new(config.with_request_timeout(Duration::from_secs(15)));
    let admin = Admin::new(client.clone());

    let cluster = admin.describe_cluster().await?;
    println!("cluster {:?}, brokers {:?}", cluster.cluster_id, cluster.brokers.values());
    let name = format!("roundtrip-{}", std::process::id());
    let mut topic = NewTopic::new(&name);
    topic.partitions = Some(3);
    topic.replication_factor = Some(1);
    topic.configs.insert("retention.ms".into(), "3600000".into());
    println!("created {:?}", admin.create_topic(&topic).await?);
    println!("again: {}", admin.create_topic(&topic).await.unwrap_err());

    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        produce(&client, &name, codec, count).await?;
    }
    let expected = count * 5;
    for offset in admin.list_offsets(&name, OffsetSpec::Latest).await? {
        println!("{} ends at {}", offset.partition, offset.offset);
    }
    consume(&client, &name, expected).await?;
    group(&client, &name, expected).await?;

    let configs = admin.describe_configs(&ConfigResource::Topic(name.clone())).await?;
    let retention = configs.iter().find(|entry| entry.name == "retention.ms").unwrap();
    println!(
        "{} keys, retention.ms {:?} from {}",
        configs.len(),
        retention.value,
        retention.source
    );
    for result in admin.delete_topics(&[name.clone(), "no-such-topic".to_owned()]).await? {
        println!("deleted: {result:?}");
    }
    println!("missing: {}", client.topic("no-such-topic").await.unwrap_err());
    Ok(())
}

async fn produce(
    client: &Client,
    topic: &str,
    compression: Compression,
    count: usize,
) -> Result<(), Failure> {
    let started = Instant::now();
    let options = ProducerOptions { compression, ..ProducerOptions::default() };
    let producer = Producer::new(client.clone(), options);
    let mut deliveries = Vec::new();
    for n in 0..count {
        let record = ProducerRecord {
            key: (n % 2 == 0).then(|| Bytes::from(format!("key-{n}"))),
            value: Some(Bytes::from(format!(
                "{compression:?} line {n} of a log that repeats itself"
            ))),
            headers: vec![("n".to_owned(), Some(Bytes::from(n.to_string())))],
            timestamp: 1_700_000_000_000,
            ..ProducerRecord::default()
        };
        deliveries.push(producer.send(topic, record).await?);
    }
    producer.flush().await;
    let mut last = None;
    for delivery in deliveries {
        last = Some(delivery.wait().await?);
    }
    println!("{compression:?}: {count} delivered in {:?}, the last as {last:?}", started.elapsed());
    Ok(())
}

async fn consume(client: &Client, topic: &str, expected: usize) -> Result<(), Failure> {
    let started = Instant::now();
    let mut consumer = Consumer::new(client.clone(), ConsumerOptions::default());
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    let mut seen = 0;
    while seen < expected && started.elapsed() < Duration::from_secs(30) {
        for consumed in consumer.poll(Duration::from_secs(1)).await? {
            seen += consumed.records.len();
        }
    }
    println!("consumed {seen} of {expected} in {:?}, lag {:?}", started.elapsed(), consumer.lag());
    Ok(())
}

async fn group(client: &Client, topic: &str, expected: usize) -> Result<(), Failure> {
    let started = Instant::now();
    let mut options = GroupOptions::new(format!("g-{topic}"), vec![topic.to_owned()]);
    options.start = StartAt::Earliest;
    options.session_timeout = Duration::from_secs(10);
    options.heartbeat_interval = Duration::from_millis(500);
    let mut first = GroupConsumer::new(client.clone(), options.clone());
    let mut seen = 0;
    while seen < expected / 2 && started.elapsed() < Duration::from_secs(30) {
        for consumed in first.poll(Duration::from_secs(1)).await? {
            seen += consumed.records.len();
        }
    }
    println!("first member: {seen} after {:?}, reads {:?}", started.elapsed(), first.assignment());
    let mut second = GroupConsumer::new(client.clone(), options);
    while started.elapsed() < Duration::from_secs(40) {
        for consumed in first.poll(Duration::from_millis(100)).await? {
            seen += consumed.records.len();
        }
        for consumed in second.poll(Duration::from_millis(100)).await? {
            seen += consumed.records.len();
        }
        let both = !first.assignment().is_empty() && !second.assignment().is_empty();
        if both && seen >= expected {
            break;
        }
    }
    println!("two members: {seen} of {expected} after {:?}", started.elapsed());
    println!("  {:?} and {:?}", first.assignment(), second.assignment());
    second.leave().await?;
    first.commit().await?;
    first.leave().await?;
    Ok(())
}
