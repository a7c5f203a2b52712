//! The packages on a host: `cargo x dist` makes them, dpkg or the operator installs them.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use super::host::{PATIENCE, Root};
use crate::packages::made;
use crate::process::run;
use crate::programs::Programs;

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

/// One program of a test build in the place of the installed one.
pub(super) fn put(root: &Root, programs: &Programs, name: &str) -> Result<()> {
    let to = root.file(&format!("usr/bin/{name}"));
    // It may run: a new file, not new bytes in it.
    fs::remove_file(&to).ok();
    fs::copy(programs.path(name)?, &to).with_context(|| to.display().to_string())?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}
