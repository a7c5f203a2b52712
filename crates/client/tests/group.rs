//! Members of a consumer group against a coordinator that moves, forgets and rebalances.

#![allow(clippy::unwrap_used, reason = "tests")]

#[allow(dead_code, reason = "each test uses its part of the cluster")]
mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use fake::Cluster;
use tailway_client::group::{GroupConsumer, GroupOptions};
use tailway_client::produce::ProducerRecord;
use tailway_client::{Client, ClientConfig, ConsumerOptions, Producer, ProducerOptions, StartAt};

const PARTITIONS: usize = 4;

fn client(cluster: &Cluster) -> Client {
    let config = ClientConfig::new(cluster.bootstrap(), "test");
    Client::new(config.with_request_timeout(Duration::from_secs(5)))
}

fn member(client: &Client) -> GroupConsumer {
    let mut options = GroupOptions::new("readers", vec!["logs".to_owned()]);
    options.start = StartAt::Earliest;
    options.heartbeat_interval = Duration::from_millis(10);
    options.auto_commit = Some(Duration::from_millis(10));
    options.consumer =
        ConsumerOptions { wait_max: Duration::from_millis(1), ..ConsumerOptions::default() };
    GroupConsumer::new(client.clone(), options)
}

async fn produce(client: &Client, from: usize, to: usize) {
    let producer = Producer::new(client.clone(), ProducerOptions::default());
    for n in from..to {
        let record = ProducerRecord {
            partition: Some(i32::try_from(n % PARTITIONS).unwrap()),
            value: Some(Bytes::from(n.to_string())),
            ..ProducerRecord::default()
        };
        producer.send("logs", record).await.unwrap();
    }
    producer.flush().await;
}

/// Polls the members in turn until `done`; what they read, with how often.
async fn read(
    members: &mut [GroupConsumer],
    seen: &mut Vec<usize>,
    done: impl Fn(&[GroupConsumer], &[usize]) -> bool,
) {
    for _ in 0..2000 {
        if done(members, seen) {
            return;
        }
        for member in &mut *members {
            for consumed in member.poll(Duration::from_millis(5)).await.unwrap() {
                for record in consumed.records {
                    let text = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                    seen.push(text.parse().unwrap());
                }
            }
        }
    }
    let assigned: Vec<_> = members.iter().map(GroupConsumer::assignment).collect();
    panic!("read {} records with {assigned:?}", seen.len());
}

fn shared_out(members: &[GroupConsumer], each: usize) -> bool {
    let assigned: Vec<_> = members.iter().map(GroupConsumer::assignment).collect();
    let distinct: BTreeSet<_> = assigned.iter().flatten().collect();
    assigned.iter().all(|own| own.len() == each) && distinct.len() == PARTITIONS
}

#[tokio::test]
async fn members_share_leave_and_go_on_where_the_group_was() {
    let cluster = Cluster::start(2).await;
    cluster.add_topic("logs", PARTITIONS);
    let client = client(&cluster);
    produce(&client, 0, 100).await;
    let mut seen = Vec::new();
    let mut members = vec![member(&client)];
    read(&mut members, &mut seen, |_, seen| seen.len() == 100).await;
    assert!(shared_out(&members, 4));

    members.push(member(&client));
    read(&mut members, &mut seen, |members, _| shared_out(members, 2)).await;
    produce(&client, 100, 200).await;
    read(&mut members, &mut seen, |_, seen| seen.len() == 200).await;

    members.remove(0).leave().await.unwrap();
    read(&mut members, &mut seen, |members, _| shared_out(members, 4)).await;
    produce(&client, 200, 300).await;
    read(&mut members, &mut seen, |_, seen| seen.len() == 300).await;
    seen.sort_unstable();
    assert_eq!(seen, (0..300).collect::<Vec<_>>(), "each record once, by whomever");

    members.remove(0).leave().await.unwrap();
    let committed = cluster.with(|state| state.group.committed.clone());
    assert_eq!(committed.values().sum::<i64>(), 300, "{committed:?}");
    assert_eq!(cluster.with(|state| state.group.members()), 0);
}

#[tokio::test]
async fn a_member_follows_its_coordinator_and_survives_being_forgotten() {
    let cluster = Cluster::start(2).await;
    cluster.add_topic("logs", PARTITIONS);
    let client = client(&cluster);
    produce(&client, 0, 20).await;
    let mut seen = Vec::new();
    let mut members = vec![member(&client)];
    read(&mut members, &mut seen, |_, seen| seen.len() == 20).await;

    cluster.with(|state| state.group.coordinator = 1);
    members[0].commit().await.unwrap();
    let committed = cluster.with(|state| state.group.committed.values().sum::<i64>());
    assert_eq!(committed, 20, "at the new coordinator");

    let before = cluster.with(|state| {
        state.group.expel_all();
        state.group.generation
    });
    produce(&client, 20, 40).await;
    read(&mut members, &mut seen, |_, seen| {
        seen.len() >= 40 && cluster.with(|state| state.group.generation) > before
    })
    .await;
    let distinct: BTreeSet<_> = seen.iter().copied().collect();
    assert_eq!(distinct, (0..40).collect(), "nothing left out; what was not committed may repeat");
}

#[tokio::test]
async fn offsets_are_not_committed_before_the_caller_comes_back() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", PARTITIONS);
    let client = client(&cluster);
    produce(&client, 0, 1).await;
    let mut member = member(&client);
    let mut got = 0;
    while got == 0 {
        got = member.poll(Duration::from_millis(20)).await.unwrap().len();
    }
    // It dies with the record in hand.
    drop(member);
    let committed = cluster.with(|state| state.group.committed.clone());
    assert!(committed.values().all(|offset| *offset == 0), "{committed:?}");
}

/// It had joined, could not find out where to begin, and from then on heartbeated with partitions that nobody read.
#[tokio::test]
async fn a_member_that_cannot_begin_to_read_joins_again() {
    let cluster = Cluster::start(1).await;
    cluster.add_topic("logs", PARTITIONS);
    let client = client(&cluster);
    produce(&client, 0, 20).await;
    cluster.with(|state| state.list_offsets_refused = 1);
    let mut member = member(&client);
    let error = member.poll(Duration::from_secs(5)).await.unwrap_err();
    assert!(error.to_string().contains("ListOffsets"), "{error}");
    let mut seen = Vec::new();
    read(&mut [member], &mut seen, |_, seen| seen.len() == 20).await;
}
