//! From bytes of a file to a batch: split into lines, encode as events, build the batch.

#![allow(clippy::unwrap_used, reason = "a bench ends at the first error")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tailway_agent::event::{EventWriter, FilePart, Format, Sender};
use tailway_agent::machine::lines::Lines;
use tailway_metadata::time::WallMs;
use tailway_wire::record::{BatchBuilder, Compression};

/// One read of the agent.
const CHUNK: usize = 256 << 10;
const LINE_MAX: usize = 256 << 10;
const AT: WallMs = WallMs(1_700_000_000_000);

/// Access log lines, some 140 bytes each.
fn chunk() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CHUNK + 200);
    for n in 0_u32.. {
        if bytes.len() >= CHUNK {
            break;
        }
        let line = format!(
            "10.{}.{}.{} - - [27/Nov/2026:10:00:{:02} +0000] \"GET /api/items/{n}?q=\\u00e4 HTTP/1.1\" 200 {} \"-\" \"curl/8.5.0\" rt=0.{:03}\n",
            n % 7,
            n % 251,
            n % 13,
            n % 60,
            n * 7 % 65_536,
            n % 1_000
        );
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes
}

fn sender() -> Sender {
    Sender {
        name: "web-1.example.com".to_owned(),
        id: "0b2b4f3a-3f52-4c62-9a0b-000000000001".to_owned(),
        ephemeral_id: "0b2b4f3a-3f52-4c62-9a0b-000000000002".to_owned(),
        beat_version: "8.14.4".to_owned(),
    }
}

fn each_line(bytes: &[u8], mut act: impl FnMut(u64, &[u8])) {
    Lines::new(0, LINE_MAX).take(0, bytes, || true, |line| act(line.offset, line.text));
}

fn split(criterion: &mut Criterion) {
    let bytes = chunk();
    let mut group = criterion.benchmark_group("lines");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("split", |bench| {
        bench.iter(|| {
            let mut lines = 0_u64;
            each_line(black_box(&bytes), |_, text| lines += u64::from(!text.is_empty()));
            lines
        });
    });
    group.finish();
}

fn encode(criterion: &mut Criterion) {
    let bytes = chunk();
    let mut writer = EventWriter::new(&sender());
    writer.set_time(AT);
    let mut group = criterion.benchmark_group("events, per byte of line");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for format in [Format::Raw, Format::Ecs] {
        let file = FilePart::new(format, b"/var/log/nginx/access.log");
        let mut out = Vec::new();
        group.bench_function(format.name(), |bench| {
            bench.iter(|| {
                out.clear();
                each_line(&bytes, |offset, text| writer.write(&mut out, &file, offset, text));
                out.len()
            });
        });
    }
    group.finish();
}

fn build(criterion: &mut Criterion) {
    let bytes = chunk();
    let mut group = criterion.benchmark_group("batch of raw lines, per byte of line");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for codec in [Compression::None, Compression::Lz4, Compression::Zstd] {
        group.bench_function(format!("{codec:?}"), |bench| {
            bench.iter_batched_ref(
                || BatchBuilder::with_capacity(codec, 2 * CHUNK),
                |builder| {
                    each_line(&bytes, |_, text| {
                        builder.append(AT.0, None, Some(text), &[]).unwrap();
                    });
                    builder.finish().unwrap()
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(agent, split, encode, build);
criterion_main!(agent);
