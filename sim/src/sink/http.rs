//! As much HTTP/1.1 as a broker speaks to a sink: requests with a length, answers with one, connections that are kept.

use std::io::{self, Read as _};

use flate2::read::GzDecoder;
use tailway_net::Stream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 16 << 20;

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Without what stands behind `?`.
    pub(super) path: String,
    /// Decompressed.
    pub(super) body: String,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// In seconds.
    pub(super) retry_after: Option<u32>,
    pub(super) body: String,
}

/// Reads the next request; `None`: the other end has closed.
pub(super) async fn read(stream: &mut Stream) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_BYTES_MAX {
            return Err(bad("its head has no end"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if head.is_empty() && error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    let head = String::from_utf8(head).map_err(|_| bad("its head is no text"))?;
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(bad("its first line is short"));
    };
    let (mut length, mut gzip) = (0, false);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().map_err(|_| bad("its length is none"))?,
            "content-encoding" => gzip = value == "gzip",
            _ => {}
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(bad("its body is too large"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let mut text = String::new();
    if gzip {
        GzDecoder::new(&body[..]).take(BODY_BYTES_MAX as u64).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8(body).map_err(|_| bad("its body is no text"))?;
    }
    let path = path.split('?').next().unwrap_or_default();
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), body: text }))
}

/// Writes an answer, or the first `cut` bytes of its body.
pub(super) async fn write(
    stream: &mut Stream,
    answer: &Answer,
    cut: Option<usize>,
) -> io::Result<()> {
    let Answer { status, retry_after, body } = answer;
    let retry_after =
        retry_after.map_or(String::new(), |seconds| format!("retry-after: {seconds}\r\n"));
    let head = format!(
        "HTTP/1.1 {status} Status\r\ncontent-type: application/json\r\n{retry_after}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let shown = body.as_bytes().get(..cut.unwrap_or(body.len())).unwrap_or_default();
    stream.write_all(shown).await?;
    stream.flush().await
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a request to the sink: {what}"))
}
