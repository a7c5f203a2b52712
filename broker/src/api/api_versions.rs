//! ApiVersions (18), versions 0-4. KIP-511, KIP-584.
//!
//! Versions above ours are answered by `dispatch` in layout 0 with UNSUPPORTED_VERSION. A software name or version that
//! breaks KIP-511's pattern is INVALID_REQUEST, as in Kafka: librdkafka then comes again with version 0.
//! Produce is listed from version 0 (`wire::api` says why). No features are listed: no tagged field is ever sent, because
//! librdkafka before 2.2 mis-skips them.

use tailway_wire::api::{Server, api_versions_response};
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::server::context::{Peer, Software};

/// From this version on a client says what it is.
const NAMES_SOFTWARE_FROM: i16 = 3;
/// Longer names are not remembered; Kafka has no bound, its metrics registry suffers for it.
const NAME_LEN_MAX: usize = 128;

pub fn handle(request: &ApiVersionsRequest, version: i16, peer: &Peer) -> ApiVersionsResponse {
    if version >= NAMES_SOFTWARE_FROM {
        let (name, software_version) =
            (&request.client_software_name, &request.client_software_version);
        if !is_valid(name) || !is_valid(software_version) {
            return ApiVersionsResponse::default()
                .with_error_code(ErrorCode::INVALID_REQUEST.code());
        }
        let cut = |text: &str| text.chars().take(NAME_LEN_MAX).collect();
        peer.set_software(Software { name: cut(name), version: cut(software_version) });
    }
    api_versions_response(Server::Broker)
}

/// KIP-511: `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`
fn is_valid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    first.is_ascii_alphanumeric()
        && last.is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::text;

    fn ask(version: i16, name: &str, software_version: &str) -> (ApiVersionsResponse, Peer) {
        let peer = Peer::for_tests();
        let request = ApiVersionsRequest::default()
            .with_client_software_name(text(name))
            .with_client_software_version(text(software_version));
        (handle(&request, version, &peer), peer)
    }

    #[test]
    fn a_client_is_remembered_by_what_it_says() {
        let (response, peer) = ask(3, "librdkafka", "2.0.2");
        assert_eq!(response.error_code, 0);
        assert_eq!(peer.software().unwrap().name, "librdkafka");
        assert!(response.api_keys.iter().any(|api| (api.api_key, api.min_version) == (0, 0)));
        assert!(response.supported_features.is_empty() && response.finalized_features.is_empty());
    }

    #[test]
    fn names_that_break_the_pattern_are_refused_as_kafka_does() {
        for (name, version) in
            [(" ", " "), ("", ""), ("a", ""), ("a_b", "1"), ("-a", "1"), ("a", "1-")]
        {
            let (response, peer) = ask(3, name, version);
            assert_eq!(response.error_code, 42, "{name:?} {version:?}");
            assert!(response.api_keys.is_empty() && peer.software().is_none());
        }
        for good in ["a", "a-b.c", "apache-kafka-java"] {
            assert_eq!(ask(4, good, "4.3.1").0.error_code, 0, "{good}");
        }
        // Before version 3 there is no name to look at.
        assert_eq!(ask(2, "", "").0.error_code, 0);
    }
}
