//! The `tailway` command against real Apache Kafka, and its errors where something is wrong.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Bench, numbered, same};
use crate::deployment::PATIENCE;
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST, OLDER};
use crate::process::{finish, run, run_with_input};
use crate::programs::Programs;

pub const CHECKS: &[Check] = &[
    ("tailway topic, produce and tap work on Apache Kafka 4.3.1", on_newest),
    ("tailway topic, produce and tap work on Apache Kafka 3.9.1", on_older),
    ("tailway names broker, cause and next command when TLS, CA or topic are wrong", errors),
];

fn on_newest() -> Result<()> {
    on_kafka(NEWEST, 19_792)
}

fn on_older() -> Result<()> {
    on_kafka(OLDER, 19_892)
}

fn tailway(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(Programs::built()?.path("tailway")?);
    command.args(args);
    Ok(command)
}

fn on_kafka(version: &str, port: u16) -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let dir = tempfile::tempdir()?;
    let broker = Kafka::version(version).start_broker(dir.path(), port, &[])?;
    let bootstrap = ["--bootstrap", &broker.address];
    let call = |args: &[&str]| run(tailway(args)?.args(bootstrap), PATIENCE);
    call(&["topic", "create", "orders", "--partitions", "3", "--config", "retention.ms=3600000"])?;
    ensure!(call(&["topic", "list"])?.contains("orders"), "topic list lacks the topic");
    let listed: serde_json::Value = serde_json::from_str(&call(&["topic", "list", "-o", "json"])?)?;
    let listed = listed.as_array().context("a list")?.iter();
    let orders = listed.filter(|topic| topic["name"] == "orders" && topic["partitions"] == 3);
    ensure!(orders.count() == 1, "topic list -o json lacks the topic");
    let yaml = call(&["topic", "describe", "orders", "-o", "yaml"])?;
    ensure!(yaml.starts_with("name: orders\n"), "topic describe -o yaml says:\n{yaml}");
    let described = call(&["topic", "describe", "orders"])?;
    for wanted in ["orders", "retention.ms", "3600000"] {
        ensure!(described.contains(wanted), "topic describe lacks `{wanted}`:\n{described}");
    }
    let input = numbered(300, 30);
    run_with_input(tailway(&["produce", "orders"])?.args(bootstrap), input.as_bytes(), PATIENCE)?;
    let read_by_kcat = run(
        Command::new("kcat").args(["-b", &broker.address, "-C", "-q", "-e", "-t", "orders"]),
        PATIENCE,
    )?;
    let read_by_tap = call(&["tap", "orders", "--from", "beginning", "--limit", "300"])?;
    let sorted = |text: &str| {
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    };
    same("what tailway produced and kcat read", &sorted(&read_by_kcat), &sorted(&input))?;
    let one = call(&["tap", "orders", "--limit", "1", "-o", "json"])?;
    let one: serde_json::Value = serde_json::from_str(one.trim_end())?;
    ensure!(one["topic"] == "orders" && one["value"].is_string(), "tap -o json says {one}");
    same("what kcat and tailway tap read", &sorted(&read_by_tap), &sorted(&input))?;
    call(&["topic", "delete", "orders"])?;
    ensure!(!call(&["topic", "list"])?.contains("orders"), "the deleted topic is still listed");
    Ok(())
}

fn errors() -> Result<()> {
    let bench = Bench::broker()?;
    let other = Bench::broker()?;
    let dev = &bench.deployment.dev;
    let (tls, plaintext) = (dev.tls(), dev.plaintext()?);
    let (cert, key) = (super::text(&dev.client_cert)?, super::text(&dev.client_key)?);
    let (ca, other_ca) = (super::text(&dev.ca)?, super::text(&other.deployment.dev.ca)?);
    let cases: [(&[&str], &[&str]); 5] = [
        (&["topic", "list", "--bootstrap", tls], &[tls, "TLS", "--tls-ca"]),
        (
            &[
                "topic",
                "list",
                "--bootstrap",
                plaintext,
                "--tls-ca",
                ca,
                "--tls-cert",
                cert,
                "--tls-key",
                key,
            ],
            &[plaintext, "plaintext"],
        ),
        (
            &[
                "topic",
                "list",
                "--bootstrap",
                tls,
                "--tls-ca",
                other_ca,
                "--tls-cert",
                cert,
                "--tls-key",
                key,
            ],
            &[tls, "CA"],
        ),
        (
            &["topic", "describe", "nowhere", "--bootstrap", plaintext],
            &["nowhere", "tailway topic"],
        ),
        (&["topic", "list", "--bootstrap", "127.0.0.1:9"], &["127.0.0.1:9", "refused"]),
    ];
    for (args, wanted) in cases {
        let output = finish(&mut tailway(args)?, PATIENCE)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{args:?} succeeded");
        for word in wanted {
            ensure!(said.contains(word), "{args:?} does not say `{word}`:\n{said}");
        }
    }
    other.deployment.stop()?;
    bench.deployment.stop()
}
