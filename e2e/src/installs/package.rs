//! What an install puts on a host.
//!
//! Until `cargo x dist` makes the packages, it is done by hand here, the same files in the same places; `install` is the one
//! function to replace by `dpkg -i`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};

use super::host::{PATIENCE, Root};
use crate::process::run;
use crate::programs::{Programs, repository};

pub(super) const DAEMONS: [&str; 3] = ["coordinator", "broker", "agent"];

/// The command and these daemons with their units, users and directories; nothing is started.
pub(super) fn install(root: &Root, daemons: &[&str]) -> Result<()> {
    let programs = Programs::built()?;
    put(root, programs, "tailway")?;
    for daemon in daemons {
        put(root, programs, &format!("tailway-{daemon}"))?;
        let unit = format!("tailway-{daemon}.service");
        copy(root, &format!("systemd/{unit}"), &format!("usr/lib/systemd/system/{unit}"))?;
        for kind in ["sysusers", "tmpfiles"] {
            let file = format!("tailway-{daemon}.conf");
            copy(root, &format!("packaging/{kind}/{file}"), &format!("usr/lib/{kind}.d/{file}"))?;
        }
    }
    run(&mut root.command("systemd-sysusers"), PATIENCE)?;
    let mut made = root.command("systemd-tmpfiles");
    run(made.args(["--create", "--prefix=/etc/tailway", "--prefix=/var/lib/tailway"]), PATIENCE)?;
    Ok(())
}

/// One program, where a package puts it.
pub(super) fn put(root: &Root, programs: &Programs, name: &str) -> Result<()> {
    let to = root.file(&format!("usr/bin/{name}"));
    // It may run: a new file, not new bytes in it.
    fs::remove_file(&to).ok();
    fs::copy(programs.path(name)?, &to).with_context(|| to.display().to_string())?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?)
}

fn copy(root: &Root, from: &str, to: &str) -> Result<()> {
    let (from, to) = (repository().join(from), root.file(to));
    fs::copy(&from, &to).with_context(|| format!("{} to {}", from.display(), to.display()))?;
    Ok(fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?)
}
