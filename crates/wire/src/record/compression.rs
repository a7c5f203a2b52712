//! The five codecs of Kafka, by the id in a batch's attributes.
//!
//! Decompression is streaming and capped: the output grows as bytes really come out, so that a bomb costs
//! what was decompressed before the cap and not what it claims. All formats are those that Kafka's Java
//! client writes and reads: xerial framing for snappy, 64 KiB independent blocks for lz4.

use std::fmt;

use bytes::Bytes;

use super::codec::{Sink, gzip, lz4, snappy, zstd};
use crate::error::WireError;

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// All codecs by ascending id.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The id in the attributes of a batch.
    pub const fn id(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Gzip => 1,
            Self::Snappy => 2,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    pub fn from_id(id: i16) -> Result<Self, WireError> {
        Self::ALL.into_iter().find(|codec| codec.id() == id).ok_or(WireError::UnknownCodec { id })
    }

    /// Kafka's name, as in `compression.type`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Reads Kafka's name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Compresses `input` with a fresh [`Compressor`]; to compress often, keep one.
    pub fn compress(self, input: &[u8]) -> Result<Bytes, WireError> {
        let mut out = Vec::new();
        Compressor::new(self).compress(input, &mut out)?;
        Ok(Bytes::from(out))
    }

    /// Decompresses `input` to at most `cap` bytes. `None` shares the input (and is capped too).
    pub fn decompress(self, input: &Bytes, cap: usize) -> Result<Bytes, WireError> {
        let mut sink = Sink::new(self, cap);
        match self {
            Self::None => {
                sink.check_room(input.len())?;
                return Ok(input.clone());
            }
            Self::Gzip => gzip::decompress(input, &mut sink)?,
            Self::Snappy => snappy::decompress(input, &mut sink)?,
            Self::Lz4 => lz4::decompress(input, &mut sink)?,
            Self::Zstd => zstd::decompress(input, &mut sink)?,
        }
        sink.finish()
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A codec with the working memory that is worth keeping between batches.
pub struct Compressor {
    codec: Compression,
    zstd: Option<zstd::Compressor>,
    snappy: Option<snappy::Compressor>,
}

impl Compressor {
    /// zstd works at level 1 (on log text better and faster than any lz4), gzip at its usual 6.
    pub fn new(codec: Compression) -> Self {
        Self { codec, zstd: None, snappy: None }
    }

    pub fn codec(&self) -> Compression {
        self.codec
    }

    /// Appends the compressed form of `input` to `out`.
    pub fn compress(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
        match self.codec {
            Compression::None => out.extend_from_slice(input),
            Compression::Gzip => gzip::compress(input, out)?,
            Compression::Snappy => {
                self.snappy.get_or_insert_with(snappy::Compressor::new).compress(input, out)?;
            }
            Compression::Lz4 => lz4::compress(input, out)?,
            Compression::Zstd => {
                let zstd = match &mut self.zstd {
                    Some(zstd) => zstd,
                    unset => unset.insert(zstd::Compressor::new()?),
                };
                zstd.compress(input, out)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor").field("codec", &self.codec).finish_non_exhaustive()
    }
}
