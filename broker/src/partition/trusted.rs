//! The time that data is deleted by, one for all partitions: see `machine::retention::TrustedWall`.

use std::sync::{Mutex, PoisonError};

use tailway_daemon::clock::Clock;

use crate::machine::retention::{ClockNotice, Trusted, TrustedWall};

/// A wall clock that is believed as far as the monotonic one agrees.
pub(super) struct TrustedClock {
    clock: Clock,
    wall: Mutex<TrustedWall>,
}

impl TrustedClock {
    pub(super) fn new(clock: Clock) -> Self {
        let wall = Mutex::new(TrustedWall::new(clock.mono(), clock.wall()));
        Self { clock, wall }
    }

    /// Looks at the clocks; says what is new about them in the log.
    pub(super) fn now(&self) -> Trusted {
        let mut wall = self.wall.lock().unwrap_or_else(PoisonError::into_inner);
        let (trusted, notice) = wall.look(self.clock.mono(), self.clock.wall());
        drop(wall);
        if tailway_faults::is_planted("broker.jumped_clock_believed") {
            return Trusted { now: self.clock.wall(), settled: true };
        }
        match notice {
            None => {}
            Some(ClockNotice::Jumped { by_ms }) => {
                let by_seconds = by_ms / 1_000;
                tracing::warn!(
                    by_seconds,
                    "the wall clock jumped: retention and the expiration of producers go by the time before plus what has passed, until it has stood by its new time for an hour; check NTP (chronyc tracking, timedatectl)"
                );
            }
            Some(ClockNotice::CameBack) => {
                tracing::info!("the wall clock is back where it was expected");
            }
            Some(ClockNotice::Accepted { by_ms }) => {
                let by_seconds = by_ms / 1_000;
                tracing::warn!(
                    by_seconds,
                    "the wall clock has stood by its new time for an hour: retention and the expiration of producers go by it from now on"
                );
            }
        }
        trusted
    }
}
