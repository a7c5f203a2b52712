//! One end of a simulated connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tailway_runtime::sim::{draw, note};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};

use super::pipe::{Found, SharedPipe};
use super::{NET, break_off, draw_delay, heard};
use crate::peer::PeerIdentity;

/// One in this many reads and writes is cut short.
const SHORT_ONE_IN: u32 = 8;

/// One end. Dropping it closes the connection, unless its host has lost power.
#[derive(Debug)]
pub struct SimStream {
    local: SocketAddr,
    peer: SocketAddr,
    identity: Option<PeerIdentity>,
    out: Arc<SharedPipe>,
    inward: Arc<SharedPipe>,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl SimStream {
    pub(super) fn new(
        local: SocketAddr,
        peer: SocketAddr,
        identity: Option<PeerIdentity>,
        out: Arc<SharedPipe>,
        inward: Arc<SharedPipe>,
    ) -> SimStream {
        SimStream { local, peer, identity, out, inward, arrival: None }
    }

    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    pub(crate) fn peer_identity(&self) -> Option<PeerIdentity> {
        self.identity.clone()
    }

    /// What was written is lost and the connection with it, which its writer learns later, as with a socket.
    fn lose(&self, bytes: usize) -> usize {
        let (from, to) = (self.out.from, self.out.to);
        note(|| format!("net {from} -> {to} lost {bytes} bytes and the connection"));
        // As if they were under way.
        self.out.lock().send(Bytes::from(vec![0; bytes]), Duration::ZERO);
        break_off(&self.out);
        break_off(&self.inward);
        bytes
    }
}

/// All of `length`, or now and then only some of it.
fn perhaps_short(length: usize) -> usize {
    let short = draw(|rng| rng.gen_ratio(1, SHORT_ONE_IN)).unwrap_or(false);
    if short && length > 1 {
        draw(|rng| rng.gen_range(1..length)).unwrap_or(length)
    } else {
        length
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let most = perhaps_short(buf.remaining());
        loop {
            let mut pipe = this.inward.lock();
            match pipe.take(most) {
                Found::Bytes(bytes) => {
                    let late = pipe.is_late();
                    drop(pipe);
                    heard(&this.inward, late);
                    buf.put_slice(&bytes);
                    this.arrival = None;
                    return Poll::Ready(Ok(()));
                }
                Found::End => return Poll::Ready(Ok(())),
                Found::Broken => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Found::Nothing => {
                    pipe.wait_for_bytes(cx.waker().clone());
                    return Poll::Pending;
                }
                Found::Later(at) => {
                    pipe.wait_for_bytes(cx.waker().clone());
                    drop(pipe);
                    let arrival = this.arrival.get_or_insert_with(|| Box::pin(sleep_until(at)));
                    if arrival.deadline() != at {
                        arrival.as_mut().reset(at);
                    }
                    if arrival.as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let mut pipe = this.out.lock();
        if pipe.is_broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let length = perhaps_short(buf.len().min(pipe.room()));
        if length == 0 && !buf.is_empty() {
            pipe.wait_for_room(cx.waker().clone());
            return Poll::Pending;
        }
        if pipe.loses_next() && length > 0 {
            drop(pipe);
            return Poll::Ready(Ok(this.lose(buf.len())));
        }
        let delay = draw_delay(&pipe.link);
        let bytes = Bytes::copy_from_slice(&buf[..length]);
        let (from, to) = (this.out.from, this.out.to);
        note(|| format!("net {from} -> {to} {length} bytes crc {:08x}", crc32c::crc32c(&bytes)));
        pipe.send(bytes, delay);
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.out.lock();
        let delay = draw_delay(&pipe.link);
        pipe.send(Bytes::new(), delay);
        Poll::Ready(Ok(()))
    }
}

impl Drop for SimStream {
    /// What the kernel does when a process closes a socket or dies: the end follows what was written; unread bytes make
    /// it a reset. A host without power says nothing.
    fn drop(&mut self) {
        let host = self.out.from;
        let powered = NET
            .try_with(|net| net.try_borrow().is_ok_and(|net| net.is_powered(host)))
            .unwrap_or(false);
        if !powered {
            return;
        }
        if self.inward.lock().has_unread() {
            break_off(&self.out);
        } else {
            let mut pipe = self.out.lock();
            pipe.abandon();
            let delay =
                tailway_runtime::sim::current().map_or(Duration::ZERO, |_| draw_delay(&pipe.link));
            pipe.send(Bytes::new(), delay);
        }
        // Whatever the peer still writes is answered by a reset.
        break_off(&self.inward);
    }
}
