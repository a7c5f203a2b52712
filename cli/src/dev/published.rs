//! dev.json: what runs where, for scripts and for the other commands. Its form is published: fields only get added.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::files::write_file;
use crate::output::quoted;

/// The file's name in the directory.
pub(crate) const FILE: &str = "dev.json";

/// All paths are absolute, all addresses `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) ca: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
    pub(crate) brokers: Vec<PublishedBroker>,
    pub(crate) coordinators: Vec<PublishedCoordinator>,
    pub(crate) agent: PublishedAgent,
    /// Followed file -> topic.
    pub(crate) topics: BTreeMap<PathBuf, String>,
    /// Program -> process id; empty if nothing was started.
    pub(crate) pids: BTreeMap<String, u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedBroker {
    pub(crate) id: i32,
    pub(crate) tls: String,
    pub(crate) plaintext: Option<String>,
    pub(crate) admin: String,
    pub(crate) data: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedCoordinator {
    pub(crate) id: i32,
    pub(crate) address: String,
    pub(crate) admin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PublishedAgent {
    pub(crate) admin: String,
    pub(crate) journal: PathBuf,
}

impl Published {
    pub(crate) fn read(path: &Path) -> Result<Published> {
        let text = fs::read_to_string(path).with_context(|| {
            let dir = quoted(&path.parent().unwrap_or(Path::new(".")).display().to_string());
            format!(
                "no dev run is ready in {dir} ({} cannot be read)\n  next: tailway dev FILE... --data {dir}, or another directory with --data",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// By rename: whoever sees the file sees all of it.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        write_file(&dir.join(FILE), &text, 0o644)
    }
}
