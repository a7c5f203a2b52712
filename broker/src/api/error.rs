//! The one place where a refusal becomes a Kafka error code.

use tailway_wire::error_code::ErrorCode;

use crate::cluster::ControllerError;
use crate::partition::PartitionError;

/// What a partition's refusal is called on the wire.
pub fn partition_error_code(error: &PartitionError) -> ErrorCode {
    match error {
        PartitionError::CorruptBatch { .. } => ErrorCode::CORRUPT_MESSAGE,
        PartitionError::UnsupportedMagic { .. } => ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        PartitionError::InvalidRecord { .. } => ErrorCode::INVALID_RECORD,
        PartitionError::BatchTooLarge { .. } => ErrorCode::MESSAGE_TOO_LARGE,
        PartitionError::BatchLargerThanSegment { .. } => ErrorCode::RECORD_LIST_TOO_LARGE,
        PartitionError::UnsupportedCompression { .. } => ErrorCode::UNSUPPORTED_COMPRESSION_TYPE,
        PartitionError::InvalidTimestamp { .. } => ErrorCode::INVALID_TIMESTAMP,
        PartitionError::TransactionsNotServed => ErrorCode::INVALID_TXN_STATE,
        PartitionError::OutOfOrderSequence { .. } => ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        PartitionError::InvalidProducerEpoch { .. } => ErrorCode::INVALID_PRODUCER_EPOCH,
        PartitionError::OffsetOutOfRange { .. } => ErrorCode::OFFSET_OUT_OF_RANGE,
        PartitionError::Storage { .. }
        | PartitionError::DiskFull { .. }
        | PartitionError::Quarantined { .. } => ErrorCode::KAFKA_STORAGE_ERROR,
        PartitionError::Closed => ErrorCode::NOT_LEADER_OR_FOLLOWER,
    }
}

/// What an undecided request is called: clients show the text and do not try for ever, as they would with a code that
/// says "try again".
pub fn controller_error_code(error: &ControllerError) -> ErrorCode {
    match error {
        ControllerError::Away { .. }
        | ControllerError::Call(_)
        | ControllerError::TooSlow { .. } => ErrorCode::REQUEST_TIMED_OUT,
        ControllerError::Refused(_) => ErrorCode::POLICY_VIOLATION,
    }
}
