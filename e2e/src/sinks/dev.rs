//! `tailway dev --sink`: the short forms, against the real ones.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::exact::needs;
use super::node::{Node, free_port};
use super::stage::{STREAM, TOPIC};
use crate::checks::{numbered, same};
use crate::deployment::stop_by_ctrl_c;
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST};
use crate::lines::messages;
use crate::process::{Process, run, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] =
    &[("tailway dev FILE --sink es=URL --sink kafka=HOST:PORT: the file's lines are in both", dev)];

const LINES: usize = 500;
const PATIENCE: Duration = Duration::from_mins(2);

fn dev() -> Result<()> {
    needs()?;
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let node = Node::start(&dir.path().join("node"), &[])?;
    let kafka =
        Kafka::version(NEWEST).start_broker(&dir.path().join("kafka"), free_port()?, &[])?;
    let (input, text) = (dir.path().join("app.log"), numbered(LINES, 40));
    std::fs::write(&input, &text)?;
    let mut command = Command::new(Programs::built()?.path("tailway")?);
    command.arg("dev").arg(&input).arg("--data").arg(dir.path().join("data"));
    command.args(["--sink", &format!("es={}", node.url())]);
    command.args(["--sink", &format!("kafka={}", kafka.address)]);
    let process = Process::start("tailway dev", &mut command, &dir.path().join("dev.out"))?;

    let in_kafka = || {
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", &kafka.address, "-C", "-q", "-e", "-o", "beginning", "-t", TOPIC]);
        messages(&run(&mut kcat, PATIENCE).unwrap_or_default())
    };
    wait_until(PATIENCE, || Ok(in_kafka()?.len() >= LINES)).with_context(|| process.tail())?;
    same("the lines in Kafka", &(in_kafka()?.join("\n") + "\n"), &text)?;

    let in_stream = || Ok(node.count(STREAM).is_ok_and(|count| count >= LINES));
    wait_until(PATIENCE, in_stream).with_context(|| process.tail())?;
    let query = json!({ "size": 1_000, "_source": ["message"], "sort": ["log.offset"] });
    let found = node.ask("POST", &format!("/{STREAM}/_search"), Some(query))?;
    let hits = found["hits"]["hits"].as_array().context("hits")?;
    let lines = hits.iter().filter_map(|hit| hit["_source"]["message"].as_str());
    same("the lines in OpenSearch", &(lines.collect::<Vec<_>>().join("\n") + "\n"), &text)?;
    ensure!(hits.len() == LINES, "{} hits", hits.len());
    stop_by_ctrl_c(process)
}
