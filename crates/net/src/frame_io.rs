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

/// How HTTP requests and responses begin.
const HTTP: [&[u8; 4]; 6] = [b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"HTTP"];

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
        Foreign::TlsAlert => {
            "the peer answers in TLS, plaintext was sent: switch TLS on (--tls-ca FILE on the command line)"
        }
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

    /// The stream itself, to write to.
    pub fn inner_mut(&mut self) -> &mut R {
        &mut self.inner
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
        _ if HTTP.contains(&&prefix) => Some(Foreign::Http),
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// Gives one piece per read, then the end.
    struct Pieces(Vec<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if !self.0.is_empty() {
                let piece = self.0.remove(0);
                buf.put_slice(&piece);
            }
            Poll::Ready(Ok(()))
        }
    }

    fn frame(body: &[u8]) -> Vec<u8> {
        let mut whole = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        whole.extend_from_slice(body);
        whole
    }

    #[tokio::test]
    async fn frames_come_out_whole_however_they_are_cut() {
        let bodies: [&[u8]; 4] = [b"", b"a", b"hello", &[7; 5000]];
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| frame(body)).collect();
        for size in [1, 2, 3, 5, 64, 1000, 4096] {
            let pieces = bytes.chunks(size).map(<[u8]>::to_vec).collect();
            let mut reader = FrameReader::new(Pieces(pieces), 5000);
            for body in bodies {
                assert_eq!(reader.next().await.unwrap().unwrap(), body, "pieces of {size}");
            }
            assert!(reader.next().await.unwrap().is_none());
            assert!(reader.started() && !reader.mid_frame());
        }
    }

    #[tokio::test]
    async fn an_announced_length_alone_allocates_little() {
        let mut bytes = (100_i32 << 20).to_be_bytes().to_vec();
        bytes.extend_from_slice(&[1; 100]);
        let mut reader = FrameReader::new(Pieces(vec![bytes]), 200 << 20);
        let error = reader.next().await.unwrap_err();
        assert!(
            matches!(error, FrameError::Cut { got: 104, expected } if expected == 4 + (100 << 20)),
            "{error:?}"
        );
        assert!(reader.buffer.capacity() <= 2 * FIRST_GROWTH, "{}", reader.buffer.capacity());
    }

    #[tokio::test]
    async fn what_is_no_frame_is_named() {
        for (bytes, text) in [
            (&b"\x16\x03\x01\x02\x00"[..], "the peer speaks TLS"),
            (b"\x15\x03\x03\x00\x02\x02\x16", "the peer answers in TLS"),
            (b"GET / HTTP/1.1", "the peer speaks HTTP"),
            (b"HTTP/1.1 400 Bad Request", "the peer speaks HTTP"),
            (b"\xff\xff\xff\xff", "negative length -1"),
            (b"\x00\x01\x00\x00", "65536 bytes was announced, more than the 1000"),
            (b"\x00\x00", "closed after 2 of 4 bytes"),
            (b"\x00\x00\x00\x05abc", "closed after 7 of 9 bytes"),
        ] {
            let mut reader = FrameReader::new(Pieces(vec![bytes.to_vec()]), 1000);
            let error = reader.next().await.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_nothing() {
        let (client, mut server) = tokio::io::duplex(64);
        let mut reader = FrameReader::new(client, 100);
        let bytes = frame(b"hello");
        for byte in bytes {
            // Nothing whole is there yet: the read is given up, the byte stays.
            tokio::select! {
                biased;
                frame = reader.next() => panic!("{frame:?}"),
                () = std::future::ready(()) => {}
            }
            server.write_all(&[byte]).await.unwrap();
        }
        assert_eq!(reader.next().await.unwrap().unwrap(), &b"hello"[..]);
    }

    /// Takes at most `limit` bytes per write.
    struct Narrow {
        limit: usize,
        taken: Vec<u8>,
        flushed: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let limit = self.limit;
            let bytes: Vec<u8> =
                bufs.iter().flat_map(|buf| buf.iter()).copied().take(limit).collect();
            self.taken.extend_from_slice(&bytes);
            self.flushed = false;
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushed = true;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn segments_are_written_in_order_however_little_is_taken() {
        let segments: Vec<Bytes> = (0..200_u8)
            .map(|n| Bytes::from(vec![n; usize::from(n % 7)]))
            .chain([Bytes::from(vec![9; 3000])])
            .collect();
        let expected: Vec<u8> = segments.iter().flatten().copied().collect();
        for limit in [1, 2, 6, 7, 100, 100_000] {
            let mut writer = Narrow { limit, taken: Vec::new(), flushed: false };
            write_segments(&mut writer, &segments).await.unwrap();
            assert_eq!(writer.taken, expected, "{limit}");
            assert!(writer.flushed);
        }
        let mut stuck = Narrow { limit: 0, taken: Vec::new(), flushed: false };
        let error = write_segments(&mut stuck, &segments).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
        write_segments(&mut stuck, &[Bytes::new()]).await.unwrap();
    }
}
