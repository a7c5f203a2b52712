//! The coordinator's configuration, checked: what was typed and what it means. All problems of a file come at once.

mod raw;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use tailway_daemon::config::common::{AdminConfig, LoggingConfig, OwnTls, RawMetricsTls};
use tailway_daemon::{MetricsListener, Problems};
use tailway_metadata::ClusterId;
use tailway_net::{ClientAuth, HostPort, ServerTls, ServerTlsFiles};

use crate::machine::Settings;
use crate::machine::topics::PARTITIONS_PER_REQUEST_MAX;

pub use raw::{
    ADMIN_PORT, RawBrokers, RawConfig, RawCoordinator, RawEnrollment, RawLimits, RawTls, RawTopics,
    RawVoter,
};

/// A session shorter than this fences brokers that are only busy.
const SESSION_TIMEOUT_MS_MIN: u64 = 1_000;
const SESSION_TIMEOUT_MS_MAX: u64 = 600_000;
const CONNECTIONS_MAX: usize = 100_000;
/// Shorter is for tests: it cannot be renewed in time on a busy host.
const LIFETIME_MS_MIN: u64 = 10_000;
const LIFETIME_MS_MAX: u64 = 1_095 * 24 * 3_600_000;

/// A coordinator's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub id: u64,
    pub data_dir: PathBuf,
    pub listen: HostPort,
    pub tls: ServerTls,
    /// The PEM files of `tls`.
    pub tls_files: RawTls,
    /// Where hosts with a token connect.
    pub enrollment: Option<HostPort>,
    pub certificate_lifetime: Duration,
    pub connections: usize,
    pub settings: Settings,
    pub admin: AdminConfig,
    pub metrics_listener: Option<MetricsListener>,
    pub logging: LoggingConfig,
}

impl Config {
    /// Reads and checks a file; all problems at once.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        let (raw, problems) = tailway_daemon::config::load::<RawConfig>(path)?;
        Config::check(raw, problems)
    }

    /// Turns what was typed into what it means, or says everything that is wrong with it.
    pub fn check(raw: RawConfig, mut problems: Problems) -> Result<Config, Problems> {
        let found = &mut problems;
        raw.admin.check(found);
        raw.logging.check(found);
        check_voters(&raw.coordinator, found);
        let settings = check_settings(&raw, found);
        let coordinator = raw.coordinator;
        if coordinator.data_dir.as_os_str().is_empty() {
            found.at(
                "coordinator.data_dir",
                "it is empty; write a directory, as /var/lib/tailway/coordinator",
            );
        }
        if !(1..=CONNECTIONS_MAX).contains(&raw.limits.connections) {
            found.at("limits.connections", format!("write a number from 1 to {CONNECTIONS_MAX}"));
        }
        let listen = coordinator.listen.parse::<HostPort>();
        if let Err(error) = &listen {
            found.at("coordinator.listen", error);
        }
        let tls = check_tls(&coordinator.tls, found);
        let (enrollment, certificate_lifetime) = check_enrollment(&coordinator.enrollment, found);
        let RawTls { ca, cert, key } = coordinator.tls.clone();
        let own = OwnTls {
            server: Some(RawMetricsTls { ca, cert, key }),
            cluster: Some(coordinator.cluster_id.clone()),
        };
        let metrics_listener = raw.admin.metrics.check(own, found);
        let (Ok(listen), Some(tls)) = (listen, tls) else { return Err(problems) };
        problems.finish(Config {
            id: coordinator.id,
            data_dir: coordinator.data_dir,
            listen,
            tls,
            tls_files: coordinator.tls,
            enrollment,
            certificate_lifetime,
            connections: raw.limits.connections,
            settings,
            admin: raw.admin,
            metrics_listener,
            logging: raw.logging,
        })
    }
}

fn check_voters(raw: &RawCoordinator, problems: &mut Problems) {
    match raw.voters.as_slice() {
        [] => {}
        [only] if only.id != raw.id => problems.at(
            "coordinator.voters[0].id",
            format!("the only voter is {}, but this is coordinator {}", only.id, raw.id),
        ),
        [only] => {
            if let Err(error) = only.address.parse::<HostPort>() {
                problems.at("coordinator.voters[0].address", error);
            }
        }
        more => problems.at(
            "coordinator.voters",
            format!(
                "{} voters are listed, but a quorum of more than one is not supported yet; list this coordinator alone, or write []",
                more.len()
            ),
        ),
    }
}

fn check_enrollment(raw: &RawEnrollment, problems: &mut Problems) -> (Option<HostPort>, Duration) {
    let lifetime = raw.certificate_lifetime;
    if !(LIFETIME_MS_MIN..=LIFETIME_MS_MAX).contains(&lifetime.as_millis()) {
        problems.at(
            "coordinator.enrollment.certificate_lifetime",
            "write a time from 10s to 1095d; 365d is the default",
        );
    }
    let listen = match raw.listen.as_str() {
        "" => None,
        text => match text.parse::<HostPort>() {
            Ok(listen) => Some(listen),
            Err(error) => {
                problems.at("coordinator.enrollment.listen", error);
                None
            }
        },
    };
    (listen, lifetime.duration())
}

fn check_settings(raw: &RawConfig, problems: &mut Problems) -> Settings {
    let cluster_id = ClusterId(raw.coordinator.cluster_id.clone());
    if !cluster_id.is_valid() {
        problems.at(
            "coordinator.cluster_id",
            if raw.coordinator.cluster_id.is_empty() {
                "it is missing; write the cluster's id, as in its certificates (spiffe://CLUSTER-ID/coordinator/0)".to_owned()
            } else {
                format!("write 1 to {} of A-Z a-z 0-9 . _ -", ClusterId::LEN_MAX)
            },
        );
    }
    let timeout = raw.brokers.session_timeout;
    if !(SESSION_TIMEOUT_MS_MIN..=SESSION_TIMEOUT_MS_MAX).contains(&timeout.as_millis()) {
        problems.at("brokers.session_timeout", "write a time from 1s to 10m; 9s is the default");
    }
    let max = i32::try_from(PARTITIONS_PER_REQUEST_MAX).unwrap_or(i32::MAX);
    let counts = [
        ("topics.default_partitions", raw.topics.default_partitions),
        ("topics.offsets_topic_partitions", raw.topics.offsets_topic_partitions),
    ];
    for (path, count) in counts {
        if !(1..=max).contains(&count) {
            problems.at(path, format!("write a number from 1 to {max}"));
        }
    }
    Settings {
        cluster_id,
        session_timeout: timeout.duration(),
        default_partitions: raw.topics.default_partitions,
        offsets_topic_partitions: raw.topics.offsets_topic_partitions,
        first_certificates: Vec::new(),
    }
}

fn check_tls(raw: &RawTls, problems: &mut Problems) -> Option<ServerTls> {
    let mut named = true;
    for (key, path) in [("ca", &raw.ca), ("cert", &raw.cert), ("key", &raw.key)] {
        if path.as_os_str().is_empty() {
            problems.at(&format!("coordinator.tls.{key}"), "it is empty; name a PEM file");
            named = false;
        }
    }
    if !named {
        return None;
    }
    let files = ServerTlsFiles {
        cert: raw.cert.clone(),
        key: raw.key.clone(),
        client_ca: Some(raw.ca.clone()),
        client_auth: ClientAuth::Required,
    };
    match ServerTls::load(&files) {
        Ok(tls) => Some(tls),
        Err(error) => {
            problems.at(&format!("coordinator.tls{}", error.config_key()), &error);
            None
        }
    }
}
