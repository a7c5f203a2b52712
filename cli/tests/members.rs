//! From nothing to members, by the commands that an operator types: `coordinator init`, `token`, `enroll`, `cert`,
//! `client-config`, against a coordinator that was started from the configuration which `init` wrote.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::{Config, Coordinator};
use tailway_daemon::{Context, Daemon, Deadline};
use tailway_net::{ClientTls, ClientTlsFiles};

const PATIENCE: Duration = Duration::from_secs(20);

struct House {
    dir: tempfile::TempDir,
    /// What nobody may see: of tokens, keys and passwords.
    secrets: Mutex<Vec<String>>,
}

/// What a command said: whether it succeeded, its results, its remarks.
struct Said {
    done: bool,
    out: String,
    err: String,
}

impl House {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `tailway` in the directory, as the admin that `init` made.
    fn tailway(&self, line: &str) -> Said {
        self.tailway_given(line, "")
    }

    fn tailway_given(&self, line: &str, stdin: &str) -> Said {
        self.tailway_crashing(line, stdin, "")
    }

    /// With a point at which it ends, as by a crash; none if empty.
    fn tailway_crashing(&self, line: &str, stdin: &str, crash_at: &str) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tailway"));
        if !crash_at.is_empty() {
            command.env("TAILWAY_CRASH_AT", crash_at);
        }
        let mut child = command
            .args(line.split(' '))
            .current_dir(self.dir.path())
            .env("TAILWAY_IDENTITY", self.path("admin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read it has closed its end.
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { done: output.status.success(), out: text(output.stdout), err: text(output.stderr) }
    }

    fn secret(&self, text: &str) {
        assert!(text.len() >= 32, "too short to look for: {text}");
        self.secrets.lock().unwrap().push(text.to_owned());
    }

    /// The lines of a PEM file's key.
    fn secret_key(&self, path: &Path) {
        let text = std::fs::read_to_string(path).unwrap();
        let (_, key) = text.split_once("PRIVATE KEY-----\n").unwrap();
        self.secret(key.lines().next().unwrap());
    }

    fn done(&self, line: &str) -> String {
        let said = self.tailway(line);
        assert!(said.done, "{line}: {}", said.err);
        said.out
    }

    fn refused(&self, line: &str) -> String {
        let said = self.tailway(line);
        assert!(!said.done, "{line}: {}", said.out);
        said.err
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Everything below a directory is its owner's alone.
fn check_private(dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{}", path.display());
        if path.is_dir() {
            check_private(&path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_makes_a_cluster_and_lets_hosts_in() {
    let house = House { dir: tempfile::tempdir().unwrap(), secrets: Mutex::default() };
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let (listen, enroll) = (free_port(), free_port());
    let init = format!(
        "coordinator init --name localhost --data-dir c --config c.yaml --admin admin --listen 127.0.0.1:{listen} --enroll-listen 127.0.0.1:{enroll}"
    );
    house.done(&init);
    assert!(house.refused(&init).contains("c.yaml is there already"));
    check_private(&house.path("c"));
    check_private(&house.path("admin"));
    let context = Context::default();
    let config = Config::load(&house.path("c.yaml")).unwrap();
    let coordinator = Coordinator::start(config, context.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, context.ready.wait()).await.unwrap();

    let (broker, agent) = tokio::task::block_in_place(|| {
        (enroll_broker(&house, enroll), enroll_agent(&house, enroll))
    });
    // What was written is a good configuration, with a key that is let pass.
    Broker::load_config(&broker).unwrap();
    let text = std::fs::read_to_string(&agent).unwrap();
    assert!(text.contains("brokers: []"), "no broker has registered yet: {text}");
    std::fs::write(&agent, text.replace("brokers: []", "brokers: [localhost:9093]")).unwrap();
    Agent::load_config(&agent).unwrap();
    tokio::task::block_in_place(|| certificates(&house));
    for key in ["c/ca/ca.key", "c/tls/member.pem", "admin/cert.key", "b/tls/member.pem"] {
        house.secret_key(&house.path(key));
    }
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("web1") && log.contains("join token used"),
        "no log to look through: {log}"
    );
    let shown = [log, context.metrics.encode(), context.status.json().to_string()].concat();
    let secrets = house.secrets.lock().unwrap();
    assert_eq!(secrets.len(), 9);
    for secret in secrets.iter() {
        assert!(!shown.contains(secret.as_str()), "{secret} is shown");
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn enroll_broker(house: &House, port: u16) -> PathBuf {
    let token = house.done("token create --role broker");
    let token = token.trim();
    house.secret(token.rsplit('.').next().unwrap());
    let at = format!("enroll localhost:{port}");
    let rest = "--state b --config b.yaml";
    assert!(house.refused(&format!("{at} {token} {rest} --name b")).contains("give --id NUMBER"));
    assert!(house.refused(&format!("{at} {token} {rest} --id 1")).contains("give --name HOST"));
    let id = token.split('.').nth(2).unwrap();
    let altered = token.replace(id, "broker00000000");
    let said = house.refused(&format!("{at} {altered} {rest} --id 1 --name b"));
    assert!(said.contains("the token is not known here"), "{said}");
    assert!(!said.contains(token.rsplit('.').next().unwrap()), "a secret is told: {said}");
    house.done(&format!("{at} {token} {rest} --id 1 --name b"));
    check_private(&house.path("b"));
    // Once in, never over what is there.
    assert!(
        house.refused(&format!("{at} {token} {rest} --id 1 --name b")).contains("there already")
    );
    let used = house.refused(&format!("{at} {token} --state b2 --config b2.yaml --id 2 --name c"));
    assert!(used.contains("is used up"), "{used}");
    house.path("b.yaml")
}

fn enroll_agent(house: &House, port: u16) -> PathBuf {
    let token = house.done("token create --role agent --ttl 10m --uses 2");
    house.secret(token.trim().rsplit('.').next().unwrap());
    let line = format!("enroll localhost:{port} - --id web1 --state a --config a.yaml");
    let said = house.tailway_given(&line, &token);
    assert!(said.done, "{}", said.err);
    let list = house.done("token list");
    assert!(list.contains("1 of 2") && list.contains("1 of 1"), "{list}");
    let id = token.split('.').nth(2).unwrap();
    house.done(&format!("token revoke {id}"));
    assert!(!house.done("token list").contains(id));
    house.path("a.yaml")
}

/// A renewal that ends at any rename or removal leaves certificate and key that belong together, or is finished by the next
/// command.
fn crashes(house: &House) {
    let dir = house.path("reports");
    let files = ClientTlsFiles {
        ca: dir.join("ca.pem"),
        cert: Some(dir.join("cert.pem")),
        key: Some(dir.join("cert.key")),
        server_name: None,
    };
    let mut halves = 0;
    for point in ["storage.rename.before", "storage.remove.before"] {
        for hit in 1.. {
            let at = format!("{point}:{hit}");
            if house.tailway_crashing("cert renew reports", "", &at).done {
                assert!(hit > 1, "{at}: it is never reached");
                break;
            }
            let whole = ClientTls::load(&files);
            if !dir.join("renewed.pem").exists() {
                whole.unwrap_or_else(|error| panic!("{at}: {error}"));
            } else if whole.is_err() {
                halves += 1;
            }
            // Any command that uses them; this one reaches the coordinator with them.
            let denied = house.refused("cert list --identity reports");
            assert!(
                denied.contains("client reports may not call DescribeMembership"),
                "{at}: {denied}"
            );
            ClientTls::load(&files).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(!dir.join("renewed.pem").exists(), "{at}");
        }
    }
    assert_eq!(halves, 1, "between the two files");
    check_private(&dir);
}

/// As when something was revoked: what `cert renew --if-due` puts in the place of the CA's file.
fn revocation_list(house: &House) -> String {
    let path = house.path("reports/ca.pem");
    let ca = std::fs::read_to_string(&path).unwrap();
    let list = ca.find("-----BEGIN X509 CRL-----").unwrap();
    std::fs::write(&path, &ca[..list]).unwrap();
    let replaced = house.done("cert renew reports --if-due");
    assert!(
        replaced.contains("reports/ca.pem: the list of what was revoked is replaced")
            && replaced.contains("not due yet"),
        "{replaced}"
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), ca);
    ca
}

fn certificates(house: &House) {
    house.done("cert issue --role client reports --out reports");
    check_private(&house.path("reports"));
    house.secret_key(&house.path("reports/cert.key"));
    house.secret(&std::fs::read_to_string(house.path("reports/keystore.password")).unwrap());
    let kcat = house.done("client-config kcat --identity reports --bootstrap b:9093");
    let ca = house.path("reports").join("ca.pem");
    assert!(kcat.contains(&format!("ssl.ca.location={}", ca.display())), "{kcat}");
    let password = std::fs::read_to_string(house.path("reports/keystore.password")).unwrap();
    let before = std::fs::read(house.path("reports/cert.pem")).unwrap();
    let renewed = house.done("cert renew reports");
    assert!(
        renewed.contains("client reports: certificate ") && renewed.contains("ends in 36"),
        "{renewed}"
    );
    let after = std::fs::read(house.path("reports/cert.pem")).unwrap();
    assert_ne!(after, before);
    let not_due = house.done("cert renew reports --if-due");
    assert!(
        not_due.contains("client reports: not due yet, its certificate ends in 36"),
        "{not_due}"
    );
    assert_eq!(std::fs::read(house.path("reports/cert.pem")).unwrap(), after);
    assert!(kcat.contains("ssl.crl.location="), "{kcat}");
    let ca = revocation_list(house);
    assert_eq!(std::fs::read(house.path("reports/cert.pem")).unwrap(), after);
    // As when the cluster trusts another CA now.
    let another = rcgen::KeyPair::generate().unwrap();
    let another = rcgen::CertificateParams::default().self_signed(&another).unwrap().pem();
    std::fs::write(house.path("reports/ca.pem"), format!("{ca}{another}")).unwrap();
    assert!(house.done("cert renew reports --if-due").contains("certificate "));
    assert_ne!(std::fs::read(house.path("reports/cert.pem")).unwrap(), after);
    assert_eq!(std::fs::read_to_string(house.path("reports/ca.pem")).unwrap(), ca);
    assert_eq!(std::fs::read_to_string(house.path("reports/keystore.password")).unwrap(), password);
    check_private(&house.path("reports"));
    // A crash between the two files: the next use puts the rest in place.
    let (cert, key) = ("reports/cert.pem", "reports/cert.key");
    let whole = [cert, key].map(|file| std::fs::read_to_string(house.path(file)).unwrap()).concat();
    std::fs::write(house.path("reports/renewed.pem"), whole).unwrap();
    std::fs::write(house.path(cert), &before).unwrap();
    house.done("cert renew reports");
    assert!(!house.path("reports/renewed.pem").exists());
    crashes(house);
    house.secret_key(&house.path(key));
    let list = house.done("cert list");
    for (role, id) in [
        ("coordinator", "0"),
        ("admin", "root"),
        ("broker", "1"),
        ("agent", "web1"),
        ("client", "reports"),
    ] {
        let row = list.lines().find(|line| line.contains(role) && line.contains(id));
        assert!(row.is_some_and(|row| row.contains("ends in 36")), "{role} {id}:\n{list}");
    }
    let denied = house.refused("cert list --identity reports");
    assert!(denied.contains("client reports may not call DescribeMembership"), "{denied}");
    assert!(house.done("cert revoke client/reports").contains("client reports is revoked"));
    let list = house.done("cert list");
    assert!(
        list.lines().any(|line| line.contains("reports") && line.contains("revoked")),
        "{list}"
    );
    assert!(
        house.refused("cert revoke client/nobody").contains("no certificate is client/nobody's")
    );
}
