//! The bytes of a journal file, and reading them without trust.
//!
//! ```text
//! header, 40 bytes: magic 8 | layout u16 | version u16 | identity 16 | zeros 8 | crc u32 of all before
//! frame, 20 bytes:  len u32 | synced u64 | payload crc u32 | header crc u32 of (position u64, all before), then payload
//! ```
//! Numbers are little-endian, checksums CRC-32C. Nothing is allocated beyond the file's own length or the record bound.

use std::path::Path;

use bytes::Bytes;

use crate::journal::JournalFormat;
use crate::{DiskFile, StorageError};

const HEADER_LEN: usize = 40;
const FRAME_LEN: usize = 20;

/// Their lengths, as distances in the file.
pub(crate) const HEADER_BYTES: u64 = HEADER_LEN as u64;
pub(crate) const FRAME_BYTES: u64 = FRAME_LEN as u64;

pub(crate) type EncodedFrameHeader = [u8; FRAME_LEN];

/// Version of header and frame themselves.
const LAYOUT: u16 = 1;

/// What the file says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JournalHeader {
    pub(crate) version: u16,
    pub(crate) identity: [u8; 16],
}

impl JournalHeader {
    pub(crate) fn encode(&self, magic: [u8; 8]) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&magic);
        out[8..10].copy_from_slice(&LAYOUT.to_le_bytes());
        out[10..12].copy_from_slice(&self.version.to_le_bytes());
        out[12..28].copy_from_slice(&self.identity);
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// What stands before each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) len: u32,
    /// Everything below this position was durable when the frame was written.
    pub(crate) synced: u64,
    pub(crate) payload_crc: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, position: u64) -> EncodedFrameHeader {
        let mut out = [0; FRAME_LEN];
        out[..4].copy_from_slice(&self.len.to_le_bytes());
        out[4..12].copy_from_slice(&self.synced.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&position.to_le_bytes()), &out[..16]);
        out[16..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at `position`, if its checksum says that it is one.
    fn decode(position: u64, bytes: &[u8]) -> Option<FrameHeader> {
        let header = FrameHeader {
            len: u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?),
            synced: u64::from_le_bytes(bytes.get(4..12)?.try_into().ok()?),
            payload_crc: u32::from_le_bytes(bytes.get(12..16)?.try_into().ok()?),
        };
        (bytes.get(..FRAME_LEN)? == header.encode(position)).then_some(header)
    }
}

/// The whole records that follow each other in `bytes`, which stand at `position` of their file; the header is passed over.
pub(crate) fn frames_in(bytes: &[u8], position: u64) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = if position == 0 { bytes.get(HEADER_LEN..).unwrap_or_default() } else { bytes };
    let mut position = position.max(HEADER_BYTES);
    std::iter::from_fn(move || {
        let header = FrameHeader::decode(position, rest)?;
        let (frame, behind) = rest.split_at_checked(FRAME_LEN + header.len as usize)?;
        let (at, payload) = (position, &frame[FRAME_LEN..]);
        (rest, position) = (behind, position + frame.len() as u64);
        (crc32c::crc32c(payload) == header.payload_crc).then_some((at, payload))
    })
}

/// Reads a journal file front to back through one buffer.
pub(crate) struct Scanner<'a> {
    file: &'a dyn DiskFile,
    file_len: u64,
    record_bytes_max: u32,
    chunk_bytes: u64,
    buffer: Vec<u8>,
    buffer_start: u64,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(
        file: &'a dyn DiskFile,
        record_bytes_max: u32,
        chunk_bytes: u64,
    ) -> Result<Scanner<'a>, StorageError> {
        let file_len = file.len()?;
        let buffer = Vec::new();
        Ok(Scanner { file, file_len, record_bytes_max, chunk_bytes, buffer, buffer_start: 0 })
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Reads and checks the file's header. It was made by an atomic replace, so a bad one is damage, never a torn write.
    pub(crate) fn header(&mut self, format: &JournalFormat) -> Result<JournalHeader, StorageError> {
        let path = self.file.path().to_path_buf();
        let foreign = |reason| StorageError::Foreign { path: path.clone(), reason };
        let corrupt = |reason: &str| StorageError::Corrupt {
            path: path.clone(),
            offset: 0,
            reason: reason.to_owned(),
        };
        let bytes =
            self.bytes(0, HEADER_BYTES)?.ok_or(corrupt("the file is shorter than its header"))?;
        let crc = crc32c::crc32c(&bytes[..36]).to_le_bytes();
        if bytes[36..] != crc {
            return Err(corrupt("the file's header fails its checksum"));
        }
        if bytes[..8] != format.magic {
            return Err(foreign(format!("it is a `{}`", bytes[..8].escape_ascii())));
        }
        let layout = u16::from_le_bytes([bytes[8], bytes[9]]);
        let version = u16::from_le_bytes([bytes[10], bytes[11]]);
        if layout > LAYOUT || version > format.version {
            return Err(foreign(format!(
                "it has version {layout}.{version}; this release reads up to {LAYOUT}.{}",
                format.version
            )));
        }
        let mut identity = [0; 16];
        identity.copy_from_slice(&bytes[12..28]);
        if format.identity != [0; 16] && identity != format.identity {
            let hex = |id: [u8; 16]| id.map(|byte| format!("{byte:02x}")).concat();
            return Err(foreign(format!(
                "it belongs to {}, not to {}",
                hex(identity),
                hex(format.identity)
            )));
        }
        Ok(JournalHeader { version, identity })
    }

    /// The record at `position`, or None if no good one starts there. A good header with a length beyond the bound is an
    /// error: it must not be mistaken for a torn tail because somebody lowered the bound.
    pub(crate) fn frame(&mut self, position: u64) -> Result<Option<Bytes>, StorageError> {
        let Some(header) = self.frame_header(position)? else { return Ok(None) };
        if header.len > self.record_bytes_max {
            return Err(StorageError::TooLarge {
                path: self.file.path().to_path_buf(),
                bytes: header.len as usize,
                bytes_max: self.record_bytes_max as usize,
            });
        }
        let payload = self.bytes(position + FRAME_BYTES, u64::from(header.len))?;
        Ok(payload
            .filter(|payload| {
                crc32c::crc32c(payload) == header.payload_crc
                    || tailway_faults::is_planted("storage.journal_bad_crc")
            })
            .map(Bytes::copy_from_slice))
    }

    /// The position of a good frame after `position` that was written when `position` was already durable.
    pub(crate) fn witness_of(&mut self, position: u64) -> Result<Option<u64>, StorageError> {
        for candidate in position + 1..self.file_len {
            let Some(header) = self.frame_header(candidate)? else { continue };
            let testifies = header.synced > position && header.synced <= candidate;
            if testifies && header.len <= self.record_bytes_max && self.frame(candidate)?.is_some()
            {
                return Ok(Some(candidate));
            }
        }
        Ok(None)
    }

    fn frame_header(&mut self, position: u64) -> Result<Option<FrameHeader>, StorageError> {
        let bytes = self.bytes(position, FRAME_BYTES)?;
        Ok(bytes.and_then(|bytes| FrameHeader::decode(position, bytes)))
    }

    /// A piece of the file, or None if it reaches beyond the end.
    fn bytes(&mut self, position: u64, len: u64) -> Result<Option<&[u8]>, StorageError> {
        let Some(end) = position.checked_add(len).filter(|end| *end <= self.file_len) else {
            return Ok(None);
        };
        let buffered = self.buffer_start + self.buffer.len() as u64;
        if position < self.buffer_start || end > buffered {
            let want = len.max(self.chunk_bytes).min(self.file_len - position);
            self.buffer.resize(to_usize(want, self.file.path())?, 0);
            self.buffer_start = position;
            let read = self.file.read_at(&mut self.buffer, position);
            // Shorter only if the file shrank under us, which its one writer does not do.
            let read = read.inspect_err(|_| self.buffer.clear())?;
            self.buffer.truncate(read);
        }
        let start = to_usize(position - self.buffer_start, self.file.path())?;
        Ok(self.buffer.get(start..start + to_usize(len, self.file.path())?))
    }
}

fn to_usize(len: u64, path: &Path) -> Result<usize, StorageError> {
    usize::try_from(len).map_err(|_| {
        StorageError::io("read", path, std::io::Error::from(std::io::ErrorKind::OutOfMemory))
    })
}
