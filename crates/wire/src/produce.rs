//! Produce, versions 3 to 9, by hand: the records of each partition stay a slice of the request's frame.
//!
//! Versions: 3 carries format 2 batches, 5 adds log_start_offset, 7 allows zstd, 8 adds record errors and an
//! error text, 9 is flexible. Versions 0 to 2 (older formats) are listed but refused, see [`crate::api`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::api::ApiKey;
use crate::error::WireError;
use crate::error_code::ErrorCode;
use crate::frame::{self, RequestHeader};
use crate::messages::{StrBytes, TopicName};
use crate::primitives::{Reader, Writer};

const API: ApiKey = ApiKey::Produce;

/// A Produce request: one or more record batches for each of some partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProduceRequest {
    pub transactional_id: Option<StrBytes>,
    /// 0: no answer at all, 1: the leader has it, -1: all in-sync replicas have it durably.
    pub acks: i16,
    pub timeout_ms: i32,
    pub topics: Vec<TopicProduceData>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProduceData {
    pub name: TopicName,
    pub partitions: Vec<PartitionProduceData>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProduceData {
    pub index: i32,
    /// Record batches, one behind the other, not yet looked at.
    pub records: Option<Bytes>,
}

impl ProduceRequest {
    /// Reads the body of a request whose header has been parsed; records are slices of `body`.
    pub fn decode(body: Bytes, version: i16) -> Result<Self, WireError> {
        let flexible = check_version(version)?;
        let mut reader = Reader::new(body, flexible);
        let transactional_id = reader.nullable_string("transactional_id")?;
        let acks = reader.i16("acks")?;
        let timeout_ms = reader.i32("timeout_ms")?;
        // Smallest topic: empty name, empty array, no tags.
        let count = reader.array("topics", if flexible { 3 } else { 6 })?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            let name = TopicName(reader.string("topic name")?);
            let count = reader.array("partitions", if flexible { 6 } else { 8 })?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                let index = reader.i32("partition index")?;
                let records = reader.nullable_bytes("records")?;
                reader.skip_tagged_fields("partition tags")?;
                partitions.push(PartitionProduceData { index, records });
            }
            reader.skip_tagged_fields("topic tags")?;
            topics.push(TopicProduceData { name, partitions });
        }
        reader.skip_tagged_fields("request tags")?;
        reader.finish("the Produce request")?;
        Ok(Self { transactional_id, acks, timeout_ms, topics })
    }

    /// The whole frame with its length prefix, as segments to be written one behind the other; records are
    /// not copied.
    pub fn encode(&self, header: &RequestHeader) -> Result<Vec<Bytes>, WireError> {
        let flexible = check_version(header.api_version)?;
        let mut segments = Segments::new(flexible);
        segments.writer.raw(&frame::request_head(header)?);
        let writer = &mut segments.writer;
        writer.nullable_string("transactional_id", self.transactional_id.as_deref())?;
        writer.i16(self.acks);
        writer.i32(self.timeout_ms);
        writer.array("topics", self.topics.len())?;
        for topic in &self.topics {
            segments.writer.string("topic name", &topic.name)?;
            segments.writer.array("partitions", topic.partitions.len())?;
            for partition in &topic.partitions {
                segments.writer.i32(partition.index);
                segments.records(partition.records.as_ref().map(std::slice::from_ref))?;
                segments.writer.no_tagged_fields();
            }
            segments.writer.no_tagged_fields();
        }
        segments.writer.no_tagged_fields();
        segments.finish()
    }
}

/// What became of each partition of a Produce request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProduceResponse {
    pub topics: Vec<TopicProduceResponse>,
    pub throttle_time_ms: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicProduceResponse {
    pub name: TopicName,
    pub partitions: Vec<PartitionProduceResponse>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionProduceResponse {
    pub index: i32,
    pub error_code: ErrorCode,
    /// Offset of the first record; -1 with an error.
    pub base_offset: i64,
    /// Broker's time, if the topic has `LogAppendTime`; else -1.
    pub log_append_time_ms: i64,
    /// -1 if unknown (or before version 5).
    pub log_start_offset: i64,
    /// Which records are to blame (version 8).
    pub record_errors: Vec<RecordError>,
    /// The error in words (version 8).
    pub error_message: Option<StrBytes>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordError {
    /// Index of the record in its batch.
    pub batch_index: i32,
    pub message: Option<StrBytes>,
}

impl PartitionProduceResponse {
    /// A partition whose records are stored.
    pub fn stored(
        index: i32,
        base_offset: i64,
        log_append_time_ms: i64,
        log_start_offset: i64,
    ) -> Self {
        Self {
            index,
            error_code: ErrorCode::NONE,
            base_offset,
            log_append_time_ms,
            log_start_offset,
            record_errors: Vec::new(),
            error_message: None,
        }
    }

    /// A partition whose records are refused.
    pub fn refused(index: i32, error_code: ErrorCode, error_message: Option<String>) -> Self {
        Self {
            index,
            error_code,
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: error_message.map(StrBytes::from_string),
        }
    }
}

impl ProduceResponse {
    /// The whole frame with its length prefix. Texts that a version has no field for are left out.
    pub fn encode(&self, version: i16, correlation_id: i32) -> Result<Bytes, WireError> {
        let flexible = check_version(version)?;
        let mut writer = Writer::with_capacity(flexible, 128);
        writer.i32(0); // the length prefix, known at the end
        writer.raw(&frame::response_head(API, version, correlation_id));
        writer.array("topics", self.topics.len())?;
        for topic in &self.topics {
            writer.string("topic name", &topic.name)?;
            writer.array("partitions", topic.partitions.len())?;
            for partition in &topic.partitions {
                partition.encode(version, &mut writer)?;
            }
            writer.no_tagged_fields();
        }
        writer.i32(self.throttle_time_ms);
        writer.no_tagged_fields();
        writer.finish_frame()
    }

    /// Reads a response frame: (correlation id, response).
    pub fn decode(frame: Bytes, version: i16) -> Result<(i32, Self), WireError> {
        let flexible = check_version(version)?;
        let (correlation_id, body) = frame::split_response(API, version, frame)?;
        let mut reader = Reader::new(body, flexible);
        let count = reader.array("topics", if flexible { 3 } else { 6 })?;
        let mut topics = Vec::with_capacity(count);
        for _ in 0..count {
            let name = TopicName(reader.string("topic name")?);
            // index, error_code, base_offset, log_append_time_ms are always there.
            let count = reader.array("partitions", 22)?;
            let mut partitions = Vec::with_capacity(count);
            for _ in 0..count {
                partitions.push(PartitionProduceResponse::decode(version, &mut reader)?);
            }
            reader.skip_tagged_fields("topic tags")?;
            topics.push(TopicProduceResponse { name, partitions });
        }
        let throttle_time_ms = reader.i32("throttle_time_ms")?;
        reader.skip_tagged_fields("response tags")?;
        reader.finish("the Produce response")?;
        Ok((correlation_id, Self { topics, throttle_time_ms }))
    }
}

impl PartitionProduceResponse {
    fn encode(&self, version: i16, writer: &mut Writer) -> Result<(), WireError> {
        writer.i32(self.index);
        writer.i16(self.error_code.code());
        writer.i64(self.base_offset);
        writer.i64(self.log_append_time_ms);
        if version >= 5 {
            writer.i64(self.log_start_offset);
        }
        if version >= 8 {
            writer.array("record_errors", self.record_errors.len())?;
            for error in &self.record_errors {
                writer.i32(error.batch_index);
                writer.nullable_string("record error", error.message.as_deref())?;
                writer.no_tagged_fields();
            }
            writer.nullable_string("error_message", self.error_message.as_deref())?;
        }
        writer.no_tagged_fields();
        Ok(())
    }

    fn decode(version: i16, reader: &mut Reader) -> Result<Self, WireError> {
        let index = reader.i32("partition index")?;
        let error_code = ErrorCode::from(reader.i16("error_code")?);
        let base_offset = reader.i64("base_offset")?;
        let log_append_time_ms = reader.i64("log_append_time_ms")?;
        let log_start_offset = if version >= 5 { reader.i64("log_start_offset")? } else { -1 };
        let mut record_errors = Vec::new();
        let mut error_message = None;
        if version >= 8 {
            for _ in 0..reader.array("record_errors", 5)? {
                let batch_index = reader.i32("batch_index")?;
                let message = reader.nullable_string("record error")?;
                reader.skip_tagged_fields("record error tags")?;
                record_errors.push(RecordError { batch_index, message });
            }
            error_message = reader.nullable_string("error_message")?;
        }
        reader.skip_tagged_fields("partition tags")?;
        Ok(Self {
            index,
            error_code,
            base_offset,
            log_append_time_ms,
            log_start_offset,
            record_errors,
            error_message,
        })
    }
}

fn check_version(version: i16) -> Result<bool, WireError> {
    frame::check_accepted(API, version)?;
    Ok(API.is_flexible(version))
}

/// Collects a frame whose records are sent from where they are.
pub(crate) struct Segments {
    pub(crate) writer: Writer,
    done: Vec<Bytes>,
    done_bytes: usize,
}

impl Segments {
    pub(crate) fn new(flexible: bool) -> Self {
        Self { writer: Writer::with_capacity(flexible, 512), done: Vec::new(), done_bytes: 0 }
    }

    /// A records field: its length, then the pieces themselves as segments of their own.
    pub(crate) fn records(&mut self, records: Option<&[Bytes]>) -> Result<(), WireError> {
        let size = records.map(|pieces| pieces.iter().map(Bytes::len).sum());
        self.writer.nullable_bytes_length("records", size)?;
        for piece in records.unwrap_or_default().iter().filter(|piece| !piece.is_empty()) {
            let head = self.writer.split();
            self.push(head);
            self.push(piece.clone());
        }
        Ok(())
    }

    fn push(&mut self, segment: Bytes) {
        if !segment.is_empty() {
            self.done_bytes += segment.len();
            self.done.push(segment);
        }
    }

    /// The segments with the length prefix as the first one.
    pub(crate) fn finish(mut self) -> Result<Vec<Bytes>, WireError> {
        let tail = self.writer.split();
        self.push(tail);
        let mut prefix = BytesMut::with_capacity(frame::LENGTH_PREFIX);
        prefix.put_i32(frame::length_prefix(self.done_bytes)?);
        self.done.insert(0, prefix.freeze());
        Ok(self.done)
    }
}

#[cfg(test)]
mod tests;
