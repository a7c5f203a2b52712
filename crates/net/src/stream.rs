//! One connection, TCP or TLS, as one type.
//!
//! Writes are vectored on both kinds (a Fetch answer is headers and slices of segments). A TLS
//! stream buffers like a `BufWriter`: flush after a whole frame, as [`crate::write_segments`] does.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::own::{self, OwnCertificate};
use crate::peer::PeerIdentity;

/// A connected stream.
#[derive(Debug)]
pub enum Stream {
    Tcp(TcpStream),
    /// We are the server.
    TlsServer(Box<server::TlsStream<TcpStream>>),
    /// We are the client, and have shown this certificate if any was asked for.
    TlsClient(Box<client::TlsStream<TcpStream>>, Option<Arc<OwnCertificate>>),
    /// Between hosts of a simulation.
    #[cfg(feature = "sim")]
    Sim(Box<crate::sim::SimStream>),
}

impl Stream {
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::TlsServer(_) | Self::TlsClient(..))
    }

    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr(),
            Self::TlsServer(tls) => tls.get_ref().0.peer_addr(),
            Self::TlsClient(tls, _) => tls.get_ref().0.peer_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => Ok(sim.peer_addr()),
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr(),
            Self::TlsServer(tls) => tls.get_ref().0.local_addr(),
            Self::TlsClient(tls, _) => tls.get_ref().0.local_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => Ok(sim.local_addr()),
        }
    }

    /// What the peer's verified certificate names; none on plaintext or without a certificate.
    pub fn peer_identity(&self) -> Option<PeerIdentity> {
        #[cfg(feature = "sim")]
        if let Self::Sim(sim) = self {
            return sim.peer_identity();
        }
        self.peer_certificate().and_then(PeerIdentity::from_certificate)
    }

    /// The peer's own certificate, verified; none on plaintext, in a simulation or where none was shown.
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let certificates = match self {
            Self::Tcp(_) => None,
            Self::TlsServer(tls) => tls.get_ref().1.peer_certificates(),
            Self::TlsClient(tls, _) => tls.get_ref().1.peer_certificates(),
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        };
        certificates.and_then(<[_]>::first)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Self::TlsServer(s) => Pin::new(s).poll_read(cx, buf),
            Self::TlsClient(s, own) => {
                let read = Pin::new(s).poll_read(cx, buf);
                read.map_err(|error| own::refine_io(error, own.as_deref()))
            }
            #[cfg(feature = "sim")]
            Self::Sim(s) => Pin::new(s).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Self::TlsServer(s) => Pin::new(s).poll_write(cx, buf),
            Self::TlsClient(s, _) => Pin::new(s).poll_write(cx, buf),
            #[cfg(feature = "sim")]
            Self::Sim(s) => Pin::new(s).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::TlsServer(s) => Pin::new(s).poll_write_vectored(cx, bufs),
            Self::TlsClient(s, _) => Pin::new(s).poll_write_vectored(cx, bufs),
            #[cfg(feature = "sim")]
            Self::Sim(s) => Pin::new(s).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(s) => s.is_write_vectored(),
            Self::TlsServer(s) => s.is_write_vectored(),
            Self::TlsClient(s, _) => s.is_write_vectored(),
            #[cfg(feature = "sim")]
            Self::Sim(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::TlsServer(s) => Pin::new(s).poll_flush(cx),
            Self::TlsClient(s, _) => Pin::new(s).poll_flush(cx),
            #[cfg(feature = "sim")]
            Self::Sim(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::TlsServer(s) => Pin::new(s).poll_shutdown(cx),
            Self::TlsClient(s, _) => Pin::new(s).poll_shutdown(cx),
            #[cfg(feature = "sim")]
            Self::Sim(s) => Pin::new(s).poll_shutdown(cx),
        }
    }
}
