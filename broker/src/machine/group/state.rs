//! What a group is: members, generation, and the four states of the classic protocol.
//!
//! ```text
//! Empty -> PreparingRebalance: somebody joins            PreparingRebalance -> CompletingRebalance: all joined, or time is up
//! CompletingRebalance -> Stable: assignment is durable   PreparingRebalance -> Empty: nobody is left
//! CompletingRebalance, Stable -> PreparingRebalance: somebody joins, leaves, expires or subscribes anew
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::time::{Mono, WallMs};
use tailway_wire::messages::StrBytes;

use super::GroupConfig;
use super::requests::{Call, Caller};
use crate::machine::offsets::schema::{GroupValue, MemberValue};
use crate::machine::offsets::{GroupOffsets, RetentionBase};

const REBALANCE_TIMEOUT_MIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Empty,
    PreparingRebalance,
    CompletingRebalance,
    Stable,
}

impl State {
    /// Kafka's name of it.
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A request that waits for the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) call: Call,
    pub(super) connection: u64,
    pub(super) version: i16,
}

impl Waiting {
    pub(super) fn new(call: Call, caller: &Caller) -> Waiting {
        Waiting { call, connection: caller.connection, version: caller.api_version }
    }
}

/// How a member subscribes: protocol name and metadata, by preference.
pub(super) type Protocols = Vec<(StrBytes, Bytes)>;

#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) instance_id: Option<StrBytes>,
    pub(super) client_id: StrBytes,
    pub(super) client_host: StrBytes,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
    pub(super) protocols: Protocols,
    pub(super) assignment: Bytes,
    pub(super) joining: Option<Waiting>,
    pub(super) syncing: Option<Waiting>,
    /// Does not count while a request of the member waits.
    pub(super) session_deadline: Mono,
    /// Its first join has not been answered yet.
    pub(super) is_new: bool,
}

impl Member {
    pub(super) fn is_waiting(&self) -> bool {
        self.joining.is_some() || self.syncing.is_some()
    }

    pub(super) fn metadata(&self, protocol: Option<&StrBytes>) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| Some(name) == protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.protocols.iter().map(|(name, metadata)| name.len() + metadata.len()).sum()
    }
}

/// A member id that was handed out, and with which nobody has joined yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) connection: u64,
    pub(super) deadline: Mono,
}

/// The first rebalance of an empty group waits for company.
#[derive(Debug, Clone, Copy)]
pub(super) struct InitialDelay {
    pub(super) remaining: Duration,
    pub(super) somebody_came: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) id: StrBytes,
    pub(super) state: State,
    pub(super) state_timestamp: Option<WallMs>,
    pub(super) generation: i32,
    pub(super) protocol_type: Option<StrBytes>,
    pub(super) protocol: Option<StrBytes>,
    pub(super) leader: Option<StrBytes>,
    pub(super) members: BTreeMap<StrBytes, Member>,
    /// Static members: instance id to member id.
    pub(super) instances: BTreeMap<StrBytes, StrBytes>,
    pub(super) pending: BTreeMap<StrBytes, Pending>,
    /// When the rebalance ends at the latest. Only in PreparingRebalance.
    pub(super) join_deadline: Option<Mono>,
    pub(super) initial_delay: Option<InitialDelay>,
    /// Members of this generation that have not asked for their assignment, and until when they may.
    pub(super) unsynced: BTreeSet<StrBytes>,
    pub(super) sync_deadline: Option<Mono>,
    /// The leader's assignment while it is being made durable. Only in CompletingRebalance.
    pub(super) storing: Option<BTreeMap<StrBytes, Bytes>>,
    pub(super) offsets: GroupOffsets,
    /// Offsets in commits that are not durable yet. They count against the bound.
    pub(super) offsets_open: usize,
    /// Appends about this group that are not durable yet. It is not removed while there are any.
    pub(super) appends_open: usize,
    /// A group record of it is in the partition, so that its removal needs a tombstone.
    pub(super) is_stored: bool,
}

impl Group {
    pub(super) fn new(id: StrBytes) -> Group {
        Group {
            id,
            state: State::Empty,
            state_timestamp: None,
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            instances: BTreeMap::new(),
            pending: BTreeMap::new(),
            join_deadline: None,
            initial_delay: None,
            unsynced: BTreeSet::new(),
            sync_deadline: None,
            storing: None,
            offsets: GroupOffsets::default(),
            offsets_open: 0,
            appends_open: 0,
            is_stored: false,
        }
    }

    /// Takes over what the partition says. Sessions begin at `now`: nobody could send a heartbeat before.
    pub(super) fn restore(&mut self, value: GroupValue, now: Mono) {
        self.is_stored = true;
        self.generation = value.generation;
        self.protocol_type = Some(value.protocol_type).filter(|name| !name.is_empty());
        self.state_timestamp = value.state_timestamp;
        self.members.clear();
        self.instances.clear();
        for member in value.members {
            let session_timeout = millis(member.session_timeout_ms);
            if let Some(instance) = &member.group_instance_id {
                self.instances.insert(instance.clone(), member.member_id.clone());
            }
            let protocols =
                value.protocol.iter().map(|name| (name.clone(), member.subscription.clone()));
            let restored = Member {
                instance_id: member.group_instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                session_timeout,
                rebalance_timeout: millis(member.rebalance_timeout_ms),
                protocols: protocols.collect(),
                assignment: member.assignment,
                joining: None,
                syncing: None,
                session_deadline: now + session_timeout,
                is_new: false,
            };
            self.members.insert(member.member_id, restored);
        }
        let is_stable = !self.members.is_empty() && value.protocol.is_some();
        if !is_stable {
            self.members.clear();
            self.instances.clear();
        }
        self.state = if is_stable { State::Stable } else { State::Empty };
        self.protocol = value.protocol.filter(|_| is_stable);
        let leader = value.leader.filter(|id| self.members.contains_key(id));
        self.leader = leader.or_else(|| self.members.keys().next().cloned());
    }

    /// What the partition keeps of it, with these assignments.
    pub(super) fn to_value(
        &self,
        assignment_of: impl Fn(&StrBytes, &Member) -> Bytes,
    ) -> GroupValue {
        let members = self.members.iter().map(|(id, member)| MemberValue {
            member_id: id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: as_millis(member.rebalance_timeout),
            session_timeout_ms: as_millis(member.session_timeout),
            subscription: member.metadata(self.protocol.as_ref()),
            assignment: assignment_of(id, member),
        });
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp: self.state_timestamp,
            members: members.collect(),
        }
    }

    /// The protocols that every member supports.
    pub(super) fn common_protocols(&self) -> BTreeSet<&StrBytes> {
        let mut members = self.members.values();
        let Some(first) = members.next() else { return BTreeSet::new() };
        let mut common: BTreeSet<&StrBytes> =
            first.protocols.iter().map(|(name, _)| name).collect();
        for member in members {
            common.retain(|name| member.protocols.iter().any(|(known, _)| known == *name));
        }
        common
    }

    /// Whether a member with these protocols would leave the group one that all support.
    pub(super) fn accepts(&self, protocol_type: &StrBytes, protocols: &Protocols) -> bool {
        if self.members.is_empty() {
            return true;
        }
        let common = self.common_protocols();
        self.protocol_type.as_ref() == Some(protocol_type)
            && protocols.iter().any(|(name, _)| common.contains(name))
    }

    /// Each member votes for the first of its protocols that all support. A tie goes to the one the leader prefers.
    pub(super) fn elect_protocol(&self) -> Option<StrBytes> {
        let common = self.common_protocols();
        let mut votes: BTreeMap<&StrBytes, usize> = BTreeMap::new();
        for member in self.members.values() {
            let vote =
                member.protocols.iter().map(|(name, _)| name).find(|name| common.contains(name));
            if let Some(name) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        let leader = self.leader.as_ref().and_then(|id| self.members.get(id));
        let rank = |name: &StrBytes| {
            let preferred = leader.map_or(&[][..], |leader| &leader.protocols);
            preferred.iter().position(|(known, _)| known == name).unwrap_or(usize::MAX)
        };
        let best =
            votes.into_iter().max_by_key(|(name, count)| (*count, std::cmp::Reverse(rank(name))));
        best.map(|(name, _)| name.clone())
    }

    /// The longest that any member wants to be waited for; never so short that waiting again and again takes no time.
    pub(super) fn rebalance_timeout(&self) -> Duration {
        let longest = self.members.values().map(|member| member.rebalance_timeout).max();
        longest.unwrap_or_default().max(REBALANCE_TIMEOUT_MIN)
    }

    pub(super) fn metadata_bytes(&self) -> usize {
        self.members.values().map(Member::metadata_bytes).sum()
    }

    pub(super) fn retention_base(&self) -> RetentionBase {
        match (self.state, &self.protocol_type, self.state_timestamp) {
            (State::Empty, Some(_), Some(moment)) => RetentionBase::EmptySince(moment),
            (State::Empty, _, _) => RetentionBase::EachCommit,
            _ => RetentionBase::Active,
        }
    }

    /// Whether nothing is worth keeping: no members, nobody about to join, no offsets, nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        self.state == State::Empty && self.pending.is_empty() && self.appends_open == 0
    }

    /// When time alone changes this group next.
    pub(super) fn deadline(&self) -> Option<Mono> {
        let sessions = self
            .members
            .values()
            .filter(|member| !member.is_waiting())
            .map(|member| member.session_deadline);
        let pending = self.pending.values().map(|pending| pending.deadline);
        sessions.chain(pending).chain(self.join_deadline).chain(self.sync_deadline).min()
    }

    /// The calls that wait for this group.
    pub(super) fn waiting_calls(&self) -> impl Iterator<Item = Call> {
        self.members
            .values()
            .flat_map(|member| [member.joining, member.syncing])
            .flatten()
            .map(|waiting| waiting.call)
    }

    /// What must hold after every event.
    pub(super) fn check(&self, config: &GroupConfig) {
        let id = &self.id;
        assert!(self.generation >= 0, "{id}: generation {}", self.generation);
        assert!(self.members.len() + self.pending.len() <= config.members_max, "{id}: members");
        assert!(self.offsets.len() <= config.offsets_max, "{id}: offsets");
        assert_eq!(
            self.state == State::PreparingRebalance,
            self.join_deadline.is_some(),
            "{id}: a rebalance ends"
        );
        assert!(
            self.initial_delay.is_none() || self.join_deadline.is_some(),
            "{id}: initial delay"
        );
        assert_eq!(self.sync_deadline.is_some(), !self.unsynced.is_empty(), "{id}: sync deadline");
        assert!(
            self.storing.is_none() || self.state == State::CompletingRebalance,
            "{id}: only a new generation is stored"
        );
        match self.state {
            State::Empty => assert!(self.members.is_empty(), "{id}: an empty group has no members"),
            State::PreparingRebalance => {
                assert!(
                    !self.members.is_empty() || !self.pending.is_empty(),
                    "{id}: nobody to wait for"
                );
            }
            State::CompletingRebalance | State::Stable => {
                assert!(!self.members.is_empty(), "{id}: a generation has members");
                assert!(
                    self.protocol.is_some() && self.leader.is_some(),
                    "{id}: led, with a protocol"
                );
            }
        }
        if let Some(leader) = &self.leader {
            assert!(self.members.contains_key(leader), "{id}: the leader is a member");
        }
        assert!(
            self.members.is_empty() || !self.common_protocols().is_empty(),
            "{id}: a common protocol"
        );
        self.check_members();
    }

    fn check_members(&self) {
        let id = &self.id;
        for (member_id, member) in &self.members {
            assert!(
                !self.pending.contains_key(member_id),
                "{id}: {member_id} is pending and a member"
            );
            let may_join = self.state == State::PreparingRebalance;
            assert!(
                member.joining.is_none() || may_join,
                "{id}: {member_id} joins a closed generation"
            );
            let may_sync = self.state == State::CompletingRebalance;
            assert!(member.syncing.is_none() || may_sync, "{id}: {member_id} waits for nothing");
            assert!(
                member.joining.is_none() || member.syncing.is_none(),
                "{id}: {member_id} waits twice"
            );
            if let Some(instance) = &member.instance_id {
                assert_eq!(
                    self.instances.get(instance),
                    Some(member_id),
                    "{id}: instance {instance}"
                );
            }
        }
        for (instance, member_id) in &self.instances {
            let member = self.members.get(member_id);
            let named = member.and_then(|member| member.instance_id.as_ref());
            assert_eq!(named, Some(instance), "{id}: instance {instance} is {member_id}");
        }
        assert!(
            self.unsynced.iter().all(|id| self.members.contains_key(id)),
            "{id}: unsynced strangers"
        );
    }
}

/// A timeout from the wire; negative ones count as none.
pub(super) fn millis(ms: i32) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn as_millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}
