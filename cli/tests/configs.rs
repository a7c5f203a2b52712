//! The commented files under configs/ are the defaults: every key, with its default value.

use std::path::{Path, PathBuf};

use tailway_daemon::config::defaults::compare;

fn config(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

#[test]
fn coordinator() {
    compare::<tailway_coordinator::config::RawConfig>(&config("coordinator.yaml"))
        .unwrap_or_else(|differences| panic!("{differences}"));
}

#[test]
fn broker() {
    compare::<tailway_broker::config::RawConfig>(&config("broker.yaml"))
        .unwrap_or_else(|differences| panic!("{differences}"));
}

#[test]
fn agent() {
    compare::<tailway_agent::config::RawConfig>(&config("agent.yaml"))
        .unwrap_or_else(|differences| panic!("{differences}"));
}
