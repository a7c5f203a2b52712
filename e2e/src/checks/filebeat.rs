//! A real Filebeat: it delivers to our broker by README's snippet, and our agent's events have the shape of its own.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::numbered;
use crate::deployment::{start_dev, stop_by_ctrl_c};
use crate::group::{Check, need};
use crate::kcat::{Transport, consume, count};
use crate::process::{Process, run, wait_until};
use crate::programs::repository;
use crate::readme::Readme;

pub const CHECKS: &[Check] = &[(
    "README: Filebeat delivers by the snippet as printed, and the agent's events are shaped like Filebeat's",
    delivers,
)];

const LINES: usize = 300;
/// The first time it is fetched and compiled.
const BUILD_MAX: Duration = Duration::from_mins(15);

fn filebeat() -> Command {
    Command::new(repository().join("e2e/anchors/filebeat"))
}

fn delivers() -> Result<()> {
    need("kcat", "kcat")?;
    need("go", "golang (1.23 or newer)")?;
    run(filebeat().arg("fetch"), BUILD_MAX)?;
    let dir = tempfile::tempdir()?;
    let input = dir.path().join("app.log");
    std::fs::write(&input, numbered(LINES, 40))?;
    // The snippet's paths are relative to where dev was started with the default directory.
    let data = dir.path().join(".tailway-dev");
    let (dev, published) = start_dev(&data, &input, &dir.path().join("dev.out"))?;
    let port = published.tls().rsplit(':').next().context("a port")?;
    let snippet = Readme::read()?.block("output.kafka:")?.replace("PORT", port);
    let inputs = format!(
        "filebeat.inputs:\n- type: filestream\n  id: e2e\n  paths: [\"{}\"]\n",
        input.display()
    );
    let config = dir.path().join("filebeat.yml");
    std::fs::write(&config, inputs + &snippet)?;
    let mut command = filebeat();
    command.current_dir(dir.path()).args(["run", "-e", "--strict.perms=false", "-c"]).arg(config);
    command.args(["--path.home", ".", "--path.data", "registry"]);
    let process = Process::start("filebeat", &mut command, &dir.path().join("filebeat.out"))?;
    wait_until(Duration::from_mins(1), || {
        Ok(count(&published, Transport::Tls, "filebeat").is_ok_and(|count| count >= LINES))
    })
    .with_context(|| format!("not all lines came; Filebeat says:\n{}", process.tail()))?;
    process.stop(Duration::from_secs(20))?;
    let theirs = by_offset(&consume(&published, Transport::Tls, "filebeat")?)?;
    let ours = by_offset(&consume(&published, Transport::Tls, "logs")?)?;
    ensure!(theirs.len() == LINES, "Filebeat delivered {} of {LINES} lines", theirs.len());
    ensure!(
        theirs.keys().eq(ours.keys()),
        "Filebeat and the agent found lines at different offsets of the file"
    );
    for (offset, theirs) in &theirs {
        let ours = &ours[offset];
        ensure!(shape(ours) == shape(theirs), "at {offset}: ours\n{ours}\nFilebeat's\n{theirs}");
    }
    stop_by_ctrl_c(dev)
}

/// Events by their place in the file; twice the same place is an error.
fn by_offset(documents: &str) -> Result<BTreeMap<u64, Value>> {
    let mut events = BTreeMap::new();
    for line in documents.lines() {
        let event: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let offset = event["log"]["offset"].as_u64().with_context(|| line.to_owned())?;
        ensure!(events.insert(offset, event).is_none(), "two events of offset {offset}");
    }
    Ok(events)
}

/// An event without what differs between two runs and between two versions of Filebeat: 8 no longer has `agent.hostname`.
fn shape(event: &Value) -> Value {
    let mut event = event.clone();
    if let Some(agent) = event["agent"].as_object_mut() {
        agent.remove("hostname");
    }
    for varying in [
        "/@timestamp",
        "/@metadata/version",
        "/ecs/version",
        "/agent/version",
        "/agent/id",
        "/agent/ephemeral_id",
    ] {
        if let Some(value) = event.pointer_mut(varying) {
            // Still there, still text.
            *value = Value::from(value.is_string());
        }
    }
    event
}
