//! Histories from lines of text.

use std::io::BufRead;

use crate::checker::Checker;
use crate::event::{Event, Unfit};

/// Why a history cannot be read: which source, which line, what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error("{source_name}:{line}: {error}; was its writer killed, or is it no history?")]
    Line { source_name: String, line: u64, error: Unfit },
    #[error("{source_name}:{line}: {error}")]
    Io { source_name: String, line: u64, error: std::io::Error },
}

/// Feeds every line of a source to the checker. `source_name` is what violations call it.
pub fn read(
    checker: &mut Checker,
    source_name: &str,
    lines: impl BufRead,
) -> Result<(), Unreadable> {
    checker.source(source_name);
    for (line, text) in (1..).zip(lines.lines()) {
        let name = || source_name.to_owned();
        let text = text.map_err(|error| Unreadable::Io { source_name: name(), line, error })?;
        let event = Event::parse(&text).map_err(|error| Unreadable::Line {
            source_name: name(),
            line,
            error,
        })?;
        checker.event(&event);
    }
    Ok(())
}
