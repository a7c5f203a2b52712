//! Loading a shard: reading its partition from the start to the end, record by record.
//!
//! Nobody else writes the partition while this broker leads it, and the former owner's appends are through, so the end is
//! fixed when loading begins.

use tailway_daemon::clock::Clock;
use tailway_wire::record::BatchIter;

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
    let (mut offset, end) = {
        let now = handle.current();
        (now.log_start, now.log_end)
    };
    let mut loaded = Loaded::default();
    let mut actions = Vec::new();
    while offset < end {
        let slice = handle.read(offset, READ_BYTES, true).await?;
        let before = offset;
        for batches in &slice.records {
            for batch in BatchIter::new(batches.clone()) {
                let corrupt = |error: tailway_wire::WireError| PartitionError::CorruptBatch {
                    reason: format!("offset {before} on: {error}"),
                };
                let batch = batch.map_err(corrupt)?;
                let next = batch.header.base_offset + i64::from(batch.header.last_offset_delta) + 1;
                if !batch.header.attributes.is_control() {
                    for record in batch.records(BATCH_BYTES_MAX).map_err(corrupt)? {
                        let record = record.map_err(corrupt)?;
                        if record.offset < offset {
                            continue;
                        }
                        let Some(key) = record.key else { continue };
                        match OffsetsRecord::decode(&key, record.value.as_deref()) {
                            Ok(record) => {
                                loaded.records += 1;
                                let event = Event::Replayed(record);
                                machine.on_event(event, clock.mono(), clock.wall(), &mut actions);
                            }
                            Err(error) => {
                                loaded.unreadable += 1;
                                let partition = handle.topic_partition().partition;
                                tracing::warn!(
                                    partition,
                                    offset = record.offset,
                                    %error,
                                    "skipped an offsets record that cannot be read"
                                );
                            }
                        }
                    }
                }
                offset = offset.max(next);
            }
        }
        if offset == before {
            // Written but not durable yet: wait for the high watermark.
            watermarks.changed().await.map_err(|_| PartitionError::Closed)?;
        }
    }
    Ok(loaded)
}
