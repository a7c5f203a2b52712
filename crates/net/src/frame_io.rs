//! Kafka frames on a byte stream: a 4-byte big-endian length, then that many bytes.
//!
//! Reading never allocates for bytes that have not arrived: the buffer grows with what came, up
//! to the frame's length, which is checked against a cap first. Nothing is zero-filled or copied
//! out; the frame is a slice of the read buffer. A first word that is no length but the start of
//! TLS or HTTP is named as such. Reads may be cancelled and resumed: progress lives in the reader.

use std::io::{self, IoSlice};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest read-ahead asked for while no length is known.
const READ_AHEAD: usize = 4 * 1024;
/// First allocation for a frame whose body has not arrived.
const FIRST_GROWTH: usize = 64 * 1024;
/// A read buffer that served a larger frame is given back to the allocator.
const KEEP_BUFFER: usize = 64 * 1024;
/// As many slices as one `writev` takes in any case (Linux's IOV_MAX is 1,024).
const SLICES_PER_WRITE: usize = 64;

/// What the other side speaks instead of Kafka frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// A TLS handshake record: a TLS client on a plaintext port.
    TlsHandshake,
    /// A TLS alert record: a TLS server that did not understand plaintext.
    TlsAlert,
    /// HTTP, from its method or status line.
    Http,
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("{}", foreign_text(*.0))]
    Foreign(Foreign),
    #[error("a frame of {length} bytes was announced, more than the {cap} allowed")]
    TooLarge { length: usize, cap: usize },
    #[error("a frame of negative length {length} was announced")]
    NegativeLength { length: i32 },
    #[error("the connection was closed after {got} of {expected} bytes of a frame")]
    Cut { got: usize, expected: usize },
    #[error("{}", crate::explain::io_error(.0))]
    Io(#[source] io::Error),
}

fn foreign_text(foreign: Foreign) -> &'static str {
    match foreign {
        Foreign::TlsHandshake => {
            "the peer speaks TLS, this port is plaintext: use the TLS port, or switch TLS off there"
        }
        Foreign::TlsAlert => "the peer answers in TLS, plaintext was sent: switch TLS on",
        Foreign::Http => "the peer speaks HTTP, this is a Kafka port",
    }
}

/// Reads frames from `R`.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
    cap: usize,
    started: bool,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames longer than `cap` bytes are an error.
    pub fn new(inner: R, cap: usize) -> Self {
        Self { inner, buffer: BytesMut::new(), cap, started: false }
    }

    /// The next frame without its length; `None` when the peer closed between frames.
    /// Safe to cancel: a later call goes on where this one stopped.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        loop {
            let wanted = match self.announced()? {
                Some(length) if self.buffer.len() >= 4 + length => {
                    self.started = true;
                    self.buffer.advance(4);
                    let frame = self.buffer.split_to(length).freeze();
                    if self.buffer.is_empty() && length > KEEP_BUFFER {
                        self.buffer = BytesMut::new();
                    }
                    return Ok(Some(frame));
                }
                Some(length) => {
                    let missing = 4 + length - self.buffer.len();
                    missing.min(FIRST_GROWTH.max(3 * self.buffer.len()))
                }
                None => READ_AHEAD,
            };
            self.buffer.reserve(wanted);
            if self.inner.read_buf(&mut self.buffer).await.map_err(FrameError::Io)? == 0 {
                return self.at_end();
            }
        }
    }

    /// The announced length of the next frame, before its body is read: for a reader that first makes room for it.
    /// `None` when the peer closed between frames. Safe to cancel.
    pub async fn next_length(&mut self) -> Result<Option<usize>, FrameError> {
        loop {
            if let Some(length) = self.announced()? {
                return Ok(Some(length));
            }
            self.buffer.reserve(READ_AHEAD);
            if self.inner.read_buf(&mut self.buffer).await.map_err(FrameError::Io)? == 0 {
                return self.at_end().map(|_| None);
            }
        }
    }

    /// Whether a part of a frame has arrived: a peer that stops here is stalled, not idle.
    pub fn mid_frame(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Whether any whole frame has been read.
    pub fn started(&self) -> bool {
        self.started
    }

    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The length of the frame at the front, once its four bytes are there and plausible.
    fn announced(&self) -> Result<Option<usize>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        if let Some(foreign) = recognise(*prefix) {
            return Err(FrameError::Foreign(foreign));
        }
        let length = i32::from_be_bytes(*prefix);
        let length = usize::try_from(length).map_err(|_| FrameError::NegativeLength { length })?;
        if length > self.cap {
            return Err(FrameError::TooLarge { length, cap: self.cap });
        }
        Ok(Some(length))
    }

    fn at_end(&self) -> Result<Option<Bytes>, FrameError> {
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let expected = self.announced()?.map_or(4, |length| 4 + length);
        Err(FrameError::Cut { got: self.buffer.len(), expected })
    }
}

/// As a length each of these would be hundreds of megabytes, so no frame is mistaken for one.
fn recognise(prefix: [u8; 4]) -> Option<Foreign> {
    match prefix {
        [0x16, 3, 0..=4, _] => Some(Foreign::TlsHandshake),
        [0x15, 3, 0..=4, _] => Some(Foreign::TlsAlert),
        [b'G', b'E', b'T', b' '] | [b'P', b'O', b'S', b'T'] | [b'P', b'U', b'T', b' '] => {
            Some(Foreign::Http)
        }
        [b'H', b'E', b'A', b'D'] | [b'H', b'T', b'T', b'P'] | [b'O', b'P', b'T', b'I'] => {
            Some(Foreign::Http)
        }
        _ => None,
    }
}

/// Writes the segments in order, as few system calls as the writer allows, and flushes.
pub async fn write_segments<W: AsyncWrite + Unpin>(
    writer: &mut W,
    segments: &[Bytes],
) -> io::Result<()> {
    let mut index = 0;
    let mut offset = 0;
    while index < segments.len() {
        let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
        let mut used = 0;
        for (slot, segment) in slices.iter_mut().zip(&segments[index..]) {
            let from = if used == 0 { offset } else { 0 };
            *slot = IoSlice::new(&segment[from..]);
            used += 1;
        }
        let slices = &slices[..used];
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut written = if total == 0 { 0 } else { writer.write_vectored(slices).await? };
        if total > 0 && written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        for segment in &segments[index..index + used] {
            let left = segment.len() - offset;
            if written < left {
                offset += written;
                break;
            }
            written -= left;
            offset = 0;
            index += 1;
        }
    }
    writer.flush().await
}
