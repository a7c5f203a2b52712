//! The licences of everything that a program is linked from, with the texts that the crates' own sources carry.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::components::Component;
use super::package::{Libc, Package};
use super::{Job, output};

/// How licence files are called.
const NAMES: &[&str] = &["licen", "copying", "copyright", "notice", "unlicense"];
/// A larger one is a mistake in choosing files.
const TEXT_BYTES_MAX: u64 = 256 << 10;

pub(super) fn text(job: &Job<'_>, package: &Package, components: &[Component]) -> Result<String> {
    let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
    let mut texts: Vec<String> = Vec::new();
    let mut list = String::new();
    for component in components.iter().filter(|component| component.checksum.is_some()) {
        let mut own = Vec::new();
        find(&component.sources, 0, &mut own)?;
        own.sort();
        let mut references = String::new();
        for text in own {
            let next = numbers.len() + 1;
            let number = *numbers.entry(text.clone()).or_insert_with(|| {
                texts.push(text);
                next
            });
            write!(references, " [{number}]")?;
        }
        if references.is_empty() {
            references.push_str(" no text in its sources; those of the same name here hold");
        }
        let (name, version) = &component.id;
        writeln!(list, "{name} {version}: {};{references}", component.licence)?;
    }
    ensure!(!texts.is_empty(), "no licence text was found for any crate of {}", package.name);
    let rust = output(std::process::Command::new("rustc").arg("--version"))?;
    let libc = match job.libc {
        Libc::Glibc => "start files of glibc (LGPL-2.1-or-later with an\nexception for linking)",
        Libc::Musl => {
            "musl (MIT; Copyright 2005-2020 Rich Felker,\net al.; its text is that of MIT below)"
        }
    };
    let mut all = format!(
        "{} {} is licensed under Apache-2.0. Linked into it are Rust's standard library\n({}; MIT OR Apache-2.0), LLVM's \
         libunwind and compiler-rt builtins\n(Apache-2.0 WITH LLVM-exception), {libc}, and these crates; the numbers are those of the texts below.\n\n{list}",
        package.name,
        job.release.version,
        rust.trim()
    );
    for (index, text) in texts.iter().enumerate() {
        write!(all, "\n\n---- [{}] {}\n\n{}\n", index + 1, "-".repeat(70), text.trim_end())?;
    }
    Ok(all)
}

/// Licence files of a crate and, one folder below, of the C sources that it brings.
fn find(dir: &Path, depth: usize, texts: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().to_lowercase();
        let kind = entry.metadata()?;
        if kind.is_dir() && depth < 1 && name != "tests" && name != "src" {
            find(&entry.path(), depth + 1, texts)?;
        }
        let named = NAMES.iter().any(|prefix| name.starts_with(prefix));
        if kind.is_file() && named && kind.len() <= TEXT_BYTES_MAX {
            let text = String::from_utf8_lossy(&fs::read(entry.path())?).replace('\r', "");
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
    }
    Ok(())
}
