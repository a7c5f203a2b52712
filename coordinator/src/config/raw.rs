//! The coordinator's configuration as it is typed. Every section has defaults; unknown keys are refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::units::Span;

/// The admin port of a coordinator that says nothing else.
pub const ADMIN_PORT: u16 = 9645;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawConfig {
    pub coordinator: RawCoordinator,
    pub brokers: RawBrokers,
    pub topics: RawTopics,
    pub limits: RawLimits,
    pub admin: AdminConfig,
    pub logging: LoggingConfig,
}

/// Who this coordinator is, where its data lies and where brokers reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawCoordinator {
    pub id: u64,
    pub cluster_id: String,
    pub data_dir: PathBuf,
    pub listen: String,
    pub tls: RawTls,
    pub enrollment: RawEnrollment,
    /// The quorum, this coordinator included; empty for this one alone.
    pub voters: Vec<RawVoter>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// How hosts become members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEnrollment {
    /// Where hosts with a token connect; empty for nowhere.
    pub listen: String,
    pub certificate_lifetime: Span,
}

/// One member of the quorum.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVoter {
    pub id: u64,
    pub address: String,
}

/// How brokers are watched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawBrokers {
    pub session_timeout: Span,
}

/// What topics get that do not say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawTopics {
    pub default_partitions: i32,
    pub offsets_topic_partitions: i32,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawLimits {
    pub connections: usize,
}

impl Default for RawConfig {
    fn default() -> RawConfig {
        RawConfig {
            coordinator: RawCoordinator::default(),
            brokers: RawBrokers::default(),
            topics: RawTopics::default(),
            limits: RawLimits::default(),
            admin: AdminConfig::on_port(ADMIN_PORT),
            logging: LoggingConfig::default(),
        }
    }
}

impl Default for RawCoordinator {
    fn default() -> RawCoordinator {
        RawCoordinator {
            id: 0,
            cluster_id: String::new(),
            data_dir: "/var/lib/tailway/coordinator".into(),
            listen: "127.0.0.1:9190".into(),
            tls: RawTls::default(),
            enrollment: RawEnrollment::default(),
            voters: Vec::new(),
        }
    }
}

impl Default for RawTls {
    fn default() -> RawTls {
        RawTls {
            ca: "/etc/tailway/tls/ca.pem".into(),
            cert: "/etc/tailway/tls/coordinator.pem".into(),
            key: "/etc/tailway/tls/coordinator.key".into(),
        }
    }
}

impl Default for RawEnrollment {
    fn default() -> RawEnrollment {
        RawEnrollment {
            listen: String::new(),
            certificate_lifetime: Span::from_secs(365 * 24 * 3_600),
        }
    }
}

impl Default for RawBrokers {
    fn default() -> RawBrokers {
        RawBrokers { session_timeout: Span::from_secs(9) }
    }
}

impl Default for RawTopics {
    fn default() -> RawTopics {
        RawTopics { default_partitions: 1, offsets_topic_partitions: 8 }
    }
}

impl Default for RawLimits {
    fn default() -> RawLimits {
        RawLimits { connections: 256 }
    }
}
