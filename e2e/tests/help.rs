//! What the programs say of themselves: each `--help`, down to the last subcommand, ends with an example, and `--version`
//! names a commit of this repository.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use tailway_e2e::process::run;
use tailway_e2e::programs::{Programs, repository};

const PROGRAMS: [&str; 4] = ["tailway", "tailway-coordinator", "tailway-broker", "tailway-agent"];

fn said(program: &str, args: &[&str]) -> String {
    let path = Programs::built().unwrap().path(program).unwrap();
    run(Command::new(path).args(args), Duration::from_secs(10)).unwrap()
}

/// The names in the section `Commands:`.
fn subcommands(help: &str) -> Vec<String> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = section.take_while(|line| line.starts_with("  "));
    let names = lines
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Checks one help and those below it; how many there were.
fn check(program: &str, path: &[&str]) -> usize {
    let help = said(program, &[path, &["--help"]].concat());
    let last = help.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("Example"), "`{program} {path:?} --help` ends with:\n{last}");
    let own = [&[program], path].concat().join(" ");
    assert!(last.contains(&own), "`{own} --help` has no example of it:\n{last}");
    let inner = subcommands(&help);
    1 + inner.iter().map(|name| check(program, &[path, &[name]].concat())).sum::<usize>()
}

#[test]
fn every_help_ends_with_an_example() {
    let [tailway, daemons @ ..] = PROGRAMS.map(|program| check(program, &[]));
    // Fewer, and the sections of subcommands are not read any more.
    assert!(tailway >= 51, "{tailway} commands of tailway");
    assert_eq!(daemons, [2, 2, 2], "a daemon has itself and check");
}

#[test]
fn every_version_names_the_commit() {
    for program in PROGRAMS {
        let version = said(program, &["--version"]);
        let commit = version.trim().rsplit("(commit ").next().unwrap().trim_end_matches(')');
        let mut git = Command::new("git");
        git.current_dir(repository()).args([
            "rev-parse",
            "--verify",
            &format!("{commit}^{{commit}}"),
        ]);
        let found = run(&mut git, Duration::from_secs(10)).unwrap();
        assert!(found.starts_with(commit), "{program}: {version}");
    }
}
