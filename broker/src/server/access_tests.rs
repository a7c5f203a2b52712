//! Every API that the broker serves, with every role that has no grant for it, in its oldest and newest version: denied by
//! Kafka's codes where clients look for them, and nothing has changed. And: a revoked certificate's connection is cut.

use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::authority::AuthorityId;
use tailway_metadata::security::{IssuedCertificate, Role, Serial};
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterId, MetadataRecord};
use tailway_net::{PeerIdentity, SpiffeId, Stream};
use tailway_wire::api::Server as Served;
use tailway_wire::fetch::FetchResponse;
use tailway_wire::frame::{decode_response, encode_request};
use tailway_wire::messages::{self as kafka, StrBytes, TopicName};
use tailway_wire::produce::{
    PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData,
};
use tailway_wire::{ApiKey, ErrorCode, RequestHeader};

use super::access::{Principal, is_allowed};
use super::context::{Closing, Peer};
use super::dispatch::{Outcome, handle};
use super::testing::{RawClient, TestBroker, batch, limits};

/// Runs each test in a process of its own, without the guard that it is about.
#[test]
fn every_guard_is_missed_when_it_is_left_out() {
    let program = std::env::current_exe().unwrap();
    for (bug, test) in [
        (
            "broker.role_unchecked",
            "every_api_that_is_not_a_roles_own_is_denied_and_changes_nothing",
        ),
        (
            "broker.revoked_served",
            "a_connection_ends_when_its_certificate_is_revoked_and_others_go_on",
        ),
    ] {
        let mut child = std::process::Command::new(&program);
        child.args(["--exact", &format!("server::access_tests::{test}")]).env("TAILWAY_PLANT", bug);
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let found = !output.status.success() && text.contains("panicked");
        assert!(found, "{bug} is not found by {test}:\n{text}");
    }
}

fn principal(role: &str, serial: &str) -> Principal {
    let identity = PeerIdentity {
        spiffe: SpiffeId::parse(&format!("spiffe://c/{role}/7")),
        common_name: None,
        serial: Serial(serial.into()),
    };
    Principal::of_certificate(Some(&identity), &ClusterId("c".into()))
}

fn peer(principal: Principal) -> Peer {
    Peer::new(1, ([127, 0, 0, 1], 40_000).into(), "plain".into(), principal)
}

fn name() -> TopicName {
    TopicName(StrBytes::from_static_str("logs"))
}

/// A request about partition 0 of topic `logs` or group `g`, without its length, and what reads the answer's code.
#[allow(clippy::too_many_lines, reason = "a table")]
fn exchange(api: ApiKey, version: i16) -> (Bytes, Box<dyn Fn(Bytes) -> i16>) {
    let header = RequestHeader::new(api, version, 7, None);
    macro_rules! of {
        ($request:expr, $response:ty, $code:expr) => {{
            let read = move |frame: Bytes| {
                let body = frame.slice(4..);
                let response = decode_response::<$response>(api, version, body).unwrap().1;
                let code: fn($response) -> i16 = $code;
                code(response)
            };
            (encode_request(&header, &$request).unwrap().slice(4..), Box::new(read) as Box<_>)
        }};
    }
    let group = || kafka::GroupId(StrBytes::from_static_str("g"));
    match api {
        ApiKey::Produce => {
            let partition = PartitionProduceData { index: 0, records: Some(batch(&[b"x"])) };
            let topics = vec![TopicProduceData { name: name(), partitions: vec![partition] }];
            let request =
                ProduceRequest { transactional_id: None, acks: -1, timeout_ms: 1_000, topics };
            let whole: Vec<u8> = request.encode(&header).unwrap().concat();
            let read = move |frame: Bytes| {
                let response = ProduceResponse::decode(frame.slice(4..), version).unwrap().1;
                response.topics[0].partitions[0].error_code.code()
            };
            (Bytes::from(whole).slice(4..), Box::new(read))
        }
        ApiKey::Fetch => {
            use kafka::fetch_request::{FetchPartition, FetchTopic};
            let partitions = vec![FetchPartition::default()];
            let topics = vec![FetchTopic::default().with_topic(name()).with_partitions(partitions)];
            let request = kafka::FetchRequest::default().with_topics(topics);
            let read = move |frame: Bytes| {
                let response = FetchResponse::decode(frame.slice(4..), version).unwrap().1;
                response.topics[0].partitions[0].error_code.code()
            };
            (encode_request(&header, &request).unwrap().slice(4..), Box::new(read))
        }
        ApiKey::ListOffsets => {
            use kafka::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
            let partitions = vec![ListOffsetsPartition::default()];
            let topics =
                vec![ListOffsetsTopic::default().with_name(name()).with_partitions(partitions)];
            of!(
                kafka::ListOffsetsRequest::default().with_topics(topics),
                kafka::ListOffsetsResponse,
                |r| r.topics[0].partitions[0].error_code
            )
        }
        ApiKey::OffsetForLeaderEpoch => {
            use kafka::offset_for_leader_epoch_request::{
                OffsetForLeaderPartition, OffsetForLeaderTopic,
            };
            let partitions = vec![OffsetForLeaderPartition::default()];
            let topics = vec![
                OffsetForLeaderTopic::default().with_topic(name()).with_partitions(partitions),
            ];
            of!(
                kafka::OffsetForLeaderEpochRequest::default().with_topics(topics),
                kafka::OffsetForLeaderEpochResponse,
                |r| r.topics[0].partitions[0].error_code
            )
        }
        ApiKey::DescribeProducers => {
            use kafka::describe_producers_request::TopicRequest;
            let topic = TopicRequest::default().with_name(name()).with_partition_indexes(vec![0]);
            of!(
                kafka::DescribeProducersRequest::default().with_topics(vec![topic]),
                kafka::DescribeProducersResponse,
                |r| r.topics[0].partitions[0].error_code
            )
        }
        ApiKey::OffsetCommit => {
            use kafka::offset_commit_request::{
                OffsetCommitRequestPartition, OffsetCommitRequestTopic,
            };
            let partitions = vec![OffsetCommitRequestPartition::default()];
            let topics = vec![
                OffsetCommitRequestTopic::default().with_name(name()).with_partitions(partitions),
            ];
            of!(
                kafka::OffsetCommitRequest::default().with_group_id(group()).with_topics(topics),
                kafka::OffsetCommitResponse,
                |r| r.topics[0].partitions[0].error_code
            )
        }
        ApiKey::OffsetFetch if version >= 8 => {
            use kafka::offset_fetch_request::OffsetFetchRequestGroup;
            let groups = vec![OffsetFetchRequestGroup::default().with_group_id(group())];
            of!(
                kafka::OffsetFetchRequest::default().with_groups(groups),
                kafka::OffsetFetchResponse,
                |r| r.groups[0].error_code
            )
        }
        ApiKey::OffsetFetch => {
            use kafka::offset_fetch_request::OffsetFetchRequestTopic;
            let topic = OffsetFetchRequestTopic::default()
                .with_name(name())
                .with_partition_indexes(vec![0]);
            of!(
                kafka::OffsetFetchRequest::default()
                    .with_group_id(group())
                    .with_topics(Some(vec![topic])),
                kafka::OffsetFetchResponse,
                |r| r.topics[0].partitions[0].error_code
            )
        }
        ApiKey::FindCoordinator if version >= 4 => of!(
            kafka::FindCoordinatorRequest::default()
                .with_coordinator_keys(vec![StrBytes::from_static_str("g")]),
            kafka::FindCoordinatorResponse,
            |r| r.coordinators[0].error_code
        ),
        ApiKey::FindCoordinator => of!(
            kafka::FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("g")),
            kafka::FindCoordinatorResponse,
            |r| r.error_code
        ),
        ApiKey::JoinGroup => of!(
            kafka::JoinGroupRequest::default().with_group_id(group()),
            kafka::JoinGroupResponse,
            |r| r.error_code
        ),
        ApiKey::SyncGroup => of!(
            kafka::SyncGroupRequest::default().with_group_id(group()),
            kafka::SyncGroupResponse,
            |r| r.error_code
        ),
        ApiKey::Heartbeat => of!(
            kafka::HeartbeatRequest::default().with_group_id(group()),
            kafka::HeartbeatResponse,
            |r| r.error_code
        ),
        ApiKey::LeaveGroup => of!(
            kafka::LeaveGroupRequest::default().with_group_id(group()),
            kafka::LeaveGroupResponse,
            |r| r.error_code
        ),
        ApiKey::DescribeGroups => of!(
            kafka::DescribeGroupsRequest::default().with_groups(vec![group()]),
            kafka::DescribeGroupsResponse,
            |r| r.groups[0].error_code
        ),
        ApiKey::ListGroups => {
            of!(kafka::ListGroupsRequest::default(), kafka::ListGroupsResponse, |r| r.error_code)
        }
        ApiKey::DeleteGroups => of!(
            kafka::DeleteGroupsRequest::default().with_groups_names(vec![group()]),
            kafka::DeleteGroupsResponse,
            |r| r.results[0].error_code
        ),
        ApiKey::OffsetDelete => of!(
            kafka::OffsetDeleteRequest::default().with_group_id(group()),
            kafka::OffsetDeleteResponse,
            |r| r.error_code
        ),
        ApiKey::CreateTopics => {
            use kafka::create_topics_request::CreatableTopic;
            of!(
                kafka::CreateTopicsRequest::default()
                    .with_topics(vec![CreatableTopic::default().with_name(name())]),
                kafka::CreateTopicsResponse,
                |r| r.topics[0].error_code
            )
        }
        ApiKey::DeleteTopics if version >= 6 => {
            use kafka::delete_topics_request::DeleteTopicState;
            of!(
                kafka::DeleteTopicsRequest::default()
                    .with_topics(vec![DeleteTopicState::default().with_name(Some(name()))]),
                kafka::DeleteTopicsResponse,
                |r| r.responses[0].error_code
            )
        }
        ApiKey::DeleteTopics => of!(
            kafka::DeleteTopicsRequest::default().with_topic_names(vec![name()]),
            kafka::DeleteTopicsResponse,
            |r| r.responses[0].error_code
        ),
        ApiKey::InitProducerId => {
            of!(kafka::InitProducerIdRequest::default(), kafka::InitProducerIdResponse, |r| r
                .error_code)
        }
        ApiKey::DescribeConfigs => {
            use kafka::describe_configs_request::DescribeConfigsResource;
            let resource = DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(StrBytes::from_static_str("logs"));
            of!(
                kafka::DescribeConfigsRequest::default().with_resources(vec![resource]),
                kafka::DescribeConfigsResponse,
                |r| r.results[0].error_code
            )
        }
        other => panic!("everybody may ask {other}, or it is not served"),
    }
}

#[tokio::test]
async fn every_api_that_is_not_a_roles_own_is_denied_and_changes_nothing() {
    let mut broker = TestBroker::new(limits()).await;
    broker.topic("logs", 1, 1).await;
    let before = broker.services.view.image();
    let (_tell, closing) = Closing::new();
    let mut denied = 0;
    for api in ApiKey::all().filter(|api| api.is_served_by(Served::Broker)) {
        for role in Role::ALL.into_iter().filter(|role| !is_allowed(api, *role)) {
            let peer = std::sync::Arc::new(peer(principal(role.name(), "07")));
            let versions = api.accepted_versions();
            for version in [versions.min, versions.max] {
                let (frame, code_of) = exchange(api, version);
                let outcome = handle(&broker.services, &peer, &closing, frame).await;
                let Outcome::Reply(segments) = outcome else {
                    panic!("{api} version {version} of {role} is not answered")
                };
                let code = ErrorCode::from(code_of(Bytes::from(segments.concat())));
                let of_authorization = matches!(
                    code,
                    ErrorCode::TOPIC_AUTHORIZATION_FAILED
                        | ErrorCode::GROUP_AUTHORIZATION_FAILED
                        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
                );
                assert!(of_authorization, "{api} version {version} of {role}: {code:?}");
                denied += 1;
            }
        }
    }
    assert_eq!(denied, 106, "roles without a grant, in two versions each");
    assert_eq!(broker.services.view.image(), before);
    let metrics = broker.metrics.encode();
    assert!(metrics.contains("reason=\"not_allowed\""), "{metrics}");
    // Nothing was appended: the first record of an admin is the log's first.
    let admin = std::sync::Arc::new(peer(principal("admin", "08")));
    let (frame, _) = exchange(ApiKey::Produce, 9);
    let Outcome::Pending(pending) = handle(&broker.services, &admin, &closing, frame).await else {
        panic!("an admin may produce");
    };
    let answer = Bytes::from(pending.await.unwrap().concat());
    let response = ProduceResponse::decode(answer.slice(4..), 9).unwrap().1;
    let stored = &response.topics[0].partitions[0];
    assert_eq!((stored.error_code.code(), stored.base_offset), (0, 0));
    broker.stop().await;
}

#[tokio::test]
async fn a_connection_ends_when_its_certificate_is_revoked_and_others_go_on() {
    let mut broker = TestBroker::new(limits()).await;
    let connections = broker.tasks.group("connections");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut clients = Vec::new();
    for serial in ["07", "08"] {
        let client = RawClient::connect(address).await;
        let (stream, _) = listener.accept().await.unwrap();
        let peer = std::sync::Arc::new(peer(principal("agent", serial)));
        let services = std::sync::Arc::clone(&broker.services);
        connections.spawn(format!("connection {serial}"), |stop| {
            super::connection::serve(Stream::Tcp(stream), peer, services, stop)
        });
        clients.push(client);
    }
    let issued = |revoked| {
        MetadataRecord::Certificate(IssuedCertificate {
            serial: Serial("07".into()),
            role: Role::Agent,
            id: "7".into(),
            names: Vec::new(),
            not_before: WallMs(0),
            not_after: WallMs(i64::MAX),
            issued_by: "token t".into(),
            revoked,
            signed_by: AuthorityId::FIRST,
            knows: AuthorityId::FIRST,
        })
    };
    let request = kafka::ApiVersionsRequest::default();
    broker.apply(vec![issued(None)]).await;
    for (id, client) in (1..).zip(&mut clients) {
        client.send(ApiKey::ApiVersions, 0, id, &request).await;
        assert_eq!(client.read_id().await, Some(id), "in force");
    }
    broker.apply(vec![issued(Some(WallMs(5)))]).await;
    let cut = tokio::time::timeout(Duration::from_secs(3), clients[0].read_id()).await;
    assert_eq!(cut, Ok(None), "cut at once");
    clients[1].send(ApiKey::ApiVersions, 0, 9, &request).await;
    assert_eq!(clients[1].read_id().await, Some(9), "another's");
    broker.stop().await;
}
