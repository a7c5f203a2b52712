//! gzip (RFC 1952), one or more members behind each other as Java's `GZIPInputStream` reads them.

use std::io::{Read, Write};

use flate2::Compression as Level;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::{Sink, corrupt};
use crate::error::WireError;
use crate::record::Compression;

/// Decompressed bytes that are taken out at a time.
const PIECE: usize = 16 << 10;

pub(in crate::record) fn compress(input: &[u8], out: &mut Vec<u8>) -> Result<(), WireError> {
    let failed = |cause| corrupt(Compression::Gzip, cause);
    let mut encoder = GzEncoder::new(out, Level::default());
    encoder.write_all(input).map_err(failed)?;
    encoder.finish().map_err(failed)?;
    Ok(())
}

pub(in crate::record) fn decompress(input: &[u8], sink: &mut Sink) -> Result<(), WireError> {
    let mut decoder = MultiGzDecoder::new(input);
    let mut piece = [0; PIECE];
    loop {
        let count = decoder.read(&mut piece).map_err(|cause| sink.corrupt(cause))?;
        if count == 0 {
            return Ok(());
        }
        sink.check_room(count)?;
        sink.out.extend_from_slice(&piece[..count]);
    }
}
