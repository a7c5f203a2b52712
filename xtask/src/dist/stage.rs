//! What goes where: the tree of one package, for each format.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::components::Component;
use super::package::{PACKAGES, Package};
use super::{Job, call, licences, sbom};

/// Where formats differ.
pub(super) struct Layout {
    /// In front of everything but `/etc`.
    pub(super) prefix: &'static str,
    /// Where zsh looks for functions of packages, below the prefix.
    pub(super) zsh: &'static str,
}

/// A folder that is filled, file by file, with modes of its own instead of this user's umask.
pub(super) struct Tree {
    pub(super) top: PathBuf,
}

impl Tree {
    pub(super) fn new(top: PathBuf) -> Result<Self> {
        fs::create_dir_all(&top).with_context(|| top.display().to_string())?;
        Ok(Self { top })
    }

    pub(super) fn dir(&self, name: &str) -> Result<()> {
        let mut path = self.top.clone();
        for part in Path::new(name) {
            path.push(part);
            if !path.is_dir() {
                fs::create_dir(&path).with_context(|| path.display().to_string())?;
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8], mode: u32) -> Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.dir(parent)?;
        }
        let path = self.top.join(name);
        ensure!(!path.exists(), "two files are to be {name}");
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        Ok(())
    }

    pub(super) fn copy(&self, from: &Path, name: &str, mode: u32) -> Result<()> {
        self.write(name, &fs::read(from).with_context(|| from.display().to_string())?, mode)
    }

    /// Compressed, without a time of its own.
    pub(super) fn gzip(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.write(name, bytes, 0o644)?;
        call(Command::new("gzip").args(["-9", "-n"]).arg(self.top.join(name)))
    }
}

/// Everything of a package that does not depend on its format.
pub(super) fn fill(
    job: &Job<'_>,
    package: &Package,
    components: &[Component],
    tree: &Tree,
    layout: &Layout,
) -> Result<()> {
    let (root, p, name) = (job.root, layout.prefix, package.name);
    tree.copy(&job.programs.join(name), &format!("{p}bin/{name}"), 0o755)?;
    let doc = format!("{p}share/doc/{name}");
    tree.gzip(
        &format!("{doc}/third-party-licences.txt"),
        licences::text(job, package, components)?.as_bytes(),
    )?;
    tree.write(
        &format!("{doc}/sbom.cdx.json"),
        sbom::text(job, package, components)?.as_bytes(),
        0o644,
    )?;
    let examples = format!("{p}share/tailway/examples");
    if let Some(daemon) = &package.daemon {
        let unit = root.join(format!("systemd/{name}.service"));
        ensure!(unit.exists(), "{} is missing: each daemon's package has its unit", unit.display());
        tree.copy(&unit, &format!("{p}lib/systemd/system/{name}.service"), 0o644)?;
        for kind in ["sysusers", "tmpfiles"] {
            let from = root.join(format!("packaging/{kind}/{name}.conf"));
            tree.copy(&from, &format!("{p}lib/{kind}.d/{name}.conf"), 0o644)?;
        }
        let config = root.join(format!("configs/{}.yaml", daemon.name));
        tree.copy(&config, &format!("{examples}/{}.yaml", daemon.name), 0o644)?;
        for (from, file) in files(&root.join("systemd/examples"))? {
            if file.starts_with(&format!("{}-", daemon.name)) {
                tree.copy(&from, &format!("{examples}/systemd/{file}"), 0o644)?;
            }
        }
    } else {
        for (from, file) in files(&root.join("configs"))? {
            if !PACKAGES
                .iter()
                .filter_map(|p| p.daemon.as_ref())
                .any(|d| file == format!("{}.yaml", d.name))
            {
                tree.copy(&from, &format!("{examples}/{file}"), 0o644)?;
            }
        }
        for (from, file) in files(&root.join("docs"))? {
            tree.copy(&from, &format!("{doc}/{file}"), 0o644)?;
        }
    }
    match &job.docs {
        Some(docs) => manuals(docs, package, tree, layout),
        None => Ok(()),
    }
}

/// Man pages and completions: a daemon's are those of its own name, in the sections for daemons and files; the rest is the
/// command's, whose subcommand `agent` has a page `tailway-agent.1`.
fn manuals(docs: &Path, package: &Package, tree: &Tree, layout: &Layout) -> Result<()> {
    let p = layout.prefix;
    let mut count = 0;
    for (from, file) in files(&docs.join("man"))? {
        let Some((stem, section)) = file.rsplit_once('.') else { continue };
        if owner(stem, section) == package.name {
            tree.gzip(&format!("{p}share/man/man{section}/{file}"), &fs::read(&from)?)?;
            count += 1;
        }
    }
    ensure!(count > 0, "{} has no man page of {}", docs.display(), package.name);
    for (shell, folder) in [
        ("bash", "share/bash-completion/completions"),
        ("zsh", layout.zsh),
        ("fish", "share/fish/vendor_completions.d"),
    ] {
        for (from, file) in files(&docs.join("completions").join(shell))? {
            let program = file.trim_start_matches('_').split('.').next().unwrap_or_default();
            if program == package.name {
                tree.copy(&from, &format!("{p}{folder}/{file}"), 0o644)?;
            }
        }
    }
    Ok(())
}

/// The package of a man page.
fn owner(stem: &str, section: &str) -> &'static str {
    let daemons = PACKAGES.iter().filter(|package| package.daemon.is_some());
    let own = |name: &str| {
        stem == name || stem.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', '-']))
    };
    let daemon = daemons.map(|package| package.name).find(|name| section != "1" && own(name));
    daemon.unwrap_or("tailway")
}

/// Files of a folder by name, none where there is no such folder.
fn files(dir: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_man_page_goes_to_the_package_of_its_program() {
        assert_eq!(owner("tailway", "1"), "tailway");
        assert_eq!(owner("tailway-agent-files", "1"), "tailway");
        assert_eq!(owner("tailway-agent", "8"), "tailway-agent");
        assert_eq!(owner("tailway-agent.yaml", "5"), "tailway-agent");
        assert_eq!(owner("tailway-agents", "5"), "tailway");
    }
}
