//! `cargo x`: the one front door for everything done to this repository.
//!
//! Each command is what CI runs, so that a developer and CI cannot disagree. Groups that need foreign software or root live
//! in `e2e` and are only started from here; they fail, naming what is missing, and never skip.

#![allow(clippy::print_stderr, reason = "a command-line tool talks to its user on stderr")]

mod dist;
mod teeth;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo x", about = "Checks and test groups of this repository", after_help = EXAMPLES)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

const EXAMPLES: &str = "Examples:\n  cargo x ci                 what a landing must pass, without the foreign clients\n  \
                        cargo x clients            kcat, librdkafka, Kafka's own tools against the broker\n  \
                        cargo x clients kcat       only the checks whose name contains `kcat`";

#[derive(Subcommand)]
enum Task {
    /// Format, lints, tidy and `cargo test --workspace`: read-only, what CI runs first.
    Ci,
    /// House rules that rustfmt and clippy do not know: purity, headers, file length, ASCII.
    Tidy,
    /// Foreign clients against real processes (needs kcat, python3, java, mvn).
    Clients(Filter),
    /// A real Filebeat delivering to the broker; built from its Go module the first time (needs kcat, go).
    Filebeat,
    /// What a broker forwards to a real OpenSearch and a real Kafka, through kills, faults and rollovers (needs java, mvn, curl, kcat,
    /// python3, and root for two hosts from one image).
    Sinks {
        /// Passed on: --lines N, and words that names of checks must contain.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Checks that need root or ptrace: failing syscalls, power cuts, full disks.
    E2eRoot(Filter),
    /// Makes packages of the release build, installs, upgrades, takes back and removes them in a Debian of their own, and lets
    /// lintian, rpmlint and shellcheck look at them (root, debootstrap, rpm, lintian, rpmlint, shellcheck, python3-venv).
    Packages(Filter),
    /// Hosts booted with systemd, the units unaltered, and the quick start as it is written (root, debootstrap, iproute2).
    Installs(Filter),
    /// Mutated frames at a live broker's socket.
    Hostile {
        /// How many frames to send.
        #[arg(long, default_value_t = 1_000_000)]
        frames: u64,
        /// Seed of the mutations; printed, so that a failure can be replayed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Checks histories of real clients (JSON lines; `-`: standard input) for what no correct log could show.
    History { files: Vec<String> },
    /// Whole daemons on simulated machines, seed by seed; `--help` after `--` has the rest.
    Sim {
        /// Passed on: --seeds N, --from SEED, --seed SEED, --plant NAME.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Tailway beside Kafka, rsyslog and kcat on a quiet machine; writes docs/benchmarks.md (needs kcat, java, mvn, zstd; root
    /// where rsyslog is not installed).
    BenchPeers {
        /// Passed on: --only WORDS, --rounds N, --seconds S, --trial.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Processor time of forwarding to sinks that only count, beside rsyslog (needs java, mvn, kcat, python3; root where rsyslog is
    /// not installed).
    BenchSinks {
        /// Passed on: --lines N.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// kill -9 of agent, broker and coordinator under a running writer, judged by kcat; `--help` after `--` has the rest.
    Torture {
        /// Passed on: --seed S, --minutes M, --kills N, --lines L, --broker kafka, --no-resolution ...
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Ends each daemon at every crash point in turn; `--help` after `--` has the rest.
    CrashPoints {
        /// Passed on: --seed S, --hits N, and words that points must contain.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Cuts the power of a broker's disk again and again, under a foreign client (root, xfsprogs).
    PowerCuts {
        /// Passed on: --cuts N, --seed S.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Certificates of 20 s life under load, for three minutes (root, kcat).
    ShortLives {
        /// Passed on: --seconds N.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Breaks guarded lines one at a time and demands that a test, a torture or the simulation fails for each.
    Teeth {
        /// Take the simulation's verdicts from its last record instead of running it.
        #[arg(long)]
        recorded: bool,
    },
    /// Idle RSS and time to ready of each daemon, as a table.
    Footprint,
    /// Writes the man pages and the completions of bash, zsh and fish to DIR/man and DIR/completions, from the programs' own command lines.
    Docs { dir: PathBuf },
    /// Makes the deb and rpm packages and the archive with its installer, in target/packages (needs dpkg, rpm, python3-venv).
    Dist(dist::DistArgs),
}

#[derive(clap::Args)]
struct Filter {
    /// Run only the checks whose name contains one of these words.
    words: Vec<String>,
}

fn main() -> Result<ExitCode> {
    let root = workspace_root();
    match Args::parse().command {
        Task::Ci => ci(&root),
        Task::Tidy => tidy(&root),
        Task::Clients(filter) => e2e(&root, "clients", filter.words),
        Task::Filebeat => e2e(&root, "filebeat", Vec::new()),
        Task::Sinks { args } => e2e(&root, "sinks", args),
        Task::E2eRoot(filter) => e2e(&root, "root", filter.words),
        Task::Packages(filter) => e2e(&root, "packages", filter.words),
        Task::Installs(filter) => e2e(&root, "installs", filter.words),
        Task::Hostile { frames, seed } => e2e(
            &root,
            "hostile",
            vec!["--frames".into(), frames.to_string(), "--seed".into(), seed.to_string()],
        ),
        Task::History { files } => return history(&root, &files),
        Task::Sim { args } => run(cargo(&root).args(SIM).args(args)),
        Task::Teeth { recorded } => teeth::run(&root, recorded),
        Task::Torture { args } => e2e(&root, "torture", args),
        Task::BenchPeers { args } => e2e(&root, "bench-peers", args),
        Task::BenchSinks { args } => e2e(&root, "bench-sinks", args),
        Task::CrashPoints { args } => e2e(&root, "crash-points", args),
        Task::PowerCuts { args } => e2e(&root, "power-cuts", args),
        Task::ShortLives { args } => e2e(&root, "short-lives", args),
        Task::Footprint => e2e(&root, "footprint", Vec::new()),
        Task::Docs { dir } => docs(&root, &dir),
        Task::Dist(args) => dist::run(&root, &args),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The simulator, to be followed by its arguments.
const SIM: [&str; 9] =
    ["run", "--quiet", "--release", "--locked", "-p", "tailway-sim", "--features", "sim", "--"];

fn workspace_root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

fn ci(root: &Path) -> Result<()> {
    run(cargo(root).args(["fmt", "--all", "--check"]))?;
    run(cargo(root).args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ]))?;
    tidy(root)?;
    run(cargo(root).args(["test", "--workspace", "--locked"]))?;
    // What only a test build with armed fault points can show.
    let armed = ["--features", "tailway-storage/faults", "--locked"];
    run(cargo(root).args(["test", "-p", "tailway-faults", "-p", "tailway-storage"]).args(armed))
}

fn tidy(root: &Path) -> Result<()> {
    let complaints = tidy::check(root)?;
    for complaint in &complaints {
        eprintln!("{complaint}");
    }
    if !complaints.is_empty() {
        bail!("tidy: {} complaint(s)", complaints.len());
    }
    Ok(())
}

fn e2e(root: &Path, group: &str, rest: Vec<String>) -> Result<()> {
    run(cargo(root)
        .args(["run", "--quiet", "--release", "--locked", "-p", "tailway-e2e", "--", group])
        .args(rest))
}

/// From where the user stands, so that relative names mean what they mean there; with the checker's own exit code.
fn history(root: &Path, files: &[String]) -> Result<ExitCode> {
    let mut command = cargo(root);
    command.current_dir(std::env::current_dir()?).args(["run", "--quiet", "--release", "--locked"]);
    command.arg("--manifest-path").arg(root.join("Cargo.toml"));
    command.args(["-p", "tailway-history", "--"]).args(files);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// In the release profile, whose libraries README's first command has built.
fn docs(root: &Path, dir: &Path) -> Result<()> {
    let dir = std::path::absolute(dir)?;
    let manual = ["run", "--quiet", "--release", "--locked", "-p", "tailway-manual", "--"];
    run(cargo(root).args(manual).arg(dir))
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

fn run(command: &mut Command) -> Result<()> {
    eprintln!("$ {command:?}");
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}
