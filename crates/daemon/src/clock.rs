//! The only place that reads a clock. Drivers get `Mono` and `WallMs` here and pass them to the pure machines.
//!
//! Monotonic time is tokio's, so that a test with paused time also pauses the machines; wall time can be set by hand.
//! Invariant: `mono()` never goes back, and all clones of a `Clock` agree on it.
#![allow(clippy::disallowed_methods, reason = "this is the clock the ban points to")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tailway_metadata::time::{Mono, WallMs};
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    wall: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    System,
    Manual(Arc<AtomicI64>),
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock whose monotonic time starts now and whose wall time is the system's.
    pub fn new() -> Clock {
        Clock { start: Instant::now(), wall: Wall::System }
    }

    /// For tests: wall time stands where `set_wall` puts it.
    pub fn manual(wall: WallMs) -> Clock {
        Clock { start: Instant::now(), wall: Wall::Manual(Arc::new(AtomicI64::new(wall.0))) }
    }

    /// Moves the wall clock of a `manual` clock and of all its clones. No effect on a system clock.
    pub fn set_wall(&self, wall: WallMs) {
        if let Wall::Manual(cell) = &self.wall {
            cell.store(wall.0, Ordering::Relaxed);
        }
    }

    pub fn mono(&self) -> Mono {
        self.mono_at(Instant::now())
    }

    pub fn wall(&self) -> WallMs {
        match &self.wall {
            Wall::Manual(cell) => WallMs(cell.load(Ordering::Relaxed)),
            Wall::System => {
                let now = SystemTime::now();
                WallMs(match now.duration_since(UNIX_EPOCH) {
                    Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
                    Err(before) => {
                        i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms)
                    }
                })
            }
        }
    }

    /// The `Mono` of a tokio instant.
    pub fn mono_at(&self, instant: Instant) -> Mono {
        Mono::ZERO + instant.saturating_duration_since(self.start)
    }

    /// The tokio instant of a `Mono`, for timers.
    pub fn instant(&self, at: Mono) -> Instant {
        // A century is as good as never, and cannot overflow.
        let span = at.since(Mono::ZERO).min(std::time::Duration::from_hours(100 * 365 * 24));
        self.start + span
    }

    /// Sleeps until a machine's deadline; for ever if it has none. Made for `select!` in drivers.
    pub async fn sleep_until(&self, deadline: Option<Mono>) {
        match deadline {
            Some(at) => tokio::time::sleep_until(self.instant(at)).await,
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn monotonic_time_follows_paused_time_and_deadlines_fire_on_it() {
        let clock = Clock::new();
        let before = clock.mono();
        clock.sleep_until(Some(before + Duration::from_secs(3))).await;
        let slept = clock.mono().since(before);
        assert!(
            slept >= Duration::from_secs(3) && slept < Duration::from_millis(3_010),
            "{slept:?}"
        );
        assert_eq!(
            clock.mono_at(clock.instant(Mono::from_millis(1_234))),
            Mono::from_millis(1_234)
        );
    }

    #[test]
    fn manual_wall_time_moves_only_by_hand() {
        let clock = Clock::manual(WallMs(5));
        let clone = clock.clone();
        clock.set_wall(WallMs(-7));
        assert_eq!(clone.wall(), WallMs(-7));
        assert!(Clock::new().wall().0 > 1_700_000_000_000);
    }
}
