//! The commented files under configs/ are the defaults: every key, with its default value; the examples beside them are good.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use tailway_daemon::config::defaults::compare;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn config(name: &str) -> PathBuf {
    configs().join(name)
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

/// The examples for one node and for the edge, with certificates in the place where `enroll` puts them.
#[test]
fn check_accepts_the_examples() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let tailway = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tailway")).args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "tailway {args:?}: {said}");
    };
    let (data, config, admin) = (at("coordinator"), at("made.yaml"), at("admin"));
    let init = ["coordinator", "init", "--name", "one.example.com", "--data-dir", &data];
    tailway(&[&init[..], &["--config", &config, "--admin", &admin]].concat());
    for (name, role) in [
        ("one-node-coordinator.yaml", "coordinator"),
        ("one-node-broker.yaml", "broker"),
        ("edge-agent.yaml", "agent"),
    ] {
        let text = std::fs::read_to_string(configs().join(name)).unwrap();
        // Every role's files lie at the same place, and here they are the coordinator's.
        let text = text.replace(&format!("/var/lib/tailway/{role}"), &data);
        let file = at(name);
        std::fs::write(&file, text).unwrap();
        tailway(&["check", &file]);
        tailway(&["config", "show", "--effective", &file]);
    }
}
