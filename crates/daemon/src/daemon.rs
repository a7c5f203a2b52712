//! What a daemon is to whoever starts it: a name, a configuration, a start and a stop.
//!
//! `start` returns once the daemon serves (sockets bound, data opened), not once it is ready: readiness is told through
//! [`Context::ready`] and may come and go. `stop` ends every task it spawned, in reverse order, within the deadline.

use std::fmt;
use std::future::Future;
use std::path::Path;

use crate::clock::Clock;
use crate::config::Problems;
use crate::config::common::{AdminConfig, LoggingConfig};
use crate::exit::Exit;
use crate::metrics::Metrics;
use crate::metrics_listener::MetricsListener;
use crate::ready::{Ready, Status};
use crate::tasks::{Deadline, Stragglers, Tasks};

/// One of the three programs, as `run_daemon` and `tailway dev` see it.
pub trait Daemon: Sized + Send + 'static {
    /// The program's name, as typed: `tailway-broker`.
    const NAME: &'static str;
    /// One line for `--help`.
    const ABOUT: &'static str;
    /// Where its package puts the configuration: the default of `--config`, and the path in `--help`'s example.
    const CONFIG_PATH: &'static str;

    type Config: Send + 'static;

    /// Reads and checks a file completely; all problems come back at once.
    fn load_config(path: &Path) -> Result<Self::Config, Problems>;

    fn logging(config: &Self::Config) -> &LoggingConfig;

    fn admin(config: &Self::Config) -> &AdminConfig;

    /// Where metrics are served to other hosts, if they are.
    fn metrics_listener(_config: &Self::Config) -> Option<MetricsListener> {
        None
    }

    /// Threads of its runtime when it is a process of its own.
    fn runtime(_config: &Self::Config) -> Runtime {
        Runtime::CurrentThread
    }

    fn start(
        config: Self::Config,
        context: Context,
    ) -> impl Future<Output = Result<Self, StartError>> + Send;

    /// Ends everything `start` began. Most daemons have nothing to add to `tasks.stop(deadline)`.
    fn stop(self, deadline: Deadline) -> impl Future<Output = Result<(), Stragglers>> + Send;
}

/// How many threads drive a daemon's tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    /// The main thread alone: least memory, for agent and coordinator.
    CurrentThread,
    /// That many workers.
    Workers(usize),
}

/// What a daemon gets from whoever starts it. Clones share everything.
#[derive(Clone, Debug)]
pub struct Context {
    pub clock: Clock,
    /// Served at `/metrics`.
    pub metrics: Metrics,
    /// Every task is spawned here; `Daemon::stop` stops them.
    pub tasks: Tasks,
    /// Served at `/readyz`.
    pub ready: Ready,
    /// Served at `/status`.
    pub status: Status,
}

impl Default for Context {
    fn default() -> Context {
        Context::new(Clock::new())
    }
}

impl Context {
    pub fn new(clock: Clock) -> Context {
        Context {
            clock,
            metrics: Metrics::new(),
            tasks: Tasks::new(),
            ready: Ready::new(),
            status: Status::new(),
        }
    }
}

/// Why a daemon did not start: what, why, and what to do next.
#[derive(Debug)]
pub struct StartError {
    what: String,
    cause: Option<String>,
    next: Option<String>,
    exit: Exit,
}

impl StartError {
    /// `what` could not be done, with its place in it: `cannot listen on 127.0.0.1:9092`.
    pub fn new(what: impl Into<String>) -> StartError {
        StartError { what: what.into(), cause: None, next: None, exit: Exit::Failure }
    }

    /// The error underneath, with its own sources.
    #[must_use]
    pub fn cause(self, cause: impl std::error::Error) -> StartError {
        self.because(chain(&cause))
    }

    /// The cause in words.
    #[must_use]
    pub fn because(mut self, cause: impl Into<String>) -> StartError {
        self.cause = Some(cause.into());
        self
    }

    /// What to do about it: a command or a change.
    #[must_use]
    pub fn next(mut self, next: impl Into<String>) -> StartError {
        self.next = Some(next.into());
        self
    }

    /// Restarting cannot help: exit 78 (wrong data directory, wrong identity).
    #[must_use]
    pub fn config(mut self) -> StartError {
        self.exit = Exit::Config;
        self
    }

    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

impl std::error::Error for StartError {}

/// An error and its sources on one line, without repeating a source that the error already quotes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_error_says_what_why_and_what_next() {
        let io = std::io::Error::other("disk on fire");
        let error = StartError::new("cannot open /data").cause(io).next("look at dmesg");
        assert_eq!(error.to_string(), "cannot open /data: disk on fire\n  next: look at dmesg");
        assert_eq!(error.exit(), Exit::Failure);
        assert_eq!(StartError::new("x").config().exit().code(), 78);
    }
}
