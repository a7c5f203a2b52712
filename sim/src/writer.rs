//! A program that writes log files beside an agent: lines that say which they are, whole and in parts, and rotation by
//! rename. The files' names tell their generation, so that a line is known wherever it ends up.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use tailway_agent::tail::memory::MemoryFiles;
use tailway_history::{Act, Outcome, value};
use tailway_runtime::sim::HostRng;
use tokio::time::sleep;

use crate::clients::Shared;

pub(crate) const LINES_TOPIC: &str = "lines";
pub(crate) const LINES_PARTITIONS: i32 = 2;
pub(crate) const LOGS_DIR: &str = "/logs";
const FILES: usize = 3;
const LINES_MAX: u32 = 15;
const PADDING_MAX: usize = 120;
const PAUSE_MS_MAX: u64 = 250;
/// One turn in this many rotates the file first.
const ROTATE_ONE_IN: u32 = 30;
/// One line in this many is written in two parts.
const PARTS_ONE_IN: u32 = 10;

/// Writes until everybody is to be quiet. `number` tells this writer's lines from those of others.
pub(crate) async fn run(shared: Shared, files: MemoryFiles, number: u64) {
    let mut rng = HostRng;
    let name = format!("writer {number}");
    let mut generations = [0_u32; FILES];
    let mut written = 0;
    if let Err(error) = files.create_dir_all(LOGS_DIR.as_ref()) {
        shared.history.violation(format!("{name} cannot write: {error}"));
        return;
    }
    while !shared.is_quiet() {
        let index = rng.gen_range(0..FILES);
        let path = PathBuf::from(format!("{LOGS_DIR}/app-{index}.log"));
        if rng.gen_ratio(1, ROTATE_ONE_IN) {
            let rotated = format!("{}.{}", path.display(), generations[index]);
            // It is not there before its first line.
            if files.rename(&path, rotated.as_ref()).is_ok() {
                generations[index] += 1;
            }
        }
        let file = format!("{number}/app-{index}#{}", generations[index]);
        for _ in 0..rng.gen_range(1..=LINES_MAX) {
            let val = value(number, written);
            written += 1;
            let padding = ".".repeat(rng.gen_range(0..PADDING_MAX));
            let line = format!("{file} {val} {padding}\n");
            let (first, rest) = if rng.gen_ratio(1, PARTS_ONE_IN) {
                line.split_at(rng.gen_range(0..line.len()))
            } else {
                (&line[..], "")
            };
            let t0 = shared.history.now();
            let mut outcome = files.append(&path, first.as_bytes());
            if !rest.is_empty() && outcome.is_ok() {
                sleep(Duration::from_millis(rng.gen_range(0..20))).await;
                outcome = files.append(&path, rest.as_bytes());
            }
            match outcome {
                Ok(()) => {
                    let act = Act::Line { file: file.clone(), val };
                    shared.history.add(&name, t0, Outcome::Ok, act);
                }
                Err(error) => shared.history.violation(format!("{name} cannot write: {error}")),
            }
        }
        sleep(Duration::from_millis(rng.gen_range(0..PAUSE_MS_MAX))).await;
    }
}

/// The file and value of a shipped line.
pub(crate) fn line_of(value: Option<&Bytes>) -> Option<(String, u64)> {
    let text = std::str::from_utf8(value?).ok()?;
    let mut words = text.split(' ');
    Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
}
