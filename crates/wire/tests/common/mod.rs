//! Sample messages for every API of the table without writing one by hand: the generated decoder is run on a
//! buffer that invents plausible values as they are asked for (short strings, arrays of one or two
//! elements) and records them. What decoded is a sample, and its structure is the schema's own.

use bytes::{Buf, Bytes, TryGetError};
use proto_kafka::protocol::buf::{ByteBuf, NotEnoughBytesError};
use tailway_wire::messages::*;
use tailway_wire::{ApiKey, WireError, frame};

/// Invents values from a seed (an LCG is enough: the same seed gives the same sample).
struct Inventor {
    state: u64,
    recorded: Vec<u8>,
}

impl Inventor {
    fn draw(&mut self, below: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % below
    }

    fn record(&mut self, bytes: &[u8]) {
        self.recorded.extend_from_slice(bytes);
    }
}

macro_rules! inventions {
    ($($name:ident: $type:ty = $below:literal),* $(,)?) => {
        $(fn $name(&mut self) -> Result<$type, TryGetError> {
            let value = <$type>::try_from(self.draw($below)).unwrap();
            self.record(&value.to_be_bytes());
            Ok(value)
        })*
    };
}

impl Buf for Inventor {
    fn remaining(&self) -> usize {
        1 << 20
    }

    fn chunk(&self) -> &[u8] {
        unreachable!("every read is overridden")
    }

    fn advance(&mut self, _: usize) {
        unreachable!("every read is overridden")
    }

    fn try_copy_to_slice(&mut self, out: &mut [u8]) -> Result<(), TryGetError> {
        for byte in out.iter_mut() {
            *byte = u8::try_from(self.draw(256)).unwrap();
        }
        self.record(out);
        Ok(())
    }

    inventions! {
        // Varints are read by bytes: lengths plus one, tag counts, tags.
        try_get_u8: u8 = 4,
        try_get_i8: i8 = 100,
        try_get_u16: u16 = 1000,
        try_get_i16: i16 = 4,
        try_get_u32: u32 = 3,
        try_get_i32: i32 = 3,
        try_get_i64: i64 = 1_000_000,
    }
}

impl ByteBuf for Inventor {
    fn peek_bytes(&mut self, _: std::ops::Range<usize>) -> Bytes {
        unreachable!("nothing peeks")
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        let bytes = vec![b'a'; size];
        self.record(&bytes);
        Bytes::from(bytes)
    }

    fn try_get_bytes(&mut self, size: usize) -> Result<Bytes, NotEnoughBytesError> {
        Ok(self.get_bytes(size))
    }
}

/// One request or response type in one version.
pub(crate) struct Kind {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) is_request: bool,
    invent: fn(u64, i16) -> Option<Bytes>,
    check: fn(Bytes, i16) -> Result<Bytes, WireError>,
}

impl Kind {
    pub(crate) fn name(&self) -> String {
        let what = if self.is_request { "request" } else { "response" };
        format!("{} {what} v{}", self.api, self.version)
    }

    /// Up to `count` different samples, as bodies: the longest that a fixed set of seeds gives.
    pub(crate) fn samples(&self, count: usize) -> Vec<Bytes> {
        let seeds = 0..16 + count as u64 * 8;
        let mut samples: Vec<_> =
            seeds.filter_map(|seed| (self.invent)(seed, self.version)).collect();
        samples.sort_by_key(|sample| (std::cmp::Reverse(sample.len()), sample.clone()));
        samples.dedup();
        samples.truncate(count);
        assert!(!samples.is_empty(), "no sample of {}", self.name());
        samples
    }

    /// Decodes through the door and encodes again.
    pub(crate) fn through_the_door(&self, body: Bytes) -> Result<Bytes, WireError> {
        (self.check)(body, self.version)
    }
}

fn invent<T: Decodable + Encodable + PartialEq>(seed: u64, version: i16) -> Option<Bytes> {
    let mut inventor =
        Inventor { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), recorded: Vec::new() };
    let value = T::decode(&mut inventor, version).ok()?;
    // What was invented may hold the same tag twice; what is encoded is the canonical form.
    let body = frame::encode_message(&value, version).ok()?;
    let again: T = frame::decode_message(body.clone(), version).expect("what was encoded decodes");
    assert!(again == value, "{}", std::any::type_name::<T>());
    Some(body)
}

fn check<T: Decodable + Encodable>(body: Bytes, version: i16) -> Result<Bytes, WireError> {
    let value: T = frame::decode_message(body, version)?;
    frame::encode_message(&value, version)
}

fn kinds_of<R>(all: &mut Vec<Kind>)
where
    R: Request + PartialEq,
    R::Response: PartialEq,
{
    let api = ApiKey::try_from(R::KEY).expect("an API of the table");
    let versions = api.accepted_versions();
    for version in versions.min..=versions.max {
        let request =
            Kind { api, version, is_request: true, invent: invent::<R>, check: check::<R> };
        let response = Kind {
            is_request: false,
            invent: invent::<R::Response>,
            check: check::<R::Response>,
            ..request
        };
        all.extend([request, response]);
    }
}

macro_rules! all_kinds {
    ($($request:ty),* $(,)?) => {
        /// Every request and response that goes through the cold door, in every accepted version.
        pub(crate) fn kinds() -> Vec<Kind> {
            let mut all = Vec::new();
            $(kinds_of::<$request>(&mut all);)*
            // The Fetch response is written by hand; its generated twin is not used.
            all.retain(|kind| kind.is_request || kind.api != ApiKey::Fetch);
            let missing: Vec<_> = ApiKey::all()
                .filter(|api| *api != ApiKey::Produce && !api.is_private())
                .filter(|api| all.iter().all(|kind| kind.api != *api))
                .collect();
            assert!(missing.is_empty(), "add the request type of {missing:?} to all_kinds");
            all
        }
    };
}

all_kinds! {
    AllocateProducerIdsRequest,
    ApiVersionsRequest,
    BrokerHeartbeatRequest,
    BrokerRegistrationRequest,
    CreateTopicsRequest,
    DeleteGroupsRequest,
    DeleteTopicsRequest,
    DescribeClusterRequest,
    DescribeConfigsRequest,
    DescribeGroupsRequest,
    DescribeProducersRequest,
    FetchRequest,
    FindCoordinatorRequest,
    HeartbeatRequest,
    InitProducerIdRequest,
    JoinGroupRequest,
    LeaveGroupRequest,
    ListGroupsRequest,
    ListOffsetsRequest,
    MetadataRequest,
    OffsetCommitRequest,
    OffsetDeleteRequest,
    OffsetFetchRequest,
    OffsetForLeaderEpochRequest,
    SyncGroupRequest,
}
