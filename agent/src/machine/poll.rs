//! How often to look at a file: the longer it has been quiet, the rarer.
//!
//! The interval is a fixed share of the quiet time, so a busy file is seen within milliseconds and
//! a silent one costs nearly nothing, without any state but the time of the last growth.

use std::time::Duration;

/// The times that rule a file's polling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollPolicy {
    /// While the file grows.
    pub interval_min: Duration,
    /// However long it was quiet.
    pub interval_max: Duration,
    /// At least this, while the output has no room for what the file brings.
    pub interval_blocked: Duration,
    /// Quiet for this long: the file is idle, its descriptor is closed.
    pub idle_after: Duration,
    /// A file without a name is let go after being read to its end and quiet for this long.
    pub nameless_hold: Duration,
}

impl Default for PollPolicy {
    fn default() -> Self {
        Self {
            interval_min: Duration::from_millis(5),
            interval_max: Duration::from_secs(5),
            interval_blocked: Duration::from_millis(250),
            idle_after: Duration::from_secs(10),
            nameless_hold: Duration::from_secs(30),
        }
    }
}

impl PollPolicy {
    /// Until the next look at a file that has been quiet for `quiet`.
    pub fn interval(&self, quiet: Duration) -> Duration {
        (quiet / 8).clamp(self.interval_min, self.interval_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_the_quiet_time_between_its_bounds() {
        let policy = PollPolicy::default();
        for (quiet_ms, expected_ms) in
            [(0, 5), (40, 5), (80, 10), (1_000, 125), (10_000, 1_250), (3_600_000, 5_000)]
        {
            let interval = policy.interval(Duration::from_millis(quiet_ms));
            assert_eq!(interval.as_millis(), expected_ms, "quiet for {quiet_ms} ms");
        }
    }
}
