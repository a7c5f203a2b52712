//! The record batch, message format 2: the unit that is produced, stored, replicated and fetched.
//!
//! - [`BatchHeader`]: the 61 bytes before the records; `validate` checks length and CRC-32C, `patch_*` change a
//!   batch in place. Base offset and leader epoch lie outside the CRC, so that a broker sets them for free.
//! - [`Batch`] and [`BatchIter`]: batches one behind the other in `Bytes`, a cut one at the end allowed.
//! - [`Records`]: the records of a batch, decompressed under a cap.
//! - [`BatchBuilder`]: writes records straight into a reusable buffer.
//! - [`Compression`]: the five codecs.
//!
//! Formats 0 and 1 (clients before Kafka 0.11) are refused by name.

mod batch;
mod body;
mod builder;
mod codec;
mod compression;
mod header;

pub use batch::{Batch, BatchIter};
pub use body::{ControlType, RecordHeader, RecordHeaders, RecordRef, Records};
pub use builder::{BatchBuilder, Mark};
pub use compression::{Compression, Compressor};
pub use header::{
    Attributes, BatchHeader, TimestampType, compute_crc, patch_base_offset, patch_leader_epoch,
    patch_log_append_time, patch_max_timestamp, patch_producer, stamp_producer, validate,
};

/// Bytes of a batch before its first record.
pub const BATCH_OVERHEAD: usize = 61;

/// Bytes of a batch that its length field does not count: base offset and the length itself.
pub const LOG_OVERHEAD: usize = 12;

/// The only message format that is stored.
pub const MAGIC: i8 = 2;

/// Stands for "no producer id" (and, as epoch and sequence, -1 too).
pub const NO_PRODUCER_ID: i64 = -1;
