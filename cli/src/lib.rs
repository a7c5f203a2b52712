//! `tailway`: the operator's command. `dev` runs all of Tailway in one process; the rest speaks the Kafka protocol and so
//! works on any Kafka.
//!
//! Results go to stdout, everything about them to stderr. Exit codes: 0 done, 1 not done, 2 wrong command line, 78 wrong
//! configuration.
//!
//! A library, so that man pages and completions are made from the very definitions that the program parses with.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod admin;
mod agent;
mod args;
mod bench;
mod check;
mod config;
mod dev;
mod diagnose;
mod members;
mod output;
mod produce;
mod sink;
mod status;
mod tap;
mod target;
mod test_output;
mod topic;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use tailway_daemon::exit::Exit;

use crate::args::{AgentCommand, AgentTestCommand, Cli, Command};

/// The command line's definition.
pub fn command() -> clap::Command {
    Cli::command()
}

/// `main` of the program.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Printing to a closed pipe has nobody to tell.
            drop(error.print());
            return if asked_for { Exit::Ok.into() } else { Exit::Usage.into() };
        }
    };
    let output = cli.output;
    let done = match cli.command {
        Command::Dev(args) => dev::run(args, output),
        Command::Bench { command } => bench::run(&command, output),
        Command::BenchServe { part, config } => return bench::serve(part, &config),
        Command::Agent { command: AgentCommand::Files(args) } => agent::files(&args, output),
        Command::Agent { command: AgentCommand::Test { command } } => {
            let AgentTestCommand::Output(args) = command;
            one_thread(test_output::run(args, output))
        }
        Command::Status(args) => one_thread(status::run(args, output)),
        Command::Check { file } => check::run(&file, output),
        Command::Config { command } => config::run(command, output),
        Command::Sink { command } => one_thread(sink::run(command, output)),
        Command::Coordinator { command } => members::coordinator(command, output),
        Command::Token { command } => one_thread(members::token(command, output)),
        Command::Enroll(args) => one_thread(members::enroll(args, output)),
        Command::ClientConfig(args) => members::client_config(&args, output),
        Command::Cert { command } => one_thread(members::cert(command, output)),
        Command::Ca { command } => one_thread(members::ca(command, output)),
        Command::Topic { command } => one_thread(topic::run(command, output)),
        Command::Tap(args) => one_thread(tap::run(args, output)),
        Command::Produce(args) => one_thread(produce::run(args, output)),
    };
    match done {
        Ok(exit) => exit.into(),
        Err(error) if output::is_closed_pipe(&error) => Exit::Ok.into(),
        Err(error) => {
            output::complain(&format!("tailway: {error:#}"));
            Exit::Failure.into()
        }
    }
}

fn one_thread(command: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(command)
}
