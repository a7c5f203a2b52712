//! Zstandard, one or more frames behind each other.
//!
//! Decoding streams, so that neither the content size nor the window that a frame claims is trusted: the
//! output grows with what comes out, and what is reserved at once is some times the input at most. A window
//! is address space until it is written to.

use ::zstd::bulk;
use ::zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};
use ::zstd::zstd_safe;

use super::{Sink, corrupt};
use crate::error::WireError;
use crate::record::Compression;

const LEVEL: i32 = 1;

/// A compression context; worth keeping, it has some hundred KiB.
pub(in crate::record) struct Compressor(bulk::Compressor<'static>);

impl Compressor {
    pub(in crate::record) fn new() -> Result<Self, WireError> {
        let context = bulk::Compressor::new(LEVEL);
        context.map(Self).map_err(|cause| corrupt(Compression::Zstd, cause))
    }

    pub(in crate::record) fn compress(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let start = out.len();
        out.reserve(zstd_safe::compress_bound(input.len()));
        let mut buffer = std::io::Cursor::new(out);
        buffer.set_position(start as u64);
        let written = self.0.compress_to_buffer(input, &mut buffer);
        written.map_err(|cause| corrupt(Compression::Zstd, cause))?;
        Ok(())
    }
}

pub(in crate::record) fn decompress(input: &[u8], sink: &mut Sink) -> Result<(), WireError> {
    if input.is_empty() {
        return Err(sink.corrupt("it is empty"));
    }
    let mut decoder = Decoder::new().map_err(|cause| sink.corrupt(cause))?;
    // With room for all of it, zstd decodes straight into the output, without a window of its own.
    sink.expect(zstd_safe::get_frame_content_size(input).unwrap_or_default(), input.len());
    let mut source = InBuffer::around(input);
    // 0 when a frame is complete, else a hint that more is to come.
    let mut expected = 0;
    while source.pos() < input.len() || expected > 0 {
        let before = (source.pos(), sink.out.len());
        sink.grow()?;
        let start = sink.out.len();
        let mut target = OutBuffer::around_pos(&mut sink.out, start);
        let result = decoder.run(&mut source, &mut target);
        expected = result.map_err(|cause| corrupt(Compression::Zstd, cause))?;
        if (source.pos(), sink.out.len()) == before && expected > 0 {
            return Err(sink.corrupt("it ends inside a frame"));
        }
    }
    Ok(())
}
