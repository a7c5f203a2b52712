//! Micro-benches of the hot paths, for `cargo bench -p tailway-benches`: each shows bytes a second of one step on one core.
//!
//! They tell which step of a path became slower; what users get is measured by `cargo x bench-peers` and `tailway bench`.
