//! Kafka's own command-line tools against the broker.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, numbered, same};
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST, OLDER, client_properties};
use crate::kcat::{TRANSPORTS, Transport};
use crate::process::wait_until;

pub const CHECKS: &[Check] = &[
    (
        "Kafka 4.3.1 tools: topics, console producer and consumer, offsets, over plaintext and TLS",
        newest,
    ),
    ("Kafka 3.9.1 tools: topics, console producer and consumer, offsets", older),
    ("kafka-topics is told which config keys do not act", config_keys),
];

fn newest() -> Result<()> {
    tools(NEWEST, &TRANSPORTS)
}

fn older() -> Result<()> {
    tools(OLDER, &[Transport::Plaintext])
}

fn tools(version: &str, transports: &[Transport]) -> Result<()> {
    need("java", "default-jre-headless")?;
    need("mvn", "maven")?;
    let bench = Bench::broker()?;
    for transport in transports {
        let (config, address) =
            client_properties(&bench.deployment.dev, *transport, bench.dir.path())?;
        let tools = Tools { kafka: Kafka::version(version), config, address };
        let topic = format!("tools-{transport:?}");
        tools.create_and_describe(&topic)?;
        tools.produce_and_consume(&topic, version.starts_with('3'))?;
        tools.look_up_offsets(&topic)?;
        tools.describe_producers(&topic)?;
        tools.topics(&["--delete", "--topic", &topic])?;
        wait_until(Duration::from_secs(20), || {
            Ok(!tools.topics(&["--list"])?.lines().any(|line| line == topic))
        })?;
    }
    bench.deployment.stop()
}

/// Kafka's tools pointed at one listener.
struct Tools {
    kafka: Kafka,
    config: String,
    address: String,
}

impl Tools {
    fn call(&self, tool: &str, args: &[&str]) -> Result<String> {
        let base = [tool, "--bootstrap-server", &self.address, "--command-config", &self.config];
        self.kafka.tool(&[&base[..], args].concat())
    }

    fn topics(&self, args: &[&str]) -> Result<String> {
        self.call("kafka-topics", args)
    }

    fn create_and_describe(&self, topic: &str) -> Result<()> {
        let create = ["--create", "--topic", topic, "--partitions", "2"];
        self.topics(&[&create[..], &["--config", "retention.ms=3600000"]].concat())?;
        let listed = self.topics(&["--list"])?;
        ensure!(listed.lines().any(|line| line == topic), "kafka-topics --list lacks {topic}");
        let described = self.topics(&["--describe", "--topic", topic])?;
        let wanted =
            ["PartitionCount: 2", "ReplicationFactor: 1", "retention.ms=3600000", "Leader: 0"];
        for wanted in wanted {
            ensure!(described.contains(wanted), "--describe lacks `{wanted}`:\n{described}");
        }
        Ok(())
    }

    /// The console tools of the older line take their settings by other flags.
    fn produce_and_consume(&self, topic: &str, older: bool) -> Result<()> {
        let (for_producer, for_consumer) = if older {
            ("--producer.config", "--consumer.config")
        } else {
            ("--command-config", "--command-config")
        };
        let input = numbered(200, 20);
        let base = ["--bootstrap-server", &self.address, "--topic", topic];
        let producer = ["kafka-console-producer", for_producer, &self.config];
        self.kafka.tool_with_input(&[&producer[..], &base[..]].concat(), &input)?;
        let group = format!("{topic}-group");
        let consumer = ["kafka-console-consumer", for_consumer, &self.config, "--group", &group];
        let limits = ["--from-beginning", "--max-messages", "200", "--timeout-ms", "30000"];
        let read = self.kafka.tool(&[&consumer[..], &base[..], &limits[..]].concat())?;
        let sorted = |text: &str| {
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            lines.join("\n")
        };
        same("what was produced and what was read", &sorted(&read), &sorted(&input))
    }

    fn look_up_offsets(&self, topic: &str) -> Result<()> {
        let offsets = self.call("kafka-get-offsets", &["--topic", topic])?;
        let ends = offsets.lines().filter_map(|line| line.rsplit(':').next()?.parse::<u64>().ok());
        let sum: u64 = ends.sum();
        ensure!(sum == 200, "kafka-get-offsets adds up to {sum}, not 200:\n{offsets}");
        let group = format!("{topic}-group");
        let described = self.call("kafka-consumer-groups", &["--describe", "--group", &group])?;
        ensure!(described.contains(topic), "no committed offsets are shown:\n{described}");
        Ok(())
    }

    /// The console producer is idempotent: its two partitions know it by one id, with the last of its 200 sequences.
    fn describe_producers(&self, topic: &str) -> Result<()> {
        let mut records = 0;
        for partition in ["0", "1"] {
            let of = ["describe-producers", "--topic", topic, "--partition", partition];
            let described = self.call("kafka-transactions", &of)?;
            let mut lines = described.lines().filter(|line| !line.trim().is_empty());
            let columns: Vec<&str> = lines.next().unwrap_or_default().split_whitespace().collect();
            let wanted = [
                "ProducerId",
                "ProducerEpoch",
                "LatestCoordinatorEpoch",
                "LastSequence",
                "LastTimestamp",
                "CurrentTransactionStartOffset",
            ];
            ensure!(columns == wanted, "kafka-transactions shows other columns:\n{described}");
            for line in lines {
                let row: Vec<&str> = line.split_whitespace().collect();
                ensure!(row.len() == 6 && row[1] == "0" && row[2] == "-1", "{described}");
                records += row[3].parse::<u64>()? + 1;
                ensure!(row[4].parse::<i64>()? > 1_700_000_000_000, "{described}");
                ensure!(row[5] == "None", "{described}");
            }
        }
        ensure!(records == 200, "the last sequences add up to {records} records, not 200");
        // The tool asks for what does not exist again and again, for a minute if it is let.
        let impatient = format!("{}.impatient", self.config);
        let timeouts = "\ndefault.api.timeout.ms=3000\nrequest.timeout.ms=2000\n";
        std::fs::write(&impatient, std::fs::read_to_string(&self.config)? + timeouts)?;
        let (code, said) = self.kafka.tool_output(&[
            "kafka-transactions",
            "--bootstrap-server",
            &self.address,
            "--command-config",
            &impatient,
            "describe-producers",
            "--topic",
            topic,
            "--partition",
            "7",
        ])?;
        ensure!(code != Some(0), "partition 7 does not exist, yet the tool is content: {said}");
        Ok(())
    }
}

fn config_keys() -> Result<()> {
    need("java", "default-jre-headless")?;
    let bench = Bench::broker()?;
    let kafka = Kafka::version(NEWEST);
    let (config, address) =
        client_properties(&bench.deployment.dev, Transport::Plaintext, bench.dir.path())?;
    let create = |setting: &str| {
        kafka.tool_output(&[
            "kafka-topics",
            "--bootstrap-server",
            &address,
            "--command-config",
            &config,
            "--create",
            "--topic",
            "keys",
            "--config",
            setting,
        ])
    };
    let (code, said) = create("unclean.leader.election.enable=true")?;
    ensure!(
        code != Some(0) && said.contains("unclean.leader.election.enable"),
        "exit {code:?}: {said}"
    );
    let (code, said) = create("segment.bytes=-5")?;
    ensure!(code != Some(0) && said.contains("segment.bytes"), "exit {code:?}: {said}");
    let (code, said) = create("retention.ms=60000")?;
    ensure!(code == Some(0), "exit {code:?}: {said}");
    let described = kafka.tool(&[
        "kafka-configs",
        "--bootstrap-server",
        &address,
        "--command-config",
        &config,
        "--describe",
        "--all",
        "--topic",
        "keys",
    ])?;
    ensure!(described.contains("retention.ms=60000"), "{described}");
    ensure!(described.contains("segment.bytes="), "{described}");
    ensure!(
        !described.contains("unclean.leader.election.enable"),
        "lists a key that does not act:\n{described}"
    );
    bench.deployment.stop()
}
