//! An operator's calls to the coordinator, over mutual TLS with the admin's own certificate.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tailway_daemon::Clock;
use tailway_metadata::enrollment::{Answer, to_json};
use tailway_net::{ClientTls, HostPort, RpcConnection, RpcOptions, dial};
use tailway_wire::ApiKey;

use super::AsArgs;
use super::identity::{Identity, Papers};
use crate::output::complain;

const TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to the coordinator, as an admin.
pub(crate) struct Caller {
    rpc: RpcConnection,
    pub(crate) identity: Identity,
}

impl Caller {
    pub(crate) async fn connect(args: &AsArgs) -> Result<Caller> {
        let papers = Papers::found(&args.identity)?;
        let identity = papers.identity()?;
        if let Some(remark) = papers.remark(Clock::new().wall()) {
            complain(&remark);
        }
        let address = identity.coordinator.parse()?;
        let rpc = connect(&address, &papers.tls()?, TIMEOUT).await?;
        Ok(Caller { rpc, identity })
    }

    pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        api: ApiKey,
        request: &Q,
    ) -> Result<A> {
        ask(&self.rpc, api, request, TIMEOUT).await
    }
}

/// A connection to the coordinator at `address`, as whoever `tls` is.
pub(crate) async fn connect(
    address: &HostPort,
    tls: &ClientTls,
    timeout: Duration,
) -> Result<RpcConnection> {
    let stream = dial(address, Some(tls), timeout).await?;
    let options = RpcOptions { client_id: Some("tailway".into()), ..RpcOptions::default() };
    Ok(RpcConnection::start(stream, format!("the coordinator {address}"), options))
}

/// One of the coordinator's private calls.
pub(crate) async fn ask<Q: Serialize, A: DeserializeOwned>(
    rpc: &RpcConnection,
    api: ApiKey,
    request: &Q,
    timeout: Duration,
) -> Result<A> {
    let body = rpc.call_body(api, 0, &to_json(request), timeout).await?;
    match Answer::decode(&body).context("the coordinator's answer cannot be read")? {
        Answer::Done(done) => Ok(done),
        Answer::Refused { text, .. } => Err(anyhow!("the coordinator refuses: {text}")),
    }
}
