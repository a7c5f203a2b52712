//! The header by its bytes, lengths and magics that lie, and changes in place.

use bytes::Bytes;

use super::*;
use crate::record::{Batch, BatchBuilder, BatchIter};

fn batch(codec: Compression) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for index in 0..3 {
        builder.append(1000 + index, Some(b"key"), Some(b"value"), &[("h", None)]).unwrap();
    }
    builder.finish().unwrap()
}

fn with<const N: usize>(at: usize, value: [u8; N]) -> Bytes {
    let mut bytes = batch(Compression::None).to_vec();
    bytes[at..at + N].copy_from_slice(&value);
    Bytes::from(bytes)
}

/// With the CRC corrected.
fn sealed<const N: usize>(at: usize, value: [u8; N]) -> Bytes {
    let mut bytes = with(at, value).to_vec();
    patch_crc(&mut bytes).unwrap();
    Bytes::from(bytes)
}

#[test]
fn encode_is_the_inverse_of_parse() {
    for codec in Compression::ALL {
        let batch = batch(codec);
        let header = BatchHeader::parse(&batch).unwrap();
        assert_eq!(header.encode()[..], batch[..BATCH_OVERHEAD]);
        assert_eq!(header.size(), batch.len());
    }
}

#[test]
fn cut_at_every_byte_is_an_error_and_a_tail() {
    let batch = batch(Compression::None);
    for end in 0..batch.len() {
        assert!(validate(&batch[..end]).is_err(), "{end}");
        assert!(Batch::parse(&batch.slice(..end)).is_err(), "{end}");
        let mut iter = BatchIter::new(batch.slice(..end));
        assert_eq!(iter.next(), None, "{end}");
        assert_eq!(iter.rest().len(), end);
    }
}

#[test]
fn old_formats_are_refused_by_name() {
    for magic in [0, 1] {
        let bytes = with(16, [magic]);
        let expected = WireError::OldMessageFormat { magic: magic.cast_signed() };
        assert_eq!(validate(&bytes), Err(expected.clone()));
        assert_eq!(BatchIter::new(bytes.clone()).next(), Some(Err(expected.clone())));
        // An old message may be shorter than a header.
        let mut iter = BatchIter::new(bytes.slice(..30));
        assert_eq!(iter.next(), Some(Err(expected)));
        assert_eq!(iter.next(), None, "an error ends iteration");
    }
    assert_eq!(validate(&with(16, [3])), Err(WireError::UnknownMagic { magic: 3 }));
}

#[test]
fn lengths_that_cannot_be_true_are_refused() {
    for length in [i32::MIN, -1, 0, 1, 48] {
        let bytes = with(8, length.to_be_bytes());
        let error = validate(&bytes).unwrap_err();
        assert!(matches!(error, WireError::BatchLength { .. }), "{length}: {error}");
        for end in [13, 40, bytes.len()] {
            let first = BatchIter::new(bytes.slice(..end)).next();
            assert!(matches!(first, Some(Err(WireError::BatchLength { .. }))), "{length} {end}");
        }
    }
    let huge = with(8, i32::MAX.to_be_bytes());
    assert!(matches!(validate(&huge), Err(WireError::BatchLength { .. })));
    assert_eq!(BatchIter::new(huge).next(), None, "looks like a cut batch");
}

#[test]
fn a_wrong_crc_names_both() {
    let error = validate(&with(70, [0xff])).unwrap_err();
    assert!(matches!(error, WireError::CrcMismatch { base_offset: 0, .. }), "{error}");
    assert!(error.to_string().contains("stored 0x"), "{error}");
}

#[test]
fn counts_that_lie_are_refused() {
    assert!(matches!(
        validate(&sealed(57, (-1_i32).to_be_bytes())),
        Err(WireError::InvalidBatch { .. })
    ));
    assert!(matches!(
        validate(&sealed(23, (-1_i32).to_be_bytes())),
        Err(WireError::InvalidBatch { .. })
    ));
    // Too many, and too few, for the bytes that are there.
    for (count, index) in [(4_i32, 3), (2, 2), (i32::MAX, 3)] {
        let bytes = sealed(57, count.to_be_bytes());
        let batch = Batch::parse(&bytes).unwrap();
        batch.validate().unwrap();
        let records: Vec<_> = batch.records(1 << 20).unwrap().collect();
        let Some(Err(WireError::InvalidRecord { index: at, .. })) = records.last() else {
            panic!("{count}: {records:?}");
        };
        assert_eq!((*at, records.len()), (index, usize::try_from(index).unwrap() + 1));
    }
    // Offsets beyond the batch's last one.
    let batch = Batch::parse(&sealed(23, 1_i32.to_be_bytes())).unwrap();
    let records: Vec<_> = batch.records(1 << 20).unwrap().collect();
    assert!(records[1].is_ok() && records[2].is_err());
    assert_eq!(records.len(), 3);
}

#[test]
fn what_a_producer_may_not_send() {
    let check = |at, value: &[u8]| {
        let mut bytes = batch(Compression::None).to_vec();
        bytes[at..at + value.len()].copy_from_slice(value);
        BatchHeader::parse(&bytes).unwrap().check_from_producer()
    };
    assert_eq!(check(0, &[0]), Ok(()));
    let cases: [(usize, &[u8], &str); 5] = [
        (57, &[0, 0, 0, 0], "no records"),
        (23, &[0, 0, 0, 9], "not consecutive"),
        (21, &[0, 0x20], "control"),
        (43, &[0, 0, 0, 0, 0, 0, 0, 5], "without an epoch"),
        (43, &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0], "without a sequence"),
    ];
    for (at, value, expected) in cases {
        let error = check(at, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(check(21, &[0, 5]), Err(WireError::UnknownCodec { id: 5 }));
}

#[test]
fn sequences_wrap_to_zero() {
    let mut header = BatchHeader::parse(&batch(Compression::None)).unwrap();
    for (base, delta, last) in [
        (0, 0, 0),
        (5, 2, 7),
        (i32::MAX, 0, i32::MAX),
        (i32::MAX, 1, 0),
        (i32::MAX - 1, 4, 2),
        (-1, 9, -1),
    ] {
        header.base_sequence = base;
        header.last_offset_delta = delta;
        assert_eq!(header.last_sequence(), last, "{base} + {delta}");
    }
}

#[test]
fn stamping_a_producer_keeps_the_crc_right_and_the_memory() {
    let original = batch(Compression::Zstd);
    let shared = original.clone();
    let stamped = stamp_producer(original, 9, 1, 500).unwrap();
    assert_ne!(stamped, shared, "shared bytes are copied, not changed");
    let header = validate(&stamped).unwrap();
    assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (9, 1, 500));
    assert_eq!(header.last_sequence(), 502);
    let place = stamped.as_ptr();
    let again = stamp_producer(stamped, 9, 2, 0).unwrap();
    assert_eq!(again.as_ptr(), place, "changed in place");
    assert_eq!(validate(&again).unwrap().producer_epoch, 2);
    assert!(stamp_producer(Bytes::from_static(b"short"), 1, 1, 1).is_err());
}

#[test]
fn log_append_time_in_place_equals_the_assigned_header() {
    let original = Batch::parse(&batch(Compression::Gzip)).unwrap();
    let mut bytes = original.bytes.to_vec();
    patch_base_offset(&mut bytes, 40).unwrap();
    patch_leader_epoch(&mut bytes, 3).unwrap();
    patch_log_append_time(&mut bytes, 123_456).unwrap();
    validate(&bytes).unwrap();
    let (_, parts) = original.assigned(40, 3, Some(123_456));
    assert_eq!(parts.concat(), bytes);
    let stored = Batch::parse(&Bytes::from(bytes)).unwrap();
    for record in stored.records(1 << 20).unwrap() {
        assert_eq!(record.unwrap().timestamp, 123_456);
    }
}
