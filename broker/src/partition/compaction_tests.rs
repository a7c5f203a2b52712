//! Compaction through the door: what stays, what goes, what never changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tailway_daemon::clock::Clock;
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, OpenMode, SimDisk};
use tailway_wire::record::Compression;

use super::test_support::*;
use super::*;
use crate::log::{Compaction, LogConfig};

const ALL: AppendOptions = AppendOptions { acks: Acks::All, origin: AppendOrigin::Client };

fn config() -> LogConfig {
    LogConfig { compact: true, delete_retention_ms: 1_000, ..small_segments() }
}

/// Offset -> (key, value) of all records; checks that batches rise.
async fn records(handle: &PartitionHandle) -> BTreeMap<i64, (String, Option<String>)> {
    let mut all = BTreeMap::new();
    let mut next = 0;
    for batch in read_batches(handle, 0).await.unwrap() {
        assert!(batch.header.base_offset >= next);
        next = batch.header.next_offset();
        for record in batch.records(1 << 20).unwrap() {
            let record = record.unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let value = record.value.as_deref().map(text);
            all.insert(record.offset, (text(&record.key.unwrap()), value));
        }
    }
    all
}

/// Appends 200 batches of three records over ten keys, in every codec; key 9 is deleted at the end, and what follows
/// goes on for long enough that all of it is in sealed segments.
async fn fill(handle: &PartitionHandle) -> BTreeMap<i64, (String, Option<String>)> {
    let mut all = BTreeMap::new();
    let mut random = Random::new(5);
    for i in 0..200_usize {
        let keys: Vec<String> = (0..3).map(|_| format!("key {}", random.below(9))).collect();
        let value = format!("value {i}");
        let deleted = i == 100;
        let rows: Vec<Row<'_>> = keys
            .iter()
            .enumerate()
            .map(|(k, key)| match (deleted, k) {
                (true, 0) => (WALL.0, Some("key 9"), Some("short-lived")),
                (true, 1) => (WALL.0, Some("key 9"), None),
                _ => (WALL.0, Some(key.as_str()), Some(value.as_str())),
            })
            .collect();
        let bytes = compressed(Compression::ALL[i % 5], &rows);
        let base = handle.append(bytes, ALL).await.unwrap().base_offset;
        for (offset, (_, key, value)) in (base..).zip(rows) {
            all.insert(offset, (key.unwrap().to_owned(), value.map(str::to_owned)));
        }
    }
    all
}

/// The latest value of each key.
fn latest(
    records: &BTreeMap<i64, (String, Option<String>)>,
) -> BTreeMap<String, (i64, Option<String>)> {
    let rows = records.iter();
    rows.map(|(offset, (key, value))| (key.clone(), (*offset, value.clone()))).collect()
}

#[tokio::test]
async fn the_last_value_of_each_key_stays_at_its_offset() {
    let disk = SimDisk::new();
    let clock = Clock::manual(WALL);
    let partitions = Partitions::open(options(Arc::new(disk.clone()), &clock)).await.unwrap();
    let handle = partition(&partitions, config()).await;
    let written = fill(&handle).await;
    let before = handle.size_bytes();
    handle.run_housekeeping().await.unwrap();
    let kept = records(&handle).await;
    assert!(handle.size_bytes() * 4 < before, "{} of {before}", handle.size_bytes());
    assert!(kept.iter().all(|(offset, record)| written[offset] == *record));
    assert_eq!(latest(&kept), latest(&written));
    assert_eq!(kept.get(&300), None, "replaced by the tombstone behind it");
    assert_eq!(handle.current(), Watermarks { log_start: 0, high_watermark: 600, log_end: 600 });
    // Whoever stands where records are gone gets the next ones.
    for offset in [0, 1, 100, 300, 599] {
        let found = read_values(&handle, offset).await;
        assert_eq!(found.last().unwrap().0, *kept.keys().last().unwrap());
    }

    // The tombstone goes once it was seen by a pass and is old enough, and more was written to be compacted.
    assert_eq!(latest(&kept)["key 9"], (301, None));
    clock.set_wall(WallMs(WALL.0 + 2_000));
    let more = fill_plain(&handle, 60).await;
    handle.run_housekeeping().await.unwrap();
    let kept = records(&handle).await;
    assert_eq!(latest(&kept).get("key 9"), None);
    assert_eq!(latest(&kept)["plain"], more);

    partitions.close_all().await.unwrap();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    assert_eq!(records(&handle).await, kept, "after a restart");
    assert_eq!(partitions.reports()[0].rebuilt_indexes, 0, "its indexes are right");
}

/// Appends `count` large records of one key; the last of them.
async fn fill_plain(handle: &PartitionHandle, count: i64) -> (i64, Option<String>) {
    let mut last = 0;
    let value = "x".repeat(200);
    for _ in 0..count {
        let bytes = batch(&[(WALL.0, Some("plain"), Some(value.as_str()))]);
        last = handle.append(bytes, ALL).await.unwrap().base_offset;
    }
    (last, Some(value))
}

#[tokio::test]
async fn segments_meet_without_a_hole_and_small_ones_are_joined() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    fill(&handle).await;
    let logs = |disk: &SimDisk| {
        let names = file_names(disk, "/data/logs-0");
        names.into_iter().filter(|name| has_suffix(name, "log")).collect::<Vec<_>>()
    };
    let before = logs(&disk).len();
    handle.run_housekeeping().await.unwrap();
    // By their sizes then they fitted into no common segment; now they do.
    fill_plain(&handle, 90).await;
    handle.run_housekeeping().await.unwrap();
    let joined = logs(&disk).len();
    assert!(joined < before + 30, "{joined} of {before}");
    let view = &handle.shared.view;
    let segments = view.segments();
    for pair in segments.windows(2) {
        assert_eq!(pair[0].next_offset(), pair[1].base_offset());
    }
    let leftovers = file_names(&disk, "/data/logs-0");
    assert!(!leftovers.iter().any(|name| name.contains(".cleaned") || name.contains(".swap")));
}

#[tokio::test]
async fn producers_are_still_known_when_their_last_batch_is_compacted() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    let mut builder = tailway_wire::record::BatchBuilder::new(Compression::Zstd);
    for sequence in 0..3 {
        builder.set_producer(77, 0, sequence);
        builder.append(WALL.0, Some(b"plain"), Some(b"old"), &[]).unwrap();
        handle.append(builder.finish().unwrap(), ALL).await.unwrap();
    }
    fill_plain(&handle, 40).await;
    handle.run_housekeeping().await.unwrap();
    let first = &read_batches(&handle, 0).await.unwrap()[0];
    let place = (first.header.base_offset, first.header.records_count, first.header.producer_id);
    assert_eq!(place, (2, 0, 77), "an empty batch keeps the producer's place");
    // Nothing but the log is left to know it from.
    partitions.close_all().await.unwrap();
    for name in file_names(&disk, "/data/logs-0") {
        if has_suffix(&name, "snapshot") {
            disk.remove_file(&Path::new("/data/logs-0").join(name)).unwrap();
        }
    }
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    builder.set_producer(77, 0, 2);
    builder.append(WALL.0, Some(b"plain"), Some(b"again"), &[]).unwrap();
    let again = handle.append(builder.finish().unwrap(), ALL).await.unwrap();
    assert_eq!(again.base_offset, 2, "recognised");
}

#[tokio::test]
async fn a_small_map_takes_several_passes_and_ends_the_same() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    let written = fill(&handle).await;
    let mut first_dirty = 0;
    let mut passes = 0;
    let sealed_end = handle.shared.view.segments().last().unwrap().base_offset();
    while first_dirty < sealed_end {
        let compaction = Compaction {
            disk: Arc::new(disk.clone()),
            dir: Path::new("/data/logs-0").to_path_buf(),
            view: Arc::clone(&handle.shared.view),
            limit: handle.current().high_watermark,
            first_dirty,
            segment_bytes: 1024,
            index_interval: 100,
            delete_retention_ms: 1_000,
            map_bytes_max: 300,
            keep_offsets: Vec::new(),
            now: WALL,
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        let cleaned = compaction.run().unwrap();
        assert!(cleaned > first_dirty, "each pass gets on: {cleaned}");
        first_dirty = cleaned;
        passes += 1;
    }
    assert!(passes > 3, "{passes}");
    assert_eq!(latest(&records(&handle).await), latest(&written));
}

#[tokio::test]
async fn damage_found_by_compaction_quarantines() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handle = partition(&partitions, config()).await;
    fill(&handle).await;
    let path = Path::new("/data/logs-0/00000000000000000000.log");
    flip_bit(&disk, path, 70);
    let before = disk.open(path, OpenMode::Read).unwrap().len().unwrap();
    handle.run_housekeeping().await.unwrap();
    let refused = handle.append(values(&["x"]), ALL).await.unwrap_err();
    assert!(matches!(refused, PartitionError::Quarantined { .. }), "{refused}");
    assert_eq!(disk.open(path, OpenMode::Read).unwrap().len().unwrap(), before);
}
