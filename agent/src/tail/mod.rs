//! Files: finding them, telling them apart, reading them.

pub mod discover;
pub mod files;
pub mod glob;
#[cfg(any(test, feature = "sim"))]
pub mod memory;
pub mod os;
mod stat;
pub mod watch;
