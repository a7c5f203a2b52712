//! Writes a record batch straight into a reusable buffer: no allocation per record, one copy at the end.
//!
//! Records are written behind 61 free bytes; `finish` compresses them once, fills in the header and hands out
//! exactly as many bytes as the batch has. A value may be written in place by a closure: its length is not
//! known before, so room is left for the length as it was for the last record, and the bytes move only when
//! the new length takes more or fewer bytes than that.

use bytes::Bytes;

use super::header::{Attributes, compute_crc};
use super::{BATCH_OVERHEAD, BatchHeader, Compression, Compressor, LOG_OVERHEAD, NO_PRODUCER_ID};
use crate::error::WireError;
use crate::primitives::{put_uvarint, uvarint_size, zigzag};

/// A place in a batch to go back to, see [`BatchBuilder::mark`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    length: usize,
    count: i32,
    next_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

/// Builds one batch after the other.
#[derive(Debug)]
pub struct BatchBuilder {
    /// 61 free bytes, then records.
    records: Vec<u8>,
    /// The finished batch, when compressed.
    compressed: Vec<u8>,
    compressor: Compressor,
    base_offset: i64,
    partition_leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    attributes: Attributes,
    count: i32,
    next_offset_delta: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    /// Bytes that the lengths of the last record and its value took.
    length_sizes: (usize, usize),
}

impl BatchBuilder {
    pub fn new(compression: Compression) -> Self {
        Self::with_capacity(compression, 0)
    }

    /// `capacity`: uncompressed bytes that batches will usually have.
    pub fn with_capacity(compression: Compression, capacity: usize) -> Self {
        let mut records = Vec::with_capacity(BATCH_OVERHEAD + capacity);
        records.resize(BATCH_OVERHEAD, 0);
        Self {
            records,
            compressed: Vec::new(),
            compressor: Compressor::new(compression),
            base_offset: 0,
            partition_leader_epoch: -1,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: -1,
            base_sequence: -1,
            attributes: Attributes::new(compression),
            count: 0,
            next_offset_delta: 0,
            base_timestamp: 0,
            max_timestamp: 0,
            length_sizes: (2, 2),
        }
    }

    /// For the next batch finished, and those after it (`base_sequence` does not advance by itself).
    pub fn set_producer(&mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) {
        self.producer_id = producer_id;
        self.producer_epoch = producer_epoch;
        self.base_sequence = base_sequence;
    }

    /// Offset of the first record (0 unless set: brokers assign offsets).
    pub fn set_base_offset(&mut self, base_offset: i64) {
        self.base_offset = base_offset;
    }

    /// -1 unless set: brokers assign it.
    pub fn set_partition_leader_epoch(&mut self, epoch: i32) {
        self.partition_leader_epoch = epoch;
    }

    pub fn set_transactional(&mut self, yes: bool) {
        self.attributes = self.attributes.with_transactional(yes);
    }

    pub fn set_control(&mut self, yes: bool) {
        self.attributes = self.attributes.with_control(yes);
    }

    pub fn compression(&self) -> Compression {
        self.compressor.codec()
    }

    /// Records so far.
    pub fn count(&self) -> usize {
        usize::try_from(self.count).unwrap_or_default()
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, before compression.
    pub fn uncompressed_size(&self) -> usize {
        self.records.len()
    }

    /// Largest timestamp so far.
    pub fn max_timestamp(&self) -> Option<i64> {
        (self.count > 0).then_some(self.max_timestamp)
    }

    /// Appends a record.
    pub fn append(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
    ) -> Result<(), WireError> {
        let timestamp_delta = self.timestamp_delta(timestamp)?;
        let offset_delta = self.next_offset_delta;
        let body = 1
            + uvarint_size(zigzag(timestamp_delta))
            + uvarint_size(zigzag(i64::from(offset_delta)))
            + nullable_size(key)
            + nullable_size(value)
            + headers_size(headers);
        let size = uvarint_size(zigzag(length(body)?)) + body;
        self.check_room(size)?;
        self.records.reserve(size);
        put_uvarint(&mut self.records, zigzag(length(body)?));
        self.put_start(timestamp_delta, offset_delta);
        put_nullable(&mut self.records, key)?;
        put_nullable(&mut self.records, value)?;
        put_headers(&mut self.records, headers)?;
        self.count_record(timestamp);
        Ok(())
    }

    /// Appends a record whose value is what `write` appends to the buffer it is given. `write` may only
    /// append; taking away bytes that were there before gives an error and no record.
    pub fn append_with(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), WireError> {
        let start = self.records.len();
        let result = self.write_in_place(timestamp, key, headers, write);
        match result {
            Ok(()) => self.count_record(timestamp),
            // Also gives back bytes that a misbehaving `write` took away: their content is lost, so the
            // caller must drop the batch; the buffer itself stays sound.
            Err(_) => self.records.resize(start, 0),
        }
        result
    }

    /// The state to return to with [`BatchBuilder::rollback`], if records appended from here on turn out to
    /// be too large.
    pub fn mark(&self) -> Mark {
        Mark {
            length: self.records.len(),
            count: self.count,
            next_offset_delta: self.next_offset_delta,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
        }
    }

    /// Takes back what was appended since `mark`, which must be from this batch.
    pub fn rollback(&mut self, mark: Mark) {
        self.records.truncate(mark.length.max(BATCH_OVERHEAD));
        self.count = mark.count;
        self.next_offset_delta = mark.next_offset_delta;
        self.base_timestamp = mark.base_timestamp;
        self.max_timestamp = mark.max_timestamp;
    }

    /// The next record gets this offset (relative to the base offset), if it is not below what is next
    /// anyhow. Before `finish` it makes the batch end at `offset_delta - 1`: compaction keeps a batch's
    /// range of offsets although records are gone.
    pub fn skip_to(&mut self, offset_delta: i32) {
        self.next_offset_delta = self.next_offset_delta.max(offset_delta);
    }

    /// Ends the batch and starts the next one; producer, base offset and flags stay as they are set.
    pub fn finish(&mut self) -> Result<Bytes, WireError> {
        let batch = self.seal();
        self.clear();
        batch
    }

    /// Throws away the records so far.
    pub fn clear(&mut self) {
        self.records.truncate(BATCH_OVERHEAD);
        self.compressed.clear();
        self.count = 0;
        self.next_offset_delta = 0;
    }

    fn seal(&mut self) -> Result<Bytes, WireError> {
        let invalid = |cause| WireError::InvalidBatch { base_offset: self.base_offset, cause };
        if self.count == 0 {
            return Err(invalid("it holds no records"));
        }
        let batch = if self.compressor.codec() == Compression::None {
            &mut self.records
        } else {
            self.compressed.clear();
            self.compressed.resize(BATCH_OVERHEAD, 0);
            self.compressor.compress(&self.records[BATCH_OVERHEAD..], &mut self.compressed)?;
            &mut self.compressed
        };
        let mut header = BatchHeader {
            base_offset: self.base_offset,
            batch_length: i32::try_from(batch.len() - LOG_OVERHEAD)
                .map_err(|_| invalid("it is larger than 2 GiB"))?,
            partition_leader_epoch: self.partition_leader_epoch,
            crc: 0,
            attributes: self.attributes,
            last_offset_delta: self.next_offset_delta - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            records_count: self.count,
        };
        batch[..BATCH_OVERHEAD].copy_from_slice(&header.encode());
        header.crc = compute_crc(batch);
        batch[..BATCH_OVERHEAD].copy_from_slice(&header.encode());
        Ok(Bytes::copy_from_slice(batch))
    }

    fn write_in_place(
        &mut self,
        timestamp: i64,
        key: Option<&[u8]>,
        headers: &[(&str, Option<&[u8]>)],
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), WireError> {
        let timestamp_delta = self.timestamp_delta(timestamp)?;
        self.check_room(0)?;
        let start = self.records.len();
        let (record_room, value_room) = self.length_sizes;
        self.records.resize(start + record_room, 0);
        let body_at = self.records.len();
        self.put_start(timestamp_delta, self.next_offset_delta);
        put_nullable(&mut self.records, key)?;
        let value_length_at = self.records.len();
        self.records.resize(value_length_at + value_room, 0);
        let value_at = self.records.len();
        write(&mut self.records);
        let Some(value_size) = self.records.len().checked_sub(value_at) else {
            return Err(self.invalid_record("its writer took bytes away"));
        };
        let value_length = zigzag(length(value_size)?);
        let value_length_size = uvarint_size(value_length);
        resize_gap(&mut self.records, value_length_at, value_room, value_length_size);
        put_headers(&mut self.records, headers)?;
        set_uvarint(&mut self.records[value_length_at..], value_length);
        let body_length = zigzag(length(self.records.len() - body_at)?);
        let body_length_size = uvarint_size(body_length);
        resize_gap(&mut self.records, start, record_room, body_length_size);
        set_uvarint(&mut self.records[start..], body_length);
        self.length_sizes = (body_length_size, value_length_size);
        // The next record must find room for its own length fields.
        self.check_room(0)
    }

    fn put_start(&mut self, timestamp_delta: i64, offset_delta: i32) {
        self.records.push(0);
        put_uvarint(&mut self.records, zigzag(timestamp_delta));
        put_uvarint(&mut self.records, zigzag(i64::from(offset_delta)));
    }

    fn timestamp_delta(&self, timestamp: i64) -> Result<i64, WireError> {
        if self.count == 0 {
            return Ok(0);
        }
        timestamp
            .checked_sub(self.base_timestamp)
            .ok_or_else(|| self.invalid_record("its timestamp is too far from the first one"))
    }

    fn count_record(&mut self, timestamp: i64) {
        if self.count == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        self.next_offset_delta += 1;
    }

    /// Whether a record of `size` bytes still fits into what the format can count.
    fn check_room(&self, size: usize) -> Result<(), WireError> {
        let limit = i32::MAX as usize;
        let total = self.records.len().saturating_add(size);
        if total > limit {
            return Err(WireError::TooLarge { what: "record batch", size: total, limit });
        }
        if self.next_offset_delta == i32::MAX {
            return Err(self.invalid_record("the batch has no offset left for it"));
        }
        Ok(())
    }

    fn invalid_record(&self, cause: &str) -> WireError {
        WireError::InvalidRecord { index: self.count, cause: cause.to_owned() }
    }
}

fn length(size: usize) -> Result<i64, WireError> {
    match i32::try_from(size) {
        Ok(size) => Ok(i64::from(size)),
        Err(_) => Err(WireError::TooLarge { what: "record", size, limit: i32::MAX as usize }),
    }
}

/// Bytes that a length or count takes as a zigzag varint.
const fn length_size(size: usize) -> usize {
    uvarint_size((size as u64) << 1)
}

fn nullable_size(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| length_size(bytes.len()) + bytes.len())
}

fn headers_size(headers: &[(&str, Option<&[u8]>)]) -> usize {
    let sizes = headers
        .iter()
        .map(|(key, value)| nullable_size(Some(key.as_bytes())) + nullable_size(*value));
    length_size(headers.len()) + sizes.sum::<usize>()
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) -> Result<(), WireError> {
    let Some(bytes) = bytes else {
        put_uvarint(out, zigzag(-1));
        return Ok(());
    };
    put_uvarint(out, zigzag(length(bytes.len())?));
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_headers(out: &mut Vec<u8>, headers: &[(&str, Option<&[u8]>)]) -> Result<(), WireError> {
    put_uvarint(out, zigzag(length(headers.len())?));
    for (key, value) in headers {
        put_nullable(out, Some(key.as_bytes()))?;
        put_nullable(out, *value)?;
    }
    Ok(())
}

/// Makes the gap at `at` `new` instead of `old` bytes wide by moving what follows it.
fn resize_gap(buffer: &mut Vec<u8>, at: usize, old: usize, new: usize) {
    let end = buffer.len();
    if new > old {
        buffer.resize(end + new - old, 0);
    }
    if new != old {
        buffer.copy_within(at + old..end, at + new);
        buffer.truncate(end + new - old);
    }
}

/// Writes a varint into room that is already there.
fn set_uvarint(mut room: &mut [u8], value: u64) {
    put_uvarint(&mut room, value);
}

#[cfg(test)]
mod tests;
