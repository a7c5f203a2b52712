//! What hostile input may cost: decompression bombs and huge counts are refused with little memory.
//!
//! All in one process of its own, whose peak resident size (`VmHWM`) and peak address space (`VmPeak`) the
//! kernel counts, C code and all threads included; so the tests of this file are one function.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

mod common;

use bytes::{Bytes, BytesMut};
use common::kinds;
use tailway_wire::messages::{CreateTopicsRequest, DescribeGroupsRequest, MetadataRequest};
use tailway_wire::primitives::Writer;
use tailway_wire::record::Compression;
use tailway_wire::{WireError, frame};

const MIB: usize = 1 << 20;
const CAP: usize = 8 * MIB;
const GIB: usize = 1 << 30;

/// A field of /proc/self/status in bytes.
fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    let kib: usize =
        line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse().unwrap();
    kib * 1024
}

#[test]
fn hostile_input_costs_little_memory() {
    let before = (status("VmHWM"), status("VmPeak"));
    bombs();
    after("bombs", before, 40 * MIB, 128 * MIB);
    counts_that_lie();
    after("counts", before, 40 * MIB, 128 * MIB);
    frames_of_smallest_elements();
    after("smallest elements", before, 64 * MIB, 128 * MIB);
}

fn after(what: &str, before: (usize, usize), resident_max: usize, address_max: usize) {
    let resident = status("VmHWM") - before.0;
    let address = status("VmPeak") - before.1;
    println!("{what}: {} MiB resident, {} MiB of addresses", resident / MIB, address / MIB);
    assert!(resident <= resident_max, "{what}: {resident} bytes resident");
    assert!(address <= address_max, "{what}: {address} bytes of addresses");
}

fn bombs() {
    for (codec, bomb) in [
        (Compression::Gzip, gzip()),
        (Compression::Snappy, snappy()),
        (Compression::Lz4, lz4()),
        (Compression::Zstd, zstd()),
    ] {
        assert!(bomb.len() < 8 * MIB, "{codec}: {} bytes", bomb.len());
        let error = codec.decompress(&bomb, CAP).unwrap_err();
        assert_eq!(error, WireError::DecompressedTooLarge { codec, cap: CAP });
    }
    let large = Bytes::from(vec![0; CAP + 1]);
    let codec = Compression::None;
    let error = codec.decompress(&large, CAP).unwrap_err();
    assert_eq!(error, WireError::DecompressedTooLarge { codec, cap: CAP });
    claims();
}

/// Small inputs that claim much and hold nothing.
fn claims() {
    // A zstd frame with a window of 128 MiB, content size 1 GiB, one stored byte.
    let mut frame = BytesMut::from(&0xfd2f_b528_u32.to_le_bytes()[..]);
    frame.extend_from_slice(&[0x80, 17 << 3]);
    frame.extend_from_slice(&u32::try_from(GIB).unwrap().to_le_bytes());
    frame.extend_from_slice(&[0x09, 0, 0, b'x']);
    assert!(Compression::Zstd.decompress(&frame.freeze(), GIB).is_err());
    // Raw snappy that claims 1 GiB (a varint), with three bytes behind it.
    let claim = Bytes::from_static(&[0x80, 0x80, 0x80, 0x80, 0x04, 0xfe, 1, 0]);
    let error = Compression::Snappy.decompress(&claim, GIB).unwrap_err();
    assert!(matches!(error, WireError::Codec { .. }), "{error}");
    // An lz4 frame with blocks of 4 MiB and one byte in it.
    let mut small = BytesMut::from(&Compression::Lz4.compress(b"").unwrap()[..]);
    small[5] = 0x70;
    assert!(Compression::Lz4.decompress(&small.freeze(), GIB).is_err(), "header checksum");
}

/// 1 GiB in members of 1 MiB.
fn gzip() -> Bytes {
    let member = Compression::Gzip.compress(&vec![0; MIB]).unwrap();
    Bytes::from(member.repeat(GIB / MIB))
}

/// Blocks of 32 KiB: 128 MiB are as much as fits into the 8 MiB in which the others say 1 GiB.
fn snappy() -> Bytes {
    let one = Compression::Snappy.compress(&vec![0; 32 << 10]).unwrap();
    let (header, block) = one.split_at(16);
    Bytes::from([header, &block.repeat(128 * MIB / (32 << 10))].concat())
}

/// 1 GiB: a block of 64 KiB repeated, the header and end mark around it.
fn lz4() -> Bytes {
    let one = Compression::Lz4.compress(&vec![0; 64 << 10]).unwrap();
    let block = &one[7..one.len() - 4];
    let mut bomb = BytesMut::from(&one[..7]);
    for _ in 0..GIB / (64 << 10) {
        bomb.extend_from_slice(block);
    }
    bomb.extend_from_slice(&[0; 4]);
    bomb.freeze()
}

/// 1 GiB in blocks that say "this byte 128 Ki times": 4 bytes each.
fn zstd() -> Bytes {
    let mut bomb = BytesMut::from(&0xfd2f_b528_u32.to_le_bytes()[..]);
    bomb.extend_from_slice(&[0, 13 << 3]);
    for index in 0..GIB / (128 << 10) {
        let last = u32::from(index + 1 == GIB / (128 << 10));
        let header = (128_u32 << 10) << 3 | 1 << 1 | last;
        bomb.extend_from_slice(&header.to_le_bytes()[..3]);
        bomb.extend_from_slice(&[0]);
    }
    bomb.freeze()
}

/// At every position of every request: a count as large as can be, with 8 KiB behind it.
fn counts_that_lie() {
    let counts: [&[u8]; 4] =
        [&[0x7f, 0xff, 0xff, 0xff], &[0, 0, 8, 0], &[0xff, 0xff, 0xff, 0xff, 0x07], &[0x80, 0x10]];
    let filler = vec![0; 8 << 10];
    for kind in kinds().into_iter().filter(|kind| kind.is_request) {
        if kind.version < kind.api.accepted_versions().max {
            continue;
        }
        let sample = &kind.samples(1)[0];
        for at in 0..sample.len() {
            for count in counts {
                let body = [&sample[..at], count, &filler].concat();
                drop(kind.through_the_door(Bytes::from(body)));
            }
        }
    }
}

/// As many elements as the largest request can have, each as small as its schema allows: what is decoded
/// is larger than the frame many times over, and bounded by the number of reads.
fn frames_of_smallest_elements() {
    let body = |count: usize, element: &[u8]| {
        let mut writer = Writer::new(true);
        writer.array("elements", count).unwrap();
        let head = writer.finish();
        let fitting = (frame::MAX_COLD_REQUEST - head.len()) / element.len();
        Bytes::from([&head[..], &element.repeat(fitting)].concat())
    };
    for count in [2_000_000, 262_144] {
        // Metadata v9: a null name and no tags; v10 adds an id.
        drop(frame::decode_request::<MetadataRequest>(body(count, &[0, 0]), 9));
        drop(frame::decode_request::<MetadataRequest>(body(count, &[0; 18]), 10));
        drop(frame::decode_request::<CreateTopicsRequest>(
            body(count, &[1, 0, 0, 0, 0, 0, 0, 1, 1, 0]),
            7,
        ));
        drop(frame::decode_request::<DescribeGroupsRequest>(body(count, &[1]), 6));
    }
}
