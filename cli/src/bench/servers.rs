//! What is measured: coordinator, broker and agent as processes of their own, which are this program once more, from the
//! configurations that `tailway dev` writes, in a directory that is removed again.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::Serialize;
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_client::{Client, ClientTlsFiles, HostPort};
use tailway_coordinator::Coordinator;
use tailway_daemon::Clock;

use super::usage::Usage;
use crate::admin;
use crate::dev::configs;
use crate::dev::dir::DevDir;
use crate::dev::inputs::Inputs;
use crate::dev::ports::loopback;
use crate::target;

const READY_TIMEOUT: Duration = Duration::from_mins(3);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
const REQUEST_TIMEOUT: Duration = Duration::from_mins(1);

/// How clients connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Transport {
    Tls,
    Plaintext,
}

impl Transport {
    pub(super) fn name(self) -> &'static str {
        match self {
            Transport::Tls => "TLS",
            Transport::Plaintext => "plaintext",
        }
    }
}

/// One of the three daemons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Part {
    Coordinator,
    Broker,
    Agent,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::Coordinator => "coordinator",
            Part::Broker => "broker",
            Part::Agent => "agent",
        }
    }
}

/// This process as one of them, for as long as the benchmark runs.
pub(crate) fn serve(part: Part, config: &Path) -> ExitCode {
    // Without it a benchmark that is killed leaves them behind; where it cannot be had, a measurement is as good.
    set_parent_process_death_signal(Some(Signal::TERM)).ok();
    let args = ["tailway-bench".into(), "--config".into(), config.into()];
    match part {
        Part::Coordinator => tailway_daemon::run_daemon::<Coordinator>(args),
        Part::Broker => tailway_daemon::run_daemon::<Broker>(args),
        Part::Agent => tailway_daemon::run_daemon::<Agent>(args),
    }
}

/// A directory of its own below the one that was asked for, removed at the end.
#[derive(Debug)]
pub(super) struct BenchDir {
    pub(super) path: PathBuf,
}

impl BenchDir {
    pub(super) fn make(below: &Path) -> Result<BenchDir> {
        let path = below.join(format!(".tailway-bench-{}", std::process::id()));
        let made = std::fs::create_dir(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(BenchDir { path })
    }

    /// Removes what servers left, so that the next begin on nothing.
    pub(super) fn clear(&self) -> Result<()> {
        let data = self.data();
        std::fs::remove_dir_all(&data).with_context(|| format!("cannot remove {}", data.display()))
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }
}

impl Drop for BenchDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            crate::output::complain(&format!("cannot remove {path}: {error}; remove it by hand"));
        }
    }
}

/// A running daemon; killed when it is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) part: Part,
    log: PathBuf,
    /// From exec until `/readyz` was asked with success.
    pub(super) ready_after: Duration,
    pub(super) started: Instant,
}

impl Process {
    #[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
    async fn start(dir: &DevDir, part: Part, admin: SocketAddr) -> Result<Process> {
        let log = dir.path.join(format!("{}.log", part.name()));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bench-serve", part.name()]).arg(dir.config(part.name()));
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let started = Instant::now();
        let child = command.spawn().context("cannot start this program once more")?;
        let mut process = Process { child, part, log, ready_after: Duration::ZERO, started };
        while !admin::is_ready(admin) {
            if process.child.try_wait()?.is_some() || started.elapsed() > READY_TIMEOUT {
                bail!("the {} does not become ready:\n{}", part.name(), process.last_words());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        process.ready_after = started.elapsed();
        Ok(process)
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }

    /// SIGTERM, and until it has ended.
    pub(super) async fn stop(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let ended = async {
            while self.child.try_wait()?.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        let ended = tokio::time::timeout(STOP_TIMEOUT, ended).await;
        ended.with_context(|| {
            format!("the {} does not stop:\n{}", self.part.name(), self.last_words())
        })?
    }

    /// SIGKILL.
    pub(super) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// More than the broker allows unless told otherwise, as a benchmark asks for thousands.
const CONNECTIONS_MAX: usize = 100_000;

/// The running servers.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) dir: DevDir,
    transport: Transport,
    coordinator: Option<Process>,
    broker: Option<Process>,
}

impl Servers {
    pub(super) async fn start(
        dir: &BenchDir,
        transport: Transport,
        clock: &Clock,
    ) -> Result<Servers> {
        let dir = DevDir::open(&dir.data(), false, clock)?;
        let mut broker = configs::broker(&dir, transport == Transport::Plaintext, &[]);
        broker.limits.connections = CONNECTIONS_MAX;
        configs::write_yaml(&dir, "broker", &broker)?;
        configs::write_yaml(&dir, "coordinator", &configs::coordinator(&dir))?;
        let mut servers = Servers { dir, transport, coordinator: None, broker: None };
        let admin = loopback(servers.dir.identity.ports.coordinator_admin);
        let coordinator = Process::start(&servers.dir, Part::Coordinator, admin).await?;
        servers.coordinator = Some(coordinator);
        servers.start_broker().await?;
        Ok(servers)
    }

    pub(super) async fn start_broker(&mut self) -> Result<()> {
        let admin = loopback(self.dir.identity.ports.broker_admin);
        self.broker = Some(Process::start(&self.dir, Part::Broker, admin).await?);
        Ok(())
    }

    /// An agent of this configuration.
    pub(super) async fn start_agent(
        &self,
        inputs: &Inputs,
        change: impl FnOnce(&mut tailway_agent::config::RawConfig),
    ) -> Result<Process> {
        let mut config = configs::agent(&self.dir, inputs);
        let ports = self.dir.identity.ports;
        if self.transport == Transport::Plaintext {
            config.output.brokers = vec![loopback(ports.broker_plaintext).to_string()];
            config.output.tls = None;
            config.output.insecure = true;
        }
        change(&mut config);
        configs::write_yaml(&self.dir, Part::Agent.name(), &config)?;
        Process::start(&self.dir, Part::Agent, loopback(ports.agent_admin)).await
    }

    pub(super) fn broker(&self) -> Result<&Process> {
        self.broker.as_ref().context("the broker does not run")
    }

    pub(super) fn coordinator(&self) -> Result<&Process> {
        self.coordinator.as_ref().context("the coordinator does not run")
    }

    /// Takes the broker out, to be stopped or killed.
    pub(super) fn take_broker(&mut self) -> Result<Process> {
        self.broker.take().context("the broker does not run")
    }

    /// A client with connections of its own.
    pub(super) fn client(&self) -> Result<Client> {
        let ports = self.dir.identity.ports;
        let (port, files) = match self.transport {
            Transport::Plaintext => (ports.broker_plaintext, None),
            Transport::Tls => {
                let certificates = &self.dir.certificates;
                let files = ClientTlsFiles {
                    ca: certificates.ca(),
                    cert: Some(certificates.cert("admin")),
                    key: Some(certificates.key("admin")),
                    server_name: None,
                };
                (ports.broker_tls, Some(files))
            }
        };
        target::connect(vec![HostPort::new("127.0.0.1", port)], files, REQUEST_TIMEOUT)
    }

    /// Broker, then coordinator.
    pub(super) async fn stop(mut self) -> Result<()> {
        for process in [self.broker.take(), self.coordinator.take()].into_iter().flatten() {
            process.stop().await?;
        }
        Ok(())
    }
}
