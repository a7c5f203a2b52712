//! RPM packages, by rpmbuild.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::components::Component;
use super::package::{LICENCE, MAINTAINER, Package, UNAME_ARCH};
use super::stage::{self, Layout, Tree};
use super::{Job, call, fill, output};

const LAYOUT: Layout = Layout { prefix: "usr/", zsh: "share/zsh/site-functions" };

pub(super) fn build(job: &Job<'_>, package: &Package, components: &[Component]) -> Result<()> {
    let top = job.work.join("rpm").join(package.name);
    let tree = Tree::new(top.join("tree"))?;
    stage::fill(job, package, components, &tree, &LAYOUT)?;
    tree.copy(
        &job.root.join("LICENSE"),
        &format!("usr/share/licenses/{}/LICENSE", package.name),
        0o644,
    )?;
    if package.daemon.is_some() {
        tree.dir("etc/tailway")?;
    }
    // Folders of our own are owned, those of the system are not.
    let list = "find . -type f | sed 's|^\\.|%attr(-,root,root) |' | LC_ALL=C sort
        find etc/tailway usr/share/tailway usr/share/doc/tailway* usr/share/licenses/tailway* -type d 2>/dev/null \
        | sed 's|^|%dir %attr(0755,root,root) /|' | LC_ALL=C sort";
    let list = output(Command::new("sh").args(["-c", list]).current_dir(&tree.top))?;
    let marked: Vec<String> = list
        .lines()
        .map(|line| {
            if line.contains("/usr/share/doc/") {
                format!("%doc {line}")
            } else if line.contains("/usr/share/licenses/") {
                format!("%license {line}")
            } else {
                line.to_owned()
            }
        })
        .collect();
    let files = top.join("files");
    fs::write(&files, marked.join("\n") + "\n").with_context(|| files.display().to_string())?;
    let spec = top.join(format!("{}.spec", package.name));
    fs::write(&spec, spec_file(job, package, &tree, &files)?)?;
    let define = |name: &str, value: &str| ["--define".to_owned(), format!("{name} {value}")];
    call(
        Command::new("rpmbuild")
            .args(["-bb", "--quiet", "--target", UNAME_ARCH])
            .args(define("_topdir", &top.display().to_string()))
            .args(define("_rpmdir", &job.out.display().to_string()))
            .args(define("_rpmfilename", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"))
            .arg(&spec)
            .env("SOURCE_DATE_EPOCH", &job.release.epoch),
    )
}

fn spec_file(
    job: &Job<'_>,
    package: &Package,
    tree: &Tree,
    files: &std::path::Path,
) -> Result<String> {
    let mut values = vec![("PACKAGE", package.name), ("NEXT", package.next)];
    let (scripts, requires) = if let Some(daemon) = &package.daemon {
        let restart = if daemon.restart { "yes" } else { "no" };
        values.extend([("DAEMON", daemon.name), ("RESTART", restart)]);
        ("rpm/scripts", "Requires: tailway\nRequires: systemd\nRequires(post): systemd")
    } else {
        ("rpm/scripts-cli", "")
    };
    let scripts = fill(job.root, scripts, &values)?;
    let mut summary = package.summary.to_owned();
    if let Some(first) = summary.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let changes = format!(
        "* {} {MAINTAINER} - {}-1\n- Built from commit {}.",
        job.release.date("+%a %b %d %Y")?,
        job.release.version,
        job.release.commit
    );
    let (level, stage, files) =
        (job.level.to_string(), tree.top.display().to_string(), files.display().to_string());
    values.extend([
        ("SCRIPTS", scripts.as_str()),
        ("REQUIRES", requires),
        ("VERSION", &job.release.version),
        ("SUMMARY", &summary),
        ("DESCRIPTION", package.description),
        ("LICENCES", LICENCE),
        ("URL", env!("CARGO_PKG_REPOSITORY")),
        ("PACKAGER", MAINTAINER),
        ("CHANGES", &changes),
        ("LEVEL", &level),
        ("STAGE", &stage),
        ("FILES", &files),
    ]);
    fill(job.root, "rpm/package.spec", &values)
}
