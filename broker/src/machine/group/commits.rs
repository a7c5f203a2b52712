//! Committing, fetching and deleting offsets.
//!
//! A commit changes nothing before its record is durable; then it is seen by fetches, in the order of the log.

use std::collections::{BTreeMap, BTreeSet};

use tailway_metadata::PartitionIndex;
use tailway_metadata::time::WallMs;
use tailway_wire::ErrorCode;
use tailway_wire::messages::{OffsetCommitRequest, OffsetDeleteRequest, StrBytes};

use super::join::copied;
use super::requests::{commit_response, delete_offsets_response};
use super::shard::{Context, Then};
use super::state::{Group, State};
use super::{Call, FetchOffsets, FetchedOffsets};
use crate::machine::offsets::GroupOffsets;
use crate::machine::offsets::schema::{OffsetValue, OffsetsRecord};

/// Offsets that are being made durable: topic, partition, value.
pub(super) type Committing = Vec<(StrBytes, i32, OffsetValue)>;

/// What deletes offsets: the group, and tombstones for these.
pub(super) type Deleting = Vec<(StrBytes, i32)>;

impl Group {
    pub(super) fn commit(
        &mut self,
        request: &OffsetCommitRequest,
        call: Call,
        ctx: &mut Context<'_>,
    ) {
        if let Err(error) = self.check_commit(request) {
            return ctx.reply(call, commit_response(request, |_, _| error));
        }
        // A commit is a sign of life.
        self.renew_session(&request.member_id, ctx.now);
        let mut refused = BTreeMap::new();
        let mut committing: Committing = Vec::new();
        let mut count = self.offsets.len() + self.offsets_open;
        for topic in &request.topics {
            let name = copied(&topic.name.0);
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let metadata = partition.committed_metadata.as_ref();
                let is_known = ctx.image.partition(&name, PartitionIndex(index)).is_some();
                let is_new = self.offsets.offset(&name, index).is_none();
                let error = if !is_known {
                    ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
                } else if metadata
                    .is_some_and(|text| text.len() > ctx.config.offset_metadata_bytes_max)
                {
                    ErrorCode::OFFSET_METADATA_TOO_LARGE
                } else if is_new && count >= ctx.config.offsets_max {
                    ErrorCode::INVALID_COMMIT_OFFSET_SIZE
                } else {
                    count += usize::from(is_new);
                    let expire_timestamp = expire_timestamp(request.retention_time_ms, ctx.wall);
                    let epoch = partition.committed_leader_epoch;
                    let value = OffsetValue {
                        offset: partition.committed_offset,
                        // The schema of an offset that expires has no room for it, and its clients do not send it.
                        leader_epoch: if expire_timestamp.is_some() { -1 } else { epoch },
                        metadata: metadata.map(copied).unwrap_or_default(),
                        commit_timestamp: ctx.wall,
                        expire_timestamp,
                    };
                    committing.push((name.clone(), index, value));
                    continue;
                };
                refused.insert((name.clone(), index), error);
            }
        }
        let error_of = |topic: &StrBytes, partition| {
            refused.get(&(topic.clone(), partition)).copied().unwrap_or_default()
        };
        let response = commit_response(request, error_of);
        if committing.is_empty() {
            return ctx.reply(call, response);
        }
        let records = committing
            .iter()
            .map(|(topic, partition, value)| {
                let value = Some(value.clone());
                OffsetsRecord::Offset(self.id.clone(), topic.clone(), *partition, value)
            })
            .collect();
        self.offsets_open += committing.len();
        ctx.append(self, records, Then::Committed { call, response, committing });
    }

    /// Whether the caller may commit: a member of this generation, or anybody while the group has no members.
    fn check_commit(&self, request: &OffsetCommitRequest) -> Result<(), ErrorCode> {
        let generation = request.generation_id_or_member_epoch;
        let instance = request.group_instance_id.as_ref();
        let is_anonymous = generation < 0 && request.member_id.is_empty() && instance.is_none();
        if self.members.is_empty() && generation < 0 {
            return Ok(());
        }
        if is_anonymous {
            // Somebody who commits by hand while a group is at work would be overwritten, or overwrite.
            return Err(ErrorCode::UNKNOWN_MEMBER_ID);
        }
        self.find_current_member(&request.member_id, instance, generation)?;
        match self.state {
            // The assignment is not known yet, so nobody can have consumed anything under it.
            State::CompletingRebalance => Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::Empty | State::PreparingRebalance | State::Stable => Ok(()),
        }
    }

    pub(super) fn fetch_offsets(&self, request: &FetchOffsets) -> FetchedOffsets {
        let topics = match &request.topics {
            Some(topics) => topics
                .iter()
                .map(|(topic, partitions)| {
                    let found = |partition: &i32| {
                        (*partition, self.offsets.offset(topic, *partition).cloned())
                    };
                    (topic.clone(), partitions.iter().map(found).collect())
                })
                .collect(),
            None => self
                .offsets
                .topics()
                .map(|(topic, partitions)| {
                    let found = |(partition, value): (&i32, &OffsetValue)| {
                        (*partition, Some(value.clone()))
                    };
                    (topic.clone(), partitions.iter().map(found).collect())
                })
                .collect(),
        };
        FetchedOffsets { error: ErrorCode::NONE, topics }
    }

    /// OffsetDelete: of a group without members all, of a consumer group what it is not subscribed to.
    pub(super) fn delete_offsets(
        &mut self,
        request: &OffsetDeleteRequest,
        call: Call,
        ctx: &mut Context<'_>,
    ) {
        let is_consumer = self.protocol_type.as_deref() == Some("consumer");
        if !self.members.is_empty() && !is_consumer {
            let response = delete_offsets_response(request, &BTreeMap::new())
                .with_topics(Vec::new())
                .with_error_code(ErrorCode::NON_EMPTY_GROUP.code());
            return ctx.reply(call, response);
        }
        let subscribed = self.subscribed_topics();
        let mut errors = BTreeMap::new();
        let mut deleting: Deleting = Vec::new();
        for topic in &request.topics {
            for partition in &topic.partitions {
                let key = (copied(&topic.name.0), partition.partition_index);
                if subscribed.as_ref().is_none_or(|topics| topics.contains(&key.0)) {
                    errors.insert(key, ErrorCode::GROUP_SUBSCRIBED_TO_TOPIC);
                } else if self.offsets.offset(&key.0, key.1).is_some() {
                    deleting.push(key);
                }
            }
        }
        let response = delete_offsets_response(request, &errors);
        if deleting.is_empty() {
            return ctx.reply(call, response);
        }
        let records = GroupOffsets::tombstones(&self.id, &deleting);
        ctx.append(self, records, Then::OffsetsDeleted { call, response, deleting });
    }

    /// The topics that members subscribe to; None if a subscription cannot be read (then all count as subscribed).
    fn subscribed_topics(&self) -> Option<BTreeSet<StrBytes>> {
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            for (_, metadata) in &member.protocols {
                topics.extend(topics_of_subscription(metadata.clone())?);
            }
        }
        Some(topics)
    }
}

/// The topics of a consumer's subscription, of whatever version: they stand first in all of them.
fn topics_of_subscription(metadata: bytes::Bytes) -> Option<Vec<StrBytes>> {
    let mut reader = tailway_wire::primitives::Reader::new(metadata, false);
    reader.i16("subscription version").ok()?;
    let count = reader.array("topics", 2).ok()?;
    (0..count).map(|_| reader.string("topic").ok()).collect()
}

/// Versions 2 to 4 may name how long an offset is kept; -1 means as long as the broker says.
fn expire_timestamp(retention_time_ms: i64, wall: WallMs) -> Option<WallMs> {
    (retention_time_ms >= 0).then_some(WallMs(wall.0.saturating_add(retention_time_ms)))
}
