//! `cargo x dist`: deb and rpm packages, an archive with an installer, and the checksums of all of them.
//!
//! One tree per package is staged from the programs, `systemd/`, `configs/`, `packaging/` and what `cargo x docs` writes, and
//! handed to the format's own tool: dpkg-deb and rpmbuild, which know their formats best and are a Debian package each. All
//! times are the commit's, so that the same commit gives the same files.

mod archive;
mod components;
mod deb;
mod licences;
mod package;
mod programs;
mod release;
mod rpm;
mod sbom;
mod stage;
mod symbols;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use package::{Libc, PACKAGES};
use release::Release;

#[derive(clap::Args)]
pub(crate) struct DistArgs {
    /// The cargo profile of the programs: `dist` has link-time optimisation and takes long, `release` is for checks.
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Where the packages are written; what is there already is replaced.
    #[arg(long, value_name = "DIR", default_value = "target/packages")]
    out: PathBuf,
    /// Package the programs of this folder instead of building them, and in the archive those of its folder `static`: an earlier
    /// build, for checks of the way back.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Instead of the version of this commit.
    #[arg(long)]
    version: Option<String>,
    /// Leave out the archive, whose programs are static: another build of every crate.
    #[arg(long)]
    no_archive: bool,
    /// Leave out man pages and completions.
    #[arg(long)]
    no_docs: bool,
}

/// What every step needs to know.
struct Job<'a> {
    root: &'a Path,
    /// Programs, by name.
    programs: PathBuf,
    libc: Libc,
    /// Man pages and completions.
    docs: Option<PathBuf>,
    release: Release,
    /// Staged trees, for looking at afterwards.
    work: PathBuf,
    out: PathBuf,
    /// Of xz and gzip: 6, or 1 for what is only checked.
    level: u32,
}

pub(crate) fn run(root: &Path, args: &DistArgs) -> Result<()> {
    let out = root.join(&args.out);
    let work = out.join("staged");
    for dir in [&work, &out] {
        if dir.exists() {
            std::fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
    }
    std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
    for (tool, package) in [("dpkg-deb", "dpkg"), ("rpmbuild", "rpm"), ("readelf", "binutils")] {
        need(tool, package)?;
    }
    let programs = match &args.programs {
        Some(dir) => root.join(dir),
        None => programs::build(root, &args.profile, Libc::Glibc, &work.join("programs"))?,
    };
    for package in PACKAGES {
        symbols::check(&programs.join(package.name))?;
    }
    let docs = if args.no_docs { None } else { Some(manuals(root, &work.join("docs"))?) };
    let mut job = Job {
        root,
        programs,
        libc: Libc::Glibc,
        docs,
        release: Release::of(root, args.version.as_deref())?,
        work,
        out,
        level: if args.profile == "dist" { 6 } else { 1 },
    };
    let all = components::All::read(root, job.libc)?;
    for package in PACKAGES {
        let components = all.of(root, package.name)?;
        deb::build(&job, package, &components)?;
        rpm::build(&job, package, &components)?;
    }
    if !args.no_archive {
        let dir = job.programs.join("static");
        if args.programs.is_none() {
            programs::build(root, &args.profile, Libc::Musl, &dir)?;
        }
        for package in PACKAGES {
            symbols::check_static(&dir.join(package.name))?;
        }
        job.programs = dir;
        job.libc = Libc::Musl;
        archive::build(&job, &components::All::read(root, job.libc)?)?;
    }
    sums(&job)
}

/// `SHA256SUMS` of everything that was made.
fn sums(job: &Job<'_>) -> Result<()> {
    let script =
        "sha256sum $(ls | grep -E '[.](deb|rpm|tar[.]gz)$') > SHA256SUMS && cat SHA256SUMS";
    call(Command::new("sh").args(["-ec", script]).current_dir(&job.out))
}

fn manuals(root: &Path, dir: &Path) -> Result<PathBuf> {
    call(
        crate::cargo(root)
            .args(["run", "--quiet", "--locked", "-p", "xtask", "--", "docs"])
            .arg(dir),
    )
    .context("cannot make man pages and completions; without them: cargo x dist --no-docs")?;
    Ok(dir.to_path_buf())
}

fn need(program: &str, package: &str) -> Result<()> {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output()?;
    ensure!(found.status.success(), "`{program}` is missing: apt-get install {package}");
    Ok(())
}

/// Runs a tool that says itself what is wrong.
fn call(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed: {status}");
    }
    Ok(())
}

/// What a tool prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("{command:?} printed no UTF-8"))
}

/// A template of `packaging/` with its `@KEY@`s filled in; one that is left is a mistake here.
fn fill(root: &Path, template: &str, values: &[(&str, &str)]) -> Result<String> {
    let path = root.join("packaging").join(template);
    let mut text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    for (key, value) in values {
        text = text.replace(&format!("@{key}@"), value);
    }
    let left = text
        .split('@')
        .skip(1)
        .step_by(2)
        .find(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase()));
    ensure!(left.is_none(), "{}: nothing fills @{}@", path.display(), left.unwrap_or_default());
    Ok(text)
}
