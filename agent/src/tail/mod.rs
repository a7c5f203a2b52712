//! Files: finding them, telling them apart, reading them.

pub mod stat;
