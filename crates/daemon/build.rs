//! Gives the crate `TAILWAY_VERSION`: the package version and the commit it was built from.
//!
//! The commit comes from TAILWAY_COMMIT (for builds from a tarball), else from git, else it is "unknown". Release builds
//! look again after every commit; debug builds only when the branch changes, so that a commit does not rebuild the world.

use std::env;
use std::path::Path;
use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=TAILWAY_COMMIT");
    let git_dir = git(&["rev-parse", "--absolute-git-dir"]);
    if let Some(dir) = &git_dir {
        let dir = Path::new(dir);
        let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
        let watched = if release { dir.join("logs/HEAD") } else { dir.join("HEAD") };
        if watched.exists() {
            println!("cargo:rerun-if-changed={}", watched.display());
        }
    }
    let commit = env::var("TAILWAY_COMMIT")
        .ok()
        .filter(|commit| !commit.is_empty())
        .or_else(|| git_dir.and_then(|_| git(&["rev-parse", "--short=12", "HEAD"])))
        .unwrap_or_else(|| "unknown".to_owned());
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    println!("cargo:rustc-env=TAILWAY_VERSION={version} (commit {commit})");
}
