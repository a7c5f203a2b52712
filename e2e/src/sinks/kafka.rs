//! Into a real Apache Kafka: the copy is read beside the original, record by record.

#![allow(clippy::print_stdout, reason = "prints what was found")]

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::node::free_port;
use super::stage::Stage;
use crate::checks::{Bench, numbered, same};
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST};
use crate::kcat::{Transport, produce};
use crate::process::{Process, finish, run, wait_until};
use crate::programs::Programs;
use crate::python;

pub const CHECKS: &[Check] = &[
    (
        "Kafka: each record once, equal and in order, through kill -9 of the broker and of Kafka",
        kills,
    ),
    ("Kafka: nothing goes back to the cluster that it came from, over TLS", loops),
    (
        "Kafka: a record too large for the target is a dead letter, and replayed once there is room",
        too_large,
    ),
];

const TOPIC: &str = "events";
const PARTITIONS: u32 = 3;
/// In turn of the broker, of both, and of Kafka.
const KILLS: usize = 9;
/// As it stands in the sink's configuration.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const WRITING: Duration = Duration::from_mins(2);
const PATIENCE: Duration = Duration::from_mins(10);
const KAFKA_PATIENCE: Duration = Duration::from_mins(1);

fn needs() -> Result<()> {
    need("java", "default-jre-headless")?;
    need("mvn", "maven")?;
    need("python3", "python3 python3-venv")
}

fn sink(name: &str, address: &str) -> String {
    format!("- name: {name}\n  type: kafka\n  topics: [{TOPIC}]\n  brokers: [\"{address}\"]\n")
}

fn kills() -> Result<()> {
    needs()?;
    let (dir, count) = (tempfile::tempdir()?, super::lines());
    let port = free_port()?;
    let kafka = Kafka::version(NEWEST).start_broker(&dir.path().join("kafka"), port, &[])?;
    let sink = sink("central", &kafka.address) + "  request_timeout: 2s\n";
    let mut stage = Stage::start(Programs::built()?, dir.path(), &sink)?;
    Bench::create(&stage.deployment, TOPIC, PARTITIONS, &[])?;
    let dev = stage.deployment.dev.clone();
    let script = || python::command("forwarded_records.py", &dev, Transport::Plaintext);
    let (number, seconds) = (count.to_string(), WRITING.as_secs().to_string());
    let mut produce = script()?;
    produce.args(["produce", TOPIC, &number, &seconds]);
    let mut producer = Process::start("producer", &mut produce, &dir.path().join("producer.out"))?;
    for kill in 0..KILLS {
        let mut before = None;
        // While it moves, a batch is on its way more often than not.
        let moves = || {
            let now = sum(&stage, "committed");
            Ok(now.is_some() && now > *before.get_or_insert(now))
        };
        wait_until(KAFKA_PATIENCE, moves)
            .with_context(|| format!("nothing was forwarded before kill {kill}"))?;
        let (of_kafka, of_broker) = (kill % 3 > 0, kill % 3 < 2);
        if of_kafka {
            kafka.kill()?;
        }
        if of_broker {
            stage.deployment.kill_daemon("broker")?;
        } else {
            // Until it has given up waiting for an answer.
            std::thread::sleep(REQUEST_TIMEOUT * 2);
        }
        if of_kafka {
            kafka.restart(KAFKA_PATIENCE)?;
        }
        if of_broker {
            stage.deployment.start_daemon("broker")?;
        }
    }
    wait_until(PATIENCE, || producer.has_exited())?;
    let said = producer.printed();
    ensure!(producer.wait(PATIENCE)?.success(), "not everything was produced: {said}");
    wait_until(PATIENCE, || {
        let lag = sum(&stage, "lag_records");
        Ok(sum(&stage, "committed") >= Some(count as u64) && lag == Some(0))
    })
    .with_context(|| format!("the sink does not catch up: {:?}", stage.lanes()))?;
    let found = compare(script()?.args(["compare", TOPIC, &number, &kafka.address]))?;
    let log = std::fs::read_to_string(stage.deployment.dir.join("broker.log"))?;
    let doubts = log.matches("looked for a batch in doubt").count();
    println!("  {KILLS} kills, {doubts} batches in doubt: {found}");
    ensure!(found["same"] == true, "the copy is another: {found}");
    ensure!(doubts > 0, "no kill hit a batch on its way");
    stage.deployment.stop()
}

/// Two clusters that forward to each other.
fn loops() -> Result<()> {
    const COUNT: &str = "1000";
    needs()?;
    let dirs = [tempfile::tempdir()?, tempfile::tempdir()?];
    let programs = Programs::built()?;
    let mut one = Stage::start(programs, dirs[0].path(), &sink("out", "127.0.0.1:1"))?;
    let dev = &one.deployment.dev;
    let tls = format!(
        "  tls: {{ ca: {}, cert: {}, key: {} }}\n",
        dev.ca.display(),
        dev.client_cert.display(),
        dev.client_key.display()
    );
    let back = sink("back", dev.tls()) + &tls;
    let mut other = Stage::start(programs, dirs[1].path(), &back)?;
    Bench::create(&one.deployment, TOPIC, PARTITIONS, &[])?;
    one.deployment.stop_daemon("broker")?;
    one.deployment.configure("broker", &[("127.0.0.1:1", other.deployment.dev.plaintext()?)])?;
    one.deployment.start_daemon("broker")?;
    let dev = one.deployment.dev.clone();
    python::script(
        "forwarded_records.py",
        &dev,
        Transport::Plaintext,
        &["produce", TOPIC, COUNT, "0"],
    )?;
    let all: u64 = COUNT.parse()?;
    wait_until(KAFKA_PATIENCE, || {
        Ok([&one, &other].iter().all(|stage| sum(stage, "committed") >= Some(all)))
    })
    .with_context(|| format!("{:?}\n{:?}", one.lanes(), other.lanes()))?;
    let mut script = python::command("forwarded_records.py", &dev, Transport::Plaintext)?;
    let there = other.deployment.dev.plaintext()?.to_owned();
    let found = compare(script.args(["compare", TOPIC, COUNT, &there]))?;
    ensure!(found["same"] == true, "records went round: {found}");
    other.deployment.stop_daemon("broker")?;
    one.deployment.stop()
}

fn too_large() -> Result<()> {
    needs()?;
    need("kcat", "kcat")?;
    let dir = tempfile::tempdir()?;
    let port = free_port()?;
    let kafka = Kafka::version(NEWEST);
    let target = kafka.start_broker(&dir.path().join("kafka"), port, &[])?;
    let at = ["--bootstrap-server", target.address.as_str()];
    let create =
        ["--create", "--topic", TOPIC, "--partitions", "1", "--config", "max.message.bytes=20000"];
    kafka.tool(&[&["kafka-topics"][..], &at, &create].concat())?;
    let sink = sink("central", &target.address) + "  compression: none\n";
    let stage = Stage::start(Programs::built()?, dir.path(), &sink)?;
    Bench::create(&stage.deployment, TOPIC, 1, &[])?;
    let dev = &stage.deployment.dev;
    let large = "large ".repeat(8_000);
    let lines = numbered(60, 100) + &large + "\n" + &numbered(40, 100);
    produce(dev, Transport::Plaintext, TOPIC, &[], &lines)?;
    let consume = |from: &str, topic: &str, format: &str| {
        let mut kcat = Command::new("kcat");
        kcat.args(["-b", from, "-C", "-q", "-e", "-o", "beginning", "-t", topic, "-f", format]);
        run(&mut kcat, PATIENCE)
    };
    let there = || consume(&target.address, TOPIC, "%s\\n");
    wait_until(KAFKA_PATIENCE, || Ok(there()?.lines().count() == 100))
        .with_context(|| format!("{:?}", stage.lanes()))?;
    same("what is at the target", &there()?, &(numbered(60, 100) + &numbered(40, 100)))?;
    let letters = consume(dev.plaintext()?, &format!("{TOPIC}.dead"), "%h %S\\n")?;
    ensure!(letters.lines().count() == 1 && letters.contains("MESSAGE_TOO_LARGE"), "{letters}");
    ensure!(letters.trim().ends_with(&format!(" {}", large.len())), "not whole: {letters}");

    let raise = [
        "--entity-type",
        "topics",
        "--entity-name",
        TOPIC,
        "--alter",
        "--add-config",
        "max.message.bytes=1000000",
    ];
    kafka.tool(&[&["kafka-configs"][..], &at, &raise].concat())?;
    stage.sink(&["replay", "central", "--topic", TOPIC, "--bootstrap", dev.plaintext()?])?;
    wait_until(KAFKA_PATIENCE, || Ok(there()?.lines().count() == 101))
        .with_context(|| format!("{:?}", stage.lanes()))?;
    let headers = consume(&target.address, TOPIC, "%S %h\\n")?;
    let delivered = headers.lines().last().unwrap_or_default().to_owned();
    ensure!(delivered.starts_with(&format!("{} ", large.len())), "{delivered}");
    ensure!(!delivered.contains("tailway.dead"), "it is still a dead letter: {delivered}");
    stage.deployment.stop()
}

/// Over the sink's partitions, once all are known.
fn sum(stage: &Stage, key: &str) -> Option<u64> {
    let lanes = stage.lanes().ok()?;
    let of_topic = lanes.iter().filter(|lane| lane["topic"] == TOPIC);
    let numbers: Vec<u64> = of_topic.filter_map(|lane| lane[key].as_u64()).collect();
    (numbers.len() == PARTITIONS as usize).then(|| numbers.iter().sum())
}

fn compare(command: &mut Command) -> Result<Value> {
    let output = finish(command, PATIENCE)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let why = || format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let mut found: Value = serde_json::from_str(text.trim()).with_context(why)?;
    found["same"] = output.status.success().into();
    Ok(found)
}
