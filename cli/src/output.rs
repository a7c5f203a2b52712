//! Printing: results to stdout (a closed pipe ends the command quietly), everything else to stderr.
//!
//! Every command that prints a result does so through [`Output`]: what it says is a structure, from which the text for people is
//! drawn, and which programs get as JSON or YAML. Names of fields are published (docs/cli.md): fields only get added. There is no
//! colour in any of it.

use std::io::{self, Write};

use anyhow::{Result, anyhow};
use serde::Serialize;
use tailway_metadata::time::WallMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Text for people
    Table,
    Json,
    Yaml,
}

/// One row of a table, and one object of a list.
pub(crate) trait Row: Serialize {
    const HEADING: &'static [&'static str];

    fn cells(&self) -> Vec<String>;
}

impl Output {
    /// A list, as a table with a heading.
    pub(crate) fn rows<R: Row>(self, rows: &[R]) -> Result<()> {
        self.whole(rows, table_of)
    }

    /// One result, with the lines that people see of it.
    pub(crate) fn whole<T: Serialize + ?Sized>(
        self,
        result: &T,
        lines: impl FnOnce(&T) -> Vec<String>,
    ) -> Result<()> {
        match self {
            Output::Table => lines(result).iter().try_for_each(|line| say(line)),
            Output::Json => say(&serde_json::to_string_pretty(result)?),
            Output::Yaml => say(yaml(result)?.trim_end()),
        }
    }

    /// One result, in one line for people.
    pub(crate) fn line<T: Serialize>(self, result: &T, line: impl Into<String>) -> Result<()> {
        self.whole(result, |_| vec![line.into()])
    }

    pub(crate) fn is_table(self) -> bool {
        self == Output::Table
    }
}

/// `value` as YAML.
pub(crate) fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    tailway_daemon::config::to_yaml(&value)
        .map_err(|error| anyhow!("it cannot be written as YAML: {error}"))
}

/// Rows under their heading.
pub(crate) fn table_of<R: Row>(rows: &[R]) -> Vec<String> {
    let heading = R::HEADING.iter().map(|&word| word.to_owned()).collect();
    let cells = rows.iter().map(Row::cells);
    table(&std::iter::once(heading).chain(cells).collect::<Vec<_>>())
}

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

/// Fails unless docs/cli.md has the fields of what `command` prints, and no others.
#[cfg(test)]
#[track_caller]
pub(crate) fn documented<T: Serialize>(command: &str, printed: &T) {
    use std::collections::BTreeSet;

    use serde_json::Value;

    fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (name, value) in object {
                    let dot = if path.is_empty() { "" } else { "." };
                    fields(value, &format!("{path}{dot}{name}"), found);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items {
                    fields(item, &format!("{path}[]"), found);
                }
            }
            _ => drop(found.insert(path.to_owned())),
        }
    }
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let text = std::fs::read_to_string(docs).unwrap_or_default();
    let begin = format!("| `{command}` | ");
    let row = text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or_default();
    let written = row.split('|').next().unwrap_or_default();
    let written: BTreeSet<String> =
        written.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let mut found = BTreeSet::new();
    fields(&serde_json::to_value(printed).unwrap_or_default(), "", &mut found);
    assert_eq!(written, found, "docs/cli.md (left) and what `tailway {command} -o json` prints");
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

    #[derive(Serialize)]
    struct Named {
        name: &'static str,
        lag: Option<u64>,
    }

    impl Row for Named {
        const HEADING: &'static [&'static str] = &["NAME", "LAG"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.lag.map_or_else(String::new, |n| n.to_string())]
        }
    }

    #[test]
    fn a_table_and_yaml_are_of_the_same_rows() {
        let rows = [Named { name: "a", lag: Some(10) }, Named { name: "no", lag: None }];
        assert_eq!(table_of(&rows), ["NAME  LAG", "a     10", "no"]);
        assert_eq!(table_of::<Named>(&[]), ["NAME  LAG"], "who reads it knows that it was asked");
        assert_eq!(yaml(&rows).unwrap(), "- name: a\n  lag: 10\n- name: no\n  lag: null\n");
        let none: [Named; 0] = [];
        assert_eq!(yaml(&none).unwrap().trim_end(), "[]");
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
