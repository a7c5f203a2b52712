//! Keys and values of `__consumer_offsets`, byte for byte as Kafka's group coordinator writes them.
//!
//! Written: offset key 1 with value 3 (value 1 if the client named an expiry), group key 2 with value 3: what every Kafka
//! from 2.1 on reads. Read: offset keys 0 and 1 with values 0-4, group key 2 with values 0-4. Other keys (Kafka's newer
//! group protocols) are `Foreign`: left alone, never deleted.

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_wire::WireError;
use tailway_wire::messages::StrBytes;
use tailway_wire::primitives::{Reader, Writer};

/// A record of the topic. A value of None is a tombstone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OffsetsRecord {
    /// Group, topic, partition.
    Offset(StrBytes, StrBytes, i32, Option<OffsetValue>),
    Group(StrBytes, Option<GroupValue>),
    /// A key of this version, which is not ours to read.
    Foreign(i16),
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetValue {
    pub offset: i64,
    /// -1: not known.
    pub leader_epoch: i32,
    pub metadata: StrBytes,
    pub commit_timestamp: WallMs,
    /// Only from clients that speak OffsetCommit 2-4 and set a retention time.
    pub expire_timestamp: Option<WallMs>,
}

/// A group and its assignment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupValue {
    /// Empty: offsets without members only.
    pub protocol_type: StrBytes,
    pub generation: i32,
    pub protocol: Option<StrBytes>,
    pub leader: Option<StrBytes>,
    /// When it came into its state (what Kafka calls currentStateTimestamp).
    pub state_timestamp: Option<WallMs>,
    pub members: Vec<MemberValue>,
}

/// A member with what it subscribed to under the chosen protocol, and what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberValue {
    pub member_id: StrBytes,
    pub group_instance_id: Option<StrBytes>,
    pub client_id: StrBytes,
    pub client_host: StrBytes,
    pub rebalance_timeout_ms: i32,
    pub session_timeout_ms: i32,
    pub subscription: Bytes,
    pub assignment: Bytes,
}

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 2;
/// The first value version in the flexible encoding, for both kinds of value.
const FLEXIBLE_FROM: i16 = 4;

impl OffsetsRecord {
    /// Key and value. A string that is too long for the schema is an error.
    pub fn encode(&self) -> Result<(Bytes, Option<Bytes>), WireError> {
        let mut key = Writer::new(false);
        let value = match self {
            OffsetsRecord::Offset(group, topic, partition, value) => {
                key.i16(OFFSET_KEY);
                key.string("group", group)?;
                key.string("topic", topic)?;
                key.i32(*partition);
                value.as_ref().map(OffsetValue::encode).transpose()?
            }
            OffsetsRecord::Group(group, value) => {
                key.i16(GROUP_KEY);
                key.string("group", group)?;
                value.as_ref().map(GroupValue::encode).transpose()?
            }
            OffsetsRecord::Foreign(version) => {
                key.i16(*version);
                None
            }
        };
        Ok((key.finish(), value))
    }

    /// Reads a record. What it returns shares nothing with the batch it came from.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<OffsetsRecord, WireError> {
        let mut key = Reader::new(Bytes::copy_from_slice(key), false);
        let value = value.map(Bytes::copy_from_slice);
        match key.i16("key version")? {
            0 | OFFSET_KEY => {
                let group = key.string("group")?;
                let topic = key.string("topic")?;
                let partition = key.i32("partition")?;
                key.finish("offset key")?;
                let value = value.map(OffsetValue::decode).transpose()?;
                Ok(OffsetsRecord::Offset(group, topic, partition, value))
            }
            GROUP_KEY => {
                let group = key.string("group")?;
                key.finish("group key")?;
                Ok(OffsetsRecord::Group(group, value.map(GroupValue::decode).transpose()?))
            }
            version => Ok(OffsetsRecord::Foreign(version)),
        }
    }
}

impl OffsetValue {
    fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Writer::with_capacity(false, 32 + self.metadata.len());
        out.i16(if self.expire_timestamp.is_some() { 1 } else { 3 });
        out.i64(self.offset);
        if self.expire_timestamp.is_none() {
            out.i32(self.leader_epoch);
        }
        out.string("metadata", &self.metadata)?;
        out.i64(self.commit_timestamp.0);
        if let Some(moment) = self.expire_timestamp {
            out.i64(moment.0);
        }
        Ok(out.finish())
    }

    fn decode(bytes: Bytes) -> Result<OffsetValue, WireError> {
        let (version, mut value) = versioned(bytes)?;
        let offset = value.i64("offset")?;
        let leader_epoch = if version >= 3 { value.i32("leader epoch")? } else { -1 };
        let metadata = value.string("metadata")?;
        let commit_timestamp = WallMs(value.i64("commit timestamp")?);
        let expire = if version == 1 { value.i64("expire timestamp")? } else { -1 };
        // Tag 0 is the topic's id in newer Kafkas; the topic's name in the key is what counts here.
        value.skip_tagged_fields("offset value")?;
        value.finish("offset value")?;
        let expire_timestamp = (expire >= 0).then_some(WallMs(expire));
        Ok(OffsetValue { offset, leader_epoch, metadata, commit_timestamp, expire_timestamp })
    }
}

impl GroupValue {
    fn encode(&self) -> Result<Bytes, WireError> {
        let mut out = Writer::new(false);
        out.i16(3);
        out.string("protocol type", &self.protocol_type)?;
        out.i32(self.generation);
        out.nullable_string("protocol", self.protocol.as_deref())?;
        out.nullable_string("leader", self.leader.as_deref())?;
        out.i64(self.state_timestamp.map_or(-1, |moment| moment.0));
        out.array("members", self.members.len())?;
        for member in &self.members {
            out.string("member id", &member.member_id)?;
            out.nullable_string("group instance id", member.group_instance_id.as_deref())?;
            out.string("client id", &member.client_id)?;
            out.string("client host", &member.client_host)?;
            out.i32(member.rebalance_timeout_ms);
            out.i32(member.session_timeout_ms);
            out.nullable_bytes("subscription", Some(&member.subscription))?;
            out.nullable_bytes("assignment", Some(&member.assignment))?;
        }
        Ok(out.finish())
    }

    fn decode(bytes: Bytes) -> Result<GroupValue, WireError> {
        let (version, mut value) = versioned(bytes)?;
        let protocol_type = value.string("protocol type")?;
        let generation = value.i32("generation")?;
        let protocol = value.nullable_string("protocol")?;
        let leader = value.nullable_string("leader")?;
        let timestamp = if version >= 2 { value.i64("state timestamp")? } else { -1 };
        let state_timestamp = (timestamp >= 0).then_some(WallMs(timestamp));
        // A member takes at least six lengths of a byte and one timeout.
        let count = value.array("members", 10)?;
        let mut members = Vec::new();
        for _ in 0..count {
            members.push(MemberValue::decode(&mut value, version)?);
        }
        value.skip_tagged_fields("group value")?;
        value.finish("group value")?;
        Ok(GroupValue { protocol_type, generation, protocol, leader, state_timestamp, members })
    }
}

impl MemberValue {
    fn decode(value: &mut Reader, version: i16) -> Result<MemberValue, WireError> {
        let member_id = value.string("member id")?;
        let group_instance_id =
            if version >= 3 { value.nullable_string("group instance id")? } else { None };
        let client_id = value.string("client id")?;
        let client_host = value.string("client host")?;
        let rebalance = if version >= 1 { Some(value.i32("rebalance timeout")?) } else { None };
        let session_timeout_ms = value.i32("session timeout")?;
        let subscription = value.bytes("subscription")?;
        let assignment = value.bytes("assignment")?;
        value.skip_tagged_fields("member")?;
        Ok(MemberValue {
            member_id,
            group_instance_id,
            client_id,
            client_host,
            rebalance_timeout_ms: rebalance.unwrap_or(session_timeout_ms),
            session_timeout_ms,
            subscription,
            assignment,
        })
    }
}

/// The version in front of a value, and a reader of its encoding.
fn versioned(bytes: Bytes) -> Result<(i16, Reader), WireError> {
    let mut head = Reader::new(bytes, false);
    let version = head.i16("value version")?;
    if !(0..=FLEXIBLE_FROM).contains(&version) {
        let cause = "written by a newer release";
        return Err(WireError::InvalidField { field: "value version", cause });
    }
    Ok((version, Reader::new(head.into_rest(), version >= FLEXIBLE_FROM)))
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
