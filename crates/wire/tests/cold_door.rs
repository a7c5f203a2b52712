//! The door to the generated codec, for every API and version of the table: samples pass unchanged, cut and
//! lengthened ones are errors, and no mutation of theirs panics.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use bytes::{Bytes, BytesMut};
use common::kinds;
use tailway_wire::messages::{ApiVersionsResponse, MetadataRequest, StrBytes};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader, Server, WireError, api, frame};

const SAMPLES: usize = 3;

#[test]
fn samples_pass_unchanged() {
    for kind in kinds() {
        for sample in kind.samples(SAMPLES) {
            assert_eq!(kind.through_the_door(sample.clone()), Ok(sample), "{}", kind.name());
        }
    }
}

#[test]
fn cut_at_every_byte_or_too_long_is_an_error() {
    for kind in kinds() {
        for sample in kind.samples(SAMPLES) {
            for end in 0..sample.len() {
                let cut = kind.through_the_door(sample.slice(..end));
                assert!(cut.is_err(), "{} cut to {end} of {}", kind.name(), sample.len());
            }
            let mut long = BytesMut::from(&sample[..]);
            long.extend_from_slice(&[0]);
            let error = kind.through_the_door(long.freeze()).unwrap_err();
            assert!(
                matches!(error, WireError::TrailingBytes { count: 1, .. }),
                "{}: {error}",
                kind.name()
            );
        }
    }
}

#[test]
fn no_mutation_panics() {
    let hostile: [&[u8]; 7] = [
        &[0xff],
        &[0x80],
        &[0x7f, 0xff],
        &[0x7f, 0xff, 0xff, 0xff],
        &[0xff, 0xff, 0xff, 0xfe],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    let mut refused = 0_usize;
    for kind in kinds() {
        for sample in kind.samples(1) {
            for at in 0..sample.len() {
                for bytes in hostile {
                    let mut mutated = sample.to_vec();
                    let end = (at + bytes.len()).min(mutated.len());
                    mutated.splice(at..end, bytes.iter().copied());
                    refused += usize::from(kind.through_the_door(Bytes::from(mutated)).is_err());
                }
            }
        }
    }
    assert!(refused > 10_000, "only {refused} mutations were refused");
}

fn header(api: ApiKey, version: i16) -> RequestHeader {
    RequestHeader::new(api, version, 4711, Some(StrBytes::from_static_str("test-client")))
}

#[test]
fn headers_round_trip_for_every_api_and_version() {
    for api in ApiKey::all() {
        let versions = api.accepted_versions();
        for version in versions.min..=versions.max {
            let header = header(api, version);
            let request = frame::encode_request_raw(&header, b"{}").unwrap();
            let (parsed, body) = frame::parse_request_header(request.slice(4..)).unwrap();
            assert_eq!((parsed, &body[..]), (header.clone(), &b"{}"[..]));
            for end in 0..request.len() - 6 {
                assert!(
                    frame::parse_request_header(request.slice(4..4 + end)).is_err(),
                    "{api} {end}"
                );
            }
            let response = frame::encode_response_raw(&header, b"{}").unwrap();
            let length = i32::from_be_bytes(response[..4].try_into().unwrap());
            assert_eq!(usize::try_from(length).unwrap(), response.len() - 4);
            assert_eq!(frame::peek_correlation_id(&response[4..]), Ok(4711));
            let (correlation_id, body) =
                frame::split_response(api, version, response.slice(4..)).unwrap();
            assert_eq!((correlation_id, &body[..]), (4711, &b"{}"[..]));
        }
    }
}

#[test]
fn unknown_apis_and_versions_are_refused_with_all_that_a_log_line_needs() {
    let mut bytes = vec![0, 99, 0, 7, 0, 0, 0, 5, 0, 4];
    bytes.extend_from_slice(b"omfw");
    bytes.extend_from_slice(&[0xff; 10]);
    let error = frame::parse_request_header(Bytes::from(bytes)).unwrap_err();
    let client_id = Some(StrBytes::from_static_str("omfw"));
    let expected =
        WireError::UnknownApiKey { api_key: 99, api_version: 7, correlation_id: 5, client_id };
    assert_eq!(error, expected);
    assert_eq!(error.to_string(), "unknown API key 99 (version 7) from client \"omfw\"");

    for (api, version) in
        [(ApiKey::Produce, 2), (ApiKey::Produce, 10), (ApiKey::Fetch, 13), (ApiKey::Metadata, -1)]
    {
        let header = RequestHeader { api_version: version, ..header(api, 3) };
        let request = frame::encode_request_raw(&header, b"").unwrap();
        let error = frame::parse_request_header(request.slice(4..)).unwrap_err();
        let WireError::UnsupportedVersion {
            api: named,
            api_version,
            correlation_id,
            client_id,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*named, *api_version, *correlation_id), (api, version, 4711));
        assert_eq!(client_id.as_deref(), Some("test-client"));
    }
    let no_id = [0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff];
    let error = frame::parse_request_header(Bytes::copy_from_slice(&no_id)).unwrap_err();
    assert!(error.to_string().ends_with("from client without an id"), "{error}");
}

#[test]
fn api_versions_above_ours_are_answered_in_layout_zero() {
    let answer = frame::encode_unsupported_api_versions(8).unwrap();
    // Length, correlation id, error 35, one entry: key 18, versions 0 to 4.
    let expected = [0, 0, 0, 16, 0, 0, 0, 8, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4];
    assert_eq!(&answer[..], expected);
    // A client that asked in version 4 understands it.
    let (id, response) =
        frame::decode_response::<ApiVersionsResponse>(ApiKey::ApiVersions, 4, answer.slice(4..))
            .unwrap();
    assert_eq!((id, response.error_code), (8, ErrorCode::UNSUPPORTED_VERSION.code()));
    assert_eq!(api::listed_by(&response, ApiKey::ApiVersions), Some(api::VersionRange::new(0, 4)));
}

#[test]
fn api_versions_carry_no_tagged_fields() {
    // librdkafka before 2.2 skips one byte too few of every tag, so there must be none.
    for server in [Server::Broker, Server::Coordinator] {
        let response = api::api_versions_response(server);
        for version in 3..=4 {
            let header = header(ApiKey::ApiVersions, version);
            let frame = frame::encode_response(&header, &response).unwrap();
            let entries = api::served(server).len();
            // Length, correlation id (header version 0: no tags), error, compact count, then 6 bytes and an
            // empty tag section per entry, throttle time, an empty tag section.
            assert_eq!(frame.len(), 4 + 4 + 2 + 1 + entries * 7 + 4 + 1, "{server:?} v{version}");
            assert_eq!(frame.last(), Some(&0));
            assert_eq!(usize::from(frame[10]), entries + 1);
            assert!(frame[11..].chunks(7).take(entries).all(|entry| entry[6] == 0));
        }
    }
}

#[test]
fn an_oversized_request_is_refused_unread() {
    let body = Bytes::from(vec![0; frame::MAX_COLD_REQUEST + 1]);
    let error = frame::decode_request::<MetadataRequest>(body, 9).unwrap_err();
    assert!(matches!(error, WireError::TooLarge { what: "request", .. }), "{error}");
    assert_eq!(frame::request_limit(ApiKey::Produce.key(), 100 << 20), 100 << 20);
    assert_eq!(frame::request_limit(ApiKey::Metadata.key(), 100 << 20), frame::MAX_COLD_REQUEST);
    assert_eq!(frame::request_limit(12345, 1 << 20), 1 << 20);
}

#[test]
fn an_error_of_the_generated_codec_names_the_message() {
    let error =
        frame::decode_request::<MetadataRequest>(Bytes::from_static(&[0x7f]), 4).unwrap_err();
    assert!(error.to_string().starts_with("MetadataRequest version 4: "), "{error}");
}
