//! The buffer through which the generated codec reads foreign bytes.
//!
//! The codec checks an array count against `remaining()` bytes and then reserves that many elements, which
//! for structures of 100 bytes and more lets a frame of 10 MB reserve a gigabyte. `remaining()` is used for
//! nothing else (every other read goes through a method that is overridden here and looks at the real
//! length), so it may answer how many *elements* are believable: a quarter of the bytes that are left, and
//! never more than the reads that the message may still make.

use bytes::{Buf, Bytes, TryGetError};
use proto_kafka::protocol::buf::{ByteBuf, NotEnoughBytesError};

/// Primitive reads that one request may take: bounds the memory of its decoded form to some tens of MB,
/// reached by hostile frames only (100,000 partitions take about that many).
pub(crate) const REQUEST_READS: usize = 512 << 10;

/// The same for responses, which come from brokers that the user chose, and may describe large clusters.
pub(crate) const RESPONSE_READS: usize = 16 << 20;

/// Any array may have this many elements, if the bytes are there: very short strings are legal.
const SMALL_ARRAY: usize = 64;

/// Smallest size on the wire that elements of a larger array have on average.
const ELEMENT_BYTES: usize = 4;

/// See the module.
#[derive(Debug)]
pub(crate) struct Guarded {
    bytes: Bytes,
    reads_left: usize,
}

impl Guarded {
    pub(crate) fn new(bytes: Bytes, max_reads: usize) -> Self {
        Self { bytes, reads_left: max_reads }
    }

    pub(crate) fn left_over(&self) -> usize {
        self.bytes.len()
    }

    fn take(&mut self, count: usize) -> Result<&[u8], TryGetError> {
        let available = if self.reads_left == 0 { 0 } else { self.bytes.len() };
        if count > available {
            return Err(TryGetError { requested: count, available });
        }
        self.reads_left -= 1;
        Ok(&self.bytes[..count])
    }
}

macro_rules! reads {
    ($($name:ident: $type:ty),* $(,)?) => {
        $(fn $name(&mut self) -> Result<$type, TryGetError> {
            let mut raw = [0; size_of::<$type>()];
            self.try_copy_to_slice(&mut raw)?;
            Ok(<$type>::from_be_bytes(raw))
        })*
    };
}

impl Buf for Guarded {
    fn remaining(&self) -> usize {
        let bytes = self.bytes.len();
        bytes.min(SMALL_ARRAY.max(bytes / ELEMENT_BYTES)).min(self.reads_left)
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes[..self.remaining()]
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn try_copy_to_slice(&mut self, out: &mut [u8]) -> Result<(), TryGetError> {
        out.copy_from_slice(self.take(out.len())?);
        self.bytes.advance(out.len());
        Ok(())
    }

    reads! {
        try_get_u8: u8,
        try_get_i8: i8,
        try_get_u16: u16,
        try_get_i16: i16,
        try_get_u32: u32,
        try_get_i32: i32,
        try_get_i64: i64,
        try_get_f64: f64,
    }
}

impl ByteBuf for Guarded {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.reads_left = self.reads_left.saturating_sub(1);
        self.bytes.split_to(size)
    }

    fn try_peek_bytes(
        &mut self,
        range: std::ops::Range<usize>,
    ) -> Result<Bytes, NotEnoughBytesError> {
        if range.end > self.bytes.len() {
            return Err(NotEnoughBytesError);
        }
        Ok(self.peek_bytes(range))
    }

    fn try_get_bytes(&mut self, size: usize) -> Result<Bytes, NotEnoughBytesError> {
        if size > self.bytes.len() || self.reads_left == 0 {
            return Err(NotEnoughBytesError);
        }
        Ok(self.get_bytes(size))
    }
}

#[cfg(test)]
mod tests;
