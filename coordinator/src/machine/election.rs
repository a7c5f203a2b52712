//! Who leads a partition, and where new partitions go.
//!
//! Invariant: a leader is registered, not fenced, and in the ISR. A change of leader, also to none, is a new leader epoch.
//! The ISR stays as it is when its last member is fenced: that broker, and only that one, may lead again.

use std::collections::BTreeMap;

use tailway_metadata::image::Partition;
use tailway_metadata::record::PartitionChangeRecord;
use tailway_metadata::{BrokerId, ClusterImage, MetadataRecord};

use super::draft::Draft;

/// The broker that should lead: the present leader while it may, else the first replica that may. `gone` may not.
fn leader_of(
    image: &ClusterImage,
    partition: &Partition,
    gone: Option<BrokerId>,
) -> Option<BrokerId> {
    let may_lead =
        |id: &BrokerId| Some(*id) != gone && partition.isr.contains(id) && image.is_live(*id);
    partition.leader.filter(may_lead).or_else(|| partition.replicas.iter().copied().find(may_lead))
}

/// Gives every partition the leader it should have, `gone` counting as fenced already.
pub fn elect_all(draft: &mut Draft<'_>, gone: Option<BrokerId>) {
    let image = draft.image();
    let partitions =
        image.topics().flat_map(|topic| topic.partitions.iter().map(|p| (topic.id, p)));
    let changes: Vec<MetadataRecord> = partitions
        .filter_map(|(topic_id, partition)| {
            let leader = leader_of(image, partition, gone);
            (leader != partition.leader).then(|| {
                MetadataRecord::PartitionChange(PartitionChangeRecord {
                    topic_id,
                    partition: partition.index,
                    isr: partition.isr.clone(),
                    leader,
                    leader_epoch: partition.leader_epoch.next(),
                })
            })
        })
        .collect();
    for change in changes {
        draft.push(change);
    }
}

/// One replica for each of `count` partitions: always the broker with the fewest partitions of this topic, then with the
/// fewest of all, then with the lowest id. `None` without a live broker.
pub fn place(image: &ClusterImage, count: usize) -> Option<Vec<BrokerId>> {
    let mut load: BTreeMap<BrokerId, (usize, usize)> =
        image.live_brokers().map(|broker| (broker.id, (0, 0))).collect();
    let replicas = image.topics().flat_map(|topic| &topic.partitions).flat_map(|p| &p.replicas);
    for replica in replicas {
        if let Some((_, total)) = load.get_mut(replica) {
            *total += 1;
        }
    }
    (0..count)
        .map(|_| {
            let (id, (of_topic, total)) =
                load.iter_mut().min_by_key(|(id, load)| (**load, **id))?;
            *of_topic += 1;
            *total += 1;
            Some(*id)
        })
        .collect()
}
