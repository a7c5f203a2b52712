//! The units as files: what systemd itself says of them.

use anyhow::{Result, ensure};

use super::host::{PATIENCE, Root};
use super::package::{DAEMONS, install};
use crate::checks::text;
use crate::process::{finish, run};

/// `systemd-analyze verify` has nothing to say, also of the man pages that they name, which man finds and formats, and the exposure of each is at most 2.0.
pub(super) fn are_sound() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("units-").tempdir()?;
    let root = Root::fresh(&dir.path().join("root"))?;
    install(&root, &DAEMONS)?;
    let units = DAEMONS.map(|daemon| format!("tailway-{daemon}.service"));
    let mut verify = root.command("systemd-analyze");
    let said = finish(verify.arg("verify").args(&units), PATIENCE)?;
    let printed = [&said.stdout[..], &said.stderr[..]].concat();
    let printed = String::from_utf8_lossy(&printed);
    ensure!(said.status.success() && printed.is_empty(), "systemd-analyze verify: {printed}");
    for unit in units {
        let path = format!("/usr/lib/systemd/system/{unit}");
        let mut security = root.command("env");
        security.args(["SYSTEMD_COLORS=0", "SYSTEMD_URLIFY=0", "systemd-analyze"]);
        security.args([
            "security",
            "--offline=true",
            "--no-pager",
            "--threshold=20",
            text(path.as_ref())?,
        ]);
        let report = run(&mut security, PATIENCE)?;
        print_last(&report);
    }
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the number belongs to the record of the run")]
fn print_last(report: &str) {
    println!("       {}", report.lines().last().unwrap_or_default());
}
