//! The `sinks` section as it is typed. Which keys a sink of which type has is `sinks`' business.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_daemon::config::secret::RawSecret;
use tailway_daemon::units::{ByteSize, Span};

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
