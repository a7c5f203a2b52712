//! The header of a record batch: reading, checking, and changing it in place.
//!
//! Layout (big endian): base_offset i64 @0, batch_length i32 @8, partition_leader_epoch i32 @12, magic i8 @16,
//! crc u32 @17 over everything from 21 on, attributes i16 @21, last_offset_delta i32 @23, base_timestamp
//! i64 @27, max_timestamp i64 @35, producer_id i64 @43, producer_epoch i16 @51, base_sequence i32 @53,
//! records_count i32 @57.

use bytes::{Bytes, BytesMut};

use super::{BATCH_OVERHEAD, Compression, LOG_OVERHEAD, MAGIC, NO_PRODUCER_ID};
use crate::error::WireError;

const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

/// Whose clock the timestamps of a batch are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// The attribute bits of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

impl Attributes {
    const CODEC: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 0x08;
    const TRANSACTIONAL: i16 = 0x10;
    const CONTROL: i16 = 0x20;
    const DELETE_HORIZON: i16 = 0x40;

    pub fn new(compression: Compression) -> Self {
        Self(compression.id())
    }

    pub fn compression(self) -> Result<Compression, WireError> {
        Compression::from_id(self.0 & Self::CODEC)
    }

    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Holds markers (commit, abort), not data.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Base timestamp is the time after which tombstones may go (compacted logs).
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }

    #[must_use]
    pub const fn with_timestamp_type(self, kind: TimestampType) -> Self {
        match kind {
            TimestampType::CreateTime => Self(self.0 & !Self::LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Self(self.0 | Self::LOG_APPEND_TIME),
        }
    }

    #[must_use]
    pub const fn with_transactional(self, yes: bool) -> Self {
        if yes { Self(self.0 | Self::TRANSACTIONAL) } else { Self(self.0 & !Self::TRANSACTIONAL) }
    }

    #[must_use]
    pub const fn with_control(self, yes: bool) -> Self {
        if yes { Self(self.0 | Self::CONTROL) } else { Self(self.0 & !Self::CONTROL) }
    }
}

/// The first 61 bytes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    /// Bytes behind this field.
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub crc: u32,
    pub attributes: Attributes,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub records_count: i32,
}

impl BatchHeader {
    /// Reads a header from the front of `bytes`, which may end behind it. Refuses formats 0 and 1 by name
    /// (as soon as the magic byte is there), and lengths that leave no room for the header itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        if let Some(&magic) = bytes.get(16) {
            check_magic(magic.cast_signed())?;
        }
        let Some(raw) = bytes.first_chunk::<BATCH_OVERHEAD>() else {
            return Err(WireError::Truncated {
                field: "record batch header",
                needed: BATCH_OVERHEAD,
                available: bytes.len(),
            });
        };
        let header = Self {
            base_offset: i64::from_be_bytes(field(raw, 0)),
            batch_length: i32::from_be_bytes(field(raw, 8)),
            partition_leader_epoch: i32::from_be_bytes(field(raw, 12)),
            crc: u32::from_be_bytes(field(raw, CRC_AT)),
            attributes: Attributes(i16::from_be_bytes(field(raw, 21))),
            last_offset_delta: i32::from_be_bytes(field(raw, 23)),
            base_timestamp: i64::from_be_bytes(field(raw, 27)),
            max_timestamp: i64::from_be_bytes(field(raw, 35)),
            producer_id: i64::from_be_bytes(field(raw, 43)),
            producer_epoch: i16::from_be_bytes(field(raw, 51)),
            base_sequence: i32::from_be_bytes(field(raw, 53)),
            records_count: i32::from_be_bytes(field(raw, 57)),
        };
        if header.size() < BATCH_OVERHEAD {
            return Err(header.impossible_length(bytes.len()));
        }
        Ok(header)
    }

    /// The 61 bytes of this header.
    pub fn encode(&self) -> [u8; BATCH_OVERHEAD] {
        let mut raw = [0; BATCH_OVERHEAD];
        put(&mut raw, 0, self.base_offset.to_be_bytes());
        put(&mut raw, 8, self.batch_length.to_be_bytes());
        put(&mut raw, 12, self.partition_leader_epoch.to_be_bytes());
        put(&mut raw, 16, MAGIC.to_be_bytes());
        put(&mut raw, CRC_AT, self.crc.to_be_bytes());
        put(&mut raw, 21, self.attributes.0.to_be_bytes());
        put(&mut raw, 23, self.last_offset_delta.to_be_bytes());
        put(&mut raw, 27, self.base_timestamp.to_be_bytes());
        put(&mut raw, 35, self.max_timestamp.to_be_bytes());
        put(&mut raw, 43, self.producer_id.to_be_bytes());
        put(&mut raw, 51, self.producer_epoch.to_be_bytes());
        put(&mut raw, 53, self.base_sequence.to_be_bytes());
        put(&mut raw, 57, self.records_count.to_be_bytes());
        raw
    }

    /// Bytes of the whole batch; less than [`BATCH_OVERHEAD`] for a length that cannot be true.
    pub fn size(&self) -> usize {
        usize::try_from(self.batch_length).map_or(0, |length| length.saturating_add(LOG_OVERHEAD))
    }

    pub const fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta as i64)
    }

    /// The offset that follows this batch.
    pub const fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    pub const fn has_producer_id(&self) -> bool {
        self.producer_id > NO_PRODUCER_ID
    }

    /// Sequence of the last record; sequences wrap from 2^31-1 to 0.
    pub const fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 {
            return self.base_sequence;
        }
        self.base_sequence.wrapping_add(self.last_offset_delta) & i32::MAX
    }

    pub fn compression(&self) -> Result<Compression, WireError> {
        self.attributes.compression()
    }

    /// What a broker asks of a batch from a producer beyond `validate`: a known codec, consecutive offsets
    /// (nothing compacted away), no control records, and a sequence if there is a producer id.
    pub fn check_from_producer(&self) -> Result<(), WireError> {
        self.compression()?;
        let consecutive = i64::from(self.last_offset_delta) + 1 == i64::from(self.records_count);
        let cause = if self.records_count <= 0 {
            "it holds no records"
        } else if !consecutive {
            "its offsets are not consecutive"
        } else if self.attributes.is_control() {
            "clients may not write control records"
        } else if self.has_producer_id() && self.producer_epoch < 0 {
            "it has a producer id without an epoch"
        } else if self.has_producer_id() && self.base_sequence < 0 {
            "it has a producer id without a sequence"
        } else {
            return Ok(());
        };
        Err(self.invalid(cause))
    }

    pub(super) fn invalid(&self, cause: &'static str) -> WireError {
        WireError::InvalidBatch { base_offset: self.base_offset, cause }
    }

    pub(super) fn impossible_length(&self, available: usize) -> WireError {
        WireError::BatchLength {
            base_offset: self.base_offset,
            batch_length: self.batch_length,
            available,
        }
    }
}

/// Checks one batch at the front of `bytes`: magic, length, CRC, and that counts make sense. What follows
/// the batch is not looked at.
pub fn validate(bytes: &[u8]) -> Result<BatchHeader, WireError> {
    let header = BatchHeader::parse(bytes)?;
    let batch = bytes.get(..header.size()).ok_or_else(|| header.impossible_length(bytes.len()))?;
    let computed = compute_crc(batch);
    if computed != header.crc {
        return Err(WireError::CrcMismatch {
            base_offset: header.base_offset,
            stored: header.crc,
            computed,
        });
    }
    if header.records_count < 0 || header.last_offset_delta < 0 {
        return Err(header.invalid("a negative count"));
    }
    Ok(header)
}

/// CRC-32C of a whole batch, over everything behind its crc field.
pub fn compute_crc(batch: &[u8]) -> u32 {
    crc32c::crc32c(batch.get(CRC_FROM..).unwrap_or_default())
}

/// Sets the base offset; the CRC does not cover it.
pub fn patch_base_offset(batch: &mut [u8], base_offset: i64) -> Result<(), WireError> {
    patch(batch, 0, base_offset.to_be_bytes())
}

/// Sets the partition leader epoch; the CRC does not cover it.
pub fn patch_leader_epoch(batch: &mut [u8], leader_epoch: i32) -> Result<(), WireError> {
    patch(batch, 12, leader_epoch.to_be_bytes())
}

/// Makes the batch one of `LogAppendTime` (so that every record has this time) and corrects its CRC.
/// `batch` is the whole batch and nothing else.
pub fn patch_log_append_time(batch: &mut [u8], time_ms: i64) -> Result<(), WireError> {
    let attributes = BatchHeader::parse(batch)?.attributes;
    let attributes = attributes.with_timestamp_type(TimestampType::LogAppendTime);
    patch(batch, 21, attributes.0.to_be_bytes())?;
    patch_max_timestamp(batch, time_ms)
}

/// Sets the maximal timestamp and corrects the CRC. `batch` is the whole batch and nothing else.
pub fn patch_max_timestamp(batch: &mut [u8], max_timestamp: i64) -> Result<(), WireError> {
    patch(batch, 35, max_timestamp.to_be_bytes())?;
    patch_crc(batch)
}

/// Sets producer id, epoch and base sequence and corrects the CRC. `batch` is the whole batch and nothing
/// else.
pub fn patch_producer(
    batch: &mut [u8],
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
) -> Result<(), WireError> {
    patch(batch, 43, producer_id.to_be_bytes())?;
    patch(batch, 51, producer_epoch.to_be_bytes())?;
    patch(batch, 53, base_sequence.to_be_bytes())?;
    patch_crc(batch)
}

/// [`patch_producer`] for a batch in `Bytes`: in place if nobody else holds them, else in a copy.
pub fn stamp_producer(
    batch: Bytes,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
) -> Result<Bytes, WireError> {
    let mut batch = batch.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    patch_producer(&mut batch, producer_id, producer_epoch, base_sequence)?;
    Ok(batch.freeze())
}

pub(super) fn check_magic(magic: i8) -> Result<(), WireError> {
    match magic {
        MAGIC => Ok(()),
        0 | 1 => Err(WireError::OldMessageFormat { magic }),
        _ => Err(WireError::UnknownMagic { magic }),
    }
}

fn patch_crc(batch: &mut [u8]) -> Result<(), WireError> {
    let crc = compute_crc(batch);
    patch(batch, CRC_AT, crc.to_be_bytes())
}

fn patch<const N: usize>(batch: &mut [u8], at: usize, value: [u8; N]) -> Result<(), WireError> {
    let available = batch.len();
    let Some(header) = batch.first_chunk_mut::<BATCH_OVERHEAD>() else {
        return Err(WireError::Truncated {
            field: "record batch header",
            needed: BATCH_OVERHEAD,
            available,
        });
    };
    put(header, at, value);
    Ok(())
}

fn put<const N: usize>(raw: &mut [u8; BATCH_OVERHEAD], at: usize, value: [u8; N]) {
    raw[at..at + N].copy_from_slice(&value);
}

fn field<const N: usize>(raw: &[u8; BATCH_OVERHEAD], at: usize) -> [u8; N] {
    std::array::from_fn(|index| raw[at + index])
}

#[cfg(test)]
mod tests;
