//! Two ends of real sockets: every way in which a connection fails says so in the right words.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType,
    date_time_ymd,
};
use tailway_net::{
    Accepted, ClientAuth, ClientTls, ClientTlsFiles, FrameReader, HandshakeError, HostPort, Limits,
    Listener, RpcConnection, RpcOptions, Security, ServerTls, ServerTlsFiles, dial,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const TIMEOUT: Duration = Duration::from_secs(5);

/// A CA and what it signs, as PEM files.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::named("test CA")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs `NAME.pem` and `NAME.key`.
    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> &Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
        let uri = format!("spiffe://c1/broker/{name}");
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().unwrap()));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let path = self.path(&format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        self
    }

    fn server(&self, name: &str, client_auth: ClientAuth) -> Security {
        let files = ServerTlsFiles {
            cert: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            client_ca: Some(self.path("ca.pem")),
            client_auth,
        };
        Security::Tls(ServerTls::load(&files).unwrap())
    }

    fn client(&self, certificate: Option<(&Authority, &str)>) -> ClientTls {
        let file =
            |end| certificate.map(|(authority, name)| authority.path(&format!("{name}.{end}")));
        let files = ClientTlsFiles {
            ca: self.path("ca.pem"),
            cert: file("pem"),
            key: file("key"),
            server_name: None,
        };
        ClientTls::load(&files).unwrap()
    }
}

fn at(host: &str, port: u16) -> HostPort {
    HostPort::new(host, port)
}

type Taken = JoinHandle<Result<Accepted, HandshakeError>>;

/// A listener that takes one connection, and what became of it.
async fn listen(security: Security) -> (HostPort, Taken) {
    listen_on("127.0.0.1", security).await
}

async fn listen_on(host: &str, security: Security) -> (HostPort, Taken) {
    let limits = Limits { handshake_timeout: Duration::from_millis(500), ..Limits::default() };
    let listener = Listener::bind(&at(host, 0), security, limits).await.unwrap();
    let address = HostPort::from(listener.local_addr());
    let taken =
        tailway_runtime::spawn(async move { listener.accept().await.unwrap().establish().await });
    (address, taken)
}

/// The client's error text, and the server's, of a connection that must not come about.
async fn refused(security: Security, host: &str, tls: &ClientTls) -> (String, String) {
    let ip = if host == "localhost" { "127.0.0.1" } else { host };
    let (address, taken) = listen_on(ip, security).await;
    let dialed = dial(&at(host, address.port), Some(tls), TIMEOUT).await;
    let error = dialed.expect_err("this must not connect").to_string();
    let server = taken.await.unwrap().expect_err("this must not be taken").to_string();
    (error, server)
}

#[tokio::test]
async fn both_ends_agree_and_know_each_other() {
    let authority = Authority::new();
    authority.sign("7", |_| {}).sign("shipper", |params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, "shipper");
    });
    for (client_auth, certificate, identity) in [
        (ClientAuth::None, Some("7"), None),
        (ClientAuth::Optional, None, None),
        (ClientAuth::Optional, Some("7"), Some("spiffe://c1/broker/7")),
        (ClientAuth::Required, Some("shipper"), Some("CN=shipper")),
    ] {
        let tls = authority.client(certificate.map(|name| (&authority, name)));
        let (address, taken) = listen(authority.server("7", client_auth)).await;
        let mut near = dial(&at("localhost", address.port), Some(&tls), TIMEOUT).await.unwrap();
        let mut far = taken.await.unwrap().unwrap();
        let seen = far.identity.as_ref().map(ToString::to_string);
        assert_eq!(seen.as_deref(), identity, "{client_auth:?} {certificate:?}");
        assert!(near.peer_identity().unwrap().has_role("c1", "broker"));
        near.write_all(b"ping").await.unwrap();
        near.flush().await.unwrap();
        let mut heard = [0; 4];
        far.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"ping");
    }
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_told_apart() {
    // A CA made anew has the old one's name; that is another error inside, and the same outside.
    let (ours, other, anew) = (Authority::new(), Authority::named("other"), Authority::new());
    ours.sign("good", |_| {})
        .sign("expired", |params| params.not_after = date_time_ymd(2020, 1, 2))
        .sign("future", |params| params.not_before = date_time_ymd(2090, 1, 2));
    let plain = ours.client(None);

    for wrong in [&other, &anew] {
        wrong.sign("good", |_| {});
        let (error, server) =
            refused(wrong.server("good", ClientAuth::None), "localhost", &plain).await;
        assert!(error.contains("not signed by the configured CA"), "{error}");
        assert!(error.contains("ca.pem the CA of this cluster?"), "{error}");
        assert!(server.contains("client does not trust this listener's certificate"), "{server}");
    }

    let (error, _) = refused(ours.server("good", ClientAuth::None), "127.0.0.2", &plain).await;
    assert!(error.contains("is for `localhost`, `127.0.0.1`"), "{error}");
    assert!(error.contains("not for `127.0.0.2`"), "{error}");
    assert!(error.contains("try: connect by one of these names"), "{error}");

    let (error, _) = refused(ours.server("expired", ClientAuth::None), "localhost", &plain).await;
    assert!(
        error.contains("expired at 2020-01-02T00:00:00Z, this host's clock says 20"),
        "{error}"
    );

    let (error, _) = refused(ours.server("future", ClientAuth::None), "localhost", &plain).await;
    assert!(error.contains("valid from 2090-01-02T00:00:00Z, this host's clock says"), "{error}");
    assert!(error.contains("timedatectl"), "{error}");
}

/// In TLS 1.3 the client is done before the server has judged its certificate, so the refusal
/// arrives with the first answer.
#[tokio::test]
async fn a_refused_client_certificate_is_explained_by_the_first_call() {
    let (ours, other) = (Authority::new(), Authority::new());
    ours.sign("good", |_| {});
    other.sign("good", |_| {});
    for (certificate, client_says, server_says) in [
        (
            None,
            "the server requires a certificate from us: configure tls.cert",
            "presented no certificate",
        ),
        (Some((&other, "good")), "client CA has signed", "not signed by this listener's client CA"),
    ] {
        let (address, taken) = listen(ours.server("good", ClientAuth::Required)).await;
        let stream = dial(&address, Some(&ours.client(certificate)), TIMEOUT).await.unwrap();
        let connection = RpcConnection::start(stream, "broker 1", RpcOptions::default());
        let server = taken.await.unwrap().unwrap_err().to_string();
        assert!(server.contains(server_says), "{server}");
        let error = connection.closed().await.to_string();
        assert!(error.contains(client_says), "{error}");
    }
}

#[tokio::test]
async fn tls_and_plaintext_recognise_each_other() {
    let authority = Authority::new();
    authority.sign("good", |_| {});
    // TLS to a plaintext port: the server sees it in the first frame.
    let (address, taken) = listen(Security::Plaintext).await;
    let server = tailway_runtime::spawn(async move {
        let accepted = taken.await.unwrap().unwrap();
        FrameReader::new(accepted.stream, 1 << 20).next().await.unwrap_err().to_string()
    });
    let dialed = dial(&address, Some(&authority.client(None)), TIMEOUT).await;
    let error = dialed.unwrap_err().to_string();
    assert!(error.contains("the port is probably plaintext; try: connect without TLS"), "{error}");
    assert!(server.await.unwrap().contains("the peer speaks TLS, this port is plaintext"));

    // Plaintext to a TLS port: the server names the client.
    let (address, taken) = listen(authority.server("good", ClientAuth::None)).await;
    let mut stream = dial(&address, None, TIMEOUT).await.unwrap();
    stream.write_all(b"\0\0\0\x11\0\x12\0\x03\0\0\0\x01\0\x07rdkafka").await.unwrap();
    let server = taken.await.unwrap().unwrap_err().to_string();
    assert!(server.contains("the Kafka client `rdkafka` speaks plaintext to this TLS"), "{server}");
    let mut end = Vec::new();
    // Closed or reset, but at once.
    drop(tokio::time::timeout(TIMEOUT, stream.read_to_end(&mut end)).await.expect("closed"));
}

#[tokio::test]
async fn slow_and_silent_clients_are_dropped() {
    let authority = Authority::new();
    authority.sign("good", |_| {});
    let (address, taken) = listen(authority.server("good", ClientAuth::None)).await;
    let idle = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
    let error = taken.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("no TLS handshake within 500ms"), "{error}");
    drop(idle);

    let (address, taken) = listen(authority.server("good", ClientAuth::None)).await;
    drop(TcpStream::connect((address.host.as_str(), address.port)).await.unwrap());
    let error = taken.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("closed before anything was sent"), "{error}");
    assert!(!error.failure.is_broken_off());
}

/// A client that is stopped while it connects is nobody's trouble; one that refuses us says so.
#[tokio::test]
async fn a_client_that_goes_away_in_the_handshake_is_told_apart() {
    let authority = Authority::new();
    authority.sign("good", |_| {});
    for hello in [&b"\x16"[..], b"\x16\x03\x01\x02\x00\x01"] {
        let (address, taken) = listen(authority.server("good", ClientAuth::None)).await;
        let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
        stream.write_all(hello).await.unwrap();
        drop(stream);
        let error = taken.await.unwrap().unwrap_err();
        assert!(error.failure.is_broken_off(), "{error}");
    }
    let (address, taken) = listen(authority.server("good", ClientAuth::None)).await;
    let other = Authority::named("another CA");
    let stranger = ClientTls::load(&ClientTlsFiles {
        ca: other.path("ca.pem"),
        cert: None,
        key: None,
        server_name: None,
    });
    dial(&address, Some(&stranger.unwrap()), TIMEOUT).await.unwrap_err();
    let error = taken.await.unwrap().unwrap_err();
    assert!(!error.failure.is_broken_off(), "{error}");
}

#[tokio::test]
async fn the_cap_on_connections_holds_and_frees() {
    let limits = Limits { connections_max: 1, ..Limits::default() };
    let listener = Listener::bind(&at("127.0.0.1", 0), Security::Plaintext, limits).await.unwrap();
    let address = listener.local_addr();
    let _first = TcpStream::connect(address).await.unwrap();
    let first = listener.accept().await.unwrap().establish().await.unwrap();
    assert_eq!(listener.open_connections(), 1);
    let mut second = TcpStream::connect(address).await.unwrap();
    let error = listener.accept().await.unwrap_err().to_string();
    assert!(error.contains("1 connections are open, which is the limit"), "{error}");
    assert_eq!(second.read(&mut [0; 1]).await.unwrap(), 0, "closed at once");
    drop(first);
    let _third = TcpStream::connect(address).await.unwrap();
    assert!(listener.accept().await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_reached_says_why_and_what_next() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let error = dial(&at("localhost", free), None, TIMEOUT).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot connect to localhost:{free} over plaintext (tried "))
    );
    assert!(error.contains("connection refused: nothing listens on that port"), "{error}");
    assert!(error.contains(&format!("ss -ltn 'sport = :{free}'")), "{error}");

    let error = dial(&at("no-such-host.invalid", 1), None, TIMEOUT).await.unwrap_err().to_string();
    assert!(error.contains("the name `no-such-host.invalid` does not resolve"), "{error}");
    assert!(error.contains("try: getent hosts no-such-host.invalid"), "{error}");

    // A listener whose backlog is never served: TCP connects, TLS gets no answer.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = Authority::new().client(None);
    let address = HostPort::from(silent.local_addr().unwrap());
    let error = dial(&address, Some(&tls), Duration::from_millis(100)).await.unwrap_err();
    assert!(error.to_string().contains("handshake was not answered within 100ms"), "{error}");
}

#[tokio::test]
async fn a_held_port_names_its_holder() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let bound =
        Listener::bind(&at("127.0.0.1", port), Security::Plaintext, Limits::default()).await;
    let error = bound.unwrap_err().to_string();
    assert!(
        error.contains(&format!("the port is held by pid {} (", std::process::id())),
        "{error}"
    );

    let foreign = at("192.0.2.1", 0);
    let bound = Listener::bind(&foreign, Security::Plaintext, Limits::default()).await;
    let error = bound.unwrap_err().to_string();
    assert!(error.contains("192.0.2.1 is no address of this host"), "{error}");
}

#[test]
fn unusable_tls_files_are_named() {
    let authority = Authority::new();
    authority.sign("a", |_| {}).sign("b", |_| {});
    std::fs::write(authority.path("empty.pem"), "nothing here\n").unwrap();
    let broken = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    std::fs::write(authority.path("broken.pem"), broken).unwrap();
    let load = |ca: &str, cert: &str, key: &str| {
        let given = |name: &str| (!name.is_empty()).then(|| authority.path(name));
        let files = ClientTlsFiles {
            ca: authority.path(ca),
            cert: given(cert),
            key: given(key),
            server_name: None,
        };
        ClientTls::load(&files).unwrap_err()
    };
    for ((ca, cert, key), text, config_key) in [
        (("missing.pem", "", ""), "cannot read CA", ".ca"),
        (("empty.pem", "", ""), "empty.pem has no certificate in it", ".ca"),
        (("broken.pem", "", ""), "broken.pem is no PEM", ".ca"),
        (("ca.pem", "a.pem", ""), "tls.key is missing", ""),
        (("ca.pem", "", "a.key"), "tls.cert is missing", ""),
        (("ca.pem", "empty.pem", "a.key"), "empty.pem has no certificate in it", ".cert"),
        (("ca.pem", "a.pem", "b.key"), "do not go together", ".cert"),
        (("ca.pem", "a.pem", "a.pem"), "a.pem has no private key in it", ".key"),
    ] {
        let error = load(ca, cert, key);
        assert!(error.to_string().contains(text), "{error}");
        assert_eq!(error.config_key(), config_key, "{error}");
    }
    let files = ServerTlsFiles {
        cert: authority.path("a.pem"),
        key: authority.path("a.key"),
        client_ca: None,
        client_auth: ClientAuth::Required,
    };
    let error = ServerTls::load(&files).unwrap_err().to_string();
    assert!(error.contains("no CA is named"), "{error}");
}

#[test]
fn a_key_that_others_may_read_is_refused_with_the_command() {
    let authority = Authority::new();
    authority.sign("a", |_| {});
    let files = ServerTlsFiles {
        cert: authority.path("a.pem"),
        key: authority.path("a.key"),
        client_ca: None,
        client_auth: ClientAuth::None,
    };
    for (mode, good) in [
        (0o600, true),
        (0o400, true),
        (0o640, true),
        (0o660, false),
        (0o650, false),
        (0o604, false),
        (0o602, false),
        (0o644, false),
    ] {
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(mode)).unwrap();
        match ServerTls::load(&files) {
            Ok(_) => assert!(good, "{mode:o}"),
            Err(error) => {
                let command = format!("(mode {mode:04o}): chmod 0600 {}", files.key.display());
                assert!(!good && error.to_string().contains(&command), "{mode:o}: {error}");
            }
        }
    }
}
