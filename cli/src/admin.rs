//! What a running daemon says of itself: `/status` of its admin port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// It answers from memory.
const TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Asks the daemon called `what`.
pub(crate) fn status(address: SocketAddr, what: &str) -> Result<Value> {
    let unreachable = || format!("no {what} answers on {address}; is it running?");
    let (first, body) = get(address, "/status").with_context(unreachable)?;
    ensure!(first.contains(" 200"), "{address} answered /status with {first:?}");
    serde_json::from_slice(&body).with_context(|| format!("{address} sent no JSON"))
}

/// Whether a daemon answers there and says that it is ready.
pub(crate) fn is_ready(address: SocketAddr) -> bool {
    get(address, "/readyz").is_ok_and(|(first, _)| first.contains(" 200"))
}

/// The first line of the answer, and its body.
fn get(address: SocketAddr, path: &str) -> std::io::Result<(String, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let head_end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(head_end.map_or(answer.len(), |at| at + 4));
    let head = String::from_utf8_lossy(head);
    let first = head.lines().next().unwrap_or_default();
    Ok((first.to_owned(), body.to_vec()))
}
