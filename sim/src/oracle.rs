//! What is true on the disks, compared with what clients were told, at the moment they were told.
//!
//! A record that was acknowledged, or that a consumer was given, must stand in the durable image of its log: what would be
//! left if every machine lost its power right then. That is I1 and the rule of the high watermark, without waiting for a
//! power cut to show it. The same holds for a committed offset (I5) and for every line below an agent's offset (I6, which
//! `ledger` asks). Whatever is read of a log on the way is compared with all that was read before: one value at two
//! offsets or a producer id of two clients (I2), a producer's values out of order (I3), a log on two brokers or an epoch
//! that falls (I4). At the end of a run the logs show in which epochs partitions were led.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tailway_broker::config::DEAD_SUFFIX;
use tailway_broker::forward::dead_letters::{OFFSET_HEADER, PARTITION_HEADER, TOPIC_HEADER};
use tailway_broker::group::OFFSETS_TOPIC;
use tailway_broker::machine::offsets::schema::OffsetsRecord;
use tailway_client::TopicPartition;
use tailway_history::SEND_BITS;
use tailway_storage::SimDisk;
use tailway_wire::record::{Batch, BatchIter, RecordRef};

use crate::history::val_of;
use crate::writer::{LINES_PARTITIONS, LINES_TOPIC, line_of};

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
    known: BTreeMap<TopicPartition, Partition>,
    /// The client of each producer id.
    owners: BTreeMap<i64, u64>,
    commits: Commits,
    /// Where each line of a file stands in the agents' topic.
    lines: BTreeMap<(String, u64), Vec<(PathBuf, i64)>>,
    lines_read: ReadTo,
    /// Where the dead letters of each record (topic, partition, offset) stand.
    letters: BTreeMap<(String, i32, i64), BTreeSet<(PathBuf, i64)>>,
    letters_read: ReadTo,
    found: Vec<String>,
}

/// What is durable of a partition, as far as it was read.
#[derive(Debug, Default)]
struct Partition {
    records: BTreeMap<i64, Durable>,
    /// Where each value stands.
    places: BTreeMap<u64, i64>,
    /// Values of each producer id and epoch by offset. A client that gave up a batch goes on under another one, and what
    /// it gave up may come later.
    sessions: BTreeMap<(i64, i16), BTreeMap<i64, u64>>,
    /// Leader epochs of batches by base offset.
    epochs: BTreeMap<i64, i32>,
}

/// Group, topic, partition, offset of each durable commit, and the highest that was acknowledged of each.
#[derive(Debug, Default)]
struct Commits {
    known: BTreeSet<(String, String, i32, i64)>,
    acknowledged: BTreeMap<(String, TopicPartition), i64>,
    read_to: ReadTo,
}

/// Up to where each file on each disk was read.
#[derive(Debug, Default)]
struct ReadTo(BTreeMap<(usize, PathBuf), u64>);

impl Oracle {
    pub(crate) fn new(disks: Vec<SimDisk>) -> Oracle {
        Oracle { disks, ..Oracle::default() }
    }

    /// The value at an offset in the durable image of a partition. `None`: nothing is durable there.
    pub(crate) fn durable_value(&mut self, tp: &TopicPartition, offset: i64) -> Option<Durable> {
        let known = self.known.entry(tp.clone()).or_default();
        if !known.records.contains_key(&offset) {
            let dir = dir_of(tp);
            let mut images = self.disks.iter().filter_map(|disk| {
                let path = dir.join(segment_of(&disk.durable_names(&dir), offset)?);
                disk.durable_image(&path)
            });
            let image = images.next()?;
            if images.next().is_some() {
                self.found.push(format!("I4: {tp} has its log on two brokers"));
            }
            known.take_in(tp, Bytes::from(image), &mut self.owners, &mut self.found);
        }
        known.records.get(&offset).copied()
    }

    /// What was found since this was asked last, besides the answers.
    pub(crate) fn take_findings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    /// Whether a commit that was acknowledged stands in the durable image of the offsets topic.
    pub(crate) fn commit_is_durable(
        &mut self,
        group: &str,
        tp: &TopicPartition,
        offset: i64,
    ) -> bool {
        let floor = self.commits.acknowledged.entry((group.to_owned(), tp.clone())).or_default();
        *floor = offset.max(*floor);
        let key = (group.to_owned(), tp.topic.to_string(), tp.partition, offset);
        if !self.commits.known.contains(&key) {
            for (index, disk) in self.disks.iter().enumerate() {
                self.commits.read(index, disk);
            }
        }
        self.commits.known.contains(&key)
    }

    /// No later start of the group may be below this.
    pub(crate) fn commit_floor(&self, group: &str, tp: &TopicPartition) -> i64 {
        self.commits.acknowledged.get(&(group.to_owned(), tp.clone())).copied().unwrap_or(0)
    }

    /// Where in the durable image of the agents' topic, as it was read last, a line of a file stands.
    pub(crate) fn places_of_line(&self, line: &(String, u64)) -> &[(PathBuf, i64)] {
        self.lines.get(line).map_or(&[], Vec::as_slice)
    }

    /// Reads on in the durable image of the agents' topic.
    pub(crate) fn read_lines(&mut self) {
        let partitions = (0..LINES_PARTITIONS).map(|index| TopicPartition::new(LINES_TOPIC, index));
        let dirs: Vec<PathBuf> = partitions.map(|tp| dir_of(&tp)).collect();
        for (index, disk) in self.disks.iter().enumerate() {
            let logs = dirs
                .iter()
                .flat_map(|dir| disk.durable_names(dir).into_iter().map(|name| dir.join(name)));
            for path in logs.filter(|path| has_suffix(path, "log")) {
                for batch in self.lines_read.batches(index, disk, &path) {
                    for record in records_of(&batch) {
                        if let Some(line) = line_of(record.value.as_ref()) {
                            let places = self.lines.entry(line).or_default();
                            places.push((path.clone(), record.offset));
                        }
                    }
                }
            }
        }
    }

    /// How many durable dead letters of a record there were when they were read last.
    pub(crate) fn letters_of(&self, of: &(String, i32, i64)) -> usize {
        self.letters.get(of).map_or(0, BTreeSet::len)
    }

    /// Reads on in the durable images of all topics of dead letters.
    pub(crate) fn read_dead_letters(&mut self) {
        let is_dead = |path: &PathBuf| {
            let dir = path.parent().and_then(|dir| dir.file_name()).and_then(|dir| dir.to_str());
            has_suffix(path, "log") && dir.is_some_and(|dir| dir.contains(DEAD_SUFFIX))
        };
        for (index, disk) in self.disks.iter().enumerate() {
            for path in disk.durable_paths().into_iter().filter(is_dead) {
                for batch in self.letters_read.batches(index, disk, &path) {
                    for letter in records_of(&batch) {
                        if let Some(of) = original_of(&letter) {
                            let places = self.letters.entry(of).or_default();
                            places.insert((path.clone(), letter.offset));
                        }
                    }
                }
            }
        }
    }

    /// The offset behind the last durable record of a partition.
    pub(crate) fn durable_end(&self, tp: &TopicPartition) -> i64 {
        self.batches(tp).iter().map(|batch| batch.header.next_offset()).max().unwrap_or(0)
    }

    /// What the logs of `topic` show at the end of a run. `calm`: nothing has happened that costs a leadership.
    pub(crate) fn verdict(&self, topic: &str, partitions: i32, calm: bool) -> Vec<String> {
        let mut found = Vec::new();
        for tp in (0..partitions).map(|index| TopicPartition::new(topic, index)) {
            let batches = self.batches(&tp);
            let epochs: BTreeSet<i32> =
                batches.iter().map(|batch| batch.header.partition_leader_epoch).collect();
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

impl Partition {
    /// Takes in the records of a segment that are not known yet, and compares them with those that are.
    fn take_in(
        &mut self,
        tp: &TopicPartition,
        image: Bytes,
        owners: &mut BTreeMap<i64, u64>,
        found: &mut Vec<String>,
    ) {
        for batch in BatchIter::new(image) {
            let Ok(batch) = batch else { return };
            if self.records.contains_key(&batch.header.last_offset()) {
                continue;
            }
            if batch.validate().is_err() {
                return;
            }
            let (base, epoch) = (batch.header.base_offset, batch.header.partition_leader_epoch);
            let before = self.epochs.range(..base).next_back().map_or(epoch, |(_, epoch)| *epoch);
            let behind = self.epochs.range(base..).next().map_or(epoch, |(_, epoch)| *epoch);
            if epoch < before || behind < epoch {
                found.push(format!(
                    "I4: {tp} offset {base}: epoch {epoch} between {before} and {behind}"
                ));
            }
            self.epochs.insert(base, epoch);
            let id = batch.header.producer_id;
            let session = (id, batch.header.producer_epoch);
            for record in records_of(&batch) {
                let (offset, val) = (record.offset, val_of(record.value.as_ref()));
                self.records.insert(offset, Durable(val));
                let Some(val) = val else { continue };
                let client = val >> SEND_BITS;
                let owner = *owners.entry(id).or_insert(client);
                if id >= 0 && owner != client {
                    found.push(format!(
                        "I2: {tp} offset {offset}: producer id {id} was given to client {client} and to client {owner}"
                    ));
                }
                if let Some(other) = self.places.insert(val, offset) {
                    found.push(format!(
                        "I2: {tp}: value {val} of an idempotent producer stands at {other} and at {offset}"
                    ));
                }
                let own = self.sessions.entry(session).or_default();
                let before = own.range(..offset).next_back().is_none_or(|(_, other)| *other < val);
                let behind = own.range(offset..).next().is_none_or(|(_, other)| val < *other);
                if !(before && behind) {
                    found.push(format!(
                        "I3: {tp} offset {offset}: value {val} is out of its producer's order"
                    ));
                }
                own.insert(offset, val);
            }
        }
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
            for batch in self.read_to.batches(index, disk, &path) {
                for record in records_of(&batch) {
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

impl ReadTo {
    /// The whole batches that are durable in a file and were not given before.
    fn batches(&mut self, index: usize, disk: &SimDisk, path: &Path) -> Vec<Batch> {
        let read_to = self.0.entry((index, path.to_path_buf())).or_default();
        let len = disk.durable_len(path).unwrap_or(0);
        // Compaction has made it shorter.
        if *read_to > len {
            *read_to = 0;
        }
        if *read_to == len {
            return Vec::new();
        }
        let Some(rest) = disk.durable_image_from(path, *read_to) else { return Vec::new() };
        let batches = BatchIter::new(Bytes::from(rest)).map_while(Result::ok);
        let batches: Vec<Batch> = batches.take_while(|batch| batch.validate().is_ok()).collect();
        *read_to += batches.iter().map(|batch| batch.bytes.len() as u64).sum::<u64>();
        batches
    }
}

/// What can be read of a batch.
pub(crate) fn records_of(batch: &Batch) -> impl Iterator<Item = RecordRef> {
    batch.records(BATCH_BYTES_MAX).into_iter().flatten().filter_map(Result::ok)
}

/// Topic, partition and offset of what became a dead letter.
fn original_of(letter: &RecordRef) -> Option<(String, i32, i64)> {
    let text = |name: &str| String::from_utf8(letter.headers.get(name)?.to_vec()).ok();
    let (partition, offset) = (text(PARTITION_HEADER)?, text(OFFSET_HEADER)?);
    Some((text(TOPIC_HEADER)?, partition.parse().ok()?, offset.parse().ok()?))
}

fn dir_of(tp: &TopicPartition) -> PathBuf {
    PathBuf::from(format!("{DATA_DIR}/{}-{}", tp.topic, tp.partition))
}

fn has_suffix(path: &Path, suffix: &str) -> bool {
    path.extension().is_some_and(|own| own == suffix)
}

/// The segment with the greatest base offset up to `offset`.
fn segment_of(names: &[String], offset: i64) -> Option<&String> {
    // Names have twenty digits, so that their order is that of the offsets.
    let base = |name: &str| name.strip_suffix(".log")?.parse::<i64>().ok();
    names.iter().rfind(|name| base(name).is_some_and(|base| base <= offset))
}
