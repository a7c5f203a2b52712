//! The named groups of checks that need foreign software or root; `cargo x` starts them.

#![allow(clippy::print_stdout, reason = "prints the verdicts")]

fn main() {}
