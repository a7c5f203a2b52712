//! Consumer groups across libraries: a rebalance, a member that dies, a broker that restarts.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Bench, numbered};
use crate::group::{Check, need};
use crate::kcat::{Transport, produce};
use crate::process::{Process, wait_until};
use crate::python;

pub const CHECKS: &[Check] = &[(
    "members of two libraries share a topic, one dies, offsets go on after a broker restart",
    shared,
)];

const PATIENCE: Duration = Duration::from_mins(1);

/// The partitions that a member holds now, by what it printed last.
fn assigned(member: &Process) -> Vec<u32> {
    let lines = member.lines();
    let last = lines.iter().rfind(|line| line.starts_with("assigned"));
    last.map(|line| line.split(' ').skip(1).filter_map(|word| word.parse().ok()).collect())
        .unwrap_or_default()
}

/// Offsets read so far, by partition, in the order in which they came.
fn reads(members: &[&Process]) -> BTreeMap<u32, Vec<u64>> {
    let mut all: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for member in members {
        for line in member.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            if let ["read", partition, offset] = words[..]
                && let (Ok(partition), Ok(offset)) = (partition.parse(), offset.parse())
            {
                all.entry(partition).or_default().push(offset);
            }
        }
    }
    all
}

fn distinct(reads: &BTreeMap<u32, Vec<u64>>) -> usize {
    reads
        .values()
        .map(|offsets| offsets.iter().collect::<std::collections::BTreeSet<_>>().len())
        .sum()
}

fn shared() -> Result<()> {
    need("kcat", "kcat")?;
    need("python3", "python3 python3-venv")?;
    let mut bench = Bench::broker()?;
    bench.create_topic("shared", 4, &[])?;
    let dev = bench.deployment.dev.clone();
    let member = |library: &str, transport, output: &Path| {
        let mut command = python::command("member.py", &dev, transport)?;
        Process::start(library, command.args([library, "shared", "team"]), output)
    };
    produce(&dev, Transport::Plaintext, "shared", &[], &numbered(400, 10))?;
    let first = member("confluent", Transport::Tls, &bench.dir.path().join("confluent.out"))?;
    wait_until(PATIENCE, || Ok(distinct(&reads(&[&first])) == 400))?;
    ensure!(assigned(&first) == [0, 1, 2, 3], "a lone member holds {:?}", assigned(&first));

    let second =
        member("kafka-python", Transport::Plaintext, &bench.dir.path().join("kafka-python.out"))?;
    wait_until(PATIENCE, || {
        let mut both = [assigned(&first), assigned(&second)].concat();
        both.sort_unstable();
        Ok(both == [0, 1, 2, 3] && assigned(&first).len() == 2)
    })
    .map_err(|error| {
        error.context(format!("first: {}\nsecond: {}", first.tail(), second.tail()))
    })?;
    produce(&dev, Transport::Plaintext, "shared", &[], &numbered(400, 11))?;
    wait_until(PATIENCE, || Ok(distinct(&reads(&[&first, &second])) == 800))?;

    first.kill()?;
    wait_until(PATIENCE, || Ok(assigned(&second) == [0, 1, 2, 3])).map_err(|error| {
        error.context(format!("second, after the first died: {}", second.tail()))
    })?;

    bench.deployment.stop_daemon("broker")?;
    bench.deployment.start_daemon("broker")?;
    let before: usize = reads(&[&second]).values().map(Vec::len).sum();
    produce(&dev, Transport::Plaintext, "shared", &[], &numbered(400, 12))?;
    wait_until(PATIENCE, || {
        Ok(reads(&[&second]).values().map(Vec::len).sum::<usize>() >= before + 400)
    })
    .map_err(|error| error.context(format!("second, after the restart: {}", second.tail())))?;
    let after: usize = reads(&[&second]).values().map(Vec::len).sum();
    ensure!(
        after == before + 400,
        "{} records were read again after the broker's restart",
        after - before - 400
    );
    second.kill()?;

    let third = member("confluent", Transport::Plaintext, &bench.dir.path().join("third.out"))?;
    wait_until(PATIENCE, || Ok(assigned(&third) == [0, 1, 2, 3]))?;
    produce(&dev, Transport::Plaintext, "shared", &[], &numbered(40, 13))?;
    wait_until(PATIENCE, || Ok(reads(&[&third]).values().map(Vec::len).sum::<usize>() >= 40))?;
    let read: usize = reads(&[&third]).values().map(Vec::len).sum();
    ensure!(
        read == 40,
        "a new member read {read} records instead of the 40 after the committed offsets"
    );
    third.kill()?;
    bench.deployment.stop()
}
