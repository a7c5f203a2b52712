//! What a dev run shows: on a terminal one status line that is rewritten, in a pipe plain lines, with `--quiet` nothing
//! but the result.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use tailway_metadata::time::Mono;

use crate::output::{bytes, count};

/// After this long without new records, and every time again, it is said why.
const SILENCE: Duration = Duration::from_secs(10);

/// How far the agent is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Lines read in this run.
    pub(crate) lines: u64,
    /// Their bytes in the files.
    pub(crate) bytes: u64,
    /// Bytes in the files that the broker has not acknowledged yet.
    pub(crate) lag: u64,
}

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Terminal,
    Plain,
    Quiet,
}

impl Mode {
    pub(crate) fn of(quiet: bool) -> Mode {
        if quiet {
            Mode::Quiet
        } else if io::stdout().is_terminal() {
            Mode::Terminal
        } else {
            Mode::Plain
        }
    }
}

/// What is to be shown now, decided from progress and time alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Show {
    Nothing,
    /// A line that stays.
    Line(String),
    /// The line that the next one replaces.
    Status(String),
}

/// Decides what to show.
#[derive(Debug)]
pub(crate) struct Reporter {
    mode: Mode,
    shown: Progress,
    last_records: Mono,
    last_said: Mono,
}

impl Reporter {
    pub(crate) fn new(mode: Mode, now: Mono) -> Reporter {
        Reporter { mode, shown: Progress::default(), last_records: now, last_said: now }
    }

    /// To be called about once a second. `why` is asked only when silence is to be explained.
    pub(crate) fn tick(
        &mut self,
        now: Mono,
        progress: Progress,
        why: impl FnOnce() -> String,
    ) -> Show {
        if progress.lines != self.shown.lines {
            self.last_records = now;
            self.last_said = now;
        }
        let changed = progress != self.shown;
        self.shown = progress;
        let silent = now.since(self.last_records);
        match self.mode {
            Mode::Terminal if silent >= SILENCE => {
                Show::Status(format!("{} ({})", explained(silent, &why()), status(progress)))
            }
            Mode::Terminal => Show::Status(status(progress)),
            Mode::Plain if now.since(self.last_said) >= SILENCE => {
                self.last_said = now;
                Show::Line(explained(silent, &why()))
            }
            Mode::Plain if changed => Show::Line(status(progress)),
            Mode::Plain | Mode::Quiet => Show::Nothing,
        }
    }
}

fn status(progress: Progress) -> String {
    format!(
        "{}, {}, lag {}",
        count(progress.lines, "line"),
        bytes(progress.bytes),
        bytes(progress.lag)
    )
}

fn explained(silent: Duration, why: &str) -> String {
    format!("no records for {} s: {why}", silent.as_secs())
}

/// Prints what is decided.
#[derive(Debug)]
pub(crate) struct Screen {
    mode: Mode,
    status: bool,
}

impl Screen {
    pub(crate) fn new(mode: Mode) -> Screen {
        Screen { mode, status: false }
    }

    /// A line about the run; not with `--quiet`.
    pub(crate) fn line(&mut self, line: &str) -> Result<()> {
        if self.mode == Mode::Quiet { Ok(()) } else { self.result(line) }
    }

    /// A line that is shown in any case.
    pub(crate) fn result(&mut self, line: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        if std::mem::take(&mut self.status) {
            write!(out, "\r\x1b[K")?;
        }
        writeln!(out, "{line}")?;
        out.flush()?;
        Ok(())
    }

    pub(crate) fn show(&mut self, show: Show) -> Result<()> {
        match show {
            Show::Nothing => Ok(()),
            Show::Line(line) => self.line(&line),
            Show::Status(status) => {
                self.status = true;
                let mut out = io::stdout().lock();
                // Cut to the width: a wrapped line could not be rewritten.
                let width = terminal_width().saturating_sub(1).max(20);
                let cut: String = status.chars().take(width).collect();
                write!(out, "\r\x1b[K{cut}")?;
                out.flush()?;
                Ok(())
            }
        }
    }
}

fn terminal_width() -> usize {
    rustix::termios::tcgetwinsize(io::stdout()).map_or(80, |size| match size.ws_col {
        0 => 80,
        columns => usize::from(columns),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lines: u64, lag: u64) -> Progress {
        Progress { lines, bytes: lines * 10, lag }
    }

    fn seconds(s: u64) -> Mono {
        Mono::from_millis(s * 1_000)
    }

    #[test]
    fn a_pipe_gets_a_line_per_change_and_one_every_ten_silent_seconds() {
        let mut reporter = Reporter::new(Mode::Plain, seconds(0));
        let mut lines = Vec::new();
        for (now, progress) in [(1, at(0, 0)), (2, at(5, 20)), (3, at(7, 0))] {
            lines.push(reporter.tick(seconds(now), progress, || unreachable!("not silent yet")));
        }
        for now in 4..=33 {
            lines
                .push(reporter.tick(seconds(now), at(7, 0), || "app.log is at its end".to_owned()));
        }
        let said: Vec<Show> = lines.into_iter().filter(|show| *show != Show::Nothing).collect();
        let expected = [
            "5 lines, 50 B, lag 20 B",
            "7 lines, 70 B, lag 0 B",
            "no records for 10 s: app.log is at its end",
            "no records for 20 s: app.log is at its end",
            "no records for 30 s: app.log is at its end",
        ];
        assert_eq!(said, expected.map(|line| Show::Line(line.to_owned())));
    }

    #[test]
    fn a_terminal_always_has_its_line_and_quiet_never() {
        let mut terminal = Reporter::new(Mode::Terminal, seconds(0));
        let why = || "nothing".to_owned();
        let shown = terminal.tick(seconds(1), at(1, 0), why);
        assert_eq!(shown, Show::Status("1 line, 10 B, lag 0 B".to_owned()));
        let Show::Status(text) = terminal.tick(seconds(12), at(1, 0), why) else { unreachable!() };
        assert_eq!(text, "no records for 11 s: nothing (1 line, 10 B, lag 0 B)");
        let mut quiet = Reporter::new(Mode::Quiet, seconds(0));
        assert_eq!(quiet.tick(seconds(50), at(1, 0), why), Show::Nothing);
    }
}
