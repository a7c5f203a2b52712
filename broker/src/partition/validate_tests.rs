//! Each refusal has its own error.

use bytes::{Bytes, BytesMut};
use tailway_wire::record::{BatchBuilder, Compression};

use super::super::test_support::{batch, idempotent, values};
use super::*;

fn edit(bytes: &Bytes, at: usize, value: &[u8]) -> Bytes {
    let mut copy = BytesMut::from(&bytes[..]);
    copy[at..at + value.len()].copy_from_slice(value);
    copy.freeze()
}

/// The same with a right CRC.
fn edit_and_seal(bytes: &Bytes, at: usize, value: &[u8]) -> Bytes {
    let edited = edit(bytes, at, value);
    edit(&edited, 17, &crc32c::crc32c(&edited[21..]).to_be_bytes())
}

fn name(error: &PartitionError) -> &'static str {
    match error {
        PartitionError::CorruptBatch { .. } => "corrupt",
        PartitionError::UnsupportedMagic { .. } => "magic",
        PartitionError::InvalidRecord { .. } => "invalid record",
        PartitionError::BatchTooLarge { .. } => "too large",
        PartitionError::BatchLargerThanSegment { .. } => "larger than segment",
        PartitionError::UnsupportedCompression { .. } => "codec",
        PartitionError::InvalidTimestamp { .. } => "timestamp",
        PartitionError::TransactionsNotServed => "transaction",
        _ => "another",
    }
}

#[test]
fn each_refusal_is_named() {
    let good = values(&["a", "b"]);
    let mut builder = BatchBuilder::new(Compression::None);
    builder.set_producer(1, 0, 0);
    builder.set_transactional(true);
    builder.append(1, None, Some(b"v"), &[]).unwrap();
    let transactional = builder.finish().unwrap();
    let two = [&good[..], &good[..]].concat();
    let table = [
        ("nothing", Bytes::new(), "invalid record"),
        ("a cut batch", good.slice(..good.len() - 1), "corrupt"),
        ("a cut second batch", Bytes::from(two[..two.len() - 1].to_vec()), "corrupt"),
        ("a few bytes", Bytes::from_static(b"abc"), "corrupt"),
        ("a flipped bit", edit(&good, good.len() - 1, &[9]), "corrupt"),
        ("a length that cannot be", edit(&good, 8, &(-5_i32).to_be_bytes()), "corrupt"),
        ("magic 0", edit(&good, 16, &[0]), "magic"),
        ("magic 1", edit(&good, 16, &[1]), "magic"),
        ("magic 3", edit(&good, 16, &[3]), "corrupt"),
        ("an unknown codec", edit_and_seal(&good, 22, &[7]), "codec"),
        (
            "more offsets than records",
            edit_and_seal(&good, 23, &2_i32.to_be_bytes()),
            "invalid record",
        ),
        ("no records", edit_and_seal(&good, 57, &0_i32.to_be_bytes()), "invalid record"),
        ("a control batch", edit_and_seal(&good, 22, &[0x20]), "invalid record"),
        ("a transaction", transactional, "transaction"),
        ("LogAppendTime from a client", edit_and_seal(&good, 22, &[0x08]), "timestamp"),
        ("a time before 1970", edit_and_seal(&good, 35, &(-2_i64).to_be_bytes()), "timestamp"),
        (
            "a producer without a sequence",
            edit_and_seal(&idempotent(1, 0, 0, "v"), 53, &(-1_i32).to_be_bytes()),
            "invalid record",
        ),
    ];
    let config = LogConfig::default();
    for (what, bytes, expected) in table {
        let error = validate(bytes, &config, AppendOrigin::Client).unwrap_err();
        assert_eq!(name(&error), expected, "{what}: {error}");
    }
    let both = validate(Bytes::from(two), &config, AppendOrigin::Client).unwrap();
    assert_eq!(both.len(), 2);
    assert_eq!(facts(&both)[0], BatchFacts { last_offset_delta: 1, producer: None });
}

#[test]
fn limits_are_inclusive_and_the_coordinators_are_its_own() {
    let bytes = values(&["0123456789"]);
    let size = bytes.len();
    let run = |max_message_bytes, segment_bytes: usize, origin| {
        let segment_bytes = u32::try_from(segment_bytes).unwrap();
        let config = LogConfig { segment_bytes, max_message_bytes, ..LogConfig::default() };
        validate(bytes.clone(), &config, origin).map(|batches| batches.len())
    };
    assert_eq!(run(size, size, AppendOrigin::Client), Ok(1));
    let max = size - 1;
    let too_large = PartitionError::BatchTooLarge { size, max };
    assert_eq!(run(max, size, AppendOrigin::Client), Err(too_large));
    assert_eq!(run(max, size, AppendOrigin::GroupCoordinator), Ok(1));
    let over = PartitionError::BatchLargerThanSegment { size, max };
    assert_eq!(run(size, max, AppendOrigin::Client), Err(over.clone()));
    assert_eq!(run(size, max, AppendOrigin::GroupCoordinator), Err(over));
}

#[test]
fn compacted_topics_need_keys() {
    let compact = LogConfig { compact: true, ..LogConfig::default() };
    let keyed = batch(&[(1, Some("k"), None), (1, Some("k"), Some("v"))]);
    assert!(validate(keyed, &compact, AppendOrigin::Client).is_ok());
    let half = batch(&[(1, Some("k"), None), (1, None, Some("v"))]);
    let error = validate(half.clone(), &compact, AppendOrigin::Client).unwrap_err();
    assert_eq!(name(&error), "invalid record");
    assert!(validate(half, &LogConfig::default(), AppendOrigin::Client).is_ok());
    let announced = edit_and_seal(
        &edit(&batch(&[(1, Some("k"), None)]), 23, &1_i32.to_be_bytes()),
        57,
        &2_i32.to_be_bytes(),
    );
    assert!(validate(announced, &compact, AppendOrigin::Client).is_err());
}
