//! A dev directory: its lock, its identity (cluster id and ports, chosen once) and its layout.
//!
//! DIR/{coordinator,broker,agent}/ are the data directories, DIR/{coordinator,broker,agent}.yaml what the daemons are
//! started with, DIR/tls/ the certificates, DIR/dev.json what runs where. Invariant: only a directory that is ours (it has
//! an identity, or is empty) is ever written to or wiped.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tailway_daemon::Clock;
use tailway_daemon::holder::Holder;
use tailway_storage::{DirLock, Disk, FsDisk, StorageError};

use super::certs::Certificates;
use super::files::write_file;
use super::ports::Ports;
use super::published::FILE as PUBLISHED;

const IDENTITY: &str = "identity.json";

/// Everything that `--fresh` removes.
const OURS: [&str; 11] = [
    "coordinator",
    "broker",
    "agent",
    "tls",
    "coordinator.yaml",
    "broker.yaml",
    "agent.yaml",
    "dev.log",
    PUBLISHED,
    ".gitignore",
    IDENTITY,
];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) cluster_id: String,
    pub(crate) ports: Ports,
}

/// A locked dev directory.
#[derive(Debug)]
pub(crate) struct DevDir {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    pub(crate) certificates: Certificates,
    /// What was made now, for the user.
    pub(crate) made: Vec<String>,
    _lock: DirLock,
}

impl DevDir {
    /// Creates or takes over `dir`. The error names who uses it.
    pub(crate) fn open(dir: &Path, fresh: bool, clock: &Clock) -> Result<DevDir> {
        let path = std::path::absolute(dir).with_context(|| dir.display().to_string())?;
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        must_be_ours(&path)?;
        let lock = FsDisk.lock_dir(&path).map_err(|error| held(&path, error))?;
        if fresh {
            wipe(&path)?;
        }
        // What an earlier run published is no longer true.
        remove(&path.join(PUBLISHED))?;
        write_file(&path.join(".gitignore"), b"*\n", 0o644)?;
        let identity = identity(&path)?;
        for daemon in ["coordinator", "broker", "agent"] {
            let data = path.join(daemon);
            fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        }
        let certificates = Certificates::in_dir(&path.join("tls"), &path.join("coordinator"));
        let made = certificates.ensure(&identity.cluster_id, clock.wall())?;
        Ok(DevDir { path, identity, certificates, made, _lock: lock })
    }

    pub(crate) fn data(&self, daemon: &str) -> PathBuf {
        self.path.join(daemon)
    }

    pub(crate) fn config(&self, daemon: &str) -> PathBuf {
        self.path.join(format!("{daemon}.yaml"))
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path.join("dev.log")
    }

    /// Nothing runs any more.
    pub(crate) fn unpublish(&self) -> Result<()> {
        remove(&self.path.join(PUBLISHED))
    }
}

fn must_be_ours(path: &Path) -> Result<()> {
    let mut entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let known = |name: &str| name == ".lock" || OURS.contains(&name);
    let foreign = entries.find_map(|entry| {
        let name = entry.ok()?.file_name().to_string_lossy().into_owned();
        (!known(&name)).then_some(name)
    });
    match foreign {
        Some(name) if !path.join(IDENTITY).exists() => bail!(
            "{} is not a dev directory: it has {name} in it\n  next: give --data a directory that is empty or does not exist",
            path.display()
        ),
        _ => Ok(()),
    }
}

fn held(path: &Path, error: StorageError) -> anyhow::Error {
    let pid = fs::read_to_string(path.join(".lock"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    match (&error, pid.and_then(Holder::of_pid)) {
        (StorageError::Locked { .. }, Some(holder)) => anyhow::anyhow!(
            "{} is in use by {holder}\n  next: stop it (kill {}), or give this one its own --data DIR",
            path.display(),
            holder.pid
        ),
        _ => anyhow::Error::new(error),
    }
}

fn wipe(path: &Path) -> Result<()> {
    // The identity goes last: an interrupted wipe is still recognised as ours.
    for name in OURS {
        remove(&path.join(name))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn identity(dir: &Path) -> Result<Identity> {
    let path = dir.join(IDENTITY);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged\n  next: run once with --fresh to begin anew", path.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let cluster_id = tailway_runtime::uuid().to_string();
            let identity = Identity { cluster_id, ports: Ports::choose(dir)? };
            write_file(&path, &serde_json::to_vec_pretty(&identity)?, 0o644)?;
            Ok(identity)
        }
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_kept_and_fresh_makes_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        let first = DevDir::open(&path, false, &Clock::new()).unwrap();
        let identity = first.identity.clone();
        assert_eq!(first.made.len(), 1);
        fs::write(first.data("broker").join("kept"), "x").unwrap();
        drop(first);
        let second = DevDir::open(&path, false, &Clock::new()).unwrap();
        assert_eq!((second.identity.clone(), second.made.len()), (identity.clone(), 0));
        assert!(second.data("broker").join("kept").exists());
        let error = DevDir::open(&path, true, &Clock::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(second);
        let fresh = DevDir::open(&path, true, &Clock::new()).unwrap();
        assert_ne!(fresh.identity.cluster_id, identity.cluster_id);
        assert!(!fresh.data("broker").join("kept").exists());
    }

    #[test]
    fn a_foreign_directory_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        let error = DevDir::open(dir.path(), true, &Clock::new()).unwrap_err().to_string();
        assert!(error.contains("thesis.tex"), "{error}");
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
