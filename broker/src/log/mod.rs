//! The partition log: Kafka's on-disk format.
//!
//! `<topic>-<partition>/` holds segments (`.log`, `.index`, `.timeindex`, named by base offset), producer snapshots, the
//! leader epochs and the topic id. `writer` is the one owner's side, `view` the readers', `recovery` makes both from files,
//! `compaction` rewrites sealed segments. All disk access goes through `tailway_storage::Disk`.
//! Invariants: batches are stored as they came, except base offset, leader epoch and (LogAppendTime) time; a real Kafka put
//! on these files serves the same records.

pub mod checkpoint;
mod config;
mod epochs;
mod files;
mod index;
mod names;
mod producers;
mod recovery;
mod scan;
mod segment;
mod snapshot;
mod view;
mod writer;

pub use config::LogConfig;
