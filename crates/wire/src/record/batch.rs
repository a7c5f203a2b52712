//! Batches as they lie one behind the other in a produce request, a fetch response or a segment file.

use bytes::Bytes;

use super::body::Records;
use super::header::{TimestampType, check_magic, validate};
use super::{BATCH_OVERHEAD, BatchHeader, LOG_OVERHEAD};
use crate::error::WireError;

/// Position of the magic byte, the same in all message formats.
const MAGIC_AT: usize = 16;

/// One whole batch; its bytes are shared with what it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

impl Batch {
    /// Takes the batch at the front of `bytes`, which must be there completely. The CRC is not checked.
    pub fn parse(bytes: &Bytes) -> Result<Self, WireError> {
        let header = BatchHeader::parse(bytes)?;
        let size = header.size();
        if size > bytes.len() {
            return Err(header.impossible_length(bytes.len()));
        }
        Ok(Self { bytes: bytes.slice(..size), header })
    }

    /// Checks CRC and counts, see [`validate`].
    pub fn validate(&self) -> Result<(), WireError> {
        validate(&self.bytes).map(|_| ())
    }

    /// The records; at most `cap` bytes are decompressed.
    pub fn records(&self, cap: usize) -> Result<Records, WireError> {
        Records::new(&self.header, self.bytes.slice(BATCH_OVERHEAD..), cap)
    }

    /// The batch as a leader stores it: header with offset, epoch and (for `LogAppendTime` topics) time set,
    /// then the records as they are. Nothing but the 61 bytes of the header is copied.
    pub fn assigned(
        &self,
        base_offset: i64,
        leader_epoch: i32,
        log_append_time_ms: Option<i64>,
    ) -> (BatchHeader, [Bytes; 2]) {
        let mut header = self.header.clone();
        header.base_offset = base_offset;
        header.partition_leader_epoch = leader_epoch;
        let records = self.bytes.slice(BATCH_OVERHEAD..);
        if let Some(time_ms) = log_append_time_ms {
            header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
            header.max_timestamp = time_ms;
            let covered = crc32c::crc32c(&header.encode()[21..]);
            header.crc = crc32c::crc32c_append(covered, &records);
        }
        let head = Bytes::copy_from_slice(&header.encode());
        (header, [head, records])
    }
}

/// Iterates over the batches in `Bytes`.
///
/// A batch that is cut at the end is not an error, because a fetch may end anywhere: iteration stops and
/// [`BatchIter::rest`] has it. An old or unknown format, or an impossible length, is one, and ends iteration.
#[derive(Debug, Clone)]
pub struct BatchIter {
    rest: Bytes,
    failed: bool,
}

impl BatchIter {
    pub fn new(bytes: Bytes) -> Self {
        Self { rest: bytes, failed: false }
    }

    /// What has not been given out: after the end a cut batch, or nothing.
    pub fn rest(&self) -> &Bytes {
        &self.rest
    }

    fn take(&mut self) -> Result<Option<Batch>, WireError> {
        if let Some(&magic) = self.rest.get(MAGIC_AT) {
            check_magic(magic.cast_signed())?;
        }
        let Some(length) = self.rest.get(LOG_OVERHEAD - 4..LOG_OVERHEAD) else { return Ok(None) };
        let length = i32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        let size = usize::try_from(length).map_or(0, |length| length.saturating_add(LOG_OVERHEAD));
        if size >= BATCH_OVERHEAD && size > self.rest.len() {
            return Ok(None);
        }
        if self.rest.len() < BATCH_OVERHEAD && size < BATCH_OVERHEAD {
            let base_offset = self.rest.first_chunk().map_or(-1, |raw| i64::from_be_bytes(*raw));
            return Err(WireError::BatchLength {
                base_offset,
                batch_length: length,
                available: self.rest.len(),
            });
        }
        let batch = Batch::parse(&self.rest)?;
        self.rest = self.rest.slice(size..);
        Ok(Some(batch))
    }
}

impl Iterator for BatchIter {
    type Item = Result<Batch, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let batch = self.take().transpose();
        self.failed = matches!(batch, Some(Err(_)));
        batch
    }
}

impl std::iter::FusedIterator for BatchIter {}
