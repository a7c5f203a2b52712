//! `tailway bench`: what Tailway does on this machine and this disk, as a table and as JSON.
//!
//! One module per benchmark, each a row type and how to fill it; `frame` puts conditions and the disk's own speed around
//! what they find; `servers` starts what is measured, as processes of their own through real sockets, TLS and disks;
//! `load` sends; `usage` asks the kernel what a process used; `latencies` is the one place for percentiles. A table never
//! stands without its conditions.

mod ack;
mod args;
mod conditions;
mod connections;
mod consume;
mod disk;
mod footprint;
mod frame;
mod latencies;
mod latency;
mod load;
mod produce;
mod servers;
mod start;
mod tail;
mod usage;

use anyhow::Result;
use tailway_daemon::exit::Exit;

pub(crate) use args::BenchCommand;
pub(crate) use servers::{Part, serve};

use crate::output::Output;

pub(crate) fn run(command: &BenchCommand, output: Output) -> Result<Exit> {
    match command {
        BenchCommand::Ack(args) => ack::run(args, output),
        BenchCommand::Produce(args) => produce::run(args, output),
        BenchCommand::Consume(args) => consume::run(args, output),
        BenchCommand::Latency(args) => latency::run(args, output),
        BenchCommand::Connections(args) => connections::run(args, output),
        BenchCommand::Start(args) => start::run(args, output),
        BenchCommand::Tail(args) => tail::run(args, output),
        BenchCommand::Footprint(args) => footprint::run(args, output),
    }
}
