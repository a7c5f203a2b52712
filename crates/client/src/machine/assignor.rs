//! The range assignor of classic consumer groups, as Kafka's clients compute it.
//!
//! Per topic, the members that subscribe to it are sorted and get consecutive ranges; the first
//! ones get one partition more where it does not come out even. Members of other libraries in the
//! same group rely on nothing but the result being complete and disjoint; sorting as Java does
//! keeps assignments stable when the leader changes from one library to another.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A member and what it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    pub member_id: String,
    /// Static members sort by this.
    pub instance_id: Option<String>,
    pub topics: Vec<String>,
}

/// Partitions by topic.
pub type Assignment = BTreeMap<Arc<str>, Vec<i32>>;

/// Assigns the partitions of each topic (topic to sorted partition indexes); every subscriber is
/// in the result, perhaps with nothing.
pub fn range(
    subscribers: &[Subscriber],
    partitions: &BTreeMap<Arc<str>, Vec<i32>>,
) -> BTreeMap<String, Assignment> {
    let mut assigned: BTreeMap<String, Assignment> =
        subscribers.iter().map(|s| (s.member_id.clone(), Assignment::new())).collect();
    for (topic, indexes) in partitions {
        let mut members: Vec<&Subscriber> =
            subscribers.iter().filter(|s| s.topics.iter().any(|t| **t == **topic)).collect();
        members.sort_by(|a, b| order(a).cmp(&order(b)));
        let Some(share) = indexes.len().checked_div(members.len()) else { continue };
        let extra = indexes.len() % members.len();
        let mut rest = indexes.as_slice();
        for (position, member) in members.into_iter().enumerate() {
            let count = share + usize::from(position < extra);
            let (own, others) = rest.split_at(count.min(rest.len()));
            rest = others;
            if let (false, Some(assignment)) = (own.is_empty(), assigned.get_mut(&member.member_id))
            {
                assignment.insert(Arc::clone(topic), own.to_vec());
            }
        }
    }
    assigned
}

/// Static members come first, by instance id; the others by member id.
fn order(subscriber: &Subscriber) -> (bool, &str) {
    match &subscriber.instance_id {
        Some(instance) => (false, instance),
        None => (true, &subscriber.member_id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subscriber(id: &str, topics: &[&str]) -> Subscriber {
        let topics = topics.iter().map(|t| (*t).to_owned()).collect();
        Subscriber { member_id: id.to_owned(), instance_id: None, topics }
    }

    fn topics(counts: &[(&str, i32)]) -> BTreeMap<Arc<str>, Vec<i32>> {
        counts.iter().map(|(name, count)| ((*name).into(), (0..*count).collect())).collect()
    }

    #[test]
    fn ranges_are_as_kafka_documents_them() {
        let members = [subscriber("c0", &["t0", "t1"]), subscriber("c1", &["t0", "t1"])];
        let assigned = range(&members, &topics(&[("t0", 3), ("t1", 3)]));
        let expect = |a: &[i32], b: &[i32]| {
            Assignment::from([("t0".into(), a.to_vec()), ("t1".into(), b.to_vec())])
        };
        assert_eq!(assigned["c0"], expect(&[0, 1], &[0, 1]));
        assert_eq!(assigned["c1"], expect(&[2], &[2]));
    }

    #[test]
    fn every_partition_has_one_owner_whatever_the_numbers() {
        for members in 1..7 {
            for count in 0..9 {
                let subscribers: Vec<_> = (0..members)
                    .map(|n| subscriber(&format!("m{n}"), if n == 3 { &["b"] } else { &["a"] }))
                    .collect();
                let assigned = range(&subscribers, &topics(&[("a", count)]));
                assert_eq!(assigned.len(), members);
                let mut owned: Vec<i32> =
                    assigned.values().flat_map(|a| a.values().flatten()).copied().collect();
                owned.sort_unstable();
                assert_eq!(owned, (0..count).collect::<Vec<_>>(), "{members} members");
                assert!(assigned.get("m3").is_none_or(BTreeMap::is_empty));
            }
        }
    }

    #[test]
    fn static_members_sort_by_their_instance() {
        let mut late = subscriber("zzz", &["t"]);
        late.instance_id = Some("a".to_owned());
        let assigned = range(&[subscriber("m", &["t"]), late], &topics(&[("t", 1)]));
        assert_eq!(assigned["zzz"].len(), 1);
        assert!(assigned["m"].is_empty());
    }
}
