//! Certificates that must be refused, as a server to our client and as a client to our listener: each by the check that is
//! meant for it, named in the error.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, ServerName};
use tailway_metadata::security::Serial;
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{
    ClientAuth, ClientTls, ClientTlsFiles, HostPort, Limits, Listener, PeerIdentity, Security,
    ServerTls, ServerTlsFiles, Stream, dial,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);
type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: &str) -> Ca {
    CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap()
}

/// A good certificate for `localhost` and 127.0.0.1, for both uses.
fn good() -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn named(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let fresh = CertificateParams::new(names).unwrap();
    let mut params = good();
    params.subject_alt_names = fresh.subject_alt_names;
    params
}

fn for_use(usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = good();
    params.extended_key_usages = vec![usage];
    params
}

struct Pki {
    dir: tempfile::TempDir,
    ca: Ca,
}

impl Pki {
    fn new() -> Pki {
        let dir = tempfile::tempdir().unwrap();
        let ca = ca("the CA");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).unwrap();
        let pki = Pki { dir, ca };
        pki.sign("good", good(), &pki.ca);
        pki
    }

    fn put(&self, name: &str, pem: &str, key: &KeyPair) {
        std::fs::write(self.path(name, "pem"), pem).unwrap();
        let path = self.path(name, "key");
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn sign(&self, name: &str, params: CertificateParams, issuer: &Ca) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        self.put(name, &certificate.pem(), &key);
    }

    fn path(&self, name: &str, end: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.{end}"))
    }

    fn server(&self, name: &str) -> Security {
        let files = ServerTlsFiles {
            cert: self.path(name, "pem"),
            key: self.path(name, "key"),
            client_ca: Some(self.path("ca", "pem")),
            client_auth: ClientAuth::Required,
        };
        Security::Tls(ServerTls::load(&files).unwrap())
    }

    fn client(&self, name: &str) -> ClientTls {
        let files = ClientTlsFiles {
            ca: self.path("ca", "pem"),
            cert: Some(self.path(name, "pem")),
            key: Some(self.path(name, "key")),
            server_name: None,
        };
        ClientTls::load(&files).unwrap()
    }

    /// What the client, dialing `host`, and the server say of a connection between these two; empty: nothing is wrong.
    async fn meet(&self, server: &str, client: &str, host: &str) -> (String, String) {
        self.meet_at(self.server(server), client, host).await
    }

    async fn meet_at(&self, server: Security, client: &str, host: &str) -> (String, String) {
        let address = HostPort::new("127.0.0.1", 0);
        let bound = Listener::bind(&address, server, Limits::default()).await.unwrap();
        let port = bound.local_addr().port();
        let taken = tailway_runtime::spawn(async move {
            let taken = bound.accept().await.unwrap().establish().await;
            let mut accepted = taken.map_err(|error| error.to_string())?;
            accepted.stream.write_all(b"!").await.unwrap();
            accepted.stream.flush().await.unwrap();
            Ok::<(), String>(())
        });
        let dialed = dial(&HostPort::new(host, port), Some(&self.client(client)), TIMEOUT).await;
        let said = match dialed {
            Ok(mut stream) => {
                // TLS 1.3 tells a client of its refused certificate with the first read.
                let read = stream.read(&mut [0; 1]).await;
                read.err().map(|error| tailway_net::explain::io_error(&error)).unwrap_or_default()
            }
            Err(error) => error.to_string(),
        };
        (said, taken.await.unwrap().err().unwrap_or_default())
    }
}

/// Name of the case, the certificate, and what a client of such a server and a server of such a client say; `None` where it
/// is no reason to refuse: hosts' names are not asked of clients.
type Case = (&'static str, CertificateParams, Option<&'static str>, Option<&'static str>);

fn signed_cases() -> Vec<Case> {
    let mut expired = good();
    (expired.not_before, expired.not_after) =
        (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let mut future = good();
    (future.not_before, future.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let mut cn_only = named(&[]);
    cn_only.distinguished_name.push(DnType::CommonName, "localhost");
    let not_now = Some("it is valid from 2090-01-01T00:00:00Z, this host's clock says 20");
    let over = Some("it expired at 2021-01-01T00:00:00Z, this host's clock says 20");
    let clients = for_use(ExtendedKeyUsagePurpose::ClientAuth);
    let servers = for_use(ExtendedKeyUsagePurpose::ServerAuth);
    vec![
        (
            "name",
            named(&["other.example"]),
            Some("is for `other.example`, not for `localhost`"),
            None,
        ),
        ("ip", named(&["192.0.2.7"]), Some("is for `192.0.2.7`, not for `localhost`"), None),
        ("expired", expired, over, over),
        ("not-yet-valid", future, not_now, not_now),
        ("for-clients", clients, Some("is not for use by a server (extended key usage)"), None),
        ("for-servers", servers, None, Some("is not for use by a client (extended key usage)")),
        ("cn-only", cn_only, Some("names no host, and not `localhost`"), None),
        // RFC 6125: a wildcard stands for one label, and never for a name without a dot.
        ("wildcard", named(&["*.localhost"]), Some("not for `localhost`"), None),
    ]
}

#[tokio::test]
async fn each_bad_certificate_is_refused_by_its_own_check() {
    let pki = Pki::new();
    assert_eq!(pki.meet("good", "good", "localhost").await, (String::new(), String::new()));
    assert_eq!(pki.meet("good", "good", "127.0.0.1").await, (String::new(), String::new()));
    for (name, params, to_client, to_server) in signed_cases() {
        pki.sign(name, params, &pki.ca);
        check(&pki, name, to_client, to_server).await;
    }
    let unknown = Some("is not signed by");
    // Another CA of the same name.
    pki.sign("wrong-ca", good(), &ca("the CA"));
    check(&pki, "wrong-ca", unknown, unknown).await;
    let key = KeyPair::generate().unwrap();
    let own = good().self_signed(&key).unwrap();
    pki.put("self-signed", &own.pem(), &key);
    check(&pki, "self-signed", unknown, unknown).await;
    // Signed by a CA that our CA has signed: good with it, refused without.
    let between =
        CertifiedIssuer::signed_by(ca_params("between"), KeyPair::generate().unwrap(), &pki.ca)
            .unwrap();
    pki.sign("no-intermediate", good(), &between);
    check(&pki, "no-intermediate", unknown, unknown).await;
    let leaf = std::fs::read_to_string(pki.path("no-intermediate", "pem")).unwrap();
    std::fs::write(pki.path("no-intermediate", "pem"), leaf + &between.pem()).unwrap();
    check(&pki, "no-intermediate", None, None).await;
}

async fn check(pki: &Pki, name: &str, to_client: Option<&str>, to_server: Option<&str>) {
    let (said, _) = pki.meet(name, "good", "localhost").await;
    compare(&format!("client of a server with {name}"), &said, to_client);
    let (at_client, said) = pki.meet("good", name, "localhost").await;
    compare(&format!("server of a client with {name}"), &said, to_server);
    // The refused client learns it too, with both clocks where they are what is wrong.
    assert_eq!(at_client.is_empty(), to_server.is_none(), "{name}: {at_client}");
    if let Some(clocks) = to_server.and_then(|said| said.strip_prefix("it ")) {
        let own = format!("{} {clocks}", pki.path(name, "pem").display());
        assert!(at_client.contains(&own), "{name}: {at_client}");
    }
}

fn compare(who: &str, said: &str, expected: Option<&str>) {
    match expected {
        Some(expected) => assert!(said.contains(expected), "{who} says: {said:?}"),
        None => assert_eq!(said, "", "{who}"),
    }
}

fn serial_of(pki: &Pki, name: &str) -> Serial {
    let chain = read_certificates(TlsFile::Certificate, &pki.path(name, "pem")).unwrap();
    PeerIdentity::from_certificate(&chain[0]).unwrap().serial
}

#[tokio::test]
async fn a_revoked_client_is_refused_in_the_handshake_and_told() {
    let pki = Pki::new();
    pki.sign("gone", good(), &pki.ca);
    let serial = serial_of(&pki, "gone");
    let Security::Tls(tls) = pki.server("good") else { unreachable!("it is TLS") };
    tls.refuse_revoked(move |asked| *asked == serial);
    for (client, at_client, at_server) in [
        ("good", "", ""),
        (
            "gone",
            "the server does not accept our certificate (CertificateRevoked)",
            "the client's certificate was revoked",
        ),
    ] {
        let (to_client, to_server) =
            pki.meet_at(Security::Tls(tls.clone()), client, "localhost").await;
        assert!(to_client.contains(at_client), "{client}: {to_client}");
        assert!(to_server.contains(at_server), "{client}: {to_server}");
        assert_eq!(to_server.is_empty(), at_server.is_empty(), "{client}: {to_server}");
    }
    tls.reload().unwrap();
    let (_, to_server) = pki.meet_at(Security::Tls(tls), "gone", "localhost").await;
    assert!(to_server.contains("was revoked"), "after a reload: {to_server}");
}

/// What a CA has revoked, written behind its certificate.
fn list(issuer: &Ca, serials: &[Serial]) -> String {
    let revoked = |serial: &Serial| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&serial.octets().unwrap()),
        revocation_time: date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2026, 1, 1),
        // Over: a host that cannot ask for a newer one goes by it.
        next_update: date_time_ymd(2026, 1, 2),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: serials.iter().map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(issuer).unwrap().pem().unwrap()
}

#[tokio::test]
async fn what_the_file_of_cas_says_was_revoked_is_refused_and_said_so() {
    let pki = Pki::new();
    pki.sign("gone", good(), &pki.ca);
    let path = pki.path("ca", "pem");
    let alone = std::fs::read_to_string(&path).unwrap();
    let gone = serial_of(&pki, "gone");
    let (client, Security::Tls(server)) = (pki.client("good"), pki.server("good")) else {
        unreachable!("it is TLS")
    };
    for (revoked, to_client, to_server) in [
        (vec![], None, None),
        (
            vec![Serial("07".into()), gone.clone()],
            Some("the server's certificate was revoked; try: ask an admin"),
            Some("the client's certificate was revoked"),
        ),
    ] {
        // Another CA's list says nothing about ours, also where it names the number.
        let others = list(&ca("another CA"), std::slice::from_ref(&gone));
        std::fs::write(&path, format!("{alone}{}{others}", list(&pki.ca, &revoked))).unwrap();
        check(&pki, "gone", to_client, to_server).await;
        assert_eq!(pki.meet("good", "good", "localhost").await, (String::new(), String::new()));
    }
    // Those that are there already: hot.
    let (_, to_server) = pki.meet_at(Security::Tls(server.clone()), "gone", "localhost").await;
    assert_eq!(to_server, "");
    server.reload().unwrap();
    client.reload().unwrap();
    let (_, to_server) = pki.meet_at(Security::Tls(server), "gone", "localhost").await;
    assert!(to_server.contains("was revoked"), "{to_server}");
    // A list in the name of our CA that it has not signed is not believed, and neither is what it is about.
    std::fs::write(&path, format!("{alone}{}", list(&ca("the CA"), &[gone]))).unwrap();
    let (said, _) = pki.meet("good", "good", "localhost").await;
    assert!(!said.is_empty());
    let broken = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    std::fs::write(&path, format!("{alone}{broken}")).unwrap();
    let error = client.reload().unwrap_err().to_string();
    assert!(error.contains("ca.pem cannot be used") && error.contains("CRL"), "{error}");
}

/// A resumed session would show no certificate: what was revoked, or has expired, since the first one would be let in.
#[tokio::test]
async fn no_session_is_resumed_by_listeners_or_dialers() {
    let pki = Pki::new();
    let read = async |mut stream: Stream| {
        // Tickets come with the first answer.
        stream.read_exact(&mut [0; 1]).await.map(drop)
    };
    // Our listener and a client that would resume: anybody's rustls.
    let Security::Tls(tls) = pki.server("good") else { unreachable!("it is TLS") };
    let is_revoked = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&is_revoked);
    tls.refuse_revoked(move |_| asked.load(Ordering::Relaxed));
    let limits = Limits::default();
    let listener =
        Listener::bind(&HostPort::new("127.0.0.1", 0), Security::Tls(tls), limits).await.unwrap();
    let port = listener.local_addr().port();
    let accepting = tailway_runtime::spawn(async move {
        loop {
            if let Ok(mut accepted) = listener.accept().await.unwrap().establish().await {
                accepted.stream.write_all(b"!").await.unwrap();
                accepted.stream.flush().await.unwrap();
            }
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        |name: &str| read_certificates(TlsFile::Certificate, &pki.path(name, "pem")).unwrap();
    roots.add(certificates("ca").remove(0)).unwrap();
    let key = PrivateKeyDer::from_pem_file(pki.path("good", "key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let eager = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("good"), key.clone_key())
        .unwrap();
    let eager = tokio_rustls::TlsConnector::from(Arc::new(eager));
    let again = async || {
        let tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        read(Stream::TlsClient(Box::new(eager.connect(name, tcp).await?), None)).await
    };
    again().await.unwrap();
    again().await.unwrap();
    is_revoked.store(true, Ordering::Relaxed);
    let error = again().await.unwrap_err();
    assert!(error.to_string().contains("CertificateRevoked"), "{error}");
    accepting.abort();
    // Our dialer and a server that would resume.
    let generous = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates("good"), key)
        .unwrap();
    let generous = tokio_rustls::TlsAcceptor::from(Arc::new(generous));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = HostPort::new("localhost", listener.local_addr().unwrap().port());
    let accepting = tailway_runtime::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream = generous.accept(tcp).await.unwrap();
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    let client = pki.client("good");
    for _ in 0..3 {
        let stream = dial(&address, Some(&client), TIMEOUT).await.unwrap();
        let Stream::TlsClient(tls, _) = &stream else { unreachable!("it is TLS") };
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
        read(stream).await.unwrap();
    }
    accepting.abort();
}

/// What is tested above, in a process of its own, without the check.
#[test]
fn the_check_of_revocations_is_missed_when_it_is_left_out() {
    for (test, plant) in [
        ("a_revoked_client_is_refused_in_the_handshake_and_told", "net.revoked_accepted"),
        (
            "what_the_file_of_cas_says_was_revoked_is_refused_and_said_so",
            "net.revoked_server_believed",
        ),
    ] {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", test]);
        let output = child.env("TAILWAY_PLANT", plant).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && text.contains("panicked"), "{plant}: {text}");
    }
}

/// What was loaded before goes on until `reload`, and over a reload that fails.
#[tokio::test]
async fn certificates_are_replaced_while_listeners_and_dialers_live() {
    let pki = Pki::new();
    let load = |name: &str| match pki.server(name) {
        Security::Tls(tls) => tls,
        Security::Plaintext => unreachable!("it is TLS"),
    };
    let (server, client) = (load("good"), pki.client("good"));
    let limits = Limits::default();
    let security = Security::Tls(server.clone());
    let listener = Listener::bind(&HostPort::new("127.0.0.1", 0), security, limits).await.unwrap();
    let address = HostPort::new("localhost", listener.local_addr().port());
    let accepting = tailway_runtime::spawn(async move {
        loop {
            let incoming = listener.accept().await.unwrap();
            tailway_runtime::spawn(async move { incoming.establish().await.map(drop) });
        }
    });
    let try_it = async || dial(&address, Some(&client), TIMEOUT).await.map(drop);
    try_it().await.unwrap();
    // A new CA, and new certificates of it, in the old places.
    let fresh = ca("the next CA");
    std::fs::write(pki.path("ca", "pem"), fresh.pem()).unwrap();
    pki.sign("good", good(), &fresh);
    try_it().await.unwrap();
    server.reload().unwrap();
    let error = try_it().await.unwrap_err().to_string();
    assert!(error.contains("is not signed by"), "the client has the old CA: {error}");
    client.reload().unwrap();
    try_it().await.unwrap();
    std::fs::write(pki.path("good", "key"), "").unwrap();
    assert!(server.reload().is_err() && client.reload().is_err());
    try_it().await.unwrap();
    accepting.abort();
}
