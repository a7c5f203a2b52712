//! An operator's calls to the coordinator, over mutual TLS with the admin's own certificate.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tailway_metadata::enrollment::{Answer, to_json};
use tailway_net::{RpcConnection, RpcOptions, dial};
use tailway_wire::frame::{encode_request_raw, split_response};
use tailway_wire::{ApiKey, RequestHeader};

use super::AsArgs;
use super::identity::{Identity, Papers};

const TIMEOUT: Duration = Duration::from_secs(15);

/// A connection to the coordinator, as an admin.
pub(super) struct Caller {
    rpc: RpcConnection,
    pub(super) identity: Identity,
}

impl Caller {
    pub(super) async fn connect(args: &AsArgs) -> Result<Caller> {
        let papers = Papers::in_dir(&args.identity)?;
        let identity = papers.identity()?;
        let address = identity.coordinator.parse()?;
        let tls = papers.tls()?;
        let stream = dial(&address, Some(&tls), TIMEOUT).await?;
        let options = RpcOptions { client_id: Some("tailway".into()), ..RpcOptions::default() };
        let rpc = RpcConnection::start(stream, format!("the coordinator {address}"), options);
        Ok(Caller { rpc, identity })
    }

    pub(super) async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        api: ApiKey,
        request: &Q,
    ) -> Result<A> {
        let body = to_json(request);
        let encode = |id| {
            encode_request_raw(&RequestHeader::new(api, 0, id, None), &body)
                .map(|frame| vec![frame])
        };
        let frame = self.rpc.call_raw(api.name(), 0, TIMEOUT, encode).await?;
        let (_, body) = split_response(api, 0, frame)?;
        match Answer::decode(&body).context("the coordinator's answer cannot be read")? {
            Answer::Done(done) => Ok(done),
            Answer::Refused { text, .. } => Err(anyhow!("the coordinator refuses: {text}")),
        }
    }
}
