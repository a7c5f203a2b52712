//! What brokers and coordinators say to each other beyond Kafka's own controller APIs.
//!
//! Bodies are JSON inside a Kafka frame (one compact `Bytes` field after the header is not needed: the rest of the frame is
//! the body). `FollowMetadata` has a private API key, see `wire::api`. Kafka's controller responses have no error text;
//! ours carry it as tagged field [`ERROR_MESSAGE_TAG`], which other software skips.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{BrokerEpoch, BrokerId, ClusterId, MetadataLogId, Offset};
use crate::image::{ClusterImage, SnapshotError};
use crate::record::MetadataRecord;

/// Tag of the UTF-8 error text in BrokerRegistration, BrokerHeartbeat and AllocateProducerIds responses (raw bytes, no
/// length of their own: the tagged field has one).
pub const ERROR_MESSAGE_TAG: i32 = 10_000;

/// How long a `FollowMetadata` may ask to wait, at most.
pub const FOLLOW_MAX_WAIT_MS_LIMIT: u32 = 30_000;

/// Asks for the records from `from_offset` on; waits up to `max_wait_ms` when there are none yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowMetadataRequest {
    pub cluster_id: ClusterId,
    /// Who asks. Only for logs and status: following needs no registration.
    pub broker_id: BrokerId,
    pub broker_epoch: BrokerEpoch,
    /// The stream that `from_offset` belongs to; nil with offset 0 for "I have nothing".
    pub log_id: MetadataLogId,
    /// `ClusterImage::offset` of what the follower has.
    pub from_offset: Offset,
    pub max_wait_ms: u32,
}

/// Whole batches of records, so that the image after them is consistent. Empty after the wait when nothing happened.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FollowMetadataResponse {
    /// A Kafka error code, 0 for none.
    pub error_code: i16,
    pub error_message: Option<String>,
    /// A whole image to start from, when the records from `from_offset` are purged or belong to another stream.
    pub snapshot: Option<Box<RawValue>>,
    /// Offset of the first of `records`: `from_offset`, or the snapshot's offset.
    pub base_offset: Offset,
    pub records: Vec<MetadataRecord>,
    /// The end of the committed stream at the coordinator: how far behind the follower still is.
    pub end_offset: Offset,
}

/// Why a `FollowMetadataResponse` cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error("the coordinator answered error {code}: {text}")]
    Refused { code: i16, text: String },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("the coordinator sent records from offset {got}, wanted {wanted}")]
    Gap { wanted: Offset, got: Offset },
    #[error(transparent)]
    Apply(#[from] crate::image::ApplyError),
}

impl FollowMetadataRequest {
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| panic!("a request is always JSON: {error}"))
    }

    pub fn decode(body: &[u8]) -> Result<FollowMetadataRequest, serde_json::Error> {
        serde_json::from_slice(body)
    }
}

impl FollowMetadataResponse {
    /// An answer that says only what went wrong.
    pub fn error(code: i16, text: impl Into<String>) -> FollowMetadataResponse {
        FollowMetadataResponse {
            error_code: code,
            error_message: Some(text.into()),
            snapshot: None,
            base_offset: Offset::NONE,
            records: Vec::new(),
            end_offset: Offset::NONE,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self)
            .unwrap_or_else(|error| panic!("a response is always JSON: {error}"))
    }

    pub fn decode(body: &[u8]) -> Result<FollowMetadataResponse, serde_json::Error> {
        serde_json::from_slice(body)
    }

    /// The image after this response, `image` being the one that was asked from. The follower's one way to use a response.
    pub fn apply_to(&self, image: &ClusterImage) -> Result<ClusterImage, FollowError> {
        if self.error_code != 0 {
            return Err(FollowError::Refused {
                code: self.error_code,
                text: self.error_message.clone().unwrap_or_default(),
            });
        }
        let mut next = match &self.snapshot {
            Some(snapshot) => ClusterImage::decode_snapshot(snapshot.get().as_bytes())?,
            None => image.clone(),
        };
        if next.offset != self.base_offset {
            return Err(FollowError::Gap { wanted: next.offset, got: self.base_offset });
        }
        for record in &self.records {
            next.apply(record)?;
        }
        Ok(next)
    }
}
