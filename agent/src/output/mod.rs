//! From events to acknowledged batches: the shipper's lanes, and the tasks that talk to brokers.
//!
//! A [`lane`] is the shipper's side of one partition: what is buffered, what is planned, what is in
//! flight. What is sent is a [`parcel`]: a batch and what it was made of. The lane's [`link`] is the task that owns the connection's side: producer identity, resolution
//! of what a crash left in doubt, and the client's idempotent sender. They talk through a bounded
//! channel one way and the shipper's [`inbox`] the other way.

pub mod inbox;
pub mod lane;
pub mod link;
pub mod parcel;
mod second_look;
pub mod topic;
