//! The one door to the disk.
//!
//! Everything durable in Tailway (partition log, Raft log, the agent's journal) goes through `Disk` and `DiskFile`, so
//! that one simulated disk (`SimDisk`) can cut the power under all of it, and through `Journal` and
//! `atomic_replace`, so that recovery is written once.
//!
//! Invariants:
//! - All calls block: call them from a thread that may block, never from a tokio worker.
//! - A new file, a rename or a removal is durable only after `sync_dir` of its directory.
//! - After a failed write, length change or sync nothing is retried: see `Fence`.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod disk;
mod error;
mod fence;
mod filesystem;
mod frame;
mod fs;
mod journal;
mod lock;
mod read_buffer;
mod replace;
mod seed;
mod sim;

pub use disk::{DirEntry, Disk, DiskFile, Filesystem, OpenMode};
pub use error::StorageError;
pub use fence::{Fence, FencedFile};
pub use fs::FsDisk;
pub use journal::{Journal, JournalEntry, JournalFormat, Opened, Recovery, SyncTicket, Synced};
pub use lock::DirLock;
pub use read_buffer::ReadBuffer;
pub use replace::{atomic_replace, read_small};
pub use sim::{Act, DiskEvent, Operation, Outcome, SimDisk, SimFault, SimFaults};
