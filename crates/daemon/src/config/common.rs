//! The two sections that every daemon's file has: `admin` and `logging`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::Problems;

/// `admin: { address: "127.0.0.1:9644" }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where /livez, /readyz, /metrics and /status are served. Loopback only: they are not authenticated.
    pub address: SocketAddr,
}

impl AdminConfig {
    /// The default of a program: its own port on loopback.
    pub const fn on_port(port: u16) -> AdminConfig {
        let loopback = std::net::Ipv4Addr::LOCALHOST;
        AdminConfig { address: SocketAddr::new(std::net::IpAddr::V4(loopback), port) }
    }

    /// Adds what is wrong with it.
    pub fn check(&self, problems: &mut Problems) {
        if !self.address.ip().is_loopback() {
            problems.at(
                "admin.address",
                format!(
                    "{} is not a loopback address, and the admin port has no authentication; write 127.0.0.1:{}",
                    self.address,
                    self.address.port()
                ),
            );
        }
    }
}

/// `logging: { format: text, level: info }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoggingConfig {
    pub format: LogFormat,
    /// A level, or levels by module: `info,tailway_broker=debug`.
    pub level: String,
}

impl Default for LoggingConfig {
    fn default() -> LoggingConfig {
        LoggingConfig { format: LogFormat::Text, level: "info".to_owned() }
    }
}

impl LoggingConfig {
    /// Adds what is wrong with it.
    pub fn check(&self, problems: &mut Problems) {
        if let Err(error) = crate::logging::parse_level(&self.level) {
            problems.at("logging.level", error.to_string());
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}
