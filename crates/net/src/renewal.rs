//! What a member asks of the coordinator for itself, by the certificate that it has: its next certificate, for a key made
//! here, and which CAs to trust.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tailway_metadata::enrollment::{
    Answer, Enrolled, RenewCertificateRequest, Trust, TrustRequest, to_json,
};
use tailway_metadata::security::Sha256;
use tailway_wire::ApiKey;

use crate::{ClientTls, HostPort, RpcConnection, RpcOptions, dial};

/// Connecting, and the answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Asks the coordinator at `address` for the next certificate of whoever `tls` is. The error says what went wrong and what
/// to do.
pub async fn renew(
    address: &HostPort,
    tls: &ClientTls,
    csr_pem: String,
) -> Result<Enrolled, String> {
    ask(address, tls, ApiKey::RenewCertificate, &RenewCertificateRequest { csr: csr_pem }).await
}

/// Asks whom to trust, and says whom this member trusts now.
pub async fn trust(
    address: &HostPort,
    tls: &ClientTls,
    trusts: Vec<Sha256>,
) -> Result<Trust, String> {
    ask(address, tls, ApiKey::DescribeTrust, &TrustRequest { trusts }).await
}

async fn ask<Q: Serialize, A: DeserializeOwned>(
    address: &HostPort,
    tls: &ClientTls,
    api: ApiKey,
    request: &Q,
) -> Result<A, String> {
    let stream = dial(address, Some(tls), TIMEOUT).await.map_err(|error| error.to_string())?;
    let options = RpcOptions { client_id: Some("tailway".into()), ..RpcOptions::default() };
    let rpc = RpcConnection::start(stream, format!("the coordinator {address}"), options);
    let answer = rpc.call_body(api, 0, &to_json(request), TIMEOUT).await;
    let answer = Answer::decode(&answer.map_err(|error| error.to_string())?);
    match answer.map_err(|error| format!("the coordinator's answer cannot be read: {error}"))? {
        Answer::Done(done) => Ok(done),
        Answer::Refused { text, .. } => Err(format!("the coordinator refuses: {text}")),
    }
}
