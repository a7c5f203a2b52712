//! The optimised programs under test, built once per test process from this very tree.
//!
//! Cargo itself says where it put them, so a target folder set by environment or config is found too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Deserialize;

/// Paths of the programs, by name.
#[derive(Debug)]
pub struct Programs(BTreeMap<String, PathBuf>);

impl Programs {
    /// Builds (or finds up to date) `tailway`, the three daemons and the history checker in the release profile.
    pub fn built() -> Result<&'static Self> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| build(&OPTIMISED).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("cannot build the programs under test: {error}"))
    }

    /// What packages ship: the same, with link-time optimisation. Takes many minutes to build.
    pub fn shipped() -> Result<Self> {
        build(&["--profile", "dist"])
    }

    /// The daemons with their fault points and planted bugs, not optimised: what `TAILWAY_CRASH_AT`, `TAILWAY_FAULTS` and
    /// `TAILWAY_PLANT` have an effect on.
    pub fn armed() -> Result<&'static Self> {
        static BUILT: OnceLock<Result<Programs, String>> = OnceLock::new();
        BUILT
            .get_or_init(|| build(&ARMED).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("cannot build the programs with faults: {error}"))
    }

    /// Path of one program, e.g. `tailway-broker`.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("cargo built no program named {name}"))
    }
}

/// The cargo that runs this, in the repository.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(repository());
    command
}

/// The repository's top folder.
pub fn repository() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

const OPTIMISED: [&str; 2] = ["--release", "-ptailway-history"];
const ARMED: [&str; 3] = ["-ptailway-faults", "--features", "tailway-faults/faults"];

fn build(more: &[&str]) -> Result<Programs> {
    let output = cargo()
        .args(["build", "--locked", "--message-format=json-render-diagnostics", "--bins"])
        .args(["-ptailway", "-ptailway-agent", "-ptailway-broker", "-ptailway-coordinator"])
        .args(more)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build failed: {}", output.status);
    let mut programs = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Ok(Message { executable: Some(path), target: Some(target) }) =
            serde_json::from_str(line)
        {
            programs.insert(target.name, path);
        }
    }
    Ok(Programs(programs))
}
