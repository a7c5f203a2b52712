//! The debs, installed, upgraded, taken back, removed and purged by dpkg.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::system::System;
use super::{DAEMONS, made};
use crate::group::Check;
use crate::programs::repository;

pub(super) const CHECKS: &[Check] = &[
    ("deb: installation starts and enables nothing and names one next command", installs),
    ("deb: an edited configuration survives upgrade, way back and removal", keeps_configuration),
    ("deb: apt-get leads up and back, as docs/operations.md tells it, without a network", apt_get),
    ("deb: a purge deletes the configuration, and the state only if that was asked for", purges),
    (
        "deb: an upgrade of a running daemon restarts agent and coordinator, not the broker",
        restarts,
    ),
];

fn installs() -> Result<()> {
    let system = System::new()?;
    let debs = system.bring(&made::each(|package| made::older()?.deb(package))?)?;
    let said = system.must(&format!("dpkg --install {}", debs.join(" ")))?;
    let next: Vec<&str> = said.lines().filter(|line| line.contains("Next: ")).collect();
    ensure!(
        next.len() == DAEMONS.len(),
        "one next command for each daemon, not {next:?} of\n{said}"
    );
    for daemon in DAEMONS {
        let name = format!("tailway-{daemon}");
        ensure!(next.iter().any(|line| line.starts_with(&format!("{name}: "))), "{next:?}");
        let passwd = system.read("/etc/passwd")?;
        let user = passwd.lines().find(|line| line.starts_with(&format!("{name}:")));
        let user = user.with_context(|| format!("no user {name}:\n{passwd}"))?;
        ensure!(user.ends_with("nologin"), "somebody could log in as {user}");
        ensure!(
            !system.has(&format!("/etc/tailway/{daemon}.yaml")),
            "a configuration came with {name}"
        );
        system.must(&format!("{name} --version && {name} check --config /usr/share/tailway/examples/{daemon}.yaml || [ $? = 78 ]"))?;
    }
    let enabled =
        system.must("find /etc/systemd/system /run -name '*tailway*' 2>/dev/null || true")?;
    ensure!(enabled.trim().is_empty(), "something was enabled: {enabled}");
    system.must("tailway --version && tailway --help >/dev/null")?;
    // dpkg has nothing to complain of in what lies there now.
    let verified =
        system.must("dpkg --verify tailway tailway-agent tailway-broker tailway-coordinator")?;
    ensure!(verified.trim().is_empty(), "{verified}");
    let alone = System::new()?;
    let deb = alone.bring(&[made::older()?.deb("tailway")?])?;
    let said = alone.must(&format!("dpkg --install {}", deb.join(" ")))?;
    ensure!(said.contains("Next: tailway dev FILE"), "{said}");
    Ok(())
}

fn keeps_configuration() -> Result<()> {
    let system = System::new()?;
    let older = system.bring(&made::each(|package| made::older()?.deb(package))?)?.join(" ");
    let newer = system.bring(&made::each(|package| made::newer()?.deb(package))?)?.join(" ");
    system.must(&format!("dpkg --install {older}"))?;
    let kept = keep(&system)?;
    for (what, script) in [
        ("upgrade", format!("dpkg --install {newer}")),
        ("way back", format!("dpkg --install {older}")),
        ("upgrade again", format!("dpkg --install {newer}")),
        (
            "removal",
            "dpkg --remove tailway-agent tailway-broker tailway-coordinator tailway".to_owned(),
        ),
        ("installation after it", format!("dpkg --install {older}")),
    ] {
        let said = system.must(&script).with_context(|| what.to_owned())?;
        ensure!(!said.contains("Next: "), "{what} tells what was done already to do:\n{said}");
        ensure!(keep_again(&system, &kept)?, "{what} changed configuration or state");
        if what == "removal" {
            let left = system.must("find /usr /lib/ -name '*tailway*' | grep -v /var/ || true")?;
            ensure!(left.trim().is_empty(), "the removal left {left}");
        }
    }
    Ok(())
}

/// The two commands of docs/operations.md, as they stand there, typed where the packages of each version lie; the agent, which that
/// page's host does not have, stays what it was.
fn apt_get() -> Result<()> {
    let page = std::fs::read_to_string(repository().join("docs/operations.md"))?;
    let mut commands = page.lines().filter(|line| line.starts_with("apt-get install"));
    let (Some(up), Some(back), None) = (commands.next(), commands.next(), commands.next()) else {
        bail!("docs/operations.md has not two commands that begin with apt-get install");
    };
    ensure!(!up.contains("--allow-downgrades") && back.contains("--allow-downgrades"), "{back}");
    let system = System::new()?;
    for (folder, made) in [("older", made::older()?), ("newer", made::newer()?)] {
        let debs = system.bring(&made::each(|package| made.deb(package))?)?.join(" ");
        system.must(&format!("mkdir /root/{folder} && mv {debs} /root/{folder}"))?;
    }
    system.must("cd /root/older && apt-get install -y ./*.deb")?;
    let kept = keep(&system)?;
    let first = made::older()?.version;
    for (folder, command, version) in [
        ("newer", up, made::newer()?.version),
        ("older", back, first),
        ("newer", up, made::newer()?.version),
        ("older", back, first),
    ] {
        let said = system.must(&format!("cd /root/{folder} && {command}"))?;
        ensure!(keep_again(&system, &kept)?, "{command} changed configuration or state:\n{said}");
        ensure!(!said.contains("Next: "), "it tells what was done already to do:\n{said}");
        for package in made::packages() {
            let expected = if package == "tailway-agent" { first } else { version };
            let query =
                format!("dpkg-query --show --showformat='${{Status}} ${{Version}}' {package}");
            let there = system.must(&query)?;
            ensure!(there == format!("install ok installed {expected}"), "{package}: {there}");
        }
    }
    // Without the option, apt-get leaves what is newer and says so.
    system.must(&format!("cd /root/newer && {up}"))?;
    let said = system.sh(&format!("cd /root/older && {up}"))?;
    ensure!(said.code != Some(0) && said.text.contains("downgraded"), "{said:?}");
    Ok(())
}

/// Configurations as an operator edits them, and state as daemons leave it; their paths and texts.
fn keep(system: &System) -> Result<BTreeSet<(String, String)>> {
    let mut kept = BTreeSet::new();
    for daemon in DAEMONS {
        for (path, text) in [
            (format!("/etc/tailway/{daemon}.yaml"), format!("# edited by hand\n{daemon}: {{}}\n")),
            (format!("/var/lib/tailway/{daemon}/tls/{daemon}.pem"), format!("{daemon}'s papers\n")),
        ] {
            system.write(&path, &text)?;
            kept.insert((path, text));
        }
    }
    Ok(kept)
}

fn keep_again(system: &System, kept: &BTreeSet<(String, String)>) -> Result<bool> {
    for (path, text) in kept {
        if !system.has(path) || system.read(path)? != *text {
            return Ok(false);
        }
    }
    Ok(true)
}

fn purges() -> Result<()> {
    let system = System::new()?;
    let debs = system.bring(&made::each(|package| made::older()?.deb(package))?)?;
    system.must(&format!("dpkg --install {}", debs.join(" ")))?;
    keep(&system)?;
    // Asked, and nobody there to answer: the state stays, and how to delete it is said.
    let said = system.must("dpkg --purge tailway-agent")?;
    ensure!(said.contains("kept /var/lib/tailway/agent") && said.contains("rm -r"), "{said}");
    ensure!(
        system.has("/var/lib/tailway/agent/tls/agent.pem"),
        "the purge deleted what it was not told to"
    );
    ensure!(!system.has("/etc/tailway/agent.yaml"), "the purge kept the configuration");
    // Answered before, as an operator does for many hosts.
    system.must(
        "echo tailway-broker tailway-broker/delete-state boolean true | debconf-set-selections",
    )?;
    // First removed and purged later, as apt does.
    system.must("dpkg --remove tailway-broker && dpkg --purge tailway-broker")?;
    ensure!(!system.has("/var/lib/tailway/broker"), "the purge kept what it was told to delete");
    ensure!(
        system.has("/var/lib/tailway/coordinator/tls"),
        "the broker's purge deleted another's state"
    );
    system.must("rm -r /var/lib/tailway/agent")?;
    system.must("echo tailway-coordinator tailway-coordinator/delete-state boolean true | debconf-set-selections")?;
    system.must("dpkg --purge tailway-coordinator tailway")?;
    for gone in ["/etc/tailway", "/var/lib/tailway"] {
        ensure!(!system.has(gone), "{gone} is there after everything was purged");
    }
    let left = system.must("debconf-show tailway-agent tailway-broker tailway-coordinator; dpkg-query --show 'tailway*' 2>/dev/null || true")?;
    ensure!(left.trim().is_empty(), "dpkg or debconf remember: {left}");
    Ok(())
}

/// With a systemctl that notes what it is told, in a system that looks booted.
fn restarts() -> Result<()> {
    let system = System::new()?;
    let older = system.bring(&made::each(|package| made::older()?.deb(package))?)?.join(" ");
    let newer = system.bring(&made::each(|package| made::newer()?.deb(package))?)?.join(" ");
    system.must(&format!("dpkg --install {older}"))?;
    std::fs::create_dir_all(system.path("/run/systemd/system"))?;
    system.must(
        "mv /usr/bin/systemctl /usr/bin/systemctl.real || mv /bin/systemctl /bin/systemctl.real",
    )?;
    system.write("/usr/bin/systemctl", "#!/bin/sh\necho \"$*\" >>/run/told\n")?;
    system.must("chmod 0755 /usr/bin/systemctl")?;
    let said = system.must(&format!("dpkg --install {newer}"))?;
    let told = system.read("/run/told")?;
    for daemon in ["agent", "coordinator"] {
        ensure!(told.contains(&format!("try-restart tailway-{daemon}.service")), "{told}\n{said}");
    }
    ensure!(!told.contains("restart tailway-broker"), "{told}");
    ensure!(said.contains("systemctl restart tailway-broker"), "{said}");
    ensure!(
        !told.lines().any(|line| line.starts_with("stop") || line.starts_with("enable")),
        "{told}"
    );
    system.must("rm /run/told; dpkg --remove tailway-broker")?;
    let told = system.read("/run/told")?;
    ensure!(told.contains("stop tailway-broker.service"), "a removal stops the daemon: {told}");
    Ok(())
}
