//! Snappy in xerial framing, as Kafka's Java client writes and reads it; raw snappy is read too, because
//! some clients write it.
//!
//! Xerial: an 8-byte magic, version and lowest compatible version (i32 each, 1), then blocks, each a length
//! (i32) and raw snappy of at most 32 KiB. Files put behind each other repeat the 16 bytes.

use snap::raw::{Decoder, Encoder, decompress_len, max_compress_len};

use super::{Sink, block_length, corrupt};
use crate::error::WireError;
use crate::record::Compression;

const MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const VERSION: i32 = 1;
const HEADER: usize = 16;
const BLOCK: usize = 32 << 10;
/// Snappy's best case is 64 bytes out of a 3-byte copy; a block that claims more is lying.
const MAX_EXPANSION: usize = 22;

/// Keeps the hash table of the encoder.
pub(in crate::record) struct Compressor(Encoder);

impl Compressor {
    pub(in crate::record) fn new() -> Self {
        Self(Encoder::new())
    }

    pub(in crate::record) fn compress(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_be_bytes());
        out.extend_from_slice(&VERSION.to_be_bytes());
        for piece in input.chunks(BLOCK) {
            let length_at = out.len();
            out.extend_from_slice(&[0; 4]);
            let start = out.len();
            out.resize(start + max_compress_len(piece.len()), 0);
            let written = self
                .0
                .compress(piece, &mut out[start..])
                .map_err(|cause| corrupt(Compression::Snappy, cause))?;
            out.truncate(start + written);
            let length = block_length(Compression::Snappy, written)?;
            out[length_at..start].copy_from_slice(&length.to_be_bytes());
        }
        Ok(())
    }
}

pub(in crate::record) fn decompress(input: &[u8], sink: &mut Sink) -> Result<(), WireError> {
    let mut decoder = Decoder::new();
    if !input.starts_with(MAGIC) {
        return block(&mut decoder, input, sink);
    }
    let mut rest = input;
    while !rest.is_empty() {
        if rest.starts_with(MAGIC) {
            rest = rest.get(HEADER..).ok_or_else(|| sink.corrupt("it ends inside its header"))?;
            continue;
        }
        let Some((length, behind)) = rest.split_first_chunk::<4>() else {
            return Err(sink.corrupt("it ends inside a block length"));
        };
        let length = u32::from_be_bytes(*length) as usize;
        let Some((data, behind)) = behind.split_at_checked(length) else {
            return Err(sink.corrupt("it ends inside a block"));
        };
        block(&mut decoder, data, sink)?;
        rest = behind;
    }
    Ok(())
}

fn block(decoder: &mut Decoder, data: &[u8], sink: &mut Sink) -> Result<(), WireError> {
    let size = decompress_len(data).map_err(|cause| sink.corrupt(cause))?;
    sink.check_room(size)?;
    if size > data.len().saturating_mul(MAX_EXPANSION) {
        return Err(sink.corrupt("a block claims more than snappy can hold"));
    }
    let start = sink.out.len();
    sink.out.resize(start + size, 0);
    decoder.decompress(data, &mut sink.out[start..]).map_err(|cause| sink.corrupt(cause))?;
    Ok(())
}
