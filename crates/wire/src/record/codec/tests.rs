//! Every codec: round trips, the cap to the byte, cut and mutated input, and the framings of other clients.

use bytes::Bytes;
use proptest::prelude::*;

use crate::error::WireError;
use crate::record::{Compression, Compressor};

const REAL: [Compression; 4] =
    [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// Log-like text of `size` bytes: compressible, and longer than any codec's block where wanted.
fn text(size: usize) -> Vec<u8> {
    let lines =
        (0..).map(|number| format!("{number:08} GET /index.html 200 some words that repeat\n"));
    let mut text: Vec<u8> = lines.flat_map(String::into_bytes).take(size).collect();
    text.truncate(size);
    text
}

/// Bytes that no codec makes smaller (an LCG's high bits).
fn noise(size: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..size).map(|_| next(&mut state)).collect()
}

#[test]
fn sizes_around_the_blocks_round_trip() {
    let sizes = [0, 1, 10, 0x7fff, 0x8000, 0x8001, 0xffff, 0x1_0000, 0x1_0001, 140_000];
    for codec in Compression::ALL {
        for size in sizes {
            for input in [text(size), noise(size), vec![0; size]] {
                let packed = codec.compress(&input).unwrap();
                let unpacked = codec.decompress(&packed, size).unwrap();
                assert!(unpacked == input, "{codec}, {size} bytes");
            }
        }
    }
}

#[test]
fn the_cap_is_exact() {
    for codec in Compression::ALL {
        for input in [text(70_000), noise(70_000), vec![7; 70_000], vec![7; 1]] {
            let packed = codec.compress(&input).unwrap();
            let cap = input.len() - 1;
            assert_eq!(codec.decompress(&packed, input.len()).unwrap(), input, "{codec}");
            let error = codec.decompress(&packed, cap).unwrap_err();
            assert_eq!(error, WireError::DecompressedTooLarge { codec, cap }, "{codec}");
            let error = codec.decompress(&packed, 0).unwrap_err();
            assert_eq!(error, WireError::DecompressedTooLarge { codec, cap: 0 }, "{codec}");
        }
    }
}

#[test]
fn cut_input_never_gives_the_whole_output() {
    let input = text(5_000);
    for codec in REAL {
        let packed = codec.compress(&input).unwrap();
        for end in 0..packed.len() {
            let cut = codec.decompress(&packed.slice(..end), 1 << 20);
            assert_ne!(cut.as_deref(), Ok(&input[..]), "{codec} cut to {end} of {}", packed.len());
            // Snappy's framing has no end mark, so it may end behind its header.
            let whole_blocks = codec == Compression::Snappy && end == 16;
            assert!(cut.is_err() || whole_blocks, "{codec} cut to {end} of {}", packed.len());
        }
    }
}

#[test]
fn a_compressor_is_used_again_and_appends() {
    for codec in Compression::ALL {
        let mut compressor = Compressor::new(codec);
        assert_eq!(compressor.codec(), codec);
        for input in [text(70_000), noise(100), Vec::new()] {
            let mut out = b"before".to_vec();
            compressor.compress(&input, &mut out).unwrap();
            assert!(out.starts_with(b"before"));
            let packed = Bytes::copy_from_slice(&out[6..]);
            assert_eq!(packed, codec.compress(&input).unwrap(), "{codec}");
            assert_eq!(codec.decompress(&packed, input.len()).unwrap(), input);
        }
    }
}

#[test]
fn ids_and_names() {
    for (id, codec) in (0..).zip(Compression::ALL) {
        assert_eq!(codec.id(), id);
        assert_eq!(Compression::from_id(id), Ok(codec));
        assert_eq!(Compression::from_name(codec.name()), Some(codec));
    }
    for id in [-1, 5, 7] {
        assert_eq!(Compression::from_id(id), Err(WireError::UnknownCodec { id }));
    }
    assert_eq!(Compression::from_name("brotli"), None);
}

#[test]
fn raw_snappy_is_read() {
    let input = text(100_000);
    let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
    let unpacked = Compression::Snappy.decompress(&Bytes::from(raw), input.len()).unwrap();
    assert_eq!(unpacked, input);
}

#[test]
fn snappy_files_behind_each_other_are_read() {
    let packed = Compression::Snappy.compress(b"once ").unwrap().repeat(3);
    let unpacked = Compression::Snappy.decompress(&Bytes::from(packed), 100).unwrap();
    assert_eq!(&unpacked[..], b"once once once ");
}

#[test]
fn gzip_and_zstd_and_lz4_streams_behind_each_other_are_read() {
    for codec in [Compression::Gzip, Compression::Zstd, Compression::Lz4] {
        let packed = codec.compress(b"once ").unwrap().repeat(3);
        let unpacked = codec.decompress(&Bytes::from(packed), 15).unwrap();
        assert_eq!(&unpacked[..], b"once once once ", "{codec}");
    }
}

/// An independent implementation's frames, with every option that the format has.
#[test]
fn lz4_frames_of_others_are_read_whatever_their_options() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write as _;
    let inputs = [text(140_000), noise(70_000), vec![0; 600_000], Vec::new()];
    let sizes = [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB];
    for (index, input) in inputs.iter().enumerate() {
        for size in sizes {
            for options in 0..8 {
                let info = FrameInfo::new()
                    .block_size(size)
                    .block_mode([BlockMode::Independent, BlockMode::Linked][options & 1])
                    .block_checksums(options & 2 != 0)
                    .content_checksum(options & 4 != 0)
                    .content_size((options & 2 != 0).then_some(input.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(input).unwrap();
                let packed = Bytes::from(encoder.finish().unwrap());
                let unpacked = Compression::Lz4.decompress(&packed, input.len()).unwrap();
                assert!(unpacked == *input, "input {index}, {size:?}, options {options}");
            }
        }
    }
}

#[test]
fn lz4_frames_of_ours_are_what_kafka_reads() {
    use std::io::Read as _;
    let input = text(200_000);
    let packed = Compression::Lz4.compress(&input).unwrap();
    // Magic; version 1 with independent blocks; 64 KiB; the (right) header checksum.
    assert_eq!(packed[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    let mut unpacked = Vec::new();
    lz4_flex::frame::FrameDecoder::new(&packed[..]).read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, input);
}

#[test]
fn lz4_checksums_are_checked() {
    use lz4_flex::frame::{FrameEncoder, FrameInfo};
    use std::io::Write as _;
    let info = FrameInfo::new().block_checksums(true).content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(&noise(1000)).unwrap();
    let packed = encoder.finish().unwrap();
    for at in 0..packed.len() {
        let mut broken = packed.clone();
        broken[at] ^= 1;
        let unpacked = Compression::Lz4.decompress(&Bytes::from(broken), 1 << 20);
        assert!(unpacked.is_err(), "byte {at} of {}", packed.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_round_trip(input in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for codec in Compression::ALL {
            let packed = codec.compress(&input).unwrap();
            prop_assert_eq!(&codec.decompress(&packed, input.len()).unwrap()[..], &input[..]);
        }
    }

    #[test]
    fn mutated_input_never_panics_and_never_passes_the_cap(
        size in 0_usize..3000,
        mutations in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for codec in REAL {
            let mut packed = codec.compress(&text(size)).unwrap().to_vec();
            for (at, byte) in &mutations {
                let at = at.index(packed.len());
                packed[at] = *byte;
            }
            if let Ok(unpacked) = codec.decompress(&Bytes::from(packed), 4000) {
                prop_assert!(unpacked.len() <= 4000);
            }
        }
    }

    #[test]
    fn foreign_input_never_panics(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        for codec in REAL {
            if let Ok(unpacked) = codec.decompress(&Bytes::from(input.clone()), 1000) {
                prop_assert!(unpacked.len() <= 1000);
            }
        }
    }
}
