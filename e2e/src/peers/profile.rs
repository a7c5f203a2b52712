//! Where a daemon's processor time goes on each hot path: perf's samples of the running process, sorted by what they were in.
//!
//! A sample within a system call counts for that call, whatever the kernel did there; any other for the function that ran.
//! perf samples by the CPU's clock, as virtual machines mostly have no counters to do it by.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::brokers::{Workload, with_topic};
use super::meter::Metered;
use super::perf::{self, Client, Load};
use super::shippers::{self, Follower};
use super::subject::Subject;
use super::{Options, progress};
use crate::kcat::Transport;
use crate::process::run;

const HERTZ: u32 = 999;
const PATIENCE: Duration = Duration::from_mins(2);
/// Until perf, which does not tell, has attached to the process.
const ATTACH: Duration = Duration::from_secs(2);
/// What is shown of each path.
const ROWS: usize = 10;
const WORKLOAD: Workload =
    Workload { record_bytes: 1_000, partitions: 6, transport: Transport::Plaintext };

/// One path's samples.
#[derive(Debug, PartialEq)]
pub struct Profile {
    pub path: String,
    pub samples: u64,
    /// What they were in and how many there were, most first.
    pub places: Vec<(String, u64)>,
}

impl Profile {
    /// The first rows, with their share in per cent.
    #[allow(clippy::cast_precision_loss, reason = "samples of some seconds")]
    pub fn top(&self) -> impl Iterator<Item = (f64, &str)> {
        let share = |count: u64| 100.0 * count as f64 / self.samples.max(1) as f64;
        self.places.iter().take(ROWS).map(move |(place, count)| (share(*count), place.as_str()))
    }
}

/// perf at work on a process.
struct Recording {
    perf: Metered,
    data: PathBuf,
}

impl Recording {
    fn start(pid: u32, dir: &Path) -> Result<Recording> {
        let data = dir.join("perf.data");
        let mut perf = Command::new("perf");
        perf.args(["record", "-q", "-e", "cpu-clock", "-F", &HERTZ.to_string(), "-g", "-p"]);
        perf.arg(pid.to_string()).arg("-o").arg(&data);
        let perf = Metered::start(&mut perf, Stdio::null(), &dir.join("perf.log"))?;
        std::thread::sleep(ATTACH);
        Ok(Recording { perf, data })
    }

    fn finish(self, path: String) -> Result<Profile> {
        self.perf.stop(PATIENCE)?;
        let mut script = Command::new("perf");
        script.args(["script", "-F", "ip,sym", "-i"]).arg(&self.data);
        let said = run(&mut script, PATIENCE)?;
        std::fs::remove_file(&self.data)?;
        let profile = sorted(path, &said);
        ensure!(profile.samples > 0, "perf saw nothing of {}", profile.path);
        Ok(profile)
    }
}

/// Samples are blocks of lines, `address symbol`, the innermost first.
fn sorted(path: String, script: &str) -> Profile {
    let mut places: BTreeMap<String, u64> = BTreeMap::new();
    let mut samples = 0;
    for sample in script.split("\n\n") {
        let frames: Vec<(&str, &str)> =
            sample.lines().filter_map(|line| line.trim().split_once(' ')).collect();
        if let Some(place) = place(&frames) {
            samples += 1;
            *places.entry(place).or_default() += 1;
        }
    }
    let mut places: Vec<(String, u64)> = places.into_iter().collect();
    places.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then_with(|| a.cmp(b)));
    Profile { path, samples, places }
}

fn place(frames: &[(&str, &str)]) -> Option<String> {
    let (address, innermost) = frames.first()?;
    if let Some(call) = frames.iter().find_map(|(_, symbol)| symbol.strip_prefix("__x64_sys_")) {
        return Some(format!("system call {call}"));
    }
    // The upper half of the addresses is the kernel's.
    if address.len() == 16 && address.starts_with("ffff") {
        let through = |what: &str| frames.iter().any(|(_, symbol)| symbol.contains(what));
        let place = match () {
            () if through("exit_to_user_mode") => "another thread's turn".to_owned(),
            () if through("page_fault") => "page faults".to_owned(),
            () if through("interrupt") || through("sysvec") => "interrupts".to_owned(),
            () => entered(frames)
                .map_or_else(|| "kernel, else".to_owned(), |call| format!("system call {call}")),
        };
        return Some(place);
    }
    Some(innermost.to_string())
}

/// The system call whose entry the compiler has put into the kernel's dispatcher: `do_pwritev`, `ksys_write`.
fn entered<'a>(frames: &[(&str, &'a str)]) -> Option<&'a str> {
    let dispatcher = frames.iter().position(|(_, symbol)| symbol.starts_with("do_syscall_64"))?;
    let inside = frames[..dispatcher].iter().rev().map(|(_, symbol)| *symbol);
    inside
        .take(2)
        .find_map(|symbol| symbol.strip_prefix("do_").or_else(|| symbol.strip_prefix("ksys_")))
}

/// Each hot path of broker and agent.
pub fn paths(options: &Options, broker: &Subject, dir: &Path) -> Result<Vec<Profile>> {
    let mut profiles = Vec::new();
    for transport in [Transport::Plaintext, Transport::Tls] {
        profiles.extend(
            broker_paths(options, broker, transport, dir).context("a profile of the broker")?,
        );
    }
    for (name, format, codec, transport) in [
        (shippers::RAW_NONE, "raw", "none", Transport::Plaintext),
        (shippers::RAW_ZSTD_TLS, "raw", "zstd", Transport::Tls),
        (shippers::ECS_ZSTD_TLS, "ecs", "zstd", Transport::Tls),
    ] {
        progress(&format!("a profile of {name}"));
        let follower = Follower { topic: "profiled", format, codec, transport };
        let profile = agent_path(options, broker, name, follower, dir);
        profiles.push(profile.context("a profile of the agent")?);
    }
    Ok(profiles)
}

/// The broker takes records, and gives them.
fn broker_paths(
    options: &Options,
    broker: &Subject,
    transport: Transport,
    dir: &Path,
) -> Result<[Profile; 2]> {
    let workload = Workload { transport, ..WORKLOAD };
    let bytes = options.profiled_bytes();
    let load = Load {
        records: bytes / workload.record_bytes,
        record_bytes: workload.record_bytes,
        rate: None,
        warm_up: 0,
    };
    let pid = broker.deployment()?.process("broker")?.pid();
    with_topic(broker, workload.partitions, |topic| {
        let name = |what: &str| format!("broker, {what}, {}", workload.name());
        progress(&format!("a profile of {}", name("produce and consume")));
        let recording = Recording::start(pid, dir)?;
        perf::produce(broker, transport, topic, load, Client::Pinned)?;
        let taken = recording.finish(name("produce"))?;
        let recording = Recording::start(pid, dir)?;
        perf::consume(broker, transport, topic, load.records)?;
        Ok([taken, recording.finish(name("consume"))?])
    })
}

/// The agent ships a file.
fn agent_path(
    options: &Options,
    broker: &Subject,
    name: &str,
    follower: Follower,
    dir: &Path,
) -> Result<Profile> {
    let scratch = dir.join("profile");
    std::fs::create_dir_all(&scratch)?;
    let (written, lines) = (scratch.join("written"), options.profiled_bytes() / 200);
    shippers::write_lines(&written, lines)?;
    let input = scratch.join("input.log");
    broker.create_topic(follower.topic, WORKLOAD.partitions)?;
    let mut command = shippers::agent(broker, &scratch, &input, follower)?;
    let mut agent = Metered::start(&mut command, Stdio::null(), &scratch.join("agent.log"))?;
    let recording = Recording::start(agent.pid(), dir)?;
    std::fs::rename(written, &input)?;
    shippers::await_records(broker, follower.topic, lines, &mut agent, &scratch.join("agent.log"))?;
    let profile = recording.finish(name.to_owned())?;
    agent.stop(Duration::from_secs(20))?;
    broker.delete_topic(follower.topic)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(profile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_counts_for_its_system_call_or_for_the_function_that_ran() {
        let script = "\
\tffffffff81a54710 finish_task_switch.isra.0
\tffffffff81a54711 __x64_sys_fdatasync
\t    7f40c8d1b2aa fdatasync
\n\tffffffff81a54710 clear_page
\tffffffff81a54711 asm_exc_page_fault
\t    55f0c8d1b2aa main
\n\tffffffff81a54710 vfs_writev
\tffffffff81a54711 do_pwritev
\tffffffff81a54712 do_syscall_64
\n\tffffffff81a54710 schedule
\tffffffff81a54711 exit_to_user_mode_loop
\tffffffff81a54712 do_syscall_64
\n\tffffffff81a54710 do_syscall_64
\n\t    55f0c8d1b2aa crc32c::update
\t    55f0c8d1b2ab main
\n\t    55f0c8d1b2ac crc32c::update
";
        let place = |name: &str, count| (name.to_owned(), count);
        assert_eq!(
            sorted("a path".to_owned(), script),
            Profile {
                path: "a path".to_owned(),
                samples: 7,
                places: vec![
                    place("crc32c::update", 2),
                    place("another thread's turn", 1),
                    place("kernel, else", 1),
                    place("page faults", 1),
                    place("system call fdatasync", 1),
                    place("system call pwritev", 1),
                ],
            }
        );
        assert_eq!(sorted(String::new(), "").samples, 0);
    }
}
