//! The named groups of checks that need foreign software or root; `cargo x` starts them.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};
use tailway_e2e::checks::{self, footprint, hostile, power_cuts, short_lives};
use tailway_e2e::crash_points::{self, CrashPointsArgs};
use tailway_e2e::group;
use tailway_e2e::installs;
use tailway_e2e::packages;
use tailway_e2e::peers::{self, send_loop};
use tailway_e2e::sinks::{self, SinksArgs};
use tailway_e2e::torture::{self, TortureArgs, writer::WriterArgs};

#[derive(Parser)]
#[command(about = "Checks with foreign software; start them by `cargo x`")]
struct Args {
    #[command(subcommand)]
    group: Group,
}

#[derive(Subcommand)]
enum Group {
    /// kcat, Python wheels, Kafka's own tools.
    Clients { words: Vec<String> },
    /// A real Filebeat.
    Filebeat,
    /// A real OpenSearch and a real Kafka behind the broker.
    Sinks(SinksArgs),
    /// Failing syscalls, power cuts, full disks.
    Root { words: Vec<String> },
    /// Packages, installed by dpkg, rpm and the archive's own script.
    Packages { words: Vec<String> },
    /// Booted hosts with the units, and the quick start.
    Installs { words: Vec<String> },
    /// Mutated frames at a live broker.
    Hostile {
        #[arg(long, default_value_t = 100_000)]
        frames: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Idle memory and time to ready.
    Footprint,
    /// kill -9 under a running writer; see `torture`.
    Torture(TortureArgs),
    /// Power cuts of a broker's disk, as many as wanted.
    PowerCuts(power_cuts::PowerCutsArgs),
    /// Certificates of 20 s life under load, for as long as wanted.
    ShortLives(short_lives::ShortLivesArgs),
    /// An end at every crash point.
    CrashPoints(CrashPointsArgs),
    /// Brokers and shippers beside those they replace.
    BenchPeers(peers::Options),
    /// What forwarding costs, beside rsyslog.
    BenchSinks(sinks::cost::CostArgs),
    /// The bare loop of `bench-peers`.
    #[command(hide = true)]
    SendLoop { address: String, file: PathBuf },
    /// The writer of a torture.
    #[command(hide = true)]
    WriteLines(WriterArgs),
    /// Records the frames that `hostile` starts from.
    RecordFrames,
}

fn main() -> Result<()> {
    match Args::parse().group {
        Group::Clients { words } => group::run(&checks::clients(), &words),
        Group::Filebeat => group::run(&checks::filebeat(), &[]),
        Group::Sinks(args) => sinks::run(&args),
        Group::Root { words } => group::run(&checks::root(), &words),
        Group::Packages { words } => packages::run(&words),
        Group::Installs { words } => installs::run(&words),
        Group::Hostile { frames, seed } => hostile::run(frames, seed),
        Group::Footprint => footprint::print(),
        Group::Torture(args) => torture::run(args),
        Group::PowerCuts(args) => power_cuts::run(&args),
        Group::ShortLives(args) => short_lives::run(&args),
        Group::CrashPoints(args) => crash_points::run_all(&args),
        Group::BenchPeers(options) => peers::run(&options),
        Group::BenchSinks(args) => sinks::cost::run(&args),
        Group::SendLoop { address, file } => send_loop::send(&address, &file),
        Group::WriteLines(args) => torture::writer::run(args),
        Group::RecordFrames => checks::record::run(),
    }
}
