//! Commit groups over many partitions: one syncfs, one failure that fences all of them, power cuts in between.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use tailway_metadata::ids::TopicPartition;
use tailway_storage::{Operation, SimDisk};

use super::test_support::*;
use super::*;

const ALL: AppendOptions = AppendOptions { acks: Acks::All, origin: AppendOrigin::Client };

/// More than the crossover, so that a group of them all is worth a syncfs.
const MANY: i32 = 32;

async fn many(partitions: &Partitions, count: i32) -> Vec<PartitionHandle> {
    let mut handles = Vec::new();
    for index in 0..count {
        let tp = TopicPartition::new("logs", index);
        let opened = partitions.open_or_create(&tp, TOPIC_ID, small_segments(), 0);
        handles.push(opened.await.unwrap());
    }
    handles
}

type Answers = Vec<Result<Appended, PartitionError>>;

/// One append to each, all at once; the answers in the order of the partitions.
async fn round(handles: &[PartitionHandle], value: &str) -> Answers {
    let mut pending = Vec::new();
    for handle in handles {
        pending.push(handle.submit(values(&[value]), ALL).await);
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

/// All values by partition, after a restart.
async fn found(disk: &SimDisk, count: i32) -> Vec<Vec<(i64, String)>> {
    let partitions = open(disk).await;
    let mut all = Vec::new();
    for handle in many(&partitions, count).await {
        all.push(read_values(&handle, 0).await);
    }
    all
}

#[tokio::test(start_paused = true)]
async fn one_partition_alone_costs_one_fdatasync_and_many_cost_one_syncfs() {
    let disk = SimDisk::new();
    let partitions = open(&disk).await;
    let handles = many(&partitions, MANY).await;
    round(&handles, "first").await;
    let syncs =
        |disk: &SimDisk| (disk.count(Operation::SyncData), disk.count(Operation::SyncFilesystem));
    let before = syncs(&disk);
    for _ in 0..5 {
        round(&handles[..1], "alone").await[0].as_ref().unwrap();
    }
    assert_eq!(syncs(&disk), (before.0 + 5, before.1), "nothing but its own file is synced");
    let before = syncs(&disk);
    for answer in round(&handles, "together").await {
        answer.unwrap();
    }
    let after = syncs(&disk);
    assert!(after.1 > before.1, "a group of {MANY} is synced at once");
    assert!(after.0 - before.0 < 24, "and hardly any file by itself: {before:?} {after:?}");
    for (index, values) in found(&disk.crash(1), MANY).await.iter().enumerate() {
        assert_eq!(values.last().map(|(_, value)| value.as_str()), Some("together"), "{index}");
    }
}

/// The error of a syncfs names nobody and is told once: nobody of the group is acknowledged, and the next group, whose pages
/// may have been lost with theirs, does not trust another syncfs.
#[tokio::test(start_paused = true)]
async fn a_failed_syncfs_acknowledges_nothing_and_is_never_asked_again() {
    const TWICE: i32 = 2 * MANY;
    for seed in seeds(1..=10) {
        println!("seed {seed}");
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk).await;
        let handles = many(&partitions, TWICE).await;
        let mut acked: Vec<Vec<&str>> = vec![Vec::new(); handles.len()];
        let mut note = |answers: &Answers, value: &'static str| {
            for (acked, answer) in acked.iter_mut().zip(answers) {
                if answer.is_ok() {
                    acked.push(value);
                }
            }
        };
        note(&round(&handles, "before").await, "before");
        disk.fail(Operation::SyncFilesystem, 1, io::ErrorKind::Other);
        let (group, others) = handles.split_at(handles.len() / 2);
        let answers = round(group, "during").await;
        note(&answers, "during");
        assert!(others.iter().all(|handle| handle.failure().is_none()), "seed {seed}");
        let failed = disk.count(Operation::SyncFilesystem);
        let fenced = answers.iter().filter(|answer| answer.is_err()).count();
        assert!(fenced > 8, "seed {seed}: a whole group, not {fenced}");
        for (handle, answer) in group.iter().zip(&answers) {
            let refused = matches!(handle.failure(), Some(PartitionError::Storage { .. }));
            assert!(refused || answer.is_ok(), "seed {seed}: {answer:?}");
        }
        // Whoever is not fenced goes on, each by its own files.
        for _ in 0..3 {
            note(&round(&handles, "after").await, "after");
        }
        assert_eq!(disk.count(Operation::SyncFilesystem), failed, "seed {seed}: asked again");
        for (index, values) in found(&disk.crash(seed), TWICE).await.iter().enumerate() {
            let values: Vec<&str> = values.iter().map(|(_, value)| value.as_str()).collect();
            for value in &acked[index] {
                assert!(values.contains(value), "seed {seed} partition {index}: {value} is lost");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_failed_fdatasync_fences_its_whole_group() {
    const FEW: i32 = 12;
    for seed in seeds(1..=10) {
        println!("seed {seed}");
        let disk = SimDisk::with_seed(seed);
        let partitions = open(&disk).await;
        let handles = many(&partitions, FEW).await;
        for answer in round(&handles, "before").await {
            answer.unwrap();
        }
        disk.fail(Operation::SyncData, 4, io::ErrorKind::Other);
        let answers = round(&handles, "during").await;
        let fenced = handles.iter().filter(|handle| handle.failure().is_some()).count();
        assert!(fenced > 1, "seed {seed}: only the one whose file it was");
        assert_eq!(disk.count(Operation::SyncFilesystem), 0, "few files are synced each");
        for (handle, answer) in handles.iter().zip(&answers) {
            let Some(failure) = handle.failure() else { continue };
            assert!(matches!(failure, PartitionError::Storage { .. }), "{failure}");
            assert_eq!(handle.append(values(&["after"]), ALL).await, Err(failure), "{answer:?}");
        }
        for (index, values) in found(&disk.crash(seed), FEW).await.iter().enumerate() {
            if answers[index].is_ok() {
                assert!(values.iter().any(|(_, value)| value == "during"), "{seed} {index}");
            }
        }
    }
}

/// Acknowledged values by partition.
type Acked = BTreeMap<usize, Vec<String>>;

/// Crash images opened of each run.
const IMAGES_PER_SEED: usize = 10;

#[tokio::test(start_paused = true)]
async fn acknowledged_records_survive_a_power_cut_around_any_syncfs() {
    for seed in seeds(1..=3) {
        println!("seed {seed}");
        let images = Images::<Acked>::default();
        let acked = Arc::new(Mutex::new(Acked::new()));
        let (taken, known) = (images.clone(), Arc::clone(&acked));
        let crash_seed = Arc::new(Mutex::new(Random::new(seed)));
        let disk = SimDisk::with_seed(seed);
        disk.on_event(move |disk, event| {
            if event.operation() == Some(Operation::SyncFilesystem) {
                let acked = known.lock().unwrap().clone();
                let seed = crash_seed.lock().unwrap().below(u64::MAX);
                taken.push(disk.crash_image(seed), acked);
            }
        });
        let partitions = open(&disk).await;
        let handles = many(&partitions, MANY).await;
        // Large enough that segments roll now and then.
        for number in 0..20 * IMAGES_PER_SEED {
            if images.count() >= 2 * IMAGES_PER_SEED {
                break;
            }
            let value = format!("{number} {}", "v".repeat(40 * (number % 10)));
            for (index, answer) in round(&handles, &value).await.into_iter().enumerate() {
                answer.unwrap();
                acked.lock().unwrap().entry(index).or_default().push(value.clone());
            }
        }
        let mut images = images.take();
        images.drain(..images.len() - IMAGES_PER_SEED);
        for (n, (image, acked)) in images.iter().enumerate() {
            for (index, values) in found(image, MANY).await.iter().enumerate() {
                let expected = acked.get(&index).map_or(&[][..], Vec::as_slice);
                let values: Vec<&String> = values.iter().map(|(_, value)| value).collect();
                let kept: Vec<&String> = values.into_iter().take(expected.len()).collect();
                let expected: Vec<&String> = expected.iter().collect();
                assert_eq!(kept, expected, "seed {seed} image {n} partition {index}");
            }
        }
    }
}
