//! The connection to the coordinator: whether there is one, and typed calls over it.
//!
//! One connection carries everything: the coordinator works on its requests concurrently, so a waiting FollowMetadata
//! holds up no heartbeat. `session` makes the connection and publishes it; everybody else only reads the state.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::BrokerEpoch;
use tailway_net::{HostPort, RpcConnection, RpcError};
use tailway_wire::WireError;
use tailway_wire::api::ApiKey;
use tailway_wire::frame::{self, RequestHeader};
use tailway_wire::messages::{Decodable, Encodable, StrBytes};
use tokio::sync::watch;

/// What brokers call themselves.
pub const CLIENT_ID: &str = "tailway-broker";

/// A connection on which this broker is registered.
#[derive(Debug, Clone)]
pub struct Link {
    pub rpc: RpcConnection,
    pub address: HostPort,
    pub broker_epoch: BrokerEpoch,
}

/// Whether the coordinator is there.
#[derive(Debug, Clone)]
pub enum LinkState {
    /// It is not, for this reason.
    Away {
        cause: Arc<str>,
    },
    Up(Link),
}

/// The state, for those who only read it.
pub type LinkWatch = watch::Receiver<LinkState>;

/// Why a call has no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    #[error(transparent)]
    Rpc(#[from] RpcError),
    #[error("the coordinator's answer cannot be read: {0}")]
    Answer(#[from] WireError),
}

/// One request of a generated type and its answer.
pub async fn call<Q: Encodable, A: Decodable>(
    rpc: &RpcConnection,
    api: ApiKey,
    version: i16,
    request: &Q,
    timeout: Duration,
) -> Result<A, CallError> {
    let encode =
        |id| Ok::<_, WireError>(vec![frame::encode_request(&header(api, version, id), request)?]);
    let answer = rpc.call_raw(api.name(), version, timeout, encode).await?;
    Ok(frame::decode_response(api, version, answer)?.1)
}

/// One request whose body is bytes, and the body of its answer.
pub async fn call_raw(
    rpc: &RpcConnection,
    api: ApiKey,
    version: i16,
    body: &[u8],
    timeout: Duration,
) -> Result<Bytes, CallError> {
    let encode =
        |id| Ok::<_, WireError>(vec![frame::encode_request_raw(&header(api, version, id), body)?]);
    let answer = rpc.call_raw(api.name(), version, timeout, encode).await?;
    Ok(frame::split_response(api, version, answer)?.1)
}

fn header(api: ApiKey, version: i16, correlation_id: i32) -> RequestHeader {
    RequestHeader::new(api, version, correlation_id, Some(StrBytes::from_static_str(CLIENT_ID)))
}
