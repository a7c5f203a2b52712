//! The lz4 frame format as Kafka uses it: independent blocks of 64 KiB are written; anything the format
//! allows except dictionaries is read (Kafka itself refuses linked blocks, some clients write them).
//!
//! The frames of message formats 0 and 1 had a wrong header checksum; those formats are not supported, so the
//! checksum is always the right one. Blocks are decoded into as much memory as the block can really give
//! (lz4 expands at most 255 times), not into what the frame's block size announces.

use lz4_flex::block;

use super::xxh32::xxh32;
use super::{Sink, block_length, corrupt};
use crate::error::WireError;
use crate::record::Compression;

const MAGIC: u32 = 0x184d_2204;
/// Version 1, blocks independent, no checksums, no content size.
const FLAGS: u8 = 0x60;
/// Blocks of at most 64 KiB.
const BLOCK_SIZE: u8 = 0x40;
const BLOCK: usize = 64 << 10;
/// How far back a match may reach into earlier (linked) blocks.
const WINDOW: usize = 64 << 10;
/// In a block's length: the block is stored, not compressed.
const STORED: u32 = 0x8000_0000;
/// lz4's best case, plus room for a last short sequence.
const MAX_EXPANSION: usize = 255;

pub(in crate::record) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[FLAGS, BLOCK_SIZE, header_checksum(&[FLAGS, BLOCK_SIZE])]);
    for piece in input.chunks(BLOCK) {
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        let start = out.len();
        out.resize(start + block::get_maximum_output_size(piece.len()), 0);
        let written = block::compress_into(piece, &mut out[start..])
            .map_err(|cause| corrupt(Compression::Lz4, cause))?;
        // A block may not be larger than what it holds: then it is stored as it is.
        let (size, stored) = if written < piece.len() {
            out.truncate(start + written);
            (written, 0)
        } else {
            out.truncate(start);
            out.extend_from_slice(piece);
            (piece.len(), STORED)
        };
        let length = block_length(Compression::Lz4, size)? | stored;
        out[length_at..start].copy_from_slice(&length.to_le_bytes());
    }
    out.extend_from_slice(&0_u32.to_le_bytes());
    Ok(())
}

pub(in crate::record) fn decompress(input: &[u8], sink: &mut Sink) -> Result<(), WireError> {
    let mut rest = input;
    loop {
        let frame_start = sink.out.len();
        let frame = Frame::parse(&mut rest, sink)?;
        while frame.block(&mut rest, frame_start, sink)? {}
        frame.end(&mut rest, frame_start, sink)?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

/// What the header of a frame says.
struct Frame {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    block_max: usize,
}

impl Frame {
    fn parse(rest: &mut &[u8], sink: &Sink) -> Result<Self, WireError> {
        if u32::from_le_bytes(take(rest, sink)?) != MAGIC {
            return Err(sink.corrupt("it does not start with the lz4 frame magic"));
        }
        let described = *rest;
        let [flags, block_size] = take(rest, sink)?;
        if flags & 0xc0 != 0x40 || flags & 0x02 != 0 || block_size & 0x8f != 0 {
            return Err(sink.corrupt("unknown flags in the frame header"));
        }
        if flags & 0x01 != 0 {
            return Err(sink.corrupt("dictionaries are not supported"));
        }
        let content_size =
            if flags & 0x08 == 0 { None } else { Some(u64::from_le_bytes(take(rest, sink)?)) };
        let described = &described[..described.len() - rest.len()];
        let [checksum] = take(rest, sink)?;
        if checksum != header_checksum(described) {
            return Err(sink.corrupt("the frame header fails its checksum"));
        }
        let block_max = match block_size >> 4 {
            4 => BLOCK,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return Err(sink.corrupt("unknown block size in the frame header")),
        };
        Ok(Self {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 0x04 != 0,
            content_size,
            block_max,
        })
    }

    /// Reads one block; `false` at the end mark.
    fn block(
        &self,
        rest: &mut &[u8],
        frame_start: usize,
        sink: &mut Sink,
    ) -> Result<bool, WireError> {
        let length = u32::from_le_bytes(take(rest, sink)?);
        if length == 0 {
            return Ok(false);
        }
        let stored = length & STORED != 0;
        let length = (length & !STORED) as usize;
        if length > self.block_max {
            return Err(sink.corrupt("a block is larger than the frame allows"));
        }
        let Some((data, behind)) = rest.split_at_checked(length) else {
            return Err(sink.corrupt("it ends inside a block"));
        };
        *rest = behind;
        if self.block_checksums && u32::from_le_bytes(take(rest, sink)?) != xxh32(data) {
            return Err(sink.corrupt("a block fails its checksum"));
        }
        if stored {
            sink.check_room(data.len())?;
            sink.out.extend_from_slice(data);
        } else {
            self.unpack(data, frame_start, sink)?;
        }
        Ok(true)
    }

    fn unpack(&self, data: &[u8], frame_start: usize, sink: &mut Sink) -> Result<(), WireError> {
        let start = sink.out.len();
        let believable = data.len().saturating_mul(MAX_EXPANSION).saturating_add(16);
        let block_max = self.block_max.min(believable);
        // One byte above the cap tells a block that is too large from one that is corrupt.
        let room = block_max.min((sink.cap - start).saturating_add(1));
        sink.out.resize(start + room, 0);
        let (before, target) = sink.out.split_at_mut(start);
        let window = if self.linked { &before[frame_start..] } else { &[] };
        let window = &window[window.len().saturating_sub(WINDOW)..];
        let written = block::decompress_into_with_dict(data, target, window);
        let written = match written {
            Ok(written) => written,
            Err(block::DecompressError::OutputTooSmall { .. }) if room < block_max => {
                return Err(sink.too_large());
            }
            Err(cause) => return Err(sink.corrupt(cause)),
        };
        sink.out.truncate(start + written);
        sink.check_room(0)
    }

    fn end(&self, rest: &mut &[u8], frame_start: usize, sink: &Sink) -> Result<(), WireError> {
        let content = &sink.out[frame_start..];
        if self.content_checksum && u32::from_le_bytes(take(rest, sink)?) != xxh32(content) {
            return Err(sink.corrupt("the content fails its checksum"));
        }
        if self.content_size.is_some_and(|size| size != content.len() as u64) {
            return Err(sink.corrupt("the content is not as long as announced"));
        }
        Ok(())
    }
}

fn take<const N: usize>(rest: &mut &[u8], sink: &Sink) -> Result<[u8; N], WireError> {
    let Some((taken, behind)) = rest.split_first_chunk::<N>() else {
        return Err(sink.corrupt("it ends too early"));
    };
    *rest = behind;
    Ok(*taken)
}

fn header_checksum(described: &[u8]) -> u8 {
    let [_, second, ..] = xxh32(described).to_le_bytes();
    second
}
