//! What a broker forwards, as the sink itself tells: a real OpenSearch and a real Kafka, asked by scripts that are not ours.
//!
//! `node` is OpenSearch and a proxy that misbehaves before it, `stage` is Tailway's three with a sink. `exact` counts what
//! arrived through kills, faults and rollovers, `clones` what came from two hosts made of one image, `refusals` what was
//! refused, held up and mended; `kafka` compares the copy in a Kafka with the original, `dev` tries the short forms, and
//! `cost` is `cargo x bench-sinks`.

pub mod clones;
pub mod cost;
pub mod dev;
pub mod exact;
pub mod kafka;
pub mod node;
pub mod refusals;
pub mod stage;

use std::sync::OnceLock;

use anyhow::Result;

use crate::group::{self, Check};

static LINES: OnceLock<usize> = OnceLock::new();

/// `cargo x sinks`.
#[derive(Clone, Debug, clap::Args)]
pub struct SinksArgs {
    /// Lines or records of the checks that count them.
    #[arg(long, default_value_t = 50_000)]
    pub lines: usize,
    /// Run only the checks whose name contains one of these words.
    pub words: Vec<String>,
}

/// Runs the checks.
pub fn run(args: &SinksArgs) -> Result<()> {
    LINES.get_or_init(|| args.lines);
    group::run(&all(), &args.words)
}

fn all() -> Vec<Check> {
    [exact::CHECKS, clones::CHECKS, refusals::CHECKS, kafka::CHECKS, dev::CHECKS].concat()
}

fn lines() -> usize {
    LINES.get().copied().unwrap_or(50_000)
}
