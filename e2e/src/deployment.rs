//! A coordinator, a broker and an agent as three separate processes, from what `tailway dev export` wrote.
//!
//! `DevJson` is the file's published form, also written by `tailway dev`; it is parsed strictly here, so that a field that
//! goes missing fails a test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process::{Process, Signal, run, wait_until};
use crate::programs::Programs;

/// How long a daemon may take to be ready, or to stop. Generous: these tests do not time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What `dev.json` says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevJson {
    pub ca: PathBuf,
    pub client_cert: PathBuf,
    pub client_key: PathBuf,
    pub brokers: Vec<BrokerEntry>,
    pub coordinators: Vec<CoordinatorEntry>,
    pub agent: AgentEntry,
    pub topics: BTreeMap<PathBuf, String>,
    pub pids: BTreeMap<String, u32>,
}

/// A broker's addresses (`host:port`) and data directory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokerEntry {
    pub id: i32,
    pub tls: String,
    pub plaintext: Option<String>,
    pub admin: String,
    pub data: PathBuf,
}

/// A coordinator's addresses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoordinatorEntry {
    pub id: i32,
    pub address: String,
    pub admin: String,
}

/// The agent's admin address and journal.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry {
    pub admin: String,
    pub journal: PathBuf,
}

impl DevJson {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is not of the published form:\n{text}", path.display()))
    }

    /// The plaintext address; an error where the run has none.
    pub fn plaintext(&self) -> Result<&str> {
        self.brokers[0].plaintext.as_deref().context("this run has no plaintext listener")
    }

    /// The TLS address.
    pub fn tls(&self) -> &str {
        &self.brokers[0].tls
    }
}

/// The three processes of one exported directory. Each can be stopped, killed and started alone.
#[derive(Debug)]
pub struct Deployment {
    pub dir: PathBuf,
    pub dev: DevJson,
    programs: &'static Programs,
    /// What daemons find in their environment besides ours.
    environment: BTreeMap<&'static str, String>,
    running: BTreeMap<&'static str, Process>,
}

/// The daemons in the order in which they start.
pub const DAEMONS: [&str; 3] = ["coordinator", "broker", "agent"];

impl Deployment {
    /// `tailway dev export --plaintext DIR INPUTS...`; nothing is started yet.
    pub fn export(dir: &Path, inputs: &[&str]) -> Result<Self> {
        Self::export_of(Programs::built()?, dir, inputs)
    }

    /// The same with these programs.
    pub fn export_of(programs: &'static Programs, dir: &Path, inputs: &[&str]) -> Result<Self> {
        let mut export = Command::new(programs.path("tailway")?);
        run(export.args(["dev", "export", "--plaintext"]).arg(dir).args(inputs), PATIENCE)?;
        let dev = DevJson::read(&dir.join("dev.json"))?;
        let (environment, running) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { dir: dir.into(), dev, programs, environment, running })
    }

    /// Every daemon started from now on finds this in its environment.
    pub fn set_environment(&mut self, name: &'static str, value: &str) {
        self.environment.insert(name, value.to_owned());
    }

    /// Has a daemon keep its data elsewhere; before its first start.
    pub fn move_data(&self, daemon: &str, to: &Path) -> Result<()> {
        let from = format!("data_dir: {}", self.dir.join(daemon).display());
        self.configure(daemon, &[(&from, &format!("data_dir: {}", to.display()))])
    }

    /// Changes a daemon's configuration: each of `changes` replaces a text that must be there.
    pub fn configure(&self, daemon: &str, changes: &[(&str, &str)]) -> Result<()> {
        let path = self.dir.join(format!("{daemon}.yaml"));
        let mut text = std::fs::read_to_string(&path)?;
        for (from, to) in changes {
            anyhow::ensure!(text.contains(from), "{} has no {from:?}:\n{text}", path.display());
            text = text.replace(from, to);
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Exports and starts all three, each ready before the next.
    pub fn start(dir: &Path, inputs: &[&str]) -> Result<Self> {
        let mut deployment = Self::export(dir, inputs)?;
        for daemon in DAEMONS {
            deployment.start_daemon(daemon)?;
        }
        Ok(deployment)
    }

    /// The command that starts one daemon, for a test that wraps it.
    pub fn command(&self, daemon: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.path(&format!("tailway-{daemon}"))?);
        command.arg("--config").arg(self.dir.join(format!("{daemon}.yaml")));
        command.envs(&self.environment);
        Ok(command)
    }

    /// Starts one daemon and waits until its `/readyz` answers 200.
    pub fn start_daemon(&mut self, daemon: &'static str) -> Result<()> {
        let command = self.command(daemon)?;
        self.start_command(daemon, command)
    }

    /// Starts one daemon by a command of the caller's and waits until it is ready.
    pub fn start_command(&mut self, daemon: &'static str, mut command: Command) -> Result<()> {
        let log = self.dir.join(format!("{daemon}.log"));
        let mut process = Process::start(daemon, &mut command, &log)?;
        let admin = self.admin(daemon).to_owned();
        wait_until(PATIENCE, || {
            anyhow::ensure!(
                !process.has_exited()?,
                "{daemon} exited at its start; it printed:\n{}",
                process.tail()
            );
            Ok(http_status(&admin, "/readyz").is_ok_and(|code| code == 200))
        })
        .with_context(|| {
            format!("{daemon} did not become ready; it printed:\n{}", process.tail())
        })?;
        self.running.insert(daemon, process);
        Ok(())
    }

    /// The admin address of a daemon.
    pub fn admin(&self, daemon: &str) -> &str {
        match daemon {
            "coordinator" => &self.dev.coordinators[0].admin,
            "broker" => &self.dev.brokers[0].admin,
            _ => &self.dev.agent.admin,
        }
    }

    /// The running process of a daemon.
    pub fn process(&self, daemon: &str) -> Result<&Process> {
        self.running.get(daemon).with_context(|| format!("{daemon} does not run"))
    }

    /// Takes the process out, for a test that handles its end itself.
    pub fn take(&mut self, daemon: &str) -> Result<Process> {
        self.running.remove(daemon).with_context(|| format!("{daemon} does not run"))
    }

    /// Puts a process back that was taken out.
    pub fn put(&mut self, daemon: &'static str, process: Process) {
        self.running.insert(daemon, process);
    }

    /// Starts one daemon by a command of the caller's, whatever becomes of it.
    pub fn start_unready(&mut self, daemon: &'static str, mut command: Command) -> Result<()> {
        let log = self.dir.join(format!("{daemon}.log"));
        self.put(daemon, Process::start(daemon, &mut command, &log)?);
        Ok(())
    }

    /// SIGTERM and a clean exit within `PATIENCE`.
    pub fn stop_daemon(&mut self, daemon: &str) -> Result<()> {
        self.take(daemon)?.stop(PATIENCE)
    }

    /// SIGKILL.
    pub fn kill_daemon(&mut self, daemon: &str) -> Result<()> {
        self.take(daemon)?.kill()
    }

    /// Stops what runs, the last started first.
    pub fn stop(mut self) -> Result<()> {
        for daemon in DAEMONS.iter().rev() {
            if self.running.contains_key(daemon) {
                self.stop_daemon(daemon)?;
            }
        }
        Ok(())
    }
}

/// One plain HTTP GET: status code and body.
pub fn http_get(address: &str, path: &str) -> Result<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).with_context(|| address.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let code = answer.split_whitespace().nth(1).context("not an HTTP answer")?.parse()?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

/// Only the status code of a GET.
pub fn http_status(address: &str, path: &str) -> Result<u16> {
    Ok(http_get(address, path)?.0)
}

/// `tailway dev INPUT --data DATA`, started and ready, and what its dev.json says.
pub fn start_dev(data: &Path, input: &Path, output: &Path) -> Result<(Process, DevJson)> {
    let ready = data.join("dev.json");
    if ready.exists() {
        std::fs::remove_file(&ready)?;
    }
    let mut command = Command::new(Programs::built()?.path("tailway")?);
    command.arg("dev").arg(input).arg("--data").arg(data);
    let mut dev = Process::start("tailway dev", &mut command, output)?;
    wait_until(PATIENCE, || {
        anyhow::ensure!(!dev.has_exited()?, "tailway dev exited; it printed:\n{}", dev.tail());
        Ok(ready.exists())
    })?;
    Ok((dev, DevJson::read(&ready)?))
}

/// SIGINT, and the clean end within 5 s that is promised.
pub fn stop_by_ctrl_c(process: Process) -> Result<()> {
    process.signal(Signal::INT)?;
    let status = process.wait(Duration::from_secs(5))?;
    anyhow::ensure!(status.success(), "Ctrl-C ended tailway dev with {status}");
    Ok(())
}
