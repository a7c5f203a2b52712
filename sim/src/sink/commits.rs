//! A sink's positions, judged as the broker writes them: below a committed offset every record is in the index or a durable
//! dead letter, at that moment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tailway_broker::group::OFFSETS_TOPIC;
use tailway_broker::machine::offsets::schema::OffsetsRecord;
use tailway_storage::{Act, DiskEvent, Operation, SimDisk};
use tailway_wire::record::BatchIter;

use super::index::Place;
use super::node::Node;
use super::{GROUP, TOPICS};
use crate::oracle::records_of;

/// Clones share it.
#[derive(Clone)]
pub(crate) struct CommitWatch {
    node: Arc<Node>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// Up to where each log of positions was read.
    read_to: BTreeMap<PathBuf, u64>,
    /// Below, each record is known to be where it should be.
    highest: BTreeMap<(String, i32), i64>,
}

impl CommitWatch {
    pub(super) fn new(node: Arc<Node>) -> CommitWatch {
        CommitWatch { node, seen: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest offset that was committed.
    pub(super) fn highest(&self, topic: &str, partition: i32) -> i64 {
        self.lock().highest.get(&(topic.to_owned(), partition)).copied().unwrap_or(0)
    }

    /// Something happened on the broker's disk.
    pub(crate) fn look(&self, disk: &SimDisk, event: &DiskEvent) {
        let dir = event.path.parent().and_then(|dir| dir.file_name());
        let is_positions = dir.is_some_and(|dir| dir.to_string_lossy().starts_with(OFFSETS_TOPIC))
            && event.path.extension().is_some_and(|suffix| suffix == "log");
        if event.act != Act::Call(Operation::Write) || !is_positions {
            return;
        }
        for (topic, partition, offset) in self.read_on(disk, event) {
            self.judge(&topic, partition, offset);
        }
    }

    /// The sink's positions in what was written.
    fn read_on(&self, disk: &SimDisk, event: &DiskEvent) -> Vec<(String, i32, i64)> {
        let mut seen = self.lock();
        let read_to = seen.read_to.entry(event.path.to_path_buf()).or_default();
        // A start has cut it, or written its last byte again: what was judged already stays so.
        if event.offset < *read_to {
            *read_to = 0;
        }
        let rest = disk.live_image_from(&event.path, *read_to).unwrap_or_default();
        let mut positions = Vec::new();
        for batch in BatchIter::new(Bytes::from(rest)).map_while(Result::ok) {
            if batch.validate().is_err() {
                break;
            }
            *read_to += batch.bytes.len() as u64;
            for record in records_of(&batch) {
                let key = record.key.unwrap_or_default();
                if let Ok(OffsetsRecord::Offset(group, topic, partition, Some(value))) =
                    OffsetsRecord::decode(&key, record.value.as_deref())
                    && *group == *GROUP
                    && TOPICS.contains(&&*topic)
                {
                    positions.push((topic.to_string(), partition, value.offset));
                }
            }
        }
        positions
    }

    fn judge(&self, topic: &str, partition: i32, committed: i64) {
        let from = self.highest(topic, partition);
        if (from..committed).any(|offset| !self.node.is_settled(topic, partition, offset)) {
            self.node.shared.oracle().read_dead_letters();
        }
        for offset in from..committed {
            if !self.node.is_settled(topic, partition, offset) {
                self.node.shared.history.violation(format!(
                    "sink: {GROUP} commits offset {committed} of {topic}-{partition}, and record {offset} is neither in the index nor a durable dead letter"
                ));
                break;
            }
        }
        let highest = committed.max(from);
        self.lock().highest.insert((topic.to_owned(), partition), highest);
    }
}

impl Node {
    /// A record is in the index, or a durable dead letter as far as those were read.
    pub(super) fn is_settled(&self, topic: &str, partition: i32, offset: i64) -> bool {
        let place = Place { topic: topic.to_owned(), partition, offset };
        self.lock().index.has(&place) || self.letters_of(&place) > 0
    }

    /// How often a record is a durable dead letter.
    pub(super) fn letters_of(&self, place: &Place) -> usize {
        let of = (place.topic.clone(), place.partition, place.offset);
        self.shared.oracle().letters_of(&of)
    }
}
