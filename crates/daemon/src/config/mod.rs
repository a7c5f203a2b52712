//! From a YAML file to a checked configuration, with all problems at once.
//!
//! [`load`] turns the file into the program's raw structure (serde, `deny_unknown_fields`, defaults for everything that
//! can have one) and keeps the positions; the program then checks values against each other and adds what it finds by
//! path: `problems.at("listeners[0].port", "...")`. Each problem prints as `file:line:column: path: problem`.
//!
//! Invariant: a file with any problem gives no configuration (`Problems::finish`), but the raw structure is built from
//! the rest wherever possible, so that a typo does not hide the other mistakes.

pub mod common;
pub mod defaults;
mod path;
mod problems;
pub mod secret;
pub mod show;
mod suggest;
mod walk;
mod yaml;

use std::path::Path;

use serde::de::DeserializeOwned;

pub use problems::{Problem, Problems};
pub use yaml::to_yaml;

/// Reads a file into `R`. `Ok` carries the problems found so far (unknown keys, wrong types: those values are at their
/// defaults in `R`); the caller adds its own and ends with `problems.finish(config)`. `Err` if no `R` can be built.
pub fn load<R: DeserializeOwned>(path: &Path) -> Result<(R, Problems), Problems> {
    match std::fs::read_to_string(path) {
        Ok(text) => load_text(path, &text),
        Err(error) => Err(Problems::of_file(path, format!("cannot read it: {error}"))),
    }
}

/// [`load`] for text that is already here; `path` is only for the messages.
pub fn load_text<R: DeserializeOwned>(path: &Path, text: &str) -> Result<(R, Problems), Problems> {
    let document = match yaml::parse(text) {
        Ok(document) => document,
        Err(error) => return Err(Problems::of_syntax(path, error)),
    };
    let mut problems = Problems::new(path, document);
    match walk::deserialize(&mut problems) {
        Some(raw) => Ok((raw, problems)),
        None => Err(problems),
    }
}

/// That anybody on this host may change the file, and the command that mends it. No reason to refuse it: in containers the
/// modes of mounted files are often not the operator's to choose.
pub fn writable_by_all(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o002 != 0).then(|| {
        format!("anybody on this host may change {path} (mode {mode:04o}), and with it what this program does; run: chmod o-w {path}")
    })
}

/// The names of the top-level keys of a file, for telling which program it belongs to.
pub fn top_level_keys(path: &Path) -> Result<Vec<String>, Problems> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Problems::of_file(path, format!("cannot read it: {error}")))?;
    let document = yaml::parse(&text).map_err(|error| Problems::of_syntax(path, error))?;
    Ok(document.root.keys().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
