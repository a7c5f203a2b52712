//! Raft: one voter, our own durable log and snapshot, and the state machine that is the cluster image.
//!
//! openraft is named in this folder only, and its types never reach the disk: [`codec`] has our own encoding. With one
//! voter there is nobody to talk to ([`network`]) and nobody to tie an election with, so [`node`] elects itself as soon as
//! it has opened its data.
#![allow(clippy::result_large_err, reason = "openraft's traits give the error types")]

pub mod codec;
pub mod feed;
pub mod log;
mod network;
pub mod node;
pub mod runtime;
pub mod snapshot;
pub mod state_machine;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod suite_tests;

use std::fmt;
use std::io::Cursor;
use std::sync::Arc;

use tailway_metadata::{MetadataRecord, Offset};

openraft::declare_raft_types!(
    /// The types that openraft is instantiated with.
    pub TypeConfig:
        D = Batch,
        R = Applied,
        NodeId = u64,
        Node = openraft::BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = runtime::RaftRuntime,
);

/// What one Raft entry carries: records that become visible together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch(pub Arc<[MetadataRecord]>);

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} records", self.0.len())
    }
}

/// What applying an entry gave: the end of the record stream after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub end_offset: Offset,
}

pub type LogId = openraft::LogId<u64>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type StoredMembership = openraft::StoredMembership<u64, openraft::BasicNode>;
pub type StorageError = openraft::StorageError<u64>;
