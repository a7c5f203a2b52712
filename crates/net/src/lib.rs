//! Bytes in motion: sockets, TLS and Kafka frames, for every program of Tailway.
//!
//! What: one [`stream::Stream`] for TCP and TLS, a [`listen::Listener`] with caps and deadlines,
//! [`dial::dial`] whose every failure says what, where, why and what to try next, capped frame
//! reads and vectored frame writes, and a pipelined [`rpc::RpcConnection`].
//!
//! Invariants: nothing here waits without a deadline of the caller's or its own, nothing
//! allocates for bytes that have not arrived, and no certificate check can be switched off.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

pub mod address;
pub mod backoff;
pub mod certificate_request;
pub mod dial;
pub mod explain;
pub mod frame_io;
pub mod listen;
pub mod own;
pub mod peer;
pub mod pin;
pub mod port_holder;
pub mod renewal;
mod revocation;
pub mod rpc;
#[cfg(feature = "sim")]
pub mod sim;
pub mod stream;
pub mod tls;
pub mod validity;

pub use address::HostPort;
pub use dial::{DialError, dial};
pub use frame_io::{FrameError, FrameReader, write_segments};
pub use listen::{Accepted, BindError, HandshakeError, Incoming, Limits, Listener, Security};
pub use peer::{PeerIdentity, SpiffeId};
pub use rpc::{RpcConnection, RpcError, RpcOptions};
pub use stream::Stream;
pub use tls::{ClientAuth, ClientTls, ClientTlsFiles, ServerTls, ServerTlsFiles, TlsError};
