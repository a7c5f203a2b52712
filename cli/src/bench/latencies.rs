//! Percentiles, one way for all benchmarks: of every single sample, by nearest rank. Nothing is averaged or left out.

use std::time::Duration;

use serde::Serialize;

/// Samples of one kind, in microseconds.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    micros: Vec<u32>,
}

/// What is shown of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Percentiles {
    pub(super) samples: usize,
    pub(super) p50_us: u32,
    pub(super) p99_us: u32,
    pub(super) p999_us: u32,
    pub(super) max_us: u32,
}

impl Latencies {
    pub(super) fn add(&mut self, took: Duration) {
        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }

    pub(super) fn join(&mut self, mut other: Latencies) {
        self.micros.append(&mut other.micros);
    }

    /// All zero if there is no sample.
    pub(super) fn percentiles(mut self) -> Percentiles {
        self.micros.sort_unstable();
        let rank = |per_mille: usize| {
            let at = (self.micros.len() * per_mille).div_ceil(1_000).saturating_sub(1);
            self.micros.get(at).copied().unwrap_or(0)
        };
        Percentiles {
            samples: self.micros.len(),
            p50_us: rank(500),
            p99_us: rank(990),
            p999_us: rank(999),
            max_us: rank(1_000),
        }
    }
}

/// Milliseconds with two digits.
pub(super) fn ms(micros: u32) -> String {
    format!("{}.{:02}", micros / 1_000, micros % 1_000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(micros: impl Iterator<Item = u64>) -> Percentiles {
        let mut latencies = Latencies::default();
        micros.for_each(|micros| latencies.add(Duration::from_micros(micros)));
        latencies.percentiles()
    }

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let expect = |samples, p50_us, p99_us, p999_us, max_us| Percentiles {
            samples,
            p50_us,
            p99_us,
            p999_us,
            max_us,
        };
        assert_eq!(of((1..=1_000).rev()), expect(1_000, 500, 990, 999, 1_000));
        assert_eq!(of(1..=10), expect(10, 5, 10, 10, 10));
        assert_eq!(of([7].into_iter()), expect(1, 7, 7, 7, 7));
        assert_eq!(of([].into_iter()), expect(0, 0, 0, 0, 0));
        assert_eq!(of([u64::MAX / 2_000].into_iter()).max_us, u32::MAX);
    }

    #[test]
    fn milliseconds_have_two_digits() {
        for (micros, text) in [(0, "0.00"), (1_239, "1.23"), (60_000, "60.00"), (9, "0.00")] {
            assert_eq!(ms(micros), text);
        }
    }
}
