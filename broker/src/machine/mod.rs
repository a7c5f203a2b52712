//! The broker's pure state machines: no runtime, no clock, no disk, no randomness.
//!
//! Each is driven by exactly one owner: `commit` by the flusher, `partition` and `producers` by a partition's driver, `retention` by the
//! log's housekeeping, `group` and `offsets` by a group's driver, `forward` by the driver of one partition and sink.

pub mod commit;
pub mod forward;
pub mod group;
pub mod offsets;
pub mod partition;
pub mod producers;
pub mod retention;
