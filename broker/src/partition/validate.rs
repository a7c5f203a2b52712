//! What a produced batch must be before it may get an offset. Runs in the caller's task, so that CRCs of many connections
//! are checked in parallel.
//!
//! Only the header and the CRC are looked at, except on compacted topics, where every record must have a key. Nothing is
//! copied.

use bytes::Bytes;
use tailway_wire::WireError;
use tailway_wire::record::{Batch, BatchIter, TimestampType};

use super::{AppendOrigin, PartitionError};
use crate::log::LogConfig;
use crate::log::producer_batch;
use crate::machine::partition::BatchFacts;

/// A batch of a compacted topic may decompress to this much.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The batches in `bytes`, all of them good.
pub(super) fn validate(
    bytes: Bytes,
    config: &LogConfig,
    origin: AppendOrigin,
) -> Result<Vec<Batch>, PartitionError> {
    let mut batches = Vec::with_capacity(1);
    let mut iter = BatchIter::new(bytes);
    for batch in &mut iter {
        let batch = batch.map_err(refusal)?;
        check(&batch, config, origin)?;
        batches.push(batch);
    }
    if !iter.rest().is_empty() {
        let reason = format!("{} bytes at the end are no whole batch", iter.rest().len());
        return Err(PartitionError::CorruptBatch { reason });
    }
    if batches.is_empty() {
        return Err(PartitionError::InvalidRecord { reason: "there is no record batch".into() });
    }
    Ok(batches)
}

fn check(batch: &Batch, config: &LogConfig, origin: AppendOrigin) -> Result<(), PartitionError> {
    let (header, size) = (&batch.header, batch.bytes.len());
    let max = config.max_message_bytes;
    if origin == AppendOrigin::Client && size > max {
        return Err(PartitionError::BatchTooLarge { size, max });
    }
    let max = config.segment_bytes as usize;
    if size > max {
        return Err(PartitionError::BatchLargerThanSegment { size, max });
    }
    batch.validate().map_err(refusal)?;
    header.check_from_producer().map_err(refusal)?;
    if header.attributes.is_transactional() {
        return Err(PartitionError::TransactionsNotServed);
    }
    if header.max_timestamp < -1 {
        let reason = "it is before 1970".to_owned();
        return Err(PartitionError::InvalidTimestamp { timestamp: header.max_timestamp, reason });
    }
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        let reason = "only the broker may mark a batch as LogAppendTime".to_owned();
        return Err(PartitionError::InvalidTimestamp { timestamp: header.max_timestamp, reason });
    }
    if config.compact { check_keys(batch) } else { Ok(()) }
}

fn check_keys(batch: &Batch) -> Result<(), PartitionError> {
    let mut count = 0;
    for record in batch.records(DECOMPRESSED_BYTES_MAX).map_err(refusal)? {
        let record = record.map_err(refusal)?;
        if record.key.is_none() {
            let reason = "a compacted topic needs a key in every record".to_owned();
            return Err(PartitionError::InvalidRecord { reason });
        }
        count += 1;
    }
    if count == batch.header.records_count {
        return Ok(());
    }
    let announced = batch.header.records_count;
    let reason = format!("it announces {announced} records and has {count}");
    Err(PartitionError::InvalidRecord { reason })
}

fn refusal(error: WireError) -> PartitionError {
    match error {
        WireError::OldMessageFormat { magic } => PartitionError::UnsupportedMagic { magic },
        WireError::UnknownCodec { id } => PartitionError::UnsupportedCompression { codec: id },
        WireError::InvalidBatch { .. } | WireError::InvalidRecord { .. } => {
            PartitionError::InvalidRecord { reason: error.to_string() }
        }
        other => PartitionError::CorruptBatch { reason: other.to_string() },
    }
}

/// What the machine decides on.
pub(super) fn facts(batches: &[Batch]) -> Vec<BatchFacts> {
    batches
        .iter()
        .map(|batch| BatchFacts {
            last_offset_delta: batch.header.last_offset_delta,
            producer: producer_batch(&batch.header),
        })
        .collect()
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
