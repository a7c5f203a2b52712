//! Another CA takes over in a running cluster, by the commands that an operator types: coordinator, broker and agent follow by
//! themselves, clients and admins by `cert renew`, tokens go on working, no line is lost and no open connection is cut.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::{Context, Daemon, Deadline, Hosted};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, RpcConnection, RpcError, RpcOptions, dial};
use tailway_wire::ApiKey;
use tailway_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};

const PATIENCE: Duration = Duration::from_mins(1);
/// Of the certificates that are issued: short, so that members look often, and long enough for a slow host.
const LIFETIME: &str = "4m";

struct House {
    dir: tempfile::TempDir,
    enroll: u16,
    broker: u16,
}

struct Said {
    done: bool,
    out: String,
    err: String,
}

impl House {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tailway(&self, line: &str) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_tailway"))
            .args(line.split(' '))
            .current_dir(self.dir.path())
            .env("TAILWAY_IDENTITY", self.path("admin"))
            .env_remove("TAILWAY_BOOTSTRAP")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { done: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn done(&self, line: &str) -> String {
        let said = self.tailway(line);
        assert!(said.done, "{line}: {}{}", said.out, said.err);
        said.out
    }

    fn refused(&self, line: &str) -> String {
        let said = self.tailway(line);
        assert!(!said.done, "{line}: {}", said.out);
        said.err
    }

    /// Again and again, until the refusal (empty: there is none) is as wanted.
    fn until(&self, line: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut told = String::new();
        for _ in 0..PATIENCE.as_millis() / 250 {
            told = self.tailway(line).err;
            if wanted(&told) {
                return told;
            }
            std::thread::sleep(Duration::from_millis(250));
        }
        panic!("{line}: {told}");
    }

    fn edit(&self, file: &str, edits: &[(&str, &str)]) -> PathBuf {
        let path = self.path(file);
        let mut text = std::fs::read_to_string(&path).unwrap();
        for (from, to) in edits {
            assert!(text.contains(from), "{file} has no {from}:\n{text}");
            text = text.replace(from, to);
        }
        std::fs::write(&path, text).unwrap();
        path
    }

    fn token(&self, role: &str) -> String {
        self.done(&format!("token create --role {role} --uses 9")).trim().to_owned()
    }

    /// A client's connection settings for `tap` and `topic`.
    fn as_admin(&self) -> String {
        format!(
            "--bootstrap localhost:{} --tls-ca admin/ca.pem --tls-cert admin/cert.pem --tls-key admin/cert.key",
            self.broker
        )
    }

    fn certificates_in(&self, file: &str) -> usize {
        let text = std::fs::read_to_string(self.path(file)).unwrap();
        text.matches("BEGIN CERTIFICATE").count()
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn start<D: Daemon>(config: &Path) -> Hosted<D> {
    let context = Context::default();
    let config = D::load_config(config).unwrap_or_else(|problems| panic!("{problems}"));
    let hosted = Hosted::<D>::start(config, context.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, context.ready.wait()).await.unwrap();
    hosted
}

/// A Kafka client's connection to the broker, with the admin's certificate as it is now.
async fn connect(house: &House) -> RpcConnection {
    let files = ClientTlsFiles {
        ca: house.path("admin/ca.pem"),
        cert: Some(house.path("admin/cert.pem")),
        key: Some(house.path("admin/cert.key")),
        server_name: None,
    };
    let (tls, address) =
        (ClientTls::load(&files).unwrap(), HostPort::new("localhost", house.broker));
    let stream = dial(&address, Some(&tls), PATIENCE).await.unwrap();
    RpcConnection::start(stream, "broker", RpcOptions::default())
}

async fn is_served(connection: &RpcConnection) -> Result<ApiVersionsResponse, RpcError> {
    connection.call(ApiKey::ApiVersions, 0, &ApiVersionsRequest::default(), PATIENCE).await
}

/// Writes lines for as long as it is not told to stop; how many there were.
fn writer(path: PathBuf, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<usize> {
    std::thread::spawn(move || {
        let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
        let mut lines = 0;
        while !stop.load(Ordering::Relaxed) {
            writeln!(file, "line {lines}").unwrap();
            lines += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        lines
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_ca_takes_over_and_nobody_is_cut_off() {
    let house =
        House { dir: tempfile::tempdir().unwrap(), enroll: free_port(), broker: free_port() };
    let coordinator = tokio::task::block_in_place(|| prepare(&house));
    let coordinator = start::<Coordinator>(&coordinator).await;
    let (broker, old) = tokio::task::block_in_place(|| enroll(&house));
    let broker = start::<Broker>(&broker).await;
    let agent = tokio::task::block_in_place(|| enroll_agent(&house, &old));
    let agent = start::<Agent>(&agent).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writing = writer(house.path("app.log"), Arc::clone(&stop));
    let connection = connect(&house).await;
    is_served(&connection).await.unwrap();
    tokio::task::block_in_place(|| take_over(&house, &old));
    is_served(&connection).await.expect("a connection from before the rotation is not cut by it");
    tokio::task::block_in_place(|| retire(&house, &old));
    let cut = is_served(&connection).await;
    assert!(cut.is_err(), "its certificate is of the CA that nobody trusts any more");
    stop.store(true, Ordering::Relaxed);
    let lines = writing.join().unwrap();
    assert!(lines > 50, "{lines} lines");
    tokio::task::block_in_place(|| all_arrived(&house, lines));
    for (program, context) in [
        ("agent", agent.context()),
        ("broker", broker.context()),
        ("coordinator", coordinator.context()),
    ] {
        let status = context.status.json();
        assert!(status["certificate"]["failure"].is_null(), "{program}: {status}");
        assert!(status["certificate"]["trust_failure"].is_null(), "{program}: {status}");
        let file = status["certificate"]["file"].as_str().unwrap();
        assert!(file.ends_with("/tls/member.pem"), "{program}: {status}");
        assert!(status["certificate"]["ends_in_s"].as_i64().unwrap() > 0, "{program}: {status}");
        let metrics = context.metrics.encode();
        let ends = format!("tailway_cert_not_after_timestamp_seconds{{file=\"{file}\"}} 1");
        assert!(metrics.contains(&ends), "{program}: {ends} is not in {metrics}");
    }
    agent.stop(Deadline::after(PATIENCE)).await.unwrap();
    broker.stop(Deadline::after(PATIENCE)).await.unwrap();
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
    // All of it is still so after a restart.
    let coordinator = start::<Coordinator>(&house.path("c.yaml")).await;
    tokio::task::block_in_place(|| {
        let list = house.done("ca list");
        assert!(list.contains("retired") && list.contains("signs"), "{list}");
        house.done("cert renew admin");
    });
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
}

fn prepare(house: &House) -> PathBuf {
    let listen = free_port();
    house.done(&format!(
        "coordinator init --name localhost --data-dir c --config c.yaml --admin admin --listen 127.0.0.1:{listen} --enroll-listen 127.0.0.1:{}",
        house.enroll
    ));
    let admin = free_port().to_string();
    house.edit(
        "c.yaml",
        &[
            ("certificate_lifetime: 365d", &format!("certificate_lifetime: {LIFETIME}")),
            ("127.0.0.1:9645", &format!("127.0.0.1:{admin}")),
        ],
    )
}

/// The broker's configuration, and a token that pins the first CA.
fn enroll(house: &House) -> (PathBuf, String) {
    let at = format!("enroll localhost:{}", house.enroll);
    let token = house.token("broker");
    house.done(&format!("{at} {token} --id 1 --name localhost --state b --config b.yaml"));
    let (port, admin) = (house.broker.to_string(), free_port().to_string());
    let broker = house.edit(
        "b.yaml",
        &[
            ("0.0.0.0:9093", &format!("127.0.0.1:{port}")),
            ("localhost:9093", &format!("localhost:{port}")),
            ("127.0.0.1:9644", &format!("127.0.0.1:{admin}")),
        ],
    );
    (broker, house.token("agent"))
}

fn enroll_agent(house: &House, token: &str) -> PathBuf {
    std::fs::write(house.path("app.log"), "").unwrap();
    let input = house.path("app.log").display().to_string();
    house.done(&format!(
        "enroll localhost:{} {token} --id web1 --state a --config a.yaml --input {input}",
        house.enroll
    ));
    house.done(&format!("topic create logs {}", house.as_admin()));
    let admin = free_port().to_string();
    house.edit("a.yaml", &[("127.0.0.1:9646", &format!("127.0.0.1:{admin}"))])
}

fn take_over(house: &House, old: &str) {
    assert!(house.refused("ca activate 2").contains("there is no CA 2"));
    let added = house.done("ca add");
    assert!(added.starts_with("CA 2 "), "{added}");
    assert!(house.refused("ca add").contains("two CAs are trusted already"));
    // Daemons learn it by themselves, the admin by a command.
    house.until("ca activate 2", |told| told.contains("would be cut off: admin/root. "));
    for file in ["a/tls/ca.pem", "b/tls/ca.pem", "c/tls/ca.pem"] {
        assert_eq!(house.certificates_in(file), 2, "{file}");
    }
    assert!(house.done("cert renew admin").starts_with("admin root: certificate "));
    assert_eq!(house.certificates_in("admin/ca.pem"), 2);
    house.done("ca activate 2");
    // Whichever of the two signed the coordinator's certificate, tokens of both times are good.
    let new = house.token("agent");
    assert_ne!(old.split('.').nth(1), new.split('.').nth(1), "it pins the CA that signs");
    let at = format!("enroll localhost:{}", house.enroll);
    house.done(&format!("{at} {old} --id early-old --state e1 --config e1.yaml"));
    house.done(&format!("{at} {new} --id early-new --state e2 --config e2.yaml"));
    // Daemons renew by themselves; the admin's certificate is of the first CA still.
    house.until("ca retire 1", |told| told.contains("would be cut off: admin/root. "));
    house.done("cert renew admin");
    house.done(&format!("{at} {old} --id late-old --state l1 --config l1.yaml"));
    house.done(&format!("{at} {new} --id late-new --state l2 --config l2.yaml"));
    let told = house.refused("ca retire 1");
    assert!(told.contains("tokens name CA 1 and would be worthless: agent"), "{told}");
    let list = house.done("ca list");
    let rows: Vec<Vec<&str>> =
        list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][1], rows[1][1]), ("trusted", "signs"), "{list}");
    assert!(house.path("c/ca/ca.key").exists());
}

fn retire(house: &House, old: &str) {
    let at = format!("enroll localhost:{}", house.enroll);
    house.done("ca retire 1 --force");
    for _ in 0..100 {
        if !house.path("c/ca/ca.key").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(!house.path("c/ca/ca.key").exists(), "a retired CA's key can be stolen no more");
    let told = house.refused(&format!("{at} {old} --id never --state n --config n.yaml"));
    assert!(told.contains("does not show the CA that the token names"), "{told}");
    house.done("cert renew admin");
    assert_eq!(house.certificates_in("admin/ca.pem"), 1);
    // The daemons drop the old one, too.
    for file in ["a/tls/ca.pem", "b/tls/ca.pem", "c/tls/ca.pem"] {
        let dropped = (0..PATIENCE.as_millis() / 250).any(|_| {
            std::thread::sleep(Duration::from_millis(250));
            house.certificates_in(file) == 1
        });
        assert!(dropped, "{file}");
    }
    house.done("status --wait healthy --timeout 30");
}

/// Each line, once.
fn all_arrived(house: &House, lines: usize) {
    let got = house.done(&format!("tap logs --limit {lines} {}", house.as_admin()));
    let found = (0..lines).filter(|n| got.contains(&format!("line {n}\""))).count();
    assert_eq!((got.lines().count(), found), (lines, lines));
    let described = house.done(&format!("topic describe logs {}", house.as_admin()));
    assert!(
        described.lines().any(|line| line.split_whitespace().last() == Some(&lines.to_string())),
        "{described}"
    );
}
