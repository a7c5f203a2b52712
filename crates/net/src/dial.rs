//! Connecting, with errors that say what, where, why and what to try next.
//!
//! One deadline covers name resolution, every address the name has, and the TLS handshake. The
//! certificate is always checked against the CA and against the name that was dialed.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use crate::address::HostPort;
use crate::explain::{self, Side, TlsFailure};
use crate::own::{self, ByOurClock};
use crate::stream::Stream;
use crate::tls::{ClientTls, TlsError};

/// Why no connection could be made.
#[derive(Debug)]
pub struct DialError {
    pub address: HostPort,
    pub over_tls: bool,
    /// The addresses that were tried.
    pub tried: Vec<SocketAddr>,
    pub failure: DialFailure,
    /// The CA file in use, for the hint of a certificate error.
    pub ca: Option<String>,
    pub has_certificate: bool,
}

/// The failure by its cause.
#[derive(Debug)]
pub enum DialFailure {
    /// The name does not resolve.
    NameNotFound {
        detail: String,
    },
    /// Nothing listens there.
    Refused,
    /// Packets vanish.
    TimedOut {
        after: Duration,
    },
    /// No route.
    Unreachable {
        detail: String,
    },
    /// Connected, but the handshake went unanswered.
    HandshakeTimedOut {
        after: Duration,
    },
    Tls(TlsFailure),
    Config(TlsError),
    Io(io::Error),
}

/// Connects to `address`, over TLS if given, within `timeout`.
pub async fn dial(
    address: &HostPort,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> Result<Stream, DialError> {
    let mut tried = Vec::new();
    let result = attempt(address, tls, timeout, &mut tried).await;
    result.map_err(|failure| DialError {
        address: address.clone(),
        over_tls: tls.is_some(),
        tried,
        failure,
        ca: tls.map(|tls| tls.ca.to_string()),
        has_certificate: tls.is_some_and(ClientTls::has_certificate),
    })
}

async fn attempt(
    address: &HostPort,
    tls: Option<&ClientTls>,
    timeout: Duration,
    tried: &mut Vec<SocketAddr>,
) -> Result<Stream, DialFailure> {
    let deadline = Instant::now() + timeout;
    let name = match tls {
        Some(tls) => Some((tls, tls.expected_name(address).map_err(DialFailure::Config)?)),
        None => None,
    };
    #[cfg(feature = "sim")]
    if tailway_runtime::sim::current().is_some() {
        return connect_simulated(address, timeout, deadline, tried).await;
    }
    let tcp = connect(address, timeout, deadline, tried).await?;
    tcp.set_nodelay(true).map_err(DialFailure::Io)?;
    let Some((tls, name)) = name else { return Ok(Stream::Tcp(tcp)) };
    let (config, ours) = tls.loaded();
    let connector = tokio_rustls::TlsConnector::from(config);
    match timeout_at(deadline, connector.connect(name, tcp)).await {
        Ok(Ok(stream)) => Ok(Stream::TlsClient(Box::new(stream), ours)),
        Ok(Err(error)) => Err(match TlsFailure::of_io(&error) {
            Some(failure) => DialFailure::Tls(own::refine(failure, ours.as_deref())),
            None if explain::is_closed(&error) => DialFailure::Tls(TlsFailure::Closed),
            None => DialFailure::Io(error),
        }),
        Err(_) => Err(DialFailure::HandshakeTimedOut { after: timeout }),
    }
}

/// Tries each address of the name; the time left is shared by those not yet tried.
async fn connect(
    address: &HostPort,
    timeout: Duration,
    deadline: Instant,
    tried: &mut Vec<SocketAddr>,
) -> Result<TcpStream, DialFailure> {
    let looked_up = timeout_at(deadline, lookup_host((address.host.as_str(), address.port))).await;
    let found: Vec<SocketAddr> = match looked_up {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(DialFailure::NameNotFound { detail: error.to_string() }),
        Err(_) => {
            let detail = format!("no answer from the resolver within {timeout:?}");
            return Err(DialFailure::NameNotFound { detail });
        }
    };
    let mut failure = DialFailure::NameNotFound { detail: "it has no address".into() };
    for (index, socket_addr) in found.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(found.len() - index).unwrap_or(u32::MAX);
        tried.push(*socket_addr);
        failure = match timeout_at(Instant::now() + share, TcpStream::connect(socket_addr)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => connect_failure(error),
            Err(_) => DialFailure::TimedOut { after: timeout },
        };
    }
    Err(failure)
}

#[cfg(feature = "sim")]
async fn connect_simulated(
    address: &HostPort,
    timeout: Duration,
    deadline: Instant,
    tried: &mut Vec<SocketAddr>,
) -> Result<Stream, DialFailure> {
    let socket_addr = crate::sim::resolve(address)
        .map_err(|error| DialFailure::NameNotFound { detail: error.to_string() })?;
    tried.push(socket_addr);
    match timeout_at(deadline, crate::sim::connect(socket_addr)).await {
        Ok(Ok(stream)) => Ok(Stream::Sim(Box::new(stream))),
        Ok(Err(error)) => Err(connect_failure(error)),
        Err(_) => Err(DialFailure::TimedOut { after: timeout }),
    }
}

fn connect_failure(error: io::Error) -> DialFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialFailure::Refused,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            DialFailure::Unreachable { detail: error.to_string() }
        }
        io::ErrorKind::TimedOut => DialFailure::TimedOut { after: Duration::from_secs(0) },
        _ => DialFailure::Io(error),
    }
}

impl DialError {
    /// The likely cause, as a clause.
    pub fn cause(&self) -> String {
        match &self.failure {
            DialFailure::NameNotFound { detail } => {
                format!("the name `{}` does not resolve ({detail})", self.address.host)
            }
            DialFailure::Refused => {
                "connection refused: nothing listens on that port, or a firewall rejects it".into()
            }
            DialFailure::TimedOut { after } if after.is_zero() => {
                "no answer: the host is down or a firewall drops the packets".into()
            }
            DialFailure::TimedOut { after } => format!(
                "no answer within {after:?}: the host is down or a firewall drops the packets"
            ),
            DialFailure::Unreachable { detail } => format!("there is no route to it ({detail})"),
            DialFailure::HandshakeTimedOut { after } => format!(
                "connected, but the TLS handshake was not answered within {after:?}: the port may \
                 be plaintext"
            ),
            DialFailure::Tls(TlsFailure::Closed) => {
                "it closed the connection during the TLS handshake: the port is probably plaintext"
                    .into()
            }
            DialFailure::Tls(failure) => failure.cause(Side::Client),
            DialFailure::Config(error) => error.to_string(),
            DialFailure::Io(error) => explain::io_error(error),
        }
    }

    /// The next thing to do.
    pub fn next_step(&self) -> String {
        let at = &self.address;
        match &self.failure {
            DialFailure::NameNotFound { .. } => format!("getent hosts {}", at.host),
            DialFailure::Refused => {
                format!("on that host, `ss -ltn 'sport = :{}'` shows whether it listens", at.port)
            }
            DialFailure::TimedOut { .. } => {
                format!("nc -vz {} {}; check security groups and firewalls", at.host, at.port)
            }
            DialFailure::Unreachable { .. } => match self.tried.last() {
                Some(address) => format!("ip route get {}", address.ip()),
                None => "ip route".into(),
            },
            DialFailure::HandshakeTimedOut { .. }
            | DialFailure::Tls(TlsFailure::NotTls | TlsFailure::Closed) => {
                "connect without TLS, or to the broker's TLS port".into()
            }
            DialFailure::Tls(failure) => self.tls_step(failure),
            DialFailure::Config(_) => "correct the TLS settings".into(),
            DialFailure::Io(_) => format!("nc -vz {} {}", at.host, at.port),
        }
    }

    fn tls_step(&self, failure: &TlsFailure) -> String {
        let at = &self.address;
        let ca = self.ca.as_deref().unwrap_or("CA");
        match failure {
            TlsFailure::NotPinned => {
                "correct the address (the port is the one of coordinator.enrollment.listen there, 9191 if `coordinator init` chose it), or make a new token on that coordinator (tailway token create)".into()
            }
            TlsFailure::UnknownIssuer => format!(
                "is {ca} the CA of this cluster? `openssl s_client -connect {at} -showcerts` shows \
                 who signed the certificate"
            ),
            TlsFailure::NameMismatch { presented, .. } if !presented.is_empty() => {
                format!("connect by one of these names: {}", presented.join(", "))
            }
            TlsFailure::NameMismatch { .. } => {
                format!("issue the server a certificate with the name `{}`", at.host)
            }
            TlsFailure::Expired { .. } => {
                "renew the server's certificate, or correct this host's clock (timedatectl)".into()
            }
            TlsFailure::NotValidYet { .. } => {
                "correct the clock of this host or of the one that issued it (timedatectl)".into()
            }
            TlsFailure::Revoked => {
                "ask an admin who revoked it (tailway cert list); its host enrols again with a new token".into()
            }
            TlsFailure::CertificateRequired => "configure tls.cert and tls.key".into(),
            TlsFailure::CertificateRefused { .. } if !self.has_certificate => {
                "configure tls.cert and tls.key: the server wants a client certificate".into()
            }
            TlsFailure::CertificateRefused { .. } | TlsFailure::OurIssuerUnknown => {
                "use a client certificate that the server's client CA has signed".into()
            }
            TlsFailure::OurCertificateNotNow { ours: ByOurClock::Over, .. } => {
                "renew the client certificate".into()
            }
            TlsFailure::OurCertificateNotNow { .. } => {
                "compare the clocks of this host and of the server (timedatectl)".into()
            }
            _ => format!("openssl s_client -connect {at} -CAfile {ca}"),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.over_tls { "TLS" } else { "plaintext" };
        write!(f, "cannot connect to {} over {how}", self.address)?;
        let literal = self.address.ip().is_some();
        if !literal && !self.tried.is_empty() {
            let tried: Vec<String> = self.tried.iter().map(ToString::to_string).collect();
            write!(f, " (tried {})", tried.join(", "))?;
        }
        write!(f, ": {}; try: {}", self.cause(), self.next_step())
    }
}

impl std::error::Error for DialError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.failure {
            DialFailure::Io(error) => Some(error),
            DialFailure::Config(error) => Some(error),
            _ => None,
        }
    }
}
