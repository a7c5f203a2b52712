//! Loading a shard: reading its partition from the start to the end, record by record.
//!
//! Nobody else writes the partition while this broker leads it, and the former owner's appends are through, so the end is
//! fixed when loading begins.

use tailway_daemon::clock::Clock;
use tailway_wire::WireError;
use tailway_wire::record::{Batch, BatchIter};

use crate::machine::group::{Event, GroupShard};
use crate::machine::offsets::schema::OffsetsRecord;
use crate::partition::{PartitionError, PartitionHandle};

/// Bytes read at once.
const READ_BYTES: usize = 1 << 20;
/// Largest batch after decompression (ours are not compressed; those copied from a Kafka may be).
const BATCH_BYTES_MAX: usize = 64 << 20;

/// What was loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Loaded {
    pub(super) records: u64,
    /// Records that could not be read. They are left where they are.
    pub(super) unreadable: u64,
}

/// Replays the whole partition into `machine`.
pub(super) async fn load(
    handle: &PartitionHandle,
    machine: &mut GroupShard,
    clock: &Clock,
) -> Result<Loaded, PartitionError> {
    let mut watermarks = handle.watermarks();
    let now = handle.current();
    let (mut offset, end) = (now.log_start, now.log_end);
    let mut loaded = Loaded::default();
    while offset < end {
        let slice = handle.read(offset, READ_BYTES, true).await?;
        let before = offset;
        for batch in slice.records.into_iter().flat_map(BatchIter::new) {
            let next = batch.and_then(|batch| {
                replay(&batch, handle, machine, clock, &mut loaded)?;
                Ok(batch.header.base_offset + i64::from(batch.header.last_offset_delta) + 1)
            });
            let next = next.map_err(|error| PartitionError::CorruptBatch {
                reason: format!("in the batches from offset {before}: {error}"),
            })?;
            offset = offset.max(next);
        }
        if offset == before {
            // Written but not durable yet: wait for the high watermark.
            watermarks.changed().await.map_err(|_| PartitionError::Closed)?;
        }
    }
    Ok(loaded)
}

/// Replays one batch. A record in a schema that cannot be read is skipped: it must not hold up all other groups.
fn replay(
    batch: &Batch,
    handle: &PartitionHandle,
    machine: &mut GroupShard,
    clock: &Clock,
    loaded: &mut Loaded,
) -> Result<(), WireError> {
    if batch.header.attributes.is_control() {
        return Ok(());
    }
    let mut actions = Vec::new();
    for record in batch.records(BATCH_BYTES_MAX)? {
        let record = record?;
        let Some(key) = record.key else { continue };
        match OffsetsRecord::decode(&key, record.value.as_deref()) {
            Ok(record) => {
                loaded.records += 1;
                machine.on_event(Event::Replayed(record), clock.mono(), clock.wall(), &mut actions);
            }
            Err(error) => {
                loaded.unreadable += 1;
                let (partition, offset) = (handle.topic_partition().partition, record.offset);
                tracing::warn!(partition, offset, %error, "skipped an offsets record that cannot be read");
            }
        }
    }
    Ok(())
}
