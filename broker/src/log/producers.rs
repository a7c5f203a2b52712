//! Rebuilds the idempotence window when a log is opened: the newest readable snapshot, then the batches behind it.

use std::path::Path;
use std::sync::Arc;

use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, StorageError};
use tailway_wire::record::BatchHeader;

use super::epochs::read_small;
use super::segment::Segment;
use super::{files, names, snapshot};
use crate::machine::producers::{ProducerBatch, Producers};

/// The idempotence part of a header, if it has one.
pub fn producer_batch(header: &BatchHeader) -> Option<ProducerBatch> {
    let idempotent =
        header.has_producer_id() && header.base_sequence >= 0 && !header.attributes.is_control();
    idempotent.then_some(ProducerBatch {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        last_offset_delta: header.last_offset_delta,
    })
}

/// Offsets of the snapshots in `dir`, ascending.
pub fn snapshots(disk: &dyn Disk, dir: &Path) -> Result<Vec<i64>, StorageError> {
    let entries = disk.list(dir)?;
    let offsets = entries.iter().filter_map(|entry| match names::parse(&entry.name) {
        Some((offset, names::SNAPSHOT)) => Some(offset),
        _ => None,
    });
    Ok(offsets.collect())
}

/// Bad snapshots, and those above the log end, are removed: they speak of batches that are gone.
pub(super) fn rebuild(
    disk: &dyn Disk,
    dir: &Path,
    segments: &[Arc<Segment>],
    log_end: i64,
    now: WallMs,
) -> Result<Producers, StorageError> {
    let mut producers = Producers::default();
    let mut from = 0;
    for offset in snapshots(disk, dir)?.into_iter().rev() {
        let path = names::file(dir, offset, names::SNAPSHOT);
        let bytes = if offset <= log_end { read_small(disk, &path)? } else { None };
        if let Some(Ok(stored)) = bytes.map(|bytes| snapshot::decode(&bytes)) {
            producers = stored;
            from = offset;
            break;
        }
        files::remove_if_there(disk, &path)?;
    }
    if tailway_faults::is_planted("broker.producers_not_rebuilt") {
        return Ok(producers);
    }
    for segment in segments.iter().filter(|segment| segment.next_offset() > from) {
        segment.visit_headers(from, |_, header| {
            if let Some(batch) = producer_batch(header)
                && header.base_offset >= from
            {
                producers.remember(&batch, header.base_offset, now);
            }
            true
        })?;
    }
    Ok(producers)
}
