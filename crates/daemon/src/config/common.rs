//! The two sections that every daemon's file has: `admin` and `logging`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{ClientAuth, HostPort, PeerIdentity, ServerTls, ServerTlsFiles};

use super::Problems;
use crate::metrics_listener::MetricsListener;

/// `admin: { address: "127.0.0.1:9644" }`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    /// Where /livez, /readyz, /metrics and /status are served. Loopback only: they are not authenticated.
    pub address: SocketAddr,
    #[serde(default)]
    pub metrics: RawMetricsListener,
}

/// `metrics: { listen: "0.0.0.0:9744" }`: for a Prometheus on another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawMetricsListener {
    /// Empty: nowhere.
    pub listen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<RawMetricsTls>,
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawMetricsTls {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// What a program has of its own for [`RawMetricsListener::check`].
#[derive(Clone, Debug, Default)]
pub struct OwnTls {
    /// A certificate for servers, if it has one.
    pub server: Option<RawMetricsTls>,
    /// The cluster that it belongs to.
    pub cluster: Option<String>,
}

impl OwnTls {
    /// Of a program whose certificate is in `cert`: the cluster that it names.
    pub fn cluster_in(cert: Option<&std::path::Path>) -> Option<String> {
        let chain = read_certificates(TlsFile::Certificate, cert?).ok()?;
        let identity = PeerIdentity::from_certificate(chain.first()?)?;
        Some(identity.spiffe?.cluster)
    }
}

impl RawMetricsListener {
    /// What it means, if anything; adds what is wrong with it.
    pub fn check(&self, own: OwnTls, problems: &mut Problems) -> Option<MetricsListener> {
        if self.listen.is_empty() {
            if self.tls.is_some() {
                problems.at(
                    "admin.metrics.tls",
                    "nothing listens with it: write admin.metrics.listen, for example 0.0.0.0:9744, or remove it",
                );
            }
            return None;
        }
        let listen = self.listen.parse::<HostPort>();
        if let Err(error) = &listen {
            problems.at("admin.metrics.listen", error);
        }
        if own.cluster.is_none() {
            problems.at(
                "admin.metrics.listen",
                "this program's own certificate names no cluster, so nobody could be let in: enrol it (tailway enroll), or leave this empty",
            );
        }
        let is_own = self.tls.is_none();
        let Some(files) = self.tls.clone().or(own.server) else {
            problems.at(
                "admin.metrics.listen",
                "this program's own certificate is for clients only: name one for servers, as admin.metrics.tls: {ca: FILE, cert: FILE, key: FILE}",
            );
            return None;
        };
        let loaded = ServerTls::load(&ServerTlsFiles {
            cert: files.cert.clone(),
            key: files.key.clone(),
            client_ca: Some(files.ca.clone()),
            client_auth: ClientAuth::Required,
        });
        match loaded {
            Ok(tls) => Some(MetricsListener { listen: listen.ok()?, tls, cluster: own.cluster? }),
            Err(error) => {
                // What is wrong with the program's own is said where that is configured.
                if !is_own {
                    problems.at(&format!("admin.metrics.tls{}", error.config_key()), &error);
                }
                None
            }
        }
    }
}

impl AdminConfig {
    /// The default of a program: its own port on loopback.
    pub const fn on_port(port: u16) -> AdminConfig {
        let loopback = std::net::Ipv4Addr::LOCALHOST;
        let metrics = RawMetricsListener { listen: String::new(), tls: None };
        AdminConfig { address: SocketAddr::new(std::net::IpAddr::V4(loopback), port), metrics }
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
