//! From one generation to the next: everybody rejoins, a protocol is elected, the leader assigns.

use tailway_wire::ErrorCode;
use tailway_wire::messages::StrBytes;

use super::requests::{join_error, sync_error};
use super::shard::{Context, Notice, Then};
use super::state::{Group, InitialDelay, State};
use crate::machine::offsets::schema::{GroupValue, OffsetsRecord};

impl Group {
    /// Asks everybody to rejoin. In a rebalance already, only looks whether it is complete.
    pub(super) fn prepare_rebalance(&mut self, reason: &'static str, ctx: &mut Context<'_>) {
        if self.state == State::PreparingRebalance {
            return self.maybe_complete_join(ctx);
        }
        if self.state == State::CompletingRebalance {
            self.answer_syncs(ErrorCode::REBALANCE_IN_PROGRESS, ctx);
        }
        let timeout = self.rebalance_timeout();
        if self.state == State::Empty {
            let delay = ctx.config.initial_rebalance_delay.min(timeout);
            let remaining = timeout.saturating_sub(delay);
            self.initial_delay = Some(InitialDelay { remaining, somebody_came: false });
            self.join_deadline = Some(ctx.now + delay);
        } else {
            self.join_deadline = Some(ctx.now + timeout);
        }
        self.state = State::PreparingRebalance;
        self.state_timestamp = Some(ctx.wall);
        self.storing = None;
        self.unsynced.clear();
        self.sync_deadline = None;
        let generation = self.generation;
        ctx.notice(Notice::RebalanceStarted { group: self.id.clone(), generation, reason });
        self.maybe_complete_join(ctx);
    }

    /// Goes on as soon as nobody is waited for. The initial delay is always waited out.
    pub(super) fn maybe_complete_join(&mut self, ctx: &mut Context<'_>) {
        let is_complete = self.state == State::PreparingRebalance
            && self.pending.is_empty()
            && self.members.values().all(|member| member.joining.is_some());
        if is_complete && (self.initial_delay.is_none() || self.members.is_empty()) {
            self.complete_join(ctx);
        }
    }

    /// The time for joining is up.
    pub(super) fn join_deadline_passed(&mut self, ctx: &mut Context<'_>) {
        if let Some(delay) = &mut self.initial_delay
            && delay.somebody_came
            && !delay.remaining.is_zero()
        {
            let more = ctx.config.initial_rebalance_delay.min(delay.remaining);
            delay.remaining = delay.remaining.saturating_sub(more);
            delay.somebody_came = false;
            self.join_deadline = Some(ctx.now + more);
            return;
        }
        self.complete_join(ctx);
    }

    /// The next generation begins with whoever joined. Static members that did not are kept, the others are out.
    fn complete_join(&mut self, ctx: &mut Context<'_>) {
        let late: Vec<StrBytes> = self
            .members
            .iter()
            .filter(|(_, member)| member.joining.is_none() && member.instance_id.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            self.remove_member(&id, ErrorCode::UNKNOWN_MEMBER_ID, "it did not rejoin in time", ctx);
        }
        let joined =
            |id: &StrBytes| self.members.get(id).is_some_and(|member| member.joining.is_some());
        if !self.leader.as_ref().is_some_and(joined) {
            let successor = self.members.keys().find(|id| joined(id)).cloned();
            self.leader = successor.or_else(|| self.members.keys().next().cloned());
        }
        self.initial_delay = None;
        if self.members.is_empty() {
            return self.become_empty(ctx);
        }
        if self.members.values().all(|member| member.joining.is_none()) {
            // Only absent static members: they are waited for until their sessions end.
            self.join_deadline = Some(ctx.now + self.rebalance_timeout());
            return;
        }
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = self.elect_protocol();
        self.state = State::CompletingRebalance;
        self.state_timestamp = Some(ctx.wall);
        self.join_deadline = None;
        self.unsynced = self.members.keys().cloned().collect();
        self.sync_deadline = Some(ctx.now + self.rebalance_timeout());
        let ids: Vec<StrBytes> = self.members.keys().cloned().collect();
        for id in &ids {
            let response = self.join_response(id);
            let Some(member) = self.members.get_mut(id) else { continue };
            if let Some(waiting) = member.joining.take() {
                member.is_new = false;
                member.session_deadline = ctx.now + member.session_timeout;
                ctx.reply(waiting.call, response);
            }
        }
        ctx.notice(Notice::GenerationStarted {
            group: self.id.clone(),
            generation: self.generation,
            members: ids.len(),
        });
    }

    /// The last member is gone: remembered durably, because from now on its offsets age.
    fn become_empty(&mut self, ctx: &mut Context<'_>) {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.state = State::Empty;
        self.state_timestamp = Some(ctx.wall);
        self.protocol = None;
        self.leader = None;
        self.join_deadline = None;
        ctx.notice(Notice::BecameEmpty { group: self.id.clone(), generation: self.generation });
        let record = self.record(|_, member| member.assignment.clone());
        ctx.append(self, vec![record], Then::Nothing);
    }

    /// The record that keeps this group.
    pub(super) fn record(
        &self,
        assignment_of: impl Fn(&StrBytes, &super::state::Member) -> bytes::Bytes,
    ) -> OffsetsRecord {
        let value: GroupValue = self.to_value(assignment_of);
        OffsetsRecord::Group(self.id.clone(), Some(value))
    }

    /// The leader's assignment is durable, or cannot be made so.
    pub(super) fn assignment_stored(
        &mut self,
        generation: i32,
        outcome: Result<(), ErrorCode>,
        ctx: &mut Context<'_>,
    ) {
        // A rebalance that began meanwhile has answered everybody already.
        if self.generation != generation {
            return;
        }
        let Some(mut assignments) = self.storing.take() else { return };
        if let Err(error) = outcome {
            self.answer_syncs(error, ctx);
            return self.prepare_rebalance("the assignment could not be stored", ctx);
        }
        self.state = State::Stable;
        for (id, member) in &mut self.members {
            member.assignment = assignments.remove(id).unwrap_or_default();
            if let Some(waiting) = member.syncing.take() {
                member.session_deadline = ctx.now + member.session_timeout;
                let response = super::membership::sync_response(
                    self.protocol_type.as_ref(),
                    self.protocol.as_ref(),
                    &member.assignment,
                );
                ctx.reply(waiting.call, response);
            }
        }
        ctx.notice(Notice::Stable { group: self.id.clone(), generation });
    }

    /// Ends all waiting syncs with an error.
    fn answer_syncs(&mut self, error: ErrorCode, ctx: &mut Context<'_>) {
        for member in self.members.values_mut() {
            member.assignment.clear();
            if let Some(waiting) = member.syncing.take() {
                member.session_deadline = ctx.now + member.session_timeout;
                ctx.reply(waiting.call, sync_error(error));
            }
        }
    }

    /// Takes a member out of the group, and answers whatever it waits for. The caller decides what follows.
    pub(super) fn remove_member(
        &mut self,
        id: &StrBytes,
        error: ErrorCode,
        reason: &'static str,
        ctx: &mut Context<'_>,
    ) {
        let Some(member) = self.members.remove(id) else { return };
        if let Some(waiting) = member.joining {
            ctx.reply(waiting.call, join_error(waiting.version, id.clone(), error));
        }
        if let Some(waiting) = member.syncing {
            ctx.reply(waiting.call, sync_error(error));
        }
        if let Some(instance) = &member.instance_id {
            self.instances.remove(instance);
        }
        self.forget_unsynced(id);
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        ctx.notice(Notice::MemberRemoved { group: self.id.clone(), member: id.clone(), reason });
    }

    /// This member has its assignment, or is gone.
    pub(super) fn forget_unsynced(&mut self, id: &StrBytes) {
        self.unsynced.remove(id);
        if self.unsynced.is_empty() {
            self.sync_deadline = None;
        }
    }
}
