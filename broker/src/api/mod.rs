//! One file per Kafka API: what it serves, where it differs from Kafka, how a request becomes a response.
//!
//! A handler gets a decoded request and the few parts of the broker it needs, and returns the response; `server::dispatch`
//! decodes, encodes and counts. Only this module turns errors into Kafka's codes (`error`).
//! Invariant: no handler holds a log or a group; it reaches them through doors.

pub mod api_versions;
pub mod create_topics;
pub mod delete_groups;
pub mod delete_topics;
pub mod denied;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_groups;
pub mod describe_producers;
pub mod error;
pub mod fetch;
pub mod find_coordinator;
pub mod heartbeat;
pub mod init_producer_id;
pub mod join_group;
pub mod leave_group;
pub mod list_groups;
pub mod list_offsets;
pub mod metadata;
pub mod offset_commit;
pub mod offset_delete;
pub mod offset_fetch;
pub mod offset_for_leader_epoch;
pub mod produce;
pub mod sync_group;

#[cfg(test)]
mod tests;

use tailway_wire::messages::StrBytes;

/// Our text in a response.
pub(crate) fn text(text: impl ToString) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
