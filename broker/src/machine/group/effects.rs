//! What follows when an append is durable or has failed, and what is described, expired and deleted.

use tailway_wire::ErrorCode;
use tailway_wire::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use tailway_wire::messages::{GroupId, StrBytes};

use super::commits::Deleting;
use super::requests::{commit_error, join_error};
use super::shard::{Context, Notice, Then};
use super::state::{Group, State};
use super::{Call, Response};
use crate::machine::offsets::GroupOffsets;
use crate::machine::offsets::schema::OffsetsRecord;

impl Group {
    pub(super) fn appended(
        &mut self,
        then: Then,
        outcome: Result<(), ErrorCode>,
        ctx: &mut Context<'_>,
    ) {
        if let Then::Committed { committing, .. } = &then {
            self.offsets_open -= committing.len();
        }
        if let Then::AssignmentStored { generation } = then {
            return self.assignment_stored(generation, outcome, ctx);
        }
        if let Err(error) = outcome {
            if let Some((call, response)) = then.failed(error) {
                ctx.reply(call, response);
            }
            return;
        }
        match then {
            Then::Nothing | Then::AssignmentStored { .. } => {}
            Then::StaticReplaced { waiting, response } => ctx.reply(waiting.call, response),
            Then::Committed { call, response, committing } => {
                for (topic, partition, value) in committing {
                    self.offsets.set(topic, partition, value);
                }
                ctx.reply(call, response);
            }
            Then::OffsetsDeleted { call, response, deleting } => {
                self.forget_offsets(&deleting);
                ctx.reply(call, response);
            }
            Then::OffsetsRemoved { deleting } => self.forget_offsets(&deleting),
            Then::GroupDeleted { call, deleting } => {
                self.forget_offsets(&deleting);
                ctx.reply(call, ErrorCode::NONE);
            }
        }
    }

    fn forget_offsets(&mut self, deleting: &Deleting) {
        for (topic, partition) in deleting {
            self.offsets.remove(topic, *partition);
        }
    }

    /// Removes offsets that nobody asked to be removed.
    pub(super) fn remove_offsets(&mut self, deleting: Deleting, ctx: &mut Context<'_>) {
        if !deleting.is_empty() {
            let records = GroupOffsets::tombstones(&self.id, &deleting);
            ctx.append(self, records, Then::OffsetsRemoved { deleting });
        }
    }

    /// Retention: old offsets go; a group without members and offsets goes with them.
    pub(super) fn expire(&mut self, ctx: &mut Context<'_>) {
        if self.appends_open > 0 {
            // What is under way may be what keeps it. The next check is soon enough.
            return;
        }
        let deleting =
            self.offsets.expired(self.retention_base(), ctx.config.offsets_retention, ctx.wall);
        if !deleting.is_empty() {
            let count = deleting.len();
            ctx.notice(Notice::OffsetsExpired { group: self.id.clone(), count });
        }
        if self.is_idle() && self.is_stored && deleting.len() == self.offsets.len() {
            let mut records = GroupOffsets::tombstones(&self.id, &deleting);
            records.push(OffsetsRecord::Group(self.id.clone(), None));
            ctx.append(self, records, Then::OffsetsRemoved { deleting });
        } else {
            self.remove_offsets(deleting, ctx);
        }
    }

    /// DeleteGroups: only a group without members, and with nothing under way.
    pub(super) fn delete(&mut self, call: Call, ctx: &mut Context<'_>) {
        if !self.is_idle() {
            return ctx.reply(call, ErrorCode::NON_EMPTY_GROUP);
        }
        let deleting = self.offsets.partitions();
        let mut records = GroupOffsets::tombstones(&self.id, &deleting);
        records.push(OffsetsRecord::Group(self.id.clone(), None));
        ctx.append(self, records, Then::GroupDeleted { call, deleting });
    }

    /// Subscriptions and assignments are shown when they are settled.
    pub(super) fn describe(&self) -> DescribedGroup {
        let is_stable = self.state == State::Stable;
        let protocol = self.protocol.as_ref().filter(|_| is_stable);
        let members = self.members.iter().map(|(id, member)| {
            let described = DescribedGroupMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_client_id(member.client_id.clone())
                .with_client_host(member.client_host.clone());
            if !is_stable {
                return described;
            }
            described
                .with_member_metadata(member.metadata(protocol))
                .with_member_assignment(member.assignment.clone())
        });
        DescribedGroup::default()
            .with_group_id(GroupId(self.id.clone()))
            .with_group_state(StrBytes::from_static_str(self.state.name()))
            .with_protocol_type(self.protocol_type.clone().unwrap_or_default())
            .with_protocol_data(protocol.cloned().unwrap_or_default())
            .with_members(members.collect())
    }
}

impl Then {
    /// The call that waits, if one does, and its answer if the append failed.
    pub(super) fn failed(self, error: ErrorCode) -> Option<(Call, Response)> {
        match self {
            Then::Nothing | Then::AssignmentStored { .. } | Then::OffsetsRemoved { .. } => None,
            Then::StaticReplaced { waiting, response } => {
                let response = join_error(waiting.version, response.member_id, error);
                Some((waiting.call, response.into()))
            }
            Then::Committed { call, response, .. } => {
                Some((call, commit_error(response, error).into()))
            }
            Then::OffsetsDeleted { call, response, .. } => {
                let response = response.with_topics(Vec::new()).with_error_code(error.code());
                Some((call, response.into()))
            }
            Then::GroupDeleted { call, .. } => Some((call, error.into())),
        }
    }

    pub(super) fn call(&self) -> Option<Call> {
        match self {
            Then::StaticReplaced { waiting, .. } => Some(waiting.call),
            Then::Committed { call, .. }
            | Then::OffsetsDeleted { call, .. }
            | Then::GroupDeleted { call, .. } => Some(*call),
            Then::Nothing | Then::AssignmentStored { .. } | Then::OffsetsRemoved { .. } => None,
        }
    }
}

/// A group that is not there: since version 6 an error, before that dead.
pub(super) fn describe_unknown(id: StrBytes, version: i16) -> DescribedGroup {
    let described = DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str("Dead"))
        .with_group_id(GroupId(id.clone()));
    if version < 6 {
        return described;
    }
    let message = format!("Group {} not found.", &*id);
    described
        .with_error_code(ErrorCode::GROUP_ID_NOT_FOUND.code())
        .with_error_message(Some(StrBytes::from_string(message)))
}
