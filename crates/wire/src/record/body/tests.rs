//! Records with lengths that lie, inside batches whose CRC is right.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::{BATCH_OVERHEAD, Batch, BatchBuilder, compute_crc};

const CAP: usize = 1 << 20;

/// A batch of one record with this body, and as header whatever a builder writes.
fn batch_of(records: &[u8], count: i32) -> Batch {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(1000, None, None, &[]).unwrap();
    let mut bytes = builder.finish().unwrap()[..BATCH_OVERHEAD].to_vec();
    bytes.extend_from_slice(records);
    let length = i32::try_from(bytes.len() - 12).unwrap();
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[57..61].copy_from_slice(&count.to_be_bytes());
    let crc = compute_crc(&bytes);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let batch = Batch::parse(&Bytes::from(bytes)).unwrap();
    batch.validate().unwrap();
    batch
}

fn read(batch: &Batch) -> Result<Vec<RecordRef>, WireError> {
    batch.records(CAP)?.collect()
}

#[test]
fn the_smallest_record() {
    // Length 6: attributes, timestamp delta 1, offset delta 0, null key, null value, no headers.
    let records = read(&batch_of(&[12, 0, 2, 0, 1, 1, 0], 1)).unwrap();
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!((record.offset, record.timestamp), (0, 1001));
    assert_eq!((&record.key, &record.value), (&None, &None));
    assert!(record.headers.is_empty());
}

#[test]
fn bodies_that_lie_are_refused() {
    let cases: [(&str, &[u8], &str); 11] = [
        ("no record at all", &[], "record length needs"),
        ("a length of -1", &[1, 0, 0, 0, 1, 1, 0], "negative length -1"),
        ("a length of -2", &[3, 0, 0, 0, 1, 1, 0], "negative length -2"),
        ("longer than the batch", &[14, 0, 0, 0, 1, 1, 0], "needs 7 bytes, only 6"),
        (
            "longer than its fields",
            &[14, 0, 0, 0, 1, 1, 0, 0],
            "1 bytes are left over after the record",
        ),
        ("shorter than its fields", &[10, 0, 0, 0, 1, 1, 0], "header count"),
        (
            "a key of 2 GiB",
            &[20, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0],
            "record key needs 2147483647",
        ),
        ("a key of -2", &[12, 0, 0, 0, 3, 1, 0], "record key has the negative length -2"),
        ("2 billion headers", &[20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f], "header key"),
        ("-1 headers", &[12, 0, 0, 0, 1, 1, 1], "header count has the negative length -1"),
        ("a null header key", &[16, 0, 0, 0, 1, 1, 2, 1, 1], "header key has the negative length"),
    ];
    for (what, body, expected) in cases {
        let error = read(&batch_of(body, 1)).unwrap_err();
        assert!(matches!(error, WireError::InvalidRecord { index: 0, .. }), "{what}: {error}");
        assert!(error.to_string().contains(expected), "{what}: {error}");
    }
}

#[test]
fn bytes_behind_the_last_record_are_said_once() {
    let batch = batch_of(&[12, 0, 0, 0, 1, 1, 0, 9, 9], 1);
    let mut records = batch.records(CAP).unwrap();
    assert!(records.next().unwrap().is_ok());
    let error = records.next().unwrap().unwrap_err();
    assert!(error.to_string().contains("2 bytes are left over"), "{error}");
    assert_eq!(records.next(), None);
}

#[test]
fn iteration_ends_at_the_first_error() {
    let batch = batch_of(&[3, 0, 0, 0, 1, 1, 0], 2_000_000_000);
    let mut records = batch.records(CAP).unwrap();
    assert!(records.next().unwrap().is_err());
    assert_eq!(records.next(), None);
}

#[test]
fn control_records_are_named() {
    let kind = |bytes: &[u8]| ControlType::parse(&Bytes::copy_from_slice(bytes));
    assert_eq!(kind(&[0, 0, 0, 0]), Ok(ControlType::Abort));
    assert_eq!(kind(&[0, 0, 0, 1]), Ok(ControlType::Commit));
    assert_eq!(kind(&[0, 0, 0, 5]), Ok(ControlType::Other(5)));
    assert!(kind(&[0, 0, 0]).is_err());
}

#[test]
fn header_values_by_key() {
    let mut builder = BatchBuilder::new(Compression::None);
    let headers: [(&str, Option<&[u8]>); 3] = [("a", Some(b"1")), ("b", None), ("a", Some(b"2"))];
    builder.append(0, None, None, &headers).unwrap();
    let batch = Batch::parse(&builder.finish().unwrap()).unwrap();
    let record = &read(&batch).unwrap()[0];
    assert_eq!(record.headers.len(), 3);
    assert_eq!(record.headers.get("a").as_deref(), Some(&b"2"[..]), "the last one counts");
    assert_eq!(record.headers.get("b"), None);
    // A key that is not text stays readable.
    let foreign = read(&batch_of(&[18, 0, 0, 0, 1, 1, 2, 2, 0xff, 1], 1)).unwrap();
    assert_eq!(foreign[0].headers.iter().next().unwrap().key_str(), "\u{fffd}");
}

proptest! {
    #[test]
    fn mutated_batches_with_a_right_crc_never_panic(
        codec in 0_usize..5,
        mutations in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let mut builder = BatchBuilder::new(Compression::ALL[codec]);
        for index in 0..4 {
            builder.append(index, Some(b"key"), Some(b"some value"), &[("header", Some(b"x"))]).unwrap();
        }
        let mut bytes = builder.finish().unwrap().to_vec();
        for (at, byte) in &mutations {
            // Behind length, epoch, magic and CRC: those have tests of their own.
            let at = 21 + at.index(bytes.len() - 21);
            bytes[at] = *byte;
        }
        let crc = compute_crc(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let batch = Batch::parse(&Bytes::from(bytes)).unwrap();
        if let Ok(records) = batch.records(CAP) {
            // Each record takes a byte at least, so iteration is bounded by the bytes, not by the count.
            prop_assert!(records.count() < 1000);
        }
    }
}
