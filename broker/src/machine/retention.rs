//! Which segments may go, by time, by size and by log start; and when a segment is full.
//!
//! Kafka's rules. A segment goes only from the old end, only when all of it is below the high watermark. Its age is that of
//! its newest record, except that a timestamp from the future counts as the time of the last append, so that a wrong
//! clock cannot keep a disk full for ever.

use tailway_metadata::time::WallMs;

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
    now: WallMs,
) -> usize {
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
            .is_some_and(|limit| now.0.saturating_sub(effective_timestamp(segment)) > limit);
        let too_much = limits.retention_bytes.is_some() && excess >= i128::from(segment.bytes);
        let below_start = segment.end_offset <= log_start && !is_last;
        if !(too_old || too_much || below_start) {
            break;
        }
        excess -= i128::from(segment.bytes);
        count += 1;
    }
    count
}

fn effective_timestamp(segment: &SegmentFacts) -> i64 {
    if segment.max_timestamp < 0 {
        segment.last_append.0
    } else {
        segment.max_timestamp.min(segment.last_append.0)
    }
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
mod tests {
    use super::*;

    const NONE: RetentionLimits = RetentionLimits { retention_ms: None, retention_bytes: None };

    fn segments(rows: &[(i64, i64, u64, i64)]) -> Vec<SegmentFacts> {
        rows.iter()
            .map(|&(base_offset, end_offset, bytes, max_timestamp)| SegmentFacts {
                base_offset,
                end_offset,
                bytes,
                max_timestamp,
                last_append: WallMs(1_000_000),
            })
            .collect()
    }

    #[test]
    fn by_time() {
        let log = segments(&[(0, 10, 100, 1_000), (10, 20, 100, 2_000), (20, 30, 100, 3_000)]);
        let table = [
            // (retention.ms, high watermark, now) -> count
            (500, 30, 1_500, 0, "exactly the limit stays"),
            (500, 30, 1_501, 1, "one past the limit goes"),
            (500, 30, 2_501, 2, ""),
            (500, 30, 9_999, 3, "the active one too: the caller rolls"),
            (500, 19, 9_999, 1, "never above the high watermark"),
            (500, 9, 9_999, 0, ""),
        ];
        for (ms, high_watermark, now, count, what) in table {
            let limits = RetentionLimits { retention_ms: Some(ms), ..NONE };
            let got = deletable(&log, 0, high_watermark, limits, WallMs(now));
            assert_eq!(got, count, "{ms} {high_watermark} {now} {what}");
        }
    }

    #[test]
    fn an_old_segment_behind_a_young_one_stays() {
        let log = segments(&[(0, 10, 100, 9_000), (10, 20, 100, 1_000), (20, 30, 100, 9_000)]);
        let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
        assert_eq!(deletable(&log, 0, 30, limits, WallMs(9_100)), 0);
    }

    #[test]
    fn a_future_timestamp_counts_as_the_time_of_the_append() {
        let log = segments(&[(0, 10, 100, i64::MAX), (10, 20, 100, i64::MAX)]);
        let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
        assert_eq!(deletable(&log, 0, 20, limits, WallMs(1_000_500)), 0);
        assert_eq!(deletable(&log, 0, 20, limits, WallMs(1_000_501)), 2);
        let none = segments(&[(0, 10, 100, -1), (10, 20, 0, -1)]);
        assert_eq!(deletable(&none, 0, 20, limits, WallMs(1_000_501)), 1, "empty active stays");
    }

    #[test]
    fn by_size() {
        let log = segments(&[(0, 10, 100, 1), (10, 20, 50, 1), (20, 30, 70, 1)]);
        let table = [(220, 0), (219, 0), (121, 0), (120, 1), (71, 1), (70, 2), (1, 2), (0, 3)];
        for (bytes, count) in table {
            let limits = RetentionLimits { retention_bytes: Some(bytes), ..NONE };
            assert_eq!(deletable(&log, 0, 30, limits, WallMs(1)), count, "{bytes}");
        }
    }

    #[test]
    fn below_the_log_start() {
        let log = segments(&[(0, 10, 100, 1), (10, 20, 50, 1), (20, 30, 70, 1)]);
        let table = [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 2)];
        for (log_start, count) in table {
            assert_eq!(deletable(&log, log_start, 30, NONE, WallMs(1)), count, "{log_start}");
        }
    }

    #[test]
    fn rolling() {
        let active = ActiveFacts {
            base_offset: 100,
            bytes: 900,
            first_timestamp: Some(5_000),
            created: WallMs(1_000),
            index_full: false,
        };
        let roll = |active: &ActiveFacts, bytes, last, timestamp, now| {
            should_roll(active, bytes, last, timestamp, 1_000, 60, WallMs(now))
        };
        assert!(!roll(&active, 100, 101, 5_000, 9_000), "exactly full is not over");
        assert!(roll(&active, 101, 101, 5_000, 9_000));
        assert!(roll(&active, 2_000, 101, 5_000, 9_000), "larger than a segment");
        assert!(!roll(&active, 1, 101, 5_060, 9_000), "record time counts, not the clock");
        assert!(roll(&active, 1, 101, 5_061, 9_000));
        assert!(!roll(&active, 1, 101, 4_000, 9_000), "an older record does not roll");
        let untimed = ActiveFacts { first_timestamp: Some(-1), ..active };
        assert!(!roll(&untimed, 1, 101, -1, 1_060));
        assert!(roll(&untimed, 1, 101, -1, 1_061));
        let empty = ActiveFacts { bytes: 0, first_timestamp: None, ..active };
        assert!(!roll(&empty, 1, 101, -1, 9_999), "an empty one never rolls by time");
        assert!(roll(&ActiveFacts { index_full: true, ..active }, 1, 101, 5_000, 1_000));
        let last = 100 + i64::from(i32::MAX);
        assert!(!roll(&active, 1, last, 5_000, 1_000));
        assert!(roll(&active, 1, last + 1, 5_000, 1_000));
    }
}
