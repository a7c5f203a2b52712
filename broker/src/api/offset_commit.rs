//! OffsetCommit (8), versions 2-9. KIP-211 (retention, ignored since), KIP-320 (leader epochs, 6), KIP-345 (7).
//!
//! Answered once the offsets are durable.

use tailway_wire::messages::{OffsetCommitRequest, OffsetCommitResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: OffsetCommitRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> OffsetCommitResponse {
    groups.commit(caller, request).await
}
