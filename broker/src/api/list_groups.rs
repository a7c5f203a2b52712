//! ListGroups (16), versions 0-5. KIP-518 (states, 4), KIP-848 (types, 5).

use tailway_wire::messages::{ListGroupsRequest, ListGroupsResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: ListGroupsRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> ListGroupsResponse {
    groups.list(caller, request).await
}
