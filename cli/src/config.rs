//! `tailway config show`: what a configuration says, or comes to with all its defaults, and where each value is from.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::config::show::{self, Shown};
use tailway_daemon::exit::Exit;
use tailway_daemon::{Daemon, Problems};

use crate::check::program_of;
use crate::output::{Output, complain, say};

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// What a configuration says, without secrets; with --effective what it comes to
    #[command(
        long_about = "\
Prints a configuration as YAML, without comments and without secrets. With --effective all that it leaves out is there as well, and
behind each value where it is from: the line of the file, or that it is the default. What is printed loads again. The files that it
names need not be there: `tailway check` says whether it is good here.",
        after_help = "\
Examples:
  tailway config show --effective /etc/tailway/broker.yaml
  tailway config show --effective --role agent -o json
  tailway config show ./agent.yaml"
    )]
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// With the defaults of what is left out
    #[arg(long)]
    effective: bool,
    /// Whose configuration it is [default: shows from its keys]
    #[arg(long, value_name = "ROLE")]
    role: Option<DaemonRole>,
    /// The configuration [default: with --role, /etc/tailway/ROLE.yaml]
    #[arg(required_unless_present = "role")]
    file: Option<PathBuf>,
}

/// The three that have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DaemonRole {
    Agent,
    Broker,
    Coordinator,
}

pub(crate) fn run(command: ConfigCommand, output: Output) -> Result<Exit> {
    let ConfigCommand::Show(args) = command;
    let shown = match look(&args) {
        Ok(shown) => shown,
        Err(problems) => {
            complain(&problems.to_string());
            return Ok(Exit::Config);
        }
    };
    match output {
        Output::Table => say(shown.annotated().map_err(|error| anyhow!(error))?.trim_end())?,
        output => output.line(&shown, "")?,
    }
    Ok(Exit::Ok)
}

fn look(args: &ShowArgs) -> Result<Shown, Problems> {
    let file = match (&args.file, args.role) {
        (Some(file), _) => file.as_path(),
        (None, Some(role)) => Path::new(role.config_path()),
        (None, None) => Path::new(""),
    };
    if !args.effective {
        return show::as_written(file);
    }
    let program = match args.role {
        Some(role) => role.program(),
        None => program_of(file)?,
    };
    match program {
        Agent::NAME => show::effective(file, tailway_agent::config::RawConfig::filled),
        Broker::NAME => show::effective(file, tailway_broker::config::RawConfig::filled),
        _ => show::effective::<tailway_coordinator::config::RawConfig>(file, |raw| raw),
    }
}

impl DaemonRole {
    fn program(self) -> &'static str {
        match self {
            DaemonRole::Agent => Agent::NAME,
            DaemonRole::Broker => Broker::NAME,
            DaemonRole::Coordinator => Coordinator::NAME,
        }
    }

    fn config_path(self) -> &'static str {
        match self {
            DaemonRole::Agent => Agent::CONFIG_PATH,
            DaemonRole::Broker => Broker::CONFIG_PATH,
            DaemonRole::Coordinator => Coordinator::CONFIG_PATH,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type RawAgent = tailway_agent::config::RawConfig;

    fn shown(effective: bool, file: PathBuf) -> Result<String, String> {
        let args = ShowArgs { effective, role: None, file: Some(file) };
        look(&args).map_err(|problems| problems.to_string())?.annotated()
    }

    /// The shipped files are the defaults: what they come to is themselves, and loads as them.
    #[test]
    fn the_effective_configuration_loads_as_what_it_was_made_of() {
        fn filled<R: serde::de::DeserializeOwned>(path: &Path) -> R {
            let (raw, problems) = tailway_daemon::config::load::<R>(path).unwrap();
            problems.finish(raw).unwrap()
        }
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let agent = put(
            "agent.yaml",
            "agent: { name: web1 }\noutput: { topic: web }\ninputs: [{ id: a, paths: [/a] }]\n",
        );
        let text = shown(true, agent.clone()).unwrap();
        for wanted in ["  name: web1 ", "# line 1", "  topic: web ", "  topic: web ", "# default"] {
            assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
        }
        let again = put("again.yaml", &text);
        assert_eq!(filled::<RawAgent>(&again), filled::<RawAgent>(&agent).filled());
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        for name in ["agent.yaml", "broker.yaml", "coordinator.yaml"] {
            let text = shown(true, configs.join(name)).unwrap();
            let again = shown(true, put(name, &text)).unwrap();
            let values = |text: &str| -> Vec<String> {
                text.lines()
                    .map(|line| line.split("  #").next().unwrap().trim_end().to_owned())
                    .collect()
            };
            assert_eq!(values(&text), values(&again), "{name}");
        }
    }

    #[test]
    fn a_mistake_is_named_instead_of_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("broker.yaml");
        std::fs::write(&file, "sinks: [{ name: es, type: opensearch, password: hunter2 }]\n")
            .unwrap();
        let said = shown(true, file.clone()).unwrap_err();
        assert!(said.contains("broker.yaml:1:") && !said.contains("hunter2"), "{said}");
        let said = shown(false, file).unwrap();
        assert!(said.contains("password: (secret)") && !said.contains("hunter2"), "{said}");
    }
}
