//! A batch on its way into the log and out again: check its CRC, append it, find and frame it for a fetch.
//!
//! The log lies on a real file; syncs are left out, because the disk is not what is measured.

#![allow(clippy::unwrap_used, reason = "a bench ends at the first error")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailway_broker::log::{Log, LogConfig, LogView, PlacedBatch, Told, recover};
use tailway_broker::machine::producers::Producers;
use tailway_metadata::time::WallMs;
use tailway_storage::{Disk, FsDisk};
use tailway_wire::ErrorCode;
use tailway_wire::fetch::{FetchResponse, FetchableTopic, FetchedPartition};
use tailway_wire::messages::{StrBytes, TopicName};
use tailway_wire::record::{Batch, BatchBuilder, Compression};

const NOW: WallMs = WallMs(1_700_000_000_000);
const RECORDS: i64 = 160;
/// Bytes that a consumer asks for, by default, of a partition.
const FETCH: usize = 1 << 20;

/// 160 records of 100 bytes: what a Java producer's default batch holds.
fn batch() -> Bytes {
    let mut builder = BatchBuilder::new(Compression::None);
    for _ in 0..RECORDS {
        builder.append(NOW.0, None, Some(&[b'x'; 100]), &[]).unwrap();
    }
    builder.finish().unwrap()
}

fn check(criterion: &mut Criterion) {
    let bytes = batch();
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse and check", |bench| {
        bench.iter(|| Batch::parse(black_box(&bytes)).unwrap().validate().unwrap());
    });
    group.finish();
}

struct Opened {
    log: Log,
    view: Arc<LogView>,
    producers: Producers,
}

fn open(dir: &Path) -> Opened {
    let disk: Arc<dyn Disk> = Arc::new(FsDisk);
    let told = Told {
        disk: &disk,
        dir,
        clean: false,
        recovery_point: 0,
        log_start: 0,
        index_interval: 4096,
        compacted: false,
        now: NOW,
    };
    let found = recover(&told).unwrap();
    let active = Arc::clone(found.segments.last().unwrap());
    let view = Arc::new(LogView::new(found.segments, found.epochs, 0));
    let log = Log::new(
        Arc::clone(&disk),
        dir,
        LogConfig::default(),
        Arc::clone(&view),
        active,
        Vec::new(),
    );
    Opened { log, view, producers: found.producers }
}

impl Opened {
    fn append(&mut self, batch: &Batch) {
        let (header, parts) = batch.assigned(self.log.log_end(), 0, None);
        self.log.append(&[PlacedBatch { header, parts }], &self.producers, NOW).unwrap();
    }
}

fn append(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let batch = Batch::parse(&batch()).unwrap();
    let mut group = criterion.benchmark_group("log");
    group.throughput(Throughput::Bytes(batch.bytes.len() as u64));
    group.bench_function("check and append", |bench| {
        bench.iter(|| {
            batch.validate().unwrap();
            opened.append(&batch);
        });
    });
    group.finish();
}

fn fetch(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path());
    let batch = Batch::parse(&batch()).unwrap();
    for _ in 0..1_000 {
        opened.append(&batch);
    }
    let (end, view) = (opened.log.log_end(), opened.view);
    let mut group = criterion.benchmark_group("fetch");
    group.throughput(Throughput::Bytes(FETCH as u64));
    let mut offset = 0;
    group.bench_function("find, read and frame 1 MiB", |bench| {
        bench.iter(|| {
            offset = (offset + 7 * RECORDS) % (end / 2);
            let records = view.read(offset, end, FETCH, true).unwrap();
            let partition = FetchedPartition::read(0, end, 0, vec![records]);
            let response = FetchResponse {
                throttle_time_ms: 0,
                error_code: ErrorCode::NONE,
                session_id: 0,
                topics: vec![FetchableTopic {
                    name: TopicName(StrBytes::from_static_str("logs")),
                    partitions: vec![partition],
                }],
            };
            response.encode(11, 1).unwrap()
        });
    });
    group.finish();
}

criterion_group!(broker, check, append, fetch);
criterion_main!(broker);
