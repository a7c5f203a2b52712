//! How long the agent's journal takes with very many files: `journal_scale DIR [FILES]`.
//!
//! Writes a journal that remembers so many files, loads it, and then times what one acknowledged
//! batch costs. Not a test: what it prints goes to `docs/evidence/agent-journal.md`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement for people")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailway_agent::machine::identity::{FileId, Generation, Head, Ladder, Marker, Rung};
use tailway_agent::machine::ledger::{FileEntry, Plan, Range, Record, Target};
use tailway_agent::registry::Registry;
use tailway_metadata::time::WallMs;
use tailway_storage::FsDisk;
use tokio::time::Instant;

const UPDATES: u32 = 10_000;

fn target(partition: i32) -> Target {
    Target {
        cluster: "Mk9vVh5hQOuSLrbKIk1aXw".into(),
        topic: "logs".into(),
        topic_id: "6f1c9a0e-6d4f-4c3e-9b6a-0f2d3c4b5a69".into(),
        partition,
    }
}

/// As real ones are: a random generation, a path of sixty bytes, a partition, a few rungs.
fn file(n: u64) -> FileEntry {
    let marker = Marker::of(&n.to_le_bytes());
    let scattered = u128::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let path = format!("/var/log/containers/app-{:06}/service-{:04}/current.log", n / 16, n % 16);
    FileEntry {
        generation: Generation(scattered),
        ordinal: 0,
        id: FileId { dev: 66_304, ino: n, birth_ns: Some(1_700_000_000_000_000_000) },
        path: path.clone().into(),
        origin: path.into(),
        input: "containers".into(),
        offset: 4_096,
        marker,
        head: Head::of(&n.to_le_bytes()),
        target: Some(target(i32::try_from(n % 64).unwrap_or_default())),
        seen: WallMs(1_700_000_000_000),
        ladder: Ladder::of([1_024, 3_072, 4_096].map(|offset| Rung { offset, marker })),
        rebooted: false,
    }
}

fn plan(number: u64, entry: &FileEntry) -> Plan {
    let range = Range {
        generation: entry.generation,
        from: entry.offset,
        to: entry.offset + 100,
        marker: entry.marker,
    };
    Plan {
        number,
        at: WallMs(0),
        target: target(0),
        producer_id: 7,
        producer_epoch: 0,
        first_sequence: i32::try_from(number).unwrap_or_default(),
        last_sequence: i32::try_from(number).unwrap_or_default(),
        acked_through: -1,
        ranges: vec![range],
        lines: Some(number),
        pipeline: 1,
        shared: false,
    }
}

/// Seconds that this thread was on a processor: what others do at the same time does not count.
fn on_cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap());
    let files: u64 = args.next().map_or(1_000_000, |files| files.parse().unwrap());
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("journal");
    let open = |path: &Path| Registry::open(Arc::new(FsDisk), path).unwrap().0;
    let timed = |what: &str, since: (Instant, f64)| {
        let (wall, cpu) = (since.0.elapsed().as_secs_f64(), on_cpu() - since.1);
        println!("{what}: {wall:.3} s, {cpu:.3} s of them on a processor");
    };

    let mut registry = open(&path);
    let since = (Instant::now(), on_cpu());
    for n in 0..files {
        registry.record(Record::File(file(n))).unwrap();
    }
    timed(&format!("{files} files remembered, one record each"), since);
    registry.sync().unwrap();
    println!("the journal has {} bytes, {} a file", registry.bytes(), registry.bytes() / files);
    drop(registry);

    for run in 1..=3 {
        let since = (Instant::now(), on_cpu());
        let registry = open(&path);
        timed(&format!("load {run} ({} files)", registry.ledger().files.len()), since);
    }

    let mut registry = open(&path);
    let before = registry.bytes();
    let since = on_cpu();
    for number in 0..u64::from(UPDATES) {
        let entry = registry.ledger().files[&file(number * 17 % files).generation].clone();
        registry.plan(plan(number, &entry)).unwrap();
        registry.record(Record::Acked { plan: number, base_offset: 0 }).unwrap();
    }
    let took = on_cpu() - since;
    println!(
        "{UPDATES} batches planned and acknowledged: {:.1} us and {} bytes each, {} rewrites",
        took * 1e6 / f64::from(UPDATES),
        (registry.bytes() - before) / u64::from(UPDATES),
        u8::from(registry.compact_if_worth_it().unwrap()),
    );
}
