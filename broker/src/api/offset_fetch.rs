//! OffsetFetch (9), versions 1-9. KIP-447 (require_stable, 7: nothing is ever unstable here), KIP-709 (several groups, 8).

use tailway_wire::messages::{OffsetFetchRequest, OffsetFetchResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;

pub async fn handle(
    request: OffsetFetchRequest,
    caller: &Caller,
    groups: &GroupDoor,
) -> OffsetFetchResponse {
    groups.fetch_offsets(caller, request).await
}
