//! A cluster as an operator makes it: coordinator, broker and agents on hosts of their own, from `coordinator init`, `token
//! create` and `enroll`, by the configurations that these write.
//!
//! Paths and ports are the defaults of an install. What is told apart from that is what only an operator knows: names of
//! hosts, a broker's number, and which files are followed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::checks::text;
use crate::deployment::{PATIENCE, http_get, http_status};
use crate::group::need;
use crate::hosts::{Host, Network};
use crate::process::{Process, run, wait_until};
use crate::programs::Programs;

pub const COORDINATOR: &str = "coordinator.test";
pub const BROKER: &str = "broker.test";
pub const AGENTS: [&str; 2] = ["web1.test", "web2.test"];
/// Where operators and foreign clients are, and where strangers come from.
pub const CLIENT: &str = "client.test";
/// Where those are who pose as members.
pub const ROGUE: &str = "rogue.node.test";
/// Where each daemon answers, on its own host alone.
const ADMIN_PORTS: [(&str, u16); 3] = [("coordinator", 9_645), ("broker", 9_644), ("agent", 9_646)];
/// Where hosts enrol.
pub const ENROLLMENT: &str = "coordinator.test:9191";
/// Where clients connect.
pub const BOOTSTRAP: &str = "broker.test:9093";
/// Where the agents' lines go.
pub const TOPIC: &str = "logs";

/// A cluster; all of it ends when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// By host. Before the network, which they are in.
    running: BTreeMap<&'static str, Process>,
    pub network: Network,
    dir: tempfile::TempDir,
    programs: &'static Programs,
    environment: BTreeMap<&'static str, String>,
    /// Every token that was made.
    tokens: Vec<String>,
}

/// An identity for other software, as `cert issue` made it.
#[derive(Clone, Debug)]
pub struct Identity {
    pub dir: PathBuf,
}

impl Cluster {
    /// A coordinator from `coordinator init`, with `changes` made to what that wrote, and started.
    pub fn coordinator(
        programs: &'static Programs,
        environment: &[(&'static str, &str)],
        changes: &[(&str, &str)],
    ) -> Result<Self> {
        need("ip", "iproute2")?;
        let dir = tempfile::Builder::new().prefix("cluster-").tempdir()?;
        let names = [COORDINATOR, BROKER, AGENTS[0], AGENTS[1], CLIENT, ROGUE];
        let network = Network::of(dir.path(), &names, &[])?;
        let environment =
            environment.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let mut cluster = Self {
            running: BTreeMap::new(),
            network,
            dir,
            programs,
            environment,
            tokens: Vec::new(),
        };
        cluster.tailway(COORDINATOR, &["coordinator", "init"])?;
        cluster.configure(COORDINATOR, "coordinator", changes)?;
        cluster.start(COORDINATOR, "coordinator")?;
        Ok(cluster)
    }

    /// All of it: coordinator, broker, and two agents that follow `files` below [`Cluster::logs`].
    pub fn whole(
        programs: &'static Programs,
        environment: &[(&'static str, &str)],
        changes: &[(&str, &str)],
    ) -> Result<Self> {
        let mut cluster = Self::coordinator(programs, environment, changes)?;
        cluster.add_broker()?;
        for agent in AGENTS {
            cluster.add_agent(agent)?;
        }
        Ok(cluster)
    }

    /// The broker, by a token.
    pub fn add_broker(&mut self) -> Result<()> {
        let token = self.token("broker", &[])?;
        let enroll = ["enroll", ENROLLMENT, &token, "--id", "1", "--name", BROKER];
        self.tailway(BROKER, &enroll)?;
        self.start(BROKER, "broker")
    }

    /// One agent, by a token.
    pub fn add_agent(&mut self, host: &'static str) -> Result<()> {
        let token = self.token("agent", &[])?;
        let logs = self.logs(host)?;
        std::fs::create_dir_all(&logs)?;
        let input = logs.join("*.log*");
        self.tailway(host, &["enroll", ENROLLMENT, &token, "--input", text(&input)?])?;
        self.start(host, "agent")
    }

    /// Where a host's agent looks for files.
    pub fn logs(&self, host: &str) -> Result<PathBuf> {
        Ok(self.network.host(host)?.dir().join("logs"))
    }

    /// Where all of it lies.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `tailway token create --role ROLE MORE...`, by the admin on the coordinator's host.
    pub fn token(&mut self, role: &str, more: &[&str]) -> Result<String> {
        let create = ["token", "create", "--role", role];
        let token = self.tailway(COORDINATOR, &[&create, more].concat())?.trim().to_owned();
        self.tokens.push(token.clone());
        Ok(token)
    }

    /// Every token that was made so far.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// `tailway cert issue --role client NAME`, for software on the client's host.
    pub fn identity(&self, name: &str) -> Result<Identity> {
        let dir = self.network.host(CLIENT)?.dir().join(name);
        let issue = ["cert", "issue", "--role", "client", name, "--out", text(&dir)?];
        self.tailway(COORDINATOR, &issue)?;
        Ok(Identity { dir })
    }

    /// What `tailway client-config SOFTWARE` prints for an identity.
    pub fn client_config(&self, software: &str, identity: &Identity) -> Result<String> {
        self.client_config_at(software, identity, BOOTSTRAP)
    }

    /// The same for brokers elsewhere.
    pub fn client_config_at(
        &self,
        software: &str,
        identity: &Identity,
        bootstrap: &str,
    ) -> Result<String> {
        let of = ["--identity", text(&identity.dir)?, "--bootstrap", bootstrap];
        self.tailway(CLIENT, &[&["client-config", software][..], &of].concat())
    }

    /// `tailway ARGS...` on a host, to its end; its stdout.
    pub fn tailway(&self, host: &str, args: &[&str]) -> Result<String> {
        run(&mut self.tailway_command(host, args)?, PATIENCE)
    }

    /// The same, which must fail: what it says.
    pub fn refused(&self, host: &str, args: &[&str]) -> Result<String> {
        let output = crate::process::finish(&mut self.tailway_command(host, args)?, PATIENCE)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "`tailway {}` succeeded: {said}", args.join(" "));
        Ok(said)
    }

    /// The command, for a caller that runs it.
    pub fn tailway_command(&self, host: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.network.host(host)?.command(self.programs.path("tailway")?)?;
        command.args(args).envs(&self.environment);
        Ok(command)
    }

    /// Changes a daemon's configuration: each of `changes` replaces a text that must be there.
    pub fn configure(&self, host: &str, daemon: &str, changes: &[(&str, &str)]) -> Result<()> {
        let path = self.network.host(host)?.etc(&format!("tailway/{daemon}.yaml"));
        let mut config = std::fs::read_to_string(&path)?;
        for (from, to) in changes {
            ensure!(config.contains(from), "{} has no {from:?}:\n{config}", path.display());
            config = config.replace(from, to);
        }
        std::fs::write(&path, config).with_context(|| path.display().to_string())
    }

    /// Replaces the list with this key in a daemon's configuration, which has one item a line there.
    pub fn replace_list(&self, host: &str, daemon: &str, key: &str, items: &str) -> Result<()> {
        let path = self.network.host(host)?.etc(&format!("tailway/{daemon}.yaml"));
        let config = std::fs::read_to_string(&path)?;
        let mut lines: Vec<&str> = config.lines().collect();
        let head = format!("{key}:");
        let found = lines.iter().position(|line| line.trim() == head);
        let found = found.with_context(|| format!("{} has no {head}\n{config}", path.display()))?;
        let is_item = |line: &&&str| line.trim_start().starts_with("- ");
        let items_there = lines[found + 1..].iter().take_while(is_item).count();
        let list = format!("{} [{items}]", lines[found]);
        lines.splice(found..=found + items_there, [list.as_str()]);
        std::fs::write(&path, lines.join("\n") + "\n")?;
        Ok(())
    }

    /// Starts a host's daemon without any argument, whether or not it will be ready.
    pub fn start_unready(&mut self, host: &'static str, daemon: &str) -> Result<()> {
        let process = self.spawn(host, daemon, &[])?;
        self.running.insert(host, process);
        Ok(())
    }

    /// The same with a variable in its environment, by which a test build fails.
    pub fn start_failing(
        &mut self,
        host: &'static str,
        daemon: &str,
        fault: (&str, &str),
    ) -> Result<()> {
        let process = self.spawn(host, daemon, &[fault])?;
        self.running.insert(host, process);
        Ok(())
    }

    fn spawn(&self, host: &str, daemon: &str, more: &[(&str, &str)]) -> Result<Process> {
        let program = self.programs.path(&format!("tailway-{daemon}"))?;
        let mut command = self.network.host(host)?.command(program)?;
        Process::start(
            host,
            command.envs(&self.environment).envs(more.iter().copied()),
            &self.log_path(host)?,
        )
    }

    /// The same, and waits until it is ready.
    pub fn start(&mut self, host: &'static str, daemon: &str) -> Result<()> {
        let mut process = self.spawn(host, daemon, &[])?;
        let at = self.network.host(host)?;
        let ready = wait_until(PATIENCE, || {
            ensure!(!process.has_exited()?, "{daemon} exited: {}", process.tail());
            Ok(at.within(|| http_status(&admin(daemon)?, "/readyz")).is_ok_and(|code| code == 200))
        });
        ready.with_context(|| format!("{daemon} is not ready; it says:\n{}", process.tail()))?;
        self.running.insert(host, process);
        Ok(())
    }

    /// SIGTERM, and a clean end.
    pub fn stop(&mut self, host: &str) -> Result<()> {
        self.take(host)?.stop(PATIENCE)
    }

    /// Ends all of it, whoever needs others first.
    pub fn stop_all(mut self) -> Result<()> {
        for host in [AGENTS[0], AGENTS[1], BROKER, COORDINATOR] {
            if self.running.contains_key(host) {
                self.stop(host)?;
            }
        }
        Ok(())
    }

    /// The process of a host.
    pub fn take(&mut self, host: &str) -> Result<Process> {
        self.running.remove(host).with_context(|| format!("nothing runs on {host}"))
    }

    /// All that a host's daemon has said.
    pub fn log(&self, host: &str) -> Result<String> {
        Ok(std::fs::read_to_string(self.log_path(host)?).unwrap_or_default())
    }

    fn log_path(&self, host: &str) -> Result<PathBuf> {
        Ok(self.network.host(host)?.dir().join("daemon.log"))
    }

    /// One answer of a daemon's admin port, which its own host alone reaches.
    pub fn admin(&self, host: &str, daemon: &str, path: &str) -> Result<String> {
        let (code, body) = self.network.host(host)?.within(|| http_get(&admin(daemon)?, path))?;
        ensure!(code == 200, "{daemon} answers {code} to {path}: {body}");
        Ok(body)
    }

    /// Fails while a host's daemon has said something at WARN or ERROR that contains none of `allowed`.
    pub fn ensure_quiet(&self, host: &str, allowed: &[&str]) -> Result<()> {
        let log = self.log(host)?;
        let loud = |line: &&str| {
            (line.contains(" WARN ") || line.contains("ERROR "))
                && !allowed.iter().any(|known| line.contains(known))
        };
        let lines: Vec<&str> = log.lines().filter(loud).take(10).collect();
        ensure!(lines.is_empty(), "{host} complains:\n{}", lines.join("\n"));
        Ok(())
    }

    fn client(&self) -> Result<&Host> {
        self.network.host(CLIENT)
    }

    /// The command that `client-config kcat` printed with its `-L` replaced, run by a shell on the client's host.
    pub fn kcat(&self, identity: &Identity, args: &str) -> Result<String> {
        let printed = self.client_config("kcat", identity)?;
        let Some(command) = printed.trim_end().strip_suffix("-L") else {
            bail!("the command for kcat does not end in -L: {printed}");
        };
        self.shell(&format!("{command}{args}"))
    }

    /// A command line, as a user pastes it on the client's host.
    pub fn shell(&self, line: &str) -> Result<String> {
        let mut shell = self.client()?.foreign(Path::new("sh"))?;
        run(shell.args(["-c", line]), Duration::from_mins(2))
    }

    /// All messages of a topic, one a line.
    pub fn consume(&self, identity: &Identity, topic: &str) -> Result<String> {
        self.kcat(identity, &format!("-C -q -e -o beginning -t {topic}"))
    }
}

fn admin(daemon: &str) -> Result<String> {
    let port = ADMIN_PORTS.iter().find(|(name, _)| *name == daemon).context("no such daemon")?.1;
    Ok(format!("127.0.0.1:{port}"))
}
