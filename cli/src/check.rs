//! `tailway check FILE`: whose configuration is it, and is it good?

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::config::Problem;
use tailway_daemon::exit::Exit;
use tailway_daemon::{Daemon, Problems, config};

use crate::output::{Output, complain};

/// The top-level keys by which a file is recognised. `broker.yaml` also has `coordinator`, so the order matters.
const AGENT_KEYS: [&str; 3] = ["agent", "inputs", "output"];
const BROKER_KEYS: [&str; 2] = ["broker", "listeners"];
const COORDINATOR_KEY: &str = "coordinator";

/// Whether a file is good, and what is wrong with it.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    file: &'a Path,
    /// `null`: none of the three.
    program: Option<&'static str>,
    good: bool,
    problems: Vec<Wrong>,
    /// What is no reason to refuse it.
    warning: Option<String>,
}

#[derive(Debug, Serialize)]
struct Wrong {
    /// From 1; `null` where it is about the file as a whole.
    line: Option<usize>,
    column: Option<usize>,
    /// The key's, such as `listeners[0].address`.
    path: String,
    text: String,
}

pub(crate) fn run(file: &Path, output: Output) -> Result<Exit> {
    let (program, checked) = look(file);
    let warning = config::writable_by_all(file).filter(|_| checked.is_ok());
    if let Some(warning) = &warning {
        complain(&format!("warning: {warning}"));
    }
    let problems = match &checked {
        Ok(()) => Vec::new(),
        Err(problems) => {
            complain(&problems.to_string());
            problems.sorted().into_iter().map(Wrong::of).collect()
        }
    };
    let good = checked.is_ok();
    output.whole(&Checked { file, program, good, problems, warning }, |checked| {
        let line = |name| format!("{} is good (for {name})", checked.file.display());
        checked.program.filter(|_| checked.good).map(line).into_iter().collect()
    })?;
    Ok(if good { Exit::Ok } else { Exit::Config })
}

impl Wrong {
    fn of(problem: Problem) -> Wrong {
        let (line, column) = problem.position.unzip();
        Wrong { line, column, path: problem.path, text: problem.text }
    }
}

/// Whose file it is, and its problems.
fn look(file: &Path) -> (Option<&'static str>, Result<(), Problems>) {
    match program_of(file) {
        Ok(name) => (Some(name), check(name, file)),
        Err(problems) => (None, Err(problems)),
    }
}

/// The program whose configuration this is.
pub(crate) fn program_of(file: &Path) -> Result<&'static str, Problems> {
    let keys = config::top_level_keys(file)?;
    daemon_of(&keys, file).ok_or_else(|| {
        let text =
            "none of the three daemons has such keys; write `agent:`, `broker:` or `coordinator:`";
        Problems::of_file(file, text.to_owned())
    })
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
    fn fields_are_those_that_are_documented() {
        let wrong = Wrong { line: None, column: None, path: String::new(), text: String::new() };
        let file = Path::new("a.yaml");
        let checked =
            Checked { file, program: None, good: false, problems: vec![wrong], warning: None };
        crate::output::documented("check", &checked);
    }

    #[test]
    fn a_problem_says_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent.yaml");
        std::fs::write(&file, "agent:\n  spol: 1MiB\n").unwrap();
        let (program, checked) = look(&file);
        let wrong: Vec<Wrong> = checked.unwrap_err().sorted().into_iter().map(Wrong::of).collect();
        assert_eq!(program, Some(Agent::NAME));
        let first = wrong.iter().find(|wrong| wrong.path.starts_with("agent.")).unwrap();
        assert_eq!((first.line, first.column, &*first.path), (Some(2), Some(3), "agent.spol"));
    }

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
