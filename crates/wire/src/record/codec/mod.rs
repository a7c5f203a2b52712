//! The codecs themselves: one file each, all appending to a capped sink or a plain buffer.

pub(super) mod gzip;
pub(super) mod lz4;
pub(super) mod snappy;
mod xxh32;
pub(super) mod zstd;

use bytes::Bytes;

use super::Compression;
use crate::error::WireError;

/// Room that is made at a time while decompressing, at first.
const FIRST_ROOM: usize = 4096;

/// How much larger than its input an output may be for memory to be reserved on its word alone.
const BELIEVABLE_EXPANSION: usize = 64;

/// Where decompressed bytes go: grows with what arrives, never past the cap.
pub(super) struct Sink {
    out: Vec<u8>,
    codec: Compression,
    cap: usize,
}

impl Sink {
    pub(super) fn new(codec: Compression, cap: usize) -> Self {
        Self { out: Vec::new(), codec, cap }
    }

    /// Fails if `count` more bytes would pass the cap.
    pub(super) fn check_room(&self, count: usize) -> Result<(), WireError> {
        if count > self.cap.saturating_sub(self.out.len()) {
            return Err(self.too_large());
        }
        Ok(())
    }

    /// Makes room for the next piece of unknown size: doubles, starting small. There is room for one byte
    /// above the cap, so that reaching the cap exactly is told from passing it.
    fn grow(&mut self) -> Result<(), WireError> {
        if self.out.len() > self.cap {
            return Err(self.too_large());
        }
        if self.out.len() == self.out.capacity() {
            let most = (self.cap - self.out.len()).saturating_add(1);
            self.out.reserve_exact(self.out.len().max(FIRST_ROOM).min(most));
        }
        Ok(())
    }

    /// Makes room for what `input` claims to hold, if the claim is believable; else for the first piece.
    fn expect(&mut self, claimed: Option<u64>, input: usize) {
        let believable = self.cap.min(input.saturating_mul(BELIEVABLE_EXPANSION));
        let claimed = claimed.and_then(|claimed| usize::try_from(claimed).ok());
        if let Some(claimed) = claimed.filter(|claimed| *claimed <= believable) {
            self.out.reserve_exact(claimed);
        }
    }

    /// The decompressed bytes.
    pub(super) fn finish(self) -> Result<Bytes, WireError> {
        if self.out.len() > self.cap {
            return Err(self.too_large());
        }
        Ok(Bytes::from(self.out))
    }

    fn too_large(&self) -> WireError {
        WireError::DecompressedTooLarge { codec: self.codec, cap: self.cap }
    }

    fn corrupt(&self, cause: impl ToString) -> WireError {
        corrupt(self.codec, cause)
    }
}

/// The length of a block as both framings write it.
fn block_length(codec: Compression, size: usize) -> Result<u32, WireError> {
    u32::try_from(size).map_err(|_| corrupt(codec, "a block is too large"))
}

fn corrupt(codec: Compression, cause: impl ToString) -> WireError {
    WireError::Codec { codec, cause: cause.to_string() }
}

#[cfg(test)]
mod tests;
