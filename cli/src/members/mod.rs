//! Who belongs to the cluster: making its CA, letting hosts and clients in, and turning them out.
//!
//! `coordinator init` makes the CA and the first admin. With an admin's identity `token` and `cert` ask the coordinator.
//! `enroll` is what a new host runs: all it has is a token, and the token says which CA to trust.

mod ca;
pub(crate) mod call;
mod cert;
pub(crate) mod client_config;
mod enroll;
pub(crate) mod identity;
mod init;
mod owner;
mod pkcs12;
mod token;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use tailway_daemon::exit::Exit;
use tailway_daemon::units::Span;
use tailway_metadata::authority::AuthorityId;
use tailway_metadata::enrollment::CertificateRef;
use tailway_metadata::{Role, Secret};
use tailway_net::HostPort;

use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum CoordinatorCommand {
    /// Make the cluster's CA, this coordinator's certificate and configuration, and the first admin's identity
    #[command(
        after_help = "Example:\n  tailway coordinator init --name coordinator.example.com --data-dir ./c --config ./c.yaml --admin ./admin"
    )]
    Init(InitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// A name or address under which hosts reach this coordinator; may be repeated [default: this host's name]
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// The cluster's id, for life [default: a random one]
    #[arg(long, value_name = "ID")]
    pub(crate) cluster_id: Option<String>,
    /// Where the coordinator keeps its data, the CA's key included
    #[arg(long, value_name = "DIR", default_value = "/var/lib/tailway/coordinator")]
    pub(crate) data_dir: PathBuf,
    /// The configuration to write
    #[arg(long, value_name = "FILE", default_value = "/etc/tailway/coordinator.yaml")]
    pub(crate) config: PathBuf,
    /// Where to write the first admin's identity
    #[arg(long, value_name = "DIR", default_value = identity::ADMIN_DIR)]
    pub(crate) admin: PathBuf,
    /// Where brokers and operators connect
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:9190")]
    pub(crate) listen: HostPort,
    /// Where hosts with a token connect
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:9191")]
    pub(crate) enroll_listen: HostPort,
}

/// Which operator asks.
#[derive(Debug, Clone, Args)]
pub(crate) struct AsArgs {
    /// The directory of an admin's identity
    #[arg(
        long,
        value_name = "DIR",
        env = "TAILWAY_IDENTITY",
        default_value = identity::ADMIN_DIR
    )]
    pub(crate) identity: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token that lets hosts become members, and print it
    #[command(after_help = "Example:\n  tailway token create --role agent --ttl 1h --uses 50")]
    Create {
        /// What its bearers become: agent, broker, coordinator or client
        #[arg(long)]
        role: Role,
        /// How long it is good, as 30m, 1h or 7d
        #[arg(long, default_value = "1h")]
        ttl: Span,
        /// How many hosts it is good for
        #[arg(long, value_name = "N", default_value_t = 1)]
        uses: u32,
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Tokens, their roles, uses and ends
    #[command(after_help = "Example:\n  tailway token list")]
    List {
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Make a token worthless at once; what it has let in stays
    #[command(after_help = "Example:\n  tailway token revoke agent1a2b3c4d")]
    Revoke {
        /// As `token list` shows it
        id: String,
        #[command(flatten)]
        admin: AsArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a key and a certificate here, as PEM and PKCS12
    #[command(after_help = "Example:\n  tailway cert issue --role client reports --out ./reports")]
    Issue {
        /// client, admin, agent, broker or coordinator
        #[arg(long)]
        role: Role,
        /// What it is called, within its role
        name: String,
        /// Names and addresses under which it is reached (brokers and coordinators)
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
        /// Where to write [default: ./NAME]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Renew the certificate of a client or an admin, with a new key, and print when it ends
    #[command(
        long_about = "\
Makes a new key and has the coordinator sign a certificate for it, under the same role and name, proved by the present one,
which has to be good still. Files are replaced in place, the keystores that `cert issue` made with them (the password stays);
the old certificate is good until it ends. The file of CAs is replaced, too, so this is also how a client learns of another CA.
Daemons need none of that: they renew by themselves.",
        after_help = "Examples:\n  tailway cert renew ./reports\n  tailway cert renew ./reports --if-due"
    )]
    Renew {
        /// The directory that `tailway cert issue`, `coordinator init` or `enroll` wrote
        #[arg(value_name = "DIR", env = "TAILWAY_IDENTITY", default_value = identity::ADMIN_DIR)]
        dir: PathBuf,
        /// For a timer: only in the last third of its life, or when the cluster trusts other CAs now; else say so and succeed
        #[arg(long)]
        if_due: bool,
    },
    /// Certificates, whose they are, until when, and which are revoked
    #[command(after_help = "Example:\n  tailway cert list")]
    List {
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Have a certificate refused everywhere, for ever
    #[command(after_help = "Example:\n  tailway cert revoke agent/web1")]
    Revoke {
        /// A serial number as `cert list` shows it, or ROLE/ID for all that a member has
        which: CertificateRef,
        #[command(flatten)]
        admin: AsArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum CaCommand {
    /// The CAs, which of them signs, how many members know them and rest on them
    #[command(after_help = "Example:\n  tailway ca list")]
    List {
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Make one more CA, which every member is told to trust; it signs nothing yet
    #[command(after_help = "Example:\n  tailway ca add")]
    Add {
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Have a CA sign from now on; refused while a member does not trust it
    #[command(after_help = "Example:\n  tailway ca activate 2")]
    Activate {
        /// Its number, as `ca list` shows it
        #[arg(value_name = "NUMBER")]
        authority: AuthorityId,
        /// Also while members do not trust it: they are cut off
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        admin: AsArgs,
    },
    /// Have nobody trust a CA any more; refused while members or tokens rest on it
    #[command(after_help = "Example:\n  tailway ca retire 1")]
    Retire {
        /// Its number, as `ca list` shows it
        #[arg(value_name = "NUMBER")]
        authority: AuthorityId,
        /// Also while members or tokens rest on it: they are cut off
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        admin: AsArgs,
    },
}

/// A token as it was typed: shown to nobody.
#[derive(Clone)]
pub(crate) struct TokenArg(Secret);

impl std::fmt::Debug for TokenArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenArg")
    }
}

impl std::str::FromStr for TokenArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<TokenArg, Self::Err> {
        Ok(TokenArg(Secret::new(text)))
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  tailway client-config kcat --identity ./reports --bootstrap broker.example.com:9093"
)]
pub(crate) struct ClientConfigArgs {
    pub(crate) software: client_config::Software,
    /// The directory that `tailway cert issue` wrote
    #[arg(long, value_name = "DIR")]
    pub(crate) identity: PathBuf,
    /// Brokers to ask first
    #[arg(long, value_name = "HOST:PORT,...", env = "TAILWAY_BOOTSTRAP")]
    pub(crate) bootstrap: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tailway enroll coordinator.example.com:9191 TOKEN
  tailway enroll coordinator.example.com:9191 TOKEN --id 1 --name broker1.example.com
  tailway enroll coordinator.example.com:9191 - --state ./agent --config ./agent.yaml")]
pub(crate) struct EnrollArgs {
    /// The coordinator's enrolment address
    #[arg(value_name = "HOST:PORT")]
    pub(crate) coordinator: HostPort,
    /// The token, or - to read it from standard input
    pub(crate) token: TokenArg,
    /// What this host is called; a broker's is its number [default: this host's name]
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// A name or address under which others reach this host; may be repeated (brokers)
    #[arg(long = "name", value_name = "HOST")]
    pub(crate) names: Vec<String>,
    /// Files and globs that an agent follows; may be repeated
    #[arg(long = "input", value_name = "GLOB", default_value = "/var/log/*.log")]
    pub(crate) inputs: Vec<String>,
    /// Where to keep data, key and certificate [default: /var/lib/tailway/ROLE; of a client ./ID]
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// The configuration to write [default: /etc/tailway/ROLE.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

pub(crate) fn coordinator(command: CoordinatorCommand, output: Output) -> Result<Exit> {
    match command {
        CoordinatorCommand::Init(args) => init::run(&args, output),
    }
}

pub(crate) async fn token(command: TokenCommand, output: Output) -> Result<Exit> {
    match command {
        TokenCommand::Create { role, ttl, uses, admin } => {
            token::create(role, ttl, uses, &admin, output).await
        }
        TokenCommand::List { admin } => token::list(&admin, output).await,
        TokenCommand::Revoke { id, admin } => token::revoke(&id, &admin, output).await,
    }
}

pub(crate) async fn cert(command: CertCommand, output: Output) -> Result<Exit> {
    match command {
        CertCommand::Issue { role, name, hosts, out, admin } => {
            cert::issue(role, &name, hosts, out, &admin, output).await
        }
        CertCommand::Renew { dir, if_due } => cert::renew(&dir, if_due, output).await,
        CertCommand::List { admin } => cert::list(&admin, output).await,
        CertCommand::Revoke { which, admin } => cert::revoke(&which, &admin, output).await,
    }
}

pub(crate) async fn ca(command: CaCommand, output: Output) -> Result<Exit> {
    match command {
        CaCommand::List { admin } => ca::list(&admin, output).await,
        CaCommand::Add { admin } => ca::add(&admin, output).await,
        CaCommand::Activate { authority, force, admin } => {
            ca::activate(authority, force, &admin, output).await
        }
        CaCommand::Retire { authority, force, admin } => {
            ca::retire(authority, force, &admin, output).await
        }
    }
}

pub(crate) fn client_config(args: &ClientConfigArgs, output: Output) -> Result<Exit> {
    client_config::run(args.software, &args.identity, &args.bootstrap, output)
}

pub(crate) async fn enroll(args: EnrollArgs, output: Output) -> Result<Exit> {
    enroll::run(args, output).await
}
