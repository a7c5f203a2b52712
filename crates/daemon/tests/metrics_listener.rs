//! Metrics for other hosts over real TLS: to clients and admins of the cluster, and to nobody else.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde::{Deserialize, Serialize};
use tailway_daemon::admin::{Admin, Heart};
use tailway_daemon::config::common::{AdminConfig, OwnTls, RawMetricsTls};
use tailway_daemon::config::load_text;
use tailway_daemon::{Context, MetricsListener};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TIMEOUT: Duration = Duration::from_secs(10);

struct Pki {
    dir: tempfile::TempDir,
}

impl Pki {
    fn new() -> Pki {
        let pki = Pki { dir: tempfile::tempdir().unwrap() };
        for (name, leaves) in [
            ("ca", &["broker/1", "client/prometheus", "admin/root", "agent/web1"][..]),
            ("other", &["client/stranger"][..]),
        ] {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            std::fs::write(pki.path(&format!("{name}.pem")), pem).unwrap();
            let issuer = Issuer::new(params, key);
            for leaf in leaves {
                pki.sign(&issuer, &leaf.replace('/', "-"), &format!("spiffe://c1/{leaf}"));
            }
            if name == "ca" {
                pki.sign(&issuer, "elsewhere", "spiffe://c2/client/prometheus");
            }
        }
        pki
    }

    fn sign(&self, issuer: &Issuer<'_, KeyPair>, name: &str, uri: &str) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        let path = self.path(&format!("{name}.key"));
        std::fs::write(&path, key.serialize_pem()).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn server(&self) -> RawMetricsTls {
        RawMetricsTls {
            ca: self.path("ca.pem"),
            cert: self.path("broker-1.pem"),
            key: self.path("broker-1.key"),
        }
    }

    fn own(&self) -> OwnTls {
        OwnTls { server: Some(self.server()), cluster: Some("c1".into()) }
    }

    /// As the one with that name; `None`: without a certificate.
    fn client(&self, name: Option<&str>) -> ClientTls {
        let file = |end: &str| name.map(|name| self.path(&format!("{name}.{end}")));
        let files = ClientTlsFiles {
            ca: self.path("ca.pem"),
            cert: file("pem"),
            key: file("key"),
            server_name: None,
        };
        ClientTls::load(&files).unwrap()
    }
}

#[derive(Serialize, Deserialize)]
struct Raw {
    admin: AdminConfig,
}

/// What a configuration means, or its problems.
fn checked(metrics: &str, own: OwnTls) -> Result<Option<MetricsListener>, String> {
    let text = format!("admin:\n  address: 127.0.0.1:0\n  metrics:\n{metrics}");
    let (raw, mut problems) =
        load_text::<Raw>(Path::new("f.yaml"), &text).map_err(|problems| problems.to_string())?;
    let listener = raw.admin.metrics.check(own, &mut problems);
    problems.finish(listener).map_err(|problems| problems.to_string())
}

fn serve(listener: Option<MetricsListener>) -> Result<Admin, String> {
    let context = Context::default();
    context.metrics.counter("tailway_test_things", "Things").inc();
    context.ready.condition("test", "not yet").holds();
    let heart = Heart::new(context.clock.clone());
    let loopback = "127.0.0.1:0".parse().unwrap();
    Admin::start("tailway-test", loopback, listener, context, heart)
        .map_err(|error| error.to_string())
}

/// What the server answers to GET, or why there is no answer.
async fn get(
    address: &HostPort,
    tls: Option<&ClientTls>,
    path: &str,
) -> Result<(u16, String), String> {
    let mut stream = dial(address, tls, TIMEOUT).await.map_err(|error| error.to_string())?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut answer = String::new();
    let asked = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        stream.read_to_string(&mut answer).await
    };
    let asked = tokio::time::timeout(TIMEOUT, asked).await.unwrap();
    asked.map_err(|error| tailway_net::explain::io_error(&error))?;
    let code = answer.split(' ').nth(1).ok_or("it was closed without an answer")?;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok((code.parse().unwrap(), body.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_and_admins_of_the_cluster_read_metrics_and_nobody_else() {
    let pki = Pki::new();
    let admin = serve(checked("    listen: 127.0.0.1:0\n", pki.own()).unwrap()).unwrap();
    let address = HostPort::new("localhost", admin.metrics_address().unwrap().port());
    for reader in ["client-prometheus", "admin-root"] {
        let tls = pki.client(Some(reader));
        let (code, body) = get(&address, Some(&tls), "/metrics").await.unwrap();
        assert!(code == 200 && body.contains("tailway_test_things_total 1"), "{reader}: {body}");
        for (path, code) in [("/livez", 200), ("/readyz", 200), ("/status", 404), ("/", 404)] {
            let got = get(&address, Some(&tls), path).await.unwrap();
            assert_eq!(got.0, code, "{reader} {path}");
        }
    }
    for (stranger, named) in [
        ("agent-web1", "spiffe://c1/agent/web1"),
        ("broker-1", "spiffe://c1/broker/1"),
        ("elsewhere", "spiffe://c2/client/prometheus"),
    ] {
        for path in ["/metrics", "/livez", "/readyz"] {
            let tls = pki.client(Some(stranger));
            let (code, body) = get(&address, Some(&tls), path).await.unwrap();
            assert!(code == 403 && body.contains(named), "{stranger} {path}: {code} {body}");
            assert!(!body.contains("tailway_test_things"), "{body}");
        }
    }
    let nobody = get(&address, Some(&pki.client(None)), "/metrics").await.unwrap_err();
    assert!(nobody.contains("requires a certificate from us"), "{nobody}");
    let foreign = get(&address, Some(&pki.client(Some("client-stranger"))), "/metrics").await;
    let foreign = foreign.unwrap_err();
    assert!(foreign.contains("does not trust the CA"), "{foreign}");
    assert!(get(&address, None, "/metrics").await.is_err(), "plaintext is not answered");
    // A second one is told who holds the port.
    let taken = format!("    listen: 127.0.0.1:{}\n", address.port);
    let error = serve(checked(&taken, pki.own()).unwrap()).unwrap_err();
    assert!(error.contains("cannot serve metrics on"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    drop(admin);
    assert!(get(&address, Some(&pki.client(Some("admin-root"))), "/metrics").await.is_err());
}

#[test]
fn what_is_wrong_with_it_is_said_where_it_stands() {
    let pki = Pki::new();
    let is_off = |own| checked("    listen: ''\n", own).unwrap().is_none();
    assert!(is_off(pki.own()) && is_off(OwnTls::default()), "off unless it is asked for");
    let ca = pki.path("ca.pem").display().to_string();
    let files = |cert: &str, key: &str| {
        let (cert, key) = (pki.path(cert), pki.path(key));
        format!("    tls: {{ ca: {ca}, cert: {}, key: {} }}\n", cert.display(), key.display())
    };
    let at = "    listen: 127.0.0.1:9744\n";
    let agents = || OwnTls { server: None, cluster: Some("c1".into()) };
    let good = checked(&format!("{at}{}", files("broker-1.pem", "broker-1.key")), agents());
    assert!(good.unwrap().is_some(), "with a certificate for servers");
    let no_cluster = OwnTls { cluster: None, ..pki.own() };
    let gone = format!("{at}{}", files("gone.pem", "broker-1.key"));
    let mixed = format!("{at}{}", files("broker-1.pem", "admin-root.key"));
    let at_listen = "f.yaml:4:13: admin.metrics.listen: ";
    for (text, own, place, problem) in [
        ("    listen: nowhere\n", pki.own(), at_listen, ""),
        (at, agents(), at_listen, "this program's own certificate is for clients only"),
        (at, no_cluster, at_listen, "this program's own certificate names no cluster"),
        (
            &files("broker-1.pem", "broker-1.key"),
            pki.own(),
            "f.yaml:4:5: admin.metrics.tls: ",
            "nothing listens with it",
        ),
        (&gone, pki.own(), "admin.metrics.tls.cert: ", "cannot read certificate"),
        (&mixed, pki.own(), "admin.metrics.tls.cert: ", "do not go together"),
        ("    lisen: x\n", pki.own(), "f.yaml:4:5: ", "did you mean `listen`?"),
    ] {
        let error = checked(text, own).unwrap_err();
        assert!(error.contains(place) && error.contains(problem), "{text}{error}");
    }
}
