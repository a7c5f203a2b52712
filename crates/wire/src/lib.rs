//! The Kafka protocol: bytes to types and back, without any input or output.
//!
//! - [`frame`]: length prefix, headers, and the way to the generated types in [`messages`] (the cold APIs).
//! - [`api`] and [`error_code`]: one table each.
//! - [`produce`] and [`fetch`]: written by hand, because records pass through them without being copied.
//! - [`record`]: the record batch (message format 2): header, iteration, building, the five codecs.
//! - [`primitives`]: cursors, also for Kafka's schemas inside records.
//!
//! Invariant: foreign bytes give a [`WireError`] at worst; never a panic, never memory that their own length does
//! not justify. The whole crate is pure: no clock, no files, no sockets, no randomness.

pub mod api;
mod error;
pub mod error_code;
pub mod fetch;
pub mod frame;
mod guard;
pub mod messages;
pub mod primitives;
pub mod produce;
pub mod record;

pub use api::{ApiKey, Server, VersionRange};
pub use error::WireError;
pub use error_code::ErrorCode;
pub use frame::RequestHeader;
