//! The broker's configuration, checked: what was typed and what it means.
//!
//! `RawConfig` is the file; `Config` has no hidden defaults, no strings that still need reading, and its TLS material
//! is loaded. All problems of a file come at once, each with its position and what to write instead.
//! Invariant: a plaintext listener exists only where `insecure: true` says so.

mod raw;
mod raw_sinks;
mod sinks;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tailway_daemon::config::common::{AdminConfig, LoggingConfig, OwnTls, RawMetricsTls};
use tailway_daemon::{MetricsListener, Problems};
use tailway_metadata::BrokerId;
use tailway_metadata::topic::TopicConfig;
use tailway_net::{
    ClientAuth, ClientTls, ClientTlsFiles, HostPort, Security, ServerTls, ServerTlsFiles,
};

pub use raw::{
    ADMIN_PORT, ConfigValue, Protocol, RawBroker, RawClientAuth, RawConfig, RawCoordinator,
    RawLimits, RawListener, RawLog, RawTls, RawTopics,
};
pub use raw_sinks::{RawSink, RawSinkCompression, RawSinkTls, RawStart, SinkType};
pub use sinks::{
    Auth, DEAD_SUFFIX, Host, KafkaConfig, Naming, OpenSearchConfig, SinkConfig, SinkLimits,
    SinkTarget, Start, TopicFilter,
};
pub use template::{Template, TemplateError};

/// A broker's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub broker_id: BrokerId,
    pub data_dir: PathBuf,
    pub rack: Option<String>,
    pub coordinator: CoordinatorConfig,
    pub listeners: Vec<ListenerConfig>,
    pub topics: TopicsConfig,
    pub log: LogTiming,
    pub limits: Limits,
    /// Where records are forwarded to.
    pub sinks: Vec<SinkConfig>,
    pub admin: AdminConfig,
    pub metrics_listener: Option<MetricsListener>,
    pub logging: LoggingConfig,
}

/// Where the coordinator is and how to prove who we are.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    pub addresses: Vec<HostPort>,
    pub tls: ClientTls,
    pub request_timeout: Duration,
}

/// One listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    pub name: String,
    pub address: HostPort,
    pub security: Security,
    pub advertise: Advertise,
    pub connections: usize,
}

/// What clients are told to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// The bound address; behind a wildcard, this host's address on its default route.
    Auto,
    Explicit(HostPort),
}

/// How topics come to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicsConfig {
    pub auto_create: bool,
    /// Topic configs of topics that do not set them, by Kafka's names. Valid.
    pub defaults: BTreeMap<String, String>,
}

/// Housekeeping of the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTiming {
    pub retention_check_interval: Duration,
    pub producer_id_expiration: Duration,
    /// Bytes held back on the disk for commits and deletions.
    pub disk_reserve: u64,
}

/// Bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub connections: usize,
    pub request_size: usize,
    pub request_memory: usize,
    pub response_memory: usize,
    pub fetch_size: usize,
    pub requests_in_flight: usize,
    pub idle_timeout: Duration,
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    pub handshake_timeout: Duration,
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
        if raw.broker.id < 0 {
            found
                .at("broker.id", format!("{} is negative; write any number from 0", raw.broker.id));
        }
        if raw.broker.data_dir.as_os_str().is_empty() {
            found.at(
                "broker.data_dir",
                "it is empty; write a directory, as /var/lib/tailway/broker",
            );
        }
        let RawTls { ca, cert, key } = raw.coordinator.tls.clone();
        let cluster = OwnTls::cluster_in(Some(&cert));
        let server = ca.map(|ca| RawMetricsTls { ca, cert, key });
        let metrics_listener = raw.admin.metrics.check(OwnTls { server, cluster }, found);
        let coordinator = check_coordinator(raw.coordinator, found);
        let limits = check_limits(&raw.limits, found);
        let listeners = check_listeners(raw.listeners, &limits, found);
        let topics = check_topics(raw.topics, found);
        let log = check_log(&raw.log, found);
        let sinks = sinks::check_sinks(raw.sinks, found);
        let Some(coordinator) = coordinator else {
            return Err(problems);
        };
        problems.finish(Config {
            broker_id: BrokerId(raw.broker.id),
            data_dir: raw.broker.data_dir,
            rack: raw.broker.rack,
            coordinator,
            listeners,
            topics,
            log,
            limits,
            sinks,
            admin: raw.admin,
            metrics_listener,
            logging: raw.logging,
        })
    }
}

fn check_coordinator(raw: RawCoordinator, problems: &mut Problems) -> Option<CoordinatorConfig> {
    let mut addresses = Vec::new();
    for (i, text) in raw.addresses.iter().enumerate() {
        match text.parse::<HostPort>() {
            Ok(address) => addresses.push(address),
            Err(error) => problems.at(&format!("coordinator.addresses[{i}]"), error),
        }
    }
    if raw.addresses.is_empty() {
        problems.at("coordinator.addresses", "it is empty; write [\"127.0.0.1:9190\"]");
    }
    if raw.request_timeout.as_millis() == 0 {
        problems.at("coordinator.request_timeout", "0 lets no request succeed; write 5s");
    }
    let tls = raw.tls;
    let Some(ca) = tls.ca.filter(|path| !path.as_os_str().is_empty()) else {
        problems.at("coordinator.tls", "ca is missing; name the PEM file of the cluster's CA");
        return None;
    };
    if names_nothing("coordinator.tls", &tls.cert, &tls.key, problems) {
        return None;
    }
    let files = ClientTlsFiles { ca, cert: Some(tls.cert), key: Some(tls.key), server_name: None };
    match ClientTls::load(&files) {
        Ok(tls) => Some(CoordinatorConfig {
            addresses,
            tls,
            request_timeout: raw.request_timeout.duration(),
        }),
        Err(error) => {
            problems.at(&format!("coordinator.tls{}", error.config_key()), error);
            None
        }
    }
}

fn check_listeners(
    raw: Vec<RawListener>,
    limits: &Limits,
    problems: &mut Problems,
) -> Vec<ListenerConfig> {
    if raw.is_empty() {
        problems.at("listeners", "there is none, so no client could connect; add one");
    }
    let mut names = BTreeSet::new();
    let mut listeners = Vec::new();
    for (i, listener) in raw.into_iter().enumerate() {
        let path = format!("listeners[{i}]");
        if !is_listener_name(&listener.name) {
            problems.at(
                &format!("{path}.name"),
                format!(
                    "{:?} is no listener name; write 1 to 32 of a-z, 0-9, - and _",
                    listener.name
                ),
            );
        }
        if !names.insert(listener.name.clone()) {
            problems.at(&format!("{path}.name"), format!("{:?} is there twice", listener.name));
        }
        if let Some(listener) = check_listener(listener, &path, limits, problems) {
            listeners.push(listener);
        }
    }
    listeners
}

fn check_listener(
    raw: RawListener,
    path: &str,
    limits: &Limits,
    problems: &mut Problems,
) -> Option<ListenerConfig> {
    let address: Option<HostPort> =
        raw.address.parse().map_err(|error| problems.at(&format!("{path}.address"), error)).ok();
    let advertise = check_advertise(&raw, address.as_ref(), path, problems);
    let connections = raw.connections.unwrap_or(limits.connections);
    if connections == 0 {
        problems.at(&format!("{path}.connections"), "0 lets nobody in; write a number from 1");
    }
    let security = match raw.protocol {
        Protocol::Plaintext => check_plaintext(&raw, path, problems),
        Protocol::Tls => check_tls(raw.client_auth, raw.insecure, raw.tls, path, problems),
    };
    Some(ListenerConfig {
        name: raw.name,
        address: address?,
        security: security?,
        advertise: advertise?,
        connections,
    })
}

fn check_plaintext(raw: &RawListener, path: &str, problems: &mut Problems) -> Option<Security> {
    if !raw.insecure {
        problems.at(
            &format!("{path}.protocol"),
            "plaintext lets everybody on the way read and change everything; write protocol: tls, or add \
             insecure: true to say that you know",
        );
    }
    if raw.tls.is_some() {
        problems.at(&format!("{path}.tls"), "a plaintext listener has no TLS; remove it");
    }
    if raw.client_auth.is_some() {
        problems.at(
            &format!("{path}.client_auth"),
            "a plaintext listener sees no certificates; remove it",
        );
    }
    raw.insecure.then_some(Security::Plaintext)
}

fn check_tls(
    client_auth: Option<RawClientAuth>,
    insecure: bool,
    tls: Option<RawTls>,
    path: &str,
    problems: &mut Problems,
) -> Option<Security> {
    if insecure {
        problems.at(&format!("{path}.insecure"), "a TLS listener is not insecure; remove it");
    }
    let Some(tls) = tls else {
        problems.at(path, "tls is missing; write tls: { ca: FILE, cert: FILE, key: FILE }");
        return None;
    };
    let at = format!("{path}.tls");
    let client_auth = match client_auth.unwrap_or(RawClientAuth::Required) {
        RawClientAuth::None => ClientAuth::None,
        RawClientAuth::Optional => ClientAuth::Optional,
        RawClientAuth::Required => ClientAuth::Required,
    };
    if client_auth != ClientAuth::None && tls.ca.is_none() {
        problems.at(&at, "ca is missing; name the CA that client certificates are checked with, or write client_auth: none");
        return None;
    }
    if names_nothing(&at, &tls.cert, &tls.key, problems) {
        return None;
    }
    let files = ServerTlsFiles { cert: tls.cert, key: tls.key, client_ca: tls.ca, client_auth };
    ServerTls::load(&files)
        .map(Security::Tls)
        .map_err(|error| problems.at(&format!("{at}{}", error.config_key()), error))
        .ok()
}

fn check_advertise(
    raw: &RawListener,
    address: Option<&HostPort>,
    path: &str,
    problems: &mut Problems,
) -> Option<Advertise> {
    if raw.advertise == "auto" {
        return Some(Advertise::Auto);
    }
    let path = format!("{path}.advertise");
    let advertised: HostPort = match raw.advertise.parse() {
        Ok(advertised) => advertised,
        Err(error) => {
            problems.at(&path, format!("{error}, or write auto"));
            return None;
        }
    };
    let bound_to_loopback = address.is_some_and(|address| is_loopback(&address.host));
    if advertised.ip().is_some_and(|ip| ip.is_unspecified()) {
        problems.at(
            &path,
            format!(
                "no client can connect to {advertised}; write the name or address that clients use"
            ),
        );
    } else if advertised.port == 0 {
        problems.at(&path, "no client can connect to port 0; write the port that clients use");
    } else if is_loopback(&advertised.host) && !bound_to_loopback {
        problems.at(
            &path,
            format!("clients on other hosts would connect to themselves at {advertised}; write the name or address they use"),
        );
    }
    Some(Advertise::Explicit(advertised))
}

/// Whether a host means this host only, whatever the resolver says.
pub(crate) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn is_listener_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

/// Reports a missing certificate or key.
fn names_nothing(path: &str, cert: &Path, key: &Path, problems: &mut Problems) -> bool {
    for (name, file) in [("cert", cert), ("key", key)] {
        if file.as_os_str().is_empty() {
            problems.at(path, format!("{name} is missing; name the PEM file"));
        }
    }
    cert.as_os_str().is_empty() || key.as_os_str().is_empty()
}

fn check_topics(raw: RawTopics, problems: &mut Problems) -> TopicsConfig {
    let defaults: BTreeMap<String, String> = raw
        .defaults
        .into_iter()
        .map(|(key, value)| match value {
            ConfigValue::Number(number) => (key, number.to_string()),
            ConfigValue::Text(text) => (key, text),
        })
        .collect();
    for (key, value) in &defaults {
        let one = BTreeMap::from([(key.clone(), value.clone())]);
        if let Err(error) = TopicConfig::from_overrides(&one) {
            problems.at("topics.defaults", error);
        }
    }
    TopicsConfig { auto_create: raw.auto_create, defaults }
}

fn check_log(raw: &RawLog, problems: &mut Problems) -> LogTiming {
    for (key, value, example) in [
        ("retention_check_interval", raw.retention_check_interval, "5m"),
        ("producer_id_expiration", raw.producer_id_expiration, "1d"),
    ] {
        if value.as_millis() == 0 {
            problems
                .at(&format!("log.{key}"), format!("0 is too short; write for example {example}"));
        }
    }
    LogTiming {
        retention_check_interval: raw.retention_check_interval.duration(),
        producer_id_expiration: raw.producer_id_expiration.duration(),
        disk_reserve: raw.disk_reserve.0,
    }
}

fn check_limits(raw: &RawLimits, problems: &mut Problems) -> Limits {
    for (key, value) in
        [("connections", raw.connections), ("requests_in_flight", raw.requests_in_flight)]
    {
        if !(1..=100_000).contains(&value) {
            problems.at(&format!("limits.{key}"), format!("{value} is not from 1 to 100000"));
        }
    }
    for (key, value, least) in [
        ("request_size", raw.request_size.bytes(), 64 << 10),
        ("fetch_size", raw.fetch_size.bytes(), 64 << 10),
        ("request_memory", raw.request_memory.bytes(), raw.request_size.bytes()),
        ("response_memory", raw.response_memory.bytes(), raw.fetch_size.bytes()),
    ] {
        if !(least..=1 << 30).contains(&value) {
            let least = tailway_daemon::units::ByteSize(least);
            problems.at(&format!("limits.{key}"), format!("it is not from {least} to 1GiB"));
        }
    }
    for (key, value) in [
        ("idle_timeout", raw.idle_timeout),
        ("read_timeout", raw.read_timeout),
        ("write_timeout", raw.write_timeout),
        ("handshake_timeout", raw.handshake_timeout),
    ] {
        if value.as_millis() == 0 {
            problems.at(
                &format!("limits.{key}"),
                "0 would close every connection; write for example 30s",
            );
        }
    }
    Limits {
        connections: raw.connections,
        request_size: raw.request_size.as_usize(),
        request_memory: raw.request_memory.as_usize(),
        response_memory: raw.response_memory.as_usize(),
        fetch_size: raw.fetch_size.as_usize(),
        requests_in_flight: raw.requests_in_flight,
        idle_timeout: raw.idle_timeout.duration(),
        read_timeout: raw.read_timeout.duration(),
        write_timeout: raw.write_timeout.duration(),
        handshake_timeout: raw.handshake_timeout.duration(),
    }
}
