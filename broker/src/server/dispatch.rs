//! One frame in, one outcome out: decode, find the handler, encode, count.
//!
//! The match over `ApiKey` has no wildcard: an API that is added to the table does not compile until it is answered
//! here. What cannot be answered ends the connection, as in Kafka, but is first said once per client with its name,
//! version and API; only ApiVersions above our version gets an answer (KIP-511).

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use tailway_wire::api::{ApiKey, Server};
use tailway_wire::frame;
use tailway_wire::messages::{Decodable, Encodable, FetchRequest, InitProducerIdRequest};
use tailway_wire::produce::ProduceRequest;
use tailway_wire::{ErrorCode, RequestHeader, WireError};
use tokio::time::Instant;

use super::access::Principal;
use super::budget::Share;
use super::connection::PendingAnswer;
use super::context::{Closing, Peer, Services};
use super::refusals::Reason;
use crate::api;
use crate::api::fetch::FetchLimits;
use crate::group::Caller;
use crate::metrics::{ApiLabel, BrokerMetrics};

/// What became of a request.
pub(super) enum Outcome {
    Reply(Vec<Bytes>),
    /// A reply that holds response memory until it is sent.
    Fetched(Vec<Bytes>, Vec<Share>),
    /// Has its place in the order; the answer comes later.
    Pending(PendingAnswer),
    /// There is no response (acks=0).
    Silent,
    /// The connection ends.
    Close,
}

/// One request whose header is read.
struct Call<'a> {
    services: &'a Arc<Services>,
    peer: &'a Arc<Peer>,
    closing: &'a Closing,
    header: RequestHeader,
}

/// Handles one request frame.
pub(super) async fn handle(
    services: &Arc<Services>,
    peer: &Arc<Peer>,
    closing: &Closing,
    frame: Bytes,
) -> Outcome {
    let (header, body) = match frame::parse_request_header(frame) {
        Ok(parsed) => parsed,
        Err(error) => return refuse(services, peer, None, &error),
    };
    let api = match header.api() {
        Ok(api) if api.is_served_by(Server::Broker) => api,
        Ok(_) | Err(_) => {
            return refuse(services, peer, header.client_id.as_deref(), &header.unknown_api());
        }
    };
    let started = Instant::now();
    let call = Call { services, peer, closing, header };
    let answered =
        if peer.principal.may(api) { call.answer(api, body).await } else { call.deny(api, body) };
    let outcome = match answered {
        Ok(outcome) => outcome,
        Err(error) => return refuse(services, peer, call.header.client_id.as_deref(), &error),
    };
    match outcome {
        Outcome::Pending(pending) => {
            let metrics = services.metrics.clone();
            Outcome::Pending(Box::pin(async move {
                let answer = pending.await;
                count(&metrics, api, started);
                answer
            }))
        }
        done => {
            count(&services.metrics, api, started);
            done
        }
    }
}

fn count(metrics: &BrokerMetrics, api: ApiKey, started: Instant) {
    let label = ApiLabel { api: api.name() };
    metrics.requests.get_or_create(&label).inc();
    metrics.request_seconds.get_or_create(&label).observe(started.elapsed().as_secs_f64());
}

impl Call<'_> {
    #[allow(clippy::too_many_lines, reason = "one arm per API, nothing else")]
    async fn answer(&self, api: ApiKey, body: Bytes) -> Result<Outcome, WireError> {
        let services = self.services;
        let version = self.header.api_version;
        let listener = &*self.peer.listener;
        let (view, routes, creator) = (&services.view, &services.routes, &services.creator);
        let (groups, caller) = (&services.groups, self.caller());
        match api {
            ApiKey::Produce => self.produce(body).await,
            ApiKey::Fetch => self.fetch(body).await,
            ApiKey::ListOffsets => {
                self.reply(body, |r| api::list_offsets::handle(r, version, routes)).await
            }
            ApiKey::Metadata => {
                let asked = (listener, &self.peer.principal);
                self.reply(body, |r| api::metadata::handle(r, version, asked, view, creator)).await
            }
            ApiKey::OffsetCommit => {
                self.reply(body, |r| api::offset_commit::handle(r, &caller, groups)).await
            }
            ApiKey::OffsetFetch => {
                self.reply(body, |r| api::offset_fetch::handle(r, &caller, groups)).await
            }
            ApiKey::FindCoordinator => {
                self.reply(body, |r| {
                    api::find_coordinator::handle(r, version, listener, view, creator)
                })
                .await
            }
            ApiKey::JoinGroup => {
                let closing = self.closing.clone();
                self.reply_unless_closed(body, |r| {
                    api::join_group::handle(r, &caller, groups, closing)
                })
                .await
            }
            ApiKey::SyncGroup => {
                let closing = self.closing.clone();
                self.reply_unless_closed(body, |r| {
                    api::sync_group::handle(r, &caller, groups, closing)
                })
                .await
            }
            ApiKey::Heartbeat => {
                self.reply(body, |r| api::heartbeat::handle(r, &caller, groups)).await
            }
            ApiKey::LeaveGroup => {
                self.reply(body, |r| api::leave_group::handle(r, &caller, groups)).await
            }
            ApiKey::DescribeGroups => {
                self.reply(body, |r| api::describe_groups::handle(r, &caller, groups)).await
            }
            ApiKey::ListGroups => {
                self.reply(body, |r| api::list_groups::handle(r, &caller, groups)).await
            }
            ApiKey::DeleteGroups => {
                self.reply(body, |r| api::delete_groups::handle(r, &caller, groups)).await
            }
            ApiKey::OffsetDelete => {
                self.reply(body, |r| api::offset_delete::handle(r, &caller, groups)).await
            }
            ApiKey::ApiVersions => {
                self.reply_now(body, |r| api::api_versions::handle(&r, version, self.peer))
            }
            ApiKey::CreateTopics => {
                let defaults = &services.facts.topic_defaults;
                let controller = &services.controller;
                self.reply(body, |r| {
                    api::create_topics::handle(r, version, controller, creator, defaults)
                })
                .await
            }
            ApiKey::DeleteTopics => {
                let controller = &services.controller;
                self.reply(body, |r| api::delete_topics::handle(r, version, controller, view)).await
            }
            ApiKey::InitProducerId => self.init_producer_id(body).await,
            ApiKey::OffsetForLeaderEpoch => {
                self.reply(body, |r| api::offset_for_leader_epoch::handle(r, routes)).await
            }
            ApiKey::DescribeConfigs => self.reply_now(body, |r| {
                api::describe_configs::handle(r, version, view, &services.facts)
            }),
            ApiKey::DescribeCluster => {
                self.reply_now(body, |r| api::describe_cluster::handle(&r, listener, view))
            }
            ApiKey::DescribeProducers => {
                self.reply(body, |r| api::describe_producers::handle(r, routes)).await
            }
            // Not served here; `handle` has refused them already.
            ApiKey::BrokerRegistration
            | ApiKey::BrokerHeartbeat
            | ApiKey::AllocateProducerIds
            | ApiKey::FollowMetadata
            | ApiKey::CreateToken
            | ApiKey::RevokeToken
            | ApiKey::DescribeMembership
            | ApiKey::IssueCertificate
            | ApiKey::RevokeCertificates
            | ApiKey::RenewCertificate
            | ApiKey::DescribeTrust
            | ApiKey::AlterAuthorities => Err(self.header.unknown_api()),
        }
    }

    /// The answer to what the peer's role does not allow.
    fn deny(&self, api: ApiKey, body: Bytes) -> Result<Outcome, WireError> {
        let Principal { role, .. } = &self.peer.principal;
        let who = &self.peer.principal;
        let why = format!("{who} may not call {api}: its role is {role}");
        self.refused(Reason::NotAllowed, &why);
        let answer = api::denied::answer(api, &self.header, body, &why)?;
        Ok(answer.map_or(Outcome::Close, Outcome::Reply))
    }

    async fn reply<Q: Decodable, A: Encodable, F: Future<Output = A>>(
        &self,
        body: Bytes,
        handler: impl FnOnce(Q) -> F,
    ) -> Result<Outcome, WireError> {
        let request = frame::decode_request(body, self.header.api_version)?;
        Ok(self.encode(&handler(request).await))
    }

    async fn reply_unless_closed<Q: Decodable, A: Encodable, F: Future<Output = Option<A>>>(
        &self,
        body: Bytes,
        handler: impl FnOnce(Q) -> F,
    ) -> Result<Outcome, WireError> {
        let request = frame::decode_request(body, self.header.api_version)?;
        match handler(request).await {
            Some(response) => Ok(self.encode(&response)),
            None => Ok(Outcome::Close),
        }
    }

    fn reply_now<Q: Decodable, A: Encodable>(
        &self,
        body: Bytes,
        handler: impl FnOnce(Q) -> A,
    ) -> Result<Outcome, WireError> {
        let request = frame::decode_request(body, self.header.api_version)?;
        Ok(self.encode(&handler(request)))
    }

    fn encode<A: Encodable>(&self, response: &A) -> Outcome {
        match frame::encode_response(&self.header, response) {
            Ok(frame) => Outcome::Reply(vec![frame]),
            Err(error) => self.unsendable(&error),
        }
    }

    /// A response of ours that its version cannot carry: a defect here, and the client must not wait for it.
    fn unsendable(&self, error: &WireError) -> Outcome {
        tracing::error!(
            api_key = self.header.api_key,
            version = self.header.api_version,
            %error,
            "a response could not be encoded; the connection is closed"
        );
        Outcome::Close
    }

    async fn produce(&self, body: Bytes) -> Result<Outcome, WireError> {
        let version = self.header.api_version;
        let request = ProduceRequest::decode(body, version)?;
        let started = api::produce::start(request, &self.services.routes).await;
        let mut refused = false;
        for refusal in started.refusals() {
            refused = true;
            if refusal.code == ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT {
                let text = refusal.text.as_deref().unwrap_or("an old record format");
                self.refused(Reason::OldMessageFormat, text);
            }
        }
        if !started.wants_response() {
            return Ok(if refused { Outcome::Close } else { Outcome::Silent });
        }
        let metrics = self.services.metrics.clone();
        let correlation_id = self.header.correlation_id;
        Ok(Outcome::Pending(Box::pin(async move {
            let response = started.finish().await;
            for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
                if partition.error_code.is_error() {
                    metrics.count_error(ApiKey::Produce.name(), partition.error_code.name());
                }
            }
            match response.encode(version, correlation_id) {
                Ok(frame) => Some(vec![frame]),
                Err(error) => {
                    tracing::error!(version, %error, "a Produce response could not be encoded");
                    None
                }
            }
        })))
    }

    async fn fetch(&self, body: Bytes) -> Result<Outcome, WireError> {
        let version = self.header.api_version;
        let request: FetchRequest = frame::decode_request(body, version)?;
        let limits = FetchLimits {
            fetch_size: self.services.limits.fetch_size,
            responses: &self.services.responses,
            closing: self.closing.clone(),
        };
        let fetched = api::fetch::handle(request, &self.services.routes, limits).await;
        for partition in fetched.response.topics.iter().flat_map(|topic| &topic.partitions) {
            if partition.error_code.is_error() {
                let code = partition.error_code.name();
                self.services.metrics.count_error(ApiKey::Fetch.name(), code);
            }
        }
        match fetched.response.encode(version, self.header.correlation_id) {
            Ok(segments) => Ok(Outcome::Fetched(segments, fetched.shares)),
            Err(error) => Ok(self.unsendable(&error)),
        }
    }

    async fn init_producer_id(&self, body: Bytes) -> Result<Outcome, WireError> {
        let ids = &self.services.producer_ids;
        self.reply(body, |request: InitProducerIdRequest| {
            if request.transactional_id.is_some() {
                self.refused(
                    Reason::Transactions,
                    "transactions are not served: remove transactional.id",
                );
            }
            api::init_producer_id::handle(request, ids)
        })
        .await
    }

    fn refused(&self, reason: Reason, detail: &str) {
        let client_id = self.header.client_id.as_deref();
        self.services.refusals.request(reason, self.peer, client_id, detail);
    }

    fn caller(&self) -> Caller {
        Caller {
            connection: self.peer.connection,
            api_version: self.header.api_version,
            client_id: self.header.client_id.clone().unwrap_or_default(),
            client_host: api::text(format!("/{}", self.peer.address.ip())),
        }
    }
}

/// A request that cannot be answered.
fn refuse(
    services: &Services,
    peer: &Peer,
    known_client: Option<&str>,
    error: &WireError,
) -> Outcome {
    let (reason, client_id, detail) = match error {
        WireError::UnsupportedVersion { api: ApiKey::ApiVersions, correlation_id, .. } => {
            // No refusal: this is how clients find a version that both have.
            return match frame::encode_unsupported_api_versions(*correlation_id) {
                Ok(frame) => Outcome::Reply(vec![frame]),
                Err(_) => Outcome::Close,
            };
        }
        WireError::UnknownApiKey { api_key, api_version, client_id, .. } => (
            Reason::UnknownApi,
            client_id.as_deref(),
            format!("API key {api_key} version {api_version} is not served by this broker"),
        ),
        WireError::UnsupportedVersion { api: ApiKey::Produce, api_version, client_id, .. }
            if *api_version < ApiKey::Produce.accepted_versions().min =>
        {
            let text = format!(
                "Produce version {api_version} carries the record formats from before Kafka 0.11, which are not \
                 stored; configure the client for version 0.11.0 or newer"
            );
            (Reason::OldMessageFormat, client_id.as_deref(), text)
        }
        WireError::UnsupportedVersion { api, api_version, versions, client_id, .. } => (
            Reason::UnsupportedVersion,
            client_id.as_deref(),
            format!("{api} version {api_version} is not served by this broker, {versions} are"),
        ),
        WireError::TooLarge { .. } => (Reason::TooLarge, None, error.to_string()),
        _ => (Reason::Malformed, None, format!("a request cannot be read: {error}")),
    };
    services.refusals.request(reason, peer, client_id.or(known_client), &detail);
    Outcome::Close
}
