//! Debian's kcat against the broker: the oldest librdkafka that users have.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, files_with, numbered, same, text};
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST};
use crate::kcat::{TRANSPORTS, Transport, command, consume, list, produce};
use crate::process::run;

pub const CHECKS: &[Check] = &[
    ("kcat lists brokers and topics over plaintext and TLS", lists),
    ("kcat produces with each codec, and the codec on disk is the one asked for", codecs),
    ("kcat reads a topic as a group member", group),
    ("kcat is told that a client certificate of another CA will not do", wrong_ca),
];

fn lists() -> Result<()> {
    need("kcat", "kcat")?;
    let bench = Bench::broker()?;
    bench.create_topic("listed", 3, &[])?;
    for transport in TRANSPORTS {
        let said = list(&bench.deployment.dev, transport)?;
        for wanted in
            ["1 brokers:", "topic \"listed\" with 3 partitions:", "leader 0, replicas: 0, isrs: 0"]
        {
            ensure!(said.contains(wanted), "kcat -L over {transport:?} lacks `{wanted}`:\n{said}");
        }
    }
    bench.deployment.stop()
}

fn codecs() -> Result<()> {
    need("kcat", "kcat")?;
    let bench = Bench::broker()?;
    let dev = &bench.deployment.dev;
    let input = numbered(500, 60);
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = format!("codec-{codec}");
        for transport in TRANSPORTS {
            produce(dev, transport, &topic, &["-z", codec], &input)?;
        }
        let read = consume(dev, Transport::Tls, &topic)?;
        same("what was produced and what was read", &read, &(input.clone() + &input))?;
        for log in files_with(&bench.partition_dir(&topic, 0)?, "log")? {
            let dump = Kafka::version(NEWEST).tool(&["kafka-dump-log", "--files", text(&log)?])?;
            let batches: Vec<&str> =
                dump.lines().filter(|line| line.contains("baseOffset:")).collect();
            ensure!(!batches.is_empty(), "kafka-dump-log shows no batch:\n{dump}");
            for batch in batches {
                ensure!(
                    batch.contains(&format!("compresscodec: {codec} ")),
                    "not {codec} on disk: {batch}"
                );
                ensure!(batch.contains("isvalid: true"), "{batch}");
            }
        }
    }
    bench.deployment.stop()
}

fn group() -> Result<()> {
    need("kcat", "kcat")?;
    let bench = Bench::broker()?;
    let dev = &bench.deployment.dev;
    bench.create_topic("grouped", 3, &[])?;
    let input = numbered(300, 10);
    produce(dev, Transport::Plaintext, "grouped", &[], &input)?;
    for transport in TRANSPORTS {
        let mut kcat = command(dev, transport)?;
        let group = format!("group-{transport:?}");
        kcat.args(["-q", "-X", "auto.offset.reset=earliest", "-c", "300", "-G", &group, "grouped"]);
        let said = run(&mut kcat, Duration::from_mins(1))?;
        let mut read: Vec<&str> = said.lines().collect();
        let mut wanted: Vec<&str> = input.lines().collect();
        read.sort_unstable();
        wanted.sort_unstable();
        ensure!(read == wanted, "the group read {} of 300 records over {transport:?}", read.len());
    }
    bench.deployment.stop()
}

fn wrong_ca() -> Result<()> {
    need("kcat", "kcat")?;
    let bench = Bench::broker()?;
    let other = Bench::broker()?;
    let mut dev = bench.deployment.dev.clone();
    dev.client_cert.clone_from(&other.deployment.dev.client_cert);
    dev.client_key.clone_from(&other.deployment.dev.client_key);
    let refused = list(&dev, Transport::Tls);
    let Err(error) = refused else {
        anyhow::bail!("a certificate of another CA was let in: {refused:?}")
    };
    ensure!(
        format!("{error:#}").to_lowercase().contains("alert"),
        "kcat does not speak of a TLS alert: {error:#}"
    );
    other.deployment.stop()?;
    bench.deployment.stop()
}
