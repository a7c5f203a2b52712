//! One request to one answer: reads the header, asks the controller (or the feed), encodes.
//!
//! Everything here is bounded in time: the controller by [`CALL_TIMEOUT`], FollowMetadata by its own wait. A frame that
//! cannot be read ends its connection, with the reason in the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Clock;
use tailway_metadata::control::{FollowMetadataRequest, FollowMetadataResponse};
use tailway_metadata::security::Serial;
use tailway_metadata::{ClusterId, Role, TopicId};
use tailway_wire::api::api_versions_response;
use tailway_wire::frame::{
    decode_request, encode_response, encode_response_raw, encode_unsupported_api_versions,
    parse_request_header,
};
use tailway_wire::messages::{
    AllocateProducerIdsRequest, BrokerHeartbeatRequest, BrokerRegistrationRequest,
    CreateTopicsRequest, DeleteTopicsRequest,
};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader, Server, WireError};
use tokio::sync::{mpsc, oneshot, watch};

use super::{access, convert, follow, membership};
use crate::authorities::Authorities;
use crate::driver::{Call, Leadership};
use crate::machine::{Refusal, Reply, Request};
use crate::metrics::{ApiLabels, CoordinatorMetrics};
use crate::quorum::feed::Feed;

/// What the controller may take for an answer.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Who asks, as the certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub role: Role,
    pub id: Arc<str>,
    pub serial: Serial,
}

/// What requests are answered from. Clones share it.
#[derive(Clone, Debug)]
pub struct Service {
    pub cluster_id: ClusterId,
    /// Of the mTLS listener.
    pub port: u16,
    /// Of the listener for hosts with a token.
    pub enrollment_port: Option<u16>,
    pub calls: mpsc::Sender<Call>,
    pub feed: Feed,
    pub leadership: watch::Receiver<Leadership>,
    pub metrics: CoordinatorMetrics,
    pub clock: Clock,
    /// The cluster's CAs, if they are this coordinator's.
    pub authorities: Option<Arc<Authorities>>,
    /// Whether this coordinator renews its own certificate and keeps its own file of CAs.
    pub keeps_own: bool,
    /// Life of the certificates that it signs.
    pub certificate_lifetime: Duration,
}

impl Service {
    /// Whether the peer's certificate was revoked meanwhile.
    pub fn is_revoked(&self, peer: &Peer) -> bool {
        self.feed.image().security.is_revoked(&peer.serial)
            && !tailway_faults::is_planted("coordinator.revoked_served")
    }

    /// The answer to a frame, length included; an error ends the connection.
    pub async fn answer(&self, peer: &Peer, frame: Bytes) -> Result<Bytes, WireError> {
        let (header, body) = match parse_request_header(frame) {
            Ok(parsed) => parsed,
            // Only this API has an answer to a version that is too new: the list of what is known.
            Err(WireError::UnsupportedVersion {
                api: ApiKey::ApiVersions, correlation_id, ..
            }) => return encode_unsupported_api_versions(correlation_id),
            Err(error) => return Err(error),
        };
        let api = header.api()?;
        self.metrics.requests.get_or_create(&ApiLabels { api: api.name() }).inc();
        let allowed = access::check(api, peer.role, &peer.id);
        match api {
            ApiKey::ApiVersions => {
                encode_response(&header, &api_versions_response(Server::Coordinator))
            }
            ApiKey::BrokerRegistration => self.register(peer, allowed, &header, body).await,
            ApiKey::BrokerHeartbeat => self.heartbeat(peer, allowed, &header, body).await,
            ApiKey::AllocateProducerIds => {
                self.allocate_producer_ids(peer, allowed, &header, body).await
            }
            ApiKey::CreateTopics => self.create_topics(allowed, &header, body).await,
            ApiKey::DeleteTopics => self.delete_topics(allowed, &header, body).await,
            ApiKey::FollowMetadata => self.follow(allowed, &header, &body).await,
            ApiKey::CreateToken
            | ApiKey::RevokeToken
            | ApiKey::DescribeMembership
            | ApiKey::IssueCertificate
            | ApiKey::RevokeCertificates
            | ApiKey::RenewCertificate
            | ApiKey::DescribeTrust
            | ApiKey::AlterAuthorities => {
                let answer = membership::answer(self, api, peer, allowed, &body).await;
                encode_response_raw(&header, &answer)
            }
            _ => Err(header.unknown_api()),
        }
    }

    async fn register(
        &self,
        peer: &Peer,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: Bytes,
    ) -> Result<Bytes, WireError> {
        let request: BrokerRegistrationRequest = decode_request(body, header.api_version)?;
        let reply = match allowed
            .and_then(|()| acts_as_itself(peer, request.broker_id.0))
            .and_then(|()| convert::registration(&request))
        {
            Ok(request) => self.call(Request::RegisterBroker(request), CALL_TIMEOUT).await,
            Err(refusal) => Reply::Refused(refusal),
        };
        encode_response(header, &convert::registration_response(reply))
    }

    async fn heartbeat(
        &self,
        peer: &Peer,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: Bytes,
    ) -> Result<Bytes, WireError> {
        let request: BrokerHeartbeatRequest = decode_request(body, header.api_version)?;
        let reply = match allowed.and_then(|()| acts_as_itself(peer, request.broker_id.0)) {
            Ok(()) => {
                let heartbeat = Request::Heartbeat(convert::heartbeat(&request));
                self.call(heartbeat, CALL_TIMEOUT).await
            }
            Err(refusal) => Reply::Refused(refusal),
        };
        encode_response(header, &convert::heartbeat_response(reply))
    }

    async fn allocate_producer_ids(
        &self,
        peer: &Peer,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: Bytes,
    ) -> Result<Bytes, WireError> {
        let request: AllocateProducerIdsRequest = decode_request(body, header.api_version)?;
        let reply = match allowed.and_then(|()| acts_as_itself(peer, request.broker_id.0)) {
            Ok(()) => {
                let request = Request::AllocateProducerIds {
                    broker_id: request.broker_id.0.into(),
                    broker_epoch: request.broker_epoch.into(),
                };
                self.call(request, CALL_TIMEOUT).await
            }
            Err(refusal) => Reply::Refused(refusal),
        };
        encode_response(header, &convert::producer_ids_response(reply))
    }

    async fn create_topics(
        &self,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: Bytes,
    ) -> Result<Bytes, WireError> {
        let request: CreateTopicsRequest = decode_request(body, header.api_version)?;
        let create = convert::create_topics(&request, || TopicId(tailway_runtime::uuid()));
        let patience = patience(request.timeout_ms);
        let reply = self.call_if(allowed, Request::CreateTopics(create), patience).await;
        encode_response(header, &convert::create_topics_response(&request, reply))
    }

    async fn delete_topics(
        &self,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: Bytes,
    ) -> Result<Bytes, WireError> {
        let request: DeleteTopicsRequest = decode_request(body, header.api_version)?;
        let topics = convert::topics_to_delete(&request);
        let patience = patience(request.timeout_ms);
        let reply = self.call_if(allowed, Request::DeleteTopics(topics.clone()), patience).await;
        encode_response(header, &convert::delete_topics_response(&topics, reply))
    }

    async fn follow(
        &self,
        allowed: Result<(), Refusal>,
        header: &RequestHeader,
        body: &Bytes,
    ) -> Result<Bytes, WireError> {
        let response = match (allowed, FollowMetadataRequest::decode(body)) {
            (Err(refusal), _) => FollowMetadataResponse::error(refusal.code.into(), refusal.text),
            (Ok(()), Ok(request)) => follow::answer(self, &request).await,
            (Ok(()), Err(error)) => follow::malformed(&error),
        };
        encode_response_raw(header, &response.encode())
    }

    /// Asks the controller, unless the answer is no already.
    async fn call_if(
        &self,
        allowed: Result<(), Refusal>,
        request: Request,
        patience: Duration,
    ) -> Reply {
        match allowed {
            Ok(()) => self.call(request, patience).await,
            Err(refusal) => Reply::Refused(refusal),
        }
    }

    /// Asks the controller, within `patience`.
    pub(super) async fn call(&self, request: Request, patience: Duration) -> Reply {
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.calls.send(Call { request, reply }).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Some(reply)) => reply,
            Ok(None) => Reply::Refused(Refusal::new(
                ErrorCode::NOT_CONTROLLER,
                "this coordinator does not lead: it is stopping",
            )),
            Err(_) => {
                self.metrics.requests_timed_out.inc();
                Reply::Refused(Refusal::new(
                    ErrorCode::REQUEST_TIMED_OUT,
                    format!("not committed within {patience:?}; the outcome is not known"),
                ))
            }
        }
    }
}

/// A broker's certificate lets it act for itself only.
fn acts_as_itself(peer: &Peer, broker_id: i32) -> Result<(), Refusal> {
    if peer.role == Role::Broker && *peer.id == *broker_id.to_string() {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        format!(
            "the certificate names {} {}, which cannot act as broker {broker_id}",
            peer.role, peer.id
        ),
    ))
}

/// What the request allows, but never without end.
fn patience(timeout_ms: i32) -> Duration {
    match u64::try_from(timeout_ms) {
        Ok(ms) if ms > 0 => CALL_TIMEOUT.min(Duration::from_millis(ms)),
        _ => CALL_TIMEOUT,
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
