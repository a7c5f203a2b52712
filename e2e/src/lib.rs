//! Real programs on loopback, and what they did judged by software that nobody here wrote.
//!
//! `programs` builds what users install, `process` and `deployment` run it, `hosts` and `cluster` do so on several hosts of one
//! network, `debian` enters a root, `installs` boots such hosts with systemd, `lines` writes numbered log lines under it, `tls` and `forgery` are whom nobody should trust, and `kcat`, `kafka` and
//! `python` are the foreign witnesses. Tests in `tests/` need none of those and run in `cargo test`; the named groups in `main.rs`
//! need them and fail, naming the package, where one is missing.

pub mod checks;
pub mod cluster;
pub mod crash_points;
pub mod debian;
pub mod deployment;
pub mod forgery;
pub mod group;
pub mod histories;
pub mod hosts;
pub mod installs;
pub mod kafka;
pub mod kcat;
pub mod lines;
pub mod packages;
pub mod peers;
pub mod process;
pub mod programs;
pub mod python;
pub mod readme;
pub mod sinks;
pub mod tls;
pub mod torture;
