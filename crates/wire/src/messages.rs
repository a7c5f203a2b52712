//! The one door to the generated Kafka types: nobody else names the crate they come from.
//!
//! Each API's request and response modules are re-exported with their main types. Produce and the Fetch
//! response are not here on purpose: the hand-written ones in [`crate::produce`] and [`crate::fetch`] are
//! the only ones. Generated structs are `non_exhaustive`: start from `default()` and set fields or use `with_*`.

pub use proto_kafka::messages::{BrokerId, GroupId, ProducerId, TopicName, TransactionalId};
pub use proto_kafka::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, StrBytes};

macro_rules! doors {
    ($($module:ident :: $main:ident),* $(,)?) => {
        $(pub use proto_kafka::messages::$module; pub use proto_kafka::messages::$module::$main;)*
    };
}

doors! {
    allocate_producer_ids_request::AllocateProducerIdsRequest,
    allocate_producer_ids_response::AllocateProducerIdsResponse,
    api_versions_request::ApiVersionsRequest,
    api_versions_response::ApiVersionsResponse,
    broker_heartbeat_request::BrokerHeartbeatRequest,
    broker_heartbeat_response::BrokerHeartbeatResponse,
    broker_registration_request::BrokerRegistrationRequest,
    broker_registration_response::BrokerRegistrationResponse,
    consumer_protocol_assignment::ConsumerProtocolAssignment,
    consumer_protocol_subscription::ConsumerProtocolSubscription,
    create_topics_request::CreateTopicsRequest,
    create_topics_response::CreateTopicsResponse,
    delete_groups_request::DeleteGroupsRequest,
    delete_groups_response::DeleteGroupsResponse,
    delete_topics_request::DeleteTopicsRequest,
    delete_topics_response::DeleteTopicsResponse,
    describe_cluster_request::DescribeClusterRequest,
    describe_cluster_response::DescribeClusterResponse,
    describe_configs_request::DescribeConfigsRequest,
    describe_configs_response::DescribeConfigsResponse,
    describe_groups_request::DescribeGroupsRequest,
    describe_groups_response::DescribeGroupsResponse,
    describe_producers_request::DescribeProducersRequest,
    describe_producers_response::DescribeProducersResponse,
    fetch_request::FetchRequest,
    find_coordinator_request::FindCoordinatorRequest,
    find_coordinator_response::FindCoordinatorResponse,
    heartbeat_request::HeartbeatRequest,
    heartbeat_response::HeartbeatResponse,
    init_producer_id_request::InitProducerIdRequest,
    init_producer_id_response::InitProducerIdResponse,
    join_group_request::JoinGroupRequest,
    join_group_response::JoinGroupResponse,
    leave_group_request::LeaveGroupRequest,
    leave_group_response::LeaveGroupResponse,
    list_groups_request::ListGroupsRequest,
    list_groups_response::ListGroupsResponse,
    list_offsets_request::ListOffsetsRequest,
    list_offsets_response::ListOffsetsResponse,
    metadata_request::MetadataRequest,
    metadata_response::MetadataResponse,
    offset_commit_request::OffsetCommitRequest,
    offset_commit_response::OffsetCommitResponse,
    offset_delete_request::OffsetDeleteRequest,
    offset_delete_response::OffsetDeleteResponse,
    offset_fetch_request::OffsetFetchRequest,
    offset_fetch_response::OffsetFetchResponse,
    offset_for_leader_epoch_request::OffsetForLeaderEpochRequest,
    offset_for_leader_epoch_response::OffsetForLeaderEpochResponse,
    sync_group_request::SyncGroupRequest,
    sync_group_response::SyncGroupResponse,
}
