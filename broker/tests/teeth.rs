//! Planted bugs of the partitions' storage: each guarded line is broken, and the promise that it keeps is seen to break.
//! Needs the feature `faults`.
//!
//! A bug is planted for the whole process, so one test does all of them, one after the other. Each promise must hold without
//! its bug, with every seed, and must be seen broken with it, with some seed: otherwise the tooth is blunt.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_broker::log::LogConfig;
use tailway_broker::partition::{
    Acks, AppendOptions, Appended, PartitionError, PartitionHandle, Partitions, PartitionsOptions,
};
use tailway_daemon::clock::Clock;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, OpenMode, Operation, SimDisk};
use tailway_wire::record::{BatchBuilder, BatchIter, Compression};
use uuid::Uuid;

const ALL: fn() -> AppendOptions = || AppendOptions::client(Acks::All);
const WALL: WallMs = WallMs(1_700_000_000_000);
const TEN_YEARS_MS: i64 = 10 * 365 * 24 * 3_600_000;
const SEEDS: std::ops::Range<u64> = 1..30;

/// What is wrong, if the promise does not hold.
type Judged = Result<(), String>;

/// A bug, and what must fail with it.
struct Tooth {
    bug: &'static str,
    promise: fn(u64) -> Judged,
}

const TEETH: &[Tooth] = &[
    Tooth { bug: "broker.full_disk_acked", promise: a_full_disk_acknowledges_nothing },
    Tooth { bug: "broker.group_fenced_singly", promise: a_failed_sync_fences_its_group },
    Tooth { bug: "broker.jumped_clock_believed", promise: a_jumping_clock_deletes_nothing },
    Tooth { bug: "broker.quarantine_served", promise: nothing_of_a_quarantined_log_is_served },
    Tooth { bug: "broker.syncfs_error_ignored", promise: a_failed_syncfs_acknowledges_nothing },
    Tooth {
        bug: "broker.syncfs_used_after_error",
        promise: what_a_failed_syncfs_lost_is_told_later,
    },
];

#[test]
fn every_tooth_bites() {
    for Tooth { bug, promise } in TEETH {
        tailway_faults::plant(None);
        for seed in SEEDS {
            assert_eq!(promise(seed), Ok(()), "seed {seed}, with nothing planted, before {bug}");
        }
        tailway_faults::plant(Some(bug));
        let found = SEEDS.map(|seed| (seed, promise(seed))).find(|(_, judged)| judged.is_err());
        let (seed, judged) =
            found.unwrap_or_else(|| panic!("{bug}: no seed of {SEEDS:?} finds it"));
        println!("{bug}: seed {seed}: {}", judged.unwrap_err());
    }
    tailway_faults::plant(None);
}

fn run(work: impl Future<Output = Judged>) -> Judged {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(work)
}

async fn open(disk: &SimDisk, clock: &Clock) -> Partitions {
    let options = PartitionsOptions {
        disk: Arc::new(disk.clone()),
        data_dir: PathBuf::from("/data"),
        clock: clock.clone(),
        retention_check_interval: Duration::from_mins(5),
        producer_id_expiration: Duration::from_hours(24),
        disk_reserve: 0,
    };
    Partitions::open(options).await.unwrap()
}

fn config() -> LogConfig {
    LogConfig { segment_bytes: 1024, index_interval_bytes: 100, ..LogConfig::default() }
}

async fn handles(partitions: &Partitions, count: i32) -> Vec<PartitionHandle> {
    opened(partitions, count).await.unwrap()
}

async fn opened(partitions: &Partitions, count: i32) -> Result<Vec<PartitionHandle>, String> {
    let mut handles = Vec::new();
    for index in 0..count {
        let tp = TopicPartition::new("logs", index);
        let id = TopicId(Uuid::from_u128(7));
        let opened = partitions.open_or_create(&tp, id, config(), 0).await;
        handles.push(opened.map_err(|error| error.to_string())?);
    }
    Ok(handles)
}

fn batch(value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(WALL.0, None, Some(value.as_bytes()), &[]).unwrap();
    builder.finish().unwrap()
}

/// One append to each at once, and the answers.
async fn round(handles: &[PartitionHandle], value: &str) -> Vec<Result<Appended, PartitionError>> {
    let mut pending = Vec::new();
    for handle in handles {
        pending.push(handle.submit(batch(value), ALL()).await);
    }
    let mut answers = Vec::new();
    for one in pending {
        answers.push(match one {
            Ok(one) => one.answer().await,
            Err(error) => Err(error),
        });
    }
    answers
}

async fn values(handle: &PartitionHandle) -> Vec<String> {
    let mut values = Vec::new();
    let mut next = handle.current().log_start;
    loop {
        let slice = handle.read(next, 4096, true).await.unwrap();
        if slice.is_empty() {
            return values;
        }
        for batch in slice.records.into_iter().flat_map(BatchIter::new) {
            let batch = batch.unwrap();
            next = batch.header.next_offset();
            for record in batch.records(1 << 20).unwrap() {
                let value = record.unwrap().value.unwrap();
                values.push(String::from_utf8(value.to_vec()).unwrap());
            }
        }
    }
}

/// After a power cut: everything that was acknowledged is there.
async fn kept(disk: &SimDisk, seed: u64, acked: &[Vec<&str>]) -> Judged {
    let count = i32::try_from(acked.len()).unwrap();
    let partitions = open(&disk.crash(seed), &Clock::manual(WALL)).await;
    for (index, handle) in opened(&partitions, count).await?.iter().enumerate() {
        let found = values(handle).await;
        for value in &acked[index] {
            if !found.iter().any(|found| found == value) {
                return Err(format!("partition {index} lost the acknowledged {value:?}"));
            }
        }
    }
    Ok(())
}

fn acked_of<'a>(
    acked: &mut [Vec<&'a str>],
    value: &'a str,
    answers: &[Result<Appended, PartitionError>],
) {
    for (acked, answer) in acked.iter_mut().zip(answers) {
        if answer.is_ok() {
            acked.push(value);
        }
    }
}

fn a_full_disk_acknowledges_nothing(seed: u64) -> Judged {
    run(async {
        let disk = SimDisk::with_seed(seed);
        disk.set_capacity(Some(100_000));
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let handles = handles(&partitions, 1).await;
        let mut acked = vec![Vec::new()];
        acked_of(&mut acked, "before", &round(&handles, "before").await);
        let others = disk.open(Path::new("/others"), OpenMode::Create).unwrap();
        others.set_len(disk.free_bytes(Path::new("/")).unwrap() - 30).unwrap();
        acked_of(&mut acked, "without room", &round(&handles, "without room").await);
        kept(&disk, seed, &acked).await
    })
}

fn a_failed_sync_fences_its_group(seed: u64) -> Judged {
    run(async {
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let handles = handles(&partitions, 12).await;
        round(&handles, "before").await;
        disk.fail(Operation::SyncData, 4, io::ErrorKind::Other);
        round(&handles, "during").await;
        let fenced = handles.iter().filter(|handle| handle.failure().is_some()).count();
        if fenced > 1 { Ok(()) } else { Err(format!("{fenced} of a group of 12 is fenced")) }
    })
}

fn a_jumping_clock_deletes_nothing(seed: u64) -> Judged {
    run(async {
        let (disk, clock) = (SimDisk::with_seed(seed), Clock::manual(WALL));
        let partitions = open(&disk, &clock).await;
        let handles = handles(&partitions, 1).await;
        for _ in 0..20 {
            round(&handles, "kept").await;
        }
        clock.set_wall(WallMs(WALL.0 + TEN_YEARS_MS));
        handles[0].run_housekeeping().await.unwrap();
        let left = values(&handles[0]).await.len();
        if left == 20 { Ok(()) } else { Err(format!("{left} of 20 records are left")) }
    })
}

fn nothing_of_a_quarantined_log_is_served(seed: u64) -> Judged {
    run(async {
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let first = handles(&partitions, 1).await;
        for _ in 0..40 {
            round(&first, "value").await;
        }
        partitions.close_all().await.unwrap();
        disk.rot(Path::new("/data/logs-0/00000000000000000000.log"), seed).unwrap();
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let (tp, id) = (TopicPartition::new("logs", 0), TopicId(Uuid::from_u128(7)));
        let Ok(handle) = partitions.open_or_create(&tp, id, config(), 0).await else {
            // The start has found the damage: nothing is served at all.
            return Ok(());
        };
        let end = handle.current().log_end;
        let mut damaged = false;
        for offset in 0..end {
            damaged |= handle.read(offset, 1, true).await.is_err();
        }
        let served = handle.read(end - 1, 1, true).await.is_ok();
        if damaged && served {
            Err("records behind the damage are served".to_owned())
        } else {
            Ok(())
        }
    })
}

fn a_failed_syncfs_acknowledges_nothing(seed: u64) -> Judged {
    run(async {
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let handles = handles(&partitions, 32).await;
        let mut acked = vec![Vec::new(); 32];
        acked_of(&mut acked, "before", &round(&handles, "before").await);
        disk.fail(Operation::SyncFilesystem, 1, io::ErrorKind::Other);
        acked_of(&mut acked, "during", &round(&handles, "during").await);
        kept(&disk, seed, &acked).await
    })
}

/// One log is written while the syncfs of a group that it is not in fails, and its pages are lost with theirs.
fn what_a_failed_syncfs_lost_is_told_later(seed: u64) -> Judged {
    run(async {
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk, &Clock::manual(WALL)).await;
        let handles = handles(&partitions, 64).await;
        let mut acked = vec![Vec::new(); 64];
        acked_of(&mut acked, "before", &round(&handles, "before").await);
        disk.fail(Operation::SyncFilesystem, 1, io::ErrorKind::Other);
        // The first half forms the group; the second is written to the page cache by then and forms the next.
        let mut pending = Vec::new();
        for handle in &handles {
            pending.push(handle.submit(batch("during"), ALL()).await);
            tokio::task::yield_now().await;
        }
        for (acked, one) in acked.iter_mut().zip(pending) {
            let answered = match one {
                Ok(one) => one.answer().await.is_ok(),
                Err(_) => false,
            };
            if answered {
                acked.push("during");
            }
        }
        acked_of(&mut acked, "after", &round(&handles, "after").await);
        kept(&disk, seed, &acked).await
    })
}
