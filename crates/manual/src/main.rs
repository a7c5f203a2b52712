//! `cargo x docs DIR`: man pages and shell completions, from the definitions by which the programs read their command lines.
//!
//! A program of its own, so that what ships holds none of it. Invariants: a page for each command that `--help` shows, a
//! completion for each program and shell, and the same text from the same tree: no date, no commit.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod files;
mod pages;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::Daemon;

#[derive(clap::Parser)]
#[command(
    about = "Writes man pages and shell completions",
    after_help = "Example:\n  tailway-manual ./target/docs"
)]
struct Args {
    /// Gets man/ and completions/
    dir: PathBuf,
}

/// A program, and the section of its manual.
struct Program {
    command: Command,
    section: &'static str,
}

fn main() -> Result<()> {
    let Args { dir } = clap::Parser::parse();
    write(&dir)
}

fn write(dir: &Path) -> Result<()> {
    let man = dir.join("man");
    for page in programs().into_iter().flat_map(pages::of).chain(files::pages()?) {
        put(&man.join(page.file), &page.text)?;
    }
    for Program { mut command, .. } in programs() {
        let name = command.get_name().to_owned();
        for (shell, folder, file) in [
            (Shell::Bash, "bash", name.clone()),
            (Shell::Zsh, "zsh", format!("_{name}")),
            (Shell::Fish, "fish", format!("{name}.fish")),
        ] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command, &name, &mut text);
            put(&dir.join("completions").join(folder).join(file), &text)?;
        }
    }
    Ok(())
}

fn programs() -> [Program; 4] {
    [
        Program { command: tailway(), section: "1" },
        Program { command: tailway_daemon::command::<Agent>(), section: "8" },
        Program { command: tailway_daemon::command::<Broker>(), section: "8" },
        Program { command: tailway_daemon::command::<Coordinator>(), section: "8" },
    ]
}

/// The operator's command without what `--help` does not show, which completions of bash would. clap cannot take a command away.
fn tailway() -> Command {
    let whole = tailway::command();
    let shown = whole.get_subcommands().filter(|inner| !inner.is_hide_set()).cloned();
    Command::new("tailway")
        .version(tailway_daemon::VERSION)
        .about(whole.get_about().cloned().unwrap_or_default())
        .after_help(whole.get_after_help().cloned().unwrap_or_default())
        .args(whole.get_arguments().cloned())
        .subcommands(shown)
        .subcommand_required(true)
}

/// Name and configuration of each daemon.
const DAEMONS: [(&str, &str); 3] = [
    (Agent::NAME, Agent::CONFIG_PATH),
    (Broker::NAME, Broker::CONFIG_PATH),
    (Coordinator::NAME, Coordinator::CONFIG_PATH),
];

fn put(path: &Path, text: &[u8]) -> Result<()> {
    let named = || format!("cannot write {}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(named)?;
    }
    fs::write(path, text).with_context(named)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What `--help` shows, as `tailway topic list`.
    fn shown(command: &Command, path: &str, found: &mut BTreeSet<String>) {
        found.insert(path.to_owned());
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            shown(inner, &format!("{path} {}", inner.get_name()), found);
        }
    }

    #[test]
    fn each_command_has_a_page_and_no_page_is_of_something_else() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        let mut wanted: BTreeSet<String> =
            ["agent", "broker", "coordinator"].map(|d| format!("tailway-{d}.yaml.5")).into();
        let mut commands = 0;
        for Program { command, section } in programs() {
            let mut names = BTreeSet::new();
            shown(&command, command.get_name(), &mut names);
            commands += names.len();
            wanted.extend(names.iter().map(|name| format!("{}.{section}", name.replace(' ', "-"))));
        }
        assert!(commands > 40, "{commands} commands");
        let entries = fs::read_dir(dir.path().join("man")).unwrap();
        let found: BTreeSet<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_page_has_examples_options_and_exit_codes() {
        let pages: Vec<pages::Page> = programs().into_iter().flat_map(pages::of).collect();
        for page in &pages {
            let text = String::from_utf8(page.text.clone()).unwrap();
            for part in [".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES", ".SH \"EXIT STATUS\"", "78"] {
                assert!(text.contains(part), "{} lacks {part}:\n{text}", page.file);
            }
            assert!(
                !text.contains(tailway_daemon::VERSION),
                "{} differs from commit to commit",
                page.file
            );
        }
        let list = pages.iter().find(|page| page.file == "tailway-topic-list.1").unwrap();
        let list = String::from_utf8(list.text.clone()).unwrap();
        for part in ["tailway topic list", "\\-\\-bootstrap", "TAILWAY_BOOTSTRAP"] {
            assert!(list.contains(part), "no {part} in:\n{list}");
        }
    }

    #[test]
    fn each_shell_completes_subcommands() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for file in ["bash/tailway", "zsh/_tailway", "fish/tailway.fish"] {
            let text = fs::read_to_string(dir.path().join("completions").join(file)).unwrap();
            assert!(text.contains("describe") && text.contains("client-config"), "{file}");
            assert!(!text.contains("bench-serve"), "{file} shows a hidden command");
        }
        let text = fs::read_to_string(dir.path().join("completions/zsh/_tailway-broker")).unwrap();
        assert!(text.contains("--config"), "{text}");
    }
}
