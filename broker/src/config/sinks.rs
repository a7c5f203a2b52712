//! The `sinks` section, checked.
//!
//! Invariants: a sink's name is part of its group's, so it is a short plain word and there once; a wildcard names neither
//! internal topics nor dead letters; a password leaves this host only over TLS, or not at all.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tailway_daemon::Problems;
use tailway_daemon::config::secret::SecretSource;
use tailway_daemon::units::{ByteSize, Span};
use tailway_metadata::topic;
use tailway_net::{ClientTls, ClientTlsFiles, HostPort};
use tailway_wire::record::Compression;

use super::raw_sinks::{
    BATCH_RECORDS, DATA_STREAM, MEMORY, PAUSE_AFTER_REJECTS, REQUEST_TIMEOUT_S, REQUESTS, RawSink,
    RawSinkCompression, RawSinkTls, RawStart, SinkType, TOPIC, usual_batch_size,
};
use super::template::Template;

/// What a topic of dead letters is called behind its topic's name.
pub const DEAD_SUFFIX: &str = ".dead";
/// The CAs of the system, where no `tls.ca` says otherwise (Debian, Ubuntu, Alpine; Red Hat).
const SYSTEM_CAS: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];
const NAME_LEN_MAX: usize = 32;

/// One sink.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    pub name: String,
    pub topics: TopicFilter,
    pub start: Start,
    pub limits: SinkLimits,
    pub target: SinkTarget,
}

/// Where a sink begins in a partition that it has not forwarded before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Earliest,
    Latest,
}

/// Bounds of one sink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkLimits {
    pub batch_bytes: usize,
    pub batch_records: usize,
    /// Requests under way at once, over all partitions.
    pub requests: usize,
    /// Bytes of records held, over all partitions.
    pub memory: usize,
    pub request_timeout: Duration,
    pub rejects_in_a_row_max: u32,
}

/// What a sink is.
#[derive(Clone, Debug)]
pub enum SinkTarget {
    OpenSearch(Box<OpenSearchConfig>),
    Kafka(Box<KafkaConfig>),
    Stdout,
}

/// An OpenSearch or Elasticsearch.
#[derive(Clone, Debug)]
pub struct OpenSearchConfig {
    pub hosts: Vec<Host>,
    pub naming: Naming,
    pub auth: Auth,
    pub gzip: bool,
}

/// A Kafka cluster, or what speaks its protocol.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    pub brokers: Vec<HostPort>,
    /// `{topic}` stands for the name of the topic that is forwarded.
    pub topic: String,
    pub tls: Option<ClientTls>,
    pub compression: Compression,
}

/// One of its nodes.
#[derive(Clone, Debug)]
pub struct Host {
    pub address: HostPort,
    pub tls: Option<ClientTls>,
    /// What stands before each path; empty, or `/prefix`.
    pub path: String,
}

/// Where documents go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    DataStream(Template),
    Index(Template),
}

/// How the broker says who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    None,
    Basic { username: String, password: SecretSource },
    ApiKey(SecretSource),
}

/// Which topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicFilter(Vec<String>);

impl TopicFilter {
    pub fn new(patterns: Vec<String>) -> Self {
        Self(patterns)
    }

    /// A name that is written out counts whatever it is; a wildcard leaves internal topics and dead letters alone.
    pub fn matches(&self, topic: &str) -> bool {
        let kept_apart =
            topic::is_internal(topic) || topic.starts_with("__") || topic.ends_with(DEAD_SUFFIX);
        self.0.iter().any(|pattern| {
            pattern == topic || (!kept_apart && is_glob(pattern) && glob_matches(pattern, topic))
        })
    }
}

impl SinkTarget {
    /// The type as it is written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OpenSearch(_) => "opensearch",
            Self::Kafka(_) => "kafka",
            Self::Stdout => "stdout",
        }
    }
}

pub(super) fn check_sinks(raw: Vec<RawSink>, problems: &mut Problems) -> Vec<SinkConfig> {
    let mut names = BTreeSet::new();
    let mut sinks = Vec::new();
    for (i, sink) in raw.into_iter().enumerate() {
        let path = format!("sinks[{i}]");
        if !is_name(&sink.name) {
            let text =
                format!("{:?} is no sink name; write 1 to 32 of a-z, 0-9, - and _", sink.name);
            problems.at(&format!("{path}.name"), text);
        } else if !names.insert(sink.name.clone()) {
            problems.at(&format!("{path}.name"), format!("{:?} is there twice", sink.name));
        }
        sinks.extend(check_sink(sink, &path, problems));
    }
    sinks
}

fn check_sink(raw: RawSink, path: &str, problems: &mut Problems) -> Option<SinkConfig> {
    let topics = check_topics(&raw, path, problems);
    let limits = check_limits(&raw, path, problems);
    let start = match raw.start {
        None | Some(RawStart::Earliest) => Start::Earliest,
        Some(RawStart::Latest) => Start::Latest,
    };
    let name = raw.name.clone();
    let target = match raw.kind {
        None => {
            problems.at(path, "type is missing; write type: opensearch, kafka or stdout");
            None
        }
        Some(SinkType::Stdout) => {
            refuse_foreign(&raw, SinkType::Stdout, path, problems);
            Some(SinkTarget::Stdout)
        }
        Some(SinkType::Opensearch) => {
            refuse_foreign(&raw, SinkType::Opensearch, path, problems);
            check_opensearch(raw, path, problems)
                .map(|config| SinkTarget::OpenSearch(Box::new(config)))
        }
        Some(SinkType::Kafka) => {
            refuse_foreign(&raw, SinkType::Kafka, path, problems);
            check_kafka(raw, path, problems).map(|config| SinkTarget::Kafka(Box::new(config)))
        }
    };
    Some(SinkConfig { name, topics, start, limits, target: target? })
}

fn check_topics(raw: &RawSink, path: &str, problems: &mut Problems) -> TopicFilter {
    if raw.topics.is_empty() {
        problems.at(path, "topics is missing; write topics: [\"*\"], or names");
    }
    for (i, pattern) in raw.topics.iter().enumerate() {
        let plain = pattern.replace(['*', '?'], "x");
        if let Err(error) = topic::validate_name(&plain) {
            problems.at(&format!("{path}.topics[{i}]"), error);
        }
    }
    TopicFilter::new(raw.topics.clone())
}

fn check_limits(raw: &RawSink, path: &str, problems: &mut Problems) -> SinkLimits {
    let batch_size = raw.batch_size.unwrap_or(usual_batch_size(raw.kind));
    let memory = raw.memory.unwrap_or(MEMORY);
    let sizes = [
        ("batch_size", batch_size.bytes(), 64 << 10, 64 << 20),
        ("memory", memory.bytes(), (batch_size.bytes() * 2).max(8 << 20), 4 << 30),
    ];
    for (key, value, least, most) in sizes {
        if !(least..=most).contains(&value) {
            let (least, most) = (ByteSize(least), ByteSize(most));
            problems.at(&format!("{path}.{key}"), format!("it is not from {least} to {most}"));
        }
    }
    let batch_records = raw.batch_records.unwrap_or(BATCH_RECORDS);
    let requests = raw.requests.unwrap_or(REQUESTS);
    let rejects = raw.pause_after_rejects.unwrap_or(PAUSE_AFTER_REJECTS);
    for (key, value, most) in [
        ("batch_records", batch_records, 10_000),
        ("requests", requests, 64),
        ("pause_after_rejects", rejects as usize, 1_000_000),
    ] {
        if !(1..=most).contains(&value) {
            problems.at(&format!("{path}.{key}"), format!("{value} is not from 1 to {most}"));
        }
    }
    let timeout =
        raw.request_timeout.map_or(Duration::from_secs(REQUEST_TIMEOUT_S), Span::duration);
    if !(Duration::from_millis(100)..=Duration::from_mins(10)).contains(&timeout) {
        problems.at(&format!("{path}.request_timeout"), "it is not from 100ms to 10m; write 30s");
    }
    SinkLimits {
        batch_bytes: batch_size.as_usize(),
        batch_records,
        requests,
        memory: memory.as_usize(),
        request_timeout: timeout,
        rejects_in_a_row_max: rejects,
    }
}

/// Keys that stand in a sink of a type that has no use for them.
fn refuse_foreign(raw: &RawSink, kind: SinkType, path: &str, problems: &mut Problems) {
    let (opensearch, kafka) = (kind == SinkType::Opensearch, kind == SinkType::Kafka);
    let zstd = raw.compression == Some(RawSinkCompression::Zstd);
    let written = [
        ("urls", !raw.urls.is_empty(), opensearch),
        ("data_stream", raw.data_stream.is_some(), opensearch),
        ("index", raw.index.is_some(), opensearch),
        ("username", raw.username.is_some(), opensearch),
        ("password", raw.password.is_some(), opensearch),
        ("api_key", raw.api_key.is_some(), opensearch),
        ("brokers", !raw.brokers.is_empty(), kafka),
        ("topic", raw.topic.is_some(), kafka),
        ("insecure", raw.insecure, kafka),
        ("tls", raw.tls.is_some(), opensearch || kafka),
        ("compression", raw.compression.is_some(), opensearch || kafka),
    ];
    let name = match kind {
        SinkType::Opensearch => "an opensearch",
        SinkType::Kafka => "a kafka",
        SinkType::Stdout => "a stdout",
    };
    for (key, _, _) in written.iter().filter(|(_, written, has)| *written && !has) {
        problems.at(&format!("{path}.{key}"), format!("{name} sink has none; remove it"));
    }
    if opensearch && zstd {
        problems.at(&format!("{path}.compression"), "it takes no zstd; write gzip or none");
    }
}

fn check_kafka(raw: RawSink, path: &str, problems: &mut Problems) -> Option<KafkaConfig> {
    if raw.brokers.is_empty() {
        problems.at(path, "brokers is missing; write brokers: [\"kafka.example.com:9093\"]");
    }
    let mut brokers = Vec::new();
    for (i, broker) in raw.brokers.iter().enumerate() {
        match broker.parse::<HostPort>() {
            Ok(address) => brokers.push(address),
            Err(error) => problems.at(&format!("{path}.brokers[{i}]"), error),
        }
    }
    let topic = raw.topic.unwrap_or_else(|| TOPIC.to_owned());
    if let Err(error) = topic::validate_name(&topic.replace(TOPIC, "x")) {
        problems.at(&format!("{path}.topic"), error);
    }
    let tls = match (raw.tls, raw.insecure) {
        (Some(_), true) => {
            let text = "it asks for plaintext while tls is configured; remove one of the two";
            problems.at(&format!("{path}.insecure"), text);
            return None;
        }
        (None, true) => None,
        (None, false) if brokers.iter().all(|broker| super::is_loopback(&broker.host)) => None,
        (None, false) => {
            let text = "tls is missing; write tls: { ca: FILE }, or insecure: true for plaintext";
            problems.at(path, text);
            return None;
        }
        (tls, false) => Some(check_tls(tls, path, problems)?),
    };
    let compression = match raw.compression {
        None | Some(RawSinkCompression::Zstd) => Compression::Zstd,
        Some(RawSinkCompression::Gzip) => Compression::Gzip,
        Some(RawSinkCompression::None) => Compression::None,
    };
    (!brokers.is_empty()).then_some(KafkaConfig { brokers, topic, tls, compression })
}

fn check_opensearch(raw: RawSink, path: &str, problems: &mut Problems) -> Option<OpenSearchConfig> {
    let naming = check_naming(&raw, path, problems);
    let gzip = raw.compression != Some(RawSinkCompression::None);
    let hosts = check_urls(&raw.urls, raw.tls, path, problems);
    let has_auth = raw.username.is_some() || raw.password.is_some() || raw.api_key.is_some();
    for (i, host) in hosts.iter().flatten().enumerate() {
        if has_auth && host.tls.is_none() && !super::is_loopback(&host.address.host) {
            problems.at(
                &format!("{path}.urls[{i}]"),
                "the credentials would be readable on the way; write https://",
            );
        }
    }
    let at = |key: &str| format!("{path}.{key}");
    let auth = match (raw.username, raw.password, raw.api_key) {
        (None, None, None) => Some(Auth::None),
        (Some(username), Some(password), None)
            if !username.is_empty() && !username.contains(':') =>
        {
            password
                .check(&at("password"), problems)
                .map(|password| Auth::Basic { username, password })
        }
        (None, None, Some(key)) => key.check(&at("api_key"), problems).map(Auth::ApiKey),
        _ => {
            problems.at(path, "write either username: NAME with password: { file: PATH }, or api_key: { file: PATH }");
            None
        }
    };
    Some(OpenSearchConfig { hosts: hosts?, naming: naming?, auth: auth?, gzip })
}

fn check_naming(raw: &RawSink, path: &str, problems: &mut Problems) -> Option<Naming> {
    let (key, parsed) = match (&raw.data_stream, &raw.index) {
        (Some(_), Some(_)) => {
            problems.at(&format!("{path}.index"), "write either data_stream or index");
            return None;
        }
        (None, Some(index)) => ("index", Template::parse(index).map(Naming::Index)),
        (stream, None) => {
            let text = stream.as_deref().unwrap_or(DATA_STREAM);
            ("data_stream", Template::parse_data_stream(text).map(Naming::DataStream))
        }
    };
    parsed.map_err(|error| problems.at(&format!("{path}.{key}"), error)).ok()
}

fn check_urls(
    urls: &[String],
    tls: Option<RawSinkTls>,
    path: &str,
    problems: &mut Problems,
) -> Option<Vec<Host>> {
    if urls.is_empty() {
        problems.at(path, "urls is missing; write urls: [\"https://opensearch.example.com:9200\"]");
        return None;
    }
    let secure = urls.iter().any(|url| url.starts_with("https://"));
    if tls.is_some() && !secure {
        problems
            .at(&format!("{path}.tls"), "no url begins with https://; correct them, or remove it");
    }
    let client = if secure { Some(check_tls(tls, path, problems)?) } else { None };
    let mut hosts = Vec::new();
    for (i, url) in urls.iter().enumerate() {
        match parse_url(url) {
            Ok((secure, address, path)) => {
                let tls = client.clone().filter(|_| secure);
                hosts.push(Host { address, tls, path });
            }
            Err(error) => problems.at(&format!("{path}.urls[{i}]"), error),
        }
    }
    (hosts.len() == urls.len()).then_some(hosts)
}

/// Whether it is https, where it is, and what stands before each path.
fn parse_url(url: &str) -> Result<(bool, HostPort, String), String> {
    // Before anything that repeats it.
    if url.contains('@') {
        return Err(
            "a URL has no password in it; write username: and password: { file: PATH }".into()
        );
    }
    let (secure, rest) = match (url.strip_prefix("https://"), url.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err(format!("{url:?} is no URL; write https://HOST:9200")),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = path.trim_end_matches('/');
    if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        // Not repeated: it may be an API key.
        return Err("this URL has more than a path behind its host; remove it".into());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let address = if has_port { authority.to_owned() } else { format!("{authority}:9200") };
    let address = address.parse::<HostPort>().map_err(|error| error.to_string())?;
    Ok((secure, address, path.to_owned()))
}

fn check_tls(tls: Option<RawSinkTls>, path: &str, problems: &mut Problems) -> Option<ClientTls> {
    let raw = tls.unwrap_or_default();
    let at = format!("{path}.tls");
    let ca = if raw.ca.as_os_str().is_empty() {
        let system = SYSTEM_CAS.iter().find(|path| Path::new(path).exists()).map(PathBuf::from);
        let Some(system) = system else {
            problems.at(path, "this system has no bundle of CAs; write tls: { ca: FILE }");
            return None;
        };
        system
    } else {
        raw.ca
    };
    let files = ClientTlsFiles { ca, cert: raw.cert, key: raw.key, server_name: raw.server_name };
    ClientTls::load(&files)
        .map_err(|error| problems.at(&format!("{at}{}", error.config_key()), error))
        .ok()
}

fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(plain)
}

fn is_glob(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// `*` stands for any run of characters, `?` for one.
fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where the last star stands, and what it has been given so far.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, given)) = star else { return false };
                star = Some((at, given + 1));
                p = at + 1;
                t = given + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
#[path = "sinks_tests.rs"]
mod tests;
