//! Who has no certificate: what a default install answers them, seen from another host, and what a token that is not good gets.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::text;
use crate::cluster::{AGENTS, BROKER, CLIENT, COORDINATOR, Cluster, ENROLLMENT};
use crate::group::{Check, need};
use crate::process::{finish, wait_until};
use crate::programs::Programs;
use crate::tls::Stranger;

pub const CHECKS: &[Check] = &[
    (
        "a scan from another host finds no port that answers without a certificate, but the one where hosts enrol",
        scan,
    ),
    (
        "used up, expired and altered tokens, and a coordinator of another CA, are refused and say why; 10,000 guesses get nowhere",
        tokens,
    ),
];

/// Where members are served, and where they become members.
const COORDINATOR_PORT: u16 = 9_190;
const ENROLLMENT_PORT: u16 = 9_191;
const BROKER_PORT: u16 = 9_093;

/// A port that is not open answers at once.
const CONNECT: Duration = Duration::from_secs(5);
/// How long somebody is listened to who says nothing.
const SILENCE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_mins(1);

pub const HTTP: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: tailway\r\nConnection: close\r\n\r\n";
/// ApiVersions, version 0, correlation 7, no client id, without its length.
pub const API_VERSIONS: &[u8] = &[0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];

pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], body].concat()
}

fn scan() -> Result<()> {
    need("openssl", "openssl")?;
    let cluster = Cluster::whole(Programs::built()?, &[], &[])?;
    let expected: [(&str, &[u16]); 4] = [
        (COORDINATOR, &[COORDINATOR_PORT, ENROLLMENT_PORT]),
        (BROKER, &[BROKER_PORT]),
        (AGENTS[0], &[]),
        (AGENTS[1], &[]),
    ];
    for (host, ports) in expected {
        let address = cluster.network.host(host)?.address;
        let open = cluster.network.host(CLIENT)?.within(|| Ok(open_ports(address)))?;
        ensure!(open == ports, "{host} has open ports {open:?}, not {ports:?}");
        let datagrams = cluster.network.host(host)?.within(udp_sockets)?;
        ensure!(datagrams.is_empty(), "{host} takes datagrams at {datagrams:?}");
        for port in ports {
            in_plaintext(&cluster, host, *port)?;
            without_certificate(&cluster, host, *port)?;
        }
    }
    // The questions are not at fault: with a certificate they are answered.
    let identity = cluster.identity("reports")?;
    let pem = |name: &str| -> Result<String> { Ok(text(&identity.dir.join(name))?.to_owned()) };
    let own = format!("-cert {} -key {}", pem("cert.pem")?, pem("cert.key")?);
    for (host, port) in [(COORDINATOR, COORDINATOR_PORT), (BROKER, BROKER_PORT)] {
        let answer = openssl(&cluster, host, port, &own, &framed(API_VERSIONS))?;
        ensure!(answer.len() > 8, "{host}:{port} does not answer a client with a certificate");
    }
    cluster.stop_all()
}

/// Every TCP port of an address that accepts a connection.
fn open_ports(address: Ipv4Addr) -> Vec<u16> {
    let mut open = Vec::new();
    for port in 1..=u16::MAX {
        if TcpStream::connect_timeout(&SocketAddr::from((address, port)), CONNECT).is_ok() {
            open.push(port);
        }
    }
    open
}

/// Local addresses of this thread's network at which datagrams are taken from others, as the kernel writes them.
fn udp_sockets() -> Result<Vec<String>> {
    const LOOPBACK: &str = "0100007F:";
    let mut found = Vec::new();
    for table in ["udp", "udp6"] {
        let listed = fs::read_to_string(format!("/proc/thread-self/net/{table}"))?;
        let locals = listed.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        found.extend(locals.filter(|at| !at.starts_with(LOOPBACK)).map(str::to_owned));
    }
    Ok(found)
}

/// Nothing is said to who speaks HTTP or Kafka in plaintext, but for a TLS alert.
fn in_plaintext(cluster: &Cluster, host: &str, port: u16) -> Result<()> {
    let at = SocketAddr::from((cluster.network.host(host)?.address, port));
    for (what, question) in [("HTTP", HTTP.to_vec()), ("Kafka", framed(API_VERSIONS))] {
        let answer = cluster.network.host(CLIENT)?.within(|| said(at, &question))?;
        let alert = answer.first() == Some(&0x15) && answer.len() <= 7;
        ensure!(answer.is_empty() || alert, "{at} answers {what} in plaintext: {answer:?}");
    }
    Ok(())
}

fn said(at: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&at, CONNECT)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(question)?;
    let mut answer = Vec::new();
    // Closed, reset, or silent: what had come by then counts.
    drop(stream.read_to_end(&mut answer));
    Ok(answer)
}

/// Over TLS without a certificate: nothing either; where hosts enrol, that this is no enrolment.
fn without_certificate(cluster: &Cluster, host: &str, port: u16) -> Result<()> {
    for version in ["-tls1_2", "-tls1_3"] {
        for (what, question) in [("HTTP", HTTP.to_vec()), ("Kafka", framed(API_VERSIONS))] {
            let answer = openssl(cluster, host, port, version, &question)?;
            let is_refusal = port == ENROLLMENT_PORT && is_refused(answer.get(4..), "enrolment");
            let shown = String::from_utf8_lossy(&answer);
            ensure!(
                answer.is_empty() || is_refusal,
                "{host}:{port} answers {what} without a certificate ({version}): {shown}"
            );
        }
    }
    Ok(())
}

/// What a server says over TLS to what is on openssl's standard input, decrypted.
pub fn openssl(
    cluster: &Cluster,
    host: &str,
    port: u16,
    args: &str,
    say: &[u8],
) -> Result<Vec<u8>> {
    let client = cluster.network.host(CLIENT)?;
    let question = client.dir().join(format!("question-{host}-{port}"));
    fs::write(&question, say)?;
    // `-quiet` prints what the server says and nothing else, and stays after the end of the input: until the server
    // closes, or says no more.
    let line = format!(
        "timeout {} openssl s_client -quiet -connect {host}:{port} {args} <{}",
        SILENCE.as_secs(),
        text(&question)?
    );
    let mut shell = client.foreign(Path::new("sh"))?;
    Ok(finish(shell.args(["-c", &line]), PATIENCE)?.stdout)
}

/// An answer of the enrolment endpoint that refuses, with `why` in it.
fn is_refused(answer: Option<&[u8]>, why: &str) -> bool {
    refusal(answer.unwrap_or_default()).is_some_and(|said| said.contains(why))
}

fn refusal(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    Some(answer.get("refused")?.get("text")?.as_str()?.to_owned())
}

fn tokens() -> Result<()> {
    let mut cluster = Cluster::coordinator(Programs::built()?, &[], &[])?;
    // Its own CA, on another host.
    cluster.tailway(AGENTS[1], &["coordinator", "init"])?;
    cluster.start(AGENTS[1], "coordinator")?;
    let once = cluster.token("agent", &["--uses", "1"])?;
    enroll(&cluster, "first", ENROLLMENT, &once)?;
    let short = cluster.token("agent", &["--ttl", "1s"])?;
    let good = cluster.token("agent", &["--uses", "3"])?;
    let gone = cluster.token("agent", &[])?;
    let gone_id = gone.split('.').nth(2).context("the token has no id")?;
    cluster.tailway(COORDINATOR, &["token", "revoke", gone_id])?;
    thread::sleep(Duration::from_millis(1_500));
    let elsewhere = format!("{}:{ENROLLMENT_PORT}", AGENTS[1]);
    let unknown = "the token is not known here: it was altered, revoked or made by another cluster";
    let other_ca = "does not show the CA that the token names";
    for (name, at, token, why) in [
        ("used-up", ENROLLMENT, once.clone(), "is used up: it was good for 1 certificates"),
        ("expired", ENROLLMENT, short, "s ago by the coordinator's clock"),
        ("revoked", ENROLLMENT, gone.clone(), unknown),
        ("other-secret", ENROLLMENT, altered(&good, 3), unknown),
        ("other-id", ENROLLMENT, altered(&good, 2), unknown),
        ("other-hash", ENROLLMENT, altered(&good, 1), other_ca),
        ("other-form", ENROLLMENT, altered(&good, 0), "this does not begin with tw1"),
        ("cut-off", ENROLLMENT, good.rsplit_once('.').context("no dot")?.0.to_owned(), "3 parts"),
        ("other-coordinator", &elsewhere, good.clone(), other_ca),
    ] {
        let args = enrollment(&cluster, name, at, &token)?;
        let said = cluster.refused(CLIENT, &args.iter().map(String::as_str).collect::<Vec<_>>())?;
        ensure!(said.contains(why), "a token that is {name} is refused without {why:?}: {said}");
        ensure!(!said.contains(secret(&token)), "the refusal of {name} repeats the secret: {said}");
        let state = cluster.network.host(CLIENT)?.dir().join(name);
        let left = fs::read_dir(state.join("tls")).map_or(0, Iterator::count);
        ensure!(left == 0, "{name} leaves files in {}", state.display());
    }
    guesses(&cluster, &good)?;
    cluster.stop_all()
}

fn secret(token: &str) -> &str {
    token.rsplit('.').next().unwrap_or_default()
}

/// The token with another last character in one of its parts.
fn altered(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    if let Some(part) = parts.get_mut(part) {
        let other = if part.ends_with('0') { "1" } else { "0" };
        part.pop();
        part.push_str(other);
    }
    parts.join(".")
}

/// An agent's enrolment from the client's host, in a folder of its own.
fn enrollment(cluster: &Cluster, id: &str, at: &str, token: &str) -> Result<Vec<String>> {
    let state = cluster.network.host(CLIENT)?.dir().join(id);
    let config = state.with_extension("yaml");
    let args = ["enroll", at, token, "--id", id, "--input", "/var/log/e2e.log"];
    let places = ["--state", text(&state)?, "--config", text(&config)?];
    Ok([&args[..], &places].concat().into_iter().map(str::to_owned).collect())
}

fn enroll(cluster: &Cluster, id: &str, at: &str, token: &str) -> Result<()> {
    let args = enrollment(cluster, id, at, token)?;
    cluster.tailway(CLIENT, &args.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

const GUESSES: usize = 10_000;
const GUESSERS: usize = 4;
/// What the coordinator looks at of one address: so many at once, then one more each six seconds.
const LOOKED_AT: usize = 10;
const ONE_MORE: Duration = Duration::from_secs(6);

/// Somebody who knows a token's id guesses its secret from one address, while another host enrols with the right one.
fn guesses(cluster: &Cluster, token: &str) -> Result<()> {
    let identity = cluster.identity("guesser")?;
    let stranger = Stranger::trusting(&identity.dir.join("ca.pem"))?;
    let address = cluster.network.host(COORDINATOR)?.address;
    let at = SocketAddr::from((address, ENROLLMENT_PORT));
    let id = token.split('.').nth(2).context("the token has no id")?;
    let csr = certificate_request()?;
    let (made, refused, limited) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let failed = AtomicBool::new(false);
    let begin = Instant::now();
    let guess = || -> Result<()> {
        while !failed.load(Ordering::Relaxed) {
            let number = made.fetch_add(1, Ordering::Relaxed);
            if number >= GUESSES {
                break;
            }
            let mut random = ChaCha8Rng::seed_from_u64(number as u64);
            let (high, low) = (random.next_u64(), random.next_u64());
            let guess = json!({
                "version": 0, "token_id": id, "secret": format!("{high:016x}{low:016x}"),
                "id": "guesser", "names": [], "csr": csr,
            });
            let answer = stranger.ask(at, COORDINATOR, guess.to_string().as_bytes())?;
            let said = refusal(answer.get(4..).unwrap_or_default());
            let shown = || format!("a guess is answered: {}", String::from_utf8_lossy(&answer));
            let said = said.with_context(shown)?;
            match said {
                said if said.contains("the token is not known here") => &refused,
                said if said.contains("too many wrong attempts: try again in") => &limited,
                _ => return Err(anyhow::anyhow!(shown())),
            }
            .fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    let guessing = || {
        let guessed = guess();
        failed.fetch_or(guessed.is_err(), Ordering::Relaxed);
        guessed
    };
    cluster.network.host(AGENTS[0])?.within(|| {
        thread::scope(|scope| {
            let guessers: Vec<_> = (0..GUESSERS).map(|_| scope.spawn(guessing)).collect();
            let under_way = wait_until(PATIENCE, || {
                Ok(limited.load(Ordering::Relaxed) > 0 || failed.load(Ordering::Relaxed))
            });
            let other = under_way.and_then(|()| enroll(cluster, "meanwhile", ENROLLMENT, token));
            let still = made.load(Ordering::Relaxed) < GUESSES;
            for guesser in guessers {
                guesser.join().map_err(|_| anyhow::anyhow!("a guesser panicked"))??;
            }
            other.context("another host cannot enrol meanwhile")?;
            ensure!(still, "the guesses were over before another host had enrolled");
            Ok(())
        })
    })?;
    let took = begin.elapsed();
    let (refused, limited) = (refused.into_inner(), limited.into_inner());
    ensure!(refused + limited == GUESSES, "{refused} and {limited} are not {GUESSES} answers");
    let most = LOOKED_AT + usize::try_from(took.as_secs() / ONE_MORE.as_secs())? + 1;
    ensure!(refused <= most, "{refused} of {GUESSES} guesses were looked at within {took:?}");
    let metrics = cluster.admin(COORDINATOR, "coordinator", "/metrics")?;
    let counted = format!("enrollments_throttled_total {limited}");
    ensure!(metrics.contains(&counted), "no metric says `{counted}`:\n{metrics}");
    let members = cluster.tailway(COORDINATOR, &["cert", "list"])?;
    ensure!(!members.contains("agent/guesser"), "a guess made a member:\n{members}");
    // Who has the right one waits at most until one more attempt is let in.
    let host = cluster.network.host(AGENTS[0])?;
    let state = host.dir().join("late");
    let config = state.with_extension("yaml");
    let args = ["enroll", ENROLLMENT, token, "--input", "/var/log/e2e.log", "--state"];
    let args = [&args[..], &[text(&state)?, "--config", text(&config)?]].concat();
    wait_until(PATIENCE, || {
        let output = finish(&mut cluster.tailway_command(AGENTS[0], &args)?, PATIENCE)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let waits = said.contains("too many wrong attempts");
        ensure!(output.status.success() || waits, "the right token is refused: {said}");
        Ok(output.status.success())
    })
}

fn certificate_request() -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    Ok(rcgen::CertificateParams::default().serialize_request(&key)?.pem()?)
}
