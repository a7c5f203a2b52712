//! A partition: the async door to one log, and the registry of all of them.
//!
//! One owner task per partition drives `machine::partition` over `log`; `PartitionHandle` is how the rest of the
//! broker reaches it. Appends of all connections meet in its bounded queue and are written as groups; one flusher per data
//! directory makes them durable in commit groups, then answers `acks=all`.
//! Invariants: consumers never see an offset that is not durable; after a failed write or sync a partition refuses all
//! appends and acknowledges nothing; readers never wait for the owner task.

mod checkpoints;
mod directory;
mod driver;
mod error;
mod flusher;
mod handle;
mod maintenance;
mod opening;
mod registry;
mod shared;
mod space;
mod trusted;
mod types;
mod validate;

pub use error::PartitionError;
pub use handle::{PartitionHandle, PendingAppend};
pub use registry::{PartitionReport, Partitions, PartitionsOptions};
pub use types::{
    Acks, AppendOptions, AppendOrigin, Appended, DiskReport, ListOffset, ListedOffset,
    ProducerReport, ReadSlice, StorageReport, Watermarks,
};

#[cfg(test)]
mod commit_tests;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod full_disk_tests;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
