//! A small Debian in a folder, as debootstrap makes it once, under a layer that takes what one check writes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use tempfile::TempDir;

use crate::debian;
use crate::group::need;
use crate::process::{finish, run};
use crate::programs::repository;

/// debootstrap fetches and unpacks about a hundred packages.
const BOOTSTRAP: Duration = Duration::from_mins(8);
const PATIENCE: Duration = Duration::from_mins(2);

/// A root file system for one check; gone when dropped.
pub(super) struct System {
    at: PathBuf,
    // Unmounted before it is deleted.
    _dir: TempDir,
}

/// What a command in the system said, on both outputs, and how it ended.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) code: Option<i32>,
}

impl System {
    pub(super) fn new() -> Result<Self> {
        ensure!(rustix::process::geteuid().is_root(), "installing packages needs root");
        let base = base()?;
        let dir = tempfile::tempdir()?;
        let [upper, work, at] = ["upper", "work", "root"].map(|name| dir.path().join(name));
        // Overlays do not stack on every file system: the layer is in memory.
        run(Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(dir.path()), PATIENCE)?;
        let system = Self { at: at.clone(), _dir: dir };
        for folder in [&upper, &work, &at] {
            std::fs::create_dir(folder)?;
        }
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            base.display(),
            upper.display(),
            work.display()
        );
        run(
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options]).arg(&at),
            PATIENCE,
        )?;
        // For rpm, which enters the root by itself.
        run(
            Command::new("mount").args(["-t", "proc", "proc"]).arg(system.path("/proc")),
            PATIENCE,
        )?;
        Ok(system)
    }

    pub(super) fn root(&self) -> &Path {
        &self.at
    }

    pub(super) fn path(&self, absolute: &str) -> PathBuf {
        self.at.join(absolute.trim_start_matches('/'))
    }

    pub(super) fn has(&self, absolute: &str) -> bool {
        self.path(absolute).symlink_metadata().is_ok()
    }

    pub(super) fn read(&self, absolute: &str) -> Result<String> {
        let path = self.path(absolute);
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    pub(super) fn write(&self, absolute: &str, text: &str) -> Result<()> {
        let path = self.path(absolute);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }

    /// Copies files into `/packages` of the system; their paths there.
    pub(super) fn bring(&self, files: &[PathBuf]) -> Result<Vec<String>> {
        std::fs::create_dir_all(self.path("/packages"))?;
        files
            .iter()
            .map(|file| {
                let name = file.file_name().context("not a file")?.to_string_lossy().into_owned();
                std::fs::copy(file, self.path("/packages").join(&name))?;
                Ok(format!("/packages/{name}"))
            })
            .collect()
    }

    /// Runs a shell script in it, without network and without a terminal to ask at.
    pub(super) fn sh(&self, script: &str) -> Result<Said> {
        let mut command = debian::command(&self.at, "sh");
        command.args(["-c", &format!("exec 2>&1\n{script}")]);
        let Output { status, stdout, .. } = finish(&mut command, PATIENCE)?;
        Ok(Said { text: String::from_utf8_lossy(&stdout).into_owned(), code: status.code() })
    }

    /// The same, where anything but exit 0 is a failure; what it said.
    pub(super) fn must(&self, script: &str) -> Result<String> {
        let said = self.sh(script)?;
        ensure!(said.code == Some(0), "`{script}` ended with {:?}:\n{}", said.code, said.text);
        Ok(said.text)
    }
}

impl Drop for System {
    fn drop(&mut self) {
        for at in [Some(self.at.as_path()), self.at.parent()].into_iter().flatten() {
            drop(run(Command::new("umount").arg("--lazy").arg(at), PATIENCE));
        }
    }
}

/// The layer below, which nobody writes to.
fn base() -> Result<&'static Path> {
    static BASE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BASE.get_or_init(|| bootstrap().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map(PathBuf::as_path)
        .map_err(|error| anyhow!("cannot make a Debian to install into: {error}"))
}

fn bootstrap() -> Result<PathBuf> {
    need("debootstrap", "debootstrap")?;
    let mut anchor = Command::new(repository().join("e2e/anchors/debian"));
    let said = run(anchor.arg("root"), BOOTSTRAP)?;
    let at = said.lines().last().context("e2e/anchors/debian root printed nothing")?;
    Ok(PathBuf::from(at))
}
