//! The group coordinator of one partition of `__consumer_offsets`: classic groups, and what they committed.
//!
//! `GroupShard` owns every group that is hashed to the partition and decides in memory; what must outlive the broker it
//! hands out as an `Append`, and answers the request only when the driver reports `Appended`. A shard begins by
//! replaying the partition.
//!
//! - `state`: what a group is, and what must always hold of it. `join`: entering a group. `rebalance`: from one
//!   generation to the next. `membership`: sync, heartbeat, leave, and what time and closed connections do.
//! - `commits`: offsets. `effects`: what follows when an append is durable. `shard`: requests to groups, timers, bounds. `requests`: what goes in and out.
//!
//! Invariants: each request is answered exactly once; a member that is fenced or expelled never changes a group; offsets
//! are seen by a fetch only when they are durable.

mod commits;
mod effects;
mod join;
mod membership;
mod rebalance;
mod requests;
mod shard;
mod state;

use std::time::Duration;

pub use requests::{Call, Caller, FetchOffsets, FetchedOffsets, ListFilter, Request, Response};
pub use shard::{Action, AppendId, Event, GroupShard, Notice};

/// What bounds a group, and Kafka's timeouts. The names are Kafka's where it has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// How long the first rebalance of an empty group waits for more members, again after each that came. Kafka waits 3 s;
    /// a lone consumer notices.
    pub initial_rebalance_delay: Duration,
    pub session_timeout_min: Duration,
    pub session_timeout_max: Duration,
    /// How long a member id that was handed out holds up a rebalance when nobody comes back with it.
    pub pending_member_timeout: Duration,
    /// How long offsets outlive the group's last member (`offsets.retention.minutes`: 7 days).
    pub offsets_retention: Duration,
    pub offsets_retention_check_interval: Duration,
    /// Longest metadata of one committed offset, in bytes.
    pub offset_metadata_bytes_max: usize,
    pub groups_max: usize,
    pub members_max: usize,
    /// Offsets that one group may have.
    pub offsets_max: usize,
    /// Subscriptions of one member (all its protocols), and the assignment it is given.
    pub member_metadata_bytes_max: usize,
    /// Subscriptions of all members of a group together, and all their assignments.
    pub group_metadata_bytes_max: usize,
}

impl Default for GroupConfig {
    fn default() -> GroupConfig {
        GroupConfig {
            initial_rebalance_delay: Duration::from_millis(250),
            session_timeout_min: Duration::from_secs(6),
            session_timeout_max: Duration::from_mins(30),
            pending_member_timeout: Duration::from_secs(5),
            offsets_retention: Duration::from_hours(7 * 24),
            offsets_retention_check_interval: Duration::from_mins(10),
            offset_metadata_bytes_max: 4096,
            groups_max: 10_000,
            members_max: 1_000,
            offsets_max: 100_000,
            member_metadata_bytes_max: 1 << 20,
            group_metadata_bytes_max: 8 << 20,
        }
    }
}

#[cfg(test)]
#[path = "group/bench_tests.rs"]
mod bench_tests;

#[cfg(test)]
#[path = "group/group_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "group/admin_tests.rs"]
mod admin_tests;

#[cfg(test)]
#[path = "group/walk_tests.rs"]
mod walk_tests;
