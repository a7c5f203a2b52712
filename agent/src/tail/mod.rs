//! Files: finding them, telling them apart, reading them.

pub mod discover;
pub mod glob;
pub mod stat;
pub mod watch;
