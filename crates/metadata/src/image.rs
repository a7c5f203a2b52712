//! The cluster as of one offset of the record stream: what brokers route by and the coordinator decides on.
//!
//! Invariants (kept by `apply`, asserted by `check`): partitions of a topic are dense from 0; a leader is registered, in
//! the ISR and not fenced; ISR is a part of the replicas; names and ids are one to one; epochs and the next producer id
//! never go back. Topics are behind `Arc`, so that a clone costs per topic, not per partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::authority::CertificateAuthority;
use crate::broker::Broker;
use crate::ids::{
    BrokerId, ClusterId, LeaderEpoch, MetadataLogId, Offset, PartitionIndex, ProducerId, TopicId,
};
use crate::record::{
    BrokerRegistrationChangeRecord, MetadataRecord, PartitionChangeRecord, PartitionRecord,
    TopicRecord,
};
use crate::security::{IssuedCertificate, JoinToken, Security};

/// Version of the snapshot encoding.
const SNAPSHOT_VERSION: u32 = 2;
/// The version before there could be a second CA: still written while there is none.
const SNAPSHOT_VERSION_WITH_ONE_CA: u32 = 1;
/// The version before tokens and certificates were in it: still written while there are none, so that an older Tailway
/// starts on it.
const SNAPSHOT_VERSION_WITHOUT_SECURITY: u32 = 0;

/// One partition: where it lies and who leads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    pub index: PartitionIndex,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
}

impl Partition {
    /// The leader as Kafka's wire has it: -1 is none.
    pub fn leader_or_none(&self) -> BrokerId {
        self.leader.unwrap_or(BrokerId::NONE)
    }
}

/// One topic with its partitions (index = position) and the configs that differ from the defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topic {
    pub name: Arc<str>,
    pub id: TopicId,
    pub partitions: Vec<Partition>,
    pub configs: BTreeMap<String, String>,
}

impl Topic {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index.0).ok()?)
    }
}

/// The cluster as of `offset`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterImage {
    pub cluster_id: ClusterId,
    pub log_id: MetadataLogId,
    /// The offset of the next record to apply: how many records made this image.
    pub offset: Offset,
    pub brokers: BTreeMap<BrokerId, Broker>,
    /// The first producer id that nobody was given yet.
    pub next_producer_id: ProducerId,
    /// Tokens and certificates. Behind `Arc` for the same reason as topics.
    pub security: Arc<Security>,
    topics: BTreeMap<Arc<str>, Arc<Topic>>,
    topic_names: BTreeMap<TopicId, Arc<str>>,
}

/// Why a record does not fit the image before it. Means that the two were not made from the same stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {kind} at offset {offset} does not fit the cluster image: {reason}")]
pub struct ApplyError {
    pub offset: Offset,
    pub kind: &'static str,
    pub reason: String,
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("the cluster snapshot is not valid: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(
        "the cluster snapshot has version {version}, this version of Tailway reads up to {SNAPSHOT_VERSION}: it was written by a newer one; upgrade this program"
    )]
    UnknownVersion { version: u32 },
    #[error("the cluster snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Snapshot {
    version: u32,
    cluster_id: ClusterId,
    log_id: MetadataLogId,
    offset: Offset,
    next_producer_id: ProducerId,
    brokers: Vec<Broker>,
    topics: Vec<Arc<Topic>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<JoinToken>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<IssuedCertificate>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    authorities: Vec<CertificateAuthority>,
}

impl ClusterImage {
    pub fn topic(&self, name: &str) -> Option<&Arc<Topic>> {
        self.topics.get(name)
    }

    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.topics.get(self.topic_names.get(&id)?)
    }

    /// All topics, by name ascending.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<Topic>> {
        self.topics.values()
    }

    pub fn partition(&self, topic: &str, index: PartitionIndex) -> Option<&Partition> {
        self.topic(topic)?.partition(index)
    }

    /// Registered brokers that are not fenced, by id ascending.
    pub fn live_brokers(&self) -> impl Iterator<Item = &Broker> {
        self.brokers.values().filter(|broker| !broker.fenced)
    }

    pub fn is_live(&self, broker: BrokerId) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| !broker.fenced)
    }

    /// Applies the record at `self.offset` and moves on by one. On an error nothing has changed.
    pub fn apply(&mut self, record: &MetadataRecord) -> Result<(), ApplyError> {
        self.apply_inner(record).map_err(|reason| ApplyError {
            offset: self.offset,
            kind: record.kind(),
            reason,
        })?;
        self.offset = self.offset.next();
        Ok(())
    }

    fn apply_inner(&mut self, record: &MetadataRecord) -> Result<(), String> {
        match record {
            MetadataRecord::Cluster(record) => {
                if self.offset != Offset(0) {
                    return Err("only the first record of a stream names the cluster".into());
                }
                self.cluster_id.clone_from(&record.cluster_id);
                self.log_id = record.log_id;
            }
            MetadataRecord::RegisterBroker(broker) => self.register_broker(broker)?,
            MetadataRecord::BrokerRegistrationChange(change) => self.change_broker(change)?,
            MetadataRecord::Topic(record) => self.add_topic(record)?,
            MetadataRecord::Config(record) => {
                let topic = self.topic_mut(record.topic_id)?;
                match &record.value {
                    Some(value) => topic.configs.insert(record.key.clone(), value.clone()),
                    None => topic.configs.remove(&record.key),
                };
            }
            MetadataRecord::Partition(record) => self.add_partition(record)?,
            MetadataRecord::PartitionChange(record) => self.change_partition(record)?,
            MetadataRecord::RemoveTopic(record) => {
                let name = self
                    .topic_names
                    .remove(&record.topic_id)
                    .ok_or_else(|| format!("topic id {} is not known", record.topic_id))?;
                self.topics.remove(&name);
            }
            MetadataRecord::ProducerIds(record) => {
                if record.next_producer_id < self.next_producer_id {
                    return Err(format!(
                        "producer ids below {} are given away already",
                        self.next_producer_id
                    ));
                }
                self.next_producer_id = record.next_producer_id;
            }
            MetadataRecord::Token(token) => Arc::make_mut(&mut self.security).put_token(token)?,
            MetadataRecord::RemoveToken(record) => {
                let removed = Arc::make_mut(&mut self.security).tokens.remove(&record.id);
                removed.ok_or_else(|| format!("token {} is not known", record.id))?;
            }
            MetadataRecord::Certificate(issued) => {
                Arc::make_mut(&mut self.security).put_certificate(issued)?;
            }
            MetadataRecord::RemoveCertificate(record) => {
                let certificates = &mut Arc::make_mut(&mut self.security).certificates;
                let removed = certificates.remove(&record.serial);
                removed.ok_or_else(|| format!("certificate {} is not known", record.serial))?;
            }
            MetadataRecord::Authority(ca) => {
                Arc::make_mut(&mut self.security).put_authority(ca)?;
            }
            MetadataRecord::Trust(record) => {
                let certificates = &mut Arc::make_mut(&mut self.security).certificates;
                let issued = certificates.get_mut(&record.serial);
                let issued =
                    issued.ok_or_else(|| format!("certificate {} is not known", record.serial))?;
                issued.knows = issued.knows.max(record.knows);
            }
        }
        Ok(())
    }

    fn register_broker(&mut self, broker: &Broker) -> Result<(), String> {
        if let Some(known) = self.brokers.get(&broker.id)
            && known.epoch >= broker.epoch
        {
            return Err(format!(
                "broker {} registered with epoch {} already",
                broker.id, known.epoch
            ));
        }
        self.brokers.insert(broker.id, broker.clone());
        Ok(())
    }

    fn change_broker(&mut self, change: &BrokerRegistrationChangeRecord) -> Result<(), String> {
        let broker = self
            .brokers
            .get_mut(&change.broker_id)
            .ok_or_else(|| format!("broker {} is not registered", change.broker_id))?;
        if broker.epoch != change.broker_epoch {
            return Err(format!(
                "broker {} has epoch {}, not {}",
                change.broker_id, broker.epoch, change.broker_epoch
            ));
        }
        broker.fenced = change.fenced;
        Ok(())
    }

    fn add_topic(&mut self, record: &TopicRecord) -> Result<(), String> {
        if self.topics.contains_key(&record.name) {
            return Err(format!("topic {} exists already", record.name));
        }
        if self.topic_names.contains_key(&record.topic_id) {
            return Err(format!("topic id {} exists already", record.topic_id));
        }
        self.topic_names.insert(record.topic_id, record.name.clone());
        let topic = Topic {
            name: record.name.clone(),
            id: record.topic_id,
            partitions: Vec::new(),
            configs: BTreeMap::new(),
        };
        self.topics.insert(record.name.clone(), Arc::new(topic));
        Ok(())
    }

    fn topic_mut(&mut self, id: TopicId) -> Result<&mut Topic, String> {
        let unknown = || format!("topic id {id} is not known");
        let name = self.topic_names.get(&id).ok_or_else(unknown)?;
        self.topics.get_mut(name).map(Arc::make_mut).ok_or_else(unknown)
    }

    fn add_partition(&mut self, record: &PartitionRecord) -> Result<(), String> {
        let partition = Partition {
            index: record.partition,
            replicas: record.replicas.clone(),
            isr: record.isr.clone(),
            leader: record.leader,
            leader_epoch: record.leader_epoch,
        };
        let topic = self.topic_mut(record.topic_id)?;
        if usize::try_from(record.partition.0) != Ok(topic.partitions.len()) {
            return Err(format!(
                "topic {} has {} partitions, the next is not {}",
                topic.name,
                topic.partitions.len(),
                record.partition
            ));
        }
        topic.partitions.push(partition);
        Ok(())
    }

    fn change_partition(&mut self, record: &PartitionChangeRecord) -> Result<(), String> {
        let topic = self.topic_mut(record.topic_id)?;
        let name = topic.name.clone();
        let partition = usize::try_from(record.partition.0)
            .ok()
            .and_then(|index| topic.partitions.get_mut(index))
            .ok_or_else(|| format!("topic {name} has no partition {}", record.partition))?;
        if record.leader_epoch < partition.leader_epoch {
            return Err(format!(
                "{name}-{} has leader epoch {}, not below {}",
                record.partition, partition.leader_epoch, record.leader_epoch
            ));
        }
        partition.isr.clone_from(&record.isr);
        partition.leader = record.leader;
        partition.leader_epoch = record.leader_epoch;
        Ok(())
    }

    /// The image as bytes: versioned JSON, the same bytes for equal images.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            version: if self.security.is_empty() {
                SNAPSHOT_VERSION_WITHOUT_SECURITY
            } else if self.security.authorities.is_empty() {
                SNAPSHOT_VERSION_WITH_ONE_CA
            } else {
                SNAPSHOT_VERSION
            },
            cluster_id: self.cluster_id.clone(),
            log_id: self.log_id,
            offset: self.offset,
            next_producer_id: self.next_producer_id,
            brokers: self.brokers.values().cloned().collect(),
            topics: self.topics.values().cloned().collect(),
            tokens: self.security.tokens.values().cloned().collect(),
            certificates: self.security.certificates.values().cloned().collect(),
            authorities: self.security.authorities.values().cloned().collect(),
        };
        serde_json::to_vec(&snapshot)
            .unwrap_or_else(|error| panic!("an image is always JSON: {error}"))
    }

    /// Reads what [`ClusterImage::encode_snapshot`] wrote.
    pub fn decode_snapshot(bytes: &[u8]) -> Result<ClusterImage, SnapshotError> {
        let VersionOnly { version } = serde_json::from_slice(bytes)?;
        if version > SNAPSHOT_VERSION {
            return Err(SnapshotError::UnknownVersion { version });
        }
        let snapshot: Snapshot = serde_json::from_slice(bytes)?;
        let mut image = ClusterImage {
            cluster_id: snapshot.cluster_id,
            log_id: snapshot.log_id,
            offset: snapshot.offset,
            next_producer_id: snapshot.next_producer_id,
            brokers: BTreeMap::new(),
            security: Arc::new(security_of(
                snapshot.tokens,
                snapshot.certificates,
                &snapshot.authorities,
            )?),
            topics: BTreeMap::new(),
            topic_names: BTreeMap::new(),
        };
        for broker in snapshot.brokers {
            image.brokers.insert(broker.id, broker);
        }
        for topic in snapshot.topics {
            if image.topic_names.insert(topic.id, topic.name.clone()).is_some()
                || image.topics.contains_key(&topic.name)
            {
                return Err(SnapshotError::Inconsistent(format!(
                    "topic {} is there twice",
                    topic.name
                )));
            }
            image.topics.insert(topic.name.clone(), topic);
        }
        image.inconsistency().map_or(Ok(image), |what| Err(SnapshotError::Inconsistent(what)))
    }

    /// The first broken invariant, in words. A whole batch may break one between its records; only its end counts.
    pub fn inconsistency(&self) -> Option<String> {
        for topic in self.topics.values() {
            if self.topic_names.get(&topic.id) != Some(&topic.name) {
                return Some(format!("topic {} is not found by its id {}", topic.name, topic.id));
            }
            for (position, partition) in topic.partitions.iter().enumerate() {
                if let Some(what) = self.partition_inconsistency(position, partition) {
                    return Some(format!("{}-{}: {what}", topic.name, partition.index));
                }
            }
        }
        (self.topics.len() != self.topic_names.len())
            .then(|| "topic ids and topic names are not one to one".to_owned())
            .or_else(|| self.security.inconsistency())
    }

    fn partition_inconsistency(&self, position: usize, partition: &Partition) -> Option<String> {
        if usize::try_from(partition.index.0) != Ok(position) {
            return Some(format!("stands at position {position}"));
        }
        if let Some(stray) = partition.isr.iter().find(|id| !partition.replicas.contains(id)) {
            return Some(format!("broker {stray} is in the ISR but no replica"));
        }
        let leader = partition.leader?;
        if !partition.isr.contains(&leader) {
            return Some(format!("leader {leader} is not in the ISR"));
        }
        (!self.is_live(leader)).then(|| format!("leader {leader} is not registered or is fenced"))
    }

    /// Asserts the invariants.
    pub fn check(&self) {
        if let Some(what) = self.inconsistency() {
            panic!("cluster image at offset {}: {what}", self.offset);
        }
    }
}

fn security_of(
    tokens: Vec<JoinToken>,
    certificates: Vec<IssuedCertificate>,
    authorities: &[CertificateAuthority],
) -> Result<Security, SnapshotError> {
    let mut security = Security::default();
    for token in tokens {
        security.put_token(&token).map_err(SnapshotError::Inconsistent)?;
    }
    for certificate in certificates {
        security.put_certificate(&certificate).map_err(SnapshotError::Inconsistent)?;
    }
    for ca in authorities {
        security.put_authority(ca).map_err(SnapshotError::Inconsistent)?;
    }
    Ok(security)
}

#[cfg(test)]
#[path = "image_tests.rs"]
mod tests;
