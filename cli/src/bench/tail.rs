//! `tailway bench tail`: what the agent costs for a gigabyte of lines, in each format and codec.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tailway_agent::config::Codec;
use tailway_agent::event::Format;
use tailway_client::{Admin, OffsetSpec};
use tailway_daemon::exit::Exit;

use super::args::TailArgs;
use super::frame::{self, Findings, Place, heading, mib};
use super::load;
use super::servers::Servers;
use crate::dev::inputs::Inputs;
use crate::output::{Output, complain};

const PARTITIONS: u16 = 6;
const FORMATS: [Format; 2] = [Format::Raw, Format::Ecs];
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
/// Without a new record for so long, the run has failed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Tailed {
    bytes: u64,
    lines: u64,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    format: &'static str,
    codec: &'static str,
    megabytes_per_second: f64,
    lines_per_second: f64,
    /// User and system time of the agent, per 1e9 bytes of lines.
    cpu_seconds_per_gigabyte: f64,
    peak_rss_bytes: u64,
}

impl Findings for Tailed {
    fn method(&self) -> String {
        format!(
            "one file of {} lines, {} B, whole from the start, into {PARTITIONS} partitions; from the agent's exec until all is stored; CPU of the agent per 1e9 bytes of lines",
            self.lines, self.bytes
        )
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows =
            vec![heading(["format", "codec", "MB/s", "lines/s", "CPU-s/GB", "peak RSS MiB"])];
        rows.extend(self.rows.iter().map(|row| {
            vec![
                row.format.to_owned(),
                row.codec.to_owned(),
                format!("{:.1}", row.megabytes_per_second),
                format!("{:.0}", row.lines_per_second),
                format!("{:.2}", row.cpu_seconds_per_gigabyte),
                mib(row.peak_rss_bytes),
            ]
        }));
        rows
    }
}

pub(super) fn run(args: &TailArgs, output: Output) -> Result<Exit> {
    frame::run(&args.common, output, async |place| {
        let input = place.dir.path.join("input.log");
        let lines = (args.size.0 / args.line_size.0.max(1)).max(1);
        write_lines(&input, lines, usize::try_from(args.line_size.0)?)?;
        let bytes = std::fs::metadata(&input)?.len();
        let inputs = Inputs::look(&[input])?;
        let mut rows = Vec::new();
        for format in FORMATS {
            for codec in CODECS {
                let name = format!("{}, {}", format.name(), codec.compression().name());
                complain(&format!("{name} ..."));
                let row = row(place, &inputs, format, codec, lines, bytes).await;
                rows.push(row.context(name)?);
            }
        }
        Ok(Tailed { bytes, lines, rows })
    })
}

/// Words of a log, so that codecs have something to find, numbered so that no line is like another.
fn write_lines(path: &Path, lines: u64, line_bytes: usize) -> Result<()> {
    const WORDS: [&str; 8] =
        ["GET", "/api/orders", "200", "user", "latency", "upstream", "retry", "cache-miss"];
    let mut out = BufWriter::new(File::create(path)?);
    let (mut line, mut state) = (Vec::new(), 1_u64);
    for n in 0..lines {
        line.clear();
        write!(line, "{n:012} host-{}", n % 17)?;
        while line.len() + 1 < line_bytes {
            // xorshift64: any words will do, but the same ones in each run.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let word = WORDS.get((state % 8) as usize).copied().unwrap_or_default();
            write!(line, " {word}={}", state >> 48)?;
        }
        line.truncate(line_bytes.saturating_sub(1));
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(out.flush()?)
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
async fn row(
    place: &Place,
    inputs: &Inputs,
    format: Format,
    codec: Codec,
    lines: u64,
    bytes: u64,
) -> Result<Row> {
    let servers = Servers::start(&place.dir, place.transport, &place.clock).await?;
    let topic = "tail";
    let admin = load::make_topic(&servers, topic, PARTITIONS).await?;
    let agent = servers.start_agent(inputs, |config| {
        topic.clone_into(&mut config.output.topic);
        config.output.compression = codec;
        config.metrics.enabled = false;
        for input in &mut config.inputs {
            input.format = format;
        }
    });
    let agent = agent.await?;
    until_stored(&admin, topic, lines).await?;
    let (took, usage) = (agent.started.elapsed().as_secs_f64(), agent.usage()?);
    agent.stop().await?;
    let stored = stored(&admin, topic).await?;
    ensure!(stored == lines, "{stored} records are stored, for {lines} lines");
    servers.stop().await?;
    place.dir.clear()?;
    Ok(Row {
        format: format.name(),
        codec: codec.compression().name(),
        megabytes_per_second: bytes as f64 / 1e6 / took,
        lines_per_second: lines as f64 / took,
        cpu_seconds_per_gigabyte: usage.cpu_seconds / (bytes as f64 / 1e9),
        peak_rss_bytes: usage.peak_rss_bytes,
    })
}

#[allow(clippy::disallowed_methods, reason = "a benchmark's stopwatch")]
async fn until_stored(admin: &Admin, topic: &str, lines: u64) -> Result<()> {
    let (mut last, mut changed) = (0, Instant::now());
    loop {
        let now = stored(admin, topic).await?;
        if now >= lines {
            return Ok(());
        }
        if now > last {
            (last, changed) = (now, Instant::now());
        }
        ensure!(
            changed.elapsed() < PATIENCE,
            "{now} of {lines} lines are stored, and no more come; the agent's log is agent.log in its directory"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn stored(admin: &Admin, topic: &str) -> Result<u64> {
    let ends = admin.list_offsets(topic, OffsetSpec::Latest).await?;
    Ok(ends.iter().map(|end| u64::try_from(end.offset).unwrap_or(0)).sum())
}
