//! Produce against the generated codec byte for byte, cut at every byte, and with lengths that lie.

use proptest::prelude::*;
use proto_kafka::messages as generated;

use super::*;
use crate::messages::{Decodable, Encodable};

fn header(version: i16) -> RequestHeader {
    RequestHeader::new(API, version, 77, Some(StrBytes::from_static_str("tests")))
}

fn text() -> impl Strategy<Value = StrBytes> {
    "[a-zA-Z0-9._-]{0,40}".prop_map(StrBytes::from_string)
}

fn records() -> impl Strategy<Value = Option<Bytes>> {
    proptest::option::of(proptest::collection::vec(any::<u8>(), 0..400).prop_map(Bytes::from))
}

prop_compose! {
    fn request()(
        transactional_id in proptest::option::of(text()),
        acks in -1_i16..=1,
        timeout_ms: i32,
        topics in proptest::collection::vec(
            (text(), proptest::collection::vec((any::<i32>(), records()), 0..4)), 0..4),
    ) -> ProduceRequest {
        let topics = topics.into_iter().map(|(name, partitions)| TopicProduceData {
            name: TopicName(name),
            partitions: partitions
                .into_iter()
                .map(|(index, records)| PartitionProduceData { index, records })
                .collect(),
        });
        ProduceRequest { transactional_id, acks, timeout_ms, topics: topics.collect() }
    }
}

prop_compose! {
    fn partition_response(version: i16)(
        index: i32, code in -1_i16..120, base_offset: i64, log_append_time_ms: i64,
        log_start_offset: i64, error_message in proptest::option::of(text()),
        errors in proptest::collection::vec((any::<i32>(), proptest::option::of(text())), 0..3),
    ) -> PartitionProduceResponse {
        let errors = errors.into_iter().map(|(batch_index, message)| RecordError { batch_index, message });
        PartitionProduceResponse {
            index,
            error_code: ErrorCode::from(code),
            base_offset,
            log_append_time_ms,
            log_start_offset: if version >= 5 { log_start_offset } else { -1 },
            record_errors: if version >= 8 { errors.collect() } else { Vec::new() },
            error_message: error_message.filter(|_| version >= 8),
        }
    }
}

fn response(version: i16) -> impl Strategy<Value = ProduceResponse> {
    let partitions = proptest::collection::vec(partition_response(version), 0..4);
    let topics = proptest::collection::vec((text(), partitions), 0..4);
    (topics, any::<i32>()).prop_map(|(topics, throttle_time_ms)| ProduceResponse {
        topics: topics
            .into_iter()
            .map(|(name, partitions)| TopicProduceResponse { name: TopicName(name), partitions })
            .collect(),
        throttle_time_ms,
    })
}

fn versioned_response() -> impl Strategy<Value = (i16, ProduceResponse)> {
    (3_i16..=9).prop_flat_map(|version| (Just(version), response(version)))
}

/// What the generated codec makes of our request.
fn as_generated(request: &ProduceRequest) -> generated::ProduceRequest {
    use generated::produce_request::{PartitionProduceData, TopicProduceData};
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.clone())
        });
        TopicProduceData::default()
            .with_name(topic.name.clone())
            .with_partition_data(partitions.collect())
    });
    generated::ProduceRequest::default()
        .with_transactional_id(request.transactional_id.clone().map(generated::TransactionalId))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
}

fn body_of(request: &ProduceRequest, version: i16) -> Bytes {
    let frame = request.encode(&header(version)).unwrap().concat();
    let (parsed, body) = frame::parse_request_header(Bytes::from(frame).slice(4..)).unwrap();
    assert_eq!(parsed, header(version));
    body
}

proptest! {
    #[test]
    fn requests_agree_with_the_generated_codec(request in request(), version in 3_i16..=9) {
        let frame = request.encode(&header(version)).unwrap().concat();
        let theirs = frame::encode_request(&header(version), &as_generated(&request)).unwrap();
        prop_assert_eq!(&frame[..], &theirs[..]);
        prop_assert_eq!(ProduceRequest::decode(body_of(&request, version), version).unwrap(), request);
    }

    #[test]
    fn responses_agree_with_the_generated_codec((version, response) in versioned_response()) {
        let frame = response.encode(version, 42).unwrap();
        prop_assert_eq!(i32::from_be_bytes(frame[..4].try_into().unwrap()), i32::try_from(frame.len()).unwrap() - 4);
        let (correlation_id, decoded) = ProduceResponse::decode(frame.slice(4..), version).unwrap();
        prop_assert_eq!(correlation_id, 42);
        prop_assert_eq!(&decoded, &response);
        // The generated codec reads all of it and writes the same bytes.
        let (_, body) = frame::split_response(API, version, frame.slice(4..)).unwrap();
        let mut rest = body.clone();
        let theirs = generated::ProduceResponse::decode(&mut rest, version).unwrap();
        prop_assert!(rest.is_empty());
        let mut written = BytesMut::new();
        theirs.encode(&mut written, version).unwrap();
        prop_assert_eq!(&written[..], &body[..]);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0_i16..12) {
        let bytes = Bytes::from(bytes);
        // Whether these are errors depends on the bytes; that they return is the test.
        drop(ProduceRequest::decode(bytes.clone(), version));
        drop(ProduceResponse::decode(bytes, version));
    }
}

fn sample() -> ProduceRequest {
    let partition = |index, records| PartitionProduceData { index, records };
    ProduceRequest {
        transactional_id: Some(StrBytes::from_static_str("tx")),
        acks: -1,
        timeout_ms: 30_000,
        topics: vec![TopicProduceData {
            name: TopicName(StrBytes::from_static_str("logs")),
            partitions: vec![
                partition(0, Some(Bytes::from_static(b"some records"))),
                partition(1, None),
            ],
        }],
    }
}

#[test]
fn cut_at_every_byte_is_an_error() {
    for version in 3..=9 {
        let body = body_of(&sample(), version);
        for end in 0..body.len() {
            let cut = ProduceRequest::decode(body.slice(..end), version);
            assert!(cut.is_err(), "version {version}, {end} of {} bytes", body.len());
        }
        let mut refused = PartitionProduceResponse::refused(
            3,
            ErrorCode::MESSAGE_TOO_LARGE,
            Some("too large".to_owned()),
        );
        refused.record_errors = vec![RecordError { batch_index: 1, message: None }];
        let response = ProduceResponse {
            topics: vec![TopicProduceResponse {
                name: TopicName(StrBytes::from_static_str("logs")),
                partitions: vec![refused, PartitionProduceResponse::stored(4, 10, -1, 0)],
            }],
            throttle_time_ms: 5,
        };
        let frame = response.encode(version, 1).unwrap().slice(4..);
        for end in 0..frame.len() {
            assert!(
                ProduceResponse::decode(frame.slice(..end), version).is_err(),
                "{version} {end}"
            );
        }
    }
}

#[test]
fn bytes_behind_the_request_are_an_error() {
    let mut body = BytesMut::from(&body_of(&sample(), 9)[..]);
    body.put_u8(0);
    let error = ProduceRequest::decode(body.freeze(), 9).unwrap_err();
    assert_eq!(error, WireError::TrailingBytes { what: "the Produce request", count: 1 });
}

#[test]
fn records_are_slices_of_the_frame_and_sent_as_they_are() {
    let body = body_of(&sample(), 9);
    let decoded = ProduceRequest::decode(body.clone(), 9).unwrap();
    let records = decoded.topics[0].partitions[0].records.clone().unwrap();
    assert!(body.as_ptr_range().contains(&records.as_ptr()), "decoding copies nothing");
    let segments = decoded.encode(&header(9)).unwrap();
    assert!(
        segments.iter().any(|segment| segment.as_ptr() == records.as_ptr()),
        "encoding copies nothing"
    );
}

#[test]
fn versions_outside_the_table_are_refused() {
    for version in [-1, 0, 2, 10] {
        let error = ProduceRequest::decode(Bytes::new(), version).unwrap_err();
        assert!(matches!(error, WireError::UnsupportedVersion { .. }), "{error}");
        assert!(ProduceResponse::default().encode(version, 0).is_err());
    }
}

#[test]
fn a_count_of_two_billion_is_refused_before_anything_is_reserved() {
    // No transactional id, acks, timeout, then a topic count that cannot be true: the 12 bytes that
    // made a known codec ask for 400 GB.
    let body = [0xff, 0xff, 0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff];
    let error = ProduceRequest::decode(Bytes::copy_from_slice(&body), 3).unwrap_err();
    let expected = WireError::CountTooLarge { field: "topics", count: 0x7fff_ffff, available: 0 };
    assert_eq!(error, expected);
}
