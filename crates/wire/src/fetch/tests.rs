//! The Fetch response against the generated codec byte for byte, and cut at every byte.

use bytes::BytesMut;
use proptest::prelude::*;
use proto_kafka::messages as generated;

use super::*;
use crate::messages::{Decodable, Encodable, StrBytes};

fn text() -> impl Strategy<Value = TopicName> {
    "[a-zA-Z0-9._-]{0,40}".prop_map(|text| TopicName(StrBytes::from_string(text)))
}

fn pieces() -> impl Strategy<Value = Vec<Bytes>> {
    let piece = proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    proptest::collection::vec(piece, 0..4)
}

prop_compose! {
    fn partition(version: i16)(
        index: i32, code in -1_i16..120, high_watermark: i64, last_stable_offset: i64,
        log_start_offset: i64, preferred: i32, records in pieces(),
        aborted in proptest::option::of(proptest::collection::vec(any::<(i64, i64)>(), 0..3)),
        diverging in proptest::option::of(any::<(i32, i64)>()),
        leader in proptest::option::of(any::<(i32, i32)>()),
    ) -> FetchedPartition {
        let aborted = aborted.map(|all| all
            .into_iter()
            .map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset })
            .collect());
        FetchedPartition {
            index,
            error_code: ErrorCode::from(code),
            high_watermark,
            last_stable_offset,
            log_start_offset: if version >= 5 { log_start_offset } else { -1 },
            aborted_transactions: aborted,
            preferred_read_replica: if version >= 11 { preferred } else { -1 },
            diverging_epoch: diverging
                .filter(|_| version >= 12)
                .map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
            current_leader: leader
                .filter(|_| version >= 12)
                .map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch }),
            records,
        }
    }
}

fn versioned() -> impl Strategy<Value = (i16, FetchResponse)> {
    (4_i16..=12).prop_flat_map(|version| {
        let partitions = proptest::collection::vec(partition(version), 0..4);
        let topics = proptest::collection::vec((text(), partitions), 0..4);
        (Just(version), topics, any::<i32>(), any::<i16>(), any::<i32>()).prop_map(
            |(version, topics, throttle_time_ms, code, session_id)| {
                let (code, session_id) = if version >= 7 { (code, session_id) } else { (0, 0) };
                let topics = topics
                    .into_iter()
                    .map(|(name, partitions)| FetchableTopic { name, partitions })
                    .collect();
                let error_code = ErrorCode::from(code);
                (version, FetchResponse { throttle_time_ms, error_code, session_id, topics })
            },
        )
    })
}

/// As decoding gives it: the pieces of each partition's records in one.
fn joined(mut response: FetchResponse) -> FetchResponse {
    for partition in response.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let whole = Bytes::from(partition.records.concat());
        partition.records = if whole.is_empty() { Vec::new() } else { vec![whole] };
    }
    response
}

fn frame_of(response: &FetchResponse, version: i16) -> Bytes {
    let frame = Bytes::from(response.encode(version, 9).unwrap().concat());
    let length = i32::from_be_bytes(frame[..4].try_into().unwrap());
    assert_eq!(usize::try_from(length).unwrap(), frame.len() - 4);
    frame.slice(4..)
}

proptest! {
    #[test]
    fn responses_agree_with_the_generated_codec((version, response) in versioned()) {
        let frame = frame_of(&response, version);
        let (correlation_id, decoded) = FetchResponse::decode(frame.clone(), version).unwrap();
        prop_assert_eq!(correlation_id, 9);
        prop_assert_eq!(decoded, joined(response));
        let (_, body) = frame::split_response(API, version, frame).unwrap();
        let mut rest = body.clone();
        let theirs = generated::FetchResponse::decode(&mut rest, version).unwrap();
        prop_assert!(rest.is_empty());
        let mut written = BytesMut::new();
        theirs.encode(&mut written, version).unwrap();
        prop_assert_eq!(&written[..], &body[..]);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 2_i16..14) {
        // Whether this is an error depends on the bytes; that it returns is the test.
        drop(FetchResponse::decode(Bytes::from(bytes), version));
    }
}

fn sample() -> FetchResponse {
    let mut read = FetchedPartition::read(0, 10, 0, vec![Bytes::from_static(b"records")]);
    read.aborted_transactions = Some(vec![AbortedTransaction { producer_id: 1, first_offset: 2 }]);
    let mut failed = FetchedPartition::failed(1, ErrorCode::NOT_LEADER_OR_FOLLOWER);
    failed.current_leader = Some(LeaderIdAndEpoch { leader_id: 2, leader_epoch: 3 });
    failed.diverging_epoch = Some(EpochEndOffset { epoch: 4, end_offset: 5 });
    FetchResponse {
        topics: vec![FetchableTopic {
            name: TopicName(StrBytes::from_static_str("logs")),
            partitions: vec![read, failed],
        }],
        ..FetchResponse::default()
    }
}

#[test]
fn cut_at_every_byte_is_an_error() {
    for version in 4..=12 {
        let frame = frame_of(&sample(), version);
        for end in 0..frame.len() {
            let cut = FetchResponse::decode(frame.slice(..end), version);
            assert!(cut.is_err(), "version {version}, {end} of {} bytes", frame.len());
        }
    }
}

#[test]
fn records_are_neither_copied_out_nor_in() {
    let records = Bytes::from(vec![7; 100_000]);
    let partition = FetchedPartition::read(0, 1, 0, vec![records.clone()]);
    let topic = TopicName(StrBytes::from_static_str("logs"));
    let response = FetchResponse {
        topics: vec![FetchableTopic { name: topic, partitions: vec![partition] }],
        ..FetchResponse::default()
    };
    let segments = response.encode(12, 1).unwrap();
    assert!(segments.iter().any(|segment| segment.as_ptr() == records.as_ptr()));
    let others: usize = segments.iter().map(Bytes::len).sum::<usize>() - records.len();
    assert!(others < 100, "{others} bytes around the records");

    let frame = frame_of(&response, 12);
    let (_, decoded) = FetchResponse::decode(frame.clone(), 12).unwrap();
    let read = &decoded.topics[0].partitions[0].records[0];
    assert!(frame.as_ptr_range().contains(&read.as_ptr()));
}

#[test]
fn a_tag_with_too_many_bytes_is_an_error() {
    let mut response = sample();
    response.topics[0].partitions.remove(0);
    let mut frame = frame_of(&response, 12).to_vec();
    // The current leader is the last tag: size 9 becomes 8, and its last byte the topic's tag count.
    let size_at = frame.len() - 12;
    assert_eq!(&frame[size_at - 1..=size_at], [1, 9]);
    frame[size_at] = 8;
    assert!(FetchResponse::decode(Bytes::from(frame), 12).is_err());
}

#[test]
fn no_error_writes_null_records() {
    // Old clients do not expect null: an empty field instead.
    let response = FetchResponse {
        topics: vec![FetchableTopic {
            name: TopicName(StrBytes::from_static_str("t")),
            partitions: vec![FetchedPartition::failed(0, ErrorCode::OFFSET_OUT_OF_RANGE)],
        }],
        ..FetchResponse::default()
    };
    for version in 4..=12 {
        let (_, body) = frame::split_response(API, version, frame_of(&response, version)).unwrap();
        let theirs = generated::FetchResponse::decode(&mut body.clone(), version).unwrap();
        assert_eq!(theirs.responses[0].partitions[0].records, Some(Bytes::new()), "{version}");
    }
}
