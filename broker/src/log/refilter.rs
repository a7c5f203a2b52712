//! Takes records out of a batch and leaves everything else as it was: offsets, sequences, timestamps, codec.
//!
//! Kept records are copied as they are, because their fields are relative to the header, which keeps its base offset and
//! base timestamp. A batch that loses all records may stay as an empty one, in Kafka's form.

use bytes::Bytes;
use tailway_wire::WireError;
use tailway_wire::record::{
    Attributes, BATCH_OVERHEAD, Batch, BatchHeader, Compression, LOG_OVERHEAD, TimestampType,
};

/// A batch may decompress to this much.
const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A record as far as compaction is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    /// It has no value: the key is deleted.
    pub is_tombstone: bool,
}

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refiltered {
    Unchanged,
    Changed(BatchHeader, Bytes),
    /// No record is left.
    Empty,
}

/// Calls `visit` with each record.
pub fn visit(batch: &Batch, mut visit: impl FnMut(RecordView<'_>)) -> Result<(), WireError> {
    let body = body(batch)?;
    for record in Records::new(&batch.header, &body) {
        visit(record?.view);
    }
    Ok(())
}

/// The batch with only the records that `keep` wants.
pub fn refilter(
    batch: &Batch,
    mut keep: impl FnMut(RecordView<'_>) -> bool,
) -> Result<Refiltered, WireError> {
    let body = body(batch)?;
    let mut kept = Vec::with_capacity(body.len());
    let (mut count, mut total, mut newest_delta) = (0, 0, i64::MIN);
    for record in Records::new(&batch.header, &body) {
        let record = record?;
        total += 1;
        if keep(record.view) {
            kept.extend_from_slice(record.bytes);
            newest_delta = newest_delta.max(record.timestamp_delta);
            count += 1;
        }
    }
    if count == total && total > 0 {
        return Ok(Refiltered::Unchanged);
    }
    if count == 0 {
        return Ok(Refiltered::Empty);
    }
    let mut header = batch.header.clone();
    if header.attributes.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = header.base_timestamp.saturating_add(newest_delta);
    }
    header.records_count = count;
    let body = header.compression()?.compress(&kept)?;
    Ok(Refiltered::Changed(seal(header, &body), body))
}

/// The batch without records: keeps the place of its offsets and sequences.
pub fn emptied(batch: &Batch) -> (BatchHeader, Bytes) {
    let mut header = batch.header.clone();
    let kind = header.attributes.timestamp_type();
    header.attributes = Attributes::new(Compression::None).with_timestamp_type(kind);
    header.base_timestamp = -1;
    header.records_count = 0;
    (seal(header, &[]), Bytes::new())
}

/// Makes length and CRC right.
fn seal(mut header: BatchHeader, body: &[u8]) -> BatchHeader {
    let size = BATCH_OVERHEAD - LOG_OVERHEAD + body.len();
    header.batch_length = i32::try_from(size).unwrap_or(i32::MAX);
    let covered = crc32c::crc32c(&header.encode()[21..]);
    header.crc = crc32c::crc32c_append(covered, body);
    header
}

fn body(batch: &Batch) -> Result<Bytes, WireError> {
    let records = batch.bytes.slice(BATCH_OVERHEAD..);
    batch.header.compression()?.decompress(&records, DECOMPRESSED_BYTES_MAX)
}

struct Record<'a> {
    view: RecordView<'a>,
    timestamp_delta: i64,
    bytes: &'a [u8],
}

struct Records<'a> {
    rest: &'a [u8],
    base_offset: i64,
    left: i32,
    index: i32,
}

impl<'a> Records<'a> {
    fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        let (base_offset, left) = (header.base_offset, header.records_count);
        Self { rest: body, base_offset, left, index: 0 }
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let mut rest = self.rest;
        let len = usize::try_from(varint(&mut rest)?).ok()?;
        let mut fields = rest.get(..len)?;
        let (bytes, after) = self.rest.split_at(self.rest.len() - rest.len() + len);
        take(&mut fields, 1)?;
        let timestamp_delta = varint(&mut fields)?;
        let offset_delta = varint(&mut fields)?;
        let key = match varint(&mut fields)? {
            -1 => None,
            len => Some(take(&mut fields, usize::try_from(len).ok()?)?),
        };
        let is_tombstone = varint(&mut fields)? < 0;
        let offset = self.base_offset.checked_add(offset_delta)?;
        self.rest = after;
        Some(Record { view: RecordView { offset, key, is_tombstone }, timestamp_delta, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let record = self.read();
        self.left = if record.is_some() { self.left - 1 } else { 0 };
        self.index += 1;
        let index = self.index - 1;
        Some(record.ok_or(WireError::InvalidRecord { index, cause: "its fields do not fit its length".into() }))
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A zigzag varint of up to 64 bits.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut raw: u64 = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    None
}
