//! The `sinks` section as it is typed. Which keys a sink of which type has is `sinks`' business.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_daemon::config::secret::RawSecret;
use tailway_daemon::units::{ByteSize, Span};

/// In a Kafka sink's topic, and all of it where none is written: the name of the topic that is forwarded.
pub(super) const TOPIC: &str = "{topic}";
/// Where documents go if nothing is said.
pub(super) const DATA_STREAM: &str = "logs-{topic}-default";
pub(super) const BATCH_RECORDS: usize = 2_000;
pub(super) const REQUESTS: usize = 8;
pub(super) const MEMORY: ByteSize = ByteSize::mib(64);
pub(super) const REQUEST_TIMEOUT_S: u64 = 30;
pub(super) const PAUSE_AFTER_REJECTS: u32 = 1_000;

/// What Kafka takes by default is 1 MiB.
pub(super) fn usual_batch_size(kind: Option<SinkType>) -> ByteSize {
    if kind == Some(SinkType::Kafka) { ByteSize::kib(512) } else { ByteSize::mib(4) }
}

/// One place that records are forwarded to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSink {
    pub name: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<SinkType>,
    pub topics: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<RawStart>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub brokers: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<RawSecret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<RawSecret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawSinkTls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<RawSinkCompression>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_size: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch_records: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<Span>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_after_rejects: Option<u32>,
}

impl RawSink {
    /// With the values in force where none is written.
    #[must_use]
    pub fn filled(self) -> RawSink {
        let kafka = self.kind == Some(SinkType::Kafka);
        let unnamed = self.kind == Some(SinkType::Opensearch) && self.index.is_none();
        let data_stream = self.data_stream.or_else(|| unnamed.then(|| DATA_STREAM.to_owned()));
        let compression = match self.kind {
            Some(SinkType::Opensearch) => Some(RawSinkCompression::Gzip),
            Some(SinkType::Kafka) => Some(RawSinkCompression::Zstd),
            _ => None,
        };
        RawSink {
            data_stream,
            start: self.start.or(Some(RawStart::Earliest)),
            topic: self.topic.or_else(|| kafka.then(|| TOPIC.to_owned())),
            compression: self.compression.or(compression),
            batch_size: self.batch_size.or(Some(usual_batch_size(self.kind))),
            batch_records: self.batch_records.or(Some(BATCH_RECORDS)),
            requests: self.requests.or(Some(REQUESTS)),
            memory: self.memory.or(Some(MEMORY)),
            request_timeout: self.request_timeout.or(Some(Span::from_secs(REQUEST_TIMEOUT_S))),
            pause_after_rejects: self.pause_after_rejects.or(Some(PAUSE_AFTER_REJECTS)),
            ..self
        }
    }
}

/// What a sink is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkType {
    #[serde(alias = "elasticsearch")]
    Opensearch,
    Kafka,
    Stdout,
}

/// Where a sink begins in a partition that it has not forwarded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawStart {
    Earliest,
    Latest,
}

/// Of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawSinkCompression {
    None,
    Gzip,
    Zstd,
}

/// PEM files of a connection to a sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawSinkTls {
    pub ca: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}
