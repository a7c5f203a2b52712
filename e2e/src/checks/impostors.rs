//! Eleven bad certificates, shown by a server to each client and by a client to each listener: who refuses what, and says why.

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::strangers::{API_VERSIONS, HTTP, framed, openssl};
use super::text;
use crate::cluster::{AGENTS, BROKER, CLIENT, COORDINATOR, Cluster, ENROLLMENT, Identity, ROGUE};
use crate::forgery::{End, FAULTS, Fault, Forged, Forger, Subject};
use crate::group::{Check, need};
use crate::kafka::NEWEST;
use crate::process::{run, wait_until};
use crate::programs::{Programs, repository};
use crate::tls::Impostor;

pub const CHECKS: &[Check] = &[
    (
        "eleven bad certificates of a server are refused by agent, command line and broker, naming the check; kcat, confluent-kafka and Java do as docs/security.md says",
        servers,
    ),
    (
        "eleven bad certificates of a client are refused by broker, coordinator and metrics listeners, naming the check",
        clients,
    ),
];

const PATIENCE: Duration = Duration::from_mins(2);
/// Until a revocation has reached everybody.
const HEARD: Duration = Duration::from_mins(1);

/// What is wrong, in the words of docs/security.md.
fn what(fault: Fault) -> &'static str {
    match fault {
        Fault::Good => "nothing",
        Fault::Name => "another name",
        Fault::Ip => "another IP address",
        Fault::Expired => "expired",
        Fault::NotYetValid => "not valid yet",
        Fault::WrongCa => "another CA",
        Fault::WrongUse => "not for this use (EKU)",
        Fault::SelfSigned => "self-signed",
        Fault::Revoked => "revoked",
        Fault::NoIntermediate => "intermediate CA not shown",
        Fault::CnOnly => "name only as CN",
        Fault::Wildcard => "wildcard over two labels",
    }
}

/// What a client of ours says of a server.
fn said_of_server(fault: Fault, address: &str) -> String {
    let over = "is not valid now: it expired at 2021-01-01T00:00:00Z, this host's clock says 20";
    let not_yet =
        "is not valid now: it is valid from 2090-01-01T00:00:00Z, this host's clock says 20";
    match fault {
        Fault::Good => String::new(),
        Fault::Name => format!("is for `other.test`, not for `{ROGUE}`"),
        Fault::Ip => format!("is for `192.0.2.7`, not for `{address}`"),
        Fault::Expired => over.into(),
        Fault::NotYetValid => not_yet.into(),
        Fault::WrongCa | Fault::SelfSigned | Fault::NoIntermediate => "is not signed by".into(),
        Fault::WrongUse => "is not for use by a server (extended key usage)".into(),
        Fault::Revoked => "was revoked".into(),
        Fault::CnOnly => format!("names no host, and not `{ROGUE}`"),
        Fault::Wildcard => format!("is for `*.test`, not for `{ROGUE}`"),
    }
}

/// A cluster, and on another host a server for each bad certificate, and a good one.
struct Scene {
    cluster: Cluster,
    impostors: Vec<(Fault, Impostor)>,
    identity: Identity,
}

impl Scene {
    fn set() -> Result<Self> {
        let mut cluster = Cluster::coordinator(Programs::built()?, &[], &[])?;
        cluster.add_broker()?;
        let identity = cluster.identity("victim")?;
        let forger = forger(&cluster)?;
        let subject = subject(&cluster, &identity, End::Server, "coordinator/9")?;
        let rogue = cluster.network.host(ROGUE)?.clone();
        let mut impostors = Vec::new();
        for fault in FAULTS {
            let Forged { cert, key, .. } = match fault {
                Fault::Revoked => revoked(&mut cluster, &forger, "coordinator", "9")?,
                _ => forger.make(fault, &subject)?,
            };
            let listener = rogue.within(|| Ok(TcpListener::bind((rogue.address, 0))?))?;
            impostors.push((fault, Impostor::start(listener, &cert, &key)?));
        }
        // Made before the revocation: this is how it learns of it.
        let known =
            cluster.tailway(CLIENT, &["cert", "renew", text(&identity.dir)?, "--if-due"])?;
        ensure!(
            known.contains("the list of what was revoked is replaced"),
            "cert renew says {known}"
        );
        Ok(Self { cluster, impostors, identity })
    }

    /// As a client is told to dial it.
    fn address(fault: Fault, impostor: &Impostor) -> String {
        match fault {
            Fault::Ip => impostor.address.to_string(),
            _ => format!("{ROGUE}:{}", impostor.address.port()),
        }
    }

    fn bad(&self) -> impl Iterator<Item = &(Fault, Impostor)> {
        self.impostors.iter().filter(|(fault, _)| *fault != Fault::Good)
    }

    fn addresses(&self) -> Vec<String> {
        self.bad().map(|(fault, impostor)| Self::address(*fault, impostor)).collect()
    }

    /// That what somebody has said names the check for each server, and that none is believed; the one that was revoked by
    /// nobody who knows of it before he connects.
    fn ensure_named(&self, who: &str, said: &str, knows_revoked: bool) -> Result<()> {
        // A log has the text on one line, in quotes.
        let said = said.replace("\\n", "\n");
        for (fault, impostor) in self.bad() {
            let address = Self::address(*fault, impostor);
            let met = impostor.met();
            ensure!(!met.is_empty(), "{who} does not connect to {address} ({fault:?}):\n{said}");
            let host = impostor.address.ip().to_string();
            let why = said_of_server(*fault, &host);
            let named = said.lines().any(|line| line.contains(&address) && line.contains(&why));
            ensure!(named, "{who} does not say {why:?} of {address} ({fault:?}):\n{said}");
            let believed = met.iter().any(Result::is_ok);
            let excused = *fault == Fault::Revoked && !knows_revoked;
            ensure!(!believed || excused, "{who} believes {fault:?}: {met:?}");
        }
        Ok(())
    }

    fn forget(&self) {
        for (_, impostor) in &self.impostors {
            impostor.forget();
        }
    }
}

fn forger(cluster: &Cluster) -> Result<Forger> {
    let ca = cluster.network.host(COORDINATOR)?.var_lib("tailway/coordinator/ca");
    Forger::new(&ca, &cluster.network.host(ROGUE)?.dir().join("forged"))
}

fn subject(cluster: &Cluster, known: &Identity, end: End, member: &str) -> Result<Subject> {
    let identity = fs::read_to_string(known.dir.join("identity.json"))?;
    let identity: serde_json::Value = serde_json::from_str(&identity)?;
    let id = identity["cluster_id"].as_str().context("identity.json has no cluster_id")?;
    Ok(Subject {
        end,
        identity: format!("spiffe://{id}/{member}"),
        host: ROGUE.to_owned(),
        address: cluster.network.host(ROGUE)?.address,
    })
}

/// A member that became one by a token, and is none any more.
fn revoked(cluster: &mut Cluster, forger: &Forger, role: &str, id: &str) -> Result<Forged> {
    let token = cluster.token(role, &[])?;
    let rogue = cluster.network.host(ROGUE)?;
    let (state, address) = (rogue.dir().join("member"), rogue.address.to_string());
    let args = ["enroll", ENROLLMENT, &token, "--id", id, "--state", text(&state)?];
    let names = ["--name", ROGUE, "--name", &address];
    let names: &[&str] = if role == "client" { &[] } else { &names };
    cluster.tailway(ROGUE, &[&args[..], names].concat())?;
    cluster.tailway(COORDINATOR, &["cert", "revoke", &format!("{role}/{id}")])?;
    if role == "client" {
        let (cert, key) = (state.join("cert.pem"), state.join("cert.key"));
        return Ok(Forged { fault: Fault::Revoked, cert, key });
    }
    forger.take(Fault::Revoked, &format!("{role}-revoked"), &state.join("tls/member.pem"))
}

fn servers() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let mut scene = Scene::set()?;
    let addresses = scene.addresses();
    let listed = addresses.join(",");
    // The command line.
    let file = |name: &str| -> Result<String> { Ok(text(&scene.identity.dir.join(name))?.into()) };
    let (ca, cert, key) = (file("ca.pem")?, file("cert.pem")?, file("cert.key")?);
    let tls = ["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    let list = [&["topic", "list", "--bootstrap", &listed][..], &tls].concat();
    let said = scene.cluster.refused(CLIENT, &list)?;
    scene.ensure_named("the command line", &said, true)?;
    scene.forget();
    agent(&mut scene, &addresses)?;
    scene.forget();
    broker(&mut scene, &addresses)?;
    scene.forget();
    foreign(&scene)
}

fn agent(scene: &mut Scene, addresses: &[String]) -> Result<()> {
    let host = AGENTS[0];
    let token = scene.cluster.token("agent", &[])?;
    scene.cluster.tailway(host, &["enroll", ENROLLMENT, &token, "--input", "/var/log/e2e.log"])?;
    let yaml = format!("\"{}\"", addresses.join("\", \""));
    scene.cluster.replace_list(host, "agent", "brokers", &yaml)?;
    scene.cluster.start_unready(host, "agent")?;
    let named = |scene: &Scene| scene.ensure_named("the agent", &scene.cluster.log(host)?, true);
    drop(wait_until(PATIENCE, || Ok(named(scene).is_ok())));
    named(scene)?;
    scene.cluster.stop(host)
}

/// It enrolled before the revocation: it may learn of it from its records only, once it knows whom it talks to.
fn broker(scene: &mut Scene, addresses: &[String]) -> Result<()> {
    scene.cluster.stop(BROKER)?;
    let yaml = format!("\"{}\"", addresses.join("\", \""));
    scene.cluster.replace_list(BROKER, "broker", "addresses", &yaml)?;
    scene.cluster.start(BROKER, "broker")?;
    let named =
        |scene: &Scene| scene.ensure_named("the broker", &scene.cluster.log(BROKER)?, false);
    drop(wait_until(PATIENCE, || Ok(named(scene).is_ok())));
    named(scene)?;
    scene.cluster.stop(BROKER)
}

/// Whether a library believes a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Refused,
    Believed,
}

use Verdict::{Believed, Refused};

/// kcat with Debian 12's librdkafka (2.0.2, OpenSSL), confluent-kafka's newest, and Kafka's Java client.
const FOREIGN: [(Fault, [Verdict; 3]); 12] = [
    (Fault::Good, [Believed, Believed, Believed]),
    (Fault::Name, [Refused, Refused, Refused]),
    (Fault::Ip, [Refused, Refused, Refused]),
    (Fault::Expired, [Refused, Refused, Refused]),
    (Fault::NotYetValid, [Refused, Refused, Refused]),
    (Fault::WrongCa, [Refused, Refused, Refused]),
    (Fault::WrongUse, [Refused, Refused, Refused]),
    (Fault::SelfSigned, [Refused, Refused, Refused]),
    (Fault::Revoked, [Refused, Refused, Believed]),
    (Fault::NoIntermediate, [Refused, Refused, Refused]),
    (Fault::CnOnly, [Believed, Believed, Believed]),
    (Fault::Wildcard, [Refused, Refused, Refused]),
];

fn foreign(scene: &Scene) -> Result<()> {
    let mut rows: Vec<Vec<Verdict>> = vec![Vec::new(); FOREIGN.len()];
    for ask in [kcat, confluent, java] {
        ask(scene)?;
        for (row, (fault, impostor)) in rows.iter_mut().zip(&scene.impostors) {
            let met = impostor.met();
            ensure!(!met.is_empty(), "a library did not connect to {fault:?}");
            row.push(if met.iter().any(Result::is_ok) { Believed } else { Refused });
        }
        scene.forget();
    }
    let documented = fs::read_to_string(repository().join("docs/security.md"))?;
    for ((fault, expected), row) in FOREIGN.iter().zip(&rows) {
        ensure!(row == expected, "{fault:?}: {row:?}, not {expected:?}; all of them: {rows:#?}");
        let word = |verdict: &Verdict| format!(" | {verdict:?}").to_lowercase();
        let cells: String = expected.iter().map(word).collect();
        // Ours: broker, and agent and command line.
        let line = format!("| {} |", what(*fault));
        let known = documented.lines().find(|line_| line_.starts_with(&line));
        let known = known.with_context(|| format!("docs/security.md has no row {line}"))?;
        ensure!(
            known.ends_with(&format!("{cells} |")),
            "docs/security.md says {known}, not {cells}"
        );
    }
    Ok(())
}

fn every_address(scene: &Scene) -> Vec<String> {
    scene.impostors.iter().map(|(fault, impostor)| Scene::address(*fault, impostor)).collect()
}

fn kcat(scene: &Scene) -> Result<()> {
    let mut line = String::new();
    for address in every_address(scene) {
        let printed = scene.cluster.client_config_at("kcat", &scene.identity, &address)?;
        write!(line, "{} -m 4 & ", printed.trim_end())?;
    }
    scene.cluster.shell(&(line + "wait")).map(drop)
}

fn settings(scene: &Scene, software: &str) -> Result<std::path::PathBuf> {
    let path = scene.identity.dir.with_extension(software);
    fs::write(&path, scene.cluster.client_config(software, &scene.identity)?)?;
    Ok(path)
}

fn confluent(scene: &Scene) -> Result<()> {
    let client = scene.cluster.network.host(CLIENT)?;
    let mut python = client.foreign(&repository().join("e2e/anchors/clients.sh"))?;
    python.arg("python").arg(repository().join("e2e/clients/impostors.py"));
    python.arg(settings(scene, "librdkafka")?).args(every_address(scene));
    run(&mut python, PATIENCE).map(drop)
}

fn java(scene: &Scene) -> Result<()> {
    let mut fetch = std::process::Command::new(repository().join("e2e/anchors/kafka"));
    let cache = run(fetch.env("KAFKA_VERSION", NEWEST).arg("fetch"), PATIENCE)?;
    let client = scene.cluster.network.host(CLIENT)?;
    let mut java = client.foreign(Path::new("java"))?;
    java.args(["-Xmx256m", "-cp", &format!("{}/libs/*", cache.trim())]);
    java.arg(repository().join("e2e/clients/Impostors.java"));
    run(java.arg(settings(scene, "java")?).args(every_address(scene)), PATIENCE).map(drop)
}

/// A listener, what is asked there, and where its log is.
struct Target {
    host: &'static str,
    port: u16,
    question: Vec<u8>,
    is_metrics: bool,
}

/// What a listener's log says of a client, or `None` where it is answered.
fn said_of_client(fault: Fault, target: &Target) -> Option<&'static str> {
    match fault {
        // Nobody dials a client: which hosts its certificate names is not asked.
        Fault::Good | Fault::Name | Fault::Ip | Fault::Wildcard => None,
        Fault::Expired => Some("it expired at 2021-01-01T00:00:00Z, this host's clock says 20"),
        Fault::NotYetValid => {
            Some("it is valid from 2090-01-01T00:00:00Z, this host's clock says 20")
        }
        Fault::WrongCa | Fault::SelfSigned | Fault::NoIntermediate => {
            Some("certificate is not signed by")
        }
        Fault::WrongUse => Some("is not for use by a client (extended key usage)"),
        Fault::Revoked => Some("certificate was revoked"),
        // It says who its owner is in no way that makes a member. At a broker, that is a client.
        Fault::CnOnly if target.host == BROKER && !target.is_metrics => None,
        Fault::CnOnly if target.is_metrics => Some("the certificate names CN=rogue.node.test"),
        Fault::CnOnly => Some("and no SPIFFE id"),
    }
}

const METRICS: [(&str, &str, u16); 3] =
    [(COORDINATOR, "coordinator", 9_745), (BROKER, "broker", 9_744), (AGENTS[0], "agent", 9_746)];

fn clients() -> Result<()> {
    need("openssl", "openssl")?;
    let mut cluster = Cluster::coordinator(Programs::built()?, &[], &[])?;
    cluster.add_broker()?;
    cluster.add_agent(AGENTS[0])?;
    let identity = cluster.identity("known")?;
    let forger = forger(&cluster)?;
    let subject = subject(&cluster, &identity, End::Client, "client/rogue")?;
    // An agent's own certificate is for clients only.
    let mut for_agent = subject.clone();
    (for_agent.end, for_agent.host) = (End::Server, AGENTS[0].to_owned());
    let shown = forger.make(Fault::Good, &for_agent)?;
    // Kept by the agent: it has what was revoked.
    let ca = Path::new("/var/lib/tailway/agent/tls/ca.pem");
    for (host, daemon, port) in METRICS {
        let own = format!(
            "\n    tls: {{ ca: {}, cert: {}, key: {} }}",
            text(ca)?,
            text(&shown.cert)?,
            text(&shown.key)?
        );
        let own = if daemon == "agent" { own.as_str() } else { "" };
        let listen = format!("metrics:\n    listen: 0.0.0.0:{port}{own}");
        cluster.stop(host)?;
        cluster.configure(host, daemon, &[("metrics:\n    listen: ''", &listen)])?;
        cluster.start(host, daemon)?;
    }
    let mut targets = vec![
        Target {
            host: COORDINATOR,
            port: 9_190,
            question: framed(API_VERSIONS),
            is_metrics: false,
        },
        Target { host: BROKER, port: 9_093, question: framed(API_VERSIONS), is_metrics: false },
    ];
    targets.extend(METRICS.map(|(host, _, port)| Target {
        host,
        port,
        question: HTTP.to_vec(),
        is_metrics: true,
    }));
    for fault in FAULTS {
        let forged = match fault {
            Fault::Revoked => revoked(&mut cluster, &forger, "client", "rogue")?,
            _ => forger.make(fault, &subject)?,
        };
        let showing = |target| show(&cluster, &forged, target);
        thread::scope(|scope| {
            // Who is answered listens for a while whether there is more.
            let all: Vec<_> = targets.iter().map(|it| scope.spawn(|| showing(it))).collect();
            all.into_iter().try_for_each(|shown| match shown.join() {
                Ok(shown) => shown,
                Err(_) => bail!("showing a certificate panicked"),
            })
        })?;
    }
    cluster.stop_all()
}

/// Shows a certificate to a listener.
fn show(cluster: &Cluster, forged: &Forged, target: &Target) -> Result<()> {
    let Target { host, port, question, .. } = target;
    let own = format!("-cert {} -key {}", text(&forged.cert)?, text(&forged.key)?);
    let fault = forged.fault;
    let Some(why) = said_of_client(fault, target) else {
        let answer = openssl(cluster, host, *port, &own, question)?;
        ensure!(!answer.is_empty(), "{host}:{port} does not answer a client with {fault:?}");
        return Ok(());
    };
    let mut answer = Vec::new();
    // Who was revoked is known within a moment.
    let refused = wait_until(HEARD, || {
        answer = openssl(cluster, host, *port, &own, question)?;
        let is_refusal = String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 403");
        let is_empty = answer.is_empty() || target.is_metrics && is_refusal;
        Ok(is_empty && cluster.log(host)?.contains(why))
    });
    refused.with_context(|| {
        let (answer, log) = (String::from_utf8_lossy(&answer), cluster.log(host).unwrap_or_default());
        let log = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
        format!("{host}:{port} of a client with {fault:?} (expected {why:?}): answer {answer:?}; log:\n{log}")
    })
}
