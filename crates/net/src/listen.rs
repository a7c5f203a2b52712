//! Listening: bind errors that name the holder of the port, a cap on connections, handshakes
//! with a deadline, and typed errors for clients that speak the wrong thing.
//!
//! [`Listener::accept`] only takes TCP connections; the caller runs [`Incoming::establish`] in a
//! task of the connection's own, so that one slow handshake holds up nobody. A permit of the cap
//! lives as long as the connection's [`Accepted`] value. TLS bytes on a plaintext listener show
//! up as [`crate::FrameError::Foreign`] at the first frame; the reverse as
//! [`HandshakeFailure::Plaintext`] here.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::address::HostPort;
use crate::explain::{self, Side, TlsFailure};
use crate::own;
use crate::peer::PeerIdentity;
use crate::port_holder::port_holder;
use crate::stream::Stream;
use crate::tls::ServerTls;

/// Connections the kernel keeps for us before they are accepted.
const BACKLOG: u32 = 1024;
/// Pause after an accept that failed for lack of descriptors or memory.
const SCARCE_PAUSE: Duration = Duration::from_millis(100);
/// How much of a plaintext client's first bytes is looked at.
const PEEK_BYTES: usize = 256;

/// What a listener speaks.
#[derive(Debug, Clone)]
pub enum Security {
    Plaintext,
    Tls(ServerTls),
}

/// What a listener allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections open at the same time, handshakes included.
    pub connections_max: usize,
    /// Time for the TLS handshake.
    pub handshake_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 1000, handshake_timeout: Duration::from_secs(10) }
    }
}

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
    security: Security,
    limits: Limits,
    permits: Arc<Semaphore>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    #[cfg(feature = "sim")]
    Sim(crate::sim::SimListener),
}

#[derive(Debug)]
enum Connected {
    Tcp(TcpStream),
    #[cfg(feature = "sim")]
    Sim(Box<crate::sim::SimStream>),
}

/// A connection that has not spoken yet.
#[derive(Debug)]
pub struct Incoming {
    connected: Connected,
    pub peer: SocketAddr,
    security: Security,
    handshake_timeout: Duration,
    permit: OwnedSemaphorePermit,
}

/// A connection ready for frames. Keep it (or `permit`) as long as the connection is open.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    pub peer: SocketAddr,
    /// What the client's certificate names, if one was presented and verified.
    pub identity: Option<PeerIdentity>,
    pub permit: OwnedSemaphorePermit,
}

/// Why a listener could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {cause}; try: {next}")]
pub struct BindError {
    pub address: HostPort,
    pub cause: String,
    pub next: String,
}

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The cap is reached; the connection was closed.
    #[error("connection from {peer} closed: {max} connections are open, which is the limit")]
    TooMany { peer: SocketAddr, max: usize },
    /// Accepting failed; a pause was already made where trying at once would spin.
    #[error("cannot accept a connection: {0}")]
    Io(#[source] io::Error),
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
#[error("connection from {peer} refused: {failure}")]
pub struct HandshakeError {
    pub peer: SocketAddr,
    pub failure: HandshakeFailure,
}

/// The failure of a handshake by its cause.
#[derive(Debug)]
pub enum HandshakeFailure {
    TimedOut {
        after: Duration,
    },
    /// Plaintext bytes came to a TLS listener; the Kafka client id, if they are a Kafka request.
    Plaintext {
        client_id: Option<String>,
    },
    /// Closed before a byte came: a health check or a port scan.
    Silent,
    Tls(TlsFailure),
    Io(io::Error),
}

impl HandshakeFailure {
    /// The peer went away in the middle without saying why, as a client does that is stopped while
    /// it connects; some do so, too, that do not trust the listener's certificate.
    pub fn is_broken_off(&self) -> bool {
        match self {
            Self::Tls(failure) => *failure == TlsFailure::Closed,
            Self::Io(error) => explain::is_closed(error),
            Self::TimedOut { .. } | Self::Plaintext { .. } | Self::Silent => false,
        }
    }
}

impl fmt::Display for HandshakeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { after } => write!(f, "no TLS handshake within {after:?}"),
            Self::Plaintext { client_id: Some(id) } => write!(
                f,
                "the Kafka client `{id}` speaks plaintext to this TLS port: set \
                 security.protocol=SSL there"
            ),
            Self::Plaintext { client_id: None } => {
                f.write_str("the client speaks plaintext to this TLS port: switch TLS on there")
            }
            Self::Silent => f.write_str("it was closed before anything was sent"),
            Self::Tls(TlsFailure::OurIssuerUnknown) => f.write_str(
                "the client does not trust this listener's certificate: give it this cluster's CA",
            ),
            Self::Tls(TlsFailure::UnknownIssuer) => {
                f.write_str("the client's certificate is not signed by this listener's client CA")
            }
            Self::Tls(failure) => f.write_str(&failure.cause(Side::Server)),
            Self::Io(error) => f.write_str(&explain::io_error(error)),
        }
    }
}

impl Listener {
    /// Binds one address; port 0 takes a free one, which [`Self::local_addr`] tells.
    pub async fn bind(
        address: &HostPort,
        security: Security,
        limits: Limits,
    ) -> Result<Self, BindError> {
        let socket = Socket::bind(address).await?;
        let bound = socket.local_addr().map_err(|error| bind_error(address, &error))?;
        let permits = Arc::new(Semaphore::new(limits.connections_max));
        Ok(Self { socket, address: bound, security, limits, permits })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    pub fn is_tls(&self) -> bool {
        matches!(self.security, Security::Tls(_))
    }

    /// Connections open now, for a metric.
    pub fn open_connections(&self) -> usize {
        self.limits.connections_max - self.permits.available_permits()
    }

    /// The next TCP connection. Safe to cancel.
    pub async fn accept(&self) -> Result<Incoming, AcceptError> {
        let (connected, peer) = match self.socket.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                if is_scarce(&error) {
                    tokio::time::sleep(SCARCE_PAUSE).await;
                }
                return Err(AcceptError::Io(error));
            }
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return Err(AcceptError::TooMany { peer, max: self.limits.connections_max });
        };
        connected.set_nodelay().map_err(AcceptError::Io)?;
        let handshake_timeout = self.limits.handshake_timeout;
        Ok(Incoming { connected, peer, security: self.security.clone(), handshake_timeout, permit })
    }
}

impl Socket {
    async fn bind(address: &HostPort) -> Result<Self, BindError> {
        #[cfg(feature = "sim")]
        if tailway_runtime::sim::current().is_some() {
            let bound = crate::sim::resolve(address).and_then(crate::sim::SimListener::bind);
            return bound.map(Self::Sim).map_err(|error| bind_error(address, &error));
        }
        let resolved = resolve(address).await?;
        bind_socket(resolved).map(Self::Tcp).map_err(|error| bind_error(address, &error))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => Ok(sim.local_addr()),
        }
    }

    async fn accept(&self) -> io::Result<(Connected, SocketAddr)> {
        match self {
            Self::Tcp(tcp) => tcp.accept().await.map(|(tcp, peer)| (Connected::Tcp(tcp), peer)),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => {
                let (stream, peer) = sim.accept().await;
                Ok((Connected::Sim(Box::new(stream)), peer))
            }
        }
    }
}

impl Connected {
    fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.set_nodelay(true),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        }
    }

    async fn establish(
        self,
        security: Security,
        handshake_timeout: Duration,
    ) -> Result<Stream, HandshakeFailure> {
        match (self, security) {
            (Self::Tcp(tcp), Security::Plaintext) => Ok(Stream::Tcp(tcp)),
            (Self::Tcp(tcp), Security::Tls(tls)) => {
                let shaken = timeout(handshake_timeout, shake_hands(tcp, &tls)).await;
                shaken.unwrap_or(Err(HandshakeFailure::TimedOut { after: handshake_timeout }))
            }
            // The simulated network has no bytes for it: identities are given.
            #[cfg(feature = "sim")]
            (Self::Sim(sim), _) => Ok(Stream::Sim(sim)),
        }
    }
}

impl Incoming {
    /// Does the handshake, if the listener has one.
    pub async fn establish(self) -> Result<Accepted, HandshakeError> {
        let Self { connected, peer, security, handshake_timeout, permit } = self;
        let is_plaintext = matches!(security, Security::Plaintext);
        let stream = connected
            .establish(security, handshake_timeout)
            .await
            .map_err(|failure| HandshakeError { peer, failure })?;
        let identity = if is_plaintext { None } else { stream.peer_identity() };
        Ok(Accepted { stream, peer, identity, permit })
    }
}

async fn shake_hands(tcp: TcpStream, tls: &ServerTls) -> Result<Stream, HandshakeFailure> {
    let mut start = [0; PEEK_BYTES];
    let got = tcp.peek(&mut start).await.map_err(HandshakeFailure::Io)?;
    match start.first() {
        _ if got == 0 => return Err(HandshakeFailure::Silent),
        Some(0x16) => {}
        _ => {
            let client_id = kafka_client_id(start.get(..got).unwrap_or_default());
            return Err(HandshakeFailure::Plaintext { client_id });
        }
    }
    let (config, ours) = tls.loaded();
    let acceptor = tokio_rustls::TlsAcceptor::from(config);
    match acceptor.accept(tcp).await {
        Ok(stream) => Ok(Stream::TlsServer(Box::new(stream))),
        Err(error) => Err(match TlsFailure::of_io(&error) {
            Some(failure) => HandshakeFailure::Tls(own::refine(failure, ours.as_deref())),
            None if explain::is_closed(&error) => HandshakeFailure::Tls(TlsFailure::Closed),
            None => HandshakeFailure::Io(error),
        }),
    }
}

/// The client id of a Kafka request's first bytes: length, key, version, correlation id, then a
/// string with a 16-bit length. `Some("")` never: a client without id is still named as Kafka.
fn kafka_client_id(bytes: &[u8]) -> Option<String> {
    let (_, rest) = bytes.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_first_chunk::<2>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let plausible = (0..=100).contains(&i16::from_be_bytes(*key))
        && (0..=30).contains(&i16::from_be_bytes(*version));
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let id = rest.get(..usize::try_from(i16::from_be_bytes(*length)).ok()?)?;
    let id = std::str::from_utf8(id).ok()?;
    (plausible && !id.is_empty()).then(|| id.escape_default().to_string())
}

async fn resolve(address: &HostPort) -> Result<SocketAddr, BindError> {
    let fail = |cause: String| BindError {
        address: address.clone(),
        cause,
        next: format!("getent hosts {}", address.host),
    };
    let mut found = lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(|error| fail(format!("the name does not resolve ({error})")))?;
    found.next().ok_or_else(|| fail("the name has no address".into()))
}

fn bind_socket(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Lets a restart bind while connections of the last run are in TIME_WAIT; Linux still refuses
    // a port that somebody listens on.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_error(address: &HostPort, error: &io::Error) -> BindError {
    let port = address.port;
    let (cause, next) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let holder = port_holder(port).unwrap_or_else(|| "another program".into());
            (
                format!("the port is held by {holder}"),
                format!("stop it, or choose another port (ss -ltnp 'sport = :{port}' shows it)"),
            )
        }
        io::ErrorKind::AddrNotAvailable => (
            format!("{} is no address of this host", address.host),
            "ip -brief address; or listen on 0.0.0.0".into(),
        ),
        io::ErrorKind::PermissionDenied => (
            "ports below 1024 need a privilege".into(),
            "choose a higher port, or give the service CAP_NET_BIND_SERVICE".into(),
        ),
        _ => (error.to_string(), format!("ss -ltnp 'sport = :{port}'")),
    };
    BindError { address: address.clone(), cause, next }
}

/// EMFILE, ENFILE, ENOBUFS, ENOMEM: trying again at once would only spin.
fn is_scarce(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(24 | 23 | 105 | 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kafka_request_in_plaintext_is_named() {
        let mut frame = vec![0, 0, 0, 20, 0, 18, 0, 3, 0, 0, 0, 1, 0, 7];
        frame.extend_from_slice(b"rdkafka\0");
        assert_eq!(kafka_client_id(&frame).as_deref(), Some("rdkafka"));
        for cut in 0..21 {
            assert_eq!(kafka_client_id(&frame[..cut]), None, "{cut}");
        }
        assert_eq!(kafka_client_id(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), None);
    }
}
