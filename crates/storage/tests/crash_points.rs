//! A real process on the real disk ends at each fault point, at its first hits one after the other; whatever it had
//! acknowledged before is there when the next one opens the directory. Needs the feature `faults`.
//!
//! The process is this test binary again, running `child` alone.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test, and a child that reports to it"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use tailway_storage::{
    Disk, FsDisk, Journal, JournalFormat, OpenMode, StorageError, atomic_replace,
};

const DIR: &str = "TAILWAY_STORAGE_CHILD_DIR";
const FORMAT: JournalFormat =
    JournalFormat { magic: *b"TWCRASHP", version: 1, identity: [1; 16], record_bytes_max: 1000 };

/// Appends, syncs, truncates, rewrites and replaces; says on stdout what has been made durable.
fn work(dir: &Path) -> Result<(), StorageError> {
    let disk: Arc<dyn Disk> = FsDisk::shared();
    let opened = Journal::open(Arc::clone(&disk), &dir.join("journal"), FORMAT)?;
    let mut journal = opened.journal;
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for n in 0..12_u8 {
        kept.push(vec![n; 100]);
        let position = journal.append(&[n; 100])?;
        journal.sync()?;
        println!("\nacked journal {n}");
        match n {
            3 => {
                let again = journal.append(b"to be cut")?;
                assert!(again > position);
                journal.truncate(again)?;
            }
            7 => drop(journal.rewrite(&kept)?),
            _ => {}
        }
        if n % 3 == 0 {
            atomic_replace(disk.as_ref(), &dir.join("state"), &[n; 600])?;
            println!("\nacked state {n}");
        }
    }
    println!("\nall is done");
    Ok(())
}

#[test]
fn child() {
    if let Some(dir) = std::env::var_os(DIR)
        && let Err(error) = work(Path::new(&dir))
    {
        println!("\nrefused: {error}");
    }
}

/// Runs the child with these faults armed and returns what it printed.
fn run(dir: &Path, faults: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .env("TAILWAY_FAULTS", faults)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn last_acked(printed: &str, what: &str) -> Option<u8> {
    let prefix = format!("acked {what} ");
    printed.lines().filter_map(|line| line.strip_prefix(&prefix)).next_back()?.parse().ok()
}

/// Opens what is there and compares it with what was acknowledged.
fn verify(dir: &Path, printed: &str, context: &str) {
    let opened = Journal::open(FsDisk::shared(), &dir.join("journal"), FORMAT);
    let opened = opened.unwrap_or_else(|error| panic!("{context}: {error}"));
    let found: Vec<u8> = opened
        .entries
        .iter()
        .filter(|entry| &entry.bytes[..] != b"to be cut")
        .map(|entry| entry.bytes[0])
        .collect();
    let expected: Vec<u8> = (0..).take(found.len()).collect();
    assert_eq!(found, expected, "{context}: records in order, none missing");
    let acked = last_acked(printed, "journal").map_or(0, |n| usize::from(n) + 1);
    assert!(found.len() >= acked, "{context}: {acked} acknowledged, {} found", found.len());

    let state = FsDisk.open(&dir.join("state"), OpenMode::Read);
    let acked = last_acked(printed, "state");
    match state {
        Err(error) => assert!(error.is_not_found() && acked.is_none(), "{context}: {error}"),
        Ok(file) => {
            let mut bytes = vec![0; 600];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "{context}: a mixture");
            assert!(acked.is_none_or(|n| bytes[0] >= n), "{context}: older than acknowledged");
        }
    }
}

#[test]
fn what_was_acknowledged_survives_an_end_at_any_point() {
    let mut bitten = 0;
    let ends = tailway_faults::CRASHES.iter().filter(|point| point.starts_with("storage."));
    let ends = ends.map(|point| (point, "abort"));
    let failures = tailway_faults::POINTS.iter().map(|point| (point, "once"));
    for (point, teeth) in ends.chain(failures) {
        for nth in [1, 3, 7] {
            let dir = tempfile::tempdir().unwrap().keep();
            let context = format!("{point}:{nth}:{teeth}");
            let printed = run(&dir, &context);
            bitten += u32::from(!printed.contains("all is done"));
            verify(&dir, &printed, &context);
            // The next process goes on.
            let printed = run(&dir, "");
            assert!(printed.contains("all is done"), "{context}, then unharmed: {printed}");
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(bitten > 40, "the faults must bite, or nothing is shown: {bitten}");
}
