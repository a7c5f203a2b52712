//! A host that is booted: a Debian root with systemd as PID 1, in namespaces and a network of its own.
//!
//! What is done on it is done as root's shell would, and what it says is in its journal. It is gone when it is dropped; its
//! root stays until the directory goes, so that a journal can be read after a shutdown.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::checks::text;
use crate::debian::{self, PATH};
use crate::hosts::Host;
use crate::process::{Process, finish, run, wait_until};
use crate::programs::repository;

/// For one command, and for a boot.
pub const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(100);

/// The files of a host that does not run.
#[derive(Debug)]
pub struct Root {
    path: PathBuf,
}

impl Root {
    /// A fresh Debian.
    pub fn fresh(path: &Path) -> Result<Self> {
        let copy = ["copy", text(path)?];
        run(Command::new(repository().join("e2e/anchors/debian")).args(copy), 10 * PATIENCE)?;
        let root = Self { path: path.into() };
        // Journals outlive a shutdown.
        fs::create_dir_all(root.file("var/log/journal"))?;
        Ok(root)
    }

    /// One of its files, where this machine sees it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.path.join(path.trim_start_matches('/'))
    }

    /// A command in it, without its services.
    pub fn command(&self, program: &str) -> Command {
        debian::command(&self.path, program)
    }

    /// What its journal has of these units, also of boots before.
    pub fn journal(&self, units: &[&str]) -> Result<String> {
        let mut command = self.command("journalctl");
        command.args(["--no-pager", "--output=short-precise"]);
        run(command.args(units.iter().flat_map(|unit| ["--unit", unit])), PATIENCE)
    }
}

/// A host that runs.
#[derive(Debug)]
pub struct Booted {
    pub name: String,
    root: Root,
    /// `unshare`, whose child is the host's PID 1.
    process: Process,
    pid: u32,
    group: String,
}

impl Booted {
    /// Boots a root as this host of a network, and waits until everything has started.
    pub fn boot(root: Root, host: &Host) -> Result<Self> {
        fs::copy(host.etc("hosts"), root.file("etc/hosts"))?;
        fs::write(root.file("etc/hostname"), format!("{}\n", host.name))?;
        let group = format!("tailway-e2e-{}-{}", std::process::id(), host.name);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", host.namespace(), "unshare", "--mount", "sh"]);
        command.arg(repository().join("e2e/src/installs/boot.sh"));
        command.arg(&root.path).args([&group, &host.name]);
        let console = root.path.with_extension("console");
        let mut process = Process::start(&host.name, &mut command, &console)?;
        // `ip` and the shells become `unshare`, which forks PID 1.
        let mut pid = None;
        wait_until(PATIENCE, || {
            ensure!(!process.has_exited()?, "{} does not boot:\n{}", host.name, process.tail());
            pid = init_of(process.pid());
            Ok(pid.is_some())
        })?;
        let pid = pid.context("it has booted")?;
        let booted = Self { name: host.name.clone(), root, process, pid, group };
        let up = wait_until(PATIENCE, || {
            std::thread::sleep(POLL);
            let asked = finish(&mut booted.command("systemctl", &["is-system-running"]), PATIENCE)?;
            Ok(asked.stdout == b"running\n")
        });
        up.with_context(|| {
            let state = booted.output("systemctl", &["--no-pager", "list-jobs"]);
            let failed = booted.output("systemctl", &["--no-pager", "--failed"]);
            format!("{} is not up:\n{}\n{state:?}\n{failed:?}", booted.name, booted.process.tail())
        })?;
        Ok(booted)
    }

    /// Its files.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// A file of it, where this machine sees it.
    pub fn file(&self, path: &str) -> PathBuf {
        self.root.file(path)
    }

    /// A command on it.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--mount", "--uts", "--ipc", "--net"]);
        command.args(["--pid", "--cgroup", "env", "-i", "HOME=/root", PATH, program]).args(args);
        command
    }

    /// A line as its operator types it, to its end; what it prints.
    pub fn shell(&self, line: &str) -> Result<String> {
        run(&mut self.command("bash", &["-c", line]), PATIENCE)
            .with_context(|| format!("on {}: {line}", self.name))
    }

    /// The same for a line that may fail.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        finish(&mut self.command(program, args), PATIENCE)
    }

    /// A client's identity for kcat, made where the admin's is.
    pub fn make_witness(&self) -> Result<()> {
        self.shell("tailway cert issue --role client witness --out /root/witness").map(drop)
    }

    /// kcat as this witness, its mode and topic left to say.
    pub fn kcat(&self, broker: &str) -> Result<String> {
        let of = format!("kcat --identity /root/witness --bootstrap {broker}:9093");
        let printed = self.shell(&format!("tailway client-config {of}"))?;
        Ok(printed.trim_end().strip_suffix("-L").context("the command ends in -L")?.to_owned())
    }

    /// All of a topic, as kcat sees it, or what it says where that cannot be read: a topic comes with its first line.
    pub fn consume(&self, broker: &str, topic: &str) -> Result<String> {
        let kcat = self.kcat(broker)?;
        let read = format!("{kcat}-C -q -e -o beginning -t {topic}");
        let Output { stdout, stderr, .. } = self.output("bash", &["-c", &read])?;
        Ok(String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
    }

    /// A property of a unit, as `systemctl show` has it.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let value = ["show", "--value", "--property", name, unit];
        Ok(run(&mut self.command("systemctl", &value), PATIENCE)?.trim().to_owned())
    }

    /// Waits until a unit's property is this.
    pub fn await_property(
        &self,
        unit: &str,
        name: &str,
        expected: &str,
        deadline: Duration,
    ) -> Result<()> {
        let mut last = String::new();
        let there = wait_until(deadline, || {
            last = self.property(unit, name)?;
            std::thread::sleep(POLL);
            Ok(last == expected)
        });
        there.with_context(|| {
            let journal = self.journal(unit).unwrap_or_default();
            format!(
                "{unit} on {}: {name} is {last}, not {expected}; its journal:\n{journal}",
                self.name
            )
        })
    }

    /// What the journal has of a unit.
    pub fn journal(&self, unit: &str) -> Result<String> {
        let of = ["--no-pager", "--output=short-precise", "--unit", unit];
        run(&mut self.command("journalctl", &of), PATIENCE)
    }

    /// Shuts it down as an operator does; its root, with its journal.
    pub fn power_off(mut self, deadline: Duration) -> Result<Root> {
        // The command ends with the host that it runs on.
        finish(&mut self.command("systemctl", &["poweroff"]), PATIENCE).ok();
        let off = wait_until(deadline, || self.process.has_exited());
        off.with_context(|| format!("{} does not power off", self.name))?;
        Ok(Root { path: self.root.path.clone() })
    }
}

impl Drop for Booted {
    fn drop(&mut self) {
        // Its PID 1 dies with `unshare`, and everything on it with its PID 1.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw)
            && matches!(self.process.has_exited(), Ok(false))
        {
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            wait_until(PATIENCE, || self.process.has_exited()).ok();
        }
        forget(&self.group);
    }
}

/// The PID 1 that this process has begun, as this machine numbers it.
fn init_of(unshare: u32) -> Option<u32> {
    let children = format!("/proc/{unshare}/task/{unshare}/children");
    let pid: u32 = fs::read_to_string(children).ok()?.split_whitespace().next()?.parse().ok()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "systemd").then_some(pid)
}

/// Removes a control group that nothing is in any more, with those below it.
fn forget(group: &str) {
    let script = "d=$(mktemp -d) && mount -t cgroup -o none,name=systemd cgroup \"$d\" && \
                  find \"$d/$0\" -depth -type d -exec rmdir {} + ; umount \"$d\"; rmdir \"$d\"";
    let mut command = Command::new("unshare");
    // Best effort: an empty group costs nothing.
    finish(command.args(["--mount", "sh", "-c", script, group]), PATIENCE).ok();
}
