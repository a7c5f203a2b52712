//! What of a topic's configuration acts on its logs, resolved to plain numbers.

use tailway_metadata::topic_config::{CleanupPolicy, TimestampType, TopicConfig};

/// Settings of one log. Defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `cleanup.policy` is `compact` (else `delete`).
    pub compact: bool,
    /// `segment.bytes`.
    pub segment_bytes: u32,
    /// `segment.ms`.
    pub segment_ms: i64,
    /// `index.interval.bytes`.
    pub index_interval_bytes: u32,
    /// `retention.ms`; `None` = no limit.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`; `None` = no limit.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`.
    pub max_message_bytes: usize,
    /// `message.timestamp.type` is `LogAppendTime`.
    pub log_append_time: bool,
    /// How long a deleted key's tombstone outlives compaction (Kafka's `delete.retention.ms`).
    pub delete_retention_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self::from(&TopicConfig::default())
    }
}

impl LogConfig {
    /// Kafka's settings for `__consumer_offsets`.
    pub fn offsets_topic() -> Self {
        Self { compact: true, segment_bytes: 100 << 20, ..Self::default() }
    }
}

impl From<&TopicConfig> for LogConfig {
    fn from(topic: &TopicConfig) -> Self {
        Self {
            compact: topic.cleanup_policy == CleanupPolicy::Compact,
            segment_bytes: topic.segment_bytes,
            segment_ms: i64::try_from(topic.segment_ms).unwrap_or(i64::MAX),
            index_interval_bytes: topic.index_interval_bytes,
            retention_ms: (topic.retention_ms >= 0).then_some(topic.retention_ms),
            retention_bytes: u64::try_from(topic.retention_bytes).ok(),
            max_message_bytes: topic.max_message_bytes as usize,
            log_append_time: topic.message_timestamp_type == TimestampType::LogAppendTime,
            delete_retention_ms: 24 * 3_600_000,
        }
    }
}
