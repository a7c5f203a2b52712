//! Entering a group: JoinGroup, from the first knock to waiting for the rebalance.
//!
//! From version 4 on a newcomer is first given an id and asked to come back with it (KIP-394), so that a client that gives
//! up and tries again does not leave a stranger behind. A member with an instance id (KIP-345) replaces its
//! predecessor of the same instance instead of joining beside it.

use bytes::Bytes;
use tailway_wire::ErrorCode;
use tailway_wire::messages::join_group_response::JoinGroupResponseMember;
use tailway_wire::messages::{JoinGroupRequest, JoinGroupResponse, StrBytes};

use super::requests::{Caller, join_error, sync_error};
use super::shard::{Context, Notice, Then};
use super::state::{Group, Member, Pending, Protocols, State, Waiting, millis};

/// Longest part of a client id that goes into a member id, in bytes.
const MEMBER_ID_PREFIX_MAX: usize = 200;

/// A join request, copied out of its frame (which must not stay in memory as long as the member does).
struct Joiner {
    member_id: StrBytes,
    protocol_type: StrBytes,
    /// Everything about it but its id. `joining` is set.
    member: Member,
    waiting: Waiting,
    new_id: StrBytes,
}

impl Group {
    /// A JoinGroup whose group and timeouts have been checked.
    pub(super) fn join(
        &mut self,
        request: &JoinGroupRequest,
        unique: &StrBytes,
        waiting: Waiting,
        caller: &Caller,
        ctx: &mut Context<'_>,
    ) {
        let joiner = Joiner::new(request, unique, waiting, caller, ctx);
        if let Err(error) = self.admit(&joiner, ctx) {
            ctx.reply(waiting.call, join_error(waiting.version, joiner.member_id, error));
        } else if joiner.member_id.is_empty() {
            self.join_as_newcomer(joiner, ctx);
        } else {
            self.join_as_known(joiner, ctx);
        }
    }

    /// Bounds and protocols, before anything changes.
    fn admit(&self, joiner: &Joiner, ctx: &Context<'_>) -> Result<(), ErrorCode> {
        let known = self.members.get(&joiner.member_id);
        let bytes = joiner.member.metadata_bytes();
        let others = self.metadata_bytes() - known.map_or(0, Member::metadata_bytes);
        if bytes > ctx.config.member_metadata_bytes_max
            || others + bytes > ctx.config.group_metadata_bytes_max
        {
            return Err(ErrorCode::INVALID_REQUEST);
        }
        let replaces =
            joiner.member.instance_id.as_ref().is_some_and(|id| self.instances.contains_key(id));
        let is_counted =
            known.is_some() || replaces || self.pending.contains_key(&joiner.member_id);
        if !is_counted && self.members.len() + self.pending.len() >= ctx.config.members_max {
            return Err(ErrorCode::GROUP_MAX_SIZE_REACHED);
        }
        // A member that subscribes anew is measured against the others only by the next vote.
        if !self.accepts(&joiner.protocol_type, &joiner.member.protocols) {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        Ok(())
    }

    fn join_as_newcomer(&mut self, joiner: Joiner, ctx: &mut Context<'_>) {
        let Waiting { call, connection, version } = joiner.waiting;
        if let Some(instance) = &joiner.member.instance_id {
            match self.instances.get(instance).cloned() {
                Some(old_id) => self.replace_static(&old_id, joiner, ctx),
                None => self.add_and_rebalance(joiner.new_id.clone(), joiner, ctx),
            }
        } else if version >= 4 {
            let deadline =
                ctx.now + ctx.config.pending_member_timeout.min(joiner.member.session_timeout);
            self.pending.insert(joiner.new_id.clone(), Pending { connection, deadline });
            ctx.reply(call, join_error(version, joiner.new_id, ErrorCode::MEMBER_ID_REQUIRED));
        } else {
            self.add_and_rebalance(joiner.new_id.clone(), joiner, ctx);
        }
    }

    fn join_as_known(&mut self, joiner: Joiner, ctx: &mut Context<'_>) {
        let Waiting { call, version, .. } = joiner.waiting;
        let id = joiner.member_id.clone();
        if joiner.member.instance_id.is_none() && self.pending.remove(&id).is_some() {
            return self.add_and_rebalance(id, joiner, ctx);
        }
        if let Err(error) = self.find_member(&id, joiner.member.instance_id.as_ref()) {
            return ctx.reply(call, join_error(version, id, error));
        }
        let is_leader = self.leader.as_ref() == Some(&id);
        let same =
            self.members.get(&id).is_some_and(|old| old.protocols == joiner.member.protocols);
        match self.state {
            State::PreparingRebalance => {
                self.update(&id, joiner, ctx);
                self.maybe_complete_join(ctx);
            }
            // It did not get our answer: the same again. In a stable group the leader's return asks for a rebalance.
            State::CompletingRebalance if same => self.answer_again(&id, call, ctx),
            State::Stable if same && !is_leader => self.answer_again(&id, call, ctx),
            State::CompletingRebalance | State::Stable => {
                let reason =
                    if is_leader { "the leader rejoined" } else { "a member subscribed anew" };
                self.update(&id, joiner, ctx);
                self.prepare_rebalance(reason, ctx);
            }
            State::Empty => ctx.reply(call, join_error(version, id, ErrorCode::UNKNOWN_MEMBER_ID)),
        }
    }

    fn answer_again(&mut self, id: &StrBytes, call: super::Call, ctx: &mut Context<'_>) {
        self.renew_session(id, ctx.now);
        let response = self.join_response(id);
        ctx.reply(call, response);
    }

    fn add_and_rebalance(&mut self, id: StrBytes, joiner: Joiner, ctx: &mut Context<'_>) {
        if self.members.is_empty() {
            self.protocol_type = Some(joiner.protocol_type);
        }
        if let Some(instance) = &joiner.member.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(id.clone());
        }
        self.members.insert(id, joiner.member);
        match &mut self.initial_delay {
            Some(delay) => delay.somebody_came = true,
            None if self.state == State::PreparingRebalance => {}
            None => self.prepare_rebalance("a member joined", ctx),
        }
        self.maybe_complete_join(ctx);
    }

    /// Takes over a known member's new subscription and lets it wait for the rebalance.
    fn update(&mut self, id: &StrBytes, joiner: Joiner, ctx: &mut Context<'_>) {
        let Some(member) = self.members.get_mut(id) else { return };
        let displaced = member.joining.take();
        *member = Member {
            instance_id: member.instance_id.take(),
            assignment: std::mem::take(&mut member.assignment),
            syncing: member.syncing.take(),
            is_new: member.is_new,
            ..joiner.member
        };
        if let Some(old) = displaced {
            // The same member asked again (on a new connection): the older request is answered so that it ends.
            let error = ErrorCode::REBALANCE_IN_PROGRESS;
            ctx.reply(old.call, join_error(old.version, id.clone(), error));
        }
    }

    /// A static member came back under its instance id: it gets a new member id, and the old one is fenced. If the vote
    /// stays what it was, nobody else notices.
    fn replace_static(&mut self, old_id: &StrBytes, joiner: Joiner, ctx: &mut Context<'_>) {
        let Some(old) = self.members.remove(old_id) else { return };
        let (id, waiting) = (joiner.new_id.clone(), joiner.waiting);
        let fenced = ErrorCode::FENCED_INSTANCE_ID;
        if let Some(old) = old.joining {
            ctx.reply(old.call, join_error(old.version, old_id.clone(), fenced));
        }
        if let Some(old) = old.syncing {
            ctx.reply(old.call, sync_error(fenced));
        }
        if let Some(instance) = &old.instance_id {
            self.instances.insert(instance.clone(), id.clone());
        }
        let was_leader = self.leader.as_ref() == Some(old_id);
        if was_leader {
            self.leader = Some(id.clone());
        }
        if self.unsynced.remove(old_id) {
            self.unsynced.insert(id.clone());
        }
        let member = Member { assignment: old.assignment, is_new: old.is_new, ..joiner.member };
        self.members.insert(id.clone(), member);
        ctx.notice(Notice::MemberReplaced {
            group: self.id.clone(),
            old: old_id.clone(),
            new: id.clone(),
        });
        match self.state {
            State::Stable if self.elect_protocol() == self.protocol => {
                let mut response = self.join_response(&id);
                if waiting.version >= 9 {
                    response.skip_assignment = was_leader;
                } else {
                    // An older client that is told that it leads would assign anew: it is told its former id leads.
                    response.members = Vec::new();
                    if was_leader {
                        response.leader = old_id.clone();
                    }
                }
                if let Some(member) = self.members.get_mut(&id) {
                    member.joining = None;
                    member.is_new = false;
                }
                self.renew_session(&id, ctx.now);
                let record = self.record(|_, member| member.assignment.clone());
                ctx.append(self, vec![record], Then::StaticReplaced { waiting, response });
            }
            State::Stable | State::CompletingRebalance => {
                self.prepare_rebalance("a static member came back", ctx);
            }
            State::PreparingRebalance | State::Empty => self.maybe_complete_join(ctx),
        }
    }

    /// The successful answer to a join, for a member of the current generation.
    pub(super) fn join_response(&self, id: &StrBytes) -> JoinGroupResponse {
        let is_leader = self.leader.as_ref() == Some(id);
        let members = self.members.iter().filter(|_| is_leader).map(|(id, member)| {
            JoinGroupResponseMember::default()
                .with_member_id(id.clone())
                .with_group_instance_id(member.instance_id.clone())
                .with_metadata(member.metadata(self.protocol.as_ref()))
        });
        JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type.clone())
            .with_protocol_name(self.protocol.clone())
            .with_leader(self.leader.clone().unwrap_or_default())
            .with_member_id(id.clone())
            .with_members(members.collect())
    }
}

impl Joiner {
    fn new(
        request: &JoinGroupRequest,
        unique: &StrBytes,
        waiting: Waiting,
        caller: &Caller,
        ctx: &Context<'_>,
    ) -> Joiner {
        let session_timeout = millis(request.session_timeout_ms);
        // Version 0 has no rebalance timeout of its own.
        let rebalance_timeout = match request.rebalance_timeout_ms {
            ms if ms < 0 => session_timeout,
            ms => millis(ms),
        };
        let protocols: Protocols = request
            .protocols
            .iter()
            .map(|protocol| (copied(&protocol.name), Bytes::copy_from_slice(&protocol.metadata)))
            .collect();
        let instance_id = request.group_instance_id.as_ref().map(copied);
        let prefix = instance_id.as_ref().unwrap_or(&caller.client_id);
        let cut = prefix.floor_char_boundary(MEMBER_ID_PREFIX_MAX);
        let new_id = StrBytes::from_string(format!("{}-{}", &prefix[..cut], &**unique));
        let member = Member {
            instance_id,
            client_id: copied(&caller.client_id),
            client_host: copied(&caller.client_host),
            session_timeout,
            rebalance_timeout,
            protocols,
            assignment: Bytes::new(),
            joining: Some(waiting),
            syncing: None,
            session_deadline: ctx.now + session_timeout,
            is_new: true,
        };
        Joiner {
            member_id: copied(&request.member_id),
            protocol_type: copied(&request.protocol_type),
            member,
            waiting,
            new_id,
        }
    }
}

/// A string of its own, not a slice that keeps a whole request in memory.
pub(super) fn copied(text: &StrBytes) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
