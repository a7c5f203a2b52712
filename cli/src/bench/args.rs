//! The command line of `tailway bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use tailway_daemon::units::ByteSize;

use super::servers::Transport;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// How long a durable ack takes with N partitions written at once, beside the disk's own sync
    Ack(AckArgs),
    /// How fast the broker takes batches, what a gigabyte costs it, and how long acks take
    Produce(ProduceArgs),
    /// How fast the broker gives back what it stored, and what a gigabyte costs it
    Consume(ConsumeArgs),
    /// How long a line takes from its append to a file, through agent and broker, to a consumer
    Latency(LatencyArgs),
    /// What connections that do nothing cost the broker
    Connections(ConnectionsArgs),
    /// From exec to ready and to the first ack: on nothing, with many partitions, after kill -9
    Start(StartArgs),
    /// What the agent costs for a gigabyte of lines, in each format and codec
    Tail(TailArgs),
    /// What each daemon takes while nothing happens
    Footprint(FootprintArgs),
}

/// What every benchmark is told.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Where data is kept while it runs: the disk of this directory is measured
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Clients come without TLS, on loopback
    #[arg(long)]
    plaintext: bool,
    /// Also write everything as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

impl Common {
    pub(super) fn transport(&self) -> Transport {
        if self.plaintext { Transport::Plaintext } else { Transport::Tls }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench ack
  tailway bench ack --partitions 1,100 --seconds 3 --plaintext --dir /var/lib/tailway --json ack.json")]
pub(crate) struct AckArgs {
    /// Active partitions, one row of the table each
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [1, 6, 100, 1_000],
        value_parser = clap::value_parser!(u16).range(1..=5_000)
    )]
    pub(crate) partitions: Vec<u16>,
    /// How long each row is measured, after a warm-up of 2 s
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench produce
  tailway bench produce --partitions 6 --record-size 1000B --rate 20000 --seconds 30
  tailway bench produce --dir /var/lib/tailway --json produce.json")]
pub(crate) struct ProduceArgs {
    /// Partitions written at once, one row of the table each
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [1, 6, 100, 1_000],
        value_parser = clap::value_parser!(u16).range(1..=5_000)
    )]
    pub(crate) partitions: Vec<u16>,
    /// Size of a record's value, one row of the table each
    #[arg(long, value_name = "SIZE,SIZE", value_delimiter = ',', default_values_t = [ByteSize(100), ByteSize(1_000)])]
    pub(crate) record_size: Vec<ByteSize>,
    /// Size of a batch; 16 KiB is what Kafka's producer sends unless told otherwise
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(16 << 10))]
    pub(crate) batch_size: ByteSize,
    /// Records a second, of all partitions together [default: as fast as it goes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: Option<u64>,
    /// How long each row is measured, after a warm-up of 2 s
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench consume
  tailway bench consume --partitions 6 --size 4GiB --plaintext")]
pub(crate) struct ConsumeArgs {
    /// Partitions read at once, one row of the table each
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [1, 6, 100],
        value_parser = clap::value_parser!(u16).range(1..=5_000)
    )]
    pub(crate) partitions: Vec<u16>,
    /// Size of a record's value, one row of the table each
    #[arg(long, value_name = "SIZE,SIZE", value_delimiter = ',', default_values_t = [ByteSize(100), ByteSize(1_000)])]
    pub(crate) record_size: Vec<ByteSize>,
    /// How much is stored first and then read, in record values
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(500 << 20))]
    pub(crate) size: ByteSize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench latency
  tailway bench latency --rate 500,50000 --seconds 30 --json latency.json")]
pub(crate) struct LatencyArgs {
    /// Lines a second, one row of the table each
    #[arg(
        long,
        value_name = "N,N",
        value_delimiter = ',',
        default_values_t = [100, 1_000, 10_000],
        value_parser = clap::value_parser!(u64).range(1..=1_000_000)
    )]
    pub(crate) rate: Vec<u64>,
    /// How long each row is measured
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailway bench connections --count 2000")]
pub(crate) struct ConnectionsArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) count: u32,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench start
  tailway bench start --partitions 100 --size 10GiB --dir /var/lib/tailway")]
pub(crate) struct StartArgs {
    /// Partitions of the rows with many
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    pub(crate) partitions: u16,
    /// How much is stored in one partition before the kill of the last row
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(1 << 30))]
    pub(crate) size: ByteSize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway bench tail
  tailway bench tail --size 2GiB --line-size 120B --json tail.json")]
pub(crate) struct TailArgs {
    /// How many bytes of lines
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(200 << 20))]
    pub(crate) size: ByteSize,
    /// Bytes of a line, with its end
    #[arg(long, value_name = "SIZE", default_value_t = ByteSize(200))]
    pub(crate) line_size: ByteSize,
    #[command(flatten)]
    pub(crate) common: Common,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  tailway bench footprint")]
pub(crate) struct FootprintArgs {
    /// How long they are left alone before they are looked at, and while their CPU is counted
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub(crate) seconds: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}
