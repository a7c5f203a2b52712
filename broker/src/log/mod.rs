//! The partition log: Kafka's on-disk format.
//!
//! `<topic>-<partition>/` holds segments (`.log`, `.index`, `.timeindex`, named by base offset), producer snapshots, the
//! leader epochs and the topic id. `writer` is the one owner's side, `view` the readers', `recovery` makes both from files,
//! `compaction` rewrites sealed segments. All disk access goes through `tailway_storage::Disk`.
//! Invariants: batches are stored as they came, except base offset, leader epoch and (LogAppendTime) time; a real Kafka put
//! on these files serves the same records.

pub mod checkpoint;
mod compaction;
mod config;
mod epochs;
mod files;
mod index;
mod names;
mod producers;
mod recovery;
mod refilter;
mod scan;
mod segment;
mod snapshot;
mod view;
mod writer;

pub use compaction::{Compaction, MAP_BYTES_MAX};
pub use config::LogConfig;
pub use epochs::read_small;
pub use names::parse_dir;
pub use producers::{producer_batch, snapshots};
pub use recovery::{Found, Report, Told, recover};
pub use segment::Segment;
pub use view::{FoundByTime, LogView};
pub use writer::{FlushJob, Log, PlacedBatch, delete_segments};
