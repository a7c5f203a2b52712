//! `tailway bench latency`: from the append of a line to a file, through agent and broker, until a consumer has it.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tailway_agent::event::Format;
use tailway_client::{Consumer, ConsumerOptions, StartAt};
use tailway_daemon::exit::Exit;

use super::args::LatencyArgs;
use super::frame::{self, Findings, Place, heading};
use super::latencies::{Latencies, Percentiles};
use super::load;
use super::servers::Servers;
use crate::dev::inputs::Inputs;
use crate::output::{Output, complain};

const LINE_BYTES: usize = 200;
/// A program that flushes does so line by line, or each millisecond.
const BURSTS_PER_SECOND: u64 = 1_000;
/// For the agent to find the file, and its first line the topic.
const SETTLE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Ways {
    line_bytes: usize,
    seconds: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Row {
    lines_per_second: u64,
    way: Percentiles,
    /// Of one core.
    agent_cpu_percent: f64,
    broker_cpu_percent: f64,
}

impl Findings for Ways {
    fn method(&self) -> String {
        format!(
            "lines of {} B appended to one file, at most {BURSTS_PER_SECOND} times a second; raw, the agent's other settings being its defaults; \
             from the append until a consumer has the record; {} s per row",
            self.line_bytes, self.seconds
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let names = heading(["lines/s", "agent CPU %", "broker CPU %"]);
        let mut rows = vec![[names, Percentiles::heading()].concat()];
        rows.extend(self.rows.iter().map(|row| {
            let cells = [
                row.lines_per_second.to_string(),
                format!("{:.1}", row.agent_cpu_percent),
                format!("{:.1}", row.broker_cpu_percent),
            ];
            [cells.to_vec(), row.way.cells()].concat()
        }));
        rows
    }
}

pub(super) fn run(args: &LatencyArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let mut rows = Vec::new();
        for rate in args.rate.iter().copied() {
            complain(&format!("{rate} lines/s ..."));
            let row = row(place, rate, args.seconds).await;
            rows.push(row.with_context(|| format!("at {rate} lines/s"))?);
        }
        Ok(Ways { line_bytes: LINE_BYTES, seconds: args.seconds, rows })
    })
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn row(place: &Place, rate: u64, seconds: u64) -> Result<Row> {
    let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    let topic = "latency";
    load::make_topic(&servers, topic, 1).await?;
    let input = place.dir.path.join("live.log");
    File::create(&input)?;
    let inputs = Inputs::look(std::slice::from_ref(&input))?;
    let agent = servers.start_agent(&inputs, |config| {
        topic.clone_into(&mut config.output.topic);
        config.metrics.enabled = false;
        for input in &mut config.inputs {
            input.format = Format::Raw;
        }
    });
    let agent = agent.await?;
    let mut consumer = Consumer::new(servers.client()?, ConsumerOptions::default());
    consumer.assign_topic(topic, StartAt::Earliest).await?;
    tokio::time::sleep(SETTLE).await;
    let before = (agent.usage()?.cpu_seconds, servers.broker()?.usage()?.cpu_seconds);
    let (begun, lines) = (Instant::now(), rate * seconds);
    let writer = std::thread::spawn(move || append(input, rate, lines, begun));
    let latencies = read(&mut consumer, lines, begun).await?;
    let took = begun.elapsed().as_secs_f64();
    writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    let percent = |before: f64, after: f64| 100.0 * (after - before) / took;
    let row = Row {
        lines_per_second: rate,
        way: latencies.percentiles(),
        agent_cpu_percent: percent(before.0, agent.usage()?.cpu_seconds),
        broker_cpu_percent: percent(before.1, servers.broker()?.usage()?.cpu_seconds),
    };
    agent.stop().await?;
    servers.stop().await?;
    place.dir.clear()?;
    Ok(row)
}

/// Each line begins with the microseconds of its append since `begun`.
fn append(path: PathBuf, rate: u64, lines: u64, begun: Instant) -> Result<()> {
    let mut file = File::options().append(true).open(path)?;
    let at_once = rate.div_ceil(BURSTS_PER_SECOND);
    let (mut text, mut written) = (Vec::new(), 0);
    while written < lines {
        let due = Duration::from_micros(written * 1_000_000 / rate);
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let now = begun.elapsed().as_micros();
        text.clear();
        for _ in 0..at_once.min(lines - written) {
            let start = text.len();
            write!(text, "{now} ")?;
            text.resize(start + LINE_BYTES - 1, b'x');
            text.push(b'\n');
        }
        file.write_all(&text)?;
        written += at_once;
    }
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn read(consumer: &mut Consumer, lines: u64, begun: Instant) -> Result<Latencies> {
    let (mut latencies, mut read, mut last) = (Latencies::default(), 0, Instant::now());
    while read < lines {
        for consumed in consumer.poll(POLL).await? {
            last = Instant::now();
            for record in &consumed.records {
                let appended = record.value.as_deref().and_then(appended_at);
                let appended = appended.context("a record is none of our lines")?;
                latencies.add(last.saturating_duration_since(begun + appended));
                read += 1;
            }
        }
        ensure!(last.elapsed() < PATIENCE, "{read} of {lines} lines came, and then no more");
    }
    Ok(latencies)
}

fn appended_at(line: &[u8]) -> Option<Duration> {
    let digits = line.split(|byte| *byte == b' ').next()?;
    Some(Duration::from_micros(std::str::from_utf8(digits).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_it_was_appended() {
        assert_eq!(appended_at(b"1500 xxx"), Some(Duration::from_micros(1_500)));
        assert_eq!(appended_at(b"x"), None);
    }

    #[test]
    fn lines_are_all_appended_in_bursts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        #[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
        append(file.path().to_owned(), 1_000_000, 2_500, Instant::now()).unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        assert_eq!(text.lines().count(), 2_500);
        assert!(text.lines().all(|line| line.len() == LINE_BYTES - 1));
    }
}
