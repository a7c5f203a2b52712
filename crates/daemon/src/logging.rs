//! Structured logs on stderr: text for people or JSON for machines, filtered by level and module.
//!
//! Filters are `tracing_subscriber`'s `Targets` (`info,tailway_broker=debug`): no regular expressions, so little memory.
//! Invariant: `init` takes effect once per process; later calls are refused, not ignored.

use std::fs::File;
use std::io::{IsTerminal, StderrLock, Write};
use std::str::FromStr;
use std::sync::Mutex;

pub use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::common::{LogFormat, LoggingConfig};

/// A filter that does not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a level; write error, warn, info, debug or trace, or levels by module such as info,tailway_broker=debug"
)]
pub struct LevelError(String);

/// Logging was set up before in this process.
#[derive(Debug, thiserror::Error)]
#[error("logging was set up twice in this process")]
pub struct AlreadySet;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Parses `info` or `info,tailway_broker=debug`.
pub fn parse_level(text: &str) -> Result<Targets, LevelError> {
    let wrong = || LevelError(text.to_owned());
    // `Targets` takes a lone unknown word for a module name at level trace; that is never what was meant.
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or_default().trim().to_lowercase();
        if !LEVELS.contains(&level.as_str()) {
            return Err(wrong());
        }
    }
    let targets = Targets::from_str(text).map_err(|_| wrong())?;
    Ok(if text.contains(TALKATIVE) { targets } else { without_chatter(targets) })
}

/// A dependency that tells each of its steps at info, in its own terms; who wants that names it.
const TALKATIVE: &str = "openraft";

fn without_chatter(targets: Targets) -> Targets {
    let level = targets.default_level().unwrap_or(LevelFilter::OFF).min(LevelFilter::WARN);
    targets.with_target(TALKATIVE, level)
}

/// Sets up logging on stderr for the whole process.
pub fn init(config: &LoggingConfig) -> Result<(), InitError> {
    let targets = parse_level(&config.level)?;
    let layer = match config.format {
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal() && may_colour();
            fmt::layer().with_ansi(ansi).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => {
            fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
    subscriber.try_init().map_err(|_| AlreadySet)?;
    Ok(())
}

/// For a program with a screen of its own: everything from info on goes to `file`, and what is at least `on_stderr` to
/// stderr as well, where on a terminal it replaces the status line that stands there.
pub fn init_with_file(file: File, on_stderr: Level) -> Result<(), InitError> {
    let to_file = fmt::layer()
        .with_ansi(false)
        .with_writer(Mutex::new(file))
        .with_filter(without_chatter(Targets::new().with_default(LevelFilter::INFO)));
    let terminal = std::io::stderr().is_terminal();
    let to_stderr = fmt::layer()
        .with_ansi(terminal && may_colour())
        .with_target(false)
        .with_writer(move || over_status_line(terminal))
        .with_filter(LevelFilter::from_level(on_stderr));
    let subscriber = tracing_subscriber::registry().with(to_file).with(to_stderr);
    subscriber.try_init().map_err(|_| AlreadySet)?;
    Ok(())
}

/// <https://no-color.org>: who sets it, to anything, wants no colours.
fn may_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

fn over_status_line(terminal: bool) -> StderrLock<'static> {
    let mut stderr = std::io::stderr().lock();
    if terminal {
        // If this fails, so does the line that follows, and there is nobody to tell.
        let _cleared = stderr.write_all(b"\r\x1b[K");
    }
    stderr
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Level(#[from] LevelError),
    #[error(transparent)]
    AlreadySet(#[from] AlreadySet),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels() {
        for good in
            ["info", "WARN", "off", "info,tailway_broker=debug", "warn, tailway_net::tls=trace"]
        {
            assert!(parse_level(good).is_ok(), "{good}");
        }
        let openraft =
            |text: &str, level| parse_level(text).unwrap().would_enable("openraft::core", &level);
        assert!(!openraft("info", Level::INFO) && openraft("info", Level::WARN));
        assert!(!openraft("error", Level::WARN));
        assert!(openraft("info,openraft=debug", Level::DEBUG));
        for bad in ["", "loud", "info,", "tailway_broker", "tailway_broker=loud"] {
            assert!(parse_level(bad).is_err(), "{bad}");
        }
    }
}
