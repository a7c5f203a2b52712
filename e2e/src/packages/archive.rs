//! The archive and its installer, in a system without network (`System::sh` has none).

use anyhow::{Result, ensure};

use super::made;
use super::system::System;
use crate::group::Check;

pub(super) const CHECKS: &[Check] = &[
    ("archive: installs without a network, twice, upgrades and removes itself", installs),
    (
        "archive: refuses bad sums, another machine, other users and foreign files, and changes nothing",
        refuses,
    ),
];

/// Unpacked in `/packages/NAME`, by name.
fn unpacked(system: &System, made: &made::Made) -> Result<String> {
    let archive = system.bring(&[made.archive()?])?.concat();
    system.must(&format!("cd /packages && tar -xzf {archive}"))?;
    Ok(archive.trim_end_matches(".tar.gz").to_owned())
}

fn installs() -> Result<()> {
    let system = System::new()?;
    let older = unpacked(&system, made::older()?)?;
    let newer = unpacked(&system, made::newer()?)?;
    let said = system.must(&format!("{older}/install.sh"))?;
    ensure!(said.lines().filter(|line| line.contains("Next")).count() == 1, "{said}");
    for daemon in super::DAEMONS {
        system.must(&format!("tailway-{daemon} --version"))?;
        ensure!(
            system.read("/etc/passwd")?.contains(&format!("tailway-{daemon}:")),
            "no user for {daemon}"
        );
        let unit =
            system.read(&format!("/usr/local/lib/systemd/system/tailway-{daemon}.service"))?;
        ensure!(unit.contains(&format!("ExecStart=/usr/local/bin/tailway-{daemon}")), "{unit}");
        system.write(&format!("/etc/tailway/{daemon}.yaml"), "# edited by hand\n")?;
    }
    let enabled = system.must("find /etc/systemd/system -name '*tailway*'")?;
    ensure!(enabled.trim().is_empty(), "something was enabled: {enabled}");
    let before = sums(&system)?;
    system.must(&format!("{older}/install.sh"))?;
    ensure!(sums(&system)? == before, "a second installation changed something");
    system.must(&format!("{newer}/install.sh"))?;
    ensure!(sums(&system)? != before, "the newer version is not there");
    system.must(&format!("{older}/install.sh"))?;
    ensure!(sums(&system)? == before, "the way back does not lead to what was there");
    // What the operator has changed is theirs.
    system.must("echo '# mine' >>/usr/local/share/tailway/examples/agent.yaml")?;
    let said = system.sh(&format!("{newer}/install.sh"))?;
    ensure!(
        said.code == Some(1) && said.text.contains("examples/agent.yaml is there already"),
        "{said:?}"
    );
    let said = system.must(&format!("{older}/install.sh --remove"))?;
    ensure!(said.contains("kept /usr/local/share/tailway/examples/agent.yaml"), "{said}");
    let left = system.must("find /usr/local -type f")?;
    ensure!(left.trim() == "/usr/local/share/tailway/examples/agent.yaml", "left behind: {left}");
    ensure!(system.has("/etc/tailway/agent.yaml"), "the removal deleted a configuration");
    Ok(())
}

/// Of all files in `/usr/local`.
fn sums(system: &System) -> Result<String> {
    system.must("find /usr/local -type f -print0 | sort -z | xargs -0 sha256sum")
}

fn refuses() -> Result<()> {
    let system = System::new()?;
    let dir = unpacked(&system, made::older()?)?;
    let before = system.must("find /usr/local /etc -newer /packages | sort")?;
    for (what, script, words) in [
        (
            "a file that was altered",
            format!(
                "cp -a {dir} /altered && printf x >>/altered/bin/tailway-agent && /altered/install.sh"
            ),
            "bin/tailway-agent: FAILED",
        ),
        (
            "a file that is missing",
            format!("cp -a {dir} /short && rm /short/bin/tailway && /short/install.sh"),
            "bin/tailway: FAILED open",
        ),
        (
            "sums that are missing",
            format!("cp -a {dir} /bare && rm /bare/SHA256SUMS && /bare/install.sh"),
            "SHA256SUMS is missing",
        ),
        ("another machine", format!("setarch i686 {dir}/install.sh"), "for Linux on x86_64"),
        (
            "another user",
            format!("setpriv --reuid=65534 --clear-groups {dir}/install.sh"),
            "as root",
        ),
        ("an unknown option", format!("{dir}/install.sh --force"), "usage:"),
        ("a relative prefix", format!("{dir}/install.sh --prefix here"), "absolute"),
        ("nothing to remove", format!("{dir}/install.sh --remove"), "nothing was installed"),
        (
            "a program of somebody else",
            format!(
                "mkdir -p /opt/x/bin && echo other >/opt/x/bin/tailway-broker && {dir}/install.sh --prefix /opt/x"
            ),
            "/opt/x/bin/tailway-broker is there already",
        ),
    ] {
        let said = system.sh(&script)?;
        ensure!(matches!(said.code, Some(1 | 64)), "{what} was not refused: {said:?}");
        ensure!(said.text.contains(words), "{what} is not said: {said:?}");
        // What is wrong, and then what to do.
        ensure!(
            said.text.contains("  next: ") || words == "usage:",
            "{what} has no next step: {said:?}"
        );
    }
    ensure!(
        system.must("find /opt/x -type f")?.trim() == "/opt/x/bin/tailway-broker",
        "it installed beside a foreign file"
    );
    let after = system.must("find /usr/local /etc -newer /packages | sort")?;
    ensure!(after == before, "a refusal changed something: {after}");
    Ok(())
}
