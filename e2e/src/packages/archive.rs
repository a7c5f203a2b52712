//! The archive and its installer, in a system without network (`System::sh` has none).

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::made;
use super::system::System;
use crate::group::{Check, need};
use crate::process::run;

const PATIENCE: Duration = Duration::from_mins(1);

pub(super) const CHECKS: &[Check] = &[
    ("archive: installs without a network, twice, upgrades and removes itself", installs),
    (
        "archive: its programs run where there is nothing else, up to a coordinator that serves",
        bare,
    ),
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

/// A root of the unpacked archive, the kernel's /proc and a hosts file: no shell, no C library, no user. The coordinator is made,
/// started, and found by a name that is in the hosts file alone.
fn bare() -> Result<()> {
    for (program, package) in [("readelf", "binutils"), ("ip", "iproute2"), ("curl", "curl")] {
        need(program, package)?;
    }
    let dir = tempfile::tempdir()?;
    let archive = made::older()?.archive()?;
    let strip = ["--strip-components=1", "-xzf"];
    run(Command::new("tar").current_dir(&dir).args(strip).arg(archive), PATIENCE)?;
    for package in made::packages() {
        let program = dir.path().join("bin").join(&package);
        let shown = run(Command::new("readelf").args(["-hlW"]).arg(&program), PATIENCE)?;
        ensure!(shown.contains("DYN") && !shown.contains("INTERP"), "{package}: {shown}");
        let shown = run(Command::new("readelf").args(["-dW"]).arg(&program), PATIENCE)?;
        ensure!(!shown.contains("NEEDED"), "{package} needs libraries:\n{shown}");
    }
    for folder in ["etc", "proc"] {
        std::fs::create_dir_all(dir.path().join(folder))?;
    }
    std::fs::write(dir.path().join("etc/hosts"), "127.0.0.1 coordinator.example.com\n")?;
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", BARE]);
    let said = run(command.arg(dir.path()), PATIENCE).with_context(|| {
        std::fs::read_to_string(dir.path().join("coordinator.log")).unwrap_or_default()
    })?;
    ensure!(said.lines().filter(|line| line.contains("(commit ")).count() == 4, "{said}");
    ensure!(said.contains("{\"ready\":true"), "the coordinator is not ready: {said}");
    ensure!(said.contains("coordinator.example.com,localhost"), "no certificate listed: {said}");
    Ok(())
}

/// What is typed there; the root is `$0`. curl, which asks whether it is ready, is this machine's.
const BARE: &str = r#"
exec </dev/null 2>&1
ip link set lo up
mount -t proc proc "$0/proc"
cd "$0"
for program in tailway tailway-agent tailway-broker tailway-coordinator; do
    env -i /usr/sbin/chroot . /bin/$program --version
done
env -i /usr/sbin/chroot . /bin/tailway coordinator init --name coordinator.example.com
env -i /usr/sbin/chroot . /bin/tailway-coordinator --config /etc/tailway/coordinator.yaml >coordinator.log 2>&1 &
for second in $(seq 30); do
    curl --silent --max-time 5 http://127.0.0.1:9645/readyz | grep '"ready":true' && break
    sleep 1
done
env -i /usr/sbin/chroot . /bin/tailway cert list
"#;

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
