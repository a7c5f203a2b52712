//! Why a partition refused: one variant per cause, with fields. Only `api` turns them into Kafka's codes; each
//! variant names the code it stands for.

use std::sync::Arc;

use tailway_storage::StorageError;

/// A refusal of one partition operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PartitionError {
    /// CORRUPT_MESSAGE (2): CRC, length or framing of what the client sent is wrong.
    #[error("the record batch is corrupt: {reason}")]
    CorruptBatch { reason: String },
    /// UNSUPPORTED_FOR_MESSAGE_FORMAT (43): record format v0 or v1.
    #[error("record format v{magic} is not supported: only v2 (clients of Kafka 0.11 and newer)")]
    UnsupportedMagic { magic: i8 },
    /// INVALID_RECORD (87).
    #[error("invalid record: {reason}")]
    InvalidRecord { reason: String },
    /// MESSAGE_TOO_LARGE (10).
    #[error("a record batch of {size} bytes exceeds max.message.bytes={max}")]
    BatchTooLarge { size: usize, max: usize },
    /// RECORD_LIST_TOO_LARGE (18).
    #[error("a record batch of {size} bytes exceeds segment.bytes={max}")]
    BatchLargerThanSegment { size: usize, max: usize },
    /// UNSUPPORTED_COMPRESSION_TYPE (76).
    #[error("unknown compression codec {codec}")]
    UnsupportedCompression { codec: i16 },
    /// INVALID_TIMESTAMP (32).
    #[error("invalid timestamp {timestamp}: {reason}")]
    InvalidTimestamp { timestamp: i64, reason: String },
    /// INVALID_TXN_STATE (48): transactional batches are not served.
    #[error("transactional record batches are not served by this broker")]
    TransactionsNotServed,
    /// OUT_OF_ORDER_SEQUENCE_NUMBER (45).
    #[error(
        "out of order sequence number {sequence} of producer {producer_id} epoch {producer_epoch}: expected {expected}"
    )]
    OutOfOrderSequence { producer_id: i64, producer_epoch: i16, sequence: i32, expected: i32 },
    /// INVALID_PRODUCER_EPOCH (47).
    #[error("producer {producer_id} sent epoch {producer_epoch}, the current one is {current}")]
    InvalidProducerEpoch { producer_id: i64, producer_epoch: i16, current: i16 },
    /// OFFSET_OUT_OF_RANGE (1).
    #[error("offset {offset} is out of range: the log has {log_start}..{log_end}")]
    OffsetOutOfRange { offset: i64, log_start: i64, log_end: i64 },
    /// KAFKA_STORAGE_ERROR (56): a write or sync failed; the log refuses work until the broker is restarted.
    #[error("the log is fenced after a disk error: {cause}")]
    Storage { cause: Arc<str> },
    /// KAFKA_STORAGE_ERROR (56): clients' records are refused until there is space again; nothing is broken.
    #[error(
        "the disk is nearly full: {free} bytes are free, {reserve} are kept for commits and deletions; free space or lower retention"
    )]
    DiskFull { free: u64, reserve: u64 },
    /// KAFKA_STORAGE_ERROR (56): durable bytes turned out corrupt; the partition is not served and nothing is cut.
    #[error("the partition is quarantined: {cause}")]
    Quarantined { cause: Arc<str> },
    /// NOT_LEADER_OR_FOLLOWER (6): this broker does not have, or is closing, the partition.
    #[error("the partition is closed on this broker")]
    Closed,
}

impl From<StorageError> for PartitionError {
    fn from(error: StorageError) -> Self {
        let cause = error.to_string().into();
        if matches!(error, StorageError::Corrupt { .. }) {
            PartitionError::Quarantined { cause }
        } else {
            PartitionError::Storage { cause }
        }
    }
}
