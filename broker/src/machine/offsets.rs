//! The committed offsets of one group, and the schemas in which `__consumer_offsets` keeps them.
//!
//! Offsets are what was durable last: a commit in flight is not here yet. Which of them are too old to keep is decided
//! here as Kafka does, so that an idle group finds its place again for `retention` and not for ever.

pub mod schema;

use std::collections::BTreeMap;
use std::time::Duration;

use tailway_metadata::time::WallMs;
use tailway_wire::messages::StrBytes;

use schema::{OffsetValue, OffsetsRecord};

/// The offsets of one group by topic and partition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupOffsets {
    topics: BTreeMap<StrBytes, BTreeMap<i32, OffsetValue>>,
    count: usize,
}

/// From which moment the retention of a group's offsets counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionBase {
    /// The group has members: its offsets stay.
    Active,
    /// Its last member left then: all offsets expire together.
    EmptySince(WallMs),
    /// It never had members (offsets committed by hand): each counts from its own commit.
    EachCommit,
}

impl GroupOffsets {
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn offset(&self, topic: &StrBytes, partition: i32) -> Option<&OffsetValue> {
        self.topics.get(topic)?.get(&partition)
    }

    pub fn set(&mut self, topic: StrBytes, partition: i32, value: OffsetValue) {
        if self.topics.entry(topic).or_default().insert(partition, value).is_none() {
            self.count += 1;
        }
    }

    pub fn remove(&mut self, topic: &StrBytes, partition: i32) {
        let Some(partitions) = self.topics.get_mut(topic) else { return };
        if partitions.remove(&partition).is_some() {
            self.count -= 1;
        }
        if partitions.is_empty() {
            self.topics.remove(topic);
        }
    }

    pub fn topics(&self) -> impl Iterator<Item = (&StrBytes, &BTreeMap<i32, OffsetValue>)> {
        self.topics.iter()
    }

    /// All (topic, partition) pairs.
    pub fn partitions(&self) -> Vec<(StrBytes, i32)> {
        let of_topic = |(topic, partitions): (&StrBytes, &BTreeMap<i32, OffsetValue>)| {
            partitions.keys().map(|partition| (topic.clone(), *partition)).collect::<Vec<_>>()
        };
        self.topics.iter().flat_map(of_topic).collect()
    }

    /// What is too old to keep at `now`.
    pub fn expired(
        &self,
        base: RetentionBase,
        retention: Duration,
        now: WallMs,
    ) -> Vec<(StrBytes, i32)> {
        let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let is_expired = |value: &OffsetValue| {
            // A commit of an old client names its own moment, members or not.
            if let Some(moment) = value.expire_timestamp {
                return now >= moment;
            }
            let since = match base {
                RetentionBase::Active => return false,
                RetentionBase::EmptySince(moment) => moment,
                RetentionBase::EachCommit => value.commit_timestamp,
            };
            now.0.saturating_sub(since.0) >= retention_ms
        };
        let mut expired = Vec::new();
        for (topic, partitions) in &self.topics {
            for (partition, value) in partitions {
                if is_expired(value) {
                    expired.push((topic.clone(), *partition));
                }
            }
        }
        expired
    }

    /// The tombstones of these offsets.
    pub fn tombstones(group: &StrBytes, partitions: &[(StrBytes, i32)]) -> Vec<OffsetsRecord> {
        partitions
            .iter()
            .map(|(topic, partition)| {
                OffsetsRecord::Offset(group.clone(), topic.clone(), *partition, None)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(commit_timestamp: i64, expire_timestamp: Option<i64>) -> OffsetValue {
        OffsetValue {
            offset: 5,
            leader_epoch: 0,
            metadata: StrBytes::new(),
            commit_timestamp: WallMs(commit_timestamp),
            expire_timestamp: expire_timestamp.map(WallMs),
        }
    }

    #[test]
    fn offsets_expire_as_kafka_does_it() {
        let topic = StrBytes::from_static_str("t");
        let mut offsets = GroupOffsets::default();
        offsets.set(topic.clone(), 0, value(1_000, None));
        offsets.set(topic.clone(), 1, value(5_000, None));
        offsets.set(topic.clone(), 2, value(0, Some(7_000)));
        let retention = Duration::from_secs(10);
        let cases = [
            (RetentionBase::Active, 6_999, vec![]),
            (RetentionBase::Active, i64::MAX, vec![2]),
            (RetentionBase::EachCommit, 10_999, vec![2]),
            (RetentionBase::EachCommit, 11_000, vec![0, 2]),
            (RetentionBase::EachCommit, 15_000, vec![0, 1, 2]),
            (RetentionBase::EmptySince(WallMs(6_000)), 15_999, vec![2]),
            (RetentionBase::EmptySince(WallMs(6_000)), 16_000, vec![0, 1, 2]),
            // A clock that went back keeps everything.
            (RetentionBase::EmptySince(WallMs(6_000)), -16_000, vec![]),
        ];
        for (base, now, expected) in cases {
            let expired: Vec<i32> = offsets
                .expired(base, retention, WallMs(now))
                .into_iter()
                .map(|(_, partition)| partition)
                .collect();
            assert_eq!(expired, expected, "{base:?} at {now}");
        }
    }

    #[test]
    fn the_count_follows_every_change() {
        let (a, b) = (StrBytes::from_static_str("a"), StrBytes::from_static_str("b"));
        let mut offsets = GroupOffsets::default();
        offsets.set(a.clone(), 0, value(1, None));
        offsets.set(a.clone(), 0, value(2, None));
        offsets.set(b.clone(), 9, value(3, None));
        assert_eq!(
            (offsets.len(), offsets.partitions()),
            (2, vec![(a.clone(), 0), (b.clone(), 9)])
        );
        offsets.remove(&a, 1);
        offsets.remove(&b, 0);
        assert_eq!(offsets.len(), 2);
        offsets.remove(&a, 0);
        offsets.remove(&b, 9);
        assert!(offsets.is_empty() && offsets.topics().next().is_none());
    }
}
