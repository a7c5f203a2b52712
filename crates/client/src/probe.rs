//! One address, step by step, as this client would use it: name, TCP, TLS, ApiVersions, Metadata.
//!
//! For commands that say where a connection fails. Nothing is retried, cached, created or changed, and nothing is judged
//! here: [`Probed`] is what was seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tailway_metadata::time::WallMs;
use tailway_net::{DialError, HostPort, PeerIdentity, RpcConnection, RpcOptions, dial, validity};
use tailway_wire::api::ApiKey;
use tailway_wire::messages::{MetadataRequest, MetadataResponse};

use crate::client::metadata_request;
use crate::config::ClientConfig;
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::{ClusterMetadata, Wanted};

/// From this version on Metadata says what the caller may do with a topic (KIP-430).
const SAYS_OPERATIONS_FROM: i16 = 8;
/// Kafka's `AclOperation.WRITE`.
const WRITE: i32 = 4;
/// What a broker sends that does not say.
const NOT_SAID: i32 = i32::MIN;

/// What was seen of one address.
#[derive(Debug)]
pub struct Probed {
    pub address: HostPort,
    pub over_tls: bool,
    /// The address that was connected to.
    pub connected: Option<SocketAddr>,
    /// Of the server, if TLS came about.
    pub certificate: Option<ServerCertificate>,
    pub end: End,
}

/// A certificate that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCertificate {
    pub identity: Option<PeerIdentity>,
    pub not_before: WallMs,
    pub not_after: WallMs,
}

/// How far it came.
#[derive(Debug)]
pub enum End {
    /// No connection.
    Dial(DialError),
    /// Connected, but ApiVersions was not answered.
    Greeting(ClientError),
    /// It answers ApiVersions.
    Serves { apis: usize, metadata: Option<Result<Described, ClientError>> },
}

/// The cluster as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub cluster: ClusterMetadata,
    /// By topic, whether this client may write to it, where the broker says so.
    pub writable: BTreeMap<String, bool>,
}

/// What to ask once the address answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// No more than ApiVersions.
    Nothing,
    /// The brokers, and these topics.
    Topics(Vec<String>),
    /// The brokers, and every topic.
    AllTopics,
}

/// Tries `address` with the settings of `config`, each step within its timeouts.
pub async fn probe(config: &ClientConfig, address: &HostPort, ask: &Ask) -> Probed {
    let mut probed = Probed {
        address: address.clone(),
        over_tls: config.tls.is_some(),
        connected: None,
        certificate: None,
        end: End::Serves { apis: 0, metadata: None },
    };
    let stream = match dial(address, config.tls.as_ref(), config.connect_timeout).await {
        Ok(stream) => stream,
        Err(error) => {
            probed.end = End::Dial(error);
            return probed;
        }
    };
    probed.connected = stream.peer_addr().ok();
    probed.certificate = stream.peer_certificate().and_then(|der| {
        let (not_before, not_after) = validity::validity(der)?;
        Some(ServerCertificate { identity: stream.peer_identity(), not_before, not_after })
    });
    let options = RpcOptions { client_id: Some(config.client_id.clone()), ..RpcOptions::default() };
    let rpc = RpcConnection::start(stream, format!("the server at {address}"), options);
    let connection = match Connection::greet(rpc, config.connect_timeout, address).await {
        Ok(connection) => connection,
        Err(error) => {
            probed.end = End::Greeting(error);
            return probed;
        }
    };
    let wanted = match ask {
        Ask::Nothing => None,
        Ask::AllTopics => Some(Wanted::All),
        Ask::Topics(names) => {
            Some(Wanted::Topics(names.iter().map(|name| name.as_str().into()).collect()))
        }
    };
    let metadata = match wanted {
        Some(wanted) => Some(describe(&connection, &wanted, config.request_timeout).await),
        None => None,
    };
    probed.end = End::Serves { apis: connection.apis(), metadata };
    probed
}

async fn describe(
    connection: &Connection,
    wanted: &Wanted,
    timeout: Duration,
) -> Result<Described, ClientError> {
    let request = |version: i16| -> MetadataRequest {
        metadata_request(wanted, false, version)
            .with_include_topic_authorized_operations(version >= SAYS_OPERATIONS_FROM)
    };
    let answer: MetadataResponse = connection.call(ApiKey::Metadata, timeout, request).await?;
    let writable = answer.topics.iter().filter_map(|topic| {
        let bits = topic.topic_authorized_operations;
        let name = topic.name.as_ref()?.to_string();
        (bits != NOT_SAID).then_some((name, bits & 1 << WRITE != 0))
    });
    let writable = writable.collect();
    let cluster = ClusterMetadata::from_response(answer)
        .ok_or_else(|| connection.nonsense(ApiKey::Metadata, "a broker's port is no port"))?;
    Ok(Described { cluster, writable })
}
