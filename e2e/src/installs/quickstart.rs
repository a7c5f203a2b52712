//! The quick start of two hosts, from docs/quickstart.md: every command as it stands there, typed on booted hosts.
//!
//! What a reader does by eye is done here by these rules: a block belongs to the second host if the text before it says so,
//! else to the first; `TOKEN` is the last thing that `token create` printed. It counts the commands and the seconds.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::host::{Booted, PATIENCE, Root};
use super::package::{DAEMONS, HOME, bring};
use crate::hosts::Network;
use crate::process::wait_until;
use crate::programs::repository;

const HOSTS: [&str; 2] = ["one.example.com", "two.example.com"];
/// What the page calls the first of them.
const NAMES: [&str; 2] = ["coordinator.example.com", "broker.example.com"];
const COMMANDS_MAX: usize = 10;

/// One command of the page, and on which of the hosts it is typed.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    host: usize,
    command: String,
}

/// From the install to the first line seen by `tailway tap`; then kcat sees it too.
#[allow(clippy::print_stdout, reason = "the numbers belong to the record of the run")]
pub(super) fn works_as_written() -> Result<()> {
    let page = fs::read_to_string(repository().join("docs/quickstart.md"))?;
    let steps = steps(section(&page, "Two hosts")?);
    let dir = tempfile::Builder::new().prefix("quickstart-").tempdir()?;
    let network = Network::of(dir.path(), &HOSTS, &NAMES)?;
    let mut hosts = Vec::new();
    for (name, daemons) in HOSTS.iter().zip([&DAEMONS[..2], &DAEMONS[2..]]) {
        let root = Root::fresh(&dir.path().join(format!("{name}.root")))?;
        bring(&root, daemons)?;
        hosts.push(Booted::boot(root, network.host(name)?)?);
    }
    let line = "a line of the second host";
    fs::write(hosts[1].file("var/log/app.log"), format!("{line}\n"))?;
    let (begin, mut token, mut seen) = (Instant::now(), String::new(), String::new());
    for Step { host, command } in &steps {
        ensure!(!command.contains("TOKEN") || !token.is_empty(), "no token yet: {command}");
        let command = format!("cd {HOME} && {}", command.replace("TOKEN", &token));
        let printed = if command.contains("tailway tap") {
            read(&hosts[*host], &command)?
        } else {
            hosts[*host].shell(&command)?
        };
        if command.contains("token create") && !command.contains('|') {
            printed.trim().clone_into(&mut token);
        }
        if command.contains("tailway tap") {
            seen = printed;
        }
    }
    let seconds = begin.elapsed().as_secs_f32();
    // Any line of that host: the page may have it follow more files than the one.
    let from = format!("\"host\":{{\"name\":\"{}\"}}", HOSTS[1]);
    ensure!(seen.contains(&from), "`tailway tap` shows {seen:?}");
    println!(
        "       {} commands, {seconds:.1} s from the first package to the line seen",
        steps.len()
    );
    ensure!(steps.len() <= COMMANDS_MAX, "{} commands are more than {COMMANDS_MAX}", steps.len());
    hosts[0].make_witness()?;
    let there = wait_until(PATIENCE, || {
        seen = hosts[0].consume(NAMES[1], "logs")?;
        Ok(seen.contains(line))
    });
    there.with_context(|| format!("kcat shows no {line:?}, but {seen}"))
}

/// The topic comes with the first line: who is faster than that looks again.
fn read(host: &Booted, command: &str) -> Result<String> {
    let mut printed = Ok(String::new());
    let looked = wait_until(PATIENCE, || {
        printed = host.shell(command);
        Ok(printed.is_ok())
    });
    // What it said the last time says more than that the time is over.
    if printed.is_ok() { looked.and(printed) } else { printed }
}

/// The text below a heading of the second level, up to the next one.
fn section<'a>(page: &'a str, heading: &str) -> Result<&'a str> {
    let found = page.split("\n## ").skip(1).find(|part| part.lines().next() == Some(heading));
    found.with_context(|| format!("docs/quickstart.md has no section `{heading}`"))
}

/// The commands of a section's `sh` blocks, one a line or continued by a backslash.
fn steps(section: &str) -> Vec<Step> {
    let mut parts = section.split("\n```");
    let mut steps = Vec::new();
    let mut before = parts.next().unwrap_or_default();
    while let (Some(block), Some(after)) = (parts.next(), parts.next()) {
        let host = usize::from(before.to_lowercase().contains("second host"));
        if let Some(lines) = block.strip_prefix("sh\n") {
            let whole = lines.replace("\\\n", " ");
            let commands = whole.lines().map(str::trim);
            let commands = commands.filter(|line| !line.is_empty() && !line.starts_with('#'));
            steps.extend(commands.map(|line| Step { host, command: line.to_owned() }));
        }
        before = after;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_taken_from_their_section_with_their_host() {
        let page = "# Q\n## One host\n```sh\nno\n```\n## Two hosts\nOn the first:\n```sh\na\n# b\nc \\\n  d\n```\nOn the \
                    second host:\n```sh\ne\n```\nIt prints\n```\nf\n```\nThen on the first\n```sh\ng\n```\n## More\n```sh\nh\n```\n";
        let step = |host, command: &str| Step { host, command: command.to_owned() };
        let expected = [step(0, "a"), step(0, "c    d"), step(1, "e"), step(0, "g")];
        assert_eq!(steps(section(page, "Two hosts").unwrap()), expected);
        assert!(section(page, "Three hosts").is_err());
    }
}
