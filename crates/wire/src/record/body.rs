//! The records inside a batch.
//!
//! Records are slices of the (decompressed) batch. Every length is checked before it is used; a record that
//! is not exactly as long as it says, or a batch that does not hold as many as it says, is an error.

use std::borrow::Cow;

use bytes::Bytes;

use super::header::TimestampType;
use super::{BatchHeader, Compression};
use crate::error::WireError;
use crate::primitives::Reader;

/// One record, sharing the memory of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordRef {
    pub offset: i64,
    /// Milliseconds; the broker's time in a batch of `LogAppendTime`.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: RecordHeaders,
}

/// The headers of a record, read on demand (and already known to be readable).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordHeaders {
    raw: Bytes,
    count: u32,
}

/// One header of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    pub key: Bytes,
    pub value: Option<Bytes>,
}

impl RecordHeader {
    /// The key as text; foreign bytes in it become replacement characters.
    pub fn key_str(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }
}

impl RecordHeaders {
    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = RecordHeader> + use<> {
        let mut reader = Reader::new(self.raw.clone(), false);
        (0..self.count).map_while(move |_| header(&mut reader).ok())
    }

    /// The value of the last header with this key.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        self.iter().filter(|header| header.key == key.as_bytes()).last()?.value
    }
}

/// What a control record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlType {
    Abort,
    Commit,
    /// One that this version does not know; consumers skip it.
    Other(i16),
}

impl ControlType {
    /// Reads the key of a record in a control batch.
    pub fn parse(key: &Bytes) -> Result<Self, WireError> {
        let mut reader = Reader::new(key.clone(), false);
        reader.i16("control record version")?;
        Ok(match reader.i16("control record type")? {
            0 => Self::Abort,
            1 => Self::Commit,
            other => Self::Other(other),
        })
    }
}

/// Iterates over the records of one batch; ends at the first error.
#[derive(Debug, Clone)]
pub struct Records {
    reader: Reader,
    base_offset: i64,
    last_offset_delta: i32,
    base_timestamp: i64,
    log_append_time: Option<i64>,
    count: i32,
    next: i32,
}

impl Records {
    /// `body` is what follows the header; at most `cap` bytes are decompressed.
    pub(super) fn new(header: &BatchHeader, body: Bytes, cap: usize) -> Result<Self, WireError> {
        let body = match header.compression()? {
            Compression::None => body,
            codec => codec.decompress(&body, cap)?,
        };
        if header.records_count < 0 {
            return Err(header.invalid("a negative count"));
        }
        let log_append_time =
            matches!(header.attributes.timestamp_type(), TimestampType::LogAppendTime)
                .then_some(header.max_timestamp);
        Ok(Self {
            reader: Reader::new(body, false),
            base_offset: header.base_offset,
            last_offset_delta: header.last_offset_delta,
            base_timestamp: header.base_timestamp,
            log_append_time,
            count: header.records_count,
            next: 0,
        })
    }

    fn read(&mut self) -> Result<RecordRef, WireError> {
        let length = nullable_length(&mut self.reader, "record length")?;
        let length =
            length.ok_or(WireError::NegativeLength { field: "record length", value: -1 })?;
        let body = self.reader.take("record", length)?;
        let mut reader = Reader::new(body, false);
        reader.i8("record attributes")?;
        let timestamp_delta = reader.varlong("timestamp delta")?;
        let offset_delta = reader.varint("offset delta")?;
        if !(0..=self.last_offset_delta).contains(&offset_delta) {
            return Err(WireError::InvalidField {
                field: "offset delta",
                cause: "it lies outside the batch",
            });
        }
        let key = nullable_bytes(&mut reader, "record key")?;
        let value = nullable_bytes(&mut reader, "record value")?;
        let headers = headers(reader)?;
        let timestamp = self
            .log_append_time
            .unwrap_or_else(|| self.base_timestamp.wrapping_add(timestamp_delta));
        let offset = self.base_offset.wrapping_add(i64::from(offset_delta));
        Ok(RecordRef { offset, timestamp, key, value, headers })
    }
}

impl Iterator for Records {
    type Item = Result<RecordRef, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        if index >= self.count {
            // Exactly as many bytes as records: said once, then the iterator is at its end.
            let left_over = self.reader.remaining();
            if index == self.count && left_over > 0 {
                self.next = i32::MAX;
                let cause = format!("{left_over} bytes are left over after the last record");
                return Some(Err(WireError::InvalidRecord { index, cause }));
            }
            return None;
        }
        let record = self
            .read()
            .map_err(|cause| WireError::InvalidRecord { index, cause: cause.to_string() });
        self.next = if record.is_ok() { index + 1 } else { i32::MAX };
        Some(record)
    }
}

impl std::iter::FusedIterator for Records {}

/// Walks the headers once, so that reading them later cannot fail.
fn headers(mut reader: Reader) -> Result<RecordHeaders, WireError> {
    let count = reader.varint("header count")?;
    let Ok(count) = u32::try_from(count) else {
        return Err(WireError::NegativeLength { field: "header count", value: i64::from(count) });
    };
    let raw = reader.clone().into_rest();
    for _ in 0..count {
        header(&mut reader)?;
    }
    reader.finish("the record")?;
    Ok(RecordHeaders { raw, count })
}

fn header(reader: &mut Reader) -> Result<RecordHeader, WireError> {
    let key = nullable_bytes(reader, "header key")?;
    let key = key.ok_or(WireError::NegativeLength { field: "header key", value: -1 })?;
    let value = nullable_bytes(reader, "header value")?;
    Ok(RecordHeader { key, value })
}

fn nullable_bytes(reader: &mut Reader, field: &'static str) -> Result<Option<Bytes>, WireError> {
    nullable_length(reader, field)?.map(|length| reader.take(field, length)).transpose()
}

/// Lengths in records are zigzag varints; -1 is null.
fn nullable_length(reader: &mut Reader, field: &'static str) -> Result<Option<usize>, WireError> {
    match reader.varint(field)? {
        -1 => Ok(None),
        value => usize::try_from(value)
            .map(Some)
            .map_err(|_| WireError::NegativeLength { field, value: i64::from(value) }),
    }
}

#[cfg(test)]
mod tests;
