//! The command line. Every `--help` ends with an example that works as printed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tailway_broker::config::RawSink;

use crate::output::Output;
use crate::{bench, config, members, sink};

#[derive(Debug, Parser)]
#[command(
    name = "tailway",
    version = tailway_daemon::VERSION,
    about = "Ship log lines and metrics to consumers over the Kafka protocol",
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Example:\n  tailway dev /var/log/*.log"
)]
pub(crate) struct Cli {
    /// How to print the result: for people, or for programs (docs/cli.md has the fields)
    #[arg(short, long, global = true, value_name = "FORM", default_value = "table")]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run coordinator, broker and agent here, with real TLS and disks, and follow files
    Dev(DevArgs),
    /// List, describe, create and delete topics (of any Kafka)
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway topic list --bootstrap localhost:9092"
    )]
    Topic {
        #[command(subcommand)]
        command: TopicCommand,
    },
    /// Print the records of a topic as they come (of any Kafka)
    Tap(TapArgs),
    /// Send each line of standard input as a record (to any Kafka)
    Produce(ProduceArgs),
    /// Measure Tailway on this machine and this disk
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Examples:\n  tailway bench produce --partitions 6\n  tailway bench ack --dir /var/lib/tailway"
    )]
    Bench {
        #[command(subcommand)]
        command: bench::BenchCommand,
    },
    /// One of the processes that a benchmark measures
    #[command(hide = true, after_help = "Example:\n  tailway bench-serve broker ./broker.yaml")]
    BenchServe { part: bench::Part, config: PathBuf },
    /// Ask a running agent
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway agent files"
    )]
    Agent {
        #[command(subcommand)]
        command: AgentCommand,
    },
    /// Whether coordinator, brokers, certificates and partitions are well, and if not, what to do
    Status(StatusArgs),
    /// Where a broker forwards records to: state, refused records, replay, setup
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway sink list"
    )]
    Sink {
        #[command(subcommand)]
        command: sink::SinkCommand,
    },
    /// Make a coordinator and its CA
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway coordinator init --name coordinator.example.com"
    )]
    Coordinator {
        #[command(subcommand)]
        command: members::CoordinatorCommand,
    },
    /// Create, list and revoke tokens that let hosts become members
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway token create --role agent --ttl 1h --uses 50"
    )]
    Token {
        #[command(subcommand)]
        command: members::TokenCommand,
    },
    /// Become a member of a cluster, with a token
    Enroll(members::EnrollArgs),
    /// Issue, list and revoke certificates
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway cert list"
    )]
    Cert {
        #[command(subcommand)]
        command: members::CertCommand,
    },
    /// Replace the cluster's CA by another, without cutting anybody off
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        long_about = "\
Replaces the cluster's CA by another, without cutting anybody off: `add` makes a second one, which every member learns to trust
within minutes; `activate` has it sign, and members renew within minutes; `retire` has nobody trust the old one. Each step is
refused, with the names, while members would be cut off by it. Clients and admins follow by `tailway cert renew DIR`.",
        after_help = "\
Example:
  tailway ca add && tailway ca list && tailway ca activate 2 && tailway ca retire 1"
    )]
    Ca {
        #[command(subcommand)]
        command: members::CaCommand,
    },
    /// Print settings of kcat, Java clients, Filebeat or librdkafka for an identity that `cert issue` made
    ClientConfig(members::ClientConfigArgs),
    /// Check a configuration file of any of the three daemons (exit 0 good, 78 not)
    #[command(after_help = "Example:\n  tailway check /etc/tailway/broker.yaml")]
    Check {
        /// The configuration file; whose it is shows from its keys
        file: PathBuf,
    },
    /// Look at configuration files
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway config show --effective /etc/tailway/agent.yaml"
    )]
    Config {
        #[command(subcommand)]
        command: config::ConfigCommand,
    },
}

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  tailway dev app.log
  tailway dev '/var/log/*.log' --data /tmp/try --plaintext
  tailway dev app.log --sink es=http://localhost:9200
  tailway dev app.log --expect 100 --timeout 60
  tailway dev export ./run app.log"
)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    pub(crate) command: Option<DevCommand>,
    /// Files and globs to follow, from their start
    #[arg(required = true, value_name = "FILE_OR_GLOB")]
    pub(crate) inputs: Vec<PathBuf>,
    /// Where data, certificates and dev.json are kept
    #[arg(long, value_name = "DIR", default_value = crate::target::DEV_DIR)]
    pub(crate) data: PathBuf,
    /// Wipe what an earlier run left in the data directory
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Also listen without TLS, on loopback
    #[arg(long)]
    pub(crate) plaintext: bool,
    /// Forward everything: es=URL (OpenSearch, Elasticsearch), kafka=HOST:PORT, or stdout; may be repeated
    #[arg(long = "sink", value_name = "SINK", value_parser = crate::dev::sinks::parse)]
    pub(crate) sinks: Vec<RawSink>,
    /// Exit 0 once exactly N records are in the topic, 1 at the timeout or if there are more
    #[arg(long, value_name = "N")]
    pub(crate) expect: Option<u64>,
    /// How long --expect waits, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, requires = "expect")]
    pub(crate) timeout: u64,
    /// Print the result only
    #[arg(long)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevCommand {
    /// Write the three configurations, certificates and dev.json that `dev` would use, and start nothing
    #[command(
        after_help = "Example:\n  tailway dev export ./run app.log && tailway-coordinator --config ./run/coordinator.yaml"
    )]
    Export {
        /// Where to write; also holds the data of the daemons started from it
        dir: PathBuf,
        /// Files and globs to follow, from their start
        #[arg(required = true, value_name = "FILE_OR_GLOB")]
        inputs: Vec<PathBuf>,
        /// Also listen without TLS, on loopback
        #[arg(long)]
        plaintext: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// The followed files: how far each is read and acknowledged, and what is guaranteed for it
    #[command(after_help = "\
Examples:
  tailway agent files
  tailway agent files --config /etc/tailway/agent.yaml
  tailway agent files --admin 127.0.0.1:9646 -o json")]
    Files(AgentFilesArgs),
    /// Try what an agent is configured for, without sending anything
    #[command(
        subcommand_required = true,
        arg_required_else_help = true,
        after_help = "Example:\n  tailway agent test output --config /etc/tailway/agent.yaml"
    )]
    Test {
        #[command(subcommand)]
        command: AgentTestCommand,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentTestCommand {
    /// Go the way of a line step by step and say which step fails, why, and what to do next
    #[command(
        long_about = "\
Goes the way of a line, step by step, and says which step fails, why, and what to do next: of each address in output.brokers
and of each that a broker advertises DNS, TCP, TLS (chain, name, time, client certificate), ApiVersions and Metadata; of each
topic whether this identity may write to it, and whether its leader tells of producers (DescribeProducers), which decides how
batches without an answer are looked for. Works against any Kafka; sends no record and makes no topic.

Exit codes: 0 all steps work (there may be warnings), 1 a step fails, 2 wrong command line, 78 wrong configuration.",
        after_help = "\
Examples:
  tailway agent test output
  tailway agent test output --config ./agent.yaml --timeout 3
  tailway agent test output --config /etc/tailway/agent.yaml -o json"
    )]
    Output(AgentTestOutputArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AgentTestOutputArgs {
    /// The agent's configuration
    #[arg(long, value_name = "FILE", default_value = <tailway_agent::Agent as tailway_daemon::Daemon>::CONFIG_PATH)]
    pub(crate) config: PathBuf,
    /// How long connecting, and each answer, may take, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
#[command(
    long_about = "\
Whether the cluster is well: the coordinator and each broker (DNS, TCP, TLS, ApiVersions, Metadata; fenced or not), when the
members' certificates end, and which partitions have no leader. Asks as an admin: by --identity, else by what `tailway dev`
made. With --bootstrap alone it asks any Kafka, of its brokers and partitions.

Exit codes: 0 healthy (there may be warnings), 1 not healthy, or not within --timeout, 2 wrong command line.",
    after_help = "\
Examples:
  tailway status
  tailway status --wait healthy --timeout 60
  tailway status --identity /etc/tailway/admin -o json
  tailway status --bootstrap localhost:9092"
)]
pub(crate) struct StatusArgs {
    /// Ask again and again until it is so, or the timeout is over
    #[arg(long, value_name = "STATE")]
    pub(crate) wait: Option<WaitFor>,
    /// How long --wait waits, in seconds
    #[arg(long, value_name = "S", default_value_t = 60, requires = "wait")]
    pub(crate) timeout: u64,
    /// The directory of an admin's identity [default: that of the dev run of this directory, else /etc/tailway/admin]
    #[arg(long, value_name = "DIR", env = "TAILWAY_IDENTITY")]
    pub(crate) identity: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// What `status --wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum WaitFor {
    Healthy,
}

#[derive(Debug, Args)]
pub(crate) struct AgentFilesArgs {
    /// The agent's admin address [default: that of the `tailway dev` of this directory]
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) admin: Option<std::net::SocketAddr>,
    /// Take the admin address from the agent's configuration
    #[arg(long, value_name = "FILE", conflicts_with = "admin")]
    pub(crate) config: Option<PathBuf>,
    /// Take it from this directory's dev.json
    #[arg(long, value_name = "DIR", conflicts_with_all = ["admin", "config"])]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Names, partitions and replicas of all topics
    #[command(after_help = "Example:\n  tailway topic list --bootstrap localhost:9092")]
    List {
        /// Also those that the cluster keeps for itself, such as __consumer_offsets
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Partitions, leaders, replicas, offsets and configs of a topic
    #[command(after_help = "Example:\n  tailway topic describe logs --bootstrap localhost:9092")]
    Describe {
        topic: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Create a topic
    #[command(
        after_help = "Example:\n  tailway topic create audit --partitions 3 --config retention.ms=604800000"
    )]
    Create {
        topic: String,
        /// How many partitions (default: what the broker is configured for)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
        partitions: Option<i32>,
        /// How many replicas of each (default: what the broker is configured for)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(i16).range(1..))]
        replication_factor: Option<i16>,
        /// A topic config by Kafka's name; may be repeated
        #[arg(long = "config", value_name = "KEY=VALUE", value_parser = key_value)]
        configs: Vec<(String, String)>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Delete a topic and all its records
    #[command(after_help = "Example:\n  tailway topic delete audit --bootstrap localhost:9092")]
    Delete {
        topic: String,
        #[command(flatten)]
        target: TargetArgs,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway tap logs
  tailway tap logs --from end
  tailway tap logs --limit 10 --bootstrap broker:9093 --tls-ca ca.pem --tls-cert me.pem --tls-key me.key")]
pub(crate) struct TapArgs {
    pub(crate) topic: String,
    /// Where to begin: beginning, end, or an offset
    #[arg(long, value_name = "WHERE", default_value = "beginning")]
    pub(crate) from: From,
    /// End after this many records
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    /// Only this partition
    #[arg(long, value_name = "N")]
    pub(crate) partition: Option<i32>,
    /// Also print partition, offset, timestamp and key, tab-separated, before each value
    #[arg(long)]
    pub(crate) meta: bool,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | tailway produce logs
  tailway produce audit --key-separator : --compression zstd < pairs.txt")]
pub(crate) struct ProduceArgs {
    pub(crate) topic: String,
    /// Split each line at the first of these into key and value
    #[arg(long, value_name = "TEXT")]
    pub(crate) key_separator: Option<String>,
    /// none, gzip, snappy, lz4 or zstd
    #[arg(long, value_name = "CODEC", default_value = "none")]
    pub(crate) compression: String,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// Which cluster, and how to reach it.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// Brokers to ask first [default: the running `tailway dev` of this directory]
    #[arg(long, value_name = "HOST:PORT,...", env = "TAILWAY_BOOTSTRAP")]
    pub(crate) bootstrap: Option<String>,
    /// Speak TLS and trust the CAs in this PEM file
    #[arg(long, value_name = "FILE", requires = "bootstrap")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Present this certificate (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Take the addresses and certificates from this directory's dev.json
    #[arg(long, value_name = "DIR", conflicts_with = "bootstrap")]
    pub(crate) data: Option<PathBuf>,
    /// How long to wait for one answer, in seconds
    #[arg(long, value_name = "S", default_value_t = 10)]
    pub(crate) request_timeout: u64,
}

/// Where `tap` begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Beginning,
    End,
    Offset(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<From, String> {
        match text {
            "beginning" | "earliest" => Ok(From::Beginning),
            "end" | "latest" => Ok(From::End),
            _ => match text.parse() {
                Ok(offset) if offset >= 0 => Ok(From::Offset(offset)),
                _ => Err("write beginning, end or an offset such as 42".to_owned()),
            },
        }
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, for example retention.ms=604800000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// What a shell would hand to `tailway` in this line, and it takes it.
    fn parses(line: &str) -> bool {
        let commands = line.split(['|', '&', '<']).map(str::trim);
        let mut ours = commands.filter(|command| command.starts_with("tailway ")).peekable();
        let words = |command: &str| -> Vec<String> {
            command.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect()
        };
        ours.peek().is_some() && ours.all(|command| Cli::try_parse_from(words(command)).is_ok())
    }

    #[test]
    fn every_help_ends_with_an_example_of_its_own_command() {
        fn check(command: &clap::Command, path: &str) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Example"), "{path} has no example");
            assert!(help.contains(path), "the example of `{path}` is of something else:\n{help}");
            for line in help.lines().skip(1) {
                assert!(parses(line), "{path}: not a command line: {line}");
            }
            for inner in command.get_subcommands() {
                check(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        assert!(!parses("  tailway topic lost") && !parses("  echo tailway"), "it cannot fail");
        let command = Cli::command();
        command.clone().debug_assert();
        check(&command, "tailway");
    }

    #[test]
    fn every_command_prints_for_programs_and_is_documented() {
        fn leaves(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            if !command.has_subcommands() || path == "dev" {
                found.push(path.to_owned());
            }
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                leaves(inner, format!("{path} {}", inner.get_name()).trim_start(), found);
            }
        }
        let docs = std::fs::read_to_string("../docs/cli.md").unwrap();
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        assert!(found.len() > 30, "{found:?}");
        for path in found {
            let name = path.split(' ').next().filter(|name| *name == "bench").unwrap_or(&path);
            assert!(docs.contains(&format!("`{name}`")), "docs/cli.md says nothing of {path}");
        }
        let yaml = Cli::try_parse_from(["tailway", "cert", "list", "-o", "yaml"]).unwrap();
        assert_eq!(yaml.output, Output::Yaml);
    }

    #[test]
    fn dev_and_its_export_parse_as_documented() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let Command::Dev(dev) =
            parse("tailway dev a.log b.log --data d --expect 5 --timeout 3").unwrap().command
        else {
            panic!("not dev");
        };
        assert_eq!((dev.inputs.len(), dev.expect, dev.timeout), (2, Some(5), 3));
        let Command::Dev(dev) = parse("tailway dev export --plaintext run a.log").unwrap().command
        else {
            panic!("not dev");
        };
        assert!(matches!(dev.command, Some(DevCommand::Export { plaintext: true, .. })));
        for wrong in [
            "tailway dev",
            "tailway dev export run",
            "tailway dev a.log --timeout 3",
            "tailway dev a.log --sink es",
            "tailway dev a.log --sink s3=bucket",
            "tailway tap t --from middle",
            "tailway topic list --tls-ca x",
            "tailway topic list --bootstrap a:1 --tls-ca x --tls-cert y",
            "tailway topic create t --config broken",
            "tailway topic create t --partitions 0",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
