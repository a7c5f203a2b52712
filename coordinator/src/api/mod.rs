//! What the coordinator serves, and what each API expects. One mTLS listener, Kafka frames (4-byte length, request header).
//!
//! **Who may connect.** The client certificate must be signed by the cluster's CA and name
//! `spiffe://<cluster id>/<role>/<id>`; anybody else is refused in the handshake or closed right after it, and logged. What
//! a role may ask is the table in [`access`]; the rest is answered CLUSTER_AUTHORIZATION_FAILED. A broker may only act as
//! itself: `broker_id` in a request must be the id in its certificate. CreateTopics and DeleteTopics name no broker and
//! need none.
//!
//! **Becoming a member** is another listener, [`enrollment`]: no certificate, one small request with a token.
//!
//! **Connections.** Requests on one connection are worked on concurrently (at most 16 at once, then reading stops) and are
//! answered as they are done, so a waiting FollowMetadata does not hold up a heartbeat: match answers by correlation id.
//! Frames are at most 1 MiB to the coordinator; FollowMetadata answers with a snapshot can be larger (allow 64 MiB).
//! A connection without a frame for 10 minutes is closed. Every request is answered within 10 s (FollowMetadata: within
//! its `max_wait_ms` + 10 s); REQUEST_TIMED_OUT then means that the outcome is not known.
//!
//! **Not leading.** A coordinator whose Raft does not lead (it is just starting) answers NOT_CONTROLLER with text to
//! everything but ApiVersions: try again after a backoff.
//!
//! **Error text.** BrokerRegistration, BrokerHeartbeat and AllocateProducerIds responses carry it in tagged field
//! [`tailway_metadata::control::ERROR_MESSAGE_TAG`] (UTF-8, in `unknown_tagged_fields`); the others in `error_message`.
//!
//! | API (key) | versions | what it expects |
//! | --- | --- | --- |
//! | ApiVersions (18) | 0-4 | as in Kafka; lists what follows |
//! | BrokerRegistration (62) | 0-4 | see below; needs `log_dirs`, so version 2 or newer |
//! | BrokerHeartbeat (63) | 0-1 | see below |
//! | CreateTopics (19) | 2-7 | as in Kafka; replication factor 1 or -1; all names and configs are checked here |
//! | DeleteTopics (20) | 1-6 | by name, or by id from version 6 |
//! | AllocateProducerIds (67) | 0 | a registered broker gets a block of 1,000 ids |
//! | FollowMetadata (private) | 0 | [`tailway_metadata::control`]: JSON body after the request header |
//! | CreateToken, RevokeToken, DescribeMembership, IssueCertificate, RevokeCertificates, AlterAuthorities (private) | 0 | [`tailway_metadata::enrollment`]: JSON bodies, of admins only |
//! | RenewCertificate (private) | 0 | the same; of every member for itself, under the names it has |
//! | DescribeTrust (private) | 0 | the same; tells every member which CAs to trust |
//!
//! **BrokerRegistration.** `cluster_id` must be ours (INCONSISTENT_CLUSTER_ID). `log_dirs` is exactly one id: the data
//! directory's, written into it once. `incarnation_id` is new at each process start. `previous_broker_epoch` is the epoch
//! that *this process* had before (it registers again), or -1 for its first registration. `listeners` are the advertised
//! endpoints, `security_protocol` 0 plaintext or 1 TLS. `features` are ignored. Answers:
//! - none: `broker_epoch` for the heartbeats. The broker is registered and fenced. The same registration again gives the
//!   same epoch, so a lost answer is safe to ask again.
//! - INVALID_REGISTRATION: this broker id belongs to another data directory, or an endpoint is not usable. Fatal for the
//!   broker: print the text, exit.
//! - DUPLICATE_BROKER_REGISTRATION: a later process took this broker id over while this one lives (a copied data
//!   directory). Fatal for the broker.
//! - A new incarnation with the same data directory replaces the old one at once: the directory's lock proves that the old
//!   one is gone.
//!
//! **BrokerHeartbeat.** Every 1 to 2 s; without one for the session timeout (default 9 s) the broker is fenced and its
//! partitions have no leader. `current_metadata_offset` is the broker's `ClusterImage::offset`. A fenced broker that does
//! not set `want_fence` and whose image has its own registration is unfenced by this heartbeat and leads its partitions
//! again, each at a new leader epoch: `is_fenced` false in the answer. So: register, follow until the image has the
//! registration, heartbeat, serve. `want_fence`, or any `offline_log_dirs`: fenced from here on. `want_shut_down`: fenced,
//! and `should_shut_down` in the answer once its leaderships are given up. Errors: BROKER_ID_NOT_REGISTERED and
//! STALE_BROKER_EPOCH: register again.
//!
//! **CreateTopics.** `num_partitions` -1 is the default (`default_partitions`, for `__consumer_offsets`
//! `offsets_topic_partitions`). `__consumer_offsets` is always compacted. The answer comes when the topic is committed; the
//! leader is assigned in the same step, so follow the record stream until your image has the topic, then it is usable.
//!
//! **AllocateProducerIds.** `broker_id` and `broker_epoch` as registered, else BROKER_ID_NOT_REGISTERED or
//! STALE_BROKER_EPOCH. The block is durable when it is answered and is given to nobody else, ever.
//!
//! **FollowMetadata.** Start with `ClusterImage::default()` (offset 0, nil `log_id`) or the last image on disk, then ask
//! again and again from `image.offset`, replacing the image by `response.apply_to(&image)`. The records of one response are
//! whole batches: publish the image after all of them. An empty answer after `max_wait_ms` (at most 30 s) is normal. A
//! snapshot comes when the records are gone or `log_id` is another one; then what the image says can jump, also backwards.

pub mod access;
mod connection;
mod convert;
pub mod enrollment;
mod follow;
pub(crate) mod membership;
pub mod server;
pub mod service;
