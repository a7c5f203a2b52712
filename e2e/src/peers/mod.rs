//! `cargo x bench-peers`: Tailway beside what it replaces, in one run on one machine.
//!
//! Brokers are loaded by Kafka's own perf tools, shippers read one file; each broker is on one core and its clients on the
//! other; rounds are interleaved and medians kept. What a peer was not warmed or pinned for is not printed. The tables of
//! `docs/benchmarks.md` are written here and nowhere else, with what missed its target.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "prints the tables, and what it is at"
)]

pub mod brokers;
pub mod live;
pub mod meter;
pub mod own;
pub mod perf;
pub mod profile;
pub mod rdkafka;
pub mod report;
pub mod send_loop;
pub mod shippers;
pub mod subject;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::group::need;
use report::Report;
use subject::{Subject, WARM_UP_BYTES};

/// For programs that answer at once.
const SHORT: Duration = Duration::from_secs(20);
/// A machine that is busier than this is no place for measurements.
const BUSY_PERCENT_MAX: f64 = 10.0;

/// What to run.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  cargo x bench-peers\n  cargo x bench-peers -- --only '100 B' --rounds 3\n  \
                        cargo x bench-peers -- --only shippers"
)]
pub struct Options {
    /// Rounds, of which the median counts.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of a run at a fixed rate.
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Only loads whose name has this: `1000 B`, `6 partitions`, `TLS`, `kcat`, `shippers`, `live`, `idle`, `profiles`,
    /// `own` ...
    #[arg(long)]
    pub only: Vec<String>,
    /// Where measured data lies; on a disk, not in memory.
    #[arg(long, default_value_os_t = subject::default_dir())]
    pub dir: PathBuf,
    /// Less of everything, to see that it works: tables are printed as a trial and no file is written.
    #[arg(long)]
    pub trial: bool,
}

impl Options {
    fn warm_up_bytes(&self) -> u64 {
        if self.trial { WARM_UP_BYTES / 100 } else { WARM_UP_BYTES }
    }

    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn warm_up_gigabytes(&self) -> f64 {
        self.warm_up_bytes() as f64 / 1e9
    }

    fn shipped_lines(&self) -> u64 {
        if self.trial { 100_000 } else { 2_500_000 }
    }

    fn profiled_bytes(&self) -> u64 {
        if self.trial { 20_000_000 } else { 500_000_000 }
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.contains(only.as_str()))
    }
}

/// Measures, prints and writes docs/benchmarks.md.
pub fn run(options: &Options) -> Result<()> {
    for (program, package) in [
        ("java", "default-jre-headless"),
        ("mvn", "maven"),
        ("kcat", "kcat"),
        ("zstd", "zstd"),
        ("taskset", "util-linux"),
    ] {
        need(program, package)?;
    }
    if options.wants("profiles") {
        need("perf", "linux-perf")?;
    }
    ensure!(
        std::thread::available_parallelism()?.get() >= 2,
        "one core for brokers and one for clients are needed"
    );
    let busy = meter::busy_percent(Duration::from_secs(3))?;
    ensure!(
        options.trial || busy <= BUSY_PERCENT_MAX,
        "this machine is busy ({busy:.0} %): nothing measured now would mean anything; --trial runs all the same"
    );
    let scratch = subject::scratch(&options.dir)?;
    let dir = scratch.path();
    progress("starting Tailway and Kafka");
    let mut tailway = Subject::tailway(&dir.join("tailway"))?;
    let mut kafka = Subject::kafka(&dir.join("kafka"), &tailway)?;
    for subject in [&mut tailway, &mut kafka] {
        progress(&format!("warming up {}", subject.name));
        subject.warm_up(options.warm_up_bytes())?;
    }
    let mut report = Report::begin(options, dir, busy)?;
    // What was measured before a part failed took an hour, and is true all the same.
    let measured = measure(options, tailway, kafka, dir, &mut report);
    if let Err(error) = &measured {
        report.ended_early(error);
    }
    println!("{}", report.text());
    if !options.trial {
        report.write()?;
    }
    measured
}

/// Part by part.
fn measure(
    options: &Options,
    tailway: Subject,
    kafka: Subject,
    dir: &Path,
    report: &mut Report,
) -> Result<()> {
    for workload in brokers::workloads() {
        if options.wants(&workload.name()) {
            report.compared.push(brokers::compare(options, &tailway, &kafka, workload)?);
        }
    }
    if !report.compared.is_empty() {
        report.send_loop = Some(send_loop::cpu_per_gb(dir)?);
    }
    if options.wants("kcat") {
        report.rdkafka = Some(rdkafka::compare(options, &tailway, &kafka, dir)?);
    }
    drop(kafka);
    if options.wants("shippers") {
        report.shippers = Some(shippers::ship(options, &tailway, dir)?);
    }
    if options.wants("profiles") {
        report.profiles = profile::paths(options, &tailway, dir)?;
    }
    if options.wants("live") {
        report.live = live::latencies(options, &tailway, dir)?;
    }
    if options.wants("idle") {
        report.idle = Some(live::idle(&tailway, dir)?);
    }
    drop(tailway);
    if options.wants("own") {
        report.own = Some(own::measure(options, dir)?);
    }
    Ok(())
}

/// What it is at, for who watches.
fn progress(what: &str) {
    eprintln!("bench-peers: {what}");
}
