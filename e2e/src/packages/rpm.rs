//! The rpms, installed, upgraded and erased by rpm, scriptlets included. The root is a Debian: for rpm it is a root with a shell
//! and systemd, which is what the scriptlets need.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::system::System;
use super::{DAEMONS, made};
use crate::group::{Check, need};
use crate::process::run;

pub(super) const CHECKS: &[Check] = &[(
    "rpm: installs, upgrades, goes back and is erased; edited configuration and state stay",
    lives,
)];

const PATIENCE: Duration = Duration::from_mins(2);

fn lives() -> Result<()> {
    need("rpm", "rpm")?;
    let system = System::new()?;
    let older = made::each(|package| made::older()?.rpm(package))?;
    let newer = made::each(|package| made::newer()?.rpm(package))?;
    let rpm = |args: &[&str], files: &[std::path::PathBuf]| {
        // Scriptlets' words are on both outputs.
        let mut command = Command::new("sh");
        command.args(["-c", "exec rpm \"$@\" 2>&1", "rpm", "--root"]).arg(system.root()).args(args);
        run(command.args(files), PATIENCE)
    };
    let said = rpm(&["--install", "--nodeps"], &older)?;
    let next = said.lines().filter(|line| line.contains("Next: ")).count();
    ensure!(next == DAEMONS.len(), "one next command for each daemon, not {next}:\n{said}");
    let enabled = system.must("find /etc/systemd/system -name '*tailway*'")?;
    ensure!(enabled.trim().is_empty(), "something was enabled: {enabled}");
    let passwd = system.read("/etc/passwd")?;
    for daemon in DAEMONS {
        ensure!(passwd.contains(&format!("tailway-{daemon}:")), "no user for {daemon}:\n{passwd}");
        system.must(&format!("tailway-{daemon} --version"))?;
        system.write(&format!("/etc/tailway/{daemon}.yaml"), "# edited by hand\n")?;
        system.write(&format!("/var/lib/tailway/{daemon}/papers"), "kept\n")?;
    }
    let unchanged = |what: &str| {
        for daemon in DAEMONS {
            let config = system.read(&format!("/etc/tailway/{daemon}.yaml"))?;
            ensure!(config == "# edited by hand\n", "{what} changed {daemon}.yaml to {config}");
            ensure!(
                system.has(&format!("/var/lib/tailway/{daemon}/papers")),
                "{what} deleted state"
            );
        }
        Ok(())
    };
    for (what, args, files) in [
        ("upgrade", &["--upgrade", "--nodeps"][..], &newer),
        ("way back", &["--upgrade", "--nodeps", "--oldpackage"][..], &older),
    ] {
        let said = rpm(args, files)?;
        ensure!(!said.contains("Next: "), "{what} tells what was done already to do:\n{said}");
        unchanged(what)?;
    }
    let verified = rpm(&["--verify", "--nodeps", "tailway", "tailway-agent"], &[])?;
    ensure!(verified.trim().is_empty(), "{verified}");
    system.must("systemctl enable tailway-broker.service")?;
    let names = made::packages();
    let mut erase = vec!["--erase", "--nodeps"];
    erase.extend(names.iter().map(String::as_str));
    let said = rpm(&erase, &[])?;
    for daemon in DAEMONS {
        ensure!(
            said.contains(&format!("kept /etc/tailway and /var/lib/tailway/{daemon}")),
            "{said}"
        );
    }
    unchanged("erasing")?;
    let left = system.must("find /usr /etc/systemd -name '*tailway*'")?;
    ensure!(left.trim().is_empty(), "erasing left {left}");
    Ok(())
}
