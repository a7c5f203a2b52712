//! `tailway check FILE`: whose configuration is it, and is it good?

use std::path::Path;

use anyhow::Result;
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::exit::Exit;
use tailway_daemon::{Daemon, Problems, config};

use crate::output::{complain, say};

/// The top-level keys by which a file is recognised. `broker.yaml` also has `coordinator`, so the order matters.
const AGENT_KEYS: [&str; 3] = ["agent", "inputs", "output"];
const BROKER_KEYS: [&str; 2] = ["broker", "listeners"];
const COORDINATOR_KEY: &str = "coordinator";

pub(crate) fn run(file: &Path) -> Result<Exit> {
    let keys = match config::top_level_keys(file) {
        Ok(keys) => keys,
        Err(problems) => return refused(&problems.to_string()),
    };
    let Some(name) = daemon_of(&keys, file) else {
        return refused(&format!(
            "{}: none of the three daemons has such keys; write `agent:`, `broker:` or `coordinator:`",
            file.display()
        ));
    };
    match check(name, file) {
        Ok(()) => {
            if let Some(loose) = config::writable_by_all(file) {
                complain(&format!("warning: {loose}"));
            }
            say(&format!("{} is good (for {name})", file.display()))?;
            Ok(Exit::Ok)
        }
        Err(problems) => refused(&problems.to_string()),
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what `run` returns")]
fn refused(why: &str) -> Result<Exit> {
    complain(why);
    Ok(Exit::Config)
}

fn check(name: &str, file: &Path) -> Result<(), Problems> {
    match name {
        Agent::NAME => Agent::load_config(file).map(drop),
        Broker::NAME => Broker::load_config(file).map(drop),
        _ => Coordinator::load_config(file).map(drop),
    }
}

/// By its keys, else (an almost empty or misspelt file) by its name.
fn daemon_of(keys: &[String], file: &Path) -> Option<&'static str> {
    let has = |known: &[&str]| keys.iter().any(|key| known.contains(&key.as_str()));
    if has(&AGENT_KEYS) {
        return Some(Agent::NAME);
    }
    if has(&BROKER_KEYS) {
        return Some(Broker::NAME);
    }
    if has(&[COORDINATOR_KEY]) {
        return Some(Coordinator::NAME);
    }
    let name = file.file_stem()?.to_str()?;
    [Agent::NAME, Broker::NAME, Coordinator::NAME].into_iter().find(|daemon| {
        daemon.ends_with(name) || name.ends_with(daemon.trim_start_matches("tailway-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_recognised_by_its_keys_then_by_its_name() {
        let found = |keys: &[&str], file: &str| {
            let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
            daemon_of(&keys, Path::new(file))
        };
        assert_eq!(found(&["coordinator", "broker", "listeners"], "x.yaml"), Some(Broker::NAME));
        assert_eq!(found(&["coordinator", "admin"], "x.yaml"), Some(Coordinator::NAME));
        assert_eq!(found(&["output", "logging"], "broker.yaml"), Some(Agent::NAME));
        assert_eq!(found(&["logging"], "/etc/tailway/broker.yaml"), Some(Broker::NAME));
        assert_eq!(found(&["admni"], "my-agent.yaml"), Some(Agent::NAME));
        assert_eq!(found(&["logging"], "x.yaml"), None);
    }
}
