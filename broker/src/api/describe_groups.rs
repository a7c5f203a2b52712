//! DescribeGroups (15), versions 0-6. KIP-430 (authorized operations, never reported), KIP-345 (4).

use tailway_wire::messages::{DescribeGroupsRequest, DescribeGroupsResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: DescribeGroupsRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> DescribeGroupsResponse {
    groups.describe(caller, request).await
}
