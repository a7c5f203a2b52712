//! Several hosts on one machine: network namespaces on a bridge, each with a name, an address, `/etc` and `/var/lib` of its own.
//!
//! What runs on a host sees an install's default paths and default ports, and the others by name. Everything lies within
//! namespaces and one temporary folder, so the machine's own network and files stay as they are. Needs root.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::checks::text;
use crate::process::run;

const PATIENCE: Duration = Duration::from_secs(10);
/// Files of the machine that a program needs to resolve names and tell the time.
const OF_THE_MACHINE: [&str; 5] = ["nsswitch.conf", "ld.so.cache", "localtime", "passwd", "group"];
/// Gives a process its host's name and files; what follows are the host's name, its folder and the command.
const OURS: &str = "echo \"$1\" >/proc/sys/kernel/hostname && mount --bind \"$2/etc\" /etc && \
    mount --bind \"$2/var-lib\" /var/lib && shift 2 && exec \"$@\"";
/// The same for software of the machine: it keeps the machine's files, but for the names of hosts.
const THEIRS: &str = "echo \"$1\" >/proc/sys/kernel/hostname && \
    mount --bind \"$2/etc/hosts\" /etc/hosts && shift 2 && exec \"$@\"";

/// The hosts of one check; gone when it is dropped.
#[derive(Debug)]
pub struct Network {
    hosts: Vec<Host>,
    switch: String,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Host {
    /// As others resolve it.
    pub name: String,
    pub address: Ipv4Addr,
    namespace: String,
    dir: PathBuf,
}

impl Network {
    /// Hosts with these names, and what else is to resolve to the first of them.
    pub fn of(dir: &Path, names: &[&str], aliases: &[&str]) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("tw{}-{count}", std::process::id());
        let mut network = Self { hosts: Vec::new(), switch: format!("{prefix}-switch") };
        ip(&["netns", "add", &network.switch])?;
        ip(&["-n", &network.switch, "link", "add", "br0", "type", "bridge"])?;
        ip(&["-n", &network.switch, "link", "set", "br0", "up"])?;
        let mut hosts_file = "127.0.0.1 localhost\n".to_owned();
        for (index, name) in names.iter().enumerate() {
            let address = Ipv4Addr::new(10, 77, 0, u8::try_from(index + 1)?);
            let host = Host {
                name: (*name).to_owned(),
                address,
                namespace: format!("{prefix}-{index}"),
                dir: dir.join(name),
            };
            writeln!(hosts_file, "{address} {name}")?;
            network.add(host, index)?;
        }
        for alias in aliases {
            writeln!(hosts_file, "{} {alias}", network.hosts[0].address)?;
        }
        for host in &network.hosts {
            fs::write(host.etc("hosts"), &hosts_file)?;
        }
        Ok(network)
    }

    fn add(&mut self, host: Host, index: usize) -> Result<()> {
        let (namespace, port) = (host.namespace.clone(), format!("port{index}"));
        let address = format!("{}/24", host.address);
        fs::create_dir_all(host.etc("tailway"))?;
        fs::create_dir_all(host.var_lib(""))?;
        for file in OF_THE_MACHINE {
            let from = Path::new("/etc").join(file);
            if from.exists() {
                fs::copy(&from, host.etc(file)).with_context(|| from.display().to_string())?;
            }
        }
        ip(&["netns", "add", &namespace])?;
        self.hosts.push(host);
        ip(&[
            "link",
            "add",
            &port,
            "netns",
            &self.switch,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &namespace,
        ])?;
        ip(&["-n", &self.switch, "link", "set", &port, "master", "br0", "up"])?;
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])
    }

    /// The host with this name.
    pub fn host(&self, name: &str) -> Result<&Host> {
        let found = self.hosts.iter().find(|host| host.name == name);
        found.with_context(|| format!("there is no host {name}"))
    }

    /// All of them.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in self.hosts.iter().map(|host| &host.namespace).chain([&self.switch]) {
            // A namespace that was never made is not there to be removed.
            drop(ip(&["netns", "del", namespace]));
        }
    }
}

impl Host {
    /// A file below its `/etc`, where this machine sees it.
    pub fn etc(&self, file: &str) -> PathBuf {
        self.dir.join("etc").join(file)
    }

    /// A file below its `/var/lib`, where this machine sees it.
    pub fn var_lib(&self, file: &str) -> PathBuf {
        self.dir.join("var-lib").join(file)
    }

    /// Its network namespace, as `ip netns` calls it.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// A folder for what belongs to the host and to nothing of ours.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A program of ours on this host, with the paths of an install.
    pub fn command(&self, program: &Path) -> Result<Command> {
        self.wrapped(OURS, program)
    }

    /// Software of the machine on this host.
    pub fn foreign(&self, program: &Path) -> Result<Command> {
        self.wrapped(THEIRS, program)
    }

    fn wrapped(&self, script: &str, program: &Path) -> Result<Command> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, "unshare", "--uts", "--mount", "sh", "-c"]);
        command.args([script, "sh", &self.name, text(&self.dir)?]).arg(program);
        command.current_dir(&self.dir);
        Ok(command)
    }

    /// Does something in this host's network: sockets that are made there belong to it, wherever they go afterwards.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.namespace);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        // A thread of its own, which ends with it: nobody else is moved.
        let inside = || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .with_context(|| format!("cannot enter {}", self.namespace))?;
            act()
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .map_err(|_| anyhow!("what ran on {} panicked", self.name))?
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run(Command::new("ip").args(args), PATIENCE).map(drop)
}
