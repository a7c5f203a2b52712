//! That a program asks nothing of a host but an old glibc, or nothing at all, read by binutils from the file itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use super::output;
use super::package::{GLIBC, Libc};

/// The parts of glibc.
const LIBRARIES: &[&str] = &[
    "libc.so.6",
    "libm.so.6",
    "libpthread.so.0",
    "libdl.so.2",
    "librt.so.1",
    "ld-linux-x86-64.so.2",
];

/// Fails naming every symbol of a newer glibc than `GLIBC`, and every library that is not glibc's.
pub(super) fn check(program: &Path) -> Result<()> {
    let symbols = output(Command::new("readelf").args(["--wide", "--dyn-syms"]).arg(program))?;
    let newer = newer(&symbols, GLIBC);
    ensure!(
        newer.is_empty(),
        "{} does not run with glibc {}.{}: it needs {}\n  it was linked against this host's glibc; packages are linked by \
         `cargo x dist` itself, through zig",
        program.display(),
        GLIBC.0,
        GLIBC.1,
        Vec::from_iter(newer).join(", ")
    );
    let dynamic = output(Command::new("readelf").args(["--wide", "--dynamic"]).arg(program))?;
    let foreign: Vec<&str> =
        needed(&dynamic).filter(|library| !LIBRARIES.contains(library)).collect();
    ensure!(foreign.is_empty(), "{} needs {}", program.display(), foreign.join(", "));
    Ok(())
}

/// Fails where a program asks for anything of its host: an interpreter or a library.
pub(super) fn check_static(program: &Path) -> Result<()> {
    let headers =
        output(Command::new("readelf").args(["--wide", "--program-headers"]).arg(program))?;
    ensure!(
        headers.contains("Elf file type is DYN"),
        "{} is linked for a fixed address, not as static-pie:\n{headers}",
        program.display()
    );
    let interpreter = headers.lines().find(|line| line.contains("interpreter:"));
    let dynamic = output(Command::new("readelf").args(["--wide", "--dynamic"]).arg(program))?;
    let libraries: Vec<&str> = needed(&dynamic).collect();
    ensure!(
        interpreter.is_none() && libraries.is_empty(),
        "{} is not static: it needs {} {}\n  the archive's programs are those of {}",
        program.display(),
        libraries.join(", "),
        interpreter.unwrap_or_default().trim(),
        Libc::Musl.target()
    );
    Ok(())
}

/// `name@GLIBC_x.y` of symbols newer than `limit`, from `readelf --dyn-syms`.
fn newer(symbols: &str, limit: (u32, u32)) -> BTreeSet<&str> {
    symbols
        .split_whitespace()
        .filter(|word| {
            let Some((_, version)) = word.split_once("@GLIBC_") else { return false };
            let mut parts = version.split('.').map(str::parse::<u32>);
            match (parts.next(), parts.next()) {
                (Some(Ok(major)), Some(Ok(minor))) => (major, minor) > limit,
                // GLIBC_PRIVATE, GLIBC_ABI_DT_RELR and what else has no number: of no known age.
                _ => true,
            }
        })
        .collect()
}

fn needed(dynamic: &str) -> impl Iterator<Item = &str> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(library, _)| library)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_symbols_are_named() {
        let symbols = "   1: 0 0 FUNC GLOBAL DEFAULT UND fstat64@GLIBC_2.33 (3)\n   2: 0 0 FUNC GLOBAL DEFAULT UND \
                       read@GLIBC_2.2.5 (2)\n 3: 0 0 FUNC GLOBAL DEFAULT UND fcntl64@GLIBC_2.28 (4)\n 4: x@GLIBC_PRIVATE";
        let found = Vec::from_iter(newer(symbols, (2, 28)));
        assert_eq!(found, ["fstat64@GLIBC_2.33", "x@GLIBC_PRIVATE"]);
    }

    #[test]
    fn needed_libraries_are_read() {
        let dynamic =
            " 0x1 (NEEDED)  Shared library: [libc.so.6]\n 0xe (SONAME) Library soname: [x]\n";
        assert!(needed(dynamic).eq(["libc.so.6"]));
    }
}
