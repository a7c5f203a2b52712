//! `tailway bench`: each benchmark runs to its end and tells what it saw, and one that is interrupted leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tailway_e2e::process::{Process, Signal, finish, wait_until};
use tailway_e2e::programs::Programs;

/// On a busy machine.
const PATIENCE: Duration = Duration::from_mins(4);

/// Each with the least that it can be given, and the number of its rows.
const ALL: [(&str, &[&str], usize); 7] = [
    ("ack", &["--partitions", "2", "--seconds", "1"], 1),
    ("produce", &["--partitions", "1,6", "--record-size", "1000B", "--seconds", "1"], 2),
    ("consume", &["--partitions", "2", "--record-size", "1000B", "--size", "1MiB"], 1),
    ("latency", &["--rate", "1000", "--seconds", "1", "--plaintext"], 1),
    ("start", &["--partitions", "3", "--size", "1MiB"], 4),
    ("tail", &["--size", "256KiB", "--plaintext"], 10),
    ("footprint", &["--seconds", "1"], 3),
];

#[test]
fn each_ends_with_its_table_and_the_same_as_json() {
    for (bench, args, rows) in ALL {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("result.json");
        let mut command = Command::new(Programs::built().unwrap().path("tailway").unwrap());
        command.args(["bench", bench]).args(args).arg("--dir").arg(dir.path());
        let output = finish(command.arg("--json").arg(&json), PATIENCE).unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{bench}: {complained}");
        let result: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
        assert_eq!(result["rows"].as_array().map(Vec::len), Some(rows), "{bench}: {result}");
        assert!(result["disk_before"]["fdatasync"]["samples"].as_u64() > Some(0), "{result}");
        for row in result["rows"].as_array().unwrap() {
            for (key, number) in row.as_object().unwrap() {
                let counted = number.as_f64().is_none_or(|n| n > 0.0) || key.contains("cpu");
                assert!(counted, "{bench} says {key} = {number}:\n{said}");
            }
        }
        let tables: Vec<&str> = said.split("\n\n").collect();
        assert_eq!(tables.len(), 3, "{bench}: conditions, its table, the disk's:\n{said}");
        assert_eq!(tables[1].lines().count(), rows + 1, "{bench}:\n{said}");
        drop(std::fs::remove_file(&json));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{bench} left something");
    }
}

#[test]
fn connections_that_do_nothing_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(Programs::built().unwrap().path("tailway").unwrap());
    command.args(["bench", "connections", "--count", "50", "--dir"]).arg(dir.path());
    let output = finish(&mut command, PATIENCE).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().any(|line| line.starts_with("50 ")), "{said}");
}

#[test]
fn one_that_is_interrupted_stops_what_it_started_and_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(Programs::built().unwrap().path("tailway").unwrap());
    command.args(["bench", "ack", "--partitions", "1", "--seconds", "600", "--dir"]);
    let process = Process::start("bench", command.arg(dir.path()), log.path()).unwrap();
    wait_until(PATIENCE, || Ok(process.tail().contains("1 active partitions"))).unwrap();
    process.signal(Signal::TERM).unwrap();
    let status = process.wait(PATIENCE).unwrap();
    let said = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("SIGTERM: nothing was measured to the end"), "{said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left something");
}
