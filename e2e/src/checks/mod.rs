//! The named groups: `clients` (foreign software), `filebeat` (a real one), `root` (failing syscalls), `hostile` (mutated frames).
//!
//! Each check starts its own processes in its own folder; none depends on another's leftovers.

pub mod cli;
pub mod disk_full;
pub mod failing_disk;
pub mod filebeat;
pub mod footprint;
pub mod groups;
pub mod histories;
pub mod hostile;
pub mod impostors;
pub mod kafka_tools;
pub mod kcat;
pub mod libraries;
pub mod manual;
pub mod members;
pub mod mounts;
pub mod on_disk;
pub mod pipeline;
pub mod power_cuts;
pub mod readme;
pub mod record;
pub mod secrets;
pub mod short_lives;
pub mod strangers;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::deployment::{Deployment, PATIENCE};
use crate::group::Check;
use crate::process::run;
use crate::programs::Programs;

/// Everything that needs kcat, Python wheels or Java.
pub fn clients() -> Vec<Check> {
    [
        kcat::CHECKS,
        libraries::CHECKS,
        kafka_tools::CHECKS,
        on_disk::CHECKS,
        groups::CHECKS,
        cli::CHECKS,
        pipeline::CHECKS,
        readme::CHECKS,
        histories::CHECKS,
        manual::CHECKS,
    ]
    .concat()
}

/// Everything that needs a real Filebeat.
pub fn filebeat() -> Vec<Check> {
    [filebeat::CHECKS, members::FILEBEAT].concat()
}

/// Everything that needs root.
pub fn root() -> Vec<Check> {
    [
        failing_disk::CHECKS,
        power_cuts::CHECKS,
        disk_full::CHECKS,
        members::CHECKS,
        strangers::CHECKS,
        impostors::CHECKS,
        short_lives::CHECKS,
        secrets::CHECKS,
    ]
    .concat()
}

/// A running deployment with one small input file, in a folder that lives as long as it does.
pub struct Bench {
    pub deployment: Deployment,
    pub dir: tempfile::TempDir,
}

impl Bench {
    /// Coordinator and broker, no agent: for checks of the broker alone.
    pub fn broker() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let input = dir.path().join("unused.log");
        std::fs::write(&input, "")?;
        let mut deployment = Deployment::export(&dir.path().join("run"), &[text(&input)?])?;
        deployment.start_daemon("coordinator")?;
        deployment.start_daemon("broker")?;
        Ok(Self { deployment, dir })
    }

    /// `tailway topic create NAME` with settings.
    pub fn create_topic(&self, name: &str, partitions: u32, configs: &[&str]) -> Result<()> {
        Self::create(&self.deployment, name, partitions, configs)
    }

    /// The same in any deployment.
    pub fn create(
        deployment: &Deployment,
        name: &str,
        partitions: u32,
        configs: &[&str],
    ) -> Result<()> {
        let mut command = Command::new(Programs::built()?.path("tailway")?);
        command.args(["topic", "create", name, "--partitions", &partitions.to_string()]);
        command.args(["--bootstrap", deployment.dev.plaintext()?]);
        for config in configs {
            command.args(["--config", config]);
        }
        run(&mut command, PATIENCE).map(drop)
    }

    /// The folder of a partition, wherever below the data directory it lies.
    pub fn partition_dir(&self, topic: &str, partition: u32) -> Result<PathBuf> {
        let name = format!("{topic}-{partition}");
        let data = &self.deployment.dev.brokers[0].data;
        find_dir(data, &name)?.with_context(|| format!("no folder {name} below {}", data.display()))
    }
}

fn find_dir(top: &Path, name: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(top).with_context(|| top.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            if path.ends_with(name) {
                return Ok(Some(path));
            }
            if let Some(found) = find_dir(&path, name)? {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

/// The files of a folder with this extension, by name.
pub fn files_with(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A path as text.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Numbered payload lines.
pub fn numbered(count: usize, filler: usize) -> String {
    let filler = "y".repeat(filler);
    (0..count).flat_map(|n| [n.to_string(), format!(" {filler}\n")]).collect()
}

/// Fails with both values when they differ; long texts are cut.
pub fn same(what: &str, left: &str, right: &str) -> Result<()> {
    let cut = |text: &str| text.chars().take(600).collect::<String>();
    ensure!(
        left == right,
        "{what} differ ({} and {} bytes):\n{}\n---\n{}",
        left.len(),
        right.len(),
        cut(left),
        cut(right)
    );
    Ok(())
}
