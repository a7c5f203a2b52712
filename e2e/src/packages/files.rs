//! What is in the packages, judged by lintian, rpmlint, shellcheck, readelf and sha256sum.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::made::{self, name};
use crate::group::{Check, need};
use crate::process::run;
use crate::programs::repository;

pub(super) const CHECKS: &[Check] = &[
    ("no program asks for a symbol of a newer glibc than 2.28", old_glibc),
    ("lintian has no errors", lintian),
    ("rpmlint has no errors", rpmlint),
    ("shellcheck has nothing to say of any script", shellcheck),
    ("each package lists what it is made of, with licences", materials),
    ("the same commit gives the same packages, and the sums are right", reproducible),
];

const PATIENCE: Duration = Duration::from_mins(3);

fn unpack(package: &str, at: &Path) -> Result<()> {
    let deb = made::older()?.deb(package)?;
    run(Command::new("dpkg-deb").arg("-R").arg(deb).arg(at), PATIENCE).map(drop)
}

fn old_glibc() -> Result<()> {
    need("readelf", "binutils")?;
    for package in made::packages() {
        let dir = tempfile::tempdir()?;
        unpack(&package, dir.path())?;
        let program = dir.path().join("usr/bin").join(&package);
        let versions = run(
            Command::new("readelf").args(["--wide", "--version-info"]).arg(&program),
            PATIENCE,
        )?;
        let mut count = 0;
        for version in versions.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_")) {
            let minor = version.strip_prefix("2.").and_then(|rest| rest.split('.').next());
            let minor: u32 = minor.with_context(|| version.to_owned())?.parse()?;
            ensure!(minor <= 28, "{package} needs GLIBC_{version}");
            count += 1;
        }
        ensure!(count > 0, "readelf names no version of glibc in {package}: {versions}");
    }
    Ok(())
}

fn lintian() -> Result<()> {
    need("lintian", "lintian")?;
    let debs = made::each(|package| made::older()?.deb(package))?;
    let said = run(
        Command::new("lintian").args(["--fail-on", "error", "--allow-root"]).args(debs),
        PATIENCE,
    )?;
    ensure!(!said.lines().any(|line| line.starts_with("E:")), "{said}");
    Ok(())
}

fn rpmlint() -> Result<()> {
    need("rpmlint", "rpmlint")?;
    let config = repository().join("packaging/rpm/rpmlint.toml");
    let rpms = made::each(|package| made::older()?.rpm(package))?;
    let said = run(Command::new("rpmlint").arg("--config").arg(config).args(rpms), PATIENCE)?;
    ensure!(said.contains(" 0 errors"), "{said}");
    Ok(())
}

fn shellcheck() -> Result<()> {
    need("shellcheck", "shellcheck")?;
    let mut scripts = vec![repository().join(".ci/run")];
    let dir = tempfile::tempdir()?;
    for package in made::packages() {
        let at = dir.path().join(&package);
        unpack(&package, &at)?;
        for script in ["config", "postinst", "prerm", "postrm"] {
            scripts.extend(Some(at.join("DEBIAN").join(script)).filter(|script| script.exists()));
        }
        for kind in ["POSTIN", "PREUN", "POSTUN", "POSTTRANS"] {
            let format = format!("%{{{kind}}}");
            let rpm = made::older()?.rpm(&package)?;
            let text = run(Command::new("rpm").args(["-qp", "--qf", &format]).arg(rpm), PATIENCE)?;
            if text != "(none)" {
                let script = dir.path().join(format!("{package}-{kind}"));
                std::fs::write(&script, format!("#!/bin/sh\n{text}\n"))?;
                scripts.push(script);
            }
        }
    }
    let archive = made::older()?.archive()?;
    run(Command::new("tar").args(["-xzf", &name(&archive), "-C", &name(dir.path())]), PATIENCE)?;
    let folder =
        name(&archive).rsplit('/').next().map(|file| file.trim_end_matches(".tar.gz").to_owned());
    scripts.push(dir.path().join(folder.context("an archive")?).join("install.sh"));
    run(Command::new("shellcheck").args(scripts), PATIENCE).map(drop)
}

fn materials() -> Result<()> {
    for package in made::packages() {
        let dir = tempfile::tempdir()?;
        unpack(&package, dir.path())?;
        let doc = dir.path().join("usr/share/doc").join(&package);
        let sbom: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(doc.join("sbom.cdx.json"))?)?;
        ensure!(
            sbom["bomFormat"] == "CycloneDX"
                && sbom["metadata"]["component"]["name"] == package.as_str(),
            "{sbom}"
        );
        let components = sbom["components"].as_array().context("no components")?;
        let licences = run(
            Command::new("gzip").arg("-cd").arg(doc.join("third-party-licences.txt.gz")),
            PATIENCE,
        )?;
        let mut foreign = 0;
        for component in components {
            let (crate_name, version) = (component["name"].as_str(), component["version"].as_str());
            let (Some(crate_name), Some(version)) = (crate_name, version) else {
                anyhow::bail!("{component}");
            };
            ensure!(
                component["licenses"][0]["expression"].is_string(),
                "{component} has no licence"
            );
            if component["purl"].is_string() {
                foreign += 1;
                ensure!(
                    licences.contains(&format!("\n{crate_name} {version}: ")),
                    "{package}: no licence of {crate_name}"
                );
            }
        }
        ensure!(foreign > 20, "{package} is said to be made of {foreign} crates");
        ensure!(licences.contains("\n---- [1] "), "{package}: no licence text");
    }
    Ok(())
}

fn reproducible() -> Result<()> {
    let first = made::older()?;
    run(
        Command::new("sha256sum")
            .args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(&first.dir),
        PATIENCE,
    )?;
    let programs = name(&first.dir.join("staged/programs"));
    let second = made::dist_into(
        "again",
        first.version,
        &["--profile", "release", "--programs", &programs],
    )?;
    let sums = |made: &made::Made| std::fs::read_to_string(made.dir.join("SHA256SUMS"));
    crate::checks::same("the sums of two runs", &sums(first)?, &sums(&second)?)
}
