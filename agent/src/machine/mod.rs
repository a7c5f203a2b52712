//! The agent's decisions, apart from its IO.
//!
//! Everything here is pure: no clock, no files, no sockets, no randomness. Time and the outcome of
//! every system call arrive as arguments, so that each life of a file can be replayed in a test.

pub mod identity;
pub mod ledger;
pub mod lines;
pub mod poll;
pub mod tail_file;
