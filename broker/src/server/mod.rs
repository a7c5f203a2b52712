//! Sockets to requests, responses to sockets.
//!
//! `listeners` binds and accepts, `connection` is one task per client, `dispatch` turns one frame into one call of `api`,
//! `budget` bounds memory, `refusals` says once per client what was turned away, `stall` gives writes a deadline.
//! Invariants: responses leave in the order of their requests; every queue, frame and wait has a bound; a client that
//! does not read, does not write or speaks something else costs no other client anything.

pub mod access;
#[cfg(test)]
mod access_tests;
pub mod budget;
pub mod connection;
pub mod context;
pub mod dispatch;
pub mod listeners;
pub mod refusals;
mod stall;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use context::{Closing, Peer, Services};
pub use listeners::{AdvertisedListener, Server};
