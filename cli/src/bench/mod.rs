//! `tailway bench`: what Tailway does on this machine and this disk, as a table and as JSON.
//!
//! One module per benchmark; `system` starts what is measured, in this process but through real sockets, TLS and disks;
//! `latencies` is the one place for percentiles, `disk` for the disk's own speed, `conditions` for what a reader must know of
//! the machine. A table never stands without its conditions.

mod ack;
mod conditions;
mod disk;
mod latencies;
mod system;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use tailway_daemon::exit::Exit;

use crate::args::BenchCommand;

pub(crate) fn run(command: BenchCommand) -> Result<Exit> {
    match command {
        BenchCommand::Ack(args) => ack::run(&args),
    }
}

fn write_json(path: &Path, result: &impl Serialize) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(result)?;
    json.push(b'\n');
    std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
}
