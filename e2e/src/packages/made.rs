//! The packages under test, made once per run: an older and a newer version of the same programs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::process::run;
use crate::programs::{cargo, repository};

/// Compiling included, where nothing was compiled before.
const PATIENCE: Duration = Duration::from_mins(20);

const OLDER_VERSION: &str = "0.1.0+check1";
/// Beside packages: the commit that they are of, where nothing was changed.
const MADE_OF: &str = "made-of";

/// One version of all packages.
#[derive(Debug)]
pub(crate) struct Made {
    pub(super) dir: PathBuf,
    pub(super) version: &'static str,
}

/// The version that is installed first.
pub(crate) fn older() -> Result<&'static Made> {
    static OLDER: OnceLock<Result<Made, String>> = OnceLock::new();
    made(&OLDER, || dist(OLDER_VERSION, &["--profile", "release"]))
}

/// For hosts: those of a run of `cargo x packages` before this one, if they are of this very commit, else made without the
/// archive, whose programs are a build of their own.
pub(crate) fn for_hosts() -> Result<&'static Made> {
    static HOSTS: OnceLock<Result<Made, String>> = OnceLock::new();
    made(&HOSTS, || {
        let dir = folder(OLDER_VERSION);
        let commit = commit()?;
        let of = std::fs::read_to_string(dir.join(MADE_OF)).ok();
        if commit.is_some() && of == commit {
            return Ok(Made { dir, version: OLDER_VERSION });
        }
        dist_into("hosts", OLDER_VERSION, &["--profile", "release", "--no-archive"])
    })
}

/// What it is upgraded to.
pub(super) fn newer() -> Result<&'static Made> {
    static NEWER: OnceLock<Result<Made, String>> = OnceLock::new();
    made(&NEWER, || {
        let programs = older()?.dir.join("staged/programs");
        let programs = programs.to_str().context("the repository's path is not UTF-8")?;
        dist("0.1.0+check2", &["--profile", "release", "--programs", programs])
    })
}

fn made(
    once: &'static OnceLock<Result<Made, String>>,
    make: impl FnOnce() -> Result<Made>,
) -> Result<&'static Made> {
    once.get_or_init(|| make().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("cannot make the packages: {error}"))
}

/// `cargo x dist`, as a user gives it.
pub(super) fn dist(version: &'static str, args: &[&str]) -> Result<Made> {
    dist_into(version, version, args)
}

/// The same into `target/packages-NAME`.
pub(super) fn dist_into(name: &str, version: &'static str, args: &[&str]) -> Result<Made> {
    let dir = folder(name);
    let mut command = cargo();
    command.args(["run", "--quiet", "--locked", "-p", "xtask", "--", "dist"]);
    command.args(["--version", version, "--out"]).arg(&dir).args(args);
    run(&mut command, PATIENCE)?;
    if let Some(commit) = commit()? {
        std::fs::write(dir.join(MADE_OF), commit)?;
    }
    Ok(Made { dir, version })
}

fn folder(name: &str) -> PathBuf {
    repository().join(format!("target/packages-{name}"))
}

/// What is checked out, if nothing was changed since.
fn commit() -> Result<Option<String>> {
    let git =
        |args: &[&str]| run(Command::new("git").args(args).current_dir(repository()), PATIENCE);
    let changed = git(&["status", "--porcelain"])?;
    let commit = git(&["rev-parse", "HEAD"])?;
    Ok(Some(commit.trim().to_owned()).filter(|_| changed.trim().is_empty()))
}

impl Made {
    /// The deb of `tailway` or `tailway-NAME`.
    pub(crate) fn deb(&self, package: &str) -> Result<PathBuf> {
        self.file(&format!("{package}_{}_amd64.deb", self.version))
    }

    pub(super) fn rpm(&self, package: &str) -> Result<PathBuf> {
        self.file(&format!("{package}-{}-1.x86_64.rpm", self.version))
    }

    pub(super) fn archive(&self) -> Result<PathBuf> {
        self.file(&format!("tailway-{}-linux-x86_64.tar.gz", self.version))
    }

    fn file(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        ensure!(path.exists(), "cargo x dist made no {}", path.display());
        Ok(path)
    }
}

/// Names of all packages.
pub(super) fn packages() -> Vec<String> {
    let daemons = super::DAEMONS.iter().map(|daemon| format!("tailway-{daemon}"));
    std::iter::once("tailway".to_owned()).chain(daemons).collect()
}

/// All packages of one version, by one of the functions above.
pub(super) fn each(file: impl Fn(&str) -> Result<PathBuf>) -> Result<Vec<PathBuf>> {
    packages().iter().map(|package| file(package)).collect()
}

/// The text of a path.
pub(super) fn name(path: &Path) -> String {
    path.display().to_string()
}
