//! The names of things: one newtype per kind of id, so that an offset is never taken for an epoch.
//!
//! All are plain values with Kafka's width and Kafka's "none" (-1 for integers, the nil UUID for ids). Serialised as the
//! bare value.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! integer_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// Kafka's word for "none" or "unknown".
            pub const NONE: $name = $name(-1);

            /// The value after this one. Saturates: an id never wraps into the past.
            #[must_use]
            pub const fn next(self) -> $name {
                $name(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> $name {
                $name(value)
            }
        }
    };
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// The nil UUID: "none" on Kafka's wire.
            pub const NIL: $name = $name(Uuid::nil());

            pub const fn is_nil(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<Uuid> for $name {
            fn from(value: Uuid) -> $name {
                $name(value)
            }
        }
    };
}

integer_id!(
    /// A broker, for life: it keeps its id across restarts and moves.
    BrokerId(i32)
);
integer_id!(
    /// A partition's number inside its topic, from 0.
    PartitionIndex(i32)
);
integer_id!(
    /// Counts the leaders of one partition. A new leader, or none, is a new epoch.
    LeaderEpoch(i32)
);
integer_id!(
    /// Counts a broker's registrations. Requests with an older epoch come from an earlier life of that broker.
    BrokerEpoch(i64)
);
integer_id!(
    /// A record's position in a partition, or in the coordinator's record stream.
    Offset(i64)
);
integer_id!(
    /// An idempotent producer.
    ProducerId(i64)
);
integer_id!(
    /// One life of a producer id.
    ProducerEpoch(i16)
);

uuid_id!(
    /// One life of a topic name: delete and create again gives another id.
    TopicId
);
uuid_id!(
    /// One start of a broker process.
    IncarnationId
);
uuid_id!(
    /// A data directory, written into it once. Tells a moved or emptied directory from the one a broker registered with.
    DirectoryId
);
uuid_id!(
    /// One life of the coordinator's record stream. Offsets compare only inside it.
    MetadataLogId
);

/// The cluster's name for itself, written into every data directory and every certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub String);

impl ClusterId {
    /// Longest id, in bytes.
    pub const LEN_MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this can stand in a SPIFFE identity, a file and a Kafka response: 1 to 64 of `A-Za-z0-9._-`.
    pub fn is_valid(&self) -> bool {
        (1..=Self::LEN_MAX).contains(&self.0.len())
            && self.0.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One partition of one topic, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl TopicPartition {
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> TopicPartition {
        TopicPartition { topic: topic.into(), partition }
    }
}

/// `topic-partition`, as Kafka names the directory.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_serialise_as_the_bare_value() {
        assert_eq!(serde_json::to_string(&BrokerId(7)).unwrap(), "7");
        assert_eq!(
            serde_json::to_string(&TopicId::NIL).unwrap(),
            "\"00000000-0000-0000-0000-000000000000\""
        );
        assert_eq!(TopicPartition::new("logs", 3).to_string(), "logs-3");
        assert_eq!(LeaderEpoch(i32::MAX).next(), LeaderEpoch(i32::MAX));
    }

    #[test]
    fn cluster_ids_are_checked() {
        for good in ["a", "MkU3OEVBNTcwNTJENDM2Qg", "5d2c-1.x_y", &"x".repeat(64)] {
            assert!(ClusterId(good.into()).is_valid(), "{good}");
        }
        for bad in ["", "a b", "a/b", "\u{e9}", &"x".repeat(65)] {
            assert!(!ClusterId(bad.into()).is_valid(), "{bad}");
        }
    }
}
