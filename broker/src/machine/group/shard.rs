//! All groups of one partition of `__consumer_offsets`: requests to groups, appends and what waits for them, timers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tailway_metadata::ClusterImage;
use tailway_metadata::time::{Mono, WallMs};
use tailway_wire::ErrorCode;
use tailway_wire::messages::list_groups_response::ListedGroup;
use tailway_wire::messages::{
    GroupId, JoinGroupRequest, JoinGroupResponse, OffsetCommitResponse, OffsetDeleteResponse,
    StrBytes,
};

use super::commits::{Committing, Deleting};
use super::effects::describe_unknown;
use super::join::copied;
use super::membership::leave_unknown_group;
use super::requests::{join_error, sync_error};
use super::state::{Group, Waiting, millis};
use super::{Call, Caller, GroupConfig, ListFilter, Request, Response};
use crate::machine::offsets::schema::OffsetsRecord;

/// Names one append until it is durable. Appends become durable in the order of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendId(pub u64);

#[derive(Debug, Clone)]
pub enum Event {
    /// A record of the partition, from its start. Only before `Loaded`.
    Replayed(OffsetsRecord),
    /// The partition has been read to its end: from now on requests are answered.
    Loaded,
    Request {
        call: Call,
        caller: Caller,
        request: Request,
    },
    /// The append is durable, or failed with the code that its requests are answered with.
    Appended {
        append: AppendId,
        outcome: Result<(), ErrorCode>,
    },
    ConnectionClosed(u64),
    /// What the cluster is now: commits to topics that are not there are refused, offsets of deleted ones go.
    Image(Arc<ClusterImage>),
    /// A deadline has passed.
    Tick,
    /// This broker does not lead the partition any more: everything that waits is answered so.
    Resigned,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    Reply {
        call: Call,
        response: Response,
    },
    /// Append these records as one batch, in order, and report `Appended`.
    Append {
        append: AppendId,
        records: Vec<OffsetsRecord>,
    },
    /// Nobody can be answered any more: the connection is closed.
    Drop(Call),
    Notice(Notice),
}

/// What an operator may want to see in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    RebalanceStarted { group: StrBytes, generation: i32, reason: &'static str },
    GenerationStarted { group: StrBytes, generation: i32, members: usize },
    Stable { group: StrBytes, generation: i32 },
    BecameEmpty { group: StrBytes, generation: i32 },
    MemberReplaced { group: StrBytes, old: StrBytes, new: StrBytes },
    MemberRemoved { group: StrBytes, member: StrBytes, reason: &'static str },
    OffsetsExpired { group: StrBytes, count: usize },
    TooManyGroups { groups_max: usize },
}

/// What an append is for.
#[derive(Debug, Clone)]
pub(super) enum Then {
    Nothing,
    AssignmentStored { generation: i32 },
    StaticReplaced { waiting: Waiting, response: JoinGroupResponse },
    Committed { call: Call, response: OffsetCommitResponse, committing: Committing },
    OffsetsDeleted { call: Call, response: OffsetDeleteResponse, deleting: Deleting },
    OffsetsRemoved { deleting: Deleting },
    GroupDeleted { call: Call, deleting: Deleting },
}

/// What a group needs to decide: the time, the bounds, and where its decisions go.
pub(super) struct Context<'a> {
    pub(super) now: Mono,
    pub(super) wall: WallMs,
    pub(super) config: &'a GroupConfig,
    pub(super) image: &'a ClusterImage,
    appends: &'a mut Appends,
    out: &'a mut Vec<Action>,
}

/// Appends that are not durable yet: whose they are and what follows.
#[derive(Debug, Default)]
struct Appends {
    next: u64,
    open: BTreeMap<AppendId, (StrBytes, Then)>,
}

impl Context<'_> {
    pub(super) fn reply(&mut self, call: Call, response: impl Into<Response>) {
        self.out.push(Action::Reply { call, response: response.into() });
    }

    pub(super) fn drop_call(&mut self, call: Call) {
        self.out.push(Action::Drop(call));
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.out.push(Action::Notice(notice));
    }

    pub(super) fn append(&mut self, group: &mut Group, records: Vec<OffsetsRecord>, then: Then) {
        let append = AppendId(self.appends.next);
        self.appends.next += 1;
        for record in &records {
            if let OffsetsRecord::Group(_, value) = record {
                group.is_stored = value.is_some();
            }
        }
        group.appends_open += 1;
        self.appends.open.insert(append, (group.id.clone(), then));
        self.out.push(Action::Append { append, records });
    }
}

/// All groups of one partition.
#[derive(Debug)]
pub struct GroupShard {
    config: GroupConfig,
    image: Arc<ClusterImage>,
    groups: BTreeMap<StrBytes, Group>,
    appends: Appends,
    /// (when, group): at most one entry per group, never later than the group's own deadline.
    timers: BTreeSet<(Mono, StrBytes)>,
    armed: BTreeMap<StrBytes, Mono>,
    next_retention_check: Option<Mono>,
}

impl GroupShard {
    pub fn new(config: GroupConfig, image: Arc<ClusterImage>) -> GroupShard {
        GroupShard {
            config,
            image,
            groups: BTreeMap::new(),
            appends: Appends::default(),
            timers: BTreeSet::new(),
            armed: BTreeMap::new(),
            next_retention_check: None,
        }
    }

    pub fn on_event(&mut self, event: Event, now: Mono, wall: WallMs, out: &mut Vec<Action>) {
        match event {
            Event::Replayed(record) => self.replay(record, now),
            Event::Loaded => {
                self.groups.retain(|_, group| group.is_stored || !group.offsets.is_empty());
                self.next_retention_check =
                    Some(now + self.config.offsets_retention_check_interval);
                let ids: Vec<StrBytes> = self.groups.keys().cloned().collect();
                for id in ids {
                    self.rearm(&id);
                }
            }
            Event::Request { call, caller, request } => {
                self.on_request(call, &caller, request, now, wall, out);
            }
            Event::Appended { append, outcome } => {
                self.on_appended(append, outcome, now, wall, out);
            }
            Event::ConnectionClosed(connection) => {
                let ids: Vec<StrBytes> = self.groups.keys().cloned().collect();
                for id in ids {
                    self.with_group(&id, now, wall, out, |group, ctx| {
                        group.connection_closed(connection, ctx);
                    });
                    self.forget_if_idle(&id);
                }
            }
            Event::Image(image) => self.on_image(image, now, wall, out),
            Event::Tick => self.on_tick(now, wall, out),
            Event::Resigned => self.on_resigned(out),
        }
    }

    /// When `Tick` is due.
    pub fn deadline(&self) -> Option<Mono> {
        let timer = self.timers.first().map(|(moment, _)| *moment);
        timer.into_iter().chain(self.next_retention_check).min()
    }

    /// Asserts what must always hold.
    pub fn check(&self) {
        assert!(self.groups.len() <= self.config.groups_max, "groups are bounded");
        assert_eq!(self.timers.len(), self.armed.len(), "one timer per group");
        for (id, moment) in &self.armed {
            assert!(self.timers.contains(&(*moment, id.clone())), "{id} is armed");
            assert!(self.groups.contains_key(id), "{id} is a group");
        }
        for (id, group) in &self.groups {
            assert_eq!(id, &group.id);
            group.check(&self.config);
            let open = self.appends.open.values().filter(|(owner, _)| owner == id).count();
            assert_eq!(open, group.appends_open, "{id}: open appends");
            let armed = self.armed.get(id);
            let is_loaded = self.next_retention_check.is_some();
            if let Some(deadline) = group.deadline().filter(|_| is_loaded) {
                assert!(
                    armed.is_some_and(|moment| *moment <= deadline),
                    "{id}: a deadline without a timer"
                );
            }
        }
    }

    /// Every call that has not been answered.
    pub fn open_calls(&self) -> BTreeSet<Call> {
        let of_appends = self.appends.open.values().filter_map(|(_, then)| then.call());
        self.groups.values().flat_map(Group::waiting_calls).chain(of_appends).collect()
    }

    /// What the partition should say of a group, if nothing is under way in it.
    #[cfg(test)]
    pub(super) fn settled(
        &self,
        id: &StrBytes,
    ) -> Option<crate::machine::offsets::schema::GroupValue> {
        let group = self.groups.get(id)?;
        let is_settled = group.state == super::state::State::Stable && group.appends_open == 0;
        is_settled.then(|| group.to_value(|_, member| member.assignment.clone()))
    }

    #[cfg(test)]
    pub(super) fn has_group(&self, id: &StrBytes) -> bool {
        self.groups.contains_key(id)
    }

    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    fn replay(&mut self, record: OffsetsRecord, now: Mono) {
        let group_of = |groups: &'_ mut BTreeMap<StrBytes, Group>, id: StrBytes| -> StrBytes {
            groups.entry(id.clone()).or_insert_with(|| Group::new(id.clone()));
            id
        };
        match record {
            OffsetsRecord::Offset(id, topic, partition, value) => {
                let id = group_of(&mut self.groups, id);
                let Some(group) = self.groups.get_mut(&id) else { return };
                match value {
                    Some(value) => group.offsets.set(topic, partition, value),
                    None => group.offsets.remove(&topic, partition),
                }
            }
            OffsetsRecord::Group(id, value) => {
                let id = group_of(&mut self.groups, id);
                let Some(group) = self.groups.get_mut(&id) else { return };
                if let Some(value) = value {
                    group.restore(value, now);
                } else {
                    let offsets = std::mem::take(&mut group.offsets);
                    *group = Group { offsets, ..Group::new(id) };
                }
            }
            // Kafka's newer group protocols. They stay in the partition for whoever understands them.
            OffsetsRecord::Foreign(_) => {}
        }
    }

    /// Runs `act` on a group, if it is there, and arms its timer anew.
    fn with_group(
        &mut self,
        id: &StrBytes,
        now: Mono,
        wall: WallMs,
        out: &mut Vec<Action>,
        act: impl FnOnce(&mut Group, &mut Context<'_>),
    ) {
        if let Some(group) = self.groups.get_mut(id) {
            let mut ctx = Context {
                now,
                wall,
                config: &self.config,
                image: &self.image,
                appends: &mut self.appends,
                out,
            };
            act(group, &mut ctx);
            self.rearm(id);
        }
    }

    /// Keeps a group's timer at or before its deadline. One that is early is corrected when it fires.
    fn rearm(&mut self, id: &StrBytes) {
        let deadline = self.groups.get(id).and_then(Group::deadline);
        let armed = self.armed.get(id).copied();
        if let (Some(armed), Some(deadline)) = (armed, deadline)
            && armed <= deadline
        {
            return;
        }
        self.disarm(id);
        if let Some(deadline) = deadline {
            self.timers.insert((deadline, id.clone()));
            self.armed.insert(id.clone(), deadline);
        }
    }

    fn disarm(&mut self, id: &StrBytes) {
        if let Some(moment) = self.armed.remove(id) {
            self.timers.remove(&(moment, id.clone()));
        }
    }

    fn on_request(
        &mut self,
        call: Call,
        caller: &Caller,
        request: Request,
        now: Mono,
        wall: WallMs,
        out: &mut Vec<Action>,
    ) {
        let version = caller.api_version;
        let Some(id) = request.group_id().cloned() else {
            let Request::List(filter) = &request else { return };
            let response = Response::List(self.list(filter));
            return out.push(Action::Reply { call, response });
        };
        if let Err(error) = self.prepare(&id, &request, out) {
            let response = match (&request, error) {
                (Request::Leave(leave), ErrorCode::UNKNOWN_MEMBER_ID) => {
                    leave_unknown_group(leave, version).into()
                }
                (Request::FetchOffsets(fetch), ErrorCode::NONE) => {
                    Group::new(id).fetch_offsets(fetch).into()
                }
                (Request::Describe(_), _) => describe_unknown(id, version).into(),
                _ => request.refuse(version, error),
            };
            return out.push(Action::Reply { call, response });
        }
        let waiting = Waiting::new(call, caller);
        self.with_group(&id, now, wall, out, |group, ctx| match &request {
            Request::Join { request, unique } => group.join(request, unique, waiting, caller, ctx),
            Request::Sync(request) => group.sync(request, waiting, ctx),
            Request::Heartbeat(request) => group.heartbeat(request, call, ctx),
            Request::Leave(request) => group.leave(request, call, caller, ctx),
            Request::Commit(request) => group.commit(request, call, ctx),
            Request::FetchOffsets(request) => {
                let response = group.fetch_offsets(request);
                ctx.reply(call, response);
            }
            Request::Describe(_) => {
                let response = group.describe();
                ctx.reply(call, response);
            }
            Request::Delete(_) => group.delete(call, ctx),
            Request::DeleteOffsets(request) => group.delete_offsets(request, call, ctx),
            Request::List(_) => {}
        });
        self.forget_if_idle(&copied(&id));
    }

    /// Checks what concerns more than one group, and makes the group if the request may. The error is what the request
    /// is answered with if there is no such group (NONE: with an answer about nothing).
    fn prepare(
        &mut self,
        id: &StrBytes,
        request: &Request,
        out: &mut Vec<Action>,
    ) -> Result<(), ErrorCode> {
        let may_be_empty =
            matches!(request, Request::Commit(_) | Request::FetchOffsets(_) | Request::Describe(_));
        if id.is_empty() && !may_be_empty {
            return Err(ErrorCode::INVALID_GROUP_ID);
        }
        if let Request::Join { request, .. } = request {
            self.check_join(request)?;
        }
        if self.groups.contains_key(id) {
            return Ok(());
        }
        match request {
            // Only somebody who is new, or who needs no group, can be right about a group that is not there.
            Request::Join { request, .. } if request.member_id.is_empty() => {}
            Request::Commit(request) if request.generation_id_or_member_epoch < 0 => {}
            Request::Commit(_) => return Err(ErrorCode::ILLEGAL_GENERATION),
            Request::FetchOffsets(_) => return Err(ErrorCode::NONE),
            Request::Describe(_) | Request::Delete(_) | Request::DeleteOffsets(_) => {
                return Err(ErrorCode::GROUP_ID_NOT_FOUND);
            }
            _ => return Err(ErrorCode::UNKNOWN_MEMBER_ID),
        }
        let groups_max = self.config.groups_max;
        if self.groups.len() >= groups_max {
            out.push(Action::Notice(Notice::TooManyGroups { groups_max }));
            return Err(ErrorCode::COORDINATOR_NOT_AVAILABLE);
        }
        let id = copied(id);
        self.groups.insert(id.clone(), Group::new(id));
        Ok(())
    }

    fn check_join(&self, request: &JoinGroupRequest) -> Result<(), ErrorCode> {
        let session = millis(request.session_timeout_ms);
        if session < self.config.session_timeout_min || session > self.config.session_timeout_max {
            return Err(ErrorCode::INVALID_SESSION_TIMEOUT);
        }
        if request.protocol_type.is_empty() || request.protocols.is_empty() {
            return Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL);
        }
        Ok(())
    }

    fn on_appended(
        &mut self,
        append: AppendId,
        outcome: Result<(), ErrorCode>,
        now: Mono,
        wall: WallMs,
        out: &mut Vec<Action>,
    ) {
        let Some((id, then)) = self.appends.open.remove(&append) else { return };
        self.with_group(&id, now, wall, out, |group, ctx| {
            group.appends_open -= 1;
            group.appended(then, outcome, ctx);
        });
        self.forget_if_idle(&id);
    }

    /// A group that nothing is worth keeping of, in memory or in the partition, is not kept.
    fn forget_if_idle(&mut self, id: &StrBytes) {
        let is_nothing =
            |group: &Group| group.is_idle() && group.offsets.is_empty() && !group.is_stored;
        if self.groups.get(id).is_some_and(is_nothing) {
            self.disarm(id);
            self.groups.remove(id);
        }
    }

    fn on_tick(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Action>) {
        while let Some((moment, id)) = self.timers.first().cloned() {
            if moment > now {
                break;
            }
            self.disarm(&id);
            self.with_group(&id, now, wall, out, Group::tick);
            self.forget_if_idle(&id);
        }
        if self.next_retention_check.is_some_and(|moment| moment <= now) {
            self.next_retention_check = Some(now + self.config.offsets_retention_check_interval);
            let ids: Vec<StrBytes> = self.groups.keys().cloned().collect();
            for id in ids {
                self.with_group(&id, now, wall, out, Group::expire);
                self.forget_if_idle(&id);
            }
        }
    }

    /// Offsets of a topic go with the topic: one of the same name is another topic. Only a topic that was seen to go
    /// counts as deleted, not one that an image does not mention.
    fn on_image(
        &mut self,
        image: Arc<ClusterImage>,
        now: Mono,
        wall: WallMs,
        out: &mut Vec<Action>,
    ) {
        let before = std::mem::replace(&mut self.image, image);
        let gone: BTreeSet<StrBytes> = before
            .topics()
            .filter(|old| self.image.topic(&old.name).is_none_or(|new| new.id != old.id))
            .map(|old| StrBytes::from_string(old.name.to_string()))
            .collect();
        if gone.is_empty() {
            return;
        }
        let ids: Vec<StrBytes> = self.groups.keys().cloned().collect();
        for id in ids {
            self.with_group(&id, now, wall, out, |group, ctx| {
                let mut deleting = group.offsets.partitions();
                deleting.retain(|(topic, _)| gone.contains(topic));
                group.remove_offsets(deleting, ctx);
            });
        }
    }

    fn on_resigned(&mut self, out: &mut Vec<Action>) {
        let error = ErrorCode::NOT_COORDINATOR;
        for (id, member) in self.groups.values().flat_map(|group| &group.members) {
            let joining = member.joining.map(|waiting| {
                (waiting.call, join_error(waiting.version, id.clone(), error).into())
            });
            let syncing = member.syncing.map(|waiting| (waiting.call, sync_error(error).into()));
            for (call, response) in joining.into_iter().chain(syncing) {
                out.push(Action::Reply { call, response });
            }
        }
        for (_, (_, then)) in std::mem::take(&mut self.appends.open) {
            if let Some((call, response)) = then.failed(error) {
                out.push(Action::Reply { call, response });
            }
        }
        self.groups.clear();
        self.timers.clear();
        self.armed.clear();
        self.next_retention_check = None;
    }

    fn list(&self, filter: &ListFilter) -> Vec<ListedGroup> {
        let passes = |wanted: &[StrBytes], value: &str| {
            wanted.is_empty() || wanted.iter().any(|name| name.eq_ignore_ascii_case(value))
        };
        if !passes(&filter.types, "classic") {
            return Vec::new();
        }
        self.groups
            .values()
            .filter(|group| passes(&filter.states, group.state.name()))
            .map(|group| {
                ListedGroup::default()
                    .with_group_id(GroupId(group.id.clone()))
                    .with_protocol_type(group.protocol_type.clone().unwrap_or_default())
                    .with_group_state(StrBytes::from_static_str(group.state.name()))
                    .with_group_type(StrBytes::from_static_str("classic"))
            })
            .collect()
    }
}
