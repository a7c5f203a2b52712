//! Apache Kafka's own tools and brokers, through `anchors/kafka` (from their Maven artifacts).

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::deployment::DevJson;
use crate::kcat::Transport;
use crate::peers::meter;
use crate::process::{finish, run, run_with_input, wait_until};
use crate::programs::repository;

const PATIENCE: Duration = Duration::from_mins(2);

/// One version of Kafka.
#[derive(Clone, Debug)]
pub struct Kafka {
    version: String,
    core: Option<usize>,
}

/// The newest line.
pub const NEWEST: &str = "4.3.1";
/// The last of the older line.
pub const OLDER: &str = "3.9.1";

impl Kafka {
    /// The tools and brokers of one version.
    pub fn version(version: &str) -> Self {
        Self { version: version.into(), core: None }
    }

    /// The same, all that it starts kept on one core.
    #[must_use]
    pub fn pinned(self, core: usize) -> Self {
        Self { core: Some(core), ..self }
    }

    /// `anchors/kafka ARGS...` with this version set.
    pub fn command(&self, args: &[&str]) -> Command {
        let script = repository().join("e2e/anchors/kafka");
        let mut command = match self.core {
            Some(core) => meter::pinned(core, script),
            None => Command::new(script),
        };
        command.env("KAFKA_VERSION", &self.version).args(args);
        command
    }

    /// Runs a tool to its end; its stdout.
    pub fn tool(&self, args: &[&str]) -> Result<String> {
        run(&mut self.command(args), PATIENCE)
    }

    /// Runs a tool to its end whatever its exit code: exit code, stdout and stderr.
    pub fn tool_output(&self, args: &[&str]) -> Result<(Option<i32>, String)> {
        let output = finish(&mut self.command(args), PATIENCE)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code(), text))
    }

    /// Runs a tool that reads standard input.
    pub fn tool_with_input(&self, args: &[&str], input: &str) -> Result<String> {
        run_with_input(&mut self.command(args), input.as_bytes(), PATIENCE)
    }

    /// Starts a real broker; it is stopped when the handle is dropped.
    pub fn start_broker(&self, dir: &Path, port: u16, properties: &[&str]) -> Result<Broker> {
        let dir_text = dir.to_str().context("a path in UTF-8")?;
        let port_text = port.to_string();
        let mut args = vec!["start", "-d", dir_text, "-p", &port_text];
        args.extend(properties);
        self.tool(&args)?;
        Ok(Broker { kafka: self.clone(), dir: dir.into(), address: format!("127.0.0.1:{port}") })
    }
}

/// A running Apache Kafka broker.
#[derive(Debug)]
pub struct Broker {
    kafka: Kafka,
    pub dir: PathBuf,
    pub address: String,
}

impl Broker {
    /// Stops it cleanly; the directory stays.
    pub fn stop(&self) -> Result<()> {
        let dir = self.dir.to_str().context("a path in UTF-8")?;
        self.kafka.tool(&["stop", "-d", dir]).map(drop)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        let dir = self.dir.to_str().context("a path in UTF-8")?;
        self.kafka.tool(&["kill", "-d", dir, "1"])?;
        let pid = self.pid()?;
        wait_until(PATIENCE, || Ok(!Path::new(&format!("/proc/{pid}")).exists()))
    }

    /// Starts it again after `kill` and waits until it listens.
    pub fn restart(&self, deadline: Duration) -> Result<()> {
        let dir = self.dir.to_str().context("a path in UTF-8")?;
        self.kafka.tool(&["restart", "-d", dir, "1"])?;
        let log = self.dir.join("node-1/out.log");
        wait_until(deadline, || Ok(std::net::TcpStream::connect(&self.address).is_ok()))
            .with_context(|| format!("Kafka does not listen again; see {}", log.display()))
    }

    /// Its process id.
    pub fn pid(&self) -> Result<i32> {
        let dir = self.dir.to_str().context("a path in UTF-8")?;
        Ok(self.kafka.tool(&["pid", "-d", dir])?.trim().parse()?)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        drop(self.stop());
    }
}

/// Writes a client properties file for Kafka's tools and gives back its path and the bootstrap address.
pub fn client_properties(
    dev: &DevJson,
    transport: Transport,
    dir: &Path,
) -> Result<(String, String)> {
    let path = dir.join(format!("{transport:?}.properties"));
    let (text, address) = match transport {
        Transport::Plaintext => ("security.protocol=PLAINTEXT\n".to_owned(), dev.plaintext()?),
        Transport::Tls => {
            let keystore = dir.join("client-keystore.pem");
            let pem = std::fs::read_to_string(&dev.client_key)?
                + &std::fs::read_to_string(&dev.client_cert)?;
            std::fs::write(&keystore, pem)?;
            let text = format!(
                "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n\
                 ssl.keystore.type=PEM\nssl.keystore.location={}\n",
                dev.ca.display(),
                keystore.display()
            );
            (text, dev.tls())
        }
    };
    std::fs::write(&path, text)?;
    Ok((path.to_string_lossy().into_owned(), address.to_owned()))
}
