//! Bounds-checked cursors for Kafka's primitive types: what the hand-written messages, the record format and
//! schemas inside records (group offsets) are read and written with.
//!
//! A `Reader` owns a `Bytes` and hands out slices of it, so nothing is copied. One flag chooses between
//! classic and flexible (compact, tagged) encoding, as in Kafka's schemas. Counts are checked twice before
//! anything is reserved: against the bytes that are left, and against a budget for the whole message.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::error::WireError;
use crate::frame::{LENGTH_PREFIX, length_prefix};
use crate::messages::StrBytes;

/// Array elements that one message may announce in all its arrays together. A produce request or a fetch
/// response with more topics and partitions than this is an attack, not a workload.
pub const MAX_ELEMENTS: usize = 262_144;

/// Kafka's bound for every string.
const MAX_STRING: usize = i16::MAX as usize;

/// Reads primitives from the front of `Bytes`.
#[derive(Debug, Clone)]
pub struct Reader {
    bytes: Bytes,
    flexible: bool,
    elements_left: usize,
}

macro_rules! fixed {
    ($($name:ident, $get:ident, $type:ty;)*) => {
        $(pub fn $name(&mut self, field: &'static str) -> Result<$type, WireError> {
            self.need(field, size_of::<$type>())?;
            Ok(self.bytes.$get())
        })*
    };
}

impl Reader {
    /// A reader of the classic encoding, or of the flexible one.
    pub fn new(bytes: Bytes, flexible: bool) -> Self {
        Self { bytes, flexible, elements_left: MAX_ELEMENTS }
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What has not been read yet.
    pub fn into_rest(self) -> Bytes {
        self.bytes
    }

    /// Ends a message: nothing may be left.
    pub fn finish(self, what: &'static str) -> Result<(), WireError> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(WireError::TrailingBytes { what, count: self.bytes.len() })
    }

    fixed! {
        u8, get_u8, u8;
        i8, get_i8, i8;
        i16, get_i16, i16;
        i32, get_i32, i32;
        u32, get_u32, u32;
        i64, get_i64, i64;
    }

    pub fn bool(&mut self, field: &'static str) -> Result<bool, WireError> {
        Ok(self.u8(field)? != 0)
    }

    /// An unsigned varint of at most 32 bits.
    pub fn uvarint(&mut self, field: &'static str) -> Result<u32, WireError> {
        let (value, used) = decode_uvarint(&self.bytes, 5, field)?;
        self.bytes.advance(used);
        u32::try_from(value).map_err(|_| WireError::InvalidVarint { field })
    }

    /// A zigzag varint of at most 32 bits.
    pub fn varint(&mut self, field: &'static str) -> Result<i32, WireError> {
        let raw = self.uvarint(field)?;
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// A zigzag varint of at most 64 bits.
    pub fn varlong(&mut self, field: &'static str) -> Result<i64, WireError> {
        let (raw, used) = decode_uvarint(&self.bytes, 10, field)?;
        self.bytes.advance(used);
        Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()))
    }

    /// Exactly `count` bytes, shared with the frame.
    pub fn take(&mut self, field: &'static str, count: usize) -> Result<Bytes, WireError> {
        self.need(field, count)?;
        Ok(self.bytes.split_to(count))
    }

    pub fn string(&mut self, field: &'static str) -> Result<StrBytes, WireError> {
        self.nullable_string(field)?.ok_or(WireError::NegativeLength { field, value: -1 })
    }

    pub fn nullable_string(&mut self, field: &'static str) -> Result<Option<StrBytes>, WireError> {
        let length = if self.flexible {
            self.compact_length(field)?
        } else {
            length(field, i64::from(self.i16(field)?))?
        };
        let Some(length) = length else { return Ok(None) };
        if length > MAX_STRING {
            return Err(WireError::TooLarge { what: field, size: length, limit: MAX_STRING });
        }
        let bytes = self.take(field, length)?;
        StrBytes::from_utf8(bytes).map(Some).map_err(|_| WireError::InvalidUtf8 { field })
    }

    pub fn bytes(&mut self, field: &'static str) -> Result<Bytes, WireError> {
        self.nullable_bytes(field)?.ok_or(WireError::NegativeLength { field, value: -1 })
    }

    pub fn nullable_bytes(&mut self, field: &'static str) -> Result<Option<Bytes>, WireError> {
        let length = if self.flexible {
            self.compact_length(field)?
        } else {
            length(field, i64::from(self.i32(field)?))?
        };
        length.map(|length| self.take(field, length)).transpose()
    }

    /// The count of an array whose elements take at least `element_min` bytes each.
    pub fn array(&mut self, field: &'static str, element_min: usize) -> Result<usize, WireError> {
        let count = self.nullable_array(field, element_min)?;
        count.ok_or(WireError::NegativeLength { field, value: -1 })
    }

    /// As [`Reader::array`], for arrays that may be null.
    pub fn nullable_array(
        &mut self,
        field: &'static str,
        element_min: usize,
    ) -> Result<Option<usize>, WireError> {
        let count = if self.flexible {
            self.compact_length(field)?
        } else {
            length(field, i64::from(self.i32(field)?))?
        };
        let Some(count) = count else { return Ok(None) };
        let available = self.bytes.len();
        if count.saturating_mul(element_min.max(1)) > available {
            return Err(WireError::CountTooLarge { field, count, available });
        }
        if count > self.elements_left {
            return Err(WireError::TooLarge {
                what: field,
                size: count,
                limit: self.elements_left,
            });
        }
        self.elements_left -= count;
        Ok(Some(count))
    }

    /// The tagged fields at the end of a structure; none in the classic encoding. Each is offered to
    /// `known` as (tag, its bytes); what `known` does not care about is skipped.
    pub fn tagged_fields(
        &mut self,
        field: &'static str,
        mut known: impl FnMut(u32, Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !self.flexible {
            return Ok(());
        }
        let mut previous = None;
        for _ in 0..self.uvarint(field)? {
            let tag = self.uvarint(field)?;
            if previous.is_some_and(|previous| tag <= previous) {
                return Err(WireError::InvalidField { field, cause: "tags do not ascend" });
            }
            previous = Some(tag);
            let size = self.uvarint(field)? as usize;
            let value = self.take(field, size)?;
            known(tag, Self { bytes: value, flexible: true, elements_left: self.elements_left })?;
        }
        Ok(())
    }

    /// Tagged fields of which none is known.
    pub fn skip_tagged_fields(&mut self, field: &'static str) -> Result<(), WireError> {
        self.tagged_fields(field, |_, _| Ok(()))
    }

    fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>, WireError> {
        Ok(self.uvarint(field)?.checked_sub(1).map(|length| length as usize))
    }

    fn need(&self, field: &'static str, needed: usize) -> Result<(), WireError> {
        let available = self.bytes.len();
        if needed > available {
            return Err(WireError::Truncated { field, needed, available });
        }
        Ok(())
    }
}

/// A length of -1 is null; anything below is an error.
fn length(field: &'static str, value: i64) -> Result<Option<usize>, WireError> {
    match value {
        -1 => Ok(None),
        _ => {
            usize::try_from(value).map(Some).map_err(|_| WireError::NegativeLength { field, value })
        }
    }
}

/// Reads an unsigned varint of at most `max_bytes` (5 or 10) bytes: (value, bytes used).
pub(crate) fn decode_uvarint(
    input: &[u8],
    max_bytes: usize,
    field: &'static str,
) -> Result<(u64, usize), WireError> {
    let mut value = 0_u64;
    for (index, byte) in input.iter().copied().enumerate().take(max_bytes) {
        // The last byte has room for 4 bits of a 32-bit value, for 1 bit of a 64-bit value.
        let last_max = if max_bytes == 5 { 0x0f } else { 0x01 };
        if index + 1 == max_bytes && byte > last_max {
            return Err(WireError::InvalidVarint { field });
        }
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, index + 1));
        }
    }
    Err(WireError::Truncated { field, needed: input.len() + 1, available: input.len() })
}

/// Appends an unsigned varint.
pub(crate) fn put_uvarint(out: &mut impl BufMut, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            return out.put_u8(low);
        }
        out.put_u8(low | 0x80);
    }
}

/// Maps small negative numbers to small unsigned ones.
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// Bytes that an unsigned varint takes.
pub(crate) const fn uvarint_size(value: u64) -> usize {
    let bits = 64 - (value | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes primitives behind each other.
#[derive(Debug, Default)]
pub struct Writer {
    buffer: BytesMut,
    flexible: bool,
}

impl Writer {
    /// A writer of the classic encoding, or of the flexible one.
    pub fn new(flexible: bool) -> Self {
        Self { buffer: BytesMut::new(), flexible }
    }

    pub fn with_capacity(flexible: bool, capacity: usize) -> Self {
        Self { buffer: BytesMut::with_capacity(capacity), flexible }
    }

    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What has been written.
    pub fn finish(self) -> Bytes {
        self.buffer.freeze()
    }

    /// Hands out what has been written so far and goes on behind it, in the same allocation if it can.
    pub fn split(&mut self) -> Bytes {
        self.buffer.split().freeze()
    }

    /// What has been written, as a frame: the first four bytes, left free for it, become the length prefix.
    pub(crate) fn finish_frame(mut self) -> Result<Bytes, WireError> {
        let size = self.buffer.len().saturating_sub(LENGTH_PREFIX);
        let prefix = length_prefix(size)?;
        if let Some(head) = self.buffer.first_chunk_mut::<LENGTH_PREFIX>() {
            *head = prefix.to_be_bytes();
        }
        Ok(self.buffer.freeze())
    }

    pub fn u8(&mut self, value: u8) {
        self.buffer.put_u8(value);
    }

    pub fn i8(&mut self, value: i8) {
        self.buffer.put_i8(value);
    }

    pub fn bool(&mut self, value: bool) {
        self.buffer.put_u8(u8::from(value));
    }

    pub fn i16(&mut self, value: i16) {
        self.buffer.put_i16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.buffer.put_i32(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.buffer.put_u32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.buffer.put_i64(value);
    }

    pub fn uvarint(&mut self, value: u32) {
        put_uvarint(&mut self.buffer, u64::from(value));
    }

    pub fn varint(&mut self, value: i32) {
        put_uvarint(&mut self.buffer, zigzag(i64::from(value)));
    }

    pub fn varlong(&mut self, value: i64) {
        put_uvarint(&mut self.buffer, zigzag(value));
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.buffer.put_slice(bytes);
    }

    pub fn string(&mut self, field: &'static str, value: &str) -> Result<(), WireError> {
        self.nullable_string(field, Some(value))
    }

    pub fn nullable_string(
        &mut self,
        field: &'static str,
        value: Option<&str>,
    ) -> Result<(), WireError> {
        let size = value.map_or(0, str::len);
        let Ok(short) = i16::try_from(size) else {
            return Err(WireError::TooLarge { what: field, size, limit: MAX_STRING });
        };
        if self.flexible {
            self.uvarint(value.map_or(0, |_| u32::from(short.cast_unsigned()) + 1));
        } else {
            self.i16(value.map_or(-1, |_| short));
        }
        self.buffer.put_slice(value.unwrap_or_default().as_bytes());
        Ok(())
    }

    pub fn nullable_bytes(
        &mut self,
        field: &'static str,
        value: Option<&[u8]>,
    ) -> Result<(), WireError> {
        self.nullable_bytes_length(field, value.map(<[u8]>::len))?;
        self.buffer.put_slice(value.unwrap_or_default());
        Ok(())
    }

    /// Only the length of a bytes field, for bytes that are sent from where they are.
    pub fn nullable_bytes_length(
        &mut self,
        field: &'static str,
        length: Option<usize>,
    ) -> Result<(), WireError> {
        self.count(field, length)
    }

    /// The count of an array.
    pub fn array(&mut self, field: &'static str, count: usize) -> Result<(), WireError> {
        self.count(field, Some(count))
    }

    /// The count of an array that may be null.
    pub fn nullable_array(
        &mut self,
        field: &'static str,
        count: Option<usize>,
    ) -> Result<(), WireError> {
        self.count(field, count)
    }

    /// Ends a structure without tagged fields.
    pub fn no_tagged_fields(&mut self) {
        if self.flexible {
            self.buffer.put_u8(0);
        }
    }

    fn count(&mut self, field: &'static str, count: Option<usize>) -> Result<(), WireError> {
        let size = count.unwrap_or_default();
        let Ok(known) = i32::try_from(size) else {
            return Err(WireError::TooLarge { what: field, size, limit: i32::MAX as usize });
        };
        if self.flexible {
            self.uvarint(count.map_or(0, |_| known.cast_unsigned() + 1));
        } else {
            self.i32(count.map_or(-1, |_| known));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
