//! Topic configs: ONE table of the keys that act, used by CreateTopics, DescribeConfigs and the broker's log.
//!
//! A Kafka key that Tailway does not act on is refused by name, so that nobody relies on a promise that is not kept. Stored
//! are only the overrides; [`TopicConfig`] is the typed sum of overrides and defaults.

use std::collections::BTreeMap;

/// What a value looks like. The numbers are those of DescribeConfigs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigType {
    String,
    Int,
    Long,
    List,
}

impl ConfigType {
    /// Kafka's number for it in DescribeConfigs responses.
    pub const fn code(self) -> i8 {
        match self {
            ConfigType::String => 2,
            ConfigType::Int => 3,
            ConfigType::Long => 5,
            ConfigType::List => 7,
        }
    }
}

/// One key that acts.
#[derive(Debug)]
pub struct ConfigKey {
    pub name: &'static str,
    pub kind: ConfigType,
    pub default: &'static str,
    pub doc: &'static str,
    /// Reads a value into its field, or says what it must be.
    set: fn(&mut TopicConfig, &str) -> Result<(), String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CleanupPolicy {
    Delete,
    Compact,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// The effective configuration of one topic. Fields are Kafka's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    pub cleanup_policy: CleanupPolicy,
    /// Milliseconds; -1 keeps for ever.
    pub retention_ms: i64,
    /// Bytes per partition; -1 sets no bound.
    pub retention_bytes: i64,
    pub segment_bytes: u32,
    pub segment_ms: u64,
    pub index_interval_bytes: u32,
    pub max_message_bytes: u32,
    pub message_timestamp_type: TimestampType,
    pub min_insync_replicas: u32,
}

/// Why a config is refused. Becomes INVALID_CONFIG with this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{key} = {value:?} is not valid: {expected}")]
    Value { key: &'static str, value: String, expected: String },
    #[error(
        "{key} is a Kafka topic config that does not act in this version of Tailway, so it is refused; keys that act: {}",
        names()
    )]
    NotActing { key: String },
    #[error("{key} is no topic config; keys that act: {}", names())]
    Unknown { key: String },
}

/// Every key that acts, by name ascending.
pub const KEYS: &[ConfigKey] = &[
    ConfigKey {
        name: "cleanup.policy",
        kind: ConfigType::List,
        default: "delete",
        doc: "What happens to old segments: delete (by retention) or compact (the last value of each key stays).",
        set: |config, value| {
            config.cleanup_policy = match value {
                "delete" => CleanupPolicy::Delete,
                "compact" => CleanupPolicy::Compact,
                _ => return Err("write delete or compact".into()),
            };
            Ok(())
        },
    },
    ConfigKey {
        name: "compression.type",
        kind: ConfigType::String,
        default: "producer",
        doc: "The codec on disk: producer, which stores batches as they came.",
        set: |_, value| {
            (value == "producer")
                .then_some(())
                .ok_or_else(|| "write producer: batches are stored as they came".into())
        },
    },
    ConfigKey {
        name: "index.interval.bytes",
        kind: ConfigType::Int,
        default: "4096",
        doc: "About how many bytes of log lie between two entries of the offset index.",
        set: |config, value| int(value, 0, i32::MAX.into(), &mut config.index_interval_bytes),
    },
    ConfigKey {
        name: "max.message.bytes",
        kind: ConfigType::Int,
        default: "1048588",
        doc: "The largest record batch that is accepted, as compressed by the producer.",
        set: |config, value| int(value, 0, i32::MAX.into(), &mut config.max_message_bytes),
    },
    ConfigKey {
        name: "message.timestamp.type",
        kind: ConfigType::String,
        default: "CreateTime",
        doc: "Whether a record's timestamp is the producer's (CreateTime) or the broker's (LogAppendTime).",
        set: |config, value| {
            config.message_timestamp_type = match value {
                "CreateTime" => TimestampType::CreateTime,
                "LogAppendTime" => TimestampType::LogAppendTime,
                _ => return Err("write CreateTime or LogAppendTime".into()),
            };
            Ok(())
        },
    },
    ConfigKey {
        name: "min.insync.replicas",
        kind: ConfigType::Int,
        default: "1",
        doc: "On how many brokers a record must be durable before acks=all is answered.",
        set: |config, value| match int(value, 1, 1, &mut config.min_insync_replicas) {
            Ok(()) => Ok(()),
            Err(_) => Err("write 1: partitions have one replica".into()),
        },
    },
    ConfigKey {
        name: "retention.bytes",
        kind: ConfigType::Long,
        default: "-1",
        doc: "Segments beyond this size of a partition are deleted, oldest first; -1 sets no bound.",
        set: |config, value| int(value, -1, i64::MAX, &mut config.retention_bytes),
    },
    ConfigKey {
        name: "retention.ms",
        kind: ConfigType::Long,
        default: "604800000",
        doc: "Segments whose newest record is older than this are deleted; -1 keeps for ever.",
        set: |config, value| int(value, -1, i64::MAX, &mut config.retention_ms),
    },
    ConfigKey {
        name: "segment.bytes",
        kind: ConfigType::Int,
        default: "1073741824",
        doc: "A segment that would grow beyond this is closed and a new one begins.",
        set: |config, value| int(value, 1024, i32::MAX.into(), &mut config.segment_bytes),
    },
    ConfigKey {
        name: "segment.ms",
        kind: ConfigType::Long,
        default: "604800000",
        doc: "A segment that is older than this is closed at the next append, so that retention can delete it.",
        set: |config, value| int(value, 1, i64::MAX, &mut config.segment_ms),
    },
];

/// Kafka's other topic configs: known by name, so that the refusal can say so.
const NOT_ACTING: &[&str] = &[
    "compression.gzip.level",
    "compression.lz4.level",
    "compression.zstd.level",
    "delete.retention.ms",
    "file.delete.delay.ms",
    "flush.messages",
    "flush.ms",
    "follower.replication.throttled.replicas",
    "leader.replication.throttled.replicas",
    "local.retention.bytes",
    "local.retention.ms",
    "max.compaction.lag.ms",
    "message.downconversion.enable",
    "message.format.version",
    "message.timestamp.after.max.ms",
    "message.timestamp.before.max.ms",
    "message.timestamp.difference.max.ms",
    "min.cleanable.dirty.ratio",
    "min.compaction.lag.ms",
    "preallocate",
    "remote.copy.disable",
    "remote.log.copy.disable",
    "remote.log.delete.on.disable",
    "remote.storage.enable",
    "segment.index.bytes",
    "segment.jitter.ms",
    "unclean.leader.election.enable",
];

/// The key of this name, if it acts.
pub fn key(name: &str) -> Option<&'static ConfigKey> {
    KEYS.iter().find(|key| key.name == name)
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        let mut config = TopicConfig {
            cleanup_policy: CleanupPolicy::Delete,
            retention_ms: 0,
            retention_bytes: 0,
            segment_bytes: 0,
            segment_ms: 0,
            index_interval_bytes: 0,
            max_message_bytes: 0,
            message_timestamp_type: TimestampType::CreateTime,
            min_insync_replicas: 0,
        };
        for key in KEYS {
            (key.set)(&mut config, key.default)
                .unwrap_or_else(|error| panic!("default of {}: {error}", key.name));
        }
        config
    }
}

impl TopicConfig {
    /// The defaults with `overrides` on top. The first bad one, by name, is the error.
    pub fn from_overrides(
        overrides: &BTreeMap<String, String>,
    ) -> Result<TopicConfig, ConfigError> {
        let mut config = TopicConfig::default();
        for (name, value) in overrides {
            let key = key(name).ok_or_else(|| refusal(name))?;
            (key.set)(&mut config, value.trim()).map_err(|expected| ConfigError::Value {
                key: key.name,
                value: value.clone(),
                expected,
            })?;
        }
        Ok(config)
    }
}

fn refusal(name: &str) -> ConfigError {
    if NOT_ACTING.contains(&name) {
        ConfigError::NotActing { key: name.to_owned() }
    } else {
        ConfigError::Unknown { key: name.to_owned() }
    }
}

fn int<T: TryFrom<i64>>(value: &str, min: i64, max: i64, field: &mut T) -> Result<(), String> {
    let expected = || format!("write a whole number from {min} to {max}");
    let number: i64 = value.parse().map_err(|_| expected())?;
    if !(min..=max).contains(&number) {
        return Err(expected());
    }
    *field = T::try_from(number).map_err(|_| expected())?;
    Ok(())
}

fn names() -> String {
    KEYS.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn defaults_are_kafkas() {
        let expected = TopicConfig {
            cleanup_policy: CleanupPolicy::Delete,
            retention_ms: 7 * 24 * 3_600 * 1_000,
            retention_bytes: -1,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600 * 1_000,
            index_interval_bytes: 4_096,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            min_insync_replicas: 1,
        };
        assert_eq!(TopicConfig::default(), expected);
        assert_eq!(TopicConfig::from_overrides(&BTreeMap::new()), Ok(expected));
    }

    #[test]
    fn the_tables_are_sorted_and_apart() {
        assert!(KEYS.is_sorted_by(|a, b| a.name < b.name));
        assert!(NOT_ACTING.is_sorted());
        assert!(NOT_ACTING.iter().all(|name| key(name).is_none()));
    }

    #[test]
    fn overrides_act() {
        let config = TopicConfig::from_overrides(&overrides(&[
            ("cleanup.policy", "compact"),
            ("compression.type", "producer"),
            ("message.timestamp.type", "LogAppendTime"),
            ("retention.bytes", "-1"),
            ("retention.ms", "60000"),
            ("segment.bytes", "1024"),
            ("index.interval.bytes", " 0 "),
        ]))
        .unwrap();
        assert_eq!(config.cleanup_policy, CleanupPolicy::Compact);
        assert_eq!(config.message_timestamp_type, TimestampType::LogAppendTime);
        assert_eq!((config.retention_bytes, config.retention_ms), (-1, 60_000));
        assert_eq!((config.segment_bytes, config.index_interval_bytes), (1_024, 0));
    }

    #[test]
    fn refusals_say_what_to_write() {
        let cases = [
            ("cleanup.policy", "compact,delete", "write delete or compact"),
            ("compression.type", "gzip", "write producer: batches are stored as they came"),
            ("index.interval.bytes", "-1", "write a whole number from 0 to 2147483647"),
            ("max.message.bytes", "1e6", "write a whole number from 0 to 2147483647"),
            ("message.timestamp.type", "createtime", "write CreateTime or LogAppendTime"),
            ("min.insync.replicas", "2", "write 1: partitions have one replica"),
            ("min.insync.replicas", "0", "write 1: partitions have one replica"),
            ("retention.bytes", "-2", "write a whole number from -1 to 9223372036854775807"),
            (
                "retention.ms",
                "9223372036854775808",
                "write a whole number from -1 to 9223372036854775807",
            ),
            ("segment.bytes", "1023", "write a whole number from 1024 to 2147483647"),
            ("segment.ms", "0", "write a whole number from 1 to 9223372036854775807"),
        ];
        for (name, value, expected) in cases {
            assert_eq!(
                TopicConfig::from_overrides(&overrides(&[(name, value)])),
                Err(ConfigError::Value {
                    key: key(name).unwrap().name,
                    value: value.to_owned(),
                    expected: expected.to_owned()
                }),
                "{name}={value}"
            );
        }
        let text = |name: &str| {
            TopicConfig::from_overrides(&overrides(&[(name, "1")])).unwrap_err().to_string()
        };
        assert!(text("flush.ms").starts_with("flush.ms is a Kafka topic config that does not act"));
        assert!(text("flush.ms").contains("retention.ms, segment.bytes"));
        assert!(text("retention.mss").starts_with("retention.mss is no topic config"));
    }
}
