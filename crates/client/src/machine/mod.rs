//! The client's decisions as plain state machines: no IO, no clock, no randomness, no tasks.
//!
//! A machine takes an event and the time, and answers with actions; its driver performs them.

pub mod assignor;
pub mod pipeline;
