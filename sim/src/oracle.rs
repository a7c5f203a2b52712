//! What is true on the disks, compared with what clients were told, at the moment they were told.
//!
//! A record that was acknowledged, or that a consumer was given, must stand in the durable image of its log: what would be
//! left if every machine lost its power right then. That is I1 and the rule of the high watermark, without waiting for a
//! power cut to show it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use tailway_client::TopicPartition;
use tailway_storage::SimDisk;
use tailway_wire::record::BatchIter;

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
}

impl Oracle {
    pub(crate) fn new(disks: Vec<SimDisk>) -> Oracle {
        Oracle { disks, known: BTreeMap::new() }
    }

    /// The value at an offset in the durable image of a partition, on whichever disk has it. `None`: nothing is durable
    /// there.
    pub(crate) fn durable_value(&mut self, tp: &TopicPartition, offset: i64) -> Option<Durable> {
        let known = self.known.entry(tp.clone()).or_default();
        if !known.contains_key(&offset) {
            let dir = PathBuf::from(format!("{DATA_DIR}/{}-{}", tp.topic, tp.partition));
            let image = self.disks.iter().find_map(|disk| {
                let path = dir.join(segment_of(&disk.durable_names(&dir), offset)?);
                disk.durable_image(&path)
            });
            add_values(Bytes::from(image?), known);
        }
        known.get(&offset).copied()
    }
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
