//! The only place that reads a clock. Drivers get `Mono` and `WallMs` here and pass them to the pure machines.
//!
//! Monotonic time is tokio's, so that a test with paused time also pauses the machines; wall time can be set by hand.
//! Invariant: `mono()` never goes back, and all clones of a `Clock` agree on it.
#![allow(clippy::disallowed_methods, reason = "this is the clock the ban points to")]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tailway_metadata::time::{Mono, WallMs};
use tokio::time::Instant;

#[derive(Clone, Debug)]
pub struct Clock {
    start: Instant,
    /// How much faster than true time this clock runs, in parts per million.
    drift_ppm: i32,
    wall: Wall,
}

#[derive(Clone, Debug)]
enum Wall {
    System,
    Manual(Arc<AtomicI64>),
    /// What to add to monotonic time, in milliseconds.
    Simulated(Arc<AtomicI64>),
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

impl Clock {
    /// A clock whose monotonic time starts now and whose wall time is the system's.
    pub fn new() -> Clock {
        Clock { start: Instant::now(), drift_ppm: 0, wall: Wall::System }
    }

    /// For tests: wall time stands where `set_wall` puts it.
    pub fn manual(wall: WallMs) -> Clock {
        let wall = Wall::Manual(Arc::new(AtomicI64::new(wall.0)));
        Clock { start: Instant::now(), drift_ppm: 0, wall }
    }

    /// For simulations: wall time starts at `wall`, and both times run `drift_ppm` parts per million too fast.
    pub fn simulated(wall: WallMs, drift_ppm: i32) -> Clock {
        let wall = Wall::Simulated(Arc::new(AtomicI64::new(wall.0)));
        Clock { start: Instant::now(), drift_ppm, wall }
    }

    /// Moves the wall clock of a `manual` or `simulated` clock and of all its clones. No effect on a system clock.
    pub fn set_wall(&self, wall: WallMs) {
        match &self.wall {
            Wall::System => {}
            Wall::Manual(cell) => cell.store(wall.0, Ordering::Relaxed),
            Wall::Simulated(offset) => {
                offset.store(wall.0.saturating_sub(self.mono_ms()), Ordering::Relaxed);
            }
        }
    }

    pub fn mono(&self) -> Mono {
        self.mono_at(Instant::now())
    }

    pub fn wall(&self) -> WallMs {
        match &self.wall {
            Wall::Manual(cell) => WallMs(cell.load(Ordering::Relaxed)),
            Wall::Simulated(offset) => {
                WallMs(offset.load(Ordering::Relaxed).saturating_add(self.mono_ms()))
            }
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
        Mono::ZERO + scaled(instant.saturating_duration_since(self.start), self.drift_ppm)
    }

    /// The tokio instant of a `Mono`, for timers.
    pub fn instant(&self, at: Mono) -> Instant {
        // A century is as good as never, and cannot overflow.
        let span = at.since(Mono::ZERO).min(Duration::from_hours(100 * 365 * 24));
        let mut instant = self.start + scaled(span, -self.drift_ppm);
        // Rounding may not wake a machine before its deadline: it would be asked again and again.
        while self.drift_ppm != 0
            && self.mono_at(instant) < at
            && span < Duration::from_hours(24 * 365)
        {
            instant += Duration::from_millis(1);
        }
        instant
    }

    fn mono_ms(&self) -> i64 {
        i64::try_from(self.mono().as_millis()).unwrap_or(i64::MAX)
    }

    /// Sleeps until a machine's deadline; for ever if it has none. Made for `select!` in drivers.
    pub async fn sleep_until(&self, deadline: Option<Mono>) {
        match deadline {
            Some(at) => tokio::time::sleep_until(self.instant(at)).await,
            None => std::future::pending().await,
        }
    }
}

/// `span` as a clock sees it that runs too fast (or, if negative, too slow).
fn scaled(span: Duration, drift_ppm: i32) -> Duration {
    if drift_ppm == 0 {
        return span;
    }
    let drift = span / 1_000_000 * drift_ppm.unsigned_abs();
    if drift_ppm > 0 { span + drift } else { span.saturating_sub(drift) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_simulated_clock_drifts_and_wakes_no_machine_too_early() {
        for drift_ppm in [-200_000, 0, 150, 200_000] {
            let clock = Clock::simulated(WallMs(1_000_000), drift_ppm);
            let deadline = clock.mono() + Duration::from_secs(100);
            clock.sleep_until(Some(deadline)).await;
            assert!(clock.mono() >= deadline, "{drift_ppm}: {} < {deadline}", clock.mono());
            assert!(clock.mono() < deadline + Duration::from_secs(5), "{drift_ppm}");
            let since_start = i64::try_from(clock.mono().as_millis()).unwrap();
            assert_eq!(clock.wall(), WallMs(1_000_000 + since_start));
            clock.set_wall(WallMs(7));
            assert_eq!(clock.clone().wall(), WallMs(7));
        }
    }

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
