//! Certificates that end: `/status`, the metric and the log say so of every one that a program shows, whoever made it; and
//! one that cannot be renewed, because the coordinator is away, says until when it serves.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use tailway_daemon::certificates::OwnPapers;
use tailway_daemon::{Certificates, Context, Deadline};
use tailway_metadata::ClusterId;
use tailway_metadata::authority::AuthorityId;
use tailway_metadata::enrollment::{Enrolled, Trust};
use tailway_metadata::security::{IssuedCertificate, Role, Serial};
use tailway_metadata::time::WallMs;
use tailway_net::{ClientAuth, ClientTls, ClientTlsFiles, ServerTls, ServerTlsFiles};

const PATIENCE: Duration = Duration::from_secs(20);
const DAY_S: i64 = 86_400;

/// What was logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A CA, and its certificate in PEM.
fn authority() -> (Issuer<'static, KeyPair>, String) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

struct House {
    dir: tempfile::TempDir,
    issuer: Arc<Issuer<'static, KeyPair>>,
    context: Context,
    log: Log,
    _logging: tracing::subscriber::DefaultGuard,
}

impl House {
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        let (issuer, ca) = authority();
        let issuer = Arc::new(issuer);
        std::fs::write(dir.path().join("ca.pem"), ca).unwrap();
        let log = Log::default();
        let to = log.clone();
        let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone());
        let guard = tracing::subscriber::set_default(logging.finish());
        House { dir, issuer, context: Context::default(), log, _logging: guard }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Key and certificate in one file, good from and until so many days from now.
    fn sign(&self, name: &str, from: i64, until: i64) -> PathBuf {
        let now = self.context.clock.wall().0 / 1_000;
        let at = |days: i64| time::OffsetDateTime::from_unix_timestamp(now + days * DAY_S).unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (at(from), at(until));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &*self.issuer).unwrap();
        let path = self.path(name);
        std::fs::write(&path, format!("{}{}", certificate.pem(), key.serialize_pem())).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn server(&self, cert: &Path, client_ca: bool) -> ServerTls {
        let files = ServerTlsFiles {
            cert: cert.into(),
            key: cert.into(),
            client_ca: client_ca.then(|| self.path("ca.pem")),
            client_auth: if client_ca { ClientAuth::Required } else { ClientAuth::None },
        };
        ServerTls::load(&files).unwrap()
    }

    fn client(&self, cert: Option<&Path>) -> ClientTls {
        let files = ClientTlsFiles {
            ca: self.path("ca.pem"),
            cert: cert.map(Path::to_owned),
            key: cert.map(Path::to_owned),
            server_name: None,
        };
        ClientTls::load(&files).unwrap()
    }

    async fn logged(&self, what: &str) -> String {
        let seen = async {
            loop {
                let line =
                    self.log.text().lines().find(|line| line.contains(what)).map(str::to_owned);
                if let Some(line) = line {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.unwrap_or_else(|_| panic!("{what} is not in:\n{}", self.log.text()))
    }

    async fn stop(self) {
        self.context.tasks.stop(Deadline::after(PATIENCE)).await.unwrap();
    }
}

/// A listener's certificate of another CA ends soon, another has ended, a third is of the future; the program's own is good.
#[tokio::test]
async fn every_certificate_that_ends_is_announced_whoever_made_it() {
    let house = House::new();
    let own = house.sign("own.pem", -1, 365);
    let ending = house.sign("ending.pem", -80, 20);
    let ended = house.sign("ended.pem", -80, -1);
    let early = house.sign("early.pem", 1, 80);
    let servers =
        vec![house.server(&ending, false), house.server(&ended, true), house.server(&early, true)];
    Certificates { servers, clients: vec![house.client(Some(&own))], own: None }
        .keep(&house.context);
    for (level, file, what) in [
        ("WARN", "ending.pem", "ends soon, at 20"),
        ("ERROR", "ended.pem", "this host's clock says 20"),
        ("ERROR", "early.pem", "not valid yet, peers refuse it: it is valid from 20"),
    ] {
        let line = house.logged(file).await;
        assert!(line.contains(level) && line.contains(what) && line.contains("next: "), "{line}");
    }
    assert!(!house.log.text().contains("own.pem"), "{}", house.log.text());
    let status = house.context.status.json();
    let others = status["certificate"]["others"].as_array().unwrap();
    let mut endings: Vec<(String, bool)> = [&status["certificate"]]
        .into_iter()
        .chain(others)
        .map(|it| (it["file"].as_str().unwrap().to_owned(), it["is_ending"].as_bool().unwrap()))
        .collect();
    endings.sort();
    let expected = [(&early, false), (&ended, true), (&ending, true), (&own, false)];
    let expected = expected.map(|(path, is_ending)| (path.display().to_string(), is_ending));
    assert_eq!(endings, expected, "{status}");
    let metrics = house.context.metrics.encode();
    for path in [&own, &ending, &ended, &early] {
        let line =
            format!("tailway_cert_not_after_timestamp_seconds{{file=\"{}\"}} ", path.display());
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    house.stop().await;
}

/// After 65 hundredths of its life, by which every program renews, with nobody at the coordinator's address.
#[tokio::test]
async fn while_the_coordinator_is_away_the_certificate_says_until_when_it_serves() {
    let house = House::new();
    let member = house.sign("member.pem", -66, 34);
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let identity = format!(r#"{{"coordinator":"{nobody}"}}"#);
    std::fs::write(house.path("identity.json"), identity).unwrap();
    let clients = vec![house.client(Some(&member))];
    Certificates { clients, ..Certificates::default() }.keep(&house.context);
    let line = house.logged("the certificate was not renewed").await;
    assert!(line.contains("WARN") && line.contains("it serves until it ends"), "{line}");
    assert!(line.contains("nothing listens on that port"), "why: {line}");
    assert!(line.contains("ends_at=20") && line.contains("ends_in_s="), "until when: {line}");
    let status = house.context.status.json();
    let failure = status["certificate"]["failure"].as_str().unwrap();
    assert!(failure.contains("nothing listens on that port"), "{failure}");
    let left = status["certificate"]["ends_in_s"].as_i64().unwrap();
    assert!((33 * DAY_S..=34 * DAY_S).contains(&left), "{left}");
    house.stop().await;
}

/// A coordinator's own papers, with certificates that are good until so many milliseconds after they are asked for.
fn own_papers(house: &House, life_ms: i64) -> OwnPapers {
    let (issuer, clock) = (Arc::clone(&house.issuer), house.context.clock.clone());
    let ca_pem = std::fs::read_to_string(house.path("ca.pem")).unwrap();
    let (enrolled_ca, trusted_ca) = (ca_pem.clone(), ca_pem);
    let at = |ms: i64| time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    OwnPapers {
        renewal: Box::new(move |csr| {
            let not_before = clock.wall();
            let not_after = WallMs(not_before.0 + life_ms);
            let mut request = CertificateSigningRequestParams::from_pem(&csr).unwrap();
            request.params.not_before = at(not_before.0).unwrap();
            request.params.not_after = at(not_after.0).unwrap();
            let certificate = request.signed_by(&*issuer).unwrap();
            let enrolled = Enrolled {
                cluster_id: ClusterId("c".into()),
                certificate: IssuedCertificate {
                    serial: Serial("07".into()),
                    role: Role::Coordinator,
                    id: "0".into(),
                    names: Vec::new(),
                    not_before,
                    not_after,
                    issued_by: "renewal".into(),
                    revoked: None,
                    signed_by: AuthorityId::FIRST,
                    knows: AuthorityId::FIRST,
                },
                certificate_pem: certificate.pem(),
                ca_pem: enrolled_ca.clone(),
                coordinator_port: 1,
                brokers: Vec::new(),
            };
            Box::pin(async move { Ok(enrolled) })
        }),
        trust: Box::new(move |_| {
            let trust = Trust { ca_pem: trusted_ca.clone(), renew: false };
            Box::pin(async move { Ok(trust) })
        }),
    }
}

/// A coordinator that was stopped until the last third of its certificate's life: it renews it at once, and says no more.
#[tokio::test]
async fn a_certificate_that_was_just_renewed_is_not_said_to_end() {
    let house = House::new();
    let member = house.sign("member.pem", -80, 20);
    let own = Some(own_papers(&house, 100 * DAY_S * 1_000));
    let servers = vec![house.server(&member, true)];
    Certificates { servers, clients: Vec::new(), own }.keep(&house.context);
    house.logged("certificate renewed").await;
    house.logged("certificates were read again").await;
    assert!(!house.log.text().contains("ends soon"), "{}", house.log.text());
    let status = house.context.status.json();
    assert!(status["certificate"]["failure"].is_null(), "{status}");
    house.stop().await;
}

/// `certificate_lifetime` was made short: the first certificate of that life must not wait for its renewal as long as a long one may.
#[tokio::test]
async fn a_certificate_that_lives_shorter_than_the_last_is_renewed_in_its_own_time() {
    let house = House::new();
    let member = house.sign("member.pem", -80, 20);
    let own = Some(own_papers(&house, 4_000));
    let servers = vec![house.server(&member, true)];
    Certificates { servers, clients: Vec::new(), own }.keep(&house.context);
    let again = async {
        while house.log.text().matches("certificate renewed").count() < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let seen = tokio::time::timeout(PATIENCE, again).await;
    assert!(seen.is_ok(), "it was not renewed again and again:\n{}", house.log.text());
    house.stop().await;
}

/// A program that trusts a CA and has no certificate reads that CA's file again, too.
#[tokio::test(start_paused = true)]
async fn the_file_of_a_ca_alone_is_read_again() {
    let house = House::new();
    let tls = house.client(None);
    Certificates { clients: vec![tls], ..Certificates::default() }.keep(&house.context);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (_, another) = authority();
    std::fs::write(house.path("ca.pem"), another).unwrap();
    house.logged("certificates were read again").await;
    house.stop().await;
}
