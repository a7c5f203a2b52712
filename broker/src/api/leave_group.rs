//! LeaveGroup (13), versions 0-5. KIP-345 (several members, 3), KIP-800 (reasons, 5).

use tailway_wire::messages::{LeaveGroupRequest, LeaveGroupResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: LeaveGroupRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> LeaveGroupResponse {
    groups.leave(caller, request).await
}
