//! Our broker beside Kafka, load by load: rounds are interleaved, and what is kept of each figure is the median.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};

use super::meter::{Metered, median};
use super::perf::{self, Client, Load};
use super::subject::Subject;
use super::{Options, progress};
use crate::kcat::Transport;

const PATIENCE: Duration = Duration::from_mins(3);
/// What a run without a rate sends, a third of it to warm up.
const MAX_RUN_BYTES: u64 = 360_000_000;
/// How long the client of a run at a rate warms up.
pub(super) const WARM_UP_SECONDS: u64 = 2;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub record_bytes: u64,
    pub partitions: u32,
    pub transport: Transport,
}

impl Workload {
    pub fn name(self) -> String {
        let Workload { record_bytes, partitions, transport } = self;
        format!("{record_bytes} B, {partitions} partitions, {}", transport_name(transport))
    }
}

fn transport_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Plaintext => "plaintext",
        Transport::Tls => "TLS",
    }
}

/// All of them.
pub fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    for transport in [Transport::Plaintext, Transport::Tls] {
        for record_bytes in [1_000, 100] {
            for partitions in [1, 6] {
                all.push(Workload { record_bytes, partitions, transport });
            }
        }
    }
    all
}

/// Medians of one broker under one load.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// As fast as the client goes, on its core.
    pub max_mb_s: f64,
    pub max_cpu_per_gb: f64,
    /// As fast as the client goes, on any core.
    pub free_mb_s: f64,
    /// At half of Kafka's maximum.
    pub half_cpu_per_gb: f64,
    pub half_p50_ms: f64,
    pub half_p99_ms: f64,
    /// What a consumer adds that follows at half of Kafka's maximum.
    pub follow_cpu_per_gb: f64,
    /// At a fifth of Kafka's maximum.
    pub fifth_p50_ms: f64,
    pub fifth_p99_ms: f64,
    /// A consumer that reads what is there.
    pub read_mb_s: f64,
    pub read_cpu_per_gb: f64,
    pub peak_rss_mib: f64,
}

/// Both brokers under one load.
pub struct Compared {
    pub workload: Workload,
    /// Records a second of Kafka's maximum.
    pub kafka_max: u64,
    pub tailway: Figures,
    pub kafka: Figures,
}

/// Runs one load against both.
pub fn compare(
    options: &Options,
    tailway: &Subject,
    kafka: &Subject,
    workload: Workload,
) -> Result<Compared> {
    let subjects = [tailway, kafka];
    let mut figures = [Figures::default(), Figures::default()];
    let max = Load {
        records: MAX_RUN_BYTES / workload.record_bytes,
        record_bytes: workload.record_bytes,
        rate: None,
        warm_up: MAX_RUN_BYTES / workload.record_bytes / 3,
    };
    let fit =
        || subjects.iter().try_for_each(|subject| subject.ensure_fit(options.warm_up_bytes()));
    fit()?;
    progress(&format!("{}: as fast as it goes", workload.name()));
    let runs = rounds(options, subjects, |subject| max_run(subject, workload, max))?;
    for (figures, runs) in figures.iter_mut().zip(&runs) {
        let [mb_s, cpu, free, read, read_cpu] = medians(runs);
        figures.max_mb_s = mb_s;
        figures.max_cpu_per_gb = cpu;
        figures.free_mb_s = free;
        figures.read_mb_s = read;
        figures.read_cpu_per_gb = read_cpu;
    }
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate of some thousand to some million"
    )]
    let kafka_max = (figures[1].max_mb_s * 1e6 / workload.record_bytes as f64) as u64;
    let at = |rate: u64| Load {
        records: rate * (WARM_UP_SECONDS + options.seconds),
        rate: Some(rate),
        warm_up: rate * WARM_UP_SECONDS,
        ..max
    };
    progress(&format!("{}: at half of Kafka's maximum", workload.name()));
    let runs = rounds(options, subjects, |subject| rate_run(subject, workload, at(kafka_max / 2)))?;
    for (figures, runs) in figures.iter_mut().zip(&runs) {
        let [cpu, p50, p99, follow] = medians(runs);
        figures.half_cpu_per_gb = cpu;
        figures.half_p50_ms = p50;
        figures.half_p99_ms = p99;
        figures.follow_cpu_per_gb = follow;
    }
    progress(&format!("{}: at a fifth of Kafka's maximum", workload.name()));
    let runs =
        rounds(options, subjects, |subject| latency_run(subject, workload, at(kafka_max / 5)))?;
    for (figures, runs) in figures.iter_mut().zip(&runs) {
        let [p50, p99] = medians(runs);
        figures.fifth_p50_ms = p50;
        figures.fifth_p99_ms = p99;
    }
    for (figures, subject) in figures.iter_mut().zip(subjects) {
        figures.peak_rss_mib = subject.peak_rss_mib()?;
    }
    fit()?;
    let [tailway, kafka] = figures;
    Ok(Compared { workload, kafka_max, tailway, kafka })
}

/// First the one, then the other, round after round, so that what else happens on the machine meets both.
pub(super) fn rounds<const N: usize>(
    options: &Options,
    subjects: [&Subject; 2],
    run: impl Fn(&Subject) -> Result<[f64; N]>,
) -> Result<[Vec<[f64; N]>; 2]> {
    let mut of = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (runs, subject) in of.iter_mut().zip(subjects) {
            runs.push(run(subject).with_context(|| subject.name.to_owned())?);
        }
    }
    Ok(of)
}

pub(super) fn medians<const N: usize>(runs: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|at| median(&runs.iter().map(|run| run[at]).collect::<Vec<f64>>()))
}

/// With a topic of its own, deleted afterwards.
pub(super) fn with_topic<T>(
    subject: &Subject,
    partitions: u32,
    run: impl FnOnce(&str) -> Result<T>,
) -> Result<T> {
    let topic = "measured";
    subject.create_topic(topic, partitions)?;
    let result = run(topic)?;
    subject.delete_topic(topic)?;
    Ok(result)
}

/// The broker's processor time for what `run` has it do.
pub(super) fn costed<T>(subject: &Subject, run: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    let before = subject.cpu_seconds()?;
    let result = run()?;
    Ok((result, subject.cpu_seconds()? - before))
}

fn max_run(subject: &Subject, workload: Workload, load: Load) -> Result<[f64; 5]> {
    let Workload { partitions, transport, .. } = workload;
    let gb = load.gigabytes();
    let (produced, cpu, read, read_cpu) = with_topic(subject, partitions, |topic| {
        let produce = || perf::produce(subject, transport, topic, load, Client::Pinned);
        let (produced, cpu) = costed(subject, produce)?;
        let consume = || perf::consume(subject, transport, topic, load.records);
        let (read, read_cpu) = costed(subject, consume)?;
        Ok((produced, cpu, read, read_cpu))
    })?;
    let free = with_topic(subject, partitions, |topic| {
        perf::produce(subject, transport, topic, load, Client::Anywhere)
    })?;
    let free = free.megabytes_per_second;
    Ok([produced.megabytes_per_second, cpu / gb, free, read, read_cpu / gb])
}

fn rate_run(subject: &Subject, workload: Workload, load: Load) -> Result<[f64; 4]> {
    let Workload { partitions, transport, .. } = workload;
    let gb = load.gigabytes();
    let produce = |topic: &str| perf::produce(subject, transport, topic, load, Client::Pinned);
    let (produced, alone) =
        with_topic(subject, partitions, |topic| costed(subject, || produce(topic)))?;
    let ((), followed) = with_topic(subject, partitions, |topic| {
        costed(subject, || {
            let log = tempfile::NamedTempFile::new()?;
            let mut consumer = perf::consumer(subject, transport, topic, load.records);
            let consumer = Metered::start(&mut consumer, Stdio::null(), log.path())?;
            produce(topic)?;
            consumer.finish(PATIENCE).map(drop)
        })
    })?;
    Ok([alone / gb, produced.p50_ms, produced.p99_ms, (followed - alone) / gb])
}

fn latency_run(subject: &Subject, workload: Workload, load: Load) -> Result<[f64; 2]> {
    let Workload { partitions, transport, .. } = workload;
    let produced = with_topic(subject, partitions, |topic| {
        perf::produce(subject, transport, topic, load, Client::Pinned)
    })?;
    Ok([produced.p50_ms, produced.p99_ms])
}
