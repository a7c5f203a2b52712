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
            .get_or_init(|| build().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("cannot build the programs under test: {error}"))
    }

    /// Path of one program, e.g. `tailway-broker`.
    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0
            .get(name)
            .map(PathBuf::as_path)
            .with_context(|| format!("cargo built no program named {name}"))
    }
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

fn build() -> Result<Programs> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(repository())
        .args([
            "build",
            "--release",
            "--locked",
            "--message-format=json-render-diagnostics",
            "--bins",
        ])
        .args([
            "-p",
            "tailway",
            "-p",
            "tailway-agent",
            "-p",
            "tailway-broker",
            "-p",
            "tailway-coordinator",
            "-p",
            "tailway-history",
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo build --release failed: {}", output.status);
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
