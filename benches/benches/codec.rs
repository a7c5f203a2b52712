//! The five codecs over what the agent sends: events of 512 KiB.

#![allow(clippy::unwrap_used, reason = "a bench ends at the first error")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tailway_wire::record::{Compression, Compressor};

const BYTES: usize = 512 << 10;
const CODECS: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn events() -> Vec<u8> {
    let mut out = Vec::with_capacity(BYTES + 400);
    for n in 0_u32.. {
        if out.len() >= BYTES {
            break;
        }
        let event = format!(
            "{{\"@timestamp\":\"2026-11-27T10:00:{:02}.{:03}Z\",\"log\":{{\"offset\":{},\"file\":{{\"path\":\"/var/log/app.log\"}}}},\"message\":\"request {:016x} took {} ms\",\"host\":{{\"name\":\"web-1\"}}}}",
            n % 60,
            n % 1_000,
            n * 97,
            u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            n % 977
        );
        out.extend_from_slice(event.as_bytes());
    }
    out
}

fn codecs(criterion: &mut Criterion) {
    let events = events();
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(events.len() as u64));
    for codec in CODECS {
        let (mut compressor, mut out) = (Compressor::new(codec), Vec::new());
        group.bench_function(format!("{codec:?}"), |bench| {
            bench.iter(|| {
                out.clear();
                compressor.compress(black_box(&events), &mut out).unwrap();
                out.len()
            });
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("decompress");
    group.throughput(Throughput::Bytes(events.len() as u64));
    for codec in CODECS {
        let packed = codec.compress(&events).unwrap();
        group.bench_function(format!("{codec:?}"), |bench| {
            bench.iter(|| codec.decompress(black_box(&packed), 2 * BYTES).unwrap());
        });
    }
    group.finish();
}

criterion_group!(codec, codecs);
criterion_main!(codec);
