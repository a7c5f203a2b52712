//! A disk that fills up: refusals with a reason, nothing acknowledged lost, nothing half-written left, and all goes on by
//! itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::clock::Clock;
use tailway_metadata::ids::TopicPartition;
use tailway_storage::{Disk, DiskFile, OpenMode, SimDisk};

use super::test_support::*;
use super::*;

const ALL: AppendOptions = AppendOptions { acks: Acks::All, origin: AppendOrigin::Client };

/// The disk; a twentieth of it is held back, and below a hundredth records are refused.
const CAPACITY: u64 = 1_000_000;
const RESERVE: u64 = CAPACITY / 20;

/// Longer than it may take until records are taken again.
const PATIENCE: Duration = Duration::from_secs(5);

async fn open_with_reserve(disk: &SimDisk) -> Partitions {
    let options = options(Arc::new(disk.clone()), &Clock::manual(WALL));
    Partitions::open(PartitionsOptions { disk_reserve: RESERVE, ..options }).await.unwrap()
}

/// What somebody else keeps on the same disk.
fn others(disk: &SimDisk) -> Arc<dyn DiskFile> {
    disk.open(Path::new("/others"), OpenMode::Create).unwrap()
}

/// Leaves this much free.
fn fill(disk: &SimDisk, free: u64) {
    let file = others(disk);
    let now = disk.free_bytes(Path::new("/")).unwrap();
    file.set_len(file.len().unwrap() + now - free).unwrap();
}

fn is_full<T: std::fmt::Debug>(result: &Result<T, PartitionError>) -> bool {
    matches!(result, Err(PartitionError::DiskFull { .. }))
}

#[tokio::test(start_paused = true)]
async fn records_are_refused_and_all_else_goes_on_until_there_is_room() {
    let disk = SimDisk::with_capacity(CAPACITY);
    let partitions = open_with_reserve(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    handle.append(values(&["before"]), ALL).await.unwrap();
    fill(&disk, 5_000);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = handle.append(values(&["refused"]), ALL).await;
    assert!(is_full(&refused), "{refused:?}");
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("nearly full") && said.contains("free space"), "{said}");
    assert_eq!(handle.failure(), None, "nothing is broken");
    assert_eq!(read_values(&handle, 0).await, [(0, "before".to_owned())]);
    // Somebody takes the last bytes too: the reserve goes, and commits live on it.
    fill(&disk, 0);
    let commit = AppendOptions::group_coordinator();
    for number in 1..=20 {
        let committed = handle.append(values(&["commit"]), commit).await.unwrap();
        assert_eq!(committed.base_offset, number);
    }
    assert!(!disk.exists(&data_dir().join("disk.reserve")).unwrap());
    let report = partitions.storage().disk;
    assert_eq!((report.refusing, report.reserve_bytes), (true, 0), "{report:?}");
    // Deletions work, and make room by themselves.
    partitions
        .open_or_create(&TopicPartition::new("old", 0), TOPIC_ID, small_segments(), 0)
        .await
        .unwrap();
    partitions.delete(&TopicPartition::new("old", 0)).await.unwrap();
    assert!(is_full(&handle.append(values(&["refused"]), ALL).await));
    others(&disk).set_len(0).unwrap();
    tokio::time::sleep(PATIENCE).await;
    let after = handle.append(values(&["after"]), ALL).await.unwrap();
    assert_eq!(after.base_offset, 21);
    let report = partitions.storage().disk;
    assert_eq!((report.refusing, report.reserve_bytes), (false, RESERVE), "{report:?}");
    partitions.close_all().await.unwrap();
}

/// Somebody else takes the space between two looks, so that writes find the disk full, at every byte that they can stop at.
#[tokio::test(start_paused = true)]
async fn a_write_that_stops_in_the_middle_leaves_nothing_behind_and_loses_nothing() {
    let mut stopped = 0;
    for seed in seeds(1..=60) {
        let disk = SimDisk::with_seed(seed);
        disk.set_capacity(Some(CAPACITY));
        // No reserve: nothing helps out.
        let partitions = open(&disk).await;
        let handle = partition(&partitions, small_segments()).await;
        let mut random = Random::new(seed);
        let mut acked: Vec<(i64, String)> = Vec::new();
        let mut sequence = 0;
        for _ in 0..8 {
            fill(&disk, random.below(700));
            // A producer with several batches in flight: what follows the one that failed must not get in before it.
            let mut sent = Vec::new();
            for number in sequence..sequence + 5 {
                let value = format!("{number} {}", "v".repeat(50));
                let pending = handle.submit(idempotent(9, 0, number, &value), ALL).await;
                sent.push((number, value, pending));
            }
            let mut failed = false;
            for (number, value, pending) in sent {
                let answer = match pending {
                    Ok(pending) => pending.answer().await,
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(appended) => {
                        assert!(!failed, "seed {seed}: {number} overtook one that failed");
                        acked.push((appended.base_offset, value));
                        sequence = number + 1;
                    }
                    Err(error) => {
                        let known = matches!(
                            error,
                            PartitionError::DiskFull { .. }
                                | PartitionError::OutOfOrderSequence { .. }
                        );
                        assert!(known, "seed {seed}: {error}");
                        failed = true;
                    }
                }
            }
            stopped += u32::from(failed);
            assert_eq!(handle.failure(), None, "seed {seed}");
            // A power cut now: what was acknowledged is there, once, and nothing of the rest is in the way.
            let image = disk.crash_image(random.below(u64::MAX));
            image.set_capacity(None);
            let again = open(&image).await;
            let handle = partition(&again, small_segments()).await;
            let found = read_values(&handle, 0).await;
            assert_eq!(found[..acked.len()], acked, "seed {seed}");
            let resent = format!("{sequence} {}", "v".repeat(50));
            let answer = handle.append(idempotent(9, 0, sequence, &resent), ALL).await.unwrap();
            let place = usize::try_from(answer.base_offset).unwrap();
            assert!(place <= found.len(), "seed {seed}");
            others(&disk).set_len(0).unwrap();
            tokio::time::sleep(PATIENCE).await;
        }
        assert_eq!(read_values(&handle, 0).await, acked, "seed {seed}: nothing twice, no hole");
        partitions.close_all().await.unwrap();
        let again = open(&disk).await;
        let handle = partition(&again, small_segments()).await;
        assert_eq!(again.reports()[0].trimmed_bytes, 0, "seed {seed}: a clean stop left no rest");
        assert_eq!(read_values(&handle, 0).await, acked, "seed {seed}");
    }
    assert!(stopped > 100, "the disk must have been full often: {stopped}");
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_write_is_cut_off_at_once() {
    let disk = SimDisk::with_capacity(CAPACITY);
    let partitions = open(&disk).await;
    let handle = partition(&partitions, small_segments()).await;
    handle.append(values(&["before"]), ALL).await.unwrap();
    let log = PathBuf::from("/data/logs-0/00000000000000000000.log");
    let before = disk.live_image(&log).unwrap();
    fill(&disk, 40);
    let pending = handle.submit(values(&["a value that needs more than forty bytes"]), ALL).await;
    let answer = pending.unwrap().answer().await;
    assert!(is_full(&answer), "{answer:?}");
    assert_eq!(disk.live_image(&log), Some(before));
}
