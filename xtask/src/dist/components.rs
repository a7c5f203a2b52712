//! The crates that each program is linked from, by cargo's own resolution, with their licences and sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::output;
use super::package::Libc;

/// Name and version, which say which crate it is among those of a registry and of this repository.
pub(super) type Id = (String, String);

pub(super) struct Component {
    pub(super) id: Id,
    /// As an SPDX expression.
    pub(super) licence: String,
    /// The folder of its sources.
    pub(super) sources: PathBuf,
    /// SHA-256 of what the registry has; `None` for our own crates.
    pub(super) checksum: Option<String>,
    pub(super) needs: BTreeSet<Id>,
}

/// What cargo knows of every crate of the workspace and its dependencies.
pub(super) struct All {
    packages: BTreeMap<Id, (String, PathBuf)>,
    checksums: BTreeMap<Id, String>,
    target: &'static str,
}

impl All {
    pub(super) fn read(root: &Path, libc: Libc) -> Result<Self> {
        let target = libc.target();
        let mut cargo = crate::cargo(root);
        cargo.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target]);
        let metadata: Value = serde_json::from_str(&output(&mut cargo)?)?;
        let mut packages = BTreeMap::new();
        for package in metadata["packages"].as_array().context("cargo metadata has no packages")? {
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            let manifest = PathBuf::from(text("manifest_path"));
            let sources = manifest.parent().unwrap_or(&manifest).to_path_buf();
            // Before SPDX expressions, a slash was how to say it.
            let licence = text("license").replace('/', " OR ");
            packages.insert((text("name"), text("version")), (licence, sources));
        }
        let lock = root.join("Cargo.lock");
        let lock = std::fs::read_to_string(&lock).with_context(|| lock.display().to_string())?;
        Ok(Self { packages, checksums: checksums(&lock), target })
    }

    /// The crates that program `name` is linked from, itself included.
    pub(super) fn of(&self, root: &Path, name: &str) -> Result<Vec<Component>> {
        let mut cargo = crate::cargo(root);
        cargo.args(["tree", "--locked", "-p", name, "--target", self.target]);
        cargo.args(["--edges", "normal,no-proc-macro", "--prefix", "depth", "--format", " {p}"]);
        let edges = edges(&output(&mut cargo)?);
        ensure!(!edges.is_empty(), "cargo tree says nothing of {name}");
        edges
            .into_iter()
            .map(|(id, needs)| {
                let (licence, sources) = self
                    .packages
                    .get(&id)
                    .with_context(|| format!("cargo metadata does not know {} {}", id.0, id.1))?;
                ensure!(!licence.is_empty(), "{} {} does not say its licence", id.0, id.1);
                let checksum = self.checksums.get(&id).cloned();
                Ok(Component {
                    licence: licence.clone(),
                    sources: sources.clone(),
                    checksum,
                    needs,
                    id,
                })
            })
            .collect()
    }
}

/// From `cargo tree --prefix depth`: `2 name v1.2.3 (/path)`, a crate's own dependencies only where it is named first.
fn edges(tree: &str) -> BTreeMap<Id, BTreeSet<Id>> {
    let mut edges: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    let mut above: Vec<Id> = Vec::new();
    for line in tree.lines() {
        let mut words = line.split_whitespace();
        let (Some(depth), Some(name), Some(version)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(depth) = depth.parse::<usize>() else { continue };
        let id = (name.to_owned(), version.trim_start_matches('v').to_owned());
        above.truncate(depth);
        if let Some(parent) = above.last() {
            edges.entry(parent.clone()).or_default().insert(id.clone());
        }
        edges.entry(id.clone()).or_default();
        above.push(id);
    }
    edges
}

fn checksums(lock: &str) -> BTreeMap<Id, String> {
    let value = |block: &str, key: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(key))?;
        Some(line.trim_start_matches(" = ").trim_matches('"').to_owned())
    };
    lock.split("[[package]]")
        .filter_map(|block| {
            let id = (value(block, "name")?, value(block, "version")?);
            Some((id, value(block, "checksum")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Id {
        (name.to_owned(), "1.0.0".to_owned())
    }

    #[test]
    fn edges_come_from_depths() {
        let edges = edges("0 a v1.0.0 (/src/a)\n1 b v1.0.0\n2 c v1.0.0\n1 c v1.0.0 (*)\n");
        assert_eq!(edges.len(), 3);
        assert_eq!(edges[&id("a")], BTreeSet::from([id("b"), id("c")]));
        assert_eq!(edges[&id("b")], BTreeSet::from([id("c")]));
        assert!(edges[&id("c")].is_empty());
    }

    #[test]
    fn checksums_come_from_the_lock_file() {
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nchecksum = \"ff\"\n\n[[package]]\nname = \"b\"\nversion = \"1.0.0\"\n";
        assert_eq!(checksums(lock), BTreeMap::from([(id("a"), "ff".to_owned())]));
    }
}
