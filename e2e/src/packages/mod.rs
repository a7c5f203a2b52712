//! `cargo x packages`: what users install, installed by the real dpkg, rpm and shell into roots of their own. Needs root.
//!
//! The packages are made once per run from the release build, as two versions of the same programs; `made` has them, `system`
//! is a Debian that they are installed into. Judges are dpkg, rpm, lintian, rpmlint, shellcheck, readelf and sha256sum.

mod archive;
mod deb;
mod files;
pub(crate) mod made;
mod rpm;
mod system;

use anyhow::Result;

use crate::group::{self, Check};

/// Everything about packages.
pub fn run(words: &[String]) -> Result<()> {
    let checks: Vec<Check> = [files::CHECKS, deb::CHECKS, rpm::CHECKS, archive::CHECKS].concat();
    group::run(&checks, words)
}

/// The daemons, as in `tailway-NAME`.
const DAEMONS: &[&str] = &["agent", "broker", "coordinator"];
