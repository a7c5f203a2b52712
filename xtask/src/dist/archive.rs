//! One archive of all four programs, which are static and run on any Linux of their machine, with an installer that needs neither network nor package manager.

use std::process::Command;

use anyhow::Result;

use super::components::All;
use super::package::{PACKAGES, UNAME_ARCH};
use super::stage::{self, Layout, Tree};
use super::{Job, call, fill};

const LAYOUT: Layout = Layout { prefix: "", zsh: "share/zsh/site-functions" };

pub(super) fn build(job: &Job<'_>, all: &All) -> Result<()> {
    let name = format!("tailway-{}-linux-{UNAME_ARCH}", job.release.version);
    let parent = job.work.join("archive");
    let tree = Tree::new(parent.join(&name))?;
    for package in PACKAGES {
        stage::fill(job, package, &all.of(job.root, package.name)?, &tree, &LAYOUT)?;
    }
    tree.copy(&job.root.join("LICENSE"), "share/doc/tailway/LICENSE", 0o644)?;
    let installer = fill(job.root, "tar/install.sh", &[("ARCH", UNAME_ARCH)])?;
    tree.write("install.sh", installer.as_bytes(), 0o755)?;
    let sums =
        "find * -type f | LC_ALL=C sort | xargs sha256sum > ../SHA256SUMS && mv ../SHA256SUMS .
        chmod 0644 SHA256SUMS";
    call(Command::new("sh").args(["-ec", sums]).current_dir(&tree.top))?;
    let pack = format!(
        "tar --sort=name --format=ustar --mtime=@{} --owner=0 --group=0 --numeric-owner -c {name} | gzip -n -{}",
        job.release.epoch, job.level
    );
    let file = job.out.join(format!("{name}.tar.gz"));
    call(
        Command::new("bash")
            .args(["-ec", &format!("set -o pipefail; {pack} > \"$1\""), "pack"])
            .arg(file)
            .current_dir(parent),
    )
}
