//! How long the agent's journal takes with very many files:
//! `journal_scale DIR [--files N] [--evidence FILE]`.
//!
//! Writes a journal that remembers so many files and loads it as a start does: in a process of its own,
//! whose memory was never touched, once with the file dropped from the page cache and then with
//! it there. Then it times what one acknowledged batch costs. Not a test: it writes
//! `docs/evidence/agent-journal.md` where `--evidence` says so.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement for people")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tailway_agent::machine::identity::{FileId, Generation, Head, Ladder, Marker, Rung};
use tailway_agent::machine::ledger::{FileEntry, Plan, Range, Record, Target};
use tailway_agent::registry::Registry;
use tailway_metadata::time::WallMs;
use tailway_storage::FsDisk;
use tokio::time::Instant;

const UPDATES: u32 = 10_000;
/// Inodes that are looked up, as for files that a start finds.
const LOOK_UPS: u32 = 10_000;
const LOADS: usize = 3;
/// Makes this program a start: what `load` measures.
const LOAD: &str = "--load";

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
        path: Path::new(&path).into(),
        origin: Path::new(&path).into(),
        input: "containers".into(),
        offset: 4_096,
        marker,
        head: Head::of(&n.to_le_bytes()),
        target: Some(Arc::new(target(i32::try_from(n % 64).unwrap_or_default()))),
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

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn open(path: &Path) -> Registry {
    Registry::open(Arc::new(FsDisk), path).unwrap().0
}

/// The text after a command's name.
fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A start's share of the journal, in a process of its own; a row of the table.
fn load(path: &Path) {
    let (before, since, cpu) = (resident(), Instant::now(), on_cpu());
    let registry = open(path);
    let (wall, cpu) = (since.elapsed().as_secs_f64(), on_cpu() - cpu);
    let files = registry.ledger().files.len() as u64;
    let bytes = (resident() - before) / files;
    let since = on_cpu();
    assert!(registry.ledger().current(&file(0).id).is_some());
    let index = on_cpu() - since;
    let since = on_cpu();
    for n in 0..u64::from(LOOK_UPS) {
        assert!(registry.ledger().current(&file(n * 97 % files).id).is_some());
    }
    let look_up = (on_cpu() - since) * 1e6 / f64::from(LOOK_UPS);
    println!("{wall:.2} s | {cpu:.2} s | {bytes} | {index:.2} s | {look_up:.1} us");
}

/// The rows of the table: loads, the first without the file in the page cache.
fn loads(path: &Path) -> String {
    let program = std::env::current_exe().unwrap();
    let (program, path) = (program.to_str().unwrap(), path.to_str().unwrap());
    let mut rows = String::new();
    for run in 0..=LOADS {
        let from = if run == 0 { "disk" } else { "page cache" };
        if run == 0 {
            let file = std::fs::File::open(path).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
        writeln!(rows, "| {from} | {} |", said_by(program, &[LOAD, path])).unwrap();
    }
    rows
}

/// What one batch costs, planned and acknowledged.
fn updates(path: &Path, files: u64) -> String {
    let mut registry = open(path);
    let before = registry.bytes();
    let since = on_cpu();
    for number in 0..u64::from(UPDATES) {
        let entry = registry.ledger().files[&file(number * 17 % files).generation].clone();
        registry.plan(plan(number, &entry)).unwrap();
        registry.record(Record::Acked { plan: number, base_offset: 0 }).unwrap();
    }
    let micros = (on_cpu() - since) * 1e6 / f64::from(UPDATES);
    let bytes = (registry.bytes() - before) / u64::from(UPDATES);
    let anew = if registry.compact_if_worth_it().unwrap() { "one rewrite" } else { "no rewrite" };
    format!("{micros:.1} us on a processor and {bytes} bytes; {UPDATES} of them: {anew}")
}

fn measure(dir: &Path, files: u64) -> String {
    std::fs::create_dir_all(dir).unwrap();
    let path = dir.join("journal");
    let mut registry = open(&path);
    assert!(registry.ledger().files.is_empty(), "{} is not new", path.display());
    let load = said_by("cat", &["/proc/loadavg"]);
    let (since, cpu) = (Instant::now(), on_cpu());
    for n in 0..files {
        registry.record(Record::File(Box::new(file(n)))).unwrap();
    }
    let (wall, cpu) = (since.elapsed().as_secs_f64(), on_cpu() - cpu);
    registry.sync().unwrap();
    let bytes = registry.bytes() / files;
    drop(registry);
    format!(
        "# The agent's journal with very many files\n\n\
         Written by `cargo run --release -p tailway-agent --example journal_scale -- DIR --evidence FILE` with\n\
         {}, {} (UTC), Linux {}, {} cores, load average {} before.\n\n\
         {files} files, each with a path of about 60 bytes, a partition, and three rungs: {bytes} bytes a file in the journal.\n\
         Remembering them, one record each: {wall:.2} s, {cpu:.2} s of them on a processor.\n\n\
         Loads, each in a process of its own; the goal is 2 s:\n\n\
         | the journal comes from | load | of it on a processor | bytes of memory a file | index by inode, made when it is first asked | one file found by its inode |\n\
         | --- | --- | --- | --- | --- | --- |\n\
         {}\n\
         One batch planned and acknowledged: {}. It does not depend on how many files there are.\n",
        tailway_daemon::VERSION,
        said_by("date", &["-u", "+%Y-%m-%d"]),
        said_by("uname", &["-r"]),
        std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        load.split(' ').next().unwrap_or_default(),
        loads(&path),
        updates(&path, files),
    )
}

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().expect("a directory");
    if first == LOAD {
        return load(Path::new(&args.next().unwrap()));
    }
    let (mut files, mut evidence) = (1_000_000, None);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_else(|| panic!("{flag} needs a value"));
        match flag.as_str() {
            "--files" => files = value.parse().unwrap(),
            "--evidence" => evidence = Some(PathBuf::from(value)),
            _ => panic!("there is no {flag}"),
        }
    }
    let text = measure(Path::new(&first), files);
    print!("{text}");
    if let Some(path) = evidence {
        std::fs::write(path, text).unwrap();
    }
}
