//! Varints by a table of bytes, reader and writer against each other, and what hostile lengths give.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn reader(bytes: &[u8], flexible: bool) -> Reader {
    Reader::new(Bytes::copy_from_slice(bytes), flexible)
}

#[test]
fn varints_by_their_bytes() {
    let unsigned: [(u32, &[u8]); 6] = [
        (0, &[0]),
        (127, &[0x7f]),
        (128, &[0x80, 0x01]),
        (300, &[0xac, 0x02]),
        (0x1f_ffff, &[0xff, 0xff, 0x7f]),
        (u32::MAX, &[0xff, 0xff, 0xff, 0xff, 0x0f]),
    ];
    for (value, bytes) in unsigned {
        let mut writer = Writer::new(false);
        writer.uvarint(value);
        assert_eq!(&writer.finish()[..], bytes, "{value}");
        assert_eq!(reader(bytes, false).uvarint("v"), Ok(value));
    }
    let signed: [(i64, &[u8]); 6] = [
        (0, &[0]),
        (-1, &[1]),
        (1, &[2]),
        (-65, &[0x81, 0x01]),
        (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
    ];
    for (value, bytes) in signed {
        let mut writer = Writer::new(false);
        writer.varlong(value);
        assert_eq!(&writer.finish()[..], bytes, "{value}");
        assert_eq!(reader(bytes, false).varlong("v"), Ok(value));
    }
}

#[test]
fn varints_that_are_too_long_or_cut_are_refused() {
    let invalid = Err(WireError::InvalidVarint { field: "v" });
    assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x10], false).uvarint("v"), invalid);
    assert_eq!(reader(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x01], false).uvarint("v"), invalid);
    let long = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02];
    assert_eq!(reader(&long, false).varlong("v"), Err(WireError::InvalidVarint { field: "v" }));
    for length in 0..4 {
        let error = reader(&[0xff; 4][..length], false).uvarint("v").unwrap_err();
        assert!(matches!(error, WireError::Truncated { .. }), "{length}: {error}");
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    // An i16 string length of -2, an i32 bytes length of -2.
    assert_eq!(
        reader(&[0xff, 0xfe], false).nullable_string("s"),
        Err(WireError::NegativeLength { field: "s", value: -2 })
    );
    assert_eq!(
        reader(&[0xff, 0xff, 0xff, 0xfe], false).nullable_bytes("b"),
        Err(WireError::NegativeLength { field: "b", value: -2 })
    );
    // Null where it may not be.
    assert_eq!(
        reader(&[0], true).string("s"),
        Err(WireError::NegativeLength { field: "s", value: -1 })
    );
    // Strings have at most 32767 bytes, in the compact encoding too.
    let mut writer = Writer::new(true);
    writer.uvarint(0x8001);
    writer.raw("a".repeat(0x8000).as_bytes());
    let error = Reader::new(writer.finish(), true).string("s").unwrap_err();
    assert_eq!(error, WireError::TooLarge { what: "s", size: 0x8000, limit: 0x7fff });
    assert_eq!(
        reader(&[3, 0xff, 0xfe], true).string("s"),
        Err(WireError::InvalidUtf8 { field: "s" })
    );
}

#[test]
fn counts_are_checked_against_the_bytes_that_are_left() {
    let count = |bytes: &[u8], flexible, min| reader(bytes, flexible).array("a", min);
    assert_eq!(
        count(&[0x7f, 0xff, 0xff, 0xff, 0, 0], false, 1),
        Err(WireError::CountTooLarge { field: "a", count: 0x7fff_ffff, available: 2 })
    );
    assert_eq!(
        count(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0], true, usize::MAX),
        Err(WireError::CountTooLarge { field: "a", count: 0xffff_fffe, available: 1 })
    );
    assert_eq!(count(&[0, 0, 0, 2, 9, 9, 9, 9], false, 2), Ok(2));
    assert!(count(&[0, 0, 0, 2, 9, 9, 9], false, 2).is_err());
    assert_eq!(reader(&[0xff; 4], false).nullable_array("a", 1), Ok(None));
}

#[test]
fn all_arrays_of_a_message_share_one_budget() {
    let mut bytes = Vec::new();
    let half = MAX_ELEMENTS / 2 + 1;
    for _ in 0..2 {
        bytes.extend_from_slice(&u32::try_from(half).unwrap().to_be_bytes());
    }
    bytes.resize(bytes.len() + half, 0);
    let mut reader = Reader::new(Bytes::from(bytes), false);
    assert_eq!(reader.array("a", 1), Ok(half));
    let error = reader.array("b", 1).unwrap_err();
    assert_eq!(error, WireError::TooLarge { what: "b", size: half, limit: MAX_ELEMENTS - half });
}

#[test]
fn tagged_fields_are_offered_in_order_and_bounded() {
    // Tags 0 and 5 with 1 and 2 bytes.
    let mut seen = Vec::new();
    let mut good = reader(&[2, 0, 1, 0xaa, 5, 2, 1, 2, 0x77], true);
    good.tagged_fields("t", |tag, value| {
        seen.push((tag, value.into_rest()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, [(0, Bytes::from_static(&[0xaa])), (5, Bytes::from_static(&[1, 2]))]);
    assert_eq!(&good.into_rest()[..], [0x77]);

    let descending = reader(&[2, 5, 0, 0, 0], true).skip_tagged_fields("t");
    assert!(matches!(descending, Err(WireError::InvalidField { .. })), "{descending:?}");
    let twice = reader(&[2, 5, 0, 5, 0], true).skip_tagged_fields("t");
    assert!(matches!(twice, Err(WireError::InvalidField { .. })), "{twice:?}");
    // 4 billion tags, each of nothing: ends with the bytes.
    let many = reader(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 1, 0], true).skip_tagged_fields("t");
    assert!(matches!(many, Err(WireError::Truncated { .. })), "{many:?}");
    // A size beyond the frame.
    let long = reader(&[1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 1], true).skip_tagged_fields("t");
    assert!(matches!(long, Err(WireError::Truncated { .. })), "{long:?}");
    // The classic encoding has none.
    assert_eq!(reader(&[], false).skip_tagged_fields("t"), Ok(()));
}

#[test]
fn left_over_bytes_are_named() {
    let error = reader(&[1, 2, 3], false).finish("the thing").unwrap_err();
    assert_eq!(error.to_string(), "3 bytes are left over after the thing");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        flexible: bool,
        text in proptest::option::of(".{0,300}"),
        bytes in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
        small: i8, medium: i32, large: i64, count in 0_usize..200,
    ) {
        let mut writer = Writer::new(flexible);
        writer.nullable_string("s", text.as_deref()).unwrap();
        writer.nullable_bytes("b", bytes.as_deref()).unwrap();
        writer.i8(small);
        writer.i32(medium);
        writer.varint(medium);
        writer.varlong(large);
        writer.i64(large);
        writer.no_tagged_fields();
        writer.nullable_array("a", (count > 0).then_some(count)).unwrap();
        writer.raw(&vec![0; count]);
        let written = writer.finish();

        let mut reader = Reader::new(written.clone(), flexible);
        let read = reader.nullable_string("s").unwrap();
        prop_assert_eq!(read.as_deref(), text.as_deref());
        let read = reader.nullable_bytes("b").unwrap();
        prop_assert_eq!(read.as_deref(), bytes.as_deref());
        prop_assert_eq!(reader.i8("i").unwrap(), small);
        prop_assert_eq!(reader.i32("i").unwrap(), medium);
        prop_assert_eq!(reader.varint("i").unwrap(), medium);
        prop_assert_eq!(reader.varlong("i").unwrap(), large);
        prop_assert_eq!(reader.i64("i").unwrap(), large);
        reader.skip_tagged_fields("t").unwrap();
        let read_count = reader.nullable_array("a", 1).unwrap();
        prop_assert_eq!(read_count, (count > 0).then_some(count));
        reader.take("rest", count).unwrap();
        reader.finish("it").unwrap();
    }

    #[test]
    fn sizes_of_varints_are_known_before(value: u64) {
        let mut out = Vec::new();
        put_uvarint(&mut out, value);
        prop_assert_eq!(out.len(), uvarint_size(value));
        prop_assert_eq!(decode_uvarint(&out, 10, "v").unwrap(), (value, out.len()));
    }
}
