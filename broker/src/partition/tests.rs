//! A partition through its door, on a disk in memory.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tailway_daemon::clock::Clock;
use tailway_metadata::ids::TopicId;
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, OpenMode, Operation, SimDisk};
use tailway_wire::record::{Compression, TimestampType};
use uuid::Uuid;

use super::test_support::*;
use super::*;
use crate::log::LogConfig;

const ALL: AppendOptions = AppendOptions { acks: Acks::All, origin: AppendOrigin::Client };

#[tokio::test]
async fn what_is_appended_is_read_and_listed() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    let first = handle.append(values(&["a", "b", "c"]), ALL).await.unwrap();
    let expected =
        Appended { base_offset: 0, last_offset: 2, log_append_time: -1, log_start_offset: 0 };
    assert_eq!(first, expected);
    let leader = AppendOptions::client(Acks::Leader);
    assert_eq!(handle.append(values(&["d"]), leader).await.unwrap().base_offset, 3);
    let nothing = AppendOptions::client(Acks::None);
    assert_eq!(handle.append(values(&["e"]), nothing).await.unwrap().base_offset, -1);
    assert_eq!(handle.append(values(&["f"]), ALL).await.unwrap().base_offset, 5);
    let rows = read_values(&handle, 0).await;
    let expected = ["a", "b", "c", "d", "e", "f"];
    let expected: Vec<(i64, String)> = (0..).zip(expected.map(String::from)).collect();
    assert_eq!(rows, expected);
    let all = Watermarks { log_start: 0, high_watermark: 6, log_end: 6 };
    assert_eq!(handle.current(), all);
    let earliest = handle.list_offset(ListOffset::Earliest).await.unwrap();
    assert_eq!(earliest, ListedOffset { offset: 0, timestamp: -1, leader_epoch: 0 });
    let latest = handle.list_offset(ListOffset::Latest).await.unwrap();
    assert_eq!(latest, ListedOffset { offset: 6, timestamp: -1, leader_epoch: 0 });
}

#[tokio::test]
async fn reads_keep_to_whole_batches_and_their_limits() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    let size = values(&["0123456789", "x"]).len();
    for _ in 0..10 {
        handle.append(values(&["0123456789", "x"]), ALL).await.unwrap();
    }
    // (offset, max bytes, min one) -> batches
    let table = [
        (0, 1, true, 1),
        (0, 1, false, 0),
        (0, size, false, 1),
        (0, size * 2 - 1, false, 1),
        (0, size * 2, false, 2),
        (0, usize::MAX, false, 10),
        (1, size, false, 1),
        (19, usize::MAX, false, 1),
        (20, usize::MAX, true, 0),
    ];
    for (offset, max_bytes, min_one, count) in table {
        let slice = handle.read(offset, max_bytes, min_one).await.unwrap();
        assert_eq!(slice.len(), count * size, "{offset} {max_bytes} {min_one}");
        if count > 0 {
            let base = i64::from_be_bytes(*slice.records[0].first_chunk().unwrap());
            assert_eq!(base, offset / 2 * 2, "the batch that holds {offset}");
        }
    }
    for offset in [-1, 21] {
        let error = handle.read(offset, 1, true).await.unwrap_err();
        assert_eq!(error, PartitionError::OffsetOutOfRange { offset, log_start: 0, log_end: 20 });
    }
}

#[tokio::test]
async fn a_restart_keeps_everything_and_a_clean_one_checks_nothing() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    let mut expected = Vec::new();
    for i in 0..60 {
        let value = format!("value {i}");
        handle.append(values(&[&value]), ALL).await.unwrap();
        expected.push((i, value));
    }
    partitions.close_all().await.unwrap();
    assert_eq!(handle.append(values(&["late"]), ALL).await, Err(PartitionError::Closed));
    assert_eq!(handle.read(0, 1, true).await.unwrap_err(), PartitionError::Closed);

    let names = file_names(&disk, "/data/logs-0");
    assert!(names.iter().filter(|name| has_suffix(name, "log")).count() > 3, "{names:?}");
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    assert_eq!(read_values(&handle, 0).await, expected);
    assert_eq!(read_values(&handle, 37).await, expected[37..]);
    let report = &partitions.reports()[0];
    assert_eq!((report.checked_bytes, report.rebuilt_indexes, report.trimmed_bytes), (0, 0, 0));
    assert_eq!((report.log_start_offset, report.log_end_offset), (0, 60));
    assert_eq!(handle.append(values(&["next"]), ALL).await.unwrap().base_offset, 60);
}

#[tokio::test]
async fn five_batches_per_producer_are_known_after_a_restart() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    for i in 0..20 {
        handle.append(idempotent(9, 0, i, &format!("v{i}")), ALL).await.unwrap();
    }
    for clean in [true, false] {
        if clean {
            partitions.close_all().await.unwrap();
        }
        let image = disk.crash_image(1);
        let partitions = open(&image).await;
        let handle = partition(&partitions, small_segments()).await;
        for i in 15..20 {
            let again = handle.append(idempotent(9, 0, i, "again"), ALL).await.unwrap();
            assert_eq!(again.base_offset, i64::from(i), "clean: {clean}");
        }
        let forgotten = handle.append(idempotent(9, 0, 14, "again"), ALL).await.unwrap_err();
        let expected = PartitionError::OutOfOrderSequence {
            producer_id: 9,
            producer_epoch: 0,
            sequence: 14,
            expected: 20,
        };
        assert_eq!(forgotten, expected);
        let stale =
            PartitionError::InvalidProducerEpoch { producer_id: 9, producer_epoch: 0, current: 1 };
        handle.append(idempotent(9, 1, 0, "bumped"), ALL).await.unwrap();
        assert_eq!(handle.append(idempotent(9, 0, 20, "old"), ALL).await, Err(stale));
        assert_eq!(handle.current().log_end, 21, "duplicates were not appended");
    }
}

#[tokio::test]
async fn without_snapshots_producers_are_known_from_all_segments() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    for id in 0..60 {
        handle.append(idempotent(id, 0, 0, "first"), ALL).await.unwrap();
    }
    partitions.close_all().await.unwrap();
    for name in file_names(&disk, "/data/logs-0") {
        if has_suffix(&name, "snapshot") || name == "leader-epoch-checkpoint" {
            disk.remove_file(&Path::new("/data/logs-0").join(name)).unwrap();
        }
    }
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    for id in 0..60 {
        let again = handle.append(idempotent(id, 0, 0, "again"), ALL).await.unwrap();
        assert_eq!(again.base_offset, id);
    }
    assert_eq!(handle.end_offset_for_epoch(0).await, Ok((0, 60)));
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_fences_for_good() {
    for operation in [Operation::SyncData, Operation::Write] {
        let disk = SimDisk::new();
        let partitions = open(&disk).await;
        let handle = partition(&partitions, LogConfig::default()).await;
        handle.append(values(&["good"]), ALL).await.unwrap();
        disk.fail(operation, 1, ErrorKind::Other);
        let error = handle.append(values(&["bad"]), ALL).await.unwrap_err();
        assert!(matches!(error, PartitionError::Storage { .. }), "{operation:?}: {error}");
        let before = disk.total();
        for acks in [Acks::None, Acks::Leader, Acks::All] {
            let options = AppendOptions::client(acks);
            assert_eq!(handle.append(values(&["x"]), options).await, Err(error.clone()));
        }
        assert_eq!(disk.total(), before, "nothing is tried again");
        assert_eq!(handle.current().high_watermark, 1);
        assert_eq!(read_values(&handle, 0).await, [(0, "good".to_owned())]);
        assert_eq!(handle.failure(), Some(error.clone()));
        assert_eq!(partitions.close_all().await, Err(error));
        let names = file_names(&disk, "/data");
        assert!(!names.contains(&".kafka_cleanshutdown".to_owned()), "{names:?}");
    }
}

/// After a failed sync the page cache shows what the disk does not have, and the next sync succeeds: a restart must not
/// serve it.
#[tokio::test]
async fn a_restart_after_a_failed_sync_serves_what_the_disk_has() {
    for seed in 0..20 {
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk).await;
        let handle = partition(&partitions, LogConfig::default()).await;
        handle.append(values(&["good"]), ALL).await.unwrap();
        disk.fail(Operation::SyncData, 1, ErrorKind::Other);
        handle.append(values(&["bad"]), ALL).await.unwrap_err();
        let disk = disk.kill();
        let restarted = open(&disk).await;
        let handle = partition(&restarted, LogConfig::default()).await;
        let served = read_values(&handle, 0).await;
        assert_eq!(served[0], (0, "good".to_owned()), "seed {seed}");
        let after = open(&disk.crash(seed)).await;
        let handle = partition(&after, LogConfig::default()).await;
        assert_eq!(read_values(&handle, 0).await, served, "seed {seed}");
    }
}

#[tokio::test]
async fn the_high_watermark_waits_for_the_disk() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    disk.fail(Operation::SyncData, 1, ErrorKind::Other);
    // Answered after the write; the sync then fails, so nobody may ever read it.
    let leader = AppendOptions::client(Acks::Leader);
    assert_eq!(handle.append(values(&["a"]), leader).await.unwrap().base_offset, 0);
    let error = handle.append(values(&["b"]), ALL).await.unwrap_err();
    assert!(matches!(error, PartitionError::Storage { .. }));
    assert_eq!(handle.current().high_watermark, 0);
    assert!(handle.read(0, 1000, true).await.unwrap().is_empty());
}

#[tokio::test]
async fn log_append_time_stamps_the_batch() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let config = LogConfig { log_append_time: true, ..LogConfig::default() };
    let handle = partition(&partitions, config).await;
    let appended = handle.append(batch(&[(5, None, Some("old"))]), ALL).await.unwrap();
    assert_eq!(appended.log_append_time, WALL.0);
    let stored = &read_batches(&handle, 0).await.unwrap()[0];
    assert_eq!(stored.header.max_timestamp, WALL.0);
    assert_eq!(stored.header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    let found = handle.list_offset(ListOffset::Timestamp(WALL.0)).await.unwrap();
    assert_eq!((found.offset, found.timestamp), (0, WALL.0));
}

#[tokio::test]
async fn offsets_are_found_by_time() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    // Record i has time 1000 + 10 i, in batches of three; one record is out of order.
    for i in 0..40 {
        let time = |k: i64| if i == 20 && k == 1 { 5_000 } else { 1_000 + 10 * (3 * i + k) };
        let rows: Vec<Row<'_>> = (0..3).map(|k| (time(k), None, Some("value"))).collect();
        let codec = if i % 2 == 0 { Compression::None } else { Compression::Lz4 };
        handle.append(compressed(codec, &rows), ALL).await.unwrap();
    }
    let table = [
        (0, 0, 1_000),
        (1_000, 0, 1_000),
        (1_001, 1, 1_010),
        (1_590, 59, 1_590),
        (1_601, 61, 5_000),
        (1_700, 61, 5_000),
        (2_190, 61, 5_000),
        (5_000, 61, 5_000),
        (5_001, -1, -1),
    ];
    for (timestamp, offset, found_at) in table {
        let found = handle.list_offset(ListOffset::Timestamp(timestamp)).await.unwrap();
        assert_eq!((found.offset, found.timestamp), (offset, found_at), "{timestamp}");
    }
    let newest = handle.list_offset(ListOffset::MaxTimestamp).await.unwrap();
    assert_eq!(newest, ListedOffset { offset: 61, timestamp: 5_000, leader_epoch: 0 });
}

#[tokio::test]
async fn retention_by_size_moves_the_log_start_for_good() {
    let disk = SimDisk::new();
    let clock = Clock::manual(WALL);
    let partitions = Partitions::open(options(Arc::new(disk.clone()), &clock)).await.unwrap();
    let config = LogConfig { retention_bytes: Some(2_000), ..small_segments() };
    let handle = partition(&partitions, config.clone()).await;
    for i in 0..100 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    let mut polled = handle.watermarks();
    polled.mark_unchanged();
    handle.run_housekeeping().await.unwrap();
    let start = handle.current().log_start;
    assert!(start > 60 && start < 100, "{start}");
    assert!(polled.has_changed().unwrap());
    assert!(handle.size_bytes() >= 2_000 && handle.size_bytes() < 3_100);
    let below = handle.read(start - 1, 1, true).await.unwrap_err();
    let expected =
        PartitionError::OffsetOutOfRange { offset: start - 1, log_start: start, log_end: 100 };
    assert_eq!(below, expected);
    assert_eq!(read_values(&handle, start).await.len(), usize::try_from(100 - start).unwrap());
    for seed in 0..20 {
        let partitions = open(&disk.crash_image(seed)).await;
        let handle = partition(&partitions, config.clone()).await;
        assert_eq!(handle.current().log_start, start, "seed {seed}");
    }
}

#[tokio::test]
async fn retention_by_time_takes_the_last_segment_too() {
    let disk = SimDisk::new();
    let clock = Clock::manual(WALL);
    let partitions = Partitions::open(options(Arc::new(disk.clone()), &clock)).await.unwrap();
    let config = LogConfig { retention_ms: Some(1_000), ..small_segments() };
    let handle = partition(&partitions, config.clone()).await;
    for i in 0..30 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    handle.run_housekeeping().await.unwrap();
    assert_eq!(handle.current().log_start, 0);
    clock.set_wall(WallMs(WALL.0 + 1_001));
    handle.run_housekeeping().await.unwrap();
    assert_eq!(handle.current(), Watermarks { log_start: 30, high_watermark: 30, log_end: 30 });
    let names = file_names(&disk, "/data/logs-0");
    let logs: Vec<_> = names.iter().filter(|name| has_suffix(name, "log")).collect();
    assert_eq!(logs, ["00000000000000000030.log"]);
    for seed in 0..20 {
        let partitions = open(&disk.crash_image(seed)).await;
        let handle = partition(&partitions, config.clone()).await;
        assert_eq!(handle.current().log_start, 30, "seed {seed}");
        assert_eq!(handle.append(values(&["x"]), ALL).await.unwrap().base_offset, 30);
    }
}

#[tokio::test]
async fn damage_below_the_durable_point_is_neither_served_nor_cut() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    for i in 0..60 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    partitions.close_all().await.unwrap();
    let damaged = Path::new("/data/logs-0/00000000000000000000.log");
    flip_bit(&disk, damaged, 300);
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    let error = read_batches(&handle, 0).await.unwrap_err();
    assert!(matches!(error, PartitionError::Quarantined { .. }), "{error}");
    assert_eq!(handle.append(values(&["x"]), ALL).await, Err(error.clone()));
    assert_eq!(handle.read(50, 1, true).await.unwrap_err(), error);
    let len = disk.open(damaged, OpenMode::Read).unwrap().len().unwrap();
    assert!(len > 900, "nothing was cut: {len}");
}

#[tokio::test]
async fn damage_found_at_the_start_keeps_the_partition_closed() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    for i in 0..20 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    // No clean stop: the whole segment is checked, and the middle of it was written once.
    let image = disk.crash_image(3);
    flip_bit(&image, Path::new("/data/logs-0/00000000000000000000.log"), 500);
    let partitions = open(&image).await;
    let tp = tp();
    let open = || partitions.open_or_create(&tp, TOPIC_ID, LogConfig::default(), 0);
    let error = open().await.err().unwrap();
    assert!(matches!(error, PartitionError::Quarantined { .. }), "{error}");
    assert_eq!(open().await.err(), Some(error), "it stays one");
    assert!(partitions.reports()[0].quarantined.is_some());
    assert!(partitions.handle(&tp).is_none());
}

#[tokio::test]
async fn bad_and_missing_indexes_are_rebuilt() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    for i in 0..60 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    partitions.close_all().await.unwrap();
    let good = |name: &str| {
        let file = disk.open(&Path::new("/data/logs-0").join(name), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    let names = file_names(&disk, "/data/logs-0");
    let indexes: Vec<&String> = names.iter().filter(|name| name.ends_with("index")).collect();
    let before: Vec<Vec<u8>> = indexes.iter().map(|name| good(name)).collect();
    disk.remove_file(&Path::new("/data/logs-0").join(indexes[0])).unwrap();
    let cut = disk.open(&Path::new("/data/logs-0").join(indexes[3]), OpenMode::Write).unwrap();
    cut.set_len(5).unwrap();
    flip_bit(&disk, &Path::new("/data/logs-0").join(indexes[4]), before[4].len() as u64 - 1);
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    assert!(partitions.reports()[0].rebuilt_indexes >= 3);
    assert_eq!(read_values(&handle, 0).await.len(), 60);
    let after: Vec<Vec<u8>> = indexes.iter().map(|name| good(name)).collect();
    assert_eq!(after, before);
}

#[tokio::test]
async fn an_index_that_lies_in_the_middle_is_not_believed() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let config = LogConfig { index_interval_bytes: 100, ..LogConfig::default() };
    let handle = partition(&partitions, config.clone()).await;
    for i in 0..60 {
        handle.append(values(&[&format!("value {i}")]), ALL).await.unwrap();
    }
    partitions.close_all().await.unwrap();
    let index = Path::new("/data/logs-0/00000000000000000000.index");
    let len = disk.open(index, OpenMode::Read).unwrap().len().unwrap();
    for at in (7..len - 8).step_by(8) {
        flip_bit(&disk, index, at);
    }
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config).await;
    for offset in 0..60 {
        assert_eq!(read_values(&handle, offset).await[0].0, offset);
    }
}

#[tokio::test]
async fn a_deleted_partition_leaves_nothing_and_can_be_made_again() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    handle.append(values(&["old"]), ALL).await.unwrap();
    let mut poll = handle.watermarks();
    partitions.delete(&tp()).await.unwrap();
    assert!(poll.changed().await.is_ok(), "long polls wake");
    assert_eq!(handle.read(0, 1, true).await.unwrap_err(), PartitionError::Closed);
    assert!(partitions.handle(&tp()).is_none());
    for seed in 0..20 {
        let names = file_names(&disk.crash_image(seed), "/data");
        assert!(!names.iter().any(|name| name.starts_with("logs-0")), "{names:?}");
    }
    let again = TopicId(Uuid::from_u128(8));
    let handle = partitions.open_or_create(&tp(), again, LogConfig::default(), 0).await.unwrap();
    assert_eq!(handle.append(values(&["new"]), ALL).await.unwrap().base_offset, 0);
}

#[tokio::test]
async fn a_namesakes_directory_is_kept_aside() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let old = partition(&partitions, LogConfig::default()).await;
    old.append(values(&["old", "old"]), ALL).await.unwrap();
    let again = TopicId(Uuid::from_u128(8));
    let new = partitions.open_or_create(&tp(), again, LogConfig::default(), 0).await.unwrap();
    assert_eq!(old.read(0, 1, true).await.unwrap_err(), PartitionError::Closed);
    assert_eq!(new.current().log_end, 0);
    new.append(values(&["new"]), ALL).await.unwrap();
    assert_eq!(read_values(&new, 0).await, [(0, "new".to_owned())]);
    let names = file_names(&disk, "/data");
    let stray = names.iter().find(|name| name.ends_with("-stray")).unwrap();
    assert!(stray.starts_with("logs-0."), "{stray}");
    assert!(file_names(&disk, &format!("/data/{stray}")).len() > 3);
    assert_eq!(partitions.unclaimed().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn directories_that_nothing_names_are_left_alone() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    handle.append(values(&["kept"]), ALL).await.unwrap();
    partitions.close_all().await.unwrap();
    let partitions = open(&disk).await;
    assert_eq!(partitions.unclaimed().await.unwrap(), ["logs-0"]);
    partitions.close_all().await.unwrap();
    // Its checkpoints are still there: the next one to open it knows what was durable.
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    assert_eq!(read_values(&handle, 0).await, [(0, "kept".to_owned())]);
}

#[tokio::test]
async fn leader_epochs_are_stored_and_answered() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    handle.append(values(&["a", "b"]), ALL).await.unwrap();
    handle.become_leader(3).await.unwrap();
    handle.append(values(&["c"]), ALL).await.unwrap();
    assert_eq!(handle.leader_epoch(), 3);
    for (epoch, expected) in [(0, (0, 2)), (1, (0, 2)), (3, (3, 3)), (9, (3, 3))] {
        assert_eq!(handle.end_offset_for_epoch(epoch).await, Ok(expected), "{epoch}");
    }
    let stored = read_batches(&handle, 0).await.unwrap();
    let epochs: Vec<i32> = stored.iter().map(|b| b.header.partition_leader_epoch).collect();
    assert_eq!(epochs, [0, 3]);
    for seed in 0..20 {
        let partitions = open(&disk.crash_image(seed)).await;
        let handle = partition(&partitions, LogConfig::default()).await;
        assert_eq!(handle.end_offset_for_epoch(1).await, Ok((0, 2)), "seed {seed}");
        assert_eq!(handle.leader_epoch(), 3, "it never falls");
    }
}

#[tokio::test]
async fn many_appends_at_once_are_answered_in_order() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    let mut pending = Vec::new();
    for i in 0..100 {
        pending.push(handle.submit(values(&[&format!("{i}")]), ALL).await.unwrap());
    }
    let syncs = disk.count(Operation::SyncData);
    for (i, answer) in (0_i64..).zip(pending) {
        assert_eq!(answer.answer().await.unwrap().base_offset, i);
    }
    let syncs = disk.count(Operation::SyncData) - syncs;
    assert!(syncs < 20, "one commit covers many appends: {syncs} syncs");
    assert_eq!(read_values(&handle, 0).await.len(), 100);
}

#[tokio::test]
async fn an_index_entry_is_where_kafka_has_it() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let config = LogConfig { index_interval_bytes: 150, ..LogConfig::default() };
    let handle = partition(&partitions, config).await;
    // One-record batches of 70 bytes: before a batch is written, more than 150 bytes must lie behind the last entry.
    let times = [10_i64, 20, 30, 40, 35, 36, 50, 49, 48, 47];
    for time in times {
        let bytes = batch(&[(time, None, Some("x"))]);
        assert_eq!(bytes.len(), 69);
        handle.append(bytes, ALL).await.unwrap();
    }
    partitions.close_all().await.unwrap();
    let read = |suffix: &str| {
        let path = format!("/data/logs-0/00000000000000000000.{suffix}");
        let file = disk.open(Path::new(&path), OpenMode::Read).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    };
    // Entries for offset 3 at 207 (207 bytes behind), 6 at 414, 9 at 621.
    let offsets = [0, 0, 0, 3, 0, 0, 0, 207, 0, 0, 0, 6, 0, 0, 1, 158, 0, 0, 0, 9, 0, 0, 2, 109];
    assert_eq!(read("index"), offsets);
    // At offset 3 the newest is 40 (offset 3); at 6 it is 50 (offset 6); at 9 nothing rose, nor at the close.
    let times = [[0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 3], [0, 0, 0, 0, 0, 0, 0, 50, 0, 0, 0, 6]];
    assert_eq!(read("timeindex"), times.concat());
}

#[tokio::test]
async fn batches_larger_than_what_is_read_at_once_come_whole() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    let large = "x".repeat(400_000);
    handle.append(values(&[&large]), ALL).await.unwrap();
    handle.append(values(&["small"]), ALL).await.unwrap();
    partitions.close_all().await.unwrap();
    let partitions = open(&disk.crash_image(0)).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    let slice = handle.read(0, 10, true).await.unwrap();
    assert_eq!(slice.len(), values(&[&large]).len());
    assert!(handle.read(0, 10, false).await.unwrap().is_empty());
    assert_eq!(read_values(&handle, 0).await.len(), 2);
}

#[tokio::test]
async fn bytes_is_what_is_stored() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, LogConfig::default()).await;
    for codec in Compression::ALL {
        let sent = compressed(codec, &[(1, Some("k"), Some("v")), (2, None, None)]);
        let at = handle.append(sent.clone(), ALL).await.unwrap().base_offset;
        let stored: Bytes = handle.read(at, 1, true).await.unwrap().records.remove(0);
        assert_eq!(stored[..8], at.to_be_bytes(), "{codec}");
        assert_eq!(stored[8..12], sent[8..12], "{codec}");
        assert_eq!(stored[12..16], 0_i32.to_be_bytes(), "{codec}");
        assert_eq!(stored[16..], sent[16..], "{codec}");
    }
}
