//! Printing: results to stdout (a closed pipe ends the command quietly), everything else to stderr.

use std::io::{self, Write};

use anyhow::Result;
use tailway_metadata::time::WallMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// One line of result.
pub(crate) fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()?;
    Ok(())
}

/// One line about what happens, for people.
pub(crate) fn complain(line: &str) {
    // Without a stderr there is nobody to tell.
    drop(writeln!(io::stderr().lock(), "{line}"));
}

/// `| head` ended: what was asked for was delivered.
pub(crate) fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

/// Rows as columns that line up; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .collect()
}

/// A word as a shell takes it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// `1 line`, `2 lines`.
pub(crate) fn count(n: u64, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Bytes for people: `812 B`, `1.4 MB`.
pub(crate) fn bytes(n: u64) -> String {
    let (mut whole, mut tenths) = (n, 0);
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if whole < 1_000 || unit == "TB" {
            return if unit == "B" || whole >= 100 {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenths} {unit}")
            };
        }
        tenths = whole % 1_000 / 100;
        whole /= 1_000;
    }
    format!("{n} B")
}

/// The time from `now` to `end` for people: its largest unit.
pub(crate) fn span(now: WallMs, end: WallMs) -> String {
    let seconds = end.0.saturating_sub(now.0) / 1_000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A moment as `2026-11-03T10:00:00Z`, to the second.
pub(crate) fn moment(at: WallMs) -> String {
    let at = OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000)).ok();
    at.and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_else(|| "outside the calendar".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for (word, expected) in [
            ("a/b-c.pem", "a/b-c.pem"),
            ("my file", "'my file'"),
            ("it's", "'it'\\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
        ] {
            assert_eq!(quoted(word), expected);
            let echoed = std::process::Command::new("sh")
                .arg("-c")
                .arg(format!("printf %s {expected}"))
                .output();
            assert_eq!(String::from_utf8(echoed.unwrap().stdout).unwrap(), word);
        }
    }

    #[test]
    fn numbers_for_people() {
        for (n, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_499, "1.4 kB"),
            (812_000, "812 kB"),
            (2_000_000_000, "2.0 GB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            (count(1, "line"), count(0, "line")),
            ("1 line".to_owned(), "0 lines".to_owned())
        );
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        assert_eq!(table(&[row(["TOPIC", "N"]), row(["a", "10"])]), ["TOPIC  N", "a      10"]);
    }

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        for (ms, text) in [
            (0, "0 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
            (365 * 86_400_000, "365 days"),
        ] {
            assert_eq!(span(WallMs(5), WallMs(5 + ms)), text);
        }
    }
}
