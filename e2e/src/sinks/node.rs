//! A real OpenSearch node, through `anchors/opensearch` (from its Maven artifacts), and the proxy that misbehaves before it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::process::{Process, run, wait_until};
use crate::programs::repository;

const PATIENCE: Duration = Duration::from_mins(2);

/// A running node; it is stopped when the handle is dropped.
#[derive(Debug)]
pub struct Node {
    dir: PathBuf,
    port: u16,
    settings: Vec<&'static str>,
}

impl Node {
    /// `settings` are the node's, as `thread_pool.write.size=1`.
    pub fn start(dir: &Path, settings: &[&'static str]) -> Result<Self> {
        let node = Self { dir: dir.into(), port: free_port()?, settings: settings.to_vec() };
        node.start_again()?;
        Ok(node)
    }

    /// After `kill`: on the same data, at the same port.
    pub fn start_again(&self) -> Result<()> {
        let mut command = self.command("start")?;
        command.args(["-p", &self.port.to_string()]).args(&self.settings);
        run(&mut command, PATIENCE).map(drop)
    }

    /// SIGKILL.
    pub fn kill(&self) -> Result<()> {
        run(&mut self.command("kill")?, PATIENCE).map(drop)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Asks it; an answer other than 2xx is an error.
    pub fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        ask(self.port, method, path, body)
    }

    /// How many documents a search finds.
    pub fn count(&self, name: &str) -> Result<usize> {
        self.ask("POST", &format!("/{name}/_refresh"), None)?;
        let counted = self.ask("GET", &format!("/{name}/_count"), None)?;
        let count = counted["count"].as_u64().with_context(|| format!("no count: {counted}"))?;
        Ok(usize::try_from(count)?)
    }

    fn command(&self, what: &str) -> Result<Command> {
        let mut command = Command::new(repository().join("e2e/anchors/opensearch"));
        command.args([what, "-d", self.dir.to_str().context("a path in UTF-8")?]);
        Ok(command)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Ok(mut command) = self.command("stop") {
            drop(run(&mut command, PATIENCE));
        }
    }
}

/// `clients/fault_proxy.py` before a node.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    port: u16,
}

impl Proxy {
    /// `more`: certificate and key for TLS, then user and password, each if wanted.
    pub fn start(node: &Node, output: &Path, more: &[&str]) -> Result<Self> {
        let mut command = Command::new("python3");
        command.arg(repository().join("e2e/clients/fault_proxy.py"));
        command.arg(node.port().to_string()).args(more);
        let mut process = Process::start("fault_proxy.py", &mut command, output)?;
        wait_until(PATIENCE, || {
            ensure!(!process.has_exited()?, "the proxy ended: {}", process.tail());
            Ok(!process.lines().is_empty())
        })?;
        let port = process.lines()[0].parse().with_context(|| process.tail())?;
        Ok(Self { process, port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Each `every`-th bulk meets the next of `kinds`, until each was hit `hits` times.
    pub fn misbehave(&self, kinds: &[&str], every: usize, hits: u64) -> Result<()> {
        let plan = serde_json::json!({ "kinds": kinds, "every": every, "hits": hits });
        ask(self.port, "PUT", "/proxy/faults", Some(plan)).map(drop)
    }

    /// Whether everything is answered with 401.
    pub fn deny(&self, denied: bool) -> Result<()> {
        ask(self.port, "PUT", "/proxy/denied", Some(denied.into())).map(drop)
    }

    pub fn state(&self) -> Result<Value> {
        ask(self.port, "GET", "/proxy/state", None)
            .with_context(|| format!("the proxy printed:\n{}", self.process.tail()))
    }

    /// Returns at a moment at which a bulk is on its way, after `others` from now on.
    pub fn wait_for_bulk(&self, others: u64) -> Result<()> {
        let bulks = |state: &Value| state["bulks"].as_u64().unwrap_or(0);
        let begin = bulks(&self.state()?);
        wait_until(PATIENCE, || {
            let state = self.state()?;
            Ok(state["in_flight"].as_u64() > Some(0) && bulks(&state) >= begin + others)
        })
        .context("no bulk was on its way")
    }
}

/// A port that nobody has now, below those that connections get by themselves.
pub fn free_port() -> Result<u16> {
    let begin = 20_000 + u16::try_from(std::process::id() % 8_000)?;
    for port in (begin..32_000).step_by(7) {
        // The node takes the second for its transport.
        if [port, port + 100].iter().all(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()) {
            return Ok(port);
        }
    }
    bail!("no free port from {begin} on")
}

fn ask(port: u16, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
    let text = body.map(|body| body.to_string()).unwrap_or_default();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| port.to_string())?;
    stream.set_read_timeout(Some(Duration::from_mins(1)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{text}",
        text.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("{method} {path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    ensure!(code.starts_with('2'), "{method} {path} was answered with {answer}");
    serde_json::from_str(body).with_context(|| answer.clone())
}
