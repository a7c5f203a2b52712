//! What is known about the cluster: brokers, topics, leaders; as of the last Metadata answers.
//!
//! A value is a snapshot and never changes; the cache replaces it whole. Topics are merged: an
//! answer about some topics leaves what is known about others. A topic marked stale is still
//! shown, and is asked for again before anything is routed by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tailway_metadata::ids::TopicId;
use tailway_net::HostPort;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::MetadataResponse;
use tailway_wire::messages::metadata_response::{MetadataResponsePartition, MetadataResponseTopic};
use tokio::time::Instant;

/// A broker as the cluster advertises it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    pub id: i32,
    pub address: HostPort,
    pub rack: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    pub index: i32,
    /// -1: none.
    pub leader: i32,
    /// -1: unknown.
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub isr: Vec<i32>,
    pub offline: Vec<i32>,
    pub error: ErrorCode,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    pub name: Arc<str>,
    /// Nil where the broker does not tell (Metadata before version 10).
    pub topic_id: TopicId,
    pub internal: bool,
    /// By index.
    pub partitions: BTreeMap<i32, PartitionInfo>,
    pub error: ErrorCode,
}

/// A snapshot of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterMetadata {
    pub cluster_id: Option<String>,
    /// -1: unknown.
    pub controller: i32,
    pub brokers: BTreeMap<i32, BrokerInfo>,
    pub topics: BTreeMap<Arc<str>, Arc<TopicInfo>>,
}

impl ClusterMetadata {
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.topics.get(name)
    }

    pub fn partition(&self, topic: &str, partition: i32) -> Option<&PartitionInfo> {
        self.topics.get(topic)?.partitions.get(&partition)
    }

    /// Reads an answer; `None` if a broker's port is none.
    pub(crate) fn from_response(response: MetadataResponse) -> Option<Self> {
        let mut brokers = BTreeMap::new();
        for broker in response.brokers {
            let id = broker.node_id.0;
            let address = HostPort::new(broker.host.to_string(), broker.port.try_into().ok()?);
            let rack = broker.rack.map(|rack| rack.to_string());
            brokers.insert(id, BrokerInfo { id, address, rack });
        }
        let topics = response.topics.into_iter().filter_map(topic_info);
        Some(Self {
            cluster_id: response.cluster_id.map(|id| id.to_string()),
            controller: response.controller_id.0,
            brokers,
            topics: topics.map(|topic| (Arc::clone(&topic.name), Arc::new(topic))).collect(),
        })
    }
}

fn topic_info(topic: MetadataResponseTopic) -> Option<TopicInfo> {
    let partitions = topic.partitions.into_iter().map(|p| (p.partition_index, partition_info(p)));
    Some(TopicInfo {
        name: topic.name?.as_str().into(),
        topic_id: TopicId(topic.topic_id),
        internal: topic.is_internal,
        partitions: partitions.collect(),
        error: ErrorCode::from(topic.error_code),
    })
}

fn partition_info(partition: MetadataResponsePartition) -> PartitionInfo {
    let ids = |nodes: Vec<tailway_wire::messages::BrokerId>| nodes.iter().map(|n| n.0).collect();
    PartitionInfo {
        index: partition.partition_index,
        leader: partition.leader_id.0,
        leader_epoch: partition.leader_epoch,
        replicas: ids(partition.replica_nodes),
        isr: ids(partition.isr_nodes),
        offline: ids(partition.offline_replicas),
        error: ErrorCode::from(partition.error_code),
    }
}

/// Which topics a Metadata request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    All,
    Topics(Vec<Arc<str>>),
}

#[derive(Debug, Default)]
struct State {
    snapshot: Arc<ClusterMetadata>,
    fetched: BTreeMap<Arc<str>, Instant>,
    stale: BTreeSet<Arc<str>>,
}

/// The current snapshot, and what of it may still be relied on.
#[derive(Debug, Default)]
pub(crate) struct MetadataCache {
    state: Mutex<State>,
}

impl MetadataCache {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn snapshot(&self) -> Arc<ClusterMetadata> {
        self.with(|state| Arc::clone(&state.snapshot))
    }

    /// The topic, if it is known, not stale and not older than `max_age`.
    pub(crate) fn fresh_topic(&self, name: &str, max_age: Duration) -> Option<Arc<TopicInfo>> {
        self.with(|state| {
            let fetched = state.fetched.get(name)?;
            let fresh = fetched.elapsed() < max_age && !state.stale.contains(name);
            fresh.then(|| state.snapshot.topic(name).cloned()).flatten()
        })
    }

    /// The topic, if it is known and not older than `max_age`; its leaders may have changed.
    pub(crate) fn known_topic(&self, name: &str, max_age: Duration) -> Option<Arc<TopicInfo>> {
        self.with(|state| {
            let young = state.fetched.get(name).is_some_and(|at| at.elapsed() < max_age);
            young.then(|| state.snapshot.topic(name).cloned()).flatten()
        })
    }

    /// When the topic was last asked for.
    pub(crate) fn fetched_at(&self, name: &str) -> Option<Instant> {
        self.with(|state| state.fetched.get(name).copied())
    }

    pub(crate) fn mark_stale(&self, name: &str) {
        self.with(|state| {
            if let Some((name, _)) = state.fetched.get_key_value(name) {
                state.stale.insert(Arc::clone(name));
            }
        });
    }

    /// Takes in the answer to a request about `wanted`.
    pub(crate) fn merge(&self, answer: ClusterMetadata, wanted: &Wanted) -> Arc<ClusterMetadata> {
        let now = Instant::now();
        self.with(|state| {
            let mut topics = match wanted {
                Wanted::All => BTreeMap::new(),
                Wanted::Topics(_) => state.snapshot.topics.clone(),
            };
            if *wanted == Wanted::All {
                state.fetched.clear();
                state.stale.clear();
            }
            for (name, topic) in &answer.topics {
                state.stale.remove(name);
                if topic.error == ErrorCode::UNKNOWN_TOPIC_OR_PARTITION {
                    topics.remove(name);
                    state.fetched.remove(name);
                } else {
                    topics.insert(Arc::clone(name), Arc::clone(topic));
                    state.fetched.insert(Arc::clone(name), now);
                }
            }
            state.snapshot = Arc::new(ClusterMetadata { topics, ..answer });
            Arc::clone(&state.snapshot)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(topics: &[(&str, ErrorCode)]) -> ClusterMetadata {
        let topic = |&(name, error): &(&str, ErrorCode)| {
            let name: Arc<str> = name.into();
            let info = TopicInfo {
                name: Arc::clone(&name),
                topic_id: TopicId::NIL,
                internal: false,
                partitions: BTreeMap::new(),
                error,
            };
            (name, Arc::new(info))
        };
        ClusterMetadata { topics: topics.iter().map(topic).collect(), ..Default::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn topics_are_merged_aged_and_forgotten() {
        const AGE: Duration = Duration::from_mins(1);
        let cache = MetadataCache::default();
        let one = Wanted::Topics(vec!["a".into()]);
        cache.merge(answer(&[("a", ErrorCode::NONE)]), &one);
        tokio::time::advance(Duration::from_secs(30)).await;
        cache.merge(answer(&[("b", ErrorCode::NONE)]), &Wanted::Topics(vec!["b".into()]));
        assert!(cache.fresh_topic("a", AGE).is_some() && cache.fresh_topic("b", AGE).is_some());

        tokio::time::advance(Duration::from_secs(31)).await;
        assert!(cache.fresh_topic("a", AGE).is_none() && cache.fresh_topic("b", AGE).is_some());
        assert!(cache.snapshot().topic("a").is_some(), "old, yet still shown");

        cache.mark_stale("b");
        assert!(cache.fresh_topic("b", AGE).is_none());
        cache.merge(answer(&[("b", ErrorCode::UNKNOWN_TOPIC_OR_PARTITION)]), &one);
        assert!(cache.snapshot().topic("b").is_none());

        cache.merge(answer(&[("c", ErrorCode::NONE)]), &Wanted::All);
        assert!(cache.snapshot().topic("a").is_none(), "an answer about all leaves nothing else");
    }
}
