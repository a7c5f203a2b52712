//! What is true on the disks, compared with what clients were told, at the moment they were told.
//!
//! A record that was acknowledged, or that a consumer was given, must stand in the durable image of its log: what would be
//! left if every machine lost its power right then. That is I1 and the rule of the high watermark, without waiting for a
//! power cut to show it. The same holds for a committed offset. At the end of a run the logs show what no client sees: to
//! whom producer ids were given, and in which epochs partitions were led.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tailway_broker::group::OFFSETS_TOPIC;
use tailway_broker::machine::offsets::schema::OffsetsRecord;
use tailway_client::TopicPartition;
use tailway_history::SEND_BITS;
use tailway_storage::SimDisk;
use tailway_wire::record::{Batch, BatchIter};

use crate::history::val_of;

/// Where brokers keep their partitions.
pub(crate) const DATA_DIR: &str = "/data";
/// Of one batch, decompressed.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// A durable record: its value, or none if no client made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Durable(pub(crate) Option<u64>);

/// What was found durable so far. Recovery trims only what is not whole, so what is durable once stays what it is.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    disks: Vec<SimDisk>,
    known: BTreeMap<TopicPartition, BTreeMap<i64, Durable>>,
    commits: Commits,
}

/// Group, topic, partition, offset of each durable commit; and up to where each log of them was read.
#[derive(Debug, Default)]
struct Commits {
    known: BTreeSet<(String, String, i32, i64)>,
    read_to: BTreeMap<(usize, PathBuf), usize>,
}

impl Oracle {
    pub(crate) fn new(disks: Vec<SimDisk>) -> Oracle {
        Oracle { disks, ..Oracle::default() }
    }

    /// The value at an offset in the durable image of a partition, on whichever disk has it. `None`: nothing is durable
    /// there.
    pub(crate) fn durable_value(&mut self, tp: &TopicPartition, offset: i64) -> Option<Durable> {
        let known = self.known.entry(tp.clone()).or_default();
        if !known.contains_key(&offset) {
            let dir = dir_of(tp);
            let image = self.disks.iter().find_map(|disk| {
                let path = dir.join(segment_of(&disk.durable_names(&dir), offset)?);
                disk.durable_image(&path)
            });
            add_values(Bytes::from(image?), known);
        }
        known.get(&offset).copied()
    }

    /// Whether a commit stands in the durable image of the offsets topic.
    pub(crate) fn commit_is_durable(
        &mut self,
        group: &str,
        tp: &TopicPartition,
        offset: i64,
    ) -> bool {
        let key = (group.to_owned(), tp.topic.to_string(), tp.partition, offset);
        if !self.commits.known.contains(&key) {
            for (index, disk) in self.disks.iter().enumerate() {
                self.commits.read(index, disk);
            }
        }
        self.commits.known.contains(&key)
    }

    /// What the logs of `topic` show at the end of a run. `calm`: nothing has happened that costs a leadership.
    pub(crate) fn verdict(&self, topic: &str, partitions: i32, calm: bool) -> Vec<String> {
        let mut found = Vec::new();
        let mut owners: BTreeMap<i64, u64> = BTreeMap::new();
        let logs = (0..partitions).map(|index| TopicPartition::new(topic, index));
        for tp in logs {
            let mut epochs = BTreeSet::new();
            for batch in self.batches(&tp) {
                epochs.insert(batch.header.partition_leader_epoch);
                let Some(client) = sender_of(&batch) else { continue };
                let id = batch.header.producer_id;
                let owner = *owners.entry(id).or_insert(client);
                if id >= 0 && owner != client {
                    found.push(format!(
                        "I2: {tp} offset {}: producer id {id} was given to client {client} and to client {owner}",
                        batch.header.base_offset
                    ));
                }
            }
            if calm && epochs.len() > 1 {
                found.push(format!(
                    "F27: {tp} was led in the epochs {epochs:?}, though nothing came between its broker and the coordinator: somebody was fenced falsely"
                ));
            }
        }
        found
    }

    fn batches(&self, tp: &TopicPartition) -> Vec<Batch> {
        let dir = dir_of(tp);
        let logs = self.disks.iter().flat_map(|disk| {
            let names = disk.durable_names(&dir);
            let logs = names.into_iter().filter(|name| has_suffix(Path::new(name), "log"));
            logs.filter_map(|name| disk.durable_image(&dir.join(name)))
        });
        logs.flat_map(|image| BatchIter::new(Bytes::from(image)).map_while(Result::ok)).collect()
    }
}

impl Commits {
    /// Reads on in the logs of the offsets topic on one disk.
    fn read(&mut self, index: usize, disk: &SimDisk) {
        let is_offsets = |path: &PathBuf| {
            let dir = path.parent().and_then(|dir| dir.file_name()).and_then(|dir| dir.to_str());
            has_suffix(path, "log") && dir.is_some_and(|dir| dir.starts_with(OFFSETS_TOPIC))
        };
        for path in disk.durable_paths().into_iter().filter(is_offsets) {
            let Some(image) = disk.durable_image(&path) else { continue };
            let read_to = self.read_to.entry((index, path)).or_default();
            // Compaction has made it shorter.
            if *read_to > image.len() {
                *read_to = 0;
            }
            for batch in BatchIter::new(Bytes::from(image).slice(*read_to..)).map_while(Result::ok)
            {
                if batch.validate().is_err() {
                    break;
                }
                *read_to += batch.bytes.len();
                let Ok(records) = batch.records(BATCH_BYTES_MAX) else { continue };
                for record in records.filter_map(Result::ok) {
                    let key = record.key.unwrap_or_default();
                    if let Ok(OffsetsRecord::Offset(group, topic, partition, Some(value))) =
                        OffsetsRecord::decode(&key, record.value.as_deref())
                    {
                        let (group, topic) = (group.to_string(), topic.to_string());
                        self.known.insert((group, topic, partition, value.offset));
                    }
                }
            }
        }
    }
}

fn dir_of(tp: &TopicPartition) -> PathBuf {
    PathBuf::from(format!("{DATA_DIR}/{}-{}", tp.topic, tp.partition))
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.extension().is_some_and(|own| own == suffix)
}

/// The client whose values a batch has.
fn sender_of(batch: &Batch) -> Option<u64> {
    let record = batch.records(BATCH_BYTES_MAX).ok()?.next()?.ok()?;
    Some(val_of(record.value.as_ref())? >> SEND_BITS)
}

/// The segment with the greatest base offset up to `offset`.
fn segment_of(names: &[String], offset: i64) -> Option<&String> {
    // Names have twenty digits, so that their order is that of the offsets.
    let base = |name: &str| name.strip_suffix(".log")?.parse::<i64>().ok();
    names.iter().rfind(|name| base(name).is_some_and(|base| base <= offset))
}

/// Adds the records of a segment that are not known yet.
fn add_values(image: Bytes, known: &mut BTreeMap<i64, Durable>) {
    for batch in BatchIter::new(image) {
        let Ok(batch) = batch else { return };
        let last = batch.header.base_offset + i64::from(batch.header.last_offset_delta);
        if known.contains_key(&last) {
            continue;
        }
        if batch.validate().is_err() {
            return;
        }
        let Ok(records) = batch.records(BATCH_BYTES_MAX) else { return };
        let records = records.filter_map(Result::ok);
        known.extend(records.map(|record| (record.offset, Durable(val_of(record.value.as_ref())))));
    }
}
