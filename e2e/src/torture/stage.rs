//! The processes that are killed: coordinator, broker and agent of Tailway, or an agent and a real Kafka.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, kill_process};

use crate::deployment::{Deployment, http_get};
use crate::kafka::{Broker, Kafka, NEWEST};
use crate::process::{Signal, run, wait_until};
use crate::programs::Programs;

/// The topic of the lines.
pub const TOPIC: &str = "logs";
pub const PARTITIONS: i32 = 3;
/// Small, so that logs roll under the kills.
const SEGMENT_BYTES: &str = "segment.bytes=2097152";
const KAFKA_PORT: u16 = 18_092;
const KAFKA_PATIENCE: Duration = Duration::from_mins(1);

/// What can be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Agent,
    Broker,
    Coordinator,
}

impl Part {
    pub fn name(self) -> &'static str {
        match self {
            Part::Agent => "agent",
            Part::Broker => "broker",
            Part::Coordinator => "coordinator",
        }
    }
}

/// Everything that runs.
#[derive(Debug)]
pub struct Stage {
    pub deployment: Deployment,
    pub kafka: Option<Broker>,
}

impl Stage {
    /// Tailway's three, with these programs.
    pub fn tailway(
        programs: &'static Programs,
        dir: &Path,
        logs: &str,
        plant: Option<&str>,
    ) -> Result<Self> {
        let mut deployment = Deployment::export_of(programs, dir, &[logs])?;
        if let Some(plant) = plant {
            deployment.set_environment("TAILWAY_PLANT", plant);
        }
        for daemon in ["coordinator", "broker"] {
            deployment.start_daemon(daemon)?;
        }
        let mut create = Command::new(programs.path("tailway")?);
        create.args(["topic", "create", TOPIC, "--partitions", &PARTITIONS.to_string()]);
        create.args(["--config", SEGMENT_BYTES, "--bootstrap", deployment.dev.plaintext()?]);
        run(&mut create, Duration::from_secs(30))?;
        deployment.start_daemon("agent")?;
        Ok(Self { deployment, kafka: None })
    }

    /// The agent, and a real Kafka in place of broker and coordinator.
    pub fn kafka(
        programs: &'static Programs,
        dir: &Path,
        logs: &str,
        plant: Option<&str>,
        properties: &[&str],
    ) -> Result<Self> {
        let mut deployment = Deployment::export_of(programs, &dir.join("run"), &[logs])?;
        if let Some(plant) = plant {
            deployment.set_environment("TAILWAY_PLANT", plant);
        }
        let kafka = Kafka::version(NEWEST);
        let broker = kafka.start_broker(&dir.join("kafka"), KAFKA_PORT, properties)?;
        kafka.tool(&[
            "kafka-topics",
            "--bootstrap-server",
            &broker.address,
            "--create",
            "--topic",
            TOPIC,
            "--partitions",
            &PARTITIONS.to_string(),
            "--config",
            SEGMENT_BYTES,
        ])?;
        let tls = &deployment.dir.join("tls").display().to_string();
        let dev = deployment.dev.clone();
        deployment.configure(
            "agent",
            &[
                (dev.tls(), broker.address.as_str()),
                ("  tls:\n", "  insecure: true\n"),
                (&format!("    ca: {tls}/ca.pem\n"), ""),
                (&format!("    cert: {tls}/agent.pem\n"), ""),
                (&format!("    key: {tls}/agent.key\n"), ""),
            ],
        )?;
        deployment.start_daemon("agent")?;
        Ok(Self { deployment, kafka: Some(broker) })
    }

    /// Where a client reaches the broker.
    pub fn bootstrap(&self) -> Result<&str> {
        match &self.kafka {
            Some(kafka) => Ok(&kafka.address),
            None => self.deployment.dev.plaintext(),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self, part: Part) -> Result<()> {
        match &self.kafka {
            Some(kafka) if part == Part::Broker => kafka.kill(),
            _ => self.deployment.kill_daemon(part.name()),
        }
    }

    /// Starts what was killed and waits until it is ready.
    pub fn start(&mut self, part: Part) -> Result<()> {
        match &self.kafka {
            Some(kafka) if part == Part::Broker => kafka.restart(KAFKA_PATIENCE),
            _ => self.deployment.start_daemon(part.name()),
        }
    }

    /// SIGSTOP or SIGCONT to the broker.
    pub fn signal_broker(&self, signal: Signal) -> Result<()> {
        match &self.kafka {
            None => self.deployment.process("broker")?.signal(signal),
            Some(kafka) => {
                let pid = Pid::from_raw(kafka.pid()?).context("a process id")?;
                kill_process(pid, signal)
                    .with_context(|| format!("cannot send {signal:?} to Kafka"))
            }
        }
    }

    /// Waits until Kafka has forgotten every producer of the topic, as its own tool tells.
    pub fn producers_expired(&self) -> Result<()> {
        let kafka = self.kafka.as_ref().context("only a real Kafka forgets so soon")?;
        wait_until(KAFKA_PATIENCE, || {
            for partition in 0..PARTITIONS {
                let said = Kafka::version(NEWEST).tool(&[
                    "kafka-transactions",
                    "--bootstrap-server",
                    &kafka.address,
                    "describe-producers",
                    "--topic",
                    TOPIC,
                    "--partition",
                    &partition.to_string(),
                ])?;
                ensure!(said.contains("ProducerId"), "no table of producers:\n{said}");
                if said.lines().filter(|line| !line.trim().is_empty()).count() > 1 {
                    return Ok(false);
                }
            }
            Ok(true)
        })
        .context("Kafka does not forget the producers")
    }

    /// Waits until the agent says that everything it sees is acknowledged, three times in a row.
    pub fn settle(&self, deadline: Duration) -> Result<()> {
        let mut quiet = 0;
        let mut last = String::new();
        wait_until(deadline, || {
            std::thread::sleep(Duration::from_millis(300));
            let Ok((200, body)) = http_get(self.deployment.admin("agent"), "/status") else {
                quiet = 0;
                return Ok(false);
            };
            let status: serde_json::Value = serde_json::from_str(&body)?;
            let of = |name: &str| status["shipper"][name].as_u64();
            let done =
                ["behind", "spool_bytes", "plans_open"].iter().all(|name| of(name) == Some(0));
            quiet = if done { quiet + 1 } else { 0 };
            last = body;
            Ok(quiet >= 3)
        })
        .with_context(|| format!("the agent has not delivered everything; /status says {last}"))
    }
}
