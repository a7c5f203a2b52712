//! Which segments go, when a segment is full, and which clock is believed: tables.

use super::*;

/// A clock that has been right for long.
fn at(now: i64) -> Trusted {
    Trusted { now: WallMs(now), settled: true }
}

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
        let got = deletable(&log, 0, high_watermark, limits, at(now));
        assert_eq!(got, count, "{ms} {high_watermark} {now} {what}");
    }
}

#[test]
fn an_old_segment_behind_a_young_one_stays() {
    let log = segments(&[(0, 10, 100, 9_000), (10, 20, 100, 1_000), (20, 30, 100, 9_000)]);
    let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
    assert_eq!(deletable(&log, 0, 30, limits, at(9_100)), 0);
}

#[test]
fn a_future_timestamp_counts_as_the_time_of_the_append() {
    let log = segments(&[(0, 10, 100, i64::MAX), (10, 20, 100, i64::MAX)]);
    let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
    assert_eq!(deletable(&log, 0, 20, limits, at(1_000_500)), 0);
    assert_eq!(deletable(&log, 0, 20, limits, at(1_000_501)), 2);
    let none = segments(&[(0, 10, 100, -1), (10, 20, 0, -1)]);
    assert_eq!(deletable(&none, 0, 20, limits, at(1_000_501)), 1, "empty active stays");
}

#[test]
fn by_size() {
    let log = segments(&[(0, 10, 100, 1), (10, 20, 50, 1), (20, 30, 70, 1)]);
    let table = [(220, 0), (219, 0), (121, 0), (120, 1), (71, 1), (70, 2), (1, 2), (0, 3)];
    for (bytes, count) in table {
        let limits = RetentionLimits { retention_bytes: Some(bytes), ..NONE };
        assert_eq!(deletable(&log, 0, 30, limits, at(1)), count, "{bytes}");
    }
}

#[test]
fn below_the_log_start() {
    let log = segments(&[(0, 10, 100, 1), (10, 20, 50, 1), (20, 30, 70, 1)]);
    let table = [(0, 0), (9, 0), (10, 1), (19, 1), (20, 2), (30, 2)];
    for (log_start, count) in table {
        assert_eq!(deletable(&log, log_start, 30, NONE, at(1)), count, "{log_start}");
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

#[test]
fn a_future_timestamp_counts_again_once_its_time_has_come() {
    let log = segments(&[(0, 10, 100, 1_500_000), (10, 20, 0, -1)]);
    let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
    for (now, count) in [(1_000_501, 1), (1_499_999, 1), (1_500_000, 0), (1_500_501, 1)] {
        assert_eq!(deletable(&log, 0, 20, limits, at(now)), count, "{now}");
    }
}

/// The broker's clock stood in 1970 when it appended; the records' own times were right all along.
#[test]
fn an_append_by_a_clock_that_was_behind_does_not_age_what_it_appended() {
    let log: Vec<_> = segments(&[(0, 10, 100, 9_000_000), (10, 20, 100, 9_000_000)])
        .into_iter()
        .map(|segment| SegmentFacts { last_append: WallMs(5), ..segment })
        .collect();
    let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
    assert_eq!(deletable(&log, 0, 20, limits, at(9_000_500)), 0);
}

#[test]
fn a_clock_that_is_not_settled_may_not_call_a_log_silent() {
    const DAY: i64 = 24 * 3_600_000;
    let newest = 1_000_000;
    let limits = RetentionLimits { retention_ms: Some(500), ..NONE };
    for (ahead, settled, count, what) in [
        (1_000, false, 2, "a busy log goes by its time from the start"),
        (DAY, false, 2, ""),
        (DAY + 1, false, 0, "silent, or is the clock wrong?"),
        (DAY + 1, true, 2, "it has stood by it"),
        (10 * 365 * DAY, false, 0, "ten years"),
    ] {
        let log = segments(&[(0, 10, 100, 1_000), (10, 20, 100, newest), (20, 20, 0, -1)]);
        let now = Trusted { now: WallMs(newest + ahead), settled };
        assert_eq!(deletable(&log, 0, 20, limits, now), count, "{ahead} {settled} {what}");
    }
    // By size and by log start the clock has no say.
    let log = segments(&[(0, 10, 100, 1), (10, 20, 50, 1), (20, 30, 70, 1)]);
    let wrong = Trusted { now: WallMs(i64::MAX), settled: false };
    let by_size = RetentionLimits { retention_bytes: Some(70), ..NONE };
    assert_eq!(deletable(&log, 0, 30, by_size, wrong), 2);
    assert_eq!(deletable(&log, 20, 30, NONE, wrong), 2);
}

/// Minutes since the start, and by how many the wall clock is off.
type Said = (u64, i64);
/// Off by, settled, notice.
type Believed = (i64, bool, Option<ClockNotice>);

/// What the clocks say and what is believed.
#[test]
fn a_wall_clock_is_believed_as_far_as_the_monotonic_one_agrees() {
    const YEARS: i64 = 10 * 365 * 24 * 60;
    let off = |minutes: i64| minutes * 60_000;
    let jumped = |minutes| Some(ClockNotice::Jumped { by_ms: off(minutes) });
    let accepted = |minutes| Some(ClockNotice::Accepted { by_ms: off(minutes) });
    let back = Some(ClockNotice::CameBack);
    let table: &[(&str, &[(Said, Believed)])] = &[
        (
            "steady, with small corrections",
            &[
                ((0, 0), (0, false, None)),
                ((59, 5), (5, false, None)),
                ((60, 60), (60, true, None)),
                ((200, 1), (1, true, None)),
            ],
        ),
        (
            "ten years ahead, and corrected",
            &[
                ((100, 0), (0, true, None)),
                ((101, YEARS), (0, true, jumped(YEARS))),
                ((130, YEARS), (0, true, None)),
                ((131, 0), (0, true, back)),
                ((500, 0), (0, true, None)),
            ],
        ),
        (
            "ten years ahead, for good",
            &[
                ((10, YEARS), (0, false, jumped(YEARS))),
                ((69, YEARS), (0, true, None)),
                ((70, YEARS), (YEARS, true, accepted(YEARS))),
                ((71, YEARS), (YEARS, true, None)),
            ],
        ),
        (
            "back by a day, and forward again: each has to stand by it",
            &[
                ((100, -1440), (0, true, jumped(-1440))),
                ((160, -1440), (-1440, true, accepted(-1440))),
                ((161, 0), (-1440, true, jumped(1440))),
                ((220, 0), (-1440, true, None)),
                ((221, 0), (0, true, accepted(1440))),
            ],
        ),
        (
            "strobing: it never stands by anything",
            &[
                ((100, YEARS), (0, true, jumped(YEARS))),
                ((130, -YEARS), (0, true, None)),
                ((160, YEARS), (0, true, None)),
                ((190, -YEARS), (0, true, None)),
                ((250, YEARS), (0, true, None)),
                ((251, 3), (3, true, back)),
            ],
        ),
    ];
    let start = 1_700_000_000_000;
    for (what, rows) in table {
        let mut wall = TrustedWall::new(Mono::ZERO, WallMs(start));
        for ((minutes, off_by), (believed, settled, notice)) in *rows {
            let passed = i64::try_from(*minutes).unwrap() * 60_000;
            let mono = Mono::from_millis(minutes * 60_000);
            let now = |off_by: i64| WallMs(start + passed + off(off_by));
            let trusted = Trusted { now: now(*believed), settled: *settled };
            assert_eq!(wall.look(mono, now(*off_by)), (trusted, *notice), "{what}: {minutes}");
        }
    }
}
