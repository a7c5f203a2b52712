//! A member of the one consumer group: reads what it is assigned, commits now and then what it has read.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng;
use tailway_client::consume::Consumed;
use tailway_client::{ClientError, GroupConsumer, GroupOptions, StartAt, TopicPartition};
use tailway_history::{Act, Outcome};
use tailway_runtime::sim::{HostRng, note};
use tokio::time::sleep;

use super::{Shared, spelled, told};

pub(crate) const GROUP: &str = "readers";
const POLL: Duration = Duration::from_secs(1);
const COMMIT_ONE_IN: u32 = 10;

pub(super) async fn run(shared: Shared, name: String) {
    let mut rng = HostRng;
    let mut options = GroupOptions::new(GROUP, vec![shared.topic.clone()]);
    options.session_timeout = Duration::from_secs(10);
    options.rebalance_timeout = Duration::from_secs(15);
    options.auto_commit = None;
    options.start = StartAt::Earliest;
    options.consumer.out_of_range = None;
    let mut member = GroupConsumer::new(shared.client(&name), options);
    // The next offset of each partition that was read since it was assigned.
    let mut read: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    let mut joins = 0;
    // Where it may start at the least, until it is seen where it does.
    let mut floors: BTreeMap<TopicPartition, i64> = BTreeMap::new();
    loop {
        let committed = shared.commit_floors(GROUP);
        let polled = match member.poll(POLL).await {
            Ok(polled) => polled,
            Err(error @ ClientError::Usage(_)) => {
                shared.history.violation(format!("{name} cannot go on in its group: {error}"));
                return;
            }
            // Its patience was over; a consumer polls again.
            Err(_) => {
                sleep(POLL).await;
                Vec::new()
            }
        };
        if member.joins() != joins {
            joins = member.joins();
            note(|| format!("{name} has joined for the {joins}. time"));
            read.clear();
            floors.clear();
            for partition in member.assignment() {
                let floor = committed.get(&partition).copied().unwrap_or(0);
                floors.insert(partition.clone(), floor);
                let group = Some(GROUP.to_owned());
                let act = Act::Assign { tp: spelled(&partition), off: None, group, drain: false };
                shared.history.add(&name, shared.history.now(), Outcome::Ok, act);
            }
        }
        for consumed in &polled {
            judge_start(&shared, &name, consumed, &mut floors);
            if let Some(last) = consumed.records.last() {
                read.insert(consumed.partition.clone(), last.offset + 1);
            }
        }
        shared.polled(&name, &polled);
        if !read.is_empty() && member.is_stable() && rng.gen_ratio(1, COMMIT_ONE_IN) {
            commit(&shared, &name, &mut member, &read).await;
        }
    }
}

/// Where a member starts to read a partition is not below what was committed before it joined (I5).
fn judge_start(
    shared: &Shared,
    name: &str,
    consumed: &Consumed,
    floors: &mut BTreeMap<TopicPartition, i64>,
) {
    if let Some(first) = consumed.records.first()
        && let Some(floor) = floors.remove(&consumed.partition)
        && first.offset < floor
    {
        shared.history.violation(format!(
            "I5: {}: {name} starts at offset {}, and {floor} was committed before",
            consumed.partition, first.offset
        ));
    }
}

/// Commits what was read, and tells what became of it.
async fn commit(
    shared: &Shared,
    name: &str,
    member: &mut GroupConsumer,
    read: &BTreeMap<TopicPartition, i64>,
) {
    let begun: Vec<_> = read
        .iter()
        .map(|(partition, next)| {
            let (tp, group) = (spelled(partition), GROUP.to_owned());
            let act = Act::Commit { tp, off: told(*next).unwrap_or_default(), group };
            shared.history.begin(name, act)
        })
        .collect();
    let outcome = match member.commit().await {
        Ok(()) => Outcome::Ok,
        Err(_) => Outcome::Info,
    };
    if outcome == Outcome::Ok {
        for (partition, next) in read {
            shared.committed(GROUP, partition, *next);
        }
    }
    for at in begun {
        shared.history.end(at, outcome);
    }
}
