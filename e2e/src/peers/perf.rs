//! Kafka's own kafka-producer-perf-test and kafka-consumer-perf-test, and what they print.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::subject::Subject;
use crate::kafka::{Kafka, NEWEST};
use crate::kcat::Transport;

const PATIENCE: Duration = Duration::from_mins(5);

/// What a producer is asked to send.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub records: u64,
    pub record_bytes: u64,
    /// Records a second; all that it can if there is none.
    pub rate: Option<u64>,
    /// The first of the records, in which the client's virtual machine compiles itself: they cost the broker what others
    /// do, but count for neither throughput nor latency.
    pub warm_up: u64,
}

impl Load {
    pub fn bytes(self) -> u64 {
        self.records * self.record_bytes
    }

    /// GB (1e9 bytes) of record values.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub fn gigabytes(self) -> f64 {
        self.bytes() as f64 / 1e9
    }
}

/// What the producer says of what came after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Produced {
    pub megabytes_per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
}

/// The client's core: one, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Pinned,
    Anywhere,
}

fn tools(client: Client) -> Kafka {
    match client {
        Client::Pinned => Kafka::version(NEWEST).pinned(super::meter::CLIENT_CORE),
        Client::Anywhere => Kafka::version(NEWEST),
    }
}

/// Sends it all with acks=all, the tool's other settings being its defaults.
pub fn produce(
    subject: &Subject,
    transport: Transport,
    topic: &str,
    load: Load,
    client: Client,
) -> Result<Produced> {
    let endpoint = subject.endpoint(transport);
    let rate = load.rate.map_or_else(|| "-1".to_owned(), |rate| rate.to_string());
    let mut command = tools(client).command(&[
        "kafka-producer-perf-test",
        "--bootstrap-server",
        &endpoint.address,
        "--command-config",
        &endpoint.config,
        "--command-property",
        "acks=all",
        "--topic",
        topic,
        "--num-records",
        &load.records.to_string(),
        "--record-size",
        &load.record_bytes.to_string(),
        "--throughput",
        &rate,
        "--warmup-records",
        &load.warm_up.to_string(),
    ]);
    let said = crate::process::run(&mut command, PATIENCE)?;
    let last = said.lines().rev().find(|line| line.contains("99.9th"));
    let last =
        last.with_context(|| format!("the producer said nothing of percentiles:\n{said}"))?;
    let steady = if load.warm_up > 0 { " steady state" } else { "" };
    let records = format!("{}{steady} records sent", load.records - load.warm_up);
    ensure!(last.starts_with(&records), "not all {records}: {last}");
    parse_produced(last).with_context(|| format!("the producer's last line is new: {last}"))
}

/// `100 records sent` or `100 steady state records sent`, then `, 1.0 records/sec (0.95 MB/sec), 1.0 ms avg latency, 3.0 ms max latency, 1 ms 50th, 2 ms 95th, ...`
fn parse_produced(line: &str) -> Option<Produced> {
    let before = |what: &str| -> Option<f64> {
        let (head, _) = line.split_once(what)?;
        head.rsplit([' ', '(', ',']).find(|word| !word.is_empty())?.parse().ok()
    };
    Some(Produced {
        // The tool's MB are 2^20 bytes.
        megabytes_per_second: before(" MB/sec")? * 1.048_576,
        p50_ms: before(" ms 50th")?,
        p99_ms: before(" ms 99th")?,
        p999_ms: before(" ms 99.9th")?,
    })
}

/// Reads that many records and gives back MB/s (1e6 bytes) while it fetched.
pub fn consume(subject: &Subject, transport: Transport, topic: &str, records: u64) -> Result<f64> {
    let said = crate::process::run(&mut consumer(subject, transport, topic, records), PATIENCE)?;
    let last = said.lines().last().unwrap_or_default();
    parse_consumed(last, records)
        .with_context(|| format!("the consumer did not read {records} records:\n{said}"))
}

/// The consumer's command, for one that follows a producer.
pub fn consumer(
    subject: &Subject,
    transport: Transport,
    topic: &str,
    records: u64,
) -> std::process::Command {
    let endpoint = subject.endpoint(transport);
    tools(Client::Pinned).command(&[
        "kafka-consumer-perf-test",
        "--bootstrap-server",
        &endpoint.address,
        "--command-config",
        &endpoint.config,
        "--topic",
        topic,
        "--num-records",
        &records.to_string(),
        "--timeout",
        "60000",
    ])
}

/// `start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, ..., fetch.MB.sec, fetch.nMsg.sec`
fn parse_consumed(line: &str, records: u64) -> Option<f64> {
    let fields: Vec<&str> = line.split(", ").collect();
    let read: u64 = fields.get(4)?.parse().ok()?;
    let rate: f64 = fields.get(8)?.parse().ok()?;
    (read >= records).then_some(rate * 1.048_576)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_producers_last_line_is_read() {
        let line = "300000 records sent, 17376.194613 records/sec (16.57 MB/sec), 1740.85 ms avg latency, \
                    3647.00 ms max latency, 1489 ms 50th, 3455 ms 95th, 3596 ms 99th, 3640 ms 99.9th.";
        let said = parse_produced(line).unwrap();
        assert!((said.megabytes_per_second - 17.374_9).abs() < 0.001, "{said:?}");
        assert_eq!((said.p50_ms, said.p99_ms, said.p999_ms), (1489.0, 3596.0, 3640.0));
        assert_eq!(parse_produced("300000 records sent"), None);
    }

    #[test]
    fn the_consumers_last_line_is_read() {
        let line = "2026-11-27 23:40:01:001, 2026-11-27 23:40:03:155, 286.1023, 132.8237, 300000, 139275.7660, \
                    1200, 954, 299.8976, 314465.4088";
        let rate = parse_consumed(line, 300_000).unwrap();
        assert!((rate - 314.465).abs() < 0.001, "{rate}");
        assert_eq!(parse_consumed(line, 300_001), None);
        assert_eq!(parse_consumed("WARN something", 1), None);
    }
}
