//! One negotiated connection: a dialed stream, its calls, and the versions its broker serves.
//!
//! ApiVersions goes first, in version 3; a broker that does not know it answers in layout 0 and is
//! asked again in 0. Whatever is sent later has a version that both sides have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tailway_net::{HostPort, RpcConnection, RpcOptions, dial};
use tailway_wire::api::{self, ApiKey, VersionRange};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::api_versions_response::ApiVersion;
use tailway_wire::messages::{
    ApiVersionsRequest, ApiVersionsResponse, Decodable, Encodable, StrBytes,
};

use crate::config::ClientConfig;
use crate::error::ClientError;

/// Name that brokers and their logs get to see.
const SOFTWARE_NAME: &str = "tailway";
/// Highest version of ApiVersions that is tried.
const API_VERSIONS_MAX: i16 = 3;

/// A connection ready for requests. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    rpc: RpcConnection,
    versions: Arc<BTreeMap<i16, VersionRange>>,
    pub(crate) address: HostPort,
}

impl Connection {
    /// Dials and negotiates; `name` stands for the broker in errors.
    pub(crate) async fn open(
        config: &ClientConfig,
        address: &HostPort,
        name: Arc<str>,
    ) -> Result<Self, ClientError> {
        let stream = dial(address, config.tls.as_ref(), config.connect_timeout)
            .await
            .map_err(|error| ClientError::Dial(Arc::new(error)))?;
        let options =
            RpcOptions { client_id: Some(config.client_id.clone()), ..RpcOptions::default() };
        Self::greet(RpcConnection::start(stream, name, options), config.connect_timeout, address)
            .await
    }

    /// Negotiates on a connection that is there.
    pub(crate) async fn greet(
        rpc: RpcConnection,
        timeout: Duration,
        address: &HostPort,
    ) -> Result<Self, ClientError> {
        let versions = Arc::new(negotiate(&rpc, timeout).await?);
        Ok(Self { rpc, versions, address: address.clone() })
    }

    /// How many APIs the broker serves.
    pub(crate) fn apis(&self) -> usize {
        self.versions.len()
    }

    pub(crate) fn rpc(&self) -> &RpcConnection {
        &self.rpc
    }

    pub(crate) fn broker(&self) -> &Arc<str> {
        self.rpc.peer()
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.rpc.failure().is_some()
    }

    /// The highest version of `api` that both sides have.
    pub(crate) fn version(&self, api: ApiKey) -> Result<i16, ClientError> {
        let ours = api.accepted_versions();
        let theirs = self.versions.get(&api.key()).copied();
        theirs.and_then(|theirs| api::negotiate(theirs, ours)).ok_or_else(|| {
            let hint = match theirs {
                None => "it has no such function (a controller or a proxy answers here?)",
                Some(theirs) if theirs.max < ours.min => "the broker is too old",
                Some(_) => "this client is too old",
            };
            ClientError::Version {
                broker: Arc::clone(self.broker()),
                api: api.name(),
                theirs: theirs.map_or_else(|| "not at all".to_owned(), |r| r.to_string()),
                ours: ours.to_string(),
                hint,
            }
        })
    }

    /// One request in the negotiated version, which `build` gets to see.
    pub(crate) async fn call<Req: Encodable, Resp: Decodable>(
        &self,
        api: ApiKey,
        timeout: Duration,
        build: impl FnOnce(i16) -> Req,
    ) -> Result<Resp, ClientError> {
        let version = self.version(api)?;
        Ok(self.rpc.call(api, version, &build(version), timeout).await?)
    }

    /// An error code in the answer to `api` about `subject`.
    pub(crate) fn refused(
        &self,
        api: ApiKey,
        subject: impl Into<String>,
        code: ErrorCode,
        message: Option<StrBytes>,
    ) -> ClientError {
        ClientError::Refused {
            broker: Arc::clone(self.broker()),
            api: api.name(),
            subject: subject.into(),
            code,
            message: message.map(|m| m.to_string()).filter(|m| !m.is_empty()),
        }
    }

    pub(crate) fn nonsense(&self, api: ApiKey, detail: impl Into<String>) -> ClientError {
        ClientError::Nonsense {
            broker: Arc::clone(self.broker()),
            api: api.name(),
            detail: detail.into(),
        }
    }
}

async fn negotiate(
    rpc: &RpcConnection,
    timeout: Duration,
) -> Result<BTreeMap<i16, VersionRange>, ClientError> {
    let mut response = api_versions(rpc, API_VERSIONS_MAX, timeout).await?;
    let code = ErrorCode::from(response.error_code);
    if code == ErrorCode::UNSUPPORTED_VERSION || code == ErrorCode::INVALID_REQUEST {
        response = api_versions(rpc, 0, timeout).await?;
    }
    let code = ErrorCode::from(response.error_code);
    if code.is_error() {
        return Err(ClientError::Refused {
            broker: Arc::clone(rpc.peer()),
            api: ApiKey::ApiVersions.name(),
            subject: String::new(),
            code,
            message: None,
        });
    }
    let entry =
        |row: &ApiVersion| (row.api_key, VersionRange::new(row.min_version, row.max_version));
    Ok(response.api_keys.iter().map(entry).collect())
}

async fn api_versions(
    rpc: &RpcConnection,
    version: i16,
    timeout: Duration,
) -> Result<ApiVersionsResponse, ClientError> {
    let mut request = ApiVersionsRequest::default();
    if version >= 3 {
        request.client_software_name = StrBytes::from_static_str(SOFTWARE_NAME);
        request.client_software_version = StrBytes::from_static_str(env!("CARGO_PKG_VERSION"));
    }
    Ok(rpc.call(ApiKey::ApiVersions, version, &request, timeout).await?)
}
