//! `tailway agent test output` and `tailway status` against a real coordinator and a real broker with TLS: each way in which
//! a connection can fail is laid to its step, with the cause and the next command, and the exit code says it too.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::{Context, Daemon, Deadline, Hosted};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, dial};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATIENCE: Duration = Duration::from_secs(20);

struct House {
    dir: tempfile::TempDir,
    published: Value,
    /// Asks for a client certificate.
    strict: u16,
    /// Plaintext, and advertised where nobody listens.
    astray: u16,
}

/// What a command said, and its exit code.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl House {
    /// The files of a dev run, with two listeners more.
    fn new() -> House {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.log"), "").unwrap();
        let mut house =
            House { dir, published: Value::Null, strict: free_port(), astray: free_port() };
        let said = house.tailway("dev export d a.log --plaintext");
        assert_eq!(said.code, 0, "{}", said.err);
        let text = std::fs::read_to_string(house.path("d/dev.json")).unwrap();
        house.published = serde_json::from_str(&text).unwrap();
        let config = house.path("d/broker.yaml");
        let yaml = std::fs::read_to_string(&config).unwrap();
        let tls = house.path("d/tls").display().to_string();
        let (strict, astray, nobody) = (house.strict, house.astray, free_port());
        let more = format!(
            "listeners:\n\
             - {{ name: strict, address: '127.0.0.1:{strict}', advertise: '127.0.0.1:{strict}', protocol: tls, client_auth: required, \
                  tls: {{ ca: {tls}/ca.pem, cert: {tls}/broker.pem, key: {tls}/broker.key }} }}\n\
             - {{ name: astray, address: '127.0.0.1:{astray}', advertise: '127.0.0.1:{nobody}', protocol: plaintext, insecure: true }}\n"
        );
        assert_eq!(yaml.matches("listeners:\n").count(), 1, "{yaml}");
        std::fs::write(config, yaml.replace("listeners:\n", &more)).unwrap();
        for file in ["d/broker.yaml", "d/coordinator.yaml"] {
            let yaml = std::fs::read_to_string(house.path(file)).unwrap();
            let (off, on) = ("metrics:\n    listen: ''", "metrics:\n    listen: 'localhost:0'");
            assert_eq!(yaml.matches(off).count(), 1, "{yaml}");
            std::fs::write(house.path(file), yaml.replace(off, on)).unwrap();
        }
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn tailway(&self, line: &str) -> Said {
        let output = Command::new(env!("CARGO_BIN_EXE_tailway"))
            .args(line.split(' '))
            .current_dir(self.dir.path())
            .env_remove("TAILWAY_IDENTITY")
            .env_remove("TAILWAY_BOOTSTRAP")
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        Said { code, out: text(output.stdout), err: text(output.stderr) }
    }

    fn tls(&self) -> String {
        self.published["brokers"][0]["tls"].as_str().unwrap().to_owned()
    }

    fn plaintext(&self) -> String {
        self.published["brokers"][0]["plaintext"].as_str().unwrap().to_owned()
    }

    /// `agent test output` with an output section of its own.
    fn test(&self, broker: &str, tls: &str) -> Said {
        let tls = match tls {
            "" => "  insecure: true\n".to_owned(),
            tls => format!("  tls: {{ {tls} }}\n"),
        };
        let data = self.path("agent");
        let yaml = format!(
            "agent: {{ data_dir: {} }}\noutput:\n  brokers: ['{broker}']\n  topic: logs\n{tls}inputs: [{{ id: a, paths: ['/tmp/a.log'] }}]\nmetrics: {{ enabled: false }}\n",
            data.display()
        );
        std::fs::write(self.path("agent.yaml"), yaml).unwrap();
        self.tailway("agent test output --config agent.yaml --timeout 5")
    }

    /// TLS as the member `role`, trusting the CA in `ca`.
    fn as_role(&self, role: &str, ca: &str) -> String {
        let dir = self.path("d/tls").display().to_string();
        format!("ca: {dir}/{ca}, cert: {dir}/{role}.pem, key: {dir}/{role}.key")
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn start<D: Daemon>(config: PathBuf) -> Hosted<D> {
    let context = Context::default();
    let config = D::load_config(&config).unwrap_or_else(|problems| panic!("{problems}"));
    let hosted = Hosted::<D>::start(config, context.clone()).await.unwrap();
    tokio::time::timeout(PATIENCE, context.ready.wait()).await.unwrap();
    hosted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_failure_is_laid_to_its_step() {
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    logging.init();
    let house = tokio::task::block_in_place(House::new);
    let coordinator = start::<Coordinator>(house.path("d/coordinator.yaml")).await;
    let early = tokio::task::block_in_place(|| house.tailway("status --data d"));
    assert_eq!(early.code, 1, "{}", early.out);
    assert!(early.out.contains("no broker has registered"), "{}", early.out);
    let broker = start::<Broker>(house.path("d/broker.yaml")).await;
    for (address, metric) in
        [(coordinator.metrics(), "tailway_coordinator_"), (broker.metrics(), "tailway_broker_")]
    {
        let port = address.unwrap().port();
        let served = metrics(&house, port, "client").await;
        assert!(served.starts_with("HTTP/1.1 200 ") && served.contains(metric), "{served}");
        let role = metric.split('_').nth(1).unwrap();
        let ends = format!(
            "tailway_cert_not_after_timestamp_seconds{{file=\"{}",
            house.path("d/tls").display()
        );
        let own = format!("{ends}/{role}.pem\"}} 1");
        assert!(served.contains(&own), "{own}: {served}");
        let denied = metrics(&house, port, "agent").await;
        assert!(denied.starts_with("HTTP/1.1 403 ") && !denied.contains(metric), "{denied}");
    }
    tokio::task::block_in_place(|| {
        all_is_well(&house);
        connections_fail(&house);
        rights_are_missing(&house);
    });
    broker.stop(Deadline::after(PATIENCE)).await.unwrap();
    insecure_listeners_are_announced(&log.text());
    tokio::task::block_in_place(|| the_broker_is_gone(&house));
    coordinator.stop(Deadline::after(PATIENCE)).await.unwrap();
    tokio::task::block_in_place(|| {
        let said = house.tailway("status --data d --request-timeout 3");
        assert_eq!(said.code, 1, "{}", said.out);
        assert!(said.out.contains("nothing listens on that port"), "{}", said.out);
    });
}

/// Each plaintext listener by its name, and nothing else.
fn insecure_listeners_are_announced(log: &str) {
    let loud: Vec<&str> = log.lines().filter(|line| line.contains("INSECURE")).collect();
    assert_eq!(loud.len(), 2, "{loud:?}");
    for (line, name) in loud.iter().zip(["astray", "plaintext"]) {
        let named = format!("listener={name} ");
        assert!(line.contains(" WARN ") && line.contains(&named), "{name}: {line}");
        assert!(line.contains("everybody on the way can read and change"), "{line}");
    }
}

/// What the listener for metrics answers to the dev run's member with that role.
async fn metrics(house: &House, port: u16, role: &str) -> String {
    let dir = house.path("d/tls");
    let files = ClientTlsFiles {
        ca: dir.join("ca.pem"),
        cert: Some(dir.join(format!("{role}.pem"))),
        key: Some(dir.join(format!("{role}.key"))),
        server_name: None,
    };
    let tls = ClientTls::load(&files).unwrap();
    let mut stream = dial(&HostPort::new("localhost", port), Some(&tls), PATIENCE).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn all_is_well(house: &House) {
    let agent = house.as_role("agent", "ca.pem");
    let said = house.test(&house.tls(), &agent);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("it does not exist yet"), "{}", said.out);
    assert!(said.out.contains("next: tailway topic create logs"), "{}", said.out);
    let created = house.tailway("topic create logs --data d --partitions 2");
    assert_eq!(created.code, 0, "{}", created.err);
    let said = house.test(&house.tls(), &agent);
    assert_eq!(said.code, 0, "{}", said.out);
    for text in [
        "/agent/dev; it ends in 36",
        "/broker/0; its certificate ends in 36",
        "2 partitions; this identity may write",
        "the leader tells (DescribeProducers)",
        "all is well",
    ] {
        assert!(said.out.contains(text), "{text}:\n{}", said.out);
    }
    let json = house.tailway("agent test output --config agent.yaml -o json");
    let json: Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["ok"], true, "{json}");
    assert_eq!(json["findings"][1]["step"], "dns", "{json}");
    // Who waits may come before the cluster has published where it is.
    let (there, away) = (house.path("d/dev.json"), house.path("d/dev.json.away"));
    std::fs::rename(&there, &away).unwrap();
    let early = house.tailway("status --data d");
    assert!(early.code == 1 && early.err.contains("next: tailway dev FILE"), "{}", early.err);
    let typo = house.tailway("status --bootstrap nowhere --wait healthy --timeout 600");
    assert!(typo.code == 1 && typo.err.contains("the port is missing"), "{}", typo.err);
    let published = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        std::fs::rename(away, there).unwrap();
    });
    let status = house.tailway("status --data d --wait healthy --timeout 60");
    published.join().unwrap();
    assert_eq!(status.code, 0, "{}", status.out);
    for text in ["the coordinator hears it", "5 members in force", "2 partitions with a leader"] {
        assert!(status.out.contains(text), "{text}:\n{}", status.out);
    }
    let any = house.tailway(&format!("status --bootstrap {}", house.plaintext()));
    assert_eq!(any.code, 0, "{}", any.out);
    assert!(any.out.contains("2 partitions with a leader"), "{}", any.out);
}

fn connections_fail(house: &House) {
    let agent = house.as_role("agent", "ca.pem");
    // Another cluster's CA.
    let said = house.tailway("dev export e a.log");
    assert_eq!(said.code, 0, "{}", said.err);
    std::fs::copy(house.path("e/tls/ca.pem"), house.path("d/tls/other.pem")).unwrap();
    let foreign = house.as_role("agent", "other.pem");
    let named = format!("{agent}, server_name: other.example");
    let nobody = format!("ca: {}", house.path("d/tls/ca.pem").display());
    let (closed, strict, astray) = (free_port(), house.strict, house.astray);
    let cases = [
        (house.tls(), foreign, "tls", "not signed by the configured CA", "who signed"),
        (house.tls(), named, "tls", "not for `other.example`", "connect by one of these names"),
        (house.plaintext(), agent.clone(), "tls", "plaintext", "connect without TLS"),
        (house.tls(), String::new(), "api versions", "TLS", "if this is a TLS port"),
        (format!("127.0.0.1:{closed}"), agent.clone(), "tcp", "nothing listens", "ss -ltn"),
        ("no-such.invalid:9093".to_owned(), agent, "dns", "does not resolve", "getent"),
        (format!("127.0.0.1:{strict}"), nobody, "tls", "requires a certificate", "tls.cert"),
        (
            format!("127.0.0.1:{astray}"),
            String::new(),
            "tcp",
            "nothing listens",
            "what broker 0 advertises",
        ),
    ];
    for (broker, tls, step, cause, next) in cases {
        let said = house.test(&broker, &tls);
        assert_eq!(said.code, 1, "{step} {cause}:\n{}{}", said.out, said.err);
        let told = said.out.lines().find(|line| line.starts_with("FAILED: "));
        let told = told.unwrap_or_else(|| panic!("{}", said.out));
        assert!(told.contains(&format!(", {step}: ")) && told.contains(cause), "{cause}: {told}");
        let after = said.out.lines().skip_while(|line| *line != told).nth(1).unwrap();
        assert!(after.starts_with("  next: ") && after.contains(next), "{next}: {after}");
    }
    let said = house.tailway("agent test output --config nothing.yaml");
    assert_eq!(said.code, 78, "{}", said.err);
}

/// By role, and by a certificate that was revoked.
fn rights_are_missing(house: &House) {
    let said = house.test(&house.tls(), &house.as_role("broker", "ca.pem"));
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.out.contains("this identity may not write"), "{}", said.out);
    let admin = house.path("admin");
    std::fs::create_dir(&admin).unwrap();
    for (from, to) in [("ca.pem", "ca.pem"), ("admin.pem", "cert.pem"), ("admin.key", "cert.key")] {
        std::fs::copy(house.path("d/tls").join(from), admin.join(to)).unwrap();
    }
    let coordinator = house.published["coordinators"][0]["address"].as_str().unwrap();
    let identity = format!(
        r#"{{"version":0,"cluster_id":"c","role":"admin","id":"dev","serial":"00","not_after":0,"coordinator":"{coordinator}"}}"#
    );
    std::fs::write(admin.join("identity.json"), identity).unwrap();
    let status = house.tailway("status --identity admin");
    assert_eq!(status.code, 0, "{}", status.out);
    let revoked = house.tailway("cert revoke agent/dev --identity admin");
    assert_eq!(revoked.code, 0, "{}", revoked.err);
    let mut said = house.test(&house.tls(), &house.as_role("agent", "ca.pem"));
    for _ in 0..100 {
        if said.out.contains("CertificateRevoked") {
            break;
        }
        // Until the broker's image has it. A connection that is open just then is cut, whatever its step.
        std::thread::sleep(Duration::from_millis(100));
        said = house.test(&house.tls(), &house.as_role("agent", "ca.pem"));
    }
    assert!(
        said.out.contains(", tls: ") && said.out.contains("CertificateRevoked"),
        "{}",
        said.out
    );
    let agent = house.as_role("agent", "ca.pem").replace([',', ':'], "");
    let words: Vec<&str> = agent.split(' ').collect();
    let line = format!(
        "status --bootstrap {} --tls-ca {} --tls-cert {} --tls-key {}",
        house.tls(),
        words[1],
        words[3],
        words[5]
    );
    let status = house.tailway(&line);
    assert_eq!(status.code, 1, "{}", status.out);
    assert!(status.out.contains("CertificateRevoked"), "{}", status.out);
}

fn the_broker_is_gone(house: &House) {
    let said = house.tailway("status --data d --wait healthy --timeout 1");
    assert_eq!(said.code, 1, "{}", said.out);
    assert!(said.out.contains("it is fenced"), "{}", said.out);
    assert!(said.err.contains("not healthy after 1 s"), "{}", said.err);
}
