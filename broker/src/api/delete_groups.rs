//! DeleteGroups (42), versions 0-2. KIP-229.
//!
//! A group with members is NON_EMPTY_GROUP.

use tailway_wire::messages::{DeleteGroupsRequest, DeleteGroupsResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: DeleteGroupsRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> DeleteGroupsResponse {
    groups.delete_groups(caller, request).await
}
