//! Heartbeat (12), versions 0-4. KIP-345 (3).

use tailway_wire::messages::{HeartbeatRequest, HeartbeatResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: HeartbeatRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> HeartbeatResponse {
    groups.heartbeat(caller, request).await
}
