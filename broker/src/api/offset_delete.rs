//! OffsetDelete (47), version 0. KIP-496.

use tailway_wire::messages::{OffsetDeleteRequest, OffsetDeleteResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: OffsetDeleteRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> OffsetDeleteResponse {
    groups.delete_offsets(caller, request).await
}
