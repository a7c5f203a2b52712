//! Metrics for a Prometheus on another host: /metrics, /livez and /readyz over mutual TLS, to clients and admins of this
//! cluster and to nobody else. Off unless `admin.metrics.listen` says where.
//!
//! It lives on the admin port's thread, so that it answers while the program's own runtime is stuck. Handshakes are made
//! beside each other, so that a slow one holds up nobody. Invariants: at most `CONNECTIONS_MAX` connections, each open for
//! `CONNECTION_LIFE` at most; whoever has no certificate of the CA gets no further than the handshake.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as Poller, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use tailway_metadata::Role;
use tailway_net::listen::HandshakeFailure;
use tailway_net::{
    BindError, HostPort, Incoming, Limits, Listener, PeerIdentity, Security, ServerTls, Stream,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Sleep;

const CONNECTIONS_MAX: usize = 16;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// A scraper connects anew after that, with the certificate that it has then.
const CONNECTION_LIFE: Duration = Duration::from_mins(10);
/// Who may read metrics.
const READERS: [Role; 2] = [Role::Client, Role::Admin];

/// Where it listens, as what, and for whose clients.
#[derive(Clone, Debug)]
pub struct MetricsListener {
    pub listen: HostPort,
    pub tls: ServerTls,
    pub cluster: String,
}

impl MetricsListener {
    /// Binds, on the runtime of whoever calls.
    pub(crate) async fn bind(self) -> Result<Bound, BindError> {
        let limits =
            Limits { connections_max: CONNECTIONS_MAX, handshake_timeout: HANDSHAKE_TIMEOUT };
        let listener = Listener::bind(&self.listen, Security::Tls(self.tls), limits).await?;
        let (established, streams) = mpsc::channel(CONNECTIONS_MAX);
        let address = listener.local_addr();
        tailway_runtime::spawn(accept(listener, self.cluster, established));
        Ok(Bound { streams, address })
    }
}

/// Ends when nobody takes connections any more.
async fn accept(listener: Listener, cluster: String, established: mpsc::Sender<Held>) {
    loop {
        tokio::select! {
            biased;
            () = established.closed() => return,
            incoming = listener.accept() => match incoming {
                Ok(incoming) => {
                    let establishing = establish(incoming, cluster.clone(), established.clone());
                    tailway_runtime::spawn(establishing);
                }
                Err(error) => tracing::warn!(%error, "no connection for metrics taken"),
            },
        }
    }
}

async fn establish(incoming: Incoming, cluster: String, established: mpsc::Sender<Held>) {
    match incoming.establish().await {
        Ok(accepted) => {
            let caller = Caller::of(accepted.identity.as_ref(), &cluster);
            if let Caller(Err(why)) = &caller {
                tracing::warn!(peer = %accepted.peer, "metrics refused: {why}");
            }
            let held = Held {
                stream: accepted.stream,
                peer: accepted.peer,
                caller,
                ends: Box::pin(tokio::time::sleep(CONNECTION_LIFE)),
                _permit: accepted.permit,
            };
            // Nobody takes it: the program stops.
            drop(established.send(held).await);
        }
        // A port check says nothing and means nothing.
        Err(error) if matches!(error.failure, HandshakeFailure::Silent) => {}
        Err(error) => tracing::warn!(%error, "no connection for metrics taken"),
    }
}

/// Whether whoever is at the other end may read, or why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) Result<(), String>);

impl Caller {
    fn of(identity: Option<&PeerIdentity>, cluster: &str) -> Caller {
        let reads = |identity: &&PeerIdentity| {
            READERS.iter().any(|role| identity.has_role(cluster, role.name()))
        };
        if identity.as_ref().is_some_and(reads) {
            return Caller(Ok(()));
        }
        let who = identity.map_or_else(|| "nobody".to_owned(), ToString::to_string);
        Caller(Err(format!(
            "the certificate names {who}; metrics are for spiffe://{cluster}/client/ID and spiffe://{cluster}/admin/ID (tailway cert issue --role client NAME)"
        )))
    }
}

impl Connected<IncomingStream<'_, Bound>> for Caller {
    fn connect_info(stream: IncomingStream<'_, Bound>) -> Caller {
        stream.io().caller.clone()
    }
}

/// The bound listener, as axum takes connections from it.
pub(crate) struct Bound {
    streams: mpsc::Receiver<Held>,
    pub(crate) address: SocketAddr,
}

impl axum::serve::Listener for Bound {
    type Io = Held;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Held, SocketAddr) {
        match self.streams.recv().await {
            Some(held) => {
                let peer = held.peer;
                (held, peer)
            }
            // The task that accepts has ended with its runtime.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection, its place among those that may be open, and its end.
pub(crate) struct Held {
    stream: Stream,
    peer: SocketAddr,
    caller: Caller,
    ends: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl Held {
    /// An error once its time is over, so that no connection is held for ever.
    fn lives(&mut self, cx: &mut Poller<'_>) -> io::Result<()> {
        match self.ends.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Held {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let held = self.get_mut();
        held.lives(cx)?;
        Pin::new(&mut held.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Poller<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let held = self.get_mut();
        held.lives(cx)?;
        Pin::new(&mut held.stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
