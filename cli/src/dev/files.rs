//! Writing the small files of a dev directory: whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Writes `PATH.tmp` with `mode` and renames it into place.
pub(crate) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let written = || -> std::io::Result<()> {
        // A leftover keeps its old mode, so it goes first.
        match fs::remove_file(&tmp) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&tmp)?;
        file.write_all(content)?;
        fs::rename(&tmp, path)
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}
