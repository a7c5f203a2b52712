//! What runs where, and four commands that work as printed, for the start of a dev run.

use std::path::Path;

use super::configs::TOPIC;
use super::dir::DevDir;
use super::inputs::Inputs;
use super::ports::loopback;
use crate::output::{count, quoted};

/// What runs where.
pub(crate) fn places(dir: &DevDir, inputs: &Inputs, plaintext: bool) -> Vec<String> {
    let ports = dir.identity.ports;
    let at = |port| loopback(port).to_string();
    let admin = |port| format!("http://{}", loopback(port));
    let files = inputs.files();
    let followed = match files.as_slice() {
        [] => format!("waits for {}", inputs.patterns().join(", ")),
        [only] => only.display().to_string(),
        more => count(u64::try_from(more.len()).unwrap_or(u64::MAX), "file"),
    };
    let mut lines = vec![
        format!("data         {}", dir.path.display()),
        format!(
            "coordinator  {} (mTLS)  {}",
            at(ports.coordinator),
            admin(ports.coordinator_admin)
        ),
        format!("broker       {} (TLS)   {}", at(ports.broker_tls), admin(ports.broker_admin)),
        format!("agent        {followed} -> topic {TOPIC}  {}", admin(ports.agent_admin)),
    ];
    if plaintext {
        let warning = "without TLS: everybody on this host can read and write";
        lines.insert(3, format!("             {} ({warning})", at(ports.broker_plaintext)));
    }
    lines
}

/// Four commands, for another terminal.
pub(crate) fn commands(dir: &DevDir, program: &Path) -> Vec<String> {
    let ports = dir.identity.ports;
    let broker = loopback(ports.broker_tls);
    let ca = quoted(&dir.certificates.ca().display().to_string());
    let tailway = quoted(&program.display().to_string());
    let data = quoted(&dir.path.display().to_string());
    vec![
        format!("{tailway} tap {TOPIC} --data {data}"),
        format!("echo hello | {tailway} produce {TOPIC} --data {data}"),
        format!(
            "kcat -b {broker} -X security.protocol=ssl -X ssl.ca.location={ca} -C -t {TOPIC} -o beginning -e"
        ),
        format!("curl -s http://{}/status", loopback(ports.agent_admin)),
    ]
}
