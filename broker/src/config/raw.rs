//! The broker's configuration as it is typed.
//!
//! Every section has defaults, so that one mistake does not hide the others. Unknown keys are refused. What the values
//! mean together is `Config`'s business; nothing else reads these structures, except those that write such a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::units::{ByteSize, Span};

use super::raw_sinks::RawSink;

/// The admin port of a broker that says nothing else.
pub const ADMIN_PORT: u16 = 9644;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub broker: RawBroker,
    pub coordinator: RawCoordinator,
    pub listeners: Vec<RawListener>,
    pub topics: RawTopics,
    pub log: RawLog,
    pub limits: RawLimits,
    pub sinks: Vec<RawSink>,
    pub admin: AdminConfig,
    pub logging: LoggingConfig,
}

/// Who this broker is and where its data lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBroker {
    pub id: i32,
    pub data_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
}

/// How the coordinator is reached. Always mutual TLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCoordinator {
    pub addresses: Vec<String>,
    pub tls: RawTls,
    pub request_timeout: Span,
}

/// PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawListener {
    pub name: String,
    pub address: String,
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure: bool,
    pub advertise: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_auth: Option<RawClientAuth>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawTls>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tls,
    Plaintext,
}

/// What a TLS listener asks of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawClientAuth {
    None,
    Optional,
    Required,
}

/// How topics come to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTopics {
    /// Whether asking for a topic that does not exist creates it.
    pub auto_create: bool,
    /// Topic configs, by Kafka's names, of topics that do not set them.
    pub defaults: BTreeMap<String, ConfigValue>,
}

/// A topic config's value: `604800000` and `"delete"` are both fine to write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ConfigValue {
    Number(i64),
    Text(String),
}

/// Housekeeping of the partition logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLog {
    pub retention_check_interval: Span,
    pub producer_id_expiration: Span,
    pub disk_reserve: ByteSize,
}

/// Bounds. Each has a metric or a log line that shows when it is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    pub connections: usize,
    pub request_size: ByteSize,
    pub request_memory: ByteSize,
    pub response_memory: ByteSize,
    pub fetch_size: ByteSize,
    pub requests_in_flight: usize,
    pub idle_timeout: Span,
    pub read_timeout: Span,
    pub write_timeout: Span,
    pub handshake_timeout: Span,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            broker: RawBroker::default(),
            coordinator: RawCoordinator::default(),
            listeners: vec![RawListener {
                client_auth: Some(RawClientAuth::Required),
                tls: Some(RawTls::installed()),
                ..RawListener::default()
            }],
            topics: RawTopics::default(),
            log: RawLog::default(),
            limits: RawLimits::default(),
            sinks: Vec::new(),
            admin: AdminConfig::on_port(ADMIN_PORT),
            logging: LoggingConfig::default(),
        }
    }
}

impl RawConfig {
    /// With the values in force where none is written, because another key decides.
    #[must_use]
    pub fn filled(mut self) -> RawConfig {
        for listener in &mut self.listeners {
            let tls = listener.protocol == Protocol::Tls;
            listener.connections.get_or_insert(self.limits.connections);
            if tls {
                listener.client_auth.get_or_insert(RawClientAuth::Required);
            }
        }
        self.sinks = self.sinks.into_iter().map(RawSink::filled).collect();
        self
    }
}

impl Default for RawBroker {
    fn default() -> Self {
        Self { id: 0, data_dir: PathBuf::from("/var/lib/tailway/broker"), rack: None }
    }
}

impl Default for RawCoordinator {
    fn default() -> Self {
        Self {
            addresses: vec!["127.0.0.1:9190".to_owned()],
            tls: RawTls::installed(),
            request_timeout: Span::from_secs(5),
        }
    }
}

impl RawTls {
    /// Where the packages put them.
    fn installed() -> Self {
        Self {
            ca: Some(PathBuf::from("/etc/tailway/tls/ca.pem")),
            cert: PathBuf::from("/etc/tailway/tls/broker.pem"),
            key: PathBuf::from("/etc/tailway/tls/broker.key"),
        }
    }
}

impl Default for RawListener {
    fn default() -> Self {
        Self {
            name: "tls".to_owned(),
            address: "0.0.0.0:9093".to_owned(),
            protocol: Protocol::Tls,
            insecure: false,
            advertise: "auto".to_owned(),
            client_auth: None,
            tls: None,
            connections: None,
        }
    }
}

impl Default for RawTopics {
    fn default() -> Self {
        Self { auto_create: true, defaults: BTreeMap::new() }
    }
}

impl Default for RawLog {
    fn default() -> Self {
        Self {
            retention_check_interval: Span::from_secs(300),
            producer_id_expiration: Span::from_secs(86_400),
            disk_reserve: ByteSize::mib(64),
        }
    }
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            connections: 1_000,
            request_size: ByteSize::mib(16),
            request_memory: ByteSize::mib(32),
            response_memory: ByteSize::mib(32),
            fetch_size: ByteSize::mib(8),
            requests_in_flight: 16,
            idle_timeout: Span::from_secs(600),
            read_timeout: Span::from_secs(30),
            write_timeout: Span::from_secs(30),
            handshake_timeout: Span::from_secs(10),
        }
    }
}
