//! What an OpenSearch refuses, holds up, or shows to nobody: mappings, write blocks, credentials, certificates.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::exact::needs;
use super::node::{Node, Proxy};
use super::stage::Stage;
use crate::checks::{Bench, text};
use crate::deployment::http_get;
use crate::group::{Check, need};
use crate::kcat::{Transport, command, produce};
use crate::process::{finish, run, wait_until};
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[
    (
        "OpenSearch: mapping conflicts are dead letters with their reason, and replayed once the mapping is mended",
        conflicts,
    ),
    (
        "OpenSearch: a write block and refused credentials pause, give nothing up, and end by themselves",
        pauses,
    ),
    ("OpenSearch: TLS and a password, and a wrong CA, name or password refused by name", secrets),
];

const TOPIC: &str = "orders";
const STREAM: &str = "logs-orders-default";
const RECORDS: usize = 2_000;
/// Every so many'th is no number.
const BAD_EVERY: usize = 10;
const PATIENCE: Duration = Duration::from_mins(2);

fn records(numbers: std::ops::Range<usize>) -> String {
    let one = |id: usize| {
        let n = if id % BAD_EVERY == 3 { json!(format!("none {id}")) } else { json!(id) };
        json!({ "id": id, "n": n }).to_string() + "\n"
    };
    numbers.map(one).collect()
}

/// Each id that the stream has, and how often.
fn ids(node: &Node) -> Result<BTreeMap<u64, usize>> {
    node.ask("POST", &format!("/{STREAM}/_refresh"), None)?;
    let query = json!({ "size": 10_000, "_source": ["id"], "query": { "match_all": {} } });
    let found = node.ask("POST", &format!("/{STREAM}/_search"), Some(query))?;
    let mut ids = BTreeMap::new();
    for hit in found["hits"]["hits"].as_array().context("hits")? {
        let id = hit["_source"]["id"].as_u64().with_context(|| hit.to_string())?;
        *ids.entry(id).or_default() += 1;
    }
    Ok(ids)
}

fn each_once(node: &Node, wanted: impl Iterator<Item = usize>) -> Result<()> {
    let (ids, wanted) = (ids(node)?, wanted.map(|id| (id as u64, 1)).collect::<BTreeMap<_, _>>());
    let odd: Vec<_> =
        ids.iter().filter(|(id, count)| wanted.get(id) != Some(count)).take(5).collect();
    ensure!(ids == wanted, "{} of {} ids; odd: {odd:?}", ids.len(), wanted.len());
    Ok(())
}

/// A number for `n`, whatever comes.
fn map(node: &Node, kind: &str) -> Result<()> {
    let template = json!({
        "index_patterns": [format!("{STREAM}*")],
        "data_stream": {},
        "priority": 300,
        "template": { "mappings": { "properties": { "n": { "type": kind } } } },
    });
    node.ask("PUT", "/_index_template/orders", Some(template)).map(drop)
}

fn sink(url: &str, more: &str) -> String {
    format!(
        "- name: es\n  type: opensearch\n  topics: [{TOPIC}]\n  urls: [\"{url}\"]\n  batch_records: 100\n  \
         request_timeout: 10s\n{more}"
    )
}

fn lane(stage: &Stage, topic: &str) -> Result<Value> {
    let lanes = stage.lanes()?;
    Ok(lanes.into_iter().find(|lane| lane["topic"] == topic).unwrap_or_default())
}

/// Waits until the sink has, or has given up, all of a topic.
fn settled(stage: &Stage, topic: &str, records: usize) -> Result<()> {
    let done = || Ok(lane(stage, topic)?["committed"].as_u64() == Some(records as u64));
    wait_until(PATIENCE, done).with_context(|| format!("{:?}", stage.lanes()))
}

/// What kcat reads of the dead letters: their reason, and where they belong.
fn dead_letters(stage: &Stage) -> Result<Vec<String>> {
    let mut kcat = command(&stage.deployment.dev, Transport::Plaintext)?;
    kcat.args([
        "-C",
        "-q",
        "-e",
        "-o",
        "beginning",
        "-t",
        &format!("{TOPIC}.dead"),
        "-f",
        "%h %s\\n",
    ]);
    Ok(run(&mut kcat, PATIENCE)?.lines().map(str::to_owned).collect())
}

fn conflicts() -> Result<()> {
    needs()?;
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let node = Node::start(&dir.path().join("node"), &[])?;
    map(&node, "long")?;
    let stage = Stage::start(Programs::built()?, dir.path(), &sink(&node.url(), ""))?;
    Bench::create(&stage.deployment, TOPIC, 1, &[])?;
    let dev = &stage.deployment.dev;
    produce(dev, Transport::Plaintext, TOPIC, &[], &records(0..RECORDS))?;
    settled(&stage, TOPIC, RECORDS)?;
    let is_bad = |id: &usize| id % BAD_EVERY == 3;
    each_once(&node, (0..RECORDS).filter(|id| !is_bad(id)))?;

    let letters = dead_letters(&stage)?;
    ensure!(letters.len() == RECORDS / BAD_EVERY, "{} dead letters", letters.len());
    for letter in &letters {
        let of_it = [
            "tailway.dead.sink=es",
            "tailway.dead.topic=orders",
            "tailway.dead.status=400",
            "[n]",
            "{\"id\":",
        ];
        ensure!(
            of_it.iter().all(|word| letter.contains(word)),
            "a dead letter without its reason: {letter}"
        );
    }
    let target = ["--topic", TOPIC, "--bootstrap", dev.plaintext()?];
    let said = stage.sink(&[&["rejects", "es"][..], &target].concat())?;
    ensure!(said.contains(&(RECORDS / BAD_EVERY).to_string()) && said.contains("400"), "{said}");

    let (_, metrics) = http_get(stage.deployment.admin("broker"), "/metrics")?;
    let (dead, delivered) = (RECORDS / BAD_EVERY, RECORDS - RECORDS / BAD_EVERY);
    for (name, value) in [("dead", dead), ("delivered", delivered)] {
        let line = format!("tailway_broker_sink_{name}_records_total{{sink=\"es\"}} {value}");
        ensure!(metrics.lines().any(|have| have == line), "no {line} in:\n{metrics}");
    }

    map(&node, "keyword")?;
    node.ask("POST", &format!("/{STREAM}/_rollover"), None)?;
    stage.sink(&[&["replay", "es"][..], &target].concat())?;
    settled(&stage, &format!("{TOPIC}.dead"), RECORDS / BAD_EVERY)?;
    each_once(&node, 0..RECORDS)?;
    let said = stage.sink(&[&["rejects", "es"][..], &target].concat())?;
    ensure!(!said.contains("400"), "after the replay there are rejects: {said}");
    // Asked for again, nothing is delivered again.
    stage.sink(&[&["replay", "es"][..], &target].concat())?;
    produce(dev, Transport::Plaintext, TOPIC, &[], &records(RECORDS..RECORDS + 100))?;
    settled(&stage, TOPIC, RECORDS + 100)?;
    each_once(&node, 0..RECORDS + 100)?;
    stage.deployment.stop()
}

fn pauses() -> Result<()> {
    needs()?;
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let node = Node::start(&dir.path().join("node"), &[])?;
    let proxy = Proxy::start(&node, &dir.path().join("proxy.out"), &[])?;
    map(&node, "keyword")?;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    let stage = Stage::start(Programs::built()?, dir.path(), &sink(&url, ""))?;
    Bench::create(&stage.deployment, TOPIC, 1, &[])?;
    let dev = &stage.deployment.dev;
    let mut sent = 0;
    let mut more = |records_more: usize| {
        produce(dev, Transport::Plaintext, TOPIC, &[], &records(sent..sent + records_more))?;
        sent += records_more;
        Ok::<usize, anyhow::Error>(sent)
    };
    settled(&stage, TOPIC, more(100)?)?;
    let block = |on: bool| {
        let settings = json!({ "index.blocks.write": on });
        node.ask("PUT", &format!("/{STREAM}/_settings"), Some(settings)).map(drop)
    };
    let trouble = |kind: &str, on: bool| if kind == "blocked" { block(on) } else { proxy.deny(on) };
    for kind in ["blocked", "credentials"] {
        trouble(kind, true)?;
        let all = more(500)?;
        wait_until(PATIENCE, || Ok(lane(&stage, TOPIC)?["pause"] == kind))
            .with_context(|| format!("not {kind}: {:?}", stage.lanes()))?;
        let listed = stage.sink(&["list", "--config", &stage.config()])?;
        ensure!(listed.contains("paused"), "{listed}");
        ensure!(node.count(STREAM)? == all - 500, "something came through while {kind}");
        trouble(kind, false)?;
        settled(&stage, TOPIC, all)?;
        each_once(&node, 0..all)?;
        let state = lane(&stage, TOPIC)?;
        ensure!(state["dead"] == 0, "something was given up: {state}");
    }
    let topics = crate::kcat::list(dev, Transport::Plaintext)?;
    ensure!(!topics.contains("orders.dead"), "a dead letter was written");
    stage.deployment.stop()
}

fn secrets() -> Result<()> {
    needs()?;
    need("kcat", "kcat")?;
    let (dir, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let node = Node::start(&dir.path().join("node"), &[])?;
    map(&node, "keyword")?;
    let programs = Programs::built()?;
    let export = |dir: &Path| -> Result<std::path::PathBuf> {
        let unused = dir.join("unused.log");
        std::fs::write(&unused, "")?;
        let tls = crate::deployment::Deployment::export(&dir.join("tls"), &[text(&unused)?])?;
        Ok(tls.dir.join("tls"))
    };
    // Certificates of two CAs, for 127.0.0.1.
    let (tls, others) = (export(dir.path())?, export(other.path())?);
    let (cert, key) = (tls.join("broker.pem"), tls.join("broker.key"));
    let more = [text(&cert)?, text(&key)?, "writer", "s3cret"];
    let proxy = Proxy::start(&node, &dir.path().join("proxy.out"), &more)?;
    let password = dir.path().join("password");
    std::fs::write(&password, "s3cret\n")?;
    run(std::process::Command::new("chmod").args(["600", text(&password)?]), PATIENCE)?;
    let url = format!("https://127.0.0.1:{}", proxy.port());
    let ca = |tls: &Path| tls.join("ca.pem").display().to_string();
    let with = |ca: &str, name: &str| {
        let file = password.display();
        let more = format!(
            "  username: writer\n  password: {{ file: {file} }}\n  tls: {{ ca: {ca}{name} }}\n"
        );
        sink(&url, &more)
    };
    let good = with(&ca(&tls), "");
    let stage = Stage::start(programs, dir.path(), &good)?;
    Bench::create(&stage.deployment, TOPIC, 1, &[])?;
    produce(&stage.deployment.dev, Transport::Plaintext, TOPIC, &[], &records(0..RECORDS))?;
    settled(&stage, TOPIC, RECORDS)?;
    each_once(&node, 0..RECORDS)?;

    let mut now = good;
    let mut refused = |sink: String, words: &[&str]| -> Result<()> {
        stage.deployment.configure("broker", &[(&now, &sink)])?;
        now = sink;
        let output = finish(
            &mut stage.sink_command(&["test", "es", "--config", &stage.config()])?,
            PATIENCE,
        )?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "it was not refused: {words:?}");
        ensure!(words.iter().all(|word| said.contains(word)), "{words:?} not in: {said}");
        ensure!(!said.contains("s3cret"), "the password is shown: {said}");
        Ok(())
    };
    let port = proxy.port().to_string();
    refused(with(&ca(&others), ""), &[&port, "CA"])?;
    refused(with(&ca(&tls), ", server_name: other.example"), &[&port, "other.example"])?;
    std::fs::write(&password, "wrong\n")?;
    refused(with(&ca(&tls), ""), &["401", "unable to authenticate"])?;
    stage.deployment.stop()
}
