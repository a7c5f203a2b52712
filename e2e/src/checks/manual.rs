//! What packages bring for reading and typing: man pages as man and groff take them, completions as their shells do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::group::{Check, need};
use crate::process::{finish, run};
use crate::programs::cargo;

pub const CHECKS: &[Check] = &[
    ("manual: groff finds no fault in any man page, and man shows each", pages),
    ("manual: bash, zsh and fish complete commands, subcommands and options", completions),
];

/// Compiling included.
const PATIENCE: Duration = Duration::from_mins(20);
const QUICK: Duration = Duration::from_secs(30);

fn write_docs(dir: &Path) -> Result<()> {
    run(cargo().args(["x", "docs"]).arg(dir), PATIENCE).map(drop)
}

fn pages() -> Result<()> {
    need("man", "man-db")?;
    need("groff", "groff")?;
    let dir = tempfile::tempdir()?;
    write_docs(dir.path())?;
    let mut seen = 0;
    for entry in std::fs::read_dir(dir.path().join("man"))? {
        let path = entry?.path();
        // As lintian asks: every warning that groff knows, in a terminal of 80 columns.
        let mut man = Command::new("man");
        man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8").args([
            "--warnings",
            "--no-justification",
            "-E",
            "UTF-8",
            "-l",
            "-Tutf8",
        ]);
        let said = finish(man.arg(&path), QUICK)?;
        let warnings = String::from_utf8_lossy(&said.stderr).into_owned();
        ensure!(said.status.success() && warnings.is_empty(), "{}: {warnings}", path.display());
        let name = path.file_stem().context("a page has a name")?.to_string_lossy().into_owned();
        let shown = String::from_utf8_lossy(&said.stdout).replace("\u{2010}", "-");
        ensure!(shown.contains(&format!("{name} -")), "{} does not show its name", path.display());
        ensure!(!shown.contains(".BR"), "{} shows roff", path.display());
        seen += 1;
    }
    ensure!(seen > 50, "{seen} pages");
    Ok(())
}

fn completions() -> Result<()> {
    for shell in ["bash", "zsh", "fish"] {
        need(shell, shell)?;
    }
    let dir = tempfile::tempdir()?;
    write_docs(dir.path())?;
    let file = |name: &str| dir.path().join("completions").join(name).display().to_string();
    let bash = "source \"$1\"; COMP_WORDS=(tailway topic desc); COMP_CWORD=2; _tailway tailway desc topic; echo \"${COMPREPLY[*]}\"";
    let said = run(Command::new("bash").args(["-c", bash, "bash", &file("bash/tailway")]), QUICK)?;
    ensure!(said.trim() == "describe", "bash completes `tailway topic desc` to {said:?}");
    let fish = "source $argv[1]; complete -C 'tailway topic desc'; complete -C 'tailway topic list --boot'";
    let said =
        run(Command::new("fish").args(["-N", "-c", fish, &file("fish/tailway.fish")]), QUICK)?;
    for wanted in ["describe", "--bootstrap"] {
        ensure!(said.contains(wanted), "fish does not complete to {wanted}: {said:?}");
    }
    // zsh completes at a terminal only: that it reads each file as a function is what can be seen without one.
    let zsh = "autoload -U +X compinit && compinit -D -u && for f in $@; do source $f || exit 1; done; echo ${_comps[tailway]} ${_comps[tailway-agent]}";
    let mut command = Command::new("zsh");
    command.env("HOME", dir.path()).args(["-f", "-c", zsh, "zsh"]);
    let names =
        ["zsh/_tailway", "zsh/_tailway-agent", "zsh/_tailway-broker", "zsh/_tailway-coordinator"];
    let said = run(command.args(names.map(file)), QUICK)?;
    ensure!(said.trim() == "_tailway _tailway-agent", "zsh has these completers: {said:?}");
    Ok(())
}
