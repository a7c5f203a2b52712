//! The agent's configuration as it is typed.
//!
//! Every section has defaults, so that one mistake does not hide the others. Unknown keys are
//! refused. What the values mean together is `Config`'s business; nothing else reads these
//! structures, except those that write such a file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::units::{ByteSize, Span};
use tailway_wire::record::Compression;

use crate::event::Format;

/// The admin port of an agent that says nothing else.
pub const ADMIN_PORT: u16 = 9646;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub agent: RawAgent,
    pub output: RawOutput,
    pub inputs: Vec<RawInput>,
    pub metrics: RawMetrics,
    pub admin: AdminConfig,
    pub logging: LoggingConfig,
}

impl RawConfig {
    /// With the values in force where none is written, because another key decides.
    #[must_use]
    pub fn filled(mut self) -> RawConfig {
        for input in &mut self.inputs {
            input.topic.get_or_insert_with(|| self.output.topic.clone());
        }
        self
    }
}

/// Who this agent is and what it may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawAgent {
    pub data_dir: PathBuf,
    /// `host.name` of the events; empty: the host's name.
    pub name: String,
    /// The Beats version that events carry.
    pub beat_version: String,
    pub spool: ByteSize,
    pub rescan_interval: Span,
    pub forget_after: Span,
}

/// Where events go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawOutput {
    pub brokers: Vec<String>,
    pub topic: String,
    pub compression: Codec,
    pub batch_size: ByteSize,
    pub linger: Span,
    pub request_timeout: Span,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawTls>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
}

/// PEM files, and the name to expect in the broker's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    pub ca: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    #[default]
    Zstd,
}

impl Codec {
    /// As record batches name it.
    pub fn compression(self) -> Compression {
        match self {
            Codec::None => Compression::None,
            Codec::Gzip => Compression::Gzip,
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4,
            Codec::Zstd => Compression::Zstd,
        }
    }
}

/// Files that are followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawInput {
    #[serde(rename = "type")]
    pub kind: InputType,
    pub id: String,
    pub paths: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    pub start: Start,
    pub format: Format,
    /// `output.topic` if it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    pub line_size: ByteSize,
}

/// The inputs there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    #[default]
    Filestream,
}

/// Where files are read from that were there before the input was first started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    #[default]
    Beginning,
    End,
}

/// The host's own metrics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetrics {
    pub enabled: bool,
    pub interval: Span,
    pub topic: String,
    pub metricsets: Vec<Metricset>,
}

/// What can be sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metricset {
    Cpu,
    Load,
    Memory,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            agent: RawAgent::default(),
            output: RawOutput { tls: Some(RawTls::installed()), ..RawOutput::default() },
            inputs: vec![RawInput {
                id: "logs".to_owned(),
                paths: vec!["/var/log/*.log".to_owned()],
                ..RawInput::default()
            }],
            metrics: RawMetrics::default(),
            admin: AdminConfig::on_port(ADMIN_PORT),
            logging: LoggingConfig::default(),
        }
    }
}

impl Default for RawAgent {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("/var/lib/tailway/agent"),
            name: String::new(),
            beat_version: "8.14.4".to_owned(),
            spool: ByteSize(8 << 20),
            rescan_interval: Span::from_secs(30),
            forget_after: Span::from_secs(7 * 86_400),
        }
    }
}

impl Default for RawOutput {
    fn default() -> Self {
        Self {
            brokers: vec!["127.0.0.1:9093".to_owned()],
            topic: "logs".to_owned(),
            compression: Codec::Zstd,
            batch_size: ByteSize(512 << 10),
            linger: Span::from_millis(5),
            request_timeout: Span::from_secs(30),
            tls: None,
            insecure: false,
        }
    }
}

impl RawTls {
    /// Where the packages put them.
    fn installed() -> Self {
        Self {
            ca: PathBuf::from("/etc/tailway/tls/ca.pem"),
            cert: Some(PathBuf::from("/etc/tailway/tls/agent.pem")),
            key: Some(PathBuf::from("/etc/tailway/tls/agent.key")),
            server_name: None,
        }
    }
}

impl Default for RawInput {
    fn default() -> Self {
        Self {
            kind: InputType::Filestream,
            id: String::new(),
            paths: Vec::new(),
            exclude: Vec::new(),
            start: Start::Beginning,
            format: Format::Ecs,
            topic: None,
            line_size: ByteSize(256 << 10),
        }
    }
}

impl Default for RawMetrics {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Span::from_secs(10),
            topic: "metrics".to_owned(),
            metricsets: vec![Metricset::Cpu, Metricset::Load, Metricset::Memory],
        }
    }
}
