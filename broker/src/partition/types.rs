//! What goes in and out of a partition's door.
//!
//! Offsets and timestamps are plain `i64` as on the wire: -1 means "none" only where a field's comment says so.

use bytes::Bytes;
use tailway_metadata::time::WallMs;

/// When an append is answered (`acks` of Produce).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// `acks=0`: answered as soon as the batches are validated and queued. The offsets in the answer are -1.
    None,
    /// `acks=1`: answered after the write to the page cache.
    Leader,
    /// `acks=all` (-1): answered once the batches are durable and the high watermark has passed them.
    All,
}

/// Who appends: clients may not write what only the broker may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendOrigin {
    #[default]
    Client,
    /// The group coordinator writing `__consumer_offsets`. Exempt from `max.message.bytes`.
    GroupCoordinator,
    /// A forwarder writing what a sink refused. Exempt from `max.message.bytes`, because it has got in once already.
    DeadLetters,
}

/// How to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendOptions {
    pub acks: Acks,
    pub origin: AppendOrigin,
}

impl AppendOptions {
    /// A client's produce request.
    pub fn client(acks: Acks) -> Self {
        Self { acks, origin: AppendOrigin::Client }
    }

    /// The group coordinator's records: durable before they are answered.
    pub fn group_coordinator() -> Self {
        Self { acks: Acks::All, origin: AppendOrigin::GroupCoordinator }
    }
}

/// The answer to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offset of the first record; for a recognised duplicate the offset it got the first time. -1 for `Acks::None`.
    pub base_offset: i64,
    /// Offset of the last record. -1 for `Acks::None`.
    pub last_offset: i64,
    /// The broker's append time if the topic says `message.timestamp.type=LogAppendTime`, else -1.
    pub log_append_time: i64,
    pub log_start_offset: i64,
}

/// Whole record batches as stored, ready to be sent as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSlice {
    /// Consecutive whole batches; the first may begin below the offset asked for. Empty at the high watermark.
    pub records: Vec<Bytes>,
    pub high_watermark: i64,
    pub log_start_offset: i64,
    pub log_end_offset: i64,
}

impl ReadSlice {
    /// Bytes in `records`.
    pub fn len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.records.iter().all(Bytes::is_empty)
    }
}

/// What ListOffsets may ask (-2, -1, -3, or a timestamp in ms).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListOffset {
    /// The log start offset.
    Earliest,
    /// The high watermark: what consumers see as the end.
    Latest,
    /// The record with the greatest timestamp.
    MaxTimestamp,
    /// The first record whose timestamp is at least this.
    Timestamp(i64),
}

/// The answer to a [`ListOffset`]. `offset` and `timestamp` are -1 where nothing matches (as Kafka answers).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    pub offset: i64,
    pub timestamp: i64,
    /// Leader epoch of the batch found, -1 where there is none.
    pub leader_epoch: i32,
}

/// Where a partition stands. Always `log_start <= high_watermark <= log_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// First offset that is kept.
    pub log_start: i64,
    /// First offset that consumers may not see yet; never above what is durable.
    pub high_watermark: i64,
    /// Offset the next record gets.
    pub log_end: i64,
}

/// What a partition remembers of an idempotent producer (DescribeProducers, KIP-664).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerReport {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Sequence of the last record of its last batch.
    pub last_sequence: i32,
    /// When the broker heard of it last, by the broker's clock.
    pub last_heard: WallMs,
}

/// The room on the data directory's file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskReport {
    /// When it was last asked for.
    pub free_bytes: u64,
    /// With less than this free, clients' records are refused.
    pub limit_bytes: u64,
    /// What the reserve file holds back; 0 while it is given up.
    pub reserve_bytes: u64,
    /// Whether clients' records are refused now.
    pub refusing: bool,
}

/// What a data directory's partitions stand on, for `/status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StorageReport {
    pub disk: DiskReport,
    /// From this many dirty files on a commit group is synced by one syncfs; `None`: never.
    pub syncfs_from_files: Option<usize>,
}
