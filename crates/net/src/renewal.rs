//! A member's next certificate, from the coordinator: asked for with the present one, for a key made here.

use std::time::Duration;

use tailway_metadata::enrollment::{Answer, Enrolled, RenewCertificateRequest, to_json};
use tailway_wire::ApiKey;

use crate::{ClientTls, HostPort, RpcConnection, RpcOptions, dial};

/// Connecting, and the answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Asks the coordinator at `address`, as whoever `tls` is. The error says what went wrong and what to do.
pub async fn renew(
    address: &HostPort,
    tls: &ClientTls,
    csr_pem: String,
) -> Result<Enrolled, String> {
    let stream = dial(address, Some(tls), TIMEOUT).await.map_err(|error| error.to_string())?;
    let options = RpcOptions { client_id: Some("tailway".into()), ..RpcOptions::default() };
    let rpc = RpcConnection::start(stream, format!("the coordinator {address}"), options);
    let body = to_json(&RenewCertificateRequest { csr: csr_pem });
    let answer = rpc.call_body(ApiKey::RenewCertificate, 0, &body, TIMEOUT).await;
    let answer = Answer::decode(&answer.map_err(|error| error.to_string())?);
    match answer.map_err(|error| format!("the coordinator's answer cannot be read: {error}"))? {
        Answer::Done(enrolled) => Ok(enrolled),
        Answer::Refused { text, .. } => Err(format!("the coordinator refuses: {text}")),
    }
}
