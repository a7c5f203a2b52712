//! The command line of `tailway sink`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::args::TargetArgs;

/// Where the packages put it.
const CONFIG: &str = "/etc/tailway/broker.yaml";

#[derive(Debug, Subcommand)]
pub(crate) enum SinkCommand {
    /// The sinks of a running broker: state, lag, counts, and what is in the way
    #[command(after_help = "\
Examples:
  tailway sink list
  tailway sink list --config /etc/tailway/broker.yaml")]
    List(ListArgs),
    /// Ask sinks who they are, with the credentials of the broker's configuration; writes nothing
    #[command(after_help = "Example:\n  tailway sink test es --config /etc/tailway/broker.yaml")]
    Test(ConfigArgs),
    /// Make what a sink needs: the index template of an OpenSearch sink
    #[command(after_help = "Example:\n  tailway sink setup es --config /etc/tailway/broker.yaml")]
    Setup(ConfigArgs),
    /// What a sink refused for good and nobody has replayed yet, by what was said
    #[command(after_help = "Example:\n  tailway sink rejects es --topic logs")]
    Rejects(RejectsArgs),
    /// Deliver again what a sink refused, after a fix
    #[command(after_help = "Example:\n  tailway sink replay es --topic logs")]
    Replay(RejectsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The broker's admin address [default: that of the `tailway dev` of this directory]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<SocketAddr>,
    /// Take the admin address from the broker's configuration
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub(crate) config: Option<PathBuf>,
    /// Take it from this directory's dev.json
    #[arg(long, value_name = "DIR", conflicts_with_all = ["admin", "config"])]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Only this sink
    pub(crate) name: Option<String>,
    /// The broker's configuration
    #[arg(long, value_name = "FILE", default_value = CONFIG)]
    pub(crate) config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct RejectsArgs {
    /// The sink
    pub(crate) name: String,
    /// Only records of this topic
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}
