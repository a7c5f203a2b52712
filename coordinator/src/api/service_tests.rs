//! Every API with every role that has no grant for it: denied in the API's own words, and nothing reaches the controller.

use bytes::Bytes;
use tailway_daemon::Context;
use tailway_metadata::enrollment::Answer;
use tailway_wire::frame::{decode_response, encode_request, encode_request_raw, split_response};
use tailway_wire::messages::create_topics_request::CreatableTopic;
use tailway_wire::messages::delete_topics_request::DeleteTopicState;
use tailway_wire::messages::{
    AllocateProducerIdsResponse, BrokerHeartbeatResponse, BrokerRegistrationResponse,
    CreateTopicsResponse, DeleteTopicsResponse,
};

use super::*;

fn service() -> (Service, mpsc::Receiver<Call>) {
    let context = Context::default();
    let (calls, asked) = mpsc::channel(8);
    let (leadership, leads) = watch::channel(Ok(()));
    // Kept for the time of the test: a closed channel would be another answer.
    std::mem::forget(leadership);
    let service = Service {
        cluster_id: ClusterId("c".into()),
        port: 0,
        enrollment_port: None,
        calls,
        feed: Feed::new(),
        leadership: leads,
        metrics: CoordinatorMetrics::new(&context.metrics),
        clock: context.clock,
        authorities: None,
        keeps_own: false,
        certificate_lifetime: Duration::from_mins(1),
    };
    (service, asked)
}

fn peer(role: Role) -> Peer {
    Peer { role, id: "0".into(), serial: Serial::default() }
}

/// A request of this API that can be read, and as what its answer is read: the error code that it carries.
fn exchange(api: ApiKey) -> (Bytes, fn(Bytes) -> i16) {
    let version = api.accepted_versions().max;
    let header = RequestHeader::new(api, version, 7, None);
    macro_rules! of {
        ($request:expr, $response:ty, $code:expr) => {{
            let read = |frame: Bytes| {
                let api = ApiKey::try_from(<$response as Named>::KEY).unwrap();
                let version = api.accepted_versions().max;
                let response =
                    decode_response::<$response>(api, version, frame.slice(4..)).unwrap().1;
                let code: fn(&$response) -> i16 = $code;
                code(&response)
            };
            (encode_request(&header, &$request).unwrap().slice(4..), read as fn(Bytes) -> i16)
        }};
    }
    match api {
        ApiKey::BrokerRegistration => {
            of!(BrokerRegistrationRequest::default(), BrokerRegistrationResponse, |r| r.error_code)
        }
        ApiKey::BrokerHeartbeat => {
            of!(BrokerHeartbeatRequest::default(), BrokerHeartbeatResponse, |r| r.error_code)
        }
        ApiKey::AllocateProducerIds => {
            of!(AllocateProducerIdsRequest::default(), AllocateProducerIdsResponse, |r| r
                .error_code)
        }
        ApiKey::CreateTopics => of!(
            CreateTopicsRequest::default().with_topics(vec![CreatableTopic::default()]),
            CreateTopicsResponse,
            |r| r.topics[0].error_code
        ),
        ApiKey::DeleteTopics => of!(
            DeleteTopicsRequest::default().with_topics(vec![DeleteTopicState::default()]),
            DeleteTopicsResponse,
            |r| r.responses[0].error_code
        ),
        ApiKey::FollowMetadata => {
            let read = |frame: Bytes| {
                let (_, body) =
                    split_response(ApiKey::FollowMetadata, 0, frame.slice(4..)).unwrap();
                FollowMetadataResponse::decode(&body).unwrap().error_code
            };
            (encode_request_raw(&header, b"{}").unwrap().slice(4..), read)
        }
        _ => {
            let read = |frame: Bytes| {
                // All of them have a header without anything but the correlation id and its empty tags.
                let (_, body) = split_response(ApiKey::CreateToken, 0, frame.slice(4..)).unwrap();
                match Answer::<()>::decode(&body).unwrap() {
                    Answer::Refused { code, .. } => code,
                    Answer::Done(()) => 0,
                }
            };
            (encode_request_raw(&header, b"{}").unwrap().slice(4..), read)
        }
    }
}

/// The API of a response type.
trait Named {
    const KEY: i16;
}

macro_rules! named {
    ($($response:ty = $api:ident),*) => {
        $(impl Named for $response {
            const KEY: i16 = ApiKey::$api.key();
        })*
    };
}

named!(
    BrokerRegistrationResponse = BrokerRegistration,
    BrokerHeartbeatResponse = BrokerHeartbeat,
    AllocateProducerIdsResponse = AllocateProducerIds,
    CreateTopicsResponse = CreateTopics,
    DeleteTopicsResponse = DeleteTopics
);

#[tokio::test]
async fn every_api_that_is_not_a_roles_own_is_denied_and_changes_nothing() {
    let (service, mut asked) = service();
    let mut denied = 0;
    for api in ApiKey::all() {
        let served = api.is_served_by(Server::Coordinator);
        for role in Role::ALL {
            if access::is_allowed(api, role) {
                continue;
            }
            let (frame, code_of) = exchange(api);
            let answered = service.answer(&peer(role), frame).await;
            if served {
                let code = code_of(answered.unwrap());
                let expected = i16::from(ErrorCode::CLUSTER_AUTHORIZATION_FAILED);
                assert_eq!(code, expected, "{api} of {role}");
                denied += 1;
            } else {
                assert!(answered.is_err(), "{api} of {role}");
            }
            assert!(asked.try_recv().is_err(), "{api} of {role} reached the controller");
        }
    }
    assert_eq!(denied, 43, "roles without a grant, over what the coordinator serves");
}

#[tokio::test]
async fn a_broker_acts_for_itself_alone() {
    let (service, mut asked) = service();
    for api in [ApiKey::BrokerRegistration, ApiKey::BrokerHeartbeat, ApiKey::AllocateProducerIds] {
        let (frame, code_of) = exchange(api);
        let other = Peer { role: Role::Broker, id: "1".into(), serial: Serial::default() };
        let code = code_of(service.answer(&other, frame).await.unwrap());
        assert_eq!(code, i16::from(ErrorCode::CLUSTER_AUTHORIZATION_FAILED), "{api}");
        assert!(asked.try_recv().is_err(), "{api}");
    }
}
