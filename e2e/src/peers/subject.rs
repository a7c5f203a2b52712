//! The two brokers that are compared: ours with its fsync, a real Apache Kafka without, each on one core and warm.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::meter::{self, BROKER_CORE};
use super::perf::{self, Client, Load};
use crate::deployment::Deployment;
use crate::kafka::{Broker, Kafka, NEWEST, client_properties};
use crate::kcat::Transport;
use crate::process::{Process, run};
use crate::programs::Programs;

const PATIENCE: Duration = Duration::from_mins(2);
/// Kafka's ports here.
const KAFKA_PORT: u16 = 19_592;
const KAFKA_TLS_PORT: u16 = 19_593;
/// What a peer must have taken before it is measured.
pub const WARM_UP_BYTES: u64 = 2_000_000_000;

/// How clients reach a subject.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub address: String,
    /// A Java client's properties file.
    pub config: String,
}

/// A broker under measurement.
pub struct Subject {
    pub name: &'static str,
    plaintext: Endpoint,
    tls: Endpoint,
    pids: Vec<u32>,
    warmed: u64,
    /// Keeps the processes.
    running: Running,
}

enum Running {
    Tailway(Box<Deployment>),
    Kafka(Broker),
}

impl Subject {
    /// Coordinator and broker; both count.
    pub fn tailway(dir: &Path) -> Result<Subject> {
        std::fs::create_dir_all(dir)?;
        let input = dir.join("unused.log");
        std::fs::write(&input, "")?;
        let input = input.to_str().context("a path in UTF-8")?;
        let mut deployment = Deployment::export(&dir.join("run"), &[input])?;
        for daemon in ["coordinator", "broker"] {
            let program = Programs::built()?.path(&format!("tailway-{daemon}"))?;
            let mut command = meter::pinned(BROKER_CORE, program);
            command.arg("--config").arg(deployment.dir.join(format!("{daemon}.yaml")));
            deployment.start_command(daemon, command)?;
        }
        let pid = |daemon| deployment.process(daemon).map(Process::pid);
        let pids = vec![pid("broker")?, pid("coordinator")?];
        let endpoint = |transport| -> Result<Endpoint> {
            let (config, address) = client_properties(&deployment.dev, transport, dir)?;
            Ok(Endpoint { address, config })
        };
        let (plaintext, tls) = (endpoint(Transport::Plaintext)?, endpoint(Transport::Tls)?);
        let running = Running::Tailway(Box::new(deployment));
        Ok(Subject { name: "Tailway", plaintext, tls, pids, warmed: 0, running })
    }

    /// One node in combined roles, with the certificates of `tailway`, whose clients so reach both.
    pub fn kafka(dir: &Path, tailway: &Subject) -> Result<Subject> {
        std::fs::create_dir_all(dir)?;
        let certificates = tailway.deployment()?.dir.join("tls");
        let keystore = dir.join("broker.pem");
        let read = |name: &str| {
            let path = certificates.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        std::fs::write(&keystore, read("broker.key")? + &read("broker.pem")?)?;
        let properties = [
            format!(
                "listeners=PLAINTEXT://127.0.0.1:{KAFKA_PORT},SSL://127.0.0.1:{KAFKA_TLS_PORT},CONTROLLER://127.0.0.1:{}",
                KAFKA_PORT + 100
            ),
            "ssl.keystore.type=PEM".to_owned(),
            format!("ssl.keystore.location={}", keystore.display()),
            "ssl.truststore.type=PEM".to_owned(),
            format!("ssl.truststore.location={}", certificates.join("ca.pem").display()),
            "ssl.client.auth=required".to_owned(),
        ];
        let properties: Vec<&str> = properties.iter().map(String::as_str).collect();
        let kafka = Kafka::version(NEWEST).pinned(BROKER_CORE);
        let broker = kafka.start_broker(&dir.join("kafka"), KAFKA_PORT, &properties)?;
        let pids = vec![u32::try_from(broker.pid()?)?];
        let plaintext =
            Endpoint { address: broker.address.clone(), config: tailway.plaintext.config.clone() };
        let address = format!("127.0.0.1:{KAFKA_TLS_PORT}");
        let tls = Endpoint { address, config: tailway.tls.config.clone() };
        let running = Running::Kafka(broker);
        Ok(Subject { name: "Kafka", plaintext, tls, pids, warmed: 0, running })
    }

    /// The running daemons; an error for the foreign broker.
    pub fn deployment(&self) -> Result<&Deployment> {
        match &self.running {
            Running::Tailway(deployment) => Ok(deployment),
            Running::Kafka(broker) => anyhow::bail!("{} is no deployment of ours", broker.address),
        }
    }

    pub fn endpoint(&self, transport: Transport) -> &Endpoint {
        match transport {
            Transport::Plaintext => &self.plaintext,
            Transport::Tls => &self.tls,
        }
    }

    pub fn cpu_seconds(&self) -> Result<f64> {
        meter::cpu_seconds(&self.pids)
    }

    pub fn peak_rss_mib(&self) -> Result<f64> {
        meter::peak_rss_mib(&self.pids)
    }

    /// Has it take and give `bytes`, in records of both sizes, over both transports.
    pub fn warm_up(&mut self, bytes: u64) -> Result<()> {
        let topic = "warm-up";
        for (transport, record_bytes) in [
            (Transport::Plaintext, 1_000),
            (Transport::Plaintext, 100),
            (Transport::Tls, 1_000),
            (Transport::Tls, 100),
        ] {
            let load =
                Load { records: bytes / 4 / record_bytes, record_bytes, rate: None, warm_up: 0 };
            self.create_topic(topic, 6)?;
            perf::produce(self, transport, topic, load, Client::Anywhere)?;
            perf::consume(self, transport, topic, load.records)?;
            self.delete_topic(topic)?;
            self.warmed += load.bytes();
        }
        Ok(())
    }

    /// An error unless it is warm and each process is on the brokers' core: a number taken otherwise is not printed.
    pub fn ensure_fit(&self, warm_up: u64) -> Result<()> {
        let name = self.name;
        ensure!(
            self.warmed >= warm_up,
            "{name} took {} of {warm_up} bytes to warm up",
            self.warmed
        );
        for pid in &self.pids {
            let cores = meter::cores_of(*pid)?;
            ensure!(
                cores == BROKER_CORE.to_string(),
                "process {pid} of {name} may run on the cores {cores}, not on {BROKER_CORE} alone"
            );
        }
        Ok(())
    }

    pub fn create_topic(&self, topic: &str, partitions: u32) -> Result<()> {
        let mut command = self.topic_command("create", topic)?;
        run(command.args(["--partitions", &partitions.to_string()]), PATIENCE).map(drop)
    }

    pub fn delete_topic(&self, topic: &str) -> Result<()> {
        run(&mut self.topic_command("delete", topic)?, PATIENCE).map(drop)
    }

    fn topic_command(&self, what: &str, topic: &str) -> Result<Command> {
        let mut command = Command::new(Programs::built()?.path("tailway")?);
        command.args(["topic", what, topic, "--bootstrap", &self.plaintext.address]);
        Ok(command)
    }
}

/// A folder below `dir` that is removed at the end.
pub fn scratch(dir: &Path) -> Result<tempfile::TempDir> {
    std::fs::create_dir_all(dir)?;
    tempfile::Builder::new().prefix("bench-peers-").tempdir_in(dir).map_err(Into::into)
}

/// Where measurements happen unless told otherwise: below the target folder, which is on a disk.
pub fn default_dir() -> PathBuf {
    crate::programs::repository().join("target")
}
