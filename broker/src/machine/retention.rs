//! Which segments may go, by time, by size and by log start; and when a segment is full.
//!
//! Kafka's rules. A segment goes only from the old end, only when all of it is below the high watermark. Its age is that of
//! its newest record, except that a timestamp from the future counts as the time of the last append, so that a wrong
//! clock cannot keep a disk full for ever.
//! Beyond Kafka's rules, a wall clock that jumps deletes nothing: `TrustedWall` believes it only as far as the monotonic clock
//! agrees, or once it has stood by what it says.

use std::time::Duration;

use tailway_metadata::time::{Mono, WallMs};

/// One segment, oldest first in lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFacts {
    pub base_offset: i64,
    /// Base offset of the next segment; for the last one the log end offset.
    pub end_offset: i64,
    pub bytes: u64,
    /// Greatest record timestamp; -1 if it has none.
    pub max_timestamp: i64,
    /// When the broker appended last, as far as it knows.
    pub last_append: WallMs,
}

/// The limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    pub retention_ms: Option<i64>,
    pub retention_bytes: Option<u64>,
}

/// How many of the oldest segments may go. If that is all of them, the caller rolls first: a log always has an active one.
pub fn deletable(
    segments: &[SegmentFacts],
    log_start: i64,
    high_watermark: i64,
    limits: RetentionLimits,
    Trusted { now, settled }: Trusted,
) -> usize {
    let newest = segments.iter().map(|segment| effective_timestamp(segment, now)).max();
    // Only a clock that has stood by its time for a while may say that a log was silent for so long.
    let by_time = settled || newest.is_some_and(|newest| now.0.saturating_sub(newest) <= SILENT_MS);
    let mut excess: i128 = limits.retention_bytes.map_or(0, |limit| {
        let total: i128 = segments.iter().map(|segment| i128::from(segment.bytes)).sum();
        total - i128::from(limit)
    });
    let mut count = 0;
    for (i, segment) in segments.iter().enumerate() {
        let is_last = i + 1 == segments.len();
        if segment.end_offset > high_watermark || (is_last && segment.bytes == 0) {
            break;
        }
        let too_old = limits
            .retention_ms
            .is_some_and(|limit| now.0.saturating_sub(effective_timestamp(segment, now)) > limit);
        let too_much = limits.retention_bytes.is_some() && excess >= i128::from(segment.bytes);
        let below_start = segment.end_offset <= log_start && !is_last;
        if !(too_old && by_time || too_much || below_start) {
            break;
        }
        excess -= i128::from(segment.bytes);
        count += 1;
    }
    count
}

/// When the newest record was made. A time that has not come yet tells nothing: then it is the last append's.
fn effective_timestamp(segment: &SegmentFacts, now: WallMs) -> i64 {
    if (0..=now.0).contains(&segment.max_timestamp) {
        segment.max_timestamp
    } else {
        segment.last_append.0
    }
}

/// How far the wall clock may be from where the monotonic clock expects it.
const TOLERANCE_MS: i64 = 3_600_000;

/// A wall clock is believed, whatever it says, after it has stood by it for this long.
const HOLD: Duration = Duration::from_hours(1);

/// A log without a record for longer than this may look so only because the clock is wrong.
const SILENT_MS: i64 = 24 * 3_600_000;

/// A wall time to delete by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trusted {
    pub now: WallMs,
    /// The clock has said so, steadily, for `HOLD`: since this process began, or since it jumped.
    pub settled: bool,
}

/// What to tell the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockNotice {
    /// The wall clock is this many milliseconds ahead (or, negative, behind) of what the monotonic clock expects, and is
    /// not believed.
    Jumped { by_ms: i64 },
    /// It is back where it was expected.
    CameBack,
    /// It has stood by its new time and is believed from now on.
    Accepted { by_ms: i64 },
}

/// A wall clock held against the monotonic one, which no NTP, operator or virtual machine sets.
#[derive(Debug, Clone)]
pub struct TrustedWall {
    /// A moment at which wall time was believed.
    base: (Mono, WallMs),
    /// Since when the clock has been steady.
    steady_since: Mono,
    /// What it says since it jumped: a moment and the time then.
    jumped: Option<(Mono, WallMs)>,
}

impl TrustedWall {
    pub fn new(mono: Mono, wall: WallMs) -> Self {
        Self { base: (mono, wall), steady_since: mono, jumped: None }
    }

    /// The time to delete by, given what both clocks say; and what is new about them.
    pub fn look(&mut self, mono: Mono, wall: WallMs) -> (Trusted, Option<ClockNotice>) {
        let expected = expect(self.base, mono);
        let by_ms = wall.0.saturating_sub(expected.0);
        if by_ms.saturating_abs() <= TOLERANCE_MS {
            // Small corrections, and the drift between the clocks, are followed.
            self.base = (mono, wall);
            let notice = self.jumped.take().map(|_| ClockNotice::CameBack);
            return (self.trusted(mono, wall), notice);
        }
        let agrees = |told: (Mono, WallMs)| {
            wall.0.saturating_sub(expect(told, mono).0).saturating_abs() <= TOLERANCE_MS
        };
        match self.jumped {
            Some(told) if agrees(told) => {
                if mono.since(told.0) < HOLD {
                    return (self.trusted(mono, expected), None);
                }
                (self.base, self.steady_since, self.jumped) = ((mono, wall), told.0, None);
                (self.trusted(mono, wall), Some(ClockNotice::Accepted { by_ms }))
            }
            // It jumps, or jumps again.
            _ => {
                let is_new = self.jumped.is_none();
                self.jumped = Some((mono, wall));
                let notice = is_new.then_some(ClockNotice::Jumped { by_ms });
                (self.trusted(mono, expected), notice)
            }
        }
    }

    fn trusted(&self, mono: Mono, now: WallMs) -> Trusted {
        Trusted { now, settled: mono.since(self.steady_since) >= HOLD }
    }
}

/// What a wall clock that said `then` says at `mono`, if nobody sets it.
fn expect((then_mono, then): (Mono, WallMs), mono: Mono) -> WallMs {
    let passed = i64::try_from(mono.since(then_mono).as_millis()).unwrap_or(i64::MAX);
    WallMs(then.0.saturating_add(passed))
}

/// The active segment, as far as rolling is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveFacts {
    pub base_offset: i64,
    pub bytes: u64,
    /// Greatest timestamp of its first batch; `None` while it is empty.
    pub first_timestamp: Option<i64>,
    /// When it was created or opened.
    pub created: WallMs,
    pub index_full: bool,
}

/// Kafka's `shouldRoll`: by size, by the time between the first batch and this one, by index and by offset range.
pub fn should_roll(
    active: &ActiveFacts,
    batch_bytes: u64,
    batch_last_offset: i64,
    batch_max_timestamp: i64,
    segment_bytes: u64,
    segment_ms: i64,
    now: WallMs,
) -> bool {
    let waited = match active.first_timestamp {
        Some(first) if first >= 0 => batch_max_timestamp.saturating_sub(first),
        _ => now.0.saturating_sub(active.created.0),
    };
    active.bytes > segment_bytes.saturating_sub(batch_bytes)
        || (active.bytes > 0 && waited > segment_ms)
        || active.index_full
        || batch_last_offset - active.base_offset > i64::from(i32::MAX)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
