//! What of a topic's configuration acts on its logs, resolved to plain numbers.

/// Settings of one log. Defaults are Kafka's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// `cleanup.policy` has `delete`.
    pub delete: bool,
    /// `cleanup.policy` has `compact`.
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
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time: bool,
    /// `delete.retention.ms`.
    pub delete_retention_ms: i64,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            delete: true,
            compact: false,
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            index_interval_bytes: 4096,
            retention_ms: Some(7 * 24 * 3_600_000),
            retention_bytes: None,
            max_message_bytes: 1_048_588,
            log_append_time: false,
            delete_retention_ms: 24 * 3_600_000,
        }
    }
}

impl LogConfig {
    /// Kafka's settings for `__consumer_offsets`.
    pub fn offsets_topic() -> Self {
        Self { delete: false, compact: true, segment_bytes: 100 << 20, ..Self::default() }
    }
}
