//! librdkafka, through kcat, as a client of both brokers: lines of one file in, and the topic out again.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::brokers::{costed, medians, rounds, with_topic};
use super::meter::{self, CLIENT_CORE, Cost, Metered};
use super::subject::Subject;
use super::{Options, progress};
use crate::kcat::Transport;

const PARTITIONS: u32 = 6;
const LINE_BYTES: u64 = 1_000;
const BYTES: u64 = 300_000_000;
const PATIENCE: Duration = Duration::from_mins(5);

/// Medians of one broker.
#[derive(Clone, Debug, Default)]
pub struct Through {
    pub produce_mb_s: f64,
    pub produce_cpu_per_gb: f64,
    pub consume_mb_s: f64,
    pub consume_cpu_per_gb: f64,
}

/// Tailway, then Kafka.
pub fn compare(
    options: &Options,
    tailway: &Subject,
    kafka: &Subject,
    dir: &Path,
) -> Result<[Through; 2]> {
    progress("kcat");
    let subjects = [tailway, kafka];
    subjects.iter().try_for_each(|subject| subject.ensure_fit(options.warm_up_bytes()))?;
    let lines = if options.trial { BYTES / 100 } else { BYTES } / LINE_BYTES;
    let input = dir.join("kcat-input");
    let mut out = BufWriter::new(File::create(&input)?);
    let filler = "x".repeat(usize::try_from(LINE_BYTES)? - 13);
    for n in 0..lines {
        writeln!(out, "{n:012}{filler}")?;
    }
    out.flush()?;
    drop(out);
    let runs = rounds(options, subjects, |subject| {
        with_topic(subject, PARTITIONS, |topic| one(subject, topic, &input, lines, dir))
    })?;
    std::fs::remove_file(&input)?;
    Ok(runs.map(|runs| {
        let [produce_mb_s, produce_cpu_per_gb, consume_mb_s, consume_cpu_per_gb] = medians(&runs);
        Through { produce_mb_s, produce_cpu_per_gb, consume_mb_s, consume_cpu_per_gb }
    }))
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn one(subject: &Subject, topic: &str, input: &Path, lines: u64, dir: &Path) -> Result<[f64; 4]> {
    let gb = (lines * LINE_BYTES) as f64 / 1e9;
    let input = input.to_string_lossy();
    let produce = ["-P", "-t", topic, "-X", "acks=all", "-l", &*input];
    let (produced, produce_cpu) = costed(subject, || kcat(subject, &produce, &dir.join("kcat-p")))?;
    // A line for each record.
    let (consume, read) =
        (["-C", "-q", "-e", "-o", "beginning", "-t", topic, "-f", "\\n"], dir.join("kcat-c"));
    let (consumed, consume_cpu) = costed(subject, || kcat(subject, &consume, &read))?;
    let records = std::fs::metadata(&read)?.len();
    ensure!(records == lines, "kcat read {records} of {lines} records");
    std::fs::remove_file(read)?;
    Ok([
        gb * 1e3 / produced.seconds,
        produce_cpu / gb,
        gb * 1e3 / consumed.seconds,
        consume_cpu / gb,
    ])
}

fn kcat(subject: &Subject, args: &[&str], output: &Path) -> Result<Cost> {
    let mut kcat = meter::pinned(CLIENT_CORE, "kcat");
    kcat.args(["-b", &subject.endpoint(Transport::Plaintext).address]).args(args);
    Metered::start(&mut kcat, Stdio::null(), output)?.finish(PATIENCE)
}
