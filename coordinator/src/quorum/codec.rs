//! Our own encoding of what Raft keeps: log operations, votes, memberships, snapshot metadata. JSON, one value per journal
//! record; the journal's header has the version.
//!
//! The journal is a list of operations that are replayed in order: a truncation is an operation too, so that a vote that
//! was written after the truncated entries is not lost with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use openraft::{BasicNode, CommittedLeaderId, EntryPayload, Membership, SnapshotMeta, Vote};
use serde::{Deserialize, Serialize};
use tailway_metadata::MetadataRecord;

use super::{Batch, Entry, LogId, StoredMembership};

/// One journal record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogOp {
    Vote(VoteData),
    Committed(Option<LogIdData>),
    Entry(EntryData),
    /// Entries from this index on never happened.
    Truncate(u64),
    /// Entries up to this one are in the snapshot.
    Purge(LogIdData),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoteData {
    pub term: u64,
    pub node: Option<u64>,
    pub committed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogIdData {
    pub term: u64,
    pub leader: u64,
    pub index: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EntryData {
    pub id: LogIdData,
    pub payload: PayloadData,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PayloadData {
    Blank,
    Records(Arc<[MetadataRecord]>),
    Membership(MembershipData),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MembershipData {
    pub voters: Vec<BTreeSet<u64>>,
    pub nodes: BTreeMap<u64, String>,
}

/// What a snapshot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotMetaData {
    pub id: String,
    pub last: Option<LogIdData>,
    pub membership_at: Option<LogIdData>,
    pub membership: MembershipData,
}

impl LogOp {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| panic!("a log operation is JSON: {error}"))
    }

    pub fn decode(bytes: &[u8]) -> Result<LogOp, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

impl From<&Vote<u64>> for VoteData {
    fn from(vote: &Vote<u64>) -> VoteData {
        VoteData {
            term: vote.leader_id().get_term(),
            node: vote.leader_id().voted_for(),
            committed: vote.is_committed(),
        }
    }
}

impl From<VoteData> for Vote<u64> {
    fn from(data: VoteData) -> Vote<u64> {
        match data {
            VoteData { term, node: Some(node), committed: false } => Vote::new(term, node),
            VoteData { term, node: Some(node), committed: true } => Vote::new_committed(term, node),
            VoteData { node: None, .. } => Vote::default(),
        }
    }
}

impl From<&LogId> for LogIdData {
    fn from(id: &LogId) -> LogIdData {
        let leader = id.committed_leader_id();
        LogIdData { term: leader.term, leader: leader.node_id, index: id.index }
    }
}

impl From<LogIdData> for LogId {
    fn from(data: LogIdData) -> LogId {
        LogId::new(CommittedLeaderId::new(data.term, data.leader), data.index)
    }
}

impl From<&Membership<u64, BasicNode>> for MembershipData {
    fn from(membership: &Membership<u64, BasicNode>) -> MembershipData {
        MembershipData {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.addr.clone())).collect(),
        }
    }
}

impl From<MembershipData> for Membership<u64, BasicNode> {
    fn from(data: MembershipData) -> Membership<u64, BasicNode> {
        let nodes: BTreeMap<u64, BasicNode> =
            data.nodes.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        Membership::new(data.voters, nodes)
    }
}

impl From<&Entry> for EntryData {
    fn from(entry: &Entry) -> EntryData {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadData::Blank,
            EntryPayload::Normal(Batch(records)) => PayloadData::Records(Arc::clone(records)),
            EntryPayload::Membership(membership) => PayloadData::Membership(membership.into()),
        };
        EntryData { id: LogIdData::from(&entry.log_id), payload }
    }
}

impl From<EntryData> for Entry {
    fn from(data: EntryData) -> Entry {
        let payload = match data.payload {
            PayloadData::Blank => EntryPayload::Blank,
            PayloadData::Records(records) => EntryPayload::Normal(Batch(records)),
            PayloadData::Membership(membership) => EntryPayload::Membership(membership.into()),
        };
        Entry { log_id: data.id.into(), payload }
    }
}

impl From<&SnapshotMeta<u64, BasicNode>> for SnapshotMetaData {
    fn from(meta: &SnapshotMeta<u64, BasicNode>) -> SnapshotMetaData {
        SnapshotMetaData {
            id: meta.snapshot_id.clone(),
            last: meta.last_log_id.as_ref().map(LogIdData::from),
            membership_at: meta.last_membership.log_id().as_ref().map(LogIdData::from),
            membership: meta.last_membership.membership().into(),
        }
    }
}

impl From<SnapshotMetaData> for SnapshotMeta<u64, BasicNode> {
    fn from(data: SnapshotMetaData) -> SnapshotMeta<u64, BasicNode> {
        SnapshotMeta {
            last_log_id: data.last.map(LogId::from),
            last_membership: StoredMembership::new(
                data.membership_at.map(LogId::from),
                data.membership.into(),
            ),
            snapshot_id: data.id,
        }
    }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::TopicId;
    use tailway_metadata::record::RemoveTopicRecord;

    use super::*;

    /// The bytes on disk: a changed encoding fails here, not at a user's restart.
    #[test]
    fn the_encoding_is_fixed() {
        let id = LogIdData { term: 3, leader: 1, index: 7 };
        let record = MetadataRecord::RemoveTopic(RemoveTopicRecord { topic_id: TopicId::NIL });
        let membership = MembershipData {
            voters: vec![BTreeSet::from([1])],
            nodes: BTreeMap::from([(1, "127.0.0.1:9190".to_owned())]),
        };
        let entry = |payload| LogOp::Entry(EntryData { id, payload });
        let cases = [
            (
                LogOp::Vote(VoteData { term: 3, node: Some(1), committed: true }),
                r#"{"vote":{"term":3,"node":1,"committed":true}}"#,
            ),
            (LogOp::Committed(None), r#"{"committed":null}"#),
            (LogOp::Committed(Some(id)), r#"{"committed":{"term":3,"leader":1,"index":7}}"#),
            (LogOp::Truncate(5), r#"{"truncate":5}"#),
            (LogOp::Purge(id), r#"{"purge":{"term":3,"leader":1,"index":7}}"#),
            (
                entry(PayloadData::Blank),
                r#"{"entry":{"id":{"term":3,"leader":1,"index":7},"payload":"blank"}}"#,
            ),
            (
                entry(PayloadData::Records(Arc::from([record]))),
                r#"{"entry":{"id":{"term":3,"leader":1,"index":7},"payload":{"records":[{"type":"RemoveTopicRecord","version":0,"data":{"topic_id":"00000000-0000-0000-0000-000000000000"}}]}}}"#,
            ),
            (
                entry(PayloadData::Membership(membership)),
                r#"{"entry":{"id":{"term":3,"leader":1,"index":7},"payload":{"membership":{"voters":[[1]],"nodes":{"1":"127.0.0.1:9190"}}}}}"#,
            ),
        ];
        for (op, json) in cases {
            assert_eq!(String::from_utf8(op.encode()).unwrap(), json);
            assert_eq!(LogOp::decode(json.as_bytes()).unwrap(), op);
            if let LogOp::Entry(data) = op {
                assert_eq!(EntryData::from(&Entry::from(data.clone())), data);
            }
        }
    }

    #[test]
    fn votes_round_trip() {
        for vote in [Vote::default(), Vote::new(3, 1), Vote::new_committed(4, 2)] {
            assert_eq!(Vote::from(VoteData::from(&vote)), vote);
        }
    }
}
