//! Is what clients saw possible on a correct log? Histories in, violations out; the checks K1 to K12.
//!
//! A history is what each client, broker, replica or sink saw, one event a line (`event`). The model is Jepsen's
//! `jepsen.tests.kafka`: every value is sent once, so that a value found twice, nowhere or elsewhere speaks for itself. Runs
//! to be checked keep retention, compaction and transactions off: then a partition's offsets have no holes.
//!
//! Invariants: one pass over the events, then one over sorted maps whose size is bounded by the history; the same events
//! give the same report, in the same order; nothing here reads a clock or a file.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

mod availability;
mod checker;
mod commits;
mod epochs;
mod event;
mod finding;
mod lines;
mod names;
mod polls;
mod read;
mod real_time;
mod records;
mod replicas;
mod report;
mod watermarks;

pub use availability::{Availability, Gap};
pub use checker::Checker;
pub use event::{Act, Event, Outcome, Unfit};
pub use read::{Unreadable, read};
pub use report::{Check, Place, Report, Violation};

/// Bits of a value that number the sends of one client; the client's number stands above them.
pub const SEND_BITS: u32 = 40;

/// The value of a client's `n`-th send.
pub const fn value(client: u64, n: u64) -> u64 {
    (client << SEND_BITS) | n
}
