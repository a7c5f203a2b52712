//! SIGTERM, SIGINT and SIGHUP (its terminal closed): the first asks for a clean stop, the second ends the process now.
//!
//! SIGHUP is left alone where the process was started with it ignored, which is what `nohup` does.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit::Exit;

/// The signals, being listened for from `new` on.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
    /// `None` if it is ignored.
    hangup: Option<Signal>,
}

impl Signals {
    pub fn new() -> io::Result<Signals> {
        // To listen would end the ignoring.
        let ignored = hangup_is_ignored(&std::fs::read_to_string("/proc/self/status")?);
        let hangup = if ignored { None } else { Some(signal(SignalKind::hangup())?) };
        Ok(Signals {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hangup,
        })
    }

    /// Returns the name of the next signal. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
            () = received(&mut self.hangup) => "SIGHUP",
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

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// From proc(5) `status`: `SigIgn` is a mask in hexadecimal, whose lowest bit is SIGHUP (signal 1).
fn hangup_is_ignored(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & 1 == 1))
}

#[allow(clippy::exit, reason = "the second signal means: now, without running anything else")]
fn exit_now() -> ! {
    std::process::exit(i32::from(Exit::Failure.code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_hangup_is_seen() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\n");
        let cases =
            [("0000000000000001", true), ("0000000000001001", true), ("0000000000001000", false)];
        for (mask, ignored) in cases {
            assert_eq!(hangup_is_ignored(&status(mask)), ignored, "{mask}");
        }
        assert!(!hangup_is_ignored("Name:\tx\n"));
    }
}
