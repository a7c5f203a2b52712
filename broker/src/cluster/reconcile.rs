//! What an image asks of this broker's disk: partitions to open, to create, to lead, to reconfigure, to delete.
//!
//! Deleting needs a record that removes that very topic id. A partition that an image merely does not mention stays
//! where it is: the image may be of another cluster, older than the data, or wrong.
//! A partition that cannot be opened is remembered with its reason; the others are served.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tailway_metadata::image::{Partition, Topic};
use tailway_metadata::topic::TopicConfig;
use tailway_metadata::{BrokerId, ClusterImage, TopicId, TopicPartition};

use super::routes::{FailedPartitions, Routes};
use crate::group::{Groups, OFFSETS_TOPIC};
use crate::log::LogConfig;
use crate::metrics::BrokerMetrics;
use crate::partition::{PartitionError, PartitionHandle};

/// Makes the partitions of this broker what the image says.
pub struct Reconciler {
    me: BrokerId,
    routes: Routes,
    groups: Groups,
    defaults: BTreeMap<String, String>,
    metrics: BrokerMetrics,
}

impl Reconciler {
    pub fn new(
        me: BrokerId,
        routes: Routes,
        groups: Groups,
        defaults: BTreeMap<String, String>,
        metrics: BrokerMetrics,
    ) -> Self {
        Self { me, routes, groups, defaults, metrics }
    }

    /// Deletes the data of topics that were removed by a record. `before` is the image that still has them.
    pub async fn remove(&self, before: &ClusterImage, removed: &[TopicId]) {
        for topic in removed.iter().filter_map(|id| before.topic_by_id(*id)) {
            for partition in topic.partitions.iter().filter(|p| self.is_mine(p)) {
                let tp = topic_partition(topic, partition);
                let open = self.routes.partitions().handle(&tp);
                if open.is_none_or(|handle| handle.topic_id() != topic.id) {
                    tracing::warn!(
                        topic = %topic.name,
                        partition = partition.index.0,
                        "the topic was deleted while this partition was not open; its directory stays"
                    );
                    continue;
                }
                match self.routes.partitions().delete(&tp).await {
                    Ok(()) => {
                        tracing::info!(topic = %topic.name, partition = partition.index.0, topic_id = %topic.id, "partition deleted");
                    }
                    Err(error) => {
                        tracing::error!(topic = %topic.name, partition = partition.index.0, %error, "the partition of a deleted topic could not be deleted");
                    }
                }
            }
        }
    }

    /// Opens and creates what `after` gives this broker. `before` is the image that this was last done for.
    pub async fn apply(&self, before: &ClusterImage, after: &Arc<ClusterImage>) {
        let mut failed = self.routes.failed_partitions();
        failed.retain(|tp, _| after.topic(&tp.topic).is_some());
        let failed_topics: BTreeSet<Arc<str>> =
            failed.keys().map(|tp| Arc::clone(&tp.topic)).collect();
        for topic in after.topics() {
            let unchanged = before.topic(&topic.name).is_some_and(|known| known == topic);
            if unchanged && !failed_topics.contains(&topic.name) {
                continue;
            }
            let config = self.log_config(topic);
            let reconfigure =
                before.topic(&topic.name).is_some_and(|known| known.configs != topic.configs);
            for partition in topic.partitions.iter().filter(|p| self.is_mine(p)) {
                let tp = topic_partition(topic, partition);
                match self.open(&tp, topic, partition, &config, reconfigure).await {
                    Ok(()) => {
                        failed.remove(&tp);
                    }
                    Err(error) => note_failure(&mut failed, tp, error),
                }
            }
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.partitions.set(count(self.routes.partitions().all().len()));
        self.routes.set_failed(failed);
        self.groups.reconcile(after, &self.led_offsets_partitions(after));
    }

    async fn open(
        &self,
        tp: &TopicPartition,
        topic: &Topic,
        partition: &Partition,
        config: &LogConfig,
        reconfigure: bool,
    ) -> Result<(), PartitionError> {
        let partitions = self.routes.partitions();
        let epoch = partition.leader_epoch.0;
        let handle = match partitions.handle(tp).filter(|handle| handle.topic_id() == topic.id) {
            Some(handle) => {
                if reconfigure {
                    handle.reconfigure(config.clone()).await?;
                }
                handle
            }
            None => partitions.open_or_create(tp, topic.id, config.clone(), epoch).await?,
        };
        if partition.leader == Some(self.me) {
            handle.become_leader(epoch).await?;
        }
        Ok(())
    }

    fn is_mine(&self, partition: &Partition) -> bool {
        partition.replicas.contains(&self.me)
    }

    fn led_offsets_partitions(&self, image: &ClusterImage) -> Vec<PartitionHandle> {
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        topic
            .partitions
            .iter()
            .filter(|partition| partition.leader == Some(self.me))
            .filter_map(|partition| {
                self.routes.partitions().handle(&topic_partition(topic, partition))
            })
            .filter(|handle| handle.topic_id() == topic.id)
            .collect()
    }

    /// The topic's own configs on top of this broker's defaults on top of Kafka's.
    fn log_config(&self, topic: &Topic) -> LogConfig {
        let mut configs = self.defaults.clone();
        configs.extend(topic.configs.iter().map(|(k, v)| (k.clone(), v.clone())));
        match TopicConfig::from_overrides(&configs) {
            Ok(config) => LogConfig::from(&config),
            Err(error) => {
                // The coordinator checks every config, so this one is of a newer coordinator. Keep what is there.
                tracing::error!(topic = %topic.name, %error, "this topic's configs are not understood; nothing of it expires until they are");
                LogConfig { retention_ms: None, retention_bytes: None, ..LogConfig::default() }
            }
        }
    }
}

fn topic_partition(topic: &Topic, partition: &Partition) -> TopicPartition {
    TopicPartition { topic: Arc::clone(&topic.name), partition: partition.index.0 }
}

fn note_failure(failed: &mut FailedPartitions, tp: TopicPartition, error: PartitionError) {
    if failed.get(&tp) != Some(&error) {
        tracing::error!(topic = %tp.topic, partition = tp.partition, %error, "the partition cannot be served");
    }
    failed.insert(tp, error);
}
