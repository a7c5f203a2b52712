//! What a broker's file may say, and what it is told when it is wrong.

use std::path::Path;

use tailway_net::{ClientAuth, Security};

use super::*;

/// Certificates for one test: a CA and a certificate for this broker.
pub(super) struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).unwrap();
        std::fs::write(dir.path().join("b.pem"), cert.pem()).unwrap();
        let path = dir.path().join("b.key");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .unwrap();
        Self { dir }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The text with the names of the files in it.
    pub(super) fn load(&self, text: &str) -> Result<Config, Problems> {
        let (raw, problems) = self.raw(text)?;
        Config::check(raw, problems)
    }

    /// What is typed.
    pub(super) fn raw(&self, text: &str) -> Result<(RawConfig, Problems), Problems> {
        let dir = self.dir.path().display().to_string();
        let tls = format!("{{ ca: {dir}/ca.pem, cert: {dir}/b.pem, key: {dir}/b.key }}");
        let text = text.replace("$TLS", &tls).replace("$DIR", &dir);
        tailway_daemon::config::load_text::<RawConfig>(Path::new("b.yaml"), &text)
    }

    pub(super) fn problems(&self, text: &str) -> Vec<(String, String)> {
        let problems = self.load(text).unwrap_err();
        problems.sorted().into_iter().map(|problem| (problem.path, problem.text)).collect()
    }
}

pub(super) const GOOD: &str = "
broker: { id: 3, data_dir: $DIR/data }
coordinator: { addresses: [\"localhost:9190\"], tls: $TLS }
listeners:
  - { name: tls, address: \"127.0.0.1:9093\", protocol: tls, client_auth: optional, tls: $TLS }
  - { name: plain, address: \"127.0.0.1:9092\", protocol: plaintext, insecure: true, advertise: \"localhost:19092\" }
topics: { defaults: { retention.ms: 60000, cleanup.policy: compact } }
";

#[test]
fn a_whole_file() {
    let config = Pki::new().load(GOOD).unwrap();
    assert_eq!(config.broker_id, BrokerId(3));
    assert_eq!(config.listeners.len(), 2);
    let (tls, plain) = (&config.listeners[0], &config.listeners[1]);
    assert!(
        matches!(&tls.security, Security::Tls(tls) if tls.client_auth() == ClientAuth::Optional)
    );
    assert_eq!(tls.advertise, Advertise::Auto);
    assert!(matches!(plain.security, Security::Plaintext));
    assert_eq!(plain.advertise, Advertise::Explicit(HostPort::new("localhost", 19_092)));
    assert_eq!(config.topics.defaults["retention.ms"], "60000");
    assert!(config.topics.auto_create);
}

#[test]
fn client_certificates_are_required_unless_said_otherwise() {
    let config = Pki::new().load(&GOOD.replace("client_auth: optional, ", "")).unwrap();
    assert!(
        matches!(&config.listeners[0].security, Security::Tls(tls) if tls.client_auth() == ClientAuth::Required)
    );
}

/// (what is replaced in `GOOD`, by what, the path of the problem, a part of its text)
const WRONG: &[(&str, &str, &str, &str)] = &[
    ("id: 3", "id: -1", "broker.id", "is negative"),
    ("\"localhost:9190\"", "localhost", "coordinator.addresses[0]", "the port is missing"),
    ("\"localhost:9190\"", "", "coordinator.addresses", "it is empty"),
    ("insecure: true, ", "", "listeners[1].protocol", "insecure: true to say that you know"),
    ("name: plain", "name: tls", "listeners[1].name", "is there twice"),
    ("name: plain", "name: Plain", "listeners[1].name", "is no listener name"),
    (
        "localhost:19092",
        "0.0.0.0:9092",
        "listeners[1].advertise",
        "no client can connect to 0.0.0.0:9092",
    ),
    ("localhost:19092", "localhost:0", "listeners[1].advertise", "port 0"),
    ("localhost:19092", "x", "listeners[1].advertise", "or write auto"),
    ("127.0.0.1:9092", "0.0.0.0:9092", "listeners[1].advertise", "would connect to themselves"),
    ("optional, tls: $TLS", "none", "listeners[0]", "tls is missing"),
    (
        "optional, tls: $TLS",
        "required, tls: { cert: $DIR/b.pem, key: $DIR/b.key }",
        "listeners[0].tls",
        "ca is missing",
    ),
    (
        "optional, tls: $TLS",
        "none, tls: { cert: $DIR/no.pem, key: $DIR/b.key }",
        "listeners[0].tls.cert",
        "No such file",
    ),
    (
        "protocol: tls, client",
        "protocol: tls, insecure: true, client",
        "listeners[0].insecure",
        "is not insecure",
    ),
    (
        "protocol: tls, client_auth: optional",
        "protocol: quick, client_auth: optional",
        "listeners[0].protocol",
        "quick",
    ),
    ("retention.ms", "retention.mss", "topics.defaults", "retention.mss is no topic config"),
    (
        "topics:",
        "limits: { request_size: 64MiB }\ntopics:",
        "limits.request_memory",
        "it is not from 64MiB to 1GiB",
    ),
    ("topics:", "limits: { connections: 0 }\ntopics:", "limits.connections", "not from 1 to"),
    (
        "topics:",
        "limits: { idle_timeout: 0 }\ntopics:",
        "limits.idle_timeout",
        "0 would close every connection",
    ),
    (
        "topics:",
        "admin: { address: \"0.0.0.0:9644\" }\ntopics:",
        "admin.address",
        "not a loopback address",
    ),
    ("topics: {", "topics: { auto_crate: true, ", "topics.auto_crate", "auto_create"),
];

#[test]
fn each_mistake_is_named_with_its_place() {
    let pki = Pki::new();
    for (from, to, path, text) in WRONG {
        assert!(GOOD.contains(from), "{from}");
        let problems = pki.problems(&GOOD.replacen(from, to, 1));
        let found = problems.iter().find(|problem| problem.0 == *path);
        let found = found.unwrap_or_else(|| panic!("{to}: no problem at {path}: {problems:?}"));
        assert!(found.1.contains(text), "{to}: {found:?}");
    }
}

#[test]
fn all_mistakes_come_at_once() {
    let text = GOOD
        .replace("id: 3", "id: -1")
        .replace("insecure: true, ", "")
        .replace("retention.ms", "retention.mss");
    let paths: Vec<String> =
        Pki::new().problems(&text).into_iter().map(|problem| problem.0).collect();
    assert_eq!(paths, ["broker.id", "listeners[1].protocol", "topics.defaults"]);
}

#[test]
fn the_commented_file_is_the_defaults() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/broker.yaml");
    tailway_daemon::config::defaults::compare::<RawConfig>(&file).unwrap();
}
