//! JoinGroup (11), versions 0-9. KIP-394 (member id first, 4), KIP-345 (static members, 5), KIP-800 (reasons, 8), KIP-814 (9).
//!
//! Long: waits for the rebalance. When its connection goes away the wait ends, and with it a member that had not joined yet.

use tailway_wire::messages::{JoinGroupRequest, JoinGroupResponse};

use crate::cluster::GroupDoor;
use crate::group::Caller;
use crate::server::context::Closing;

/// `None` if the connection closed first: nobody is there to be answered.
pub async fn handle(
    request: JoinGroupRequest,
    caller: &Caller,
    groups: &GroupDoor,
    mut closing: Closing,
) -> Option<JoinGroupResponse> {
    tokio::select! {
        biased;
        response = groups.join(caller, request) => Some(response),
        () = closing.closed() => None,
    }
}
