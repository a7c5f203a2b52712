//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process now.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// The two signals, being listened for from `new` on.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns the name of the next signal. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }

    /// From now on one more signal ends the process at once, with exit code 1.
    pub fn exit_on_next(mut self) {
        tailway_runtime::spawn(async move {
            let name = self.next().await;
            tracing::warn!(signal = name, "second signal: exiting without a clean stop");
            exit_now();
        });
    }
}

#[allow(clippy::exit, reason = "the second signal means: now, without running anything else")]
fn exit_now() -> ! {
    std::process::exit(i32::from(Exit::Failure.code()))
}
