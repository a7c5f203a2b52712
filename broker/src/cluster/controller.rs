//! What only the coordinator may decide, sent to it with a deadline.
//!
//! Promise: while no coordinator answers, the error comes at once and says so; while one is slow, it comes when the
//! deadline does. Nothing is retried here: whether a request that timed out was carried out is not known.

use std::time::Duration;

use tailway_metadata::{BrokerId, ProducerId};
use tailway_net::HostPort;
use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::{
    AllocateProducerIdsRequest, AllocateProducerIdsResponse, CreateTopicsRequest,
    CreateTopicsResponse, Decodable, DeleteTopicsRequest, DeleteTopicsResponse, Encodable,
};

use super::link::{self, CallError, Link, LinkState, LinkWatch};
use super::session::error_text;

/// Versions spoken to the coordinator.
const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_TOPICS_VERSION: i16 = 6;
const ALLOCATE_PRODUCER_IDS_VERSION: i16 = 0;
/// A request that says "do not wait" is waited for this long all the same: its answer is nearly always there by then.
const WAIT_MIN: Duration = Duration::from_secs(1);

/// Why the coordinator did not decide.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControllerError {
    #[error(
        "no coordinator answers ({cause}): topics cannot be created or deleted until one does; what exists is \
         served on; check that tailway-coordinator runs at {addresses}"
    )]
    Away { addresses: String, cause: String },
    #[error("{0}; whether it was carried out is not known")]
    Call(CallError),
    #[error(
        "the coordinator did not answer within {after:?}, the request's own timeout; whether it was carried out is \
         not known"
    )]
    TooSlow { after: Duration },
    #[error("the coordinator refused: {0}")]
    Refused(String),
}

/// The way to the coordinator. Clones share it.
#[derive(Debug, Clone)]
pub struct Controller {
    me: BrokerId,
    addresses: String,
    timeout: Duration,
    link: LinkWatch,
}

impl Controller {
    pub fn new(me: BrokerId, addresses: &[HostPort], timeout: Duration, link: LinkWatch) -> Self {
        let addresses = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Self { me, addresses, timeout, link }
    }

    pub fn state(&self) -> LinkState {
        self.link.borrow().clone()
    }

    /// Returns once a coordinator answers. Cancel-safe.
    pub async fn up(&mut self) {
        let up = self.link.wait_for(|state| matches!(state, LinkState::Up(_)));
        if up.await.is_err() {
            // The session is gone, so the broker is stopping: nothing will come up any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the answer `at_most` this long, but never so briefly that no coordinator could give it.
    pub async fn create_topics(
        &self,
        request: &CreateTopicsRequest,
        at_most: Duration,
    ) -> Result<CreateTopicsResponse, ControllerError> {
        self.ask(ApiKey::CreateTopics, CREATE_TOPICS_VERSION, request, at_most).await
    }

    /// As `create_topics`.
    pub async fn delete_topics(
        &self,
        request: &DeleteTopicsRequest,
        at_most: Duration,
    ) -> Result<DeleteTopicsResponse, ControllerError> {
        self.ask(ApiKey::DeleteTopics, DELETE_TOPICS_VERSION, request, at_most).await
    }

    /// A client's timeout only ends its own wait. The call keeps the broker's: one that runs out of time ends the
    /// connection, which everybody else uses too.
    async fn ask<Q: Encodable, A: Decodable>(
        &self,
        api: ApiKey,
        version: i16,
        request: &Q,
        at_most: Duration,
    ) -> Result<A, ControllerError> {
        let link = self.link_or_error()?;
        let at_most = at_most.max(WAIT_MIN);
        let call = link::call(&link.rpc, api, version, request, self.timeout);
        match tokio::time::timeout(at_most, call).await {
            Ok(answer) => answer.map_err(ControllerError::Call),
            Err(_) => Err(ControllerError::TooSlow { after: at_most }),
        }
    }

    /// A block of producer ids that nobody else gets: first id and length.
    pub async fn allocate_producer_ids(&self) -> Result<(ProducerId, i32), ControllerError> {
        let link = self.link_or_error()?;
        let request = AllocateProducerIdsRequest::default()
            .with_broker_id(self.me.0.into())
            .with_broker_epoch(link.broker_epoch.0);
        let version = ALLOCATE_PRODUCER_IDS_VERSION;
        let answer: AllocateProducerIdsResponse =
            link::call(&link.rpc, ApiKey::AllocateProducerIds, version, &request, self.timeout)
                .await
                .map_err(ControllerError::Call)?;
        let code = ErrorCode::from(answer.error_code);
        if code.is_error() {
            return Err(ControllerError::Refused(error_text(code, &answer.unknown_tagged_fields)));
        }
        Ok((ProducerId(answer.producer_id_start.0), answer.producer_id_len))
    }

    fn link_or_error(&self) -> Result<Link, ControllerError> {
        match self.state() {
            LinkState::Up(link) => Ok(link),
            LinkState::Away { cause } => Err(ControllerError::Away {
                addresses: self.addresses.clone(),
                cause: cause.to_string(),
            }),
        }
    }
}
