//! Kafka's own tools and a real Kafka broker read the files that our broker wrote.
//!
//! `kafka-dump-log` exits 0 on bad CRCs and on empty indexes, so its words are parsed, and each check is also shown to fail
//! on a file that was broken on purpose.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Bench, files_with, numbered, same, text};
use crate::group::{Check, need};
use crate::kafka::{Kafka, NEWEST};
use crate::kcat::{Transport, command, consume, produce};
use crate::process::run;
use crate::python;

pub const CHECKS: &[Check] = &[
    ("kafka-dump-log accepts segments and indexes, and not the broken ones", segments),
    ("kafka-dump-log decodes the offsets that clients committed", committed_offsets),
    ("a real Apache Kafka serves our segments record for record", served_by_kafka),
];

const RECORDS: usize = 24_000;

/// A topic of several 1 MiB segments, in batches just above the index interval, with timestamps that rise by the record:
/// so that each batch earns an entry in both indexes.
fn many_segments(bench: &Bench, topic: &str) -> Result<()> {
    bench.create_topic(topic, 1, &["segment.bytes=1048576", "index.interval.bytes=4096"])?;
    let args = [topic, &RECORDS.to_string(), "180"];
    let dev = &bench.deployment.dev;
    let said = python::script("timed_lines.py", dev, Transport::Plaintext, &args)?;
    ensure!(said.contains(&format!("produced {RECORDS}")), "{said}");
    Ok(())
}

fn segments() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let bench = Bench::broker()?;
    many_segments(&bench, "segments")?;
    let dir = bench.partition_dir("segments", 0)?;
    bench.deployment.stop()?;
    let logs = files_with(&dir, "log")?;
    ensure!(logs.len() >= 3, "only {} segments", logs.len());
    ensure!(count_valid(&logs)? == RECORDS, "kafka-dump-log does not count {RECORDS} records");
    let sealed = logs.len() - 1;
    for extension in ["index", "timeindex"] {
        for index in &files_with(&dir, extension)?[..sealed] {
            let entries = index_entries(index)?;
            ensure!(entries >= 100, "{} holds only {entries} entries", index.display());
        }
    }

    let broken = bench.dir.path().join("broken");
    let fresh = || -> Result<PathBuf> {
        drop(fs::remove_dir_all(&broken));
        fs::create_dir(&broken)?;
        for extension in ["log", "index", "timeindex"] {
            let from = &files_with(&dir, extension)?[0];
            fs::copy(from, broken.join(from.file_name().context("a name")?))?;
        }
        Ok(broken.join("00000000000000000000.log"))
    };
    let log = fresh()?;
    change(&log, |bytes| bytes[5_000] ^= 0x40)?;
    ensure!(
        count_valid(std::slice::from_ref(&log)).is_err(),
        "a flipped bit in a segment passes for valid"
    );
    // In the middle of an offset; in a position; in a time and in an offset.
    for (extension, position) in
        [("index", 403), ("index", 406), ("timeindex", 403), ("timeindex", 405)]
    {
        let index = fresh()?.with_extension(extension);
        change(&index, |bytes| bytes[position] ^= 0x55)?;
        ensure!(index_entries(&index).is_err(), "byte {position} of the {extension} flips unseen");
    }
    for extension in ["index", "timeindex"] {
        let index = fresh()?.with_extension(extension);
        change(&index, Vec::clear)?;
        ensure!(
            index_entries(&index).map_or(true, |entries| entries < 100),
            "an empty {extension} passes for full"
        );
        // What the sanity check is there for: an entry cut in two, and last entries below the first. Zeros it takes for a
        // file that was made larger than it is full.
        for damage in [
            |bytes: &mut Vec<u8>| bytes.truncate(1_001),
            |bytes: &mut Vec<u8>| {
                let end = bytes.len();
                bytes[end - 24..].fill(0xff);
            },
        ] {
            let index = fresh()?.with_extension(extension);
            change(&index, damage)?;
            let size = fs::metadata(&index)?.len();
            ensure!(sane(&index).is_err(), "an {extension} of {size} bytes, torn, passes for sane");
        }
    }
    Ok(())
}

/// Records in these segments, or an error when any batch or record is not valid.
fn count_valid(logs: &[PathBuf]) -> Result<usize> {
    let names: Vec<&str> = logs.iter().map(|path| text(path)).collect::<Result<_>>()?;
    let dump = Kafka::version(NEWEST).tool(&[
        "kafka-dump-log",
        "--deep-iteration",
        "--files",
        &names.join(","),
    ])?;
    let mut records = 0;
    for line in dump.lines() {
        if line.starts_with("baseOffset:") {
            ensure!(line.contains("isvalid: true"), "{line}");
        } else if line.starts_with("| offset:") {
            records += 1;
        } else {
            ensure!(!line.contains("Found") && !line.contains("rror"), "{line}");
        }
    }
    Ok(records)
}

/// Fails unless Kafka's sanity check, which decides whether a broker rebuilds an index, accepts it.
fn sane(index: &Path) -> Result<()> {
    let kafka = Kafka::version(NEWEST);
    let said = kafka.tool(&["kafka-dump-log", "--index-sanity-check", "--files", text(index)?])?;
    ensure!(said.contains("passed sanity check"), "{said}");
    Ok(())
}

/// Entries of an index file, or an error when Kafka's sanity check or its comparison with the log complains.
fn index_entries(index: &Path) -> Result<u64> {
    sane(index)?;
    // It complains on stderr, and exits 0.
    let kafka = Kafka::version(NEWEST);
    let (code, dump) = kafka.tool_output(&["kafka-dump-log", "--files", text(index)?])?;
    ensure!(code == Some(0), "{}: exit {code:?}: {dump}", index.display());
    let complaints =
        ["ismatch", "Found", "not found", "non-consecutive", "out of order", "rror", "xception"];
    for complaint in complaints {
        ensure!(!dump.contains(complaint), "{}: {dump}", index.display());
    }
    let size = fs::metadata(index)?.len();
    Ok(size / if index.extension().is_some_and(|e| e == "index") { 8 } else { 12 })
}

fn change(path: &Path, how: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
    let mut bytes = fs::read(path)?;
    how(&mut bytes);
    fs::write(path, bytes)?;
    Ok(())
}

fn committed_offsets() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let bench = Bench::broker()?;
    let dev = &bench.deployment.dev;
    produce(dev, Transport::Plaintext, "committed", &[], &numbered(123, 5))?;
    let mut kcat = command(dev, Transport::Plaintext)?;
    kcat.args([
        "-q",
        "-X",
        "auto.offset.reset=earliest",
        "-c",
        "123",
        "-G",
        "accountants",
        "committed",
    ]);
    run(&mut kcat, Duration::from_mins(1))?;
    let data = dev.brokers[0].data.clone();
    bench.deployment.stop()?;
    let mut logs = Vec::new();
    for partition in 0.. {
        let Some(dir) = super::find_dir(&data, &format!("__consumer_offsets-{partition}"))? else {
            break;
        };
        logs.extend(files_with(&dir, "log")?);
    }
    ensure!(!logs.is_empty(), "there is no __consumer_offsets partition below {}", data.display());
    let (mut held, mut offset) = (PathBuf::new(), None);
    for log in logs {
        if let Some(found) = committed_offset(&log, "accountants")? {
            (held, offset) = (log, Some(found));
        }
    }
    ensure!(offset == Some(123), "kafka-dump-log shows {offset:?}, the client committed 123");
    let broken = bench.dir.path().join("00000000000000000000.log");
    fs::copy(&held, &broken)?;
    change(&broken, |bytes| {
        let last = bytes.len() - 2;
        bytes[last] ^= 0x04;
    })?;
    ensure!(
        committed_offset(&broken, "accountants").is_err(),
        "a flipped bit in the committed offsets passes for valid"
    );
    Ok(())
}

/// The last offset that a group committed, as Kafka decodes it, or an error where the log is not valid.
fn committed_offset(log: &Path, group: &str) -> Result<Option<u64>> {
    let args = ["kafka-dump-log", "--offsets-decoder", "--files", text(log)?];
    let (code, decoded) = Kafka::version(NEWEST).tool_output(&args)?;
    ensure!(code == Some(0), "{}: exit {code:?}: {decoded}", log.display());
    for batch in decoded.lines().filter(|line| line.starts_with("baseOffset:")) {
        ensure!(batch.contains("isvalid: true"), "{}: {batch}", log.display());
    }
    let commit = decoded.lines().rfind(|line| line.contains(group) && line.contains("committed"));
    let Some((_, offset)) = commit.and_then(|line| line.split_once("\"offset\":")) else {
        return Ok(None);
    };
    let digits: String = offset.chars().take_while(char::is_ascii_digit).collect();
    Ok(Some(digits.parse().with_context(|| format!("no offset: {offset}"))?))
}

fn served_by_kafka() -> Result<()> {
    need("kcat", "kcat")?;
    need("java", "default-jre-headless")?;
    let bench = Bench::broker()?;
    many_segments(&bench, "moved")?;
    let format = "%o %T %k %s\n";
    let read = |command: &mut std::process::Command| {
        run(
            command.args(["-C", "-q", "-e", "-o", "beginning", "-t", "moved", "-f", format]),
            Duration::from_mins(2),
        )
    };
    let ours = read(&mut command(&bench.deployment.dev, Transport::Plaintext)?)?;
    ensure!(ours.lines().count() == RECORDS, "{} records", ours.lines().count());
    same(
        "two ways of reading",
        &consume(&bench.deployment.dev, Transport::Plaintext, "moved")?,
        &numbered(RECORDS, 180),
    )?;
    let from = bench.partition_dir("moved", 0)?;
    bench.deployment.stop()?;

    let kafka = Kafka::version(NEWEST);
    let home = bench.dir.path().join("kafka");
    let broker = kafka.start_broker(&home, 19_692, &[])?;
    kafka.tool(&[
        "kafka-topics",
        "--bootstrap-server",
        &broker.address,
        "--create",
        "--topic",
        "moved",
    ])?;
    broker.stop()?;
    let to = super::find_dir(&home, "moved-0")?.context("Kafka made no folder for the topic")?;
    for extension in ["log", "index", "timeindex", "snapshot"] {
        for old in files_with(&to, extension)? {
            fs::remove_file(old)?;
        }
        for file in files_with(&from, extension)? {
            fs::copy(&file, to.join(file.file_name().context("a name")?))?;
        }
    }
    let broker = kafka.start_broker(&home, 19_692, &[])?;
    let theirs = read(std::process::Command::new("kcat").args(["-b", &broker.address]))?;
    same("what our broker and Kafka serve", &ours, &theirs)
}
