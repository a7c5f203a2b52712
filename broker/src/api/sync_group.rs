//! SyncGroup (14), versions 0-5. KIP-345 (3), KIP-559 (protocol in the answer, 5).
//!
//! Long: waits for the leader's assignment, never answers an empty one in its place.

use tailway_wire::messages::{SyncGroupRequest, SyncGroupResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;
use crate::server::context::Closing;

/// `None` if the connection closed first: nobody is there to be answered.
pub async fn handle(
    request: SyncGroupRequest,
    caller: &Caller,
    groups: &GroupDoor,
    mut closing: Closing,
) -> Option<SyncGroupResponse> {
    tokio::select! {
        biased;
        response = groups.sync(caller, request) => Some(response),
        () = closing.closed() => None,
    }
}
