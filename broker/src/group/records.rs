//! Between a shard's records and the partition: one batch per append, and what a failed append is called in an answer.

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_wire::record::{BatchBuilder, Compression};
use tailway_wire::{ErrorCode, WireError};

use crate::machine::offsets::schema::OffsetsRecord;
use crate::partition::PartitionError;

/// The records as one batch, so that they become durable together.
pub(super) fn encode(records: &[OffsetsRecord], wall: WallMs) -> Result<Bytes, WireError> {
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records {
        let (key, value) = record.encode()?;
        builder.append(wall.0, Some(&key), value.as_deref(), &[])?;
    }
    builder.finish()
}

/// What the clients are told, as Kafka translates it: a coordinator that cannot write is not a coordinator.
pub(super) fn error_code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::Storage { .. }
        | PartitionError::DiskFull { .. }
        | PartitionError::Quarantined { .. }
        | PartitionError::Closed => ErrorCode::NOT_COORDINATOR,
        PartitionError::BatchTooLarge { .. } | PartitionError::BatchLargerThanSegment { .. } => {
            ErrorCode::INVALID_COMMIT_OFFSET_SIZE
        }
        PartitionError::CorruptBatch { .. }
        | PartitionError::UnsupportedMagic { .. }
        | PartitionError::InvalidRecord { .. }
        | PartitionError::UnsupportedCompression { .. }
        | PartitionError::InvalidTimestamp { .. }
        | PartitionError::TransactionsNotServed
        | PartitionError::OutOfOrderSequence { .. }
        | PartitionError::InvalidProducerEpoch { .. }
        | PartitionError::OffsetOutOfRange { .. } => ErrorCode::UNKNOWN_SERVER_ERROR,
    }
}
