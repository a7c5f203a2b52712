//! The packages on a host: `cargo x dist` makes them, dpkg or the operator installs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::host::{PATIENCE, Root};
use crate::packages::made;
use crate::process::run;

pub(super) const DAEMONS: [&str; 3] = ["coordinator", "broker", "agent"];
/// Where an operator has put what is to be installed, and is when typing.
pub(super) const HOME: &str = "/root";

/// Puts the debs of the command and of these daemons where the operator is; their names.
pub(super) fn bring(root: &Root, daemons: &[&str]) -> Result<Vec<String>> {
    let made = made::for_hosts()?;
    let packages = daemons.iter().map(|daemon| format!("tailway-{daemon}"));
    let mut names = Vec::new();
    for package in std::iter::once("tailway".to_owned()).chain(packages) {
        let deb = made.deb(&package)?;
        let name = deb.file_name().context("a file")?.to_string_lossy().into_owned();
        fs::copy(&deb, root.file(&format!("{HOME}/{name}")))?;
        names.push(name);
    }
    Ok(names)
}

/// The command and these daemons, installed by dpkg; nothing is started.
pub(super) fn install(root: &Root, daemons: &[&str]) -> Result<()> {
    let debs = bring(root, daemons)?.into_iter().map(|name| format!("{HOME}/{name}"));
    let mut dpkg = root.command("dpkg");
    run(dpkg.arg("--install").args(debs), PATIENCE)?;
    Ok(())
}

/// A program in the place of the installed one.
pub(super) fn put(root: &Root, program: &Path) -> Result<()> {
    let name = program.file_name().context("a program has a name")?;
    let to = root.file("usr/bin").join(name);
    // It may run: a new file, not new bytes in it.
    fs::remove_file(&to).ok();
    fs::copy(program, &to).with_context(|| to.display().to_string())?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}
