//! The APIs that Tailway serves or sends: ONE table of key, name, versions, first flexible version, and who
//! answers it.
//!
//! A row is all it takes to serve another API here; `frame`, `served` and the clients read this table only.
//! *Listed* versions are what ApiVersions says, *accepted* ones are what really decodes. They differ for
//! Produce alone: librdkafka before 2.12 switches gzip, snappy and lz4 off without a word unless Produce is
//! listed from version 0, although it never sends less than 3 itself (Kafka 4 tells the same fib).

use std::fmt;

use crate::messages::ApiVersionsResponse;
use crate::messages::api_versions_response::ApiVersion;

/// An inclusive range of versions of one API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRange {
    pub min: i16,
    pub max: i16,
}

impl VersionRange {
    pub const fn new(min: i16, max: i16) -> Self {
        Self { min, max }
    }

    pub const fn contains(self, version: i16) -> bool {
        self.min <= version && version <= self.max
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.min, self.max)
    }
}

/// Which of our programs answers an API on its listeners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Broker,
    Coordinator,
}

struct Row {
    key: ApiKey,
    name: &'static str,
    listed: VersionRange,
    accepted_min: i16,
    flexible_from: i16,
    served_by: &'static [Server],
}

/// The API has no flexible version.
const NEVER: i16 = i16::MAX;
const BROKER: &[Server] = &[Server::Broker];
const COORDINATOR: &[Server] = &[Server::Coordinator];
const BOTH: &[Server] = &[Server::Broker, Server::Coordinator];

macro_rules! apis {
    ($($(#[$doc:meta])* $name:ident = $key:literal, $min:literal ..= $max:literal, accepted from $accepted:literal,
       flexible from $flexible:expr, $served:ident;)*) => {
        /// An API that Tailway serves or sends.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i16)]
        pub enum ApiKey {
            $($(#[$doc])* $name = $key,)*
        }

        const TABLE: &[Row] = &[
            $(Row {
                key: ApiKey::$name,
                name: stringify!($name),
                listed: VersionRange::new($min, $max),
                accepted_min: $accepted,
                flexible_from: $flexible,
                served_by: $served,
            },)*
        ];

        impl ApiKey {
            const fn row(self) -> &'static Row {
                let mut index = 0;
                while index < TABLE.len() {
                    if TABLE[index].key as i16 == self as i16 {
                        return &TABLE[index];
                    }
                    index += 1;
                }
                // Enum and table come from the same macro rows.
                unreachable!()
            }
        }

        impl TryFrom<i16> for ApiKey {
            type Error = i16;

            fn try_from(key: i16) -> Result<Self, i16> {
                match key {
                    $($key => Ok(Self::$name),)*
                    other => Err(other),
                }
            }
        }
    };
}

apis! {
    Produce = 0, 0..=9, accepted from 3, flexible from 9, BROKER;
    Fetch = 1, 4..=12, accepted from 4, flexible from 12, BROKER;
    ListOffsets = 2, 1..=7, accepted from 1, flexible from 6, BROKER;
    Metadata = 3, 0..=12, accepted from 0, flexible from 9, BROKER;
    OffsetCommit = 8, 2..=9, accepted from 2, flexible from 8, BROKER;
    OffsetFetch = 9, 1..=9, accepted from 1, flexible from 6, BROKER;
    FindCoordinator = 10, 0..=4, accepted from 0, flexible from 3, BROKER;
    JoinGroup = 11, 0..=9, accepted from 0, flexible from 6, BROKER;
    Heartbeat = 12, 0..=4, accepted from 0, flexible from 4, BROKER;
    LeaveGroup = 13, 0..=5, accepted from 0, flexible from 4, BROKER;
    SyncGroup = 14, 0..=5, accepted from 0, flexible from 4, BROKER;
    DescribeGroups = 15, 0..=6, accepted from 0, flexible from 5, BROKER;
    ListGroups = 16, 0..=5, accepted from 0, flexible from 3, BROKER;
    ApiVersions = 18, 0..=4, accepted from 0, flexible from 3, BOTH;
    CreateTopics = 19, 2..=7, accepted from 2, flexible from 5, BOTH;
    DeleteTopics = 20, 1..=6, accepted from 1, flexible from 4, BOTH;
    InitProducerId = 22, 0..=4, accepted from 0, flexible from 2, BROKER;
    OffsetForLeaderEpoch = 23, 2..=4, accepted from 2, flexible from 4, BROKER;
    DescribeConfigs = 32, 1..=4, accepted from 1, flexible from 4, BROKER;
    DeleteGroups = 42, 0..=2, accepted from 0, flexible from 2, BROKER;
    OffsetDelete = 47, 0..=0, accepted from 0, flexible from NEVER, BROKER;
    DescribeCluster = 60, 0..=0, accepted from 0, flexible from 0, BROKER;
    DescribeProducers = 61, 0..=0, accepted from 0, flexible from 0, BROKER;
    BrokerRegistration = 62, 0..=4, accepted from 0, flexible from 0, COORDINATOR;
    BrokerHeartbeat = 63, 0..=1, accepted from 0, flexible from 0, COORDINATOR;
    AllocateProducerIds = 67, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    /// Ours: brokers follow the coordinator's metadata records. The body is JSON (see the metadata crate).
    FollowMetadata = 20001, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    /// Ours, as all that follow: an operator's calls about members. JSON bodies (`enrollment` of the metadata crate).
    CreateToken = 20002, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    RevokeToken = 20003, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    DescribeMembership = 20004, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    IssueCertificate = 20005, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    RevokeCertificates = 20006, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    /// Of every member, for itself.
    RenewCertificate = 20007, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    DescribeTrust = 20008, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
    /// An operator's: which CAs there are.
    AlterAuthorities = 20009, 0..=0, accepted from 0, flexible from 0, COORDINATOR;
}

impl ApiKey {
    /// The number on the wire.
    pub const fn key(self) -> i16 {
        self as i16
    }

    /// Whether the API is ours alone: its key is outside Kafka's, its body JSON.
    pub const fn is_private(self) -> bool {
        self.key() >= Self::FollowMetadata.key()
    }

    /// Kafka's name of the API.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Versions that ApiVersions lists.
    pub const fn listed_versions(self) -> VersionRange {
        self.row().listed
    }

    /// Versions that are really read and written, both as a server and as a client.
    pub const fn accepted_versions(self) -> VersionRange {
        let row = self.row();
        VersionRange::new(row.accepted_min, row.listed.max)
    }

    /// Whether `version` has compact types and tagged fields.
    pub const fn is_flexible(self, version: i16) -> bool {
        version >= self.row().flexible_from
    }

    /// Version of the request header (1, or 2 with tagged fields).
    pub const fn request_header_version(self, version: i16) -> i16 {
        if self.is_flexible(version) { 2 } else { 1 }
    }

    /// Version of the response header (0, or 1 with tagged fields; ApiVersions: always 0, because a client
    /// reads it before it knows what the server speaks).
    pub const fn response_header_version(self, version: i16) -> i16 {
        if matches!(self, Self::ApiVersions) || !self.is_flexible(version) { 0 } else { 1 }
    }

    /// Whether `server` answers this API.
    pub fn is_served_by(self, server: Server) -> bool {
        self.row().served_by.contains(&server)
    }

    /// Every API of the table, by ascending key.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|row| row.key)
    }
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What `server` lists in ApiVersions: key and listed versions, by ascending key.
pub fn served(server: Server) -> Vec<(ApiKey, VersionRange)> {
    ApiKey::all()
        .filter(|api| api.is_served_by(server))
        .map(|api| (api, api.listed_versions()))
        .collect()
}

/// The ApiVersions response of `server`, without tagged fields (librdkafka before 2.2 mis-skips them; they
/// are only written when not default, and none of ours is).
pub fn api_versions_response(server: Server) -> ApiVersionsResponse {
    let api_keys = served(server)
        .into_iter()
        .map(|(api, versions)| {
            ApiVersion::default()
                .with_api_key(api.key())
                .with_min_version(versions.min)
                .with_max_version(versions.max)
        })
        .collect();
    ApiVersionsResponse::default().with_api_keys(api_keys)
}

/// The highest version that both ranges have.
pub fn negotiate(theirs: VersionRange, ours: VersionRange) -> Option<i16> {
    let version = theirs.max.min(ours.max);
    (version >= theirs.min && version >= ours.min).then_some(version)
}

/// What a peer's ApiVersions response says about `api`; `None` if it does not serve it.
pub fn listed_by(response: &ApiVersionsResponse, api: ApiKey) -> Option<VersionRange> {
    let entry = response.api_keys.iter().find(|entry| entry.api_key == api.key())?;
    Some(VersionRange::new(entry.min_version, entry.max_version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::*;

    /// Version of an API to versions of its request and response headers.
    type Headers = fn(i16) -> (i16, i16);

    /// (key, header versions, versions that there are types of) for every API that has generated types.
    fn generated() -> Vec<(ApiKey, Headers, proto_kafka::protocol::VersionRange)> {
        fn headers<R: Request>(version: i16) -> (i16, i16) {
            (R::header_version(version), R::Response::header_version(version))
        }
        macro_rules! rows {
            ($($request:ty),*) => {
                vec![$((ApiKey::try_from(<$request>::KEY).unwrap(), headers::<$request> as Headers, <$request>::VERSIONS)),*]
            };
        }
        rows![
            proto_kafka::messages::ProduceRequest,
            FetchRequest,
            ListOffsetsRequest,
            MetadataRequest,
            OffsetCommitRequest,
            OffsetFetchRequest,
            FindCoordinatorRequest,
            JoinGroupRequest,
            HeartbeatRequest,
            LeaveGroupRequest,
            SyncGroupRequest,
            DescribeGroupsRequest,
            ListGroupsRequest,
            ApiVersionsRequest,
            CreateTopicsRequest,
            DeleteTopicsRequest,
            InitProducerIdRequest,
            OffsetForLeaderEpochRequest,
            DescribeConfigsRequest,
            DeleteGroupsRequest,
            OffsetDeleteRequest,
            DescribeClusterRequest,
            DescribeProducersRequest,
            BrokerRegistrationRequest,
            BrokerHeartbeatRequest,
            AllocateProducerIdsRequest
        ]
    }

    #[test]
    fn the_table_agrees_with_kafkas_schemas() {
        let generated = generated();
        let with_types: Vec<_> = generated.iter().map(|(api, ..)| *api).collect();
        let kafkas: Vec<_> = ApiKey::all().filter(|api| !api.is_private()).collect();
        assert_eq!(with_types, kafkas, "every Kafka API of the table is compared");
        for (api, headers, versions) in generated {
            let accepted = api.accepted_versions();
            assert!(
                versions.min <= accepted.min && accepted.max <= versions.max,
                "{api}: {accepted} within {versions}"
            );
            for version in accepted.min..=accepted.max {
                let ours =
                    (api.request_header_version(version), api.response_header_version(version));
                assert_eq!(ours, headers(version), "{api} version {version}");
            }
        }
    }

    #[test]
    fn keys_ascend_and_round_trip() {
        let keys: Vec<_> = ApiKey::all().map(ApiKey::key).collect();
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]), "{keys:?}");
        for api in ApiKey::all() {
            assert_eq!(ApiKey::try_from(api.key()), Ok(api));
        }
        assert_eq!(ApiKey::try_from(4), Err(4));
    }

    #[test]
    fn produce_is_listed_from_zero_and_accepted_from_three() {
        let response = api_versions_response(Server::Broker);
        assert_eq!(listed_by(&response, ApiKey::Produce), Some(VersionRange::new(0, 9)));
        assert_eq!(ApiKey::Produce.accepted_versions(), VersionRange::new(3, 9));
        let differing: Vec<_> =
            ApiKey::all().filter(|api| api.listed_versions() != api.accepted_versions()).collect();
        assert_eq!(differing, [ApiKey::Produce]);
    }

    #[test]
    fn a_broker_does_not_list_the_coordinators_apis() {
        let response = api_versions_response(Server::Broker);
        assert_eq!(listed_by(&response, ApiKey::BrokerRegistration), None);
        assert_eq!(listed_by(&response, ApiKey::FollowMetadata), None);
        let coordinator = api_versions_response(Server::Coordinator);
        assert_eq!(listed_by(&coordinator, ApiKey::FollowMetadata), Some(VersionRange::new(0, 0)));
        assert_eq!(listed_by(&coordinator, ApiKey::Produce), None);
    }

    #[test]
    fn negotiation_takes_the_highest_common_version() {
        let cases = [
            ((0, 9), (3, 12), Some(9)),
            ((3, 13), (3, 9), Some(9)),
            ((0, 2), (3, 9), None),
            ((10, 13), (3, 9), None),
            ((4, 4), (4, 4), Some(4)),
        ];
        for (theirs, ours, expected) in cases {
            let (theirs, ours) =
                (VersionRange::new(theirs.0, theirs.1), VersionRange::new(ours.0, ours.1));
            assert_eq!(negotiate(theirs, ours), expected, "{theirs} {ours}");
        }
    }
}
