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
    CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse,
};

use super::link::{self, CallError, Link, LinkState, LinkWatch};
use super::session::error_text;

/// Versions spoken to the coordinator.
const CREATE_TOPICS_VERSION: i16 = 7;
const DELETE_TOPICS_VERSION: i16 = 6;
const ALLOCATE_PRODUCER_IDS_VERSION: i16 = 0;

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

    pub async fn create_topics(
        &self,
        request: &CreateTopicsRequest,
        at_most: Duration,
    ) -> Result<CreateTopicsResponse, ControllerError> {
        let link = self.link_or_error()?;
        let timeout = self.timeout.min(at_most);
        link::call(&link.rpc, ApiKey::CreateTopics, CREATE_TOPICS_VERSION, request, timeout)
            .await
            .map_err(ControllerError::Call)
    }

    pub async fn delete_topics(
        &self,
        request: &DeleteTopicsRequest,
        at_most: Duration,
    ) -> Result<DeleteTopicsResponse, ControllerError> {
        let link = self.link_or_error()?;
        let timeout = self.timeout.min(at_most);
        link::call(&link.rpc, ApiKey::DeleteTopics, DELETE_TOPICS_VERSION, request, timeout)
            .await
            .map_err(ControllerError::Call)
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
