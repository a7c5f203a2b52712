//! How long a producer is remembered: by when its batches were appended, never by the time in its records. Kafka 4.3.1
//! goes by record time, so that a producer of old records (a backfill) is forgotten at once and its resend is stored twice.

use std::sync::Arc;

use bytes::Bytes;
use tailway_daemon::clock::Clock;
use tailway_metadata::time::WallMs;
use tailway_storage::SimDisk;
use tailway_wire::record::{BatchBuilder, Compression};

use super::test_support::*;
use super::*;
use crate::log::LogConfig;

const ALL: AppendOptions = AppendOptions { acks: Acks::All, origin: AppendOrigin::Client };
const DAY: i64 = 24 * 3_600 * 1_000;
/// 1970, and long after everything here.
const RECORD_TIMES: [i64; 2] = [0, WALL.0 + 1_000 * DAY];

fn dated(timestamp: i64, sequence: i32) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(9, 0, sequence);
    builder.append(timestamp, None, Some(b"v"), &[]).unwrap();
    builder.finish().unwrap()
}

async fn opened(disk: &SimDisk, clock: &Clock) -> (Partitions, PartitionHandle) {
    let partitions = Partitions::open(options(Arc::new(disk.clone()), clock)).await.unwrap();
    // Records of 1970 would not outlive a retention by time.
    let config = LogConfig { retention_ms: None, ..small_segments() };
    let handle = partition(&partitions, config).await;
    handle.run_housekeeping().await.unwrap();
    (partitions, handle)
}

#[tokio::test]
async fn a_resend_is_recognised_whatever_the_time_in_its_records() {
    for (timestamp, clean) in RECORD_TIMES.iter().flat_map(|t| [(*t, true), (*t, false)]) {
        let (disk, clock) = (SimDisk::new(), Clock::manual(WALL));
        let (partitions, handle) = opened(&disk, &clock).await;
        for sequence in 0..20 {
            let stored = handle.append(dated(timestamp, sequence), ALL).await.unwrap();
            assert_eq!(stored.base_offset, i64::from(sequence));
        }
        clock.set_wall(WallMs(WALL.0 + DAY));
        handle.run_housekeeping().await.unwrap();
        for sequence in 15..20 {
            let again = handle.append(dated(timestamp, sequence), ALL).await.unwrap();
            assert_eq!(again.base_offset, i64::from(sequence), "{timestamp}");
        }
        if clean {
            partitions.close_all().await.unwrap();
        }
        let (_partitions, handle) = opened(&disk.crash(1), &clock).await;
        for sequence in 15..20 {
            let again = handle.append(dated(timestamp, sequence), ALL).await.unwrap();
            assert_eq!(again.base_offset, i64::from(sequence), "{timestamp}, clean: {clean}");
        }
        assert_eq!(handle.current().log_end, 20);
    }
}

#[tokio::test]
async fn a_producer_is_forgotten_a_day_after_its_last_append() {
    for timestamp in RECORD_TIMES {
        let (disk, clock) = (SimDisk::new(), Clock::manual(WALL));
        let (partitions, handle) = opened(&disk, &clock).await;
        handle.append(dated(timestamp, 0), ALL).await.unwrap();
        partitions.close_all().await.unwrap();
        clock.set_wall(WallMs(WALL.0 + DAY + 1));
        let (_partitions, handle) = opened(&disk, &clock).await;
        // Unknown now, so any sequence begins anew, also the one that is there.
        assert_eq!(handle.append(dated(timestamp, 0), ALL).await.unwrap().base_offset, 1);
    }
}

/// The batches themselves are gone from the disk; what is known of their producer is not, across a roll, retention, a kill
/// and a power cut.
#[tokio::test]
async fn a_producer_is_known_although_retention_took_its_batches() {
    let (disk, clock) = (SimDisk::new(), Clock::manual(WALL));
    let config = LogConfig { retention_bytes: Some(1_500), ..small_segments() };
    let partitions = Partitions::open(options(Arc::new(disk.clone()), &clock)).await.unwrap();
    let handle = partition(&partitions, config.clone()).await;
    for sequence in 0..5 {
        handle.append(dated(WALL.0, sequence), ALL).await.unwrap();
    }
    for _ in 0..60 {
        handle.append(values(&["of nobody"]), ALL).await.unwrap();
    }
    handle.run_housekeeping().await.unwrap();
    assert!(handle.current().log_start > 4, "its batches are gone");
    let cut = disk.crash_image(5);
    let killed = disk.kill();
    for (disk, what) in [(killed, "killed"), (cut, "power cut")] {
        let again = Partitions::open(options(Arc::new(disk), &clock)).await.unwrap();
        let handle = partition(&again, config.clone()).await;
        assert!(handle.current().log_start > 4, "{what}");
        for sequence in 0..5 {
            let resent = handle.append(dated(WALL.0, sequence), ALL).await.unwrap();
            assert_eq!(resent.base_offset, i64::from(sequence), "{what}");
        }
        let next = handle.append(dated(WALL.0, 5), ALL).await.unwrap();
        assert_eq!(next.base_offset, 65, "{what}");
    }
}

#[tokio::test]
async fn a_wall_clock_that_jumps_deletes_nothing() {
    let (disk, clock) = (SimDisk::new(), Clock::manual(WALL));
    let partitions = Partitions::open(options(Arc::new(disk.clone()), &clock)).await.unwrap();
    let config = LogConfig { retention_ms: Some(7 * DAY), ..small_segments() };
    let handle = partition(&partitions, config).await;
    for sequence in 0..20 {
        handle.append(dated(WALL.0, sequence), ALL).await.unwrap();
    }
    for years in [10, -10, 30] {
        clock.set_wall(WallMs(WALL.0 + years * 365 * DAY));
        handle.run_housekeeping().await.unwrap();
        assert_eq!(read_values(&handle, 0).await.len(), 20, "{years} years");
        let resent = handle.append(dated(WALL.0, 19), ALL).await.unwrap();
        assert_eq!(resent.base_offset, 19, "{years} years: its producer is forgotten");
    }
}
