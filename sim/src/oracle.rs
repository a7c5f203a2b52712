//! What is true on the disks, compared with what clients were told, at the moment they were told.
//!
//! A record that was acknowledged, or that a consumer was given, must stand in the durable image of its log: what would be
//! left if every machine lost its power right then. That is I1 and the rule of the high watermark, without waiting for a
//! power cut to show it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tailway_client::TopicPartition;
use tailway_storage::SimDisk;
use tailway_wire::record::BatchIter;

use crate::history::val_of;

/// Where brokers keep their partitions.
pub(crate) const DATA_DIR: &str = "/data";
/// Of one batch, decompressed.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// The value at an offset in the durable image of a partition, on whichever disk has it.
pub(crate) fn durable_value<'a>(
    disks: impl Iterator<Item = &'a SimDisk>,
    partition: &TopicPartition,
    offset: i64,
) -> Option<u64> {
    let dir = PathBuf::from(format!("{DATA_DIR}/{}-{}", partition.topic, partition.partition));
    disks.into_iter().find_map(|disk| {
        let path = segment_of(&disk.durable_paths(), &dir, offset)?;
        let image = Bytes::from(disk.durable_image(&path)?);
        value_in(image, offset)
    })
}

/// The segment with the greatest base offset up to `offset`.
fn segment_of(paths: &[PathBuf], dir: &Path, offset: i64) -> Option<PathBuf> {
    let logs = paths.iter().filter(|path| {
        path.parent() == Some(dir) && path.extension().is_some_and(|kind| kind == "log")
    });
    let base = |path: &Path| path.file_stem()?.to_str()?.parse::<i64>().ok();
    let with_base = logs.filter_map(|path| Some((base(path)?, path)));
    with_base.filter(|(base, _)| *base <= offset).max().map(|(_, path)| path.clone())
}

fn value_in(image: Bytes, offset: i64) -> Option<u64> {
    for batch in BatchIter::new(image) {
        let batch = batch.ok()?;
        let last = batch.header.base_offset + i64::from(batch.header.last_offset_delta);
        if last < offset {
            continue;
        }
        batch.validate().ok()?;
        let mut records = batch.records(BATCH_BYTES_MAX).ok()?;
        let record =
            records.find_map(|record| record.ok().filter(|found| found.offset == offset))?;
        return val_of(record.value.as_ref());
    }
    None
}
