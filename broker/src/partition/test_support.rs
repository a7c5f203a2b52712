//! What the tests of partitions share: batches with known content, a registry on a disk in memory, reading back.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Pulses;
use tailway_daemon::clock::Clock;
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, OpenMode, Operation, SimDisk};
use tailway_wire::record::{Batch, BatchBuilder, BatchIter, Compression};
use uuid::Uuid;

use super::*;
use crate::log::LogConfig;

pub(super) const WALL: WallMs = WallMs(1_700_000_000_000);
pub(super) const TOPIC_ID: TopicId = TopicId(Uuid::from_u128(7));

/// One record: timestamp, key, value.
pub(super) type Row<'a> = (i64, Option<&'a str>, Option<&'a str>);

pub(super) fn batch(rows: &[Row<'_>]) -> Bytes {
    compressed(Compression::None, rows)
}

pub(super) fn compressed(compression: Compression, rows: &[Row<'_>]) -> Bytes {
    let mut builder = BatchBuilder::new(compression);
    for (timestamp, key, value) in rows {
        builder.append(*timestamp, key.map(str::as_bytes), value.map(str::as_bytes), &[]).unwrap();
    }
    builder.finish().unwrap()
}

/// A batch of one record per value, all at one time.
pub(super) fn values(values: &[&str]) -> Bytes {
    let rows: Vec<Row<'_>> = values.iter().map(|value| (WALL.0, None, Some(*value))).collect();
    batch(&rows)
}

pub(super) fn idempotent(producer_id: i64, epoch: i16, sequence: i32, value: &str) -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(producer_id, epoch, sequence);
    builder.append(WALL.0, None, Some(value.as_bytes()), &[]).unwrap();
    builder.finish().unwrap()
}

pub(super) fn tp() -> TopicPartition {
    TopicPartition::new("logs", 0)
}

pub(super) fn data_dir() -> PathBuf {
    PathBuf::from("/data")
}

pub(super) fn options(disk: Arc<dyn Disk>, clock: &Clock) -> PartitionsOptions {
    PartitionsOptions {
        disk,
        data_dir: data_dir(),
        clock: clock.clone(),
        retention_check_interval: Duration::from_mins(5),
        producer_id_expiration: Duration::from_hours(24),
        disk_reserve: 0,
        pulses: Pulses::default(),
    }
}

pub(super) async fn open(disk: &(impl Disk + Clone + 'static)) -> Partitions {
    Partitions::open(options(Arc::new(disk.clone()), &Clock::manual(WALL))).await.unwrap()
}

/// The partition `logs-0` with `config`.
pub(super) async fn partition(partitions: &Partitions, config: LogConfig) -> PartitionHandle {
    partitions.open_or_create(&tp(), TOPIC_ID, config, 0).await.unwrap()
}

pub(super) fn small_segments() -> LogConfig {
    LogConfig { segment_bytes: 1024, index_interval_bytes: 100, ..LogConfig::default() }
}

/// All visible batches from `offset` on.
pub(super) async fn read_batches(
    handle: &PartitionHandle,
    offset: i64,
) -> Result<Vec<Batch>, PartitionError> {
    let (mut next, mut batches) = (offset, Vec::new());
    loop {
        let slice = handle.read(next, 700, true).await?;
        if slice.is_empty() {
            return Ok(batches);
        }
        for bytes in slice.records {
            for batch in BatchIter::new(bytes) {
                let batch = batch.unwrap();
                batch.validate().unwrap();
                next = batch.header.next_offset();
                batches.push(batch);
            }
        }
    }
}

/// Offset and value of all visible records from `offset` on.
pub(super) async fn read_values(handle: &PartitionHandle, offset: i64) -> Vec<(i64, String)> {
    let mut values = Vec::new();
    for batch in read_batches(handle, offset).await.unwrap() {
        for record in batch.records(1 << 20).unwrap() {
            let record = record.unwrap();
            let value = record.value.as_deref().unwrap_or(b"(none)");
            values.push((record.offset, String::from_utf8(value.to_vec()).unwrap()));
        }
    }
    values
}

pub(super) fn file_names(disk: &dyn Disk, dir: &str) -> Vec<String> {
    disk.list(Path::new(dir)).unwrap().into_iter().map(|entry| entry.name).collect()
}

pub(super) fn has_suffix(name: &str, suffix: &str) -> bool {
    Path::new(name).extension().is_some_and(|found| found == suffix)
}

pub(super) fn flip_bit(disk: &dyn Disk, path: &Path, at: u64) {
    let file = disk.open(path, OpenMode::Write).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_at(&[byte[0] ^ 1], at).unwrap();
    file.sync_data().unwrap();
}

/// The seeds of a test: `TAILWAY_SEEDS=7` or `TAILWAY_SEEDS=1-500` repeats or extends it.
pub(super) fn seeds(default: RangeInclusive<u64>) -> RangeInclusive<u64> {
    let Ok(asked) = std::env::var("TAILWAY_SEEDS") else { return default };
    let (first, last) = asked.split_once('-').unwrap_or((&asked, &asked));
    first.parse().unwrap()..=last.parse().unwrap()
}

/// A small generator, so that a failure is repeated by its seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// A disk that calls a hook after each call that changes it.
pub(super) fn watched_disk(hook: impl Fn(&SimDisk) + Send + Sync + 'static) -> SimDisk {
    let disk = SimDisk::new();
    disk.on_event(move |disk, event| {
        if event.operation().is_some_and(Operation::changes_disk) {
            hook(disk);
        }
    });
    disk
}

/// Collects crash images up to a number of them.
#[derive(Clone, Default)]
pub(super) struct Images<T> {
    taken: Arc<Mutex<Vec<(SimDisk, T)>>>,
}

impl<T> Images<T> {
    pub(super) fn push(&self, image: SimDisk, what: T) {
        self.taken.lock().unwrap().push((image, what));
    }

    pub(super) fn count(&self) -> usize {
        self.taken.lock().unwrap().len()
    }

    pub(super) fn take(&self) -> Vec<(SimDisk, T)> {
        std::mem::take(&mut self.taken.lock().unwrap())
    }
}
