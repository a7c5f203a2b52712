//! Being a member: SyncGroup, Heartbeat, LeaveGroup, and what time and closed connections do to members.

use std::collections::BTreeMap;

use bytes::Bytes;
use tailway_metadata::time::Mono;
use tailway_wire::ErrorCode;
use tailway_wire::messages::leave_group_request::MemberIdentity;
use tailway_wire::messages::leave_group_response::MemberResponse;
use tailway_wire::messages::{
    HeartbeatRequest, LeaveGroupRequest, StrBytes, SyncGroupRequest, SyncGroupResponse,
};

use super::requests::{heartbeat_response, leave_response, sync_error};
use super::shard::{Context, Then};
use super::state::{Group, State, Waiting};
use super::{Call, Caller};

impl Group {
    /// The member of this id, if the caller may speak for it: an instance id must be the one under which it joined.
    pub(super) fn find_member(
        &self,
        id: &StrBytes,
        instance_id: Option<&StrBytes>,
    ) -> Result<(), ErrorCode> {
        if let Some(instance) = instance_id {
            match self.instances.get(instance) {
                None => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
                Some(current) if current != id => return Err(ErrorCode::FENCED_INSTANCE_ID),
                Some(_) => {}
            }
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(ErrorCode::UNKNOWN_MEMBER_ID) }
    }

    /// As `find_member`, and of this generation.
    pub(super) fn find_current_member(
        &self,
        id: &StrBytes,
        instance_id: Option<&StrBytes>,
        generation: i32,
    ) -> Result<(), ErrorCode> {
        self.find_member(id, instance_id)?;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::ILLEGAL_GENERATION) }
    }

    pub(super) fn renew_session(&mut self, id: &StrBytes, now: Mono) {
        if let Some(member) = self.members.get_mut(id) {
            member.session_deadline = now + member.session_timeout;
        }
    }

    pub(super) fn sync(
        &mut self,
        request: &SyncGroupRequest,
        waiting: Waiting,
        ctx: &mut Context<'_>,
    ) {
        if let Err(error) = self.check_sync(request, ctx) {
            return ctx.reply(waiting.call, sync_error(error));
        }
        let id = &request.member_id;
        let Some(member) = self.members.get_mut(id) else { return };
        member.session_deadline = ctx.now + member.session_timeout;
        if self.state == State::Stable {
            let response = sync_response(
                self.protocol_type.as_ref(),
                self.protocol.as_ref(),
                &member.assignment,
            );
            self.forget_unsynced(id);
            return ctx.reply(waiting.call, response);
        }
        if let Some(older) = member.syncing.replace(waiting) {
            // The same member asked again on a new connection: the older request is answered so that it ends.
            ctx.reply(older.call, sync_error(ErrorCode::REBALANCE_IN_PROGRESS));
        }
        self.forget_unsynced(id);
        if self.leader.as_ref() == Some(id) && self.storing.is_none() {
            let given: BTreeMap<&StrBytes, &Bytes> = request
                .assignments
                .iter()
                .map(|entry| (&entry.member_id, &entry.assignment))
                .collect();
            // Members that the leader passed over get nothing; strangers it named are dropped.
            let assignments: BTreeMap<StrBytes, Bytes> = self
                .members
                .keys()
                .map(|id| {
                    (
                        id.clone(),
                        given.get(id).map_or(Bytes::new(), |bytes| Bytes::copy_from_slice(bytes)),
                    )
                })
                .collect();
            let record = self.record(|id, _| assignments.get(id).cloned().unwrap_or_default());
            self.storing = Some(assignments);
            let generation = self.generation;
            ctx.append(self, vec![record], Then::AssignmentStored { generation });
        }
    }

    fn check_sync(&self, request: &SyncGroupRequest, ctx: &Context<'_>) -> Result<(), ErrorCode> {
        self.find_current_member(
            &request.member_id,
            request.group_instance_id.as_ref(),
            request.generation_id,
        )?;
        let differs =
            |asked: &Option<StrBytes>, ours: &Option<StrBytes>| asked.is_some() && asked != ours;
        match self.state {
            State::Empty => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
            State::PreparingRebalance => return Err(ErrorCode::REBALANCE_IN_PROGRESS),
            State::CompletingRebalance | State::Stable => {}
        }
        if differs(&request.protocol_type, &self.protocol_type)
            || differs(&request.protocol_name, &self.protocol)
        {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        let sizes = || request.assignments.iter().map(|entry| entry.assignment.len());
        if sizes().any(|bytes| bytes > ctx.config.member_metadata_bytes_max)
            || sizes().sum::<usize>() > ctx.config.group_metadata_bytes_max
        {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        Ok(())
    }

    pub(super) fn heartbeat(
        &mut self,
        request: &HeartbeatRequest,
        call: Call,
        ctx: &mut Context<'_>,
    ) {
        let (id, instance) = (&request.member_id, request.group_instance_id.as_ref());
        let found = self.find_current_member(id, instance, request.generation_id);
        if let Err(error) = found {
            return ctx.reply(call, heartbeat_response(error));
        }
        self.renew_session(id, ctx.now);
        let error = match self.state {
            State::Empty => ErrorCode::UNKNOWN_MEMBER_ID,
            State::PreparingRebalance => ErrorCode::REBALANCE_IN_PROGRESS,
            State::CompletingRebalance | State::Stable => ErrorCode::NONE,
        };
        ctx.reply(call, heartbeat_response(error));
    }

    pub(super) fn leave(
        &mut self,
        request: &LeaveGroupRequest,
        call: Call,
        caller: &Caller,
        ctx: &mut Context<'_>,
    ) {
        let mut left = false;
        let mut members = Vec::new();
        for identity in identities(request, caller.api_version) {
            let error = match self.expel(&identity, ctx) {
                Ok(()) => {
                    left = true;
                    ErrorCode::NONE
                }
                Err(error) => error,
            };
            members.push(member_response(&identity, error));
        }
        ctx.reply(call, leave_response(caller.api_version, members));
        if left {
            self.rebalance_without("a member left", ctx);
        }
    }

    /// One member of a LeaveGroup. An instance may be named without its member id: that is how an operator removes it.
    fn expel(&mut self, identity: &MemberIdentity, ctx: &mut Context<'_>) -> Result<(), ErrorCode> {
        let instance = identity.group_instance_id.as_ref();
        if instance.is_none() && self.pending.remove(&identity.member_id).is_some() {
            return Ok(());
        }
        let by_instance = instance.and_then(|instance| self.instances.get(instance).cloned());
        let id = match by_instance {
            Some(current) if identity.member_id.is_empty() => current,
            _ => identity.member_id.clone(),
        };
        self.find_member(&id, instance)?;
        self.remove_member(&id, ErrorCode::UNKNOWN_MEMBER_ID, "it left", ctx);
        Ok(())
    }

    /// What follows when members are gone.
    fn rebalance_without(&mut self, reason: &'static str, ctx: &mut Context<'_>) {
        match self.state {
            State::Empty => {}
            State::PreparingRebalance => self.maybe_complete_join(ctx),
            State::CompletingRebalance | State::Stable => self.prepare_rebalance(reason, ctx),
        }
    }

    /// What time alone does.
    pub(super) fn tick(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now;
        let pending_before = self.pending.len();
        self.pending.retain(|_, pending| pending.deadline > now);
        let unsynced = match self.sync_deadline {
            Some(deadline) if deadline <= now => std::mem::take(&mut self.unsynced),
            _ => std::collections::BTreeSet::new(),
        };
        if !unsynced.is_empty() {
            self.sync_deadline = None;
        }
        let silent: Vec<StrBytes> = self
            .members
            .iter()
            .filter(|(_, member)| !member.is_waiting() && member.session_deadline <= now)
            .map(|(id, _)| id.clone())
            .collect();
        for id in &unsynced {
            self.remove_member(id, ErrorCode::UNKNOWN_MEMBER_ID, "it did not sync in time", ctx);
        }
        for id in &silent {
            self.remove_member(id, ErrorCode::UNKNOWN_MEMBER_ID, "its session expired", ctx);
        }
        if !unsynced.is_empty() || !silent.is_empty() {
            self.rebalance_without("members were lost", ctx);
        } else if self.pending.len() < pending_before {
            self.maybe_complete_join(ctx);
        }
        if self.join_deadline.is_some_and(|deadline| deadline <= now) {
            self.join_deadline_passed(ctx);
        }
    }

    /// Nobody is left to answer to: pending members of the connection are forgotten, and those that waited in their very
    /// first join too. A member of an earlier generation has until its session ends to come back.
    pub(super) fn connection_closed(&mut self, connection: u64, ctx: &mut Context<'_>) {
        let pending_before = self.pending.len();
        self.pending.retain(|_, pending| pending.connection != connection);
        let is_here = |waiting: Option<Waiting>| {
            waiting.is_some_and(|waiting| waiting.connection == connection)
        };
        let mut gone = Vec::new();
        for (id, member) in &mut self.members {
            if is_here(member.joining) {
                if member.is_new && member.instance_id.is_none() {
                    gone.push(id.clone());
                } else if let Some(waiting) = member.joining.take() {
                    member.session_deadline = ctx.now + member.session_timeout;
                    ctx.drop_call(waiting.call);
                }
            }
            if is_here(member.syncing)
                && let Some(waiting) = member.syncing.take()
            {
                member.session_deadline = ctx.now + member.session_timeout;
                ctx.drop_call(waiting.call);
            }
        }
        for id in &gone {
            self.remove_member(
                id,
                ErrorCode::UNKNOWN_MEMBER_ID,
                "its connection closed while it joined",
                ctx,
            );
        }
        if !gone.is_empty() || self.pending.len() < pending_before {
            self.rebalance_without("a joining member was lost", ctx);
        }
    }
}

/// Before version 3 one member, later a list.
fn identities(request: &LeaveGroupRequest, version: i16) -> Vec<MemberIdentity> {
    if version >= 3 {
        return request.members.clone();
    }
    vec![MemberIdentity::default().with_member_id(request.member_id.clone())]
}

fn member_response(identity: &MemberIdentity, error: ErrorCode) -> MemberResponse {
    MemberResponse::default()
        .with_member_id(identity.member_id.clone())
        .with_group_instance_id(identity.group_instance_id.clone())
        .with_error_code(error.code())
}

/// The answer to a LeaveGroup of a group that is not there: none of them is a member.
pub(super) fn leave_unknown_group(
    request: &LeaveGroupRequest,
    version: i16,
) -> tailway_wire::messages::LeaveGroupResponse {
    let refused = |identity| member_response(identity, ErrorCode::UNKNOWN_MEMBER_ID);
    leave_response(version, identities(request, version).iter().map(refused).collect())
}

pub(super) fn sync_response(
    protocol_type: Option<&StrBytes>,
    protocol: Option<&StrBytes>,
    assignment: &Bytes,
) -> SyncGroupResponse {
    SyncGroupResponse::default()
        .with_protocol_type(protocol_type.cloned())
        .with_protocol_name(protocol.cloned())
        .with_assignment(assignment.clone())
}
