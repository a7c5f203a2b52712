//! The Fetch response, versions 4 to 12, by hand: records are sent from where they lie and received as slices
//! of the frame. The request is a generated type (`messages::FetchRequest`).
//!
//! Versions: 5 adds log_start_offset, 7 sessions and a top-level error, 11 the preferred replica, 12 is flexible.
//! There are no fetch sessions here: session id 0 makes every client send full requests.

use bytes::Bytes;

use crate::api::ApiKey;
use crate::error::WireError;
use crate::error_code::ErrorCode;
use crate::frame;
use crate::messages::TopicName;
use crate::primitives::Reader;
use crate::produce::Segments;

const API: ApiKey = ApiKey::Fetch;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FetchResponse {
    pub throttle_time_ms: i32,
    /// Concerns the whole request (version 7).
    pub error_code: ErrorCode,
    /// 0: no session.
    pub session_id: i32,
    pub topics: Vec<FetchableTopic>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchableTopic {
    pub name: TopicName,
    pub partitions: Vec<FetchedPartition>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedPartition {
    pub index: i32,
    pub error_code: ErrorCode,
    pub high_watermark: i64,
    /// -1 if unknown.
    pub last_stable_offset: i64,
    /// -1 if unknown (or before version 5).
    pub log_start_offset: i64,
    /// Of a read_committed fetch; else `None`.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// -1: go on reading here (version 11).
    pub preferred_read_replica: i32,
    /// Where the log of this replica and the fetcher's part ways (version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// Who leads instead, with NOT_LEADER_OR_FOLLOWER (version 12).
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// Record batches in pieces whose concatenation is sent; decoding gives one piece or none. The last
    /// batch of what a Kafka sends may be cut.
    pub records: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AbortedTransaction {
    pub producer_id: i64,
    pub first_offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEndOffset {
    pub epoch: i32,
    pub end_offset: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    pub leader_id: i32,
    pub leader_epoch: i32,
}

impl FetchedPartition {
    /// A partition that could be read.
    pub fn read(
        index: i32,
        high_watermark: i64,
        log_start_offset: i64,
        records: Vec<Bytes>,
    ) -> Self {
        Self {
            index,
            error_code: ErrorCode::NONE,
            high_watermark,
            last_stable_offset: high_watermark,
            log_start_offset,
            aborted_transactions: None,
            preferred_read_replica: -1,
            diverging_epoch: None,
            current_leader: None,
            records,
        }
    }

    /// A partition that could not be read.
    pub fn failed(index: i32, error_code: ErrorCode) -> Self {
        Self { error_code, ..Self::read(index, -1, -1, Vec::new()) }
    }

    pub fn records_len(&self) -> usize {
        self.records.iter().map(Bytes::len).sum()
    }
}

impl FetchResponse {
    /// The whole frame with its length prefix, as segments to be written one behind the other; records are
    /// not copied.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<Vec<Bytes>, WireError> {
        let flexible = check_version(version)?;
        let mut segments = Segments::new(flexible);
        segments.writer.raw(&frame::response_head(API, version, correlation_id));
        segments.writer.i32(self.throttle_time_ms);
        if version >= 7 {
            segments.writer.i16(self.error_code.code());
            segments.writer.i32(self.session_id);
        }
        segments.writer.array("topics", self.topics.len())?;
        for topic in &self.topics {
            segments.writer.string("topic name", &topic.name)?;
            segments.writer.array("partitions", topic.partitions.len())?;
            for partition in &topic.partitions {
                partition.encode(version, &mut segments)?;
            }
            segments.writer.no_tagged_fields();
        }
        segments.writer.no_tagged_fields();
        segments.finish()
    }

    /// Reads a response frame: (correlation id, response); records are slices of the frame.
    pub fn decode(frame: Bytes, version: i16) -> Result<(i32, Self), WireError> {
        let flexible = check_version(version)?;
        let (correlation_id, body) = frame::split_response(API, version, frame)?;
        let mut reader = Reader::new(body, flexible);
        let throttle_time_ms = reader.i32("throttle_time_ms")?;
        let (mut error_code, mut session_id) = (ErrorCode::NONE, 0);
        if version >= 7 {
            error_code = ErrorCode::from(reader.i16("error_code")?);
            session_id = reader.i32("session_id")?;
        }
        let count = reader.array("topics", if flexible { 3 } else { 6 })?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            let name = TopicName(reader.string("topic name")?);
            // index, error_code, high_watermark, last_stable_offset are always there.
            let count = reader.array("partitions", 22)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(FetchedPartition::decode(version, &mut reader)?);
            }
            reader.skip_tagged_fields("topic tags")?;
            topics.push(FetchableTopic { name, partitions });
        }
        reader.skip_tagged_fields("response tags")?;
        reader.finish("the Fetch response")?;
        Ok((correlation_id, Self { throttle_time_ms, error_code, session_id, topics }))
    }
}

impl FetchedPartition {
    fn encode(&self, version: i16, segments: &mut Segments) -> Result<(), WireError> {
        let writer = &mut segments.writer;
        writer.i32(self.index);
        writer.i16(self.error_code.code());
        writer.i64(self.high_watermark);
        writer.i64(self.last_stable_offset);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        let aborted = self.aborted_transactions.as_deref();
        writer.nullable_array("aborted_transactions", aborted.map(<[_]>::len))?;
        for aborted in aborted.unwrap_or_default() {
            writer.i64(aborted.producer_id);
            writer.i64(aborted.first_offset);
            writer.no_tagged_fields();
        }
        if version >= 11 {
            writer.i32(self.preferred_read_replica);
        }
        // An empty field, not null: old clients do not expect null.
        segments.records(Some(&self.records))?;
        self.encode_tags(version, segments);
        Ok(())
    }

    fn encode_tags(&self, version: i16, segments: &mut Segments) {
        if !API.is_flexible(version) {
            return;
        }
        let writer = &mut segments.writer;
        let tags =
            u32::from(self.diverging_epoch.is_some()) + u32::from(self.current_leader.is_some());
        writer.uvarint(tags);
        if let Some(diverging) = self.diverging_epoch {
            writer.uvarint(0);
            writer.uvarint(13);
            writer.i32(diverging.epoch);
            writer.i64(diverging.end_offset);
            writer.no_tagged_fields();
        }
        if let Some(leader) = self.current_leader {
            writer.uvarint(1);
            writer.uvarint(9);
            writer.i32(leader.leader_id);
            writer.i32(leader.leader_epoch);
            writer.no_tagged_fields();
        }
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        let index = reader.i32("partition index")?;
        let error_code = ErrorCode::from(reader.i16("error_code")?);
        let high_watermark = reader.i64("high_watermark")?;
        let last_stable_offset = reader.i64("last_stable_offset")?;
        let log_start_offset = if version >= 5 { reader.i64("log_start_offset")? } else { -1 };
        let aborted_transactions = match reader.nullable_array("aborted_transactions", 16)? {
            None => None,
            Some(count) => {
                let mut aborted = Vec::with_capacity(count);
                for _ in 0..count {
                    let producer_id = reader.i64("producer_id")?;
                    let first_offset = reader.i64("first_offset")?;
                    reader.skip_tagged_fields("aborted transaction tags")?;
                    aborted.push(AbortedTransaction { producer_id, first_offset });
                }
                Some(aborted)
            }
        };
        let preferred_read_replica =
            if version >= 11 { reader.i32("preferred_read_replica")? } else { -1 };
        let records = reader.nullable_bytes("records")?.filter(|records| !records.is_empty());
        let (mut diverging_epoch, mut current_leader) = (None, None);
        reader.tagged_fields("partition tags", |tag, mut value| {
            match tag {
                0 => {
                    let epoch = value.i32("diverging epoch")?;
                    let end_offset = value.i64("diverging end offset")?;
                    diverging_epoch = Some(EpochEndOffset { epoch, end_offset });
                }
                1 => {
                    let leader_id = value.i32("leader id")?;
                    let leader_epoch = value.i32("leader epoch")?;
                    current_leader = Some(LeaderIdAndEpoch { leader_id, leader_epoch });
                }
                _ => return Ok(()),
            }
            value.skip_tagged_fields("tags in partition tags")?;
            value.finish("a partition tag")
        })?;
        Ok(Self {
            index,
            error_code,
            high_watermark,
            last_stable_offset,
            log_start_offset,
            aborted_transactions,
            preferred_read_replica,
            diverging_epoch,
            current_leader,
            records: records.into_iter().collect(),
        })
    }
}

fn check_version(version: i16) -> Result<bool, WireError> {
    frame::check_accepted(API, version)?;
    Ok(API.is_flexible(version))
}

#[cfg(test)]
mod tests;
