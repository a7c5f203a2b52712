//! Structured logs on stderr: text for people or JSON for machines, filtered by level and module.
//!
//! Filters are `tracing_subscriber`'s `Targets` (`info,tailway_broker=debug`): no regular expressions, so little memory.
//! Invariant: `init` takes effect once per process; later calls are refused, not ignored.

use std::str::FromStr;

use tracing_subscriber::filter::Targets;
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
    Targets::from_str(text).map_err(|_| wrong())
}

/// Sets up logging on stderr for the whole process.
pub fn init(config: &LoggingConfig) -> Result<(), InitError> {
    let targets = parse_level(&config.level)?;
    let layer = match config.format {
        LogFormat::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            fmt::layer().with_ansi(ansi).with_writer(std::io::stderr).boxed()
        }
        LogFormat::Json => {
            fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed()
        }
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(targets))
        .try_init()
        .map_err(|_| AlreadySet)?;
    Ok(())
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
        for bad in ["", "loud", "info,", "tailway_broker", "tailway_broker=loud"] {
            assert!(parse_level(bad).is_err(), "{bad}");
        }
    }
}
