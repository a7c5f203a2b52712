//! What the guard lets the generated codec believe.

use bytes::{Buf, Bytes};
use proto_kafka::protocol::buf::ByteBuf;

use super::*;
use crate::WireError;
use crate::frame::decode_message;
use crate::messages::{ListGroupsRequest, MetadataRequest};
use crate::primitives::Writer;

fn guarded(size: usize, max_reads: usize) -> Guarded {
    Guarded::new(Bytes::from(vec![1; size]), max_reads)
}

#[test]
fn only_a_quarter_of_the_bytes_may_be_elements_of_a_large_array() {
    for (size, believed) in [(0, 0), (10, 10), (64, 64), (100, 64), (256, 64), (4000, 1000)] {
        assert_eq!(guarded(size, usize::MAX).remaining(), believed, "{size}");
    }
    assert_eq!(guarded(4000, 10).remaining(), 10, "no more than there are reads left");
}

#[test]
fn every_read_looks_at_the_real_length_and_is_counted() {
    let mut guarded = guarded(1000, 5);
    assert_eq!(guarded.try_get_bytes(900).unwrap().len(), 900);
    assert_eq!(guarded.try_get_i64().unwrap(), 0x0101_0101_0101_0101);
    assert_eq!(guarded.try_get_u8().unwrap(), 1);
    let mut raw = [0; 16];
    guarded.try_copy_to_slice(&mut raw).unwrap();
    assert!(guarded.try_get_bytes(100).is_err(), "only 75 are left");
    assert_eq!(guarded.left_over(), 75);
    assert_eq!(guarded.try_get_i16().unwrap(), 0x0101);
    // Five reads are made; the bytes do not matter any more.
    assert!(guarded.try_get_u8().is_err());
    assert!(guarded.try_get_bytes(0).is_err());
    assert!(guarded.try_peek_bytes(0..74).is_err());
    assert_eq!(guarded.left_over(), 73);
}

#[test]
fn arrays_are_refused_by_what_their_elements_must_take() {
    // A Metadata request v9 of 1000 topics that are 2 bytes each: more than a quarter of its bytes.
    let mut tiny = vec![0xe9, 0x07];
    tiny.resize(2 + 1000 * 2 + 3, 0);
    let error = decode_message::<MetadataRequest>(Bytes::from(tiny), 9).unwrap_err();
    assert!(error.to_string().contains("1000 elements"), "{error}");
    // With names of three letters it is an ordinary request.
    let mut named = vec![0xe9, 0x07];
    for _ in 0..1000 {
        named.extend_from_slice(&[4, b'a', b'b', b'c', 0]);
    }
    named.extend_from_slice(&[0; 4]);
    let request = decode_message::<MetadataRequest>(Bytes::from(named), 9).unwrap();
    assert_eq!(request.topics.map(|topics| topics.len()), Some(1000));
}

#[test]
fn small_arrays_may_hold_very_short_strings() {
    let mut body = vec![41];
    body.resize(41, 1);
    body.push(0);
    let request = decode_message::<ListGroupsRequest>(Bytes::from(body), 4).unwrap();
    assert_eq!(request.states_filter.len(), 40);
}

#[test]
fn a_message_may_not_take_more_reads_than_allowed() {
    // A ListGroups request v3 is nothing but tagged fields: three bytes of tag, a size of 0, no bytes, which
    // takes five reads. Two more are for the count of tags, or a byte or two of it.
    let request = |tags: usize| {
        let mut writer = Writer::new(true);
        writer.uvarint(u32::try_from(tags).unwrap());
        for tag in 0..tags {
            let [low, middle, high, _] = (u32::try_from(tag).unwrap() << 1).to_le_bytes();
            writer.raw(&[low | 0x80, middle | 0x80, high & 0x7f, 0]);
        }
        decode_message::<ListGroupsRequest>(writer.finish(), 3)
    };
    assert!(request(REQUEST_READS / 5 - 1).is_ok());
    let error = request(REQUEST_READS / 5 + 1).unwrap_err();
    assert!(matches!(error, WireError::Message { .. }), "{error}");
}
