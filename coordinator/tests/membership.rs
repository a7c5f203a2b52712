//! A real coordinator with its own CA on loopback: hosts become members by tokens and by nothing else, a guess learns and
//! gets nothing, and what was revoked is served no more.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tailway_coordinator::authority::{self, Authority};
use tailway_coordinator::{Config, Coordinator};
use tailway_daemon::{Certificates, Clock, Context, Daemon, Deadline};
use tailway_metadata::enrollment::{
    Answer, CertificateRef, CreateTokenRequest, EnrollRequest, Enrolled, Membership, to_json,
};
use tailway_metadata::security::{IssuedCertificate, Role, Sha256};
use tailway_metadata::{ClusterId, Secret};
use tailway_net::certificate_request::CertificateRequest;
use tailway_net::pin::sha256;
use tailway_net::{
    ClientTls, ClientTlsFiles, FrameReader, HostPort, Limits, Listener, PeerIdentity,
    RpcConnection, RpcOptions, Security, ServerTls, dial, write_segments,
};
use tailway_storage::{FsDisk, atomic_replace};
use tailway_wire::frame::{encode_request_raw, split_response};
use tailway_wire::{ApiKey, RequestHeader};

use common::{CLUSTER, PATIENCE};

const LIFE: Duration = Duration::from_hours(1);

struct House {
    dir: tempfile::TempDir,
    sha256: Sha256,
    /// Of the certificates that the coordinator signs.
    lifetime: &'static str,
}

/// Each guard that is left out, and the test that objects.
const TEETH: [(&str, &str); 7] = [
    ("coordinator.revoked_served", MEMBER),
    ("coordinator.role_unchecked", MEMBER),
    ("coordinator.token_uses_unchecked", MEMBER),
    ("coordinator.token_expiry_unchecked", REFUSED),
    ("net.any_ca_is_pinned", REFUSED),
    ("net.exposed_key_accepted", REFUSED),
    ("coordinator.token_secret_unchecked", GUESSES),
];
const MEMBER: &str = "a_token_makes_a_member_that_reaches_its_own_calls_until_it_is_revoked";
const REFUSED: &str = "another_ca_an_expired_and_a_foreign_request_are_refused_and_say_why";
const GUESSES: &str = "guesses_get_nowhere_and_are_limited";
/// Names the guard that a child process leaves out.
const PLANT: &str = "TAILWAY_PLANT";

/// Runs each of those tests in a process of its own, without the guard.
#[test]
fn every_guard_is_missed_when_it_is_left_out() {
    let program = std::env::current_exe().unwrap();
    let run = |test: &str, plant: Option<&str>| {
        let mut child = std::process::Command::new(&program);
        child.args(["--exact", test]).env_remove(PLANT).envs(plant.map(|bug| (PLANT, bug)));
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.success(), text)
    };
    for (bug, test) in TEETH {
        let (passed, text) = run(test, Some(bug));
        assert!(!passed && text.contains("panicked"), "{bug} is not found by {test}:\n{text}");
    }
    let (passed, text) = run(MEMBER, None);
    assert!(passed && text.contains("1 passed"), "{text}");
}

impl House {
    fn new() -> House {
        House::with_lifetime("1h")
    }

    fn with_lifetime(lifetime: &'static str) -> House {
        let dir = tempfile::tempdir().unwrap();
        let now = Clock::new().wall();
        let ca = dir.path().join("data/ca");
        let authority = Authority::create(&FsDisk, &ca, &ClusterId(CLUSTER.into()), now).unwrap();
        let house = House { sha256: authority.sha256(), dir, lifetime };
        atomic_replace(&FsDisk, &house.path("ca.pem"), authority.pem().as_bytes()).unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let first = [
            authority::first_certificate(Role::Coordinator, "0", &names, now, LIFE),
            authority::first_certificate(Role::Admin, "root", &[], now, LIFE),
        ];
        authority::save_first(&FsDisk, &ca, &first).unwrap();
        for issued in &first {
            let key = KeyPair::generate().unwrap();
            let pem = authority.sign(&ClusterId(CLUSTER.into()), issued, &key).unwrap();
            house.put(issued.role.name(), &pem, &Secret::new(key.serialize_pem()));
        }
        house
    }

    fn put(&self, name: &str, certificate: &str, key: &Secret) {
        let put = |end: &str, content: &str| {
            atomic_replace(&FsDisk, &self.path(&format!("{name}.{end}")), content.as_bytes())
                .unwrap();
        };
        put("pem", certificate);
        put("key", key.expose());
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    async fn start(&self) -> (Coordinator, Context) {
        let lifetime = self.lifetime;
        let more = format!(
            "  enrollment: {{ listen: '127.0.0.1:0', certificate_lifetime: {lifetime} }}\n"
        );
        common::start(common::config(self.dir.path(), CLUSTER, &more)).await
    }

    async fn connect(&self, coordinator: &Coordinator, name: &str) -> RpcConnection {
        common::connect(self.dir.path(), coordinator, name).await
    }

    /// A server with the certificate of that name; it only shakes hands.
    async fn serve(&self, name: &str, host: &str) -> HostPort {
        let path = |end: &str| self.path(&format!("{name}.{end}"));
        let tls = ServerTls::showing(&path("pem"), &path("key"), Vec::new()).unwrap();
        let address = HostPort::new("127.0.0.1", 0);
        let listener =
            Listener::bind(&address, Security::Tls(tls), Limits::default()).await.unwrap();
        let port = listener.local_addr().port();
        tailway_runtime::spawn(async move {
            while let Ok(incoming) = listener.accept().await {
                tailway_runtime::spawn(async move { incoming.establish().await.map(drop) });
            }
        });
        HostPort::new(host, port)
    }

    /// Makes a token as the admin, for the role in its id.
    async fn token(
        &self,
        coordinator: &Coordinator,
        role: Role,
        id: &str,
        uses: u32,
        ttl: Duration,
    ) {
        let admin = self.connect(coordinator, "admin").await;
        let request = CreateTokenRequest {
            id: id.to_owned(),
            role,
            secret_sha256: sha256(b"secret"),
            ttl_ms: ttl.as_millis().try_into().unwrap(),
            uses,
        };
        let made: Membership = ask(&admin, ApiKey::CreateToken, &request).await.unwrap();
        assert_eq!((made.ca_sha256, made.tokens.len()), (self.sha256, 1));
    }
}

async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
    rpc: &RpcConnection,
    api: ApiKey,
    request: &Q,
) -> Result<A, String> {
    let body = to_json(request);
    let encode = |id| {
        encode_request_raw(&RequestHeader::new(api, 0, id, None), &body).map(|frame| vec![frame])
    };
    let frame = rpc.call_raw(api.name(), 0, PATIENCE, encode).await.map_err(|e| e.to_string())?;
    match Answer::decode(&split_response(api, 0, frame).unwrap().1).unwrap() {
        Answer::Done(done) => Ok(done),
        Answer::Refused { text, .. } => Err(text),
    }
}

fn request(token: &str, secret: &str, id: &str, names: &[&str]) -> (EnrollRequest, Secret) {
    let made = CertificateRequest::generate().unwrap();
    let request = EnrollRequest {
        token_id: token.into(),
        secret: Secret::new(secret),
        id: id.into(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        csr: made.csr_pem,
    };
    (request, made.key_pem)
}

/// One enrolment over one connection, as `tailway enroll` does it.
async fn enroll(
    coordinator: &Coordinator,
    pin: Sha256,
    request: &EnrollRequest,
) -> Result<Enrolled, String> {
    let address = HostPort::from(coordinator.enrolls_at().unwrap());
    let tls = ClientTls::pinned(pin).unwrap();
    let stream = dial(&address, Some(&tls), PATIENCE).await.map_err(|e| e.to_string())?;
    let mut reader = FrameReader::new(stream, 1 << 20);
    let body = request.encode();
    let body = body.expose().as_bytes();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let segments = [Bytes::copy_from_slice(&length), Bytes::copy_from_slice(body)];
    write_segments(reader.inner_mut(), &segments).await.map_err(|e| e.to_string())?;
    let frame = reader.next().await.map_err(|e| e.to_string())?;
    match Answer::decode(&frame.ok_or("no answer")?).unwrap() {
        Answer::Done(enrolled) => Ok(enrolled),
        Answer::Refused { text, .. } => Err(text),
    }
}

async fn stop(coordinator: Coordinator) {
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
}

#[tokio::test]
async fn a_token_makes_a_member_that_reaches_its_own_calls_until_it_is_revoked() {
    let house = House::new();
    let (coordinator, _context) = house.start().await;
    house.token(&coordinator, Role::Agent, "agent1", 1, LIFE).await;
    let (asked, key) = request("agent1", "secret", "web1", &[]);
    let enrolled = enroll(&coordinator, house.sha256, &asked).await.unwrap();
    let (again, _) = request("agent1", "secret", "web2", &[]);
    let error = enroll(&coordinator, house.sha256, &again).await.unwrap_err();
    assert!(error.contains("used up: it was good for 1 cert"), "{error}");
    assert_eq!(enrolled.coordinator_port, coordinator.address().port());
    let der = CertificateDer::from_pem_slice(enrolled.certificate_pem.as_bytes()).unwrap();
    let named = PeerIdentity::from_certificate(&der).unwrap();
    assert_eq!(named.to_string(), "spiffe://c-1/agent/web1");
    assert_eq!(named.serial, enrolled.certificate.serial);
    house.put("web1", &enrolled.certificate_pem, &key);
    let agent = house.connect(&coordinator, "web1").await;
    let error = ask::<_, Membership>(&agent, ApiKey::DescribeMembership, &()).await.unwrap_err();
    assert!(error.contains("agent web1 may not call DescribeMembership"), "{error}");
    let admin = house.connect(&coordinator, "admin").await;
    let members: Membership = ask(&admin, ApiKey::DescribeMembership, &()).await.unwrap();
    let ids: Vec<&str> = members.certificates.iter().map(|c| c.id.as_str()).collect();
    assert!(ids.len() == 3 && ids.contains(&"web1") && ids.contains(&"root"), "{ids:?}");
    let which = CertificateRef::Member { role: Role::Agent, id: "web1".into() };
    let revoked: Vec<IssuedCertificate> =
        ask(&admin, ApiKey::RevokeCertificates, &which).await.unwrap();
    assert_eq!(revoked.len(), 1);
    let error = ask::<_, Membership>(&agent, ApiKey::DescribeMembership, &()).await.unwrap_err();
    assert!(error.contains("closed"), "an open connection is cut: {error}");
    stop(coordinator).await;
    // All of it is still so after a restart.
    let (coordinator, _context) = house.start().await;
    let admin = house.connect(&coordinator, "admin").await;
    let members: Membership = ask(&admin, ApiKey::DescribeMembership, &()).await.unwrap();
    assert_eq!((members.tokens[0].used, members.certificates.len()), (1, 3));
    assert!(members.certificates.iter().any(|c| c.id == "web1" && c.revoked.is_some()));
    stop(coordinator).await;
}

#[tokio::test]
async fn a_member_renews_its_certificate_while_it_runs() {
    let house = House::with_lifetime("10s");
    let (coordinator, _context) = house.start().await;
    house.token(&coordinator, Role::Agent, "agent1", 1, LIFE).await;
    let (asked, key) = request("agent1", "secret", "web1", &[]);
    let enrolled = enroll(&coordinator, house.sha256, &asked).await.unwrap();
    let member = house.path("member.pem");
    let whole = format!("{}{}", enrolled.certificate_pem, key.expose());
    atomic_replace(&FsDisk, &member, whole.as_bytes()).unwrap();
    let identity = format!(r#"{{"coordinator":"{}"}}"#, coordinator.address());
    std::fs::write(house.path("identity.json"), identity).unwrap();
    let files = ClientTlsFiles {
        ca: house.path("ca.pem"),
        cert: Some(member.clone()),
        key: Some(member.clone()),
        server_name: None,
    };
    let tls = ClientTls::load(&files).unwrap();
    let context = Context::default();
    Certificates { clients: vec![tls.clone()], ..Certificates::default() }.keep(&context);
    let renewed = async {
        while !context.metrics.encode().contains("tailway_cert_renewals_total 1") {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The next look reads what was written.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::time::timeout(PATIENCE, renewed).await.expect("a renewal within its life");
    let status = context.status.json();
    assert!(status["certificate"]["failure"].is_null(), "{status}");
    let admin = house.connect(&coordinator, "admin").await;
    let which = CertificateRef::Serial(enrolled.certificate.serial.clone());
    let _revoked: Vec<IssuedCertificate> =
        ask(&admin, ApiKey::RevokeCertificates, &which).await.unwrap();
    // With the old one it would be cut off: what is dialed with is the new one, though nobody has loaded it anew.
    let address = HostPort::from(coordinator.address());
    let stream = dial(&address, Some(&tls), PATIENCE).await.unwrap();
    let agent = RpcConnection::start(stream, "coordinator", RpcOptions::default());
    let error = ask::<_, Membership>(&agent, ApiKey::DescribeMembership, &()).await.unwrap_err();
    assert!(error.contains("agent web1 may not call"), "{error}");
    let members: Membership = ask(&admin, ApiKey::DescribeMembership, &()).await.unwrap();
    let by = format!("renewal of {}", enrolled.certificate.serial);
    assert!(members.certificates.iter().any(|issued| issued.issued_by == by), "{members:?}");
    context.tasks.stop(Deadline::after(PATIENCE)).await.unwrap();
    stop(coordinator).await;
}

/// A broker's certificate is revoked: an agent that runs hears of it and believes that broker no more, and others still.
#[tokio::test]
async fn a_member_that_runs_refuses_a_server_that_was_revoked() {
    // It asks each second.
    let house = House::with_lifetime("3m");
    let (coordinator, _context) = house.start().await;
    house.token(&coordinator, Role::Agent, "agent1", 1, LIFE).await;
    house.token(&coordinator, Role::Broker, "broker1", 2, LIFE).await;
    let (asked, key) = request("agent1", "secret", "web1", &[]);
    let enrolled = enroll(&coordinator, house.sha256, &asked).await.unwrap();
    let whole = format!("{}{}", enrolled.certificate_pem, key.expose());
    atomic_replace(&FsDisk, &house.path("member.pem"), whole.as_bytes()).unwrap();
    atomic_replace(&FsDisk, &house.path("member-ca.pem"), enrolled.ca_pem.as_bytes()).unwrap();
    let identity = format!(r#"{{"coordinator":"{}"}}"#, coordinator.address());
    std::fs::write(house.path("identity.json"), identity).unwrap();
    let mut brokers = Vec::new();
    for (id, host) in [("1", "localhost"), ("2", "127.0.0.1")] {
        let (asked, key) = request("broker1", "secret", id, &[host]);
        let enrolled = enroll(&coordinator, house.sha256, &asked).await.unwrap();
        house.put(id, &enrolled.certificate_pem, &key);
        brokers.push(house.serve(id, host).await);
    }
    let files = ClientTlsFiles {
        ca: house.path("member-ca.pem"),
        cert: Some(house.path("member.pem")),
        key: Some(house.path("member.pem")),
        server_name: None,
    };
    let tls = ClientTls::load(&files).unwrap();
    let context = Context::default();
    Certificates { clients: vec![tls.clone()], ..Certificates::default() }.keep(&context);
    let meet = async |broker: &HostPort| dial(broker, Some(&tls), PATIENCE).await.map(drop);
    for broker in &brokers {
        meet(broker).await.unwrap();
    }
    let admin = house.connect(&coordinator, "admin").await;
    let which = CertificateRef::Member { role: Role::Broker, id: "1".into() };
    let _revoked: Vec<IssuedCertificate> =
        ask(&admin, ApiKey::RevokeCertificates, &which).await.unwrap();
    let refused = async {
        loop {
            if let Err(error) = meet(&brokers[0]).await {
                return error.to_string();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let error =
        tokio::time::timeout(PATIENCE, refused).await.expect("that it was revoked is heard");
    assert!(error.contains("the server's certificate was revoked; try: "), "{error}");
    meet(&brokers[1]).await.unwrap();
    context.tasks.stop(Deadline::after(PATIENCE)).await.unwrap();
    stop(coordinator).await;
}

#[tokio::test]
async fn another_ca_an_expired_and_a_foreign_request_are_refused_and_say_why() {
    let house = House::new();
    let (coordinator, _context) = house.start().await;
    house.token(&coordinator, Role::Agent, "agent1", 1, Duration::from_millis(1)).await;
    let (asked, _) = request("agent1", "secret", "web1", &[]);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let error = enroll(&coordinator, house.sha256, &asked).await.unwrap_err();
    assert!(error.contains("token agent1 expired"), "{error}");
    let error = enroll(&coordinator, Sha256([1; 32]), &asked).await.unwrap_err();
    assert!(error.contains("does not show the CA that the token names"), "{error}");
    house.token(&coordinator, Role::Broker, "broker1", 1, LIFE).await;
    let (wild, _) = request("broker1", "secret", "1", &["*.example.com"]);
    let error = enroll(&coordinator, house.sha256, &wild).await.unwrap_err();
    assert!(error.contains("is no name of a host"), "{error}");
    let (mut broken, _) = request("broker1", "secret", "1", &["a"]);
    broken.csr = "-----BEGIN CERTIFICATE REQUEST-----".into();
    let error = enroll(&coordinator, house.sha256, &broken).await.unwrap_err();
    assert!(error.contains("request cannot be read"), "{error}");
    // Nothing else is served there: no Kafka API, and no frame that is larger than a request is.
    let address = HostPort::from(coordinator.enrolls_at().unwrap());
    let tls = ClientTls::pinned(house.sha256).unwrap();
    let stream = dial(&address, Some(&tls), PATIENCE).await.unwrap();
    let kafka = RpcConnection::start(stream, "enrolment", RpcOptions::default());
    let error = ask::<_, Membership>(&kafka, ApiKey::DescribeMembership, &()).await.unwrap_err();
    assert!(error.contains("ended") || error.contains("cannot be read"), "{error}");
    stop(coordinator).await;
    let exposed = PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(house.path("coordinator.key"), exposed).unwrap();
    let error = Config::load(&house.path("coordinator.yaml")).unwrap_err().to_string();
    let command = format!("chmod 0600 {}", house.path("coordinator.key").display());
    assert!(error.contains(&command), "{error}");
}

#[tokio::test]
async fn guesses_get_nowhere_and_are_limited() {
    let house = House::new();
    let (coordinator, context) = house.start().await;
    house.token(&coordinator, Role::Agent, "agent1", 1, LIFE).await;
    let (mut asked, _) = request("agent1", "", "web1", &[]);
    let (mut refused, mut throttled) = (0, 0);
    for guess in 0..500 {
        asked.secret = Secret::new(format!("{guess:032x}"));
        let error = enroll(&coordinator, house.sha256, &asked).await.unwrap_err();
        if error.contains("too many wrong attempts: try again in") {
            throttled += 1;
        } else {
            assert!(error.contains("not known here"), "{error}");
            refused += 1;
        }
    }
    // Ten at once and one each six seconds, however long it took.
    let looked_at = 11 + context.clock.mono().as_millis() / 6_000;
    assert!((10..=looked_at).contains(&refused), "{refused} were looked at, {throttled} not");
    let metrics = context.metrics.encode();
    let count = format!("tailway_coordinator_enrollments_throttled_total {throttled}");
    assert!(metrics.contains(&count), "{metrics}");
    let admin = house.connect(&coordinator, "admin").await;
    let members: Membership = ask(&admin, ApiKey::DescribeMembership, &()).await.unwrap();
    assert_eq!((members.tokens[0].used, members.certificates.len()), (0, 2));
    stop(coordinator).await;
}
