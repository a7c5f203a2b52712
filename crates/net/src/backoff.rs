//! Pauses between attempts: doubling, capped, jittered. Pure: the seed is the only randomness.
//!
//! Each pause is drawn from the upper half of `[0, step]`, so that clients that failed together
//! do not come back together, and none comes back at once.

use std::time::Duration;

/// The pauses of one series of attempts.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    attempts: u32,
    state: u64,
}

impl Backoff {
    /// Pauses from `first`, doubling up to `cap`; equal seeds give equal pauses.
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Self { first, cap: cap.max(first), attempts: 0, state: seed }
    }

    /// The pause before the next attempt.
    pub fn next_pause(&mut self) -> Duration {
        let step = self.first.saturating_mul(1 << self.attempts.min(20)).min(self.cap);
        self.attempts = self.attempts.saturating_add(1);
        let half = u64::try_from(step.as_micros() / 2).unwrap_or(u64::MAX / 2);
        Duration::from_micros(half + self.draw() % (half + 1))
    }

    /// Attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// An attempt succeeded: the next failure starts small again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }

    /// SplitMix64: small, and every seed is as good as any other.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_never_past_it() {
        for seed in 0..200 {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1), seed);
            let mut step = Duration::from_millis(50);
            for _ in 0..40 {
                let pause = backoff.next_pause();
                assert!(pause >= step / 2 && pause <= step, "seed {seed}: {pause:?} of {step:?}");
                step = (step * 2).min(Duration::from_secs(1));
            }
            backoff.reset();
            assert!(backoff.next_pause() <= Duration::from_millis(50), "seed {seed}");
        }
    }

    #[test]
    fn seeds_spread_clients_and_repeat_themselves() {
        let first =
            |seed| Backoff::new(Duration::from_secs(1), Duration::from_secs(1), seed).next_pause();
        assert_eq!(first(7), first(7));
        let distinct: std::collections::BTreeSet<_> = (0..100).map(first).collect();
        assert!(distinct.len() > 95, "{}", distinct.len());
    }
}
