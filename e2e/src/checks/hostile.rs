//! Mutated frames at a live broker's socket, from frames that real clients sent.
//!
//! `data/frames.bin` was recorded by `record` from kcat, confluent-kafka, kafka-python and Kafka's tools through a proxy. Each
//! hostile frame is one of them with a few bytes changed, cut, grown or spliced, by a printed seed. The broker must answer or
//! hang up: no panic, bounded memory, and a well-behaved client is served all the while. A frame counts once the broker has
//! dealt with it: what was written behind a frame at which it hung up does not.

#![allow(clippy::print_stdout, reason = "prints what it measured")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::{Bench, numbered};
use crate::deployment::{DevJson, PATIENCE, http_get, http_status};
use crate::group::need;
use crate::kcat::{Transport, count, produce};
use crate::process::run as run_command;
use crate::programs::{Programs, repository};

/// Memory that the broker may take at its peak, in bytes.
const RSS_MAX: u64 = 96 << 20;
/// Connections at a time.
const SENDERS: u64 = 4;

/// Where the recorded frames lie: each with its length prefix, one after the other.
pub fn recording() -> PathBuf {
    repository().join("e2e/data/frames.bin")
}

/// Splits a recording into frames with their length prefixes.
pub fn split(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (prefix, _) =
            rest.split_first_chunk::<4>().context("the recording ends inside a length")?;
        let end = 4 + u32::from_be_bytes(*prefix) as usize;
        frames.push(rest.get(..end).context("the recording ends inside a frame")?.to_vec());
        rest = &rest[end..];
    }
    ensure!(!frames.is_empty(), "the recording is empty");
    Ok(frames)
}

/// SplitMix64: all that a seeded mutation needs.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// A generator whose whole sequence follows from the seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or_default()
    }
}

/// One recorded frame with one to four things wrong with it.
pub fn mutate(frames: &[Vec<u8>], seeded: &mut Seeded) -> Vec<u8> {
    let mut frame = frames[seeded.below(frames.len())].clone();
    for _ in 0..=seeded.below(4) {
        let at = 4 + seeded.below(frame.len().saturating_sub(4));
        match seeded.below(8) {
            0 => frame.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << (at % 8)),
            1 => frame
                .get_mut(at)
                .into_iter()
                .for_each(|byte| *byte = [0x00, 0x7f, 0x80, 0xff][at % 4]),
            2 => {
                let extreme = [i32::MAX, i32::MIN, -1, 1 << 24][seeded.below(4)].to_be_bytes();
                let end = (at + 4).min(frame.len());
                let start = at.min(end);
                frame[start..end].copy_from_slice(&extreme[..end - start]);
            }
            3 => frame.truncate(at.max(5)),
            4 => {
                let extra = vec![0xff; 1 + seeded.below(64)];
                frame.splice(at.min(frame.len())..at.min(frame.len()), extra);
            }
            5 => {
                let other = &frames[seeded.below(frames.len())];
                let from = 4 + seeded.below(other.len().saturating_sub(4));
                frame.truncate(at.max(5));
                frame.extend_from_slice(&other[from.min(other.len())..]);
            }
            6 if frame.len() > 8 => {
                frame[4 + seeded.below(4)] = u8::try_from(seeded.below(100)).unwrap_or_default();
            }
            _ => {
                let copied = frame[at.min(frame.len())..].to_vec();
                frame.extend_from_slice(&copied[..copied.len().min(256)]);
            }
        }
    }
    // Most frames carry a length that is true, so that they reach the decoder behind it.
    if seeded.below(16) != 0 {
        let length = u32::try_from(frame.len() - 4).unwrap_or_default();
        frame[..4].copy_from_slice(&length.to_be_bytes());
    }
    frame
}

/// What became of the frames.
#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    /// At which the broker hung up.
    refused: AtomicU64,
}

impl Tally {
    fn handled(&self) -> u64 {
        self.answered.load(Ordering::Relaxed) + self.refused.load(Ordering::Relaxed)
    }
}

/// Sends mutated frames until the broker has dealt with `frames` of them, and judges it.
pub fn run(frames: u64, seed: u64) -> Result<()> {
    need("kcat", "kcat")?;
    let corpus =
        split(&std::fs::read(recording()).with_context(|| recording().display().to_string())?)?;
    let bench = Bench::broker()?;
    let dev = bench.deployment.dev.clone();
    bench.create_topic("bystander", 1, &[])?;
    let program = Programs::built()?.path("tailway-broker")?;
    let version = run_command(std::process::Command::new(program).arg("--version"), PATIENCE)?;
    println!("{}", version.trim());
    println!("{frames} frames mutated from {} recorded ones, seed {seed}", corpus.len());
    let (done, tally, served) = (AtomicBool::new(false), Tally::default(), AtomicU64::new(0));
    let address = dev.plaintext()?;
    let begin = Instant::now();
    thread::scope(|scope| -> Result<()> {
        let bystander = scope.spawn(|| bystander(&dev, &done, &served));
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let (corpus, tally) = (&corpus, &tally);
                let mut seeded = Seeded::new(seed.wrapping_mul(1_000_003).wrapping_add(sender));
                scope.spawn(move || send(address, corpus, &mut seeded, frames, tally))
            })
            .collect();
        let mut outcome = Ok(());
        for sender in senders {
            outcome = outcome.and(sender.join().unwrap_or_else(|_| bail!("a sender panicked")));
        }
        done.store(true, Ordering::Relaxed);
        outcome.and(bystander.join().unwrap_or_else(|_| bail!("the bystander panicked")))
    })?;
    let broker = bench.deployment.process("broker")?;
    let peak = broker.peak_rss_bytes()?;
    println!(
        "{} frames answered, {} hung up on, {} rounds of a bystander served, {} s, peak RSS {} MiB",
        tally.answered.load(Ordering::Relaxed),
        tally.refused.load(Ordering::Relaxed),
        served.load(Ordering::Relaxed),
        begin.elapsed().as_secs(),
        peak >> 20
    );
    let metrics = http_get(bench.deployment.admin("broker"), "/metrics")?.1;
    let decoded = sum_of(&metrics, "tailway_broker_requests_total");
    let turned_away = sum_of(&metrics, "tailway_broker_refused_total");
    println!("the broker's own counters: {decoded} requests answered, {turned_away} refused");
    ensure!(decoded + turned_away >= frames / 2, "few frames reached a decoder:\n{metrics}");
    ensure!(!broker.printed().contains("panicked"), "the broker panicked:\n{}", broker.tail());
    ensure!(
        http_status(bench.deployment.admin("broker"), "/livez")? == 200,
        "the broker is not alive"
    );
    ensure!(served.load(Ordering::Relaxed) > 0, "no round of the bystander was complete");
    ensure!(
        peak <= RSS_MAX,
        "the broker's peak RSS is {} MiB, more than {} MiB",
        peak >> 20,
        RSS_MAX >> 20
    );
    println!("passed: no panic, peak RSS within {} MiB, alive at the end", RSS_MAX >> 20);
    bench.deployment.stop()
}

/// Produces and counts in a loop; each round must hold all that was acknowledged before.
fn bystander(dev: &DevJson, done: &AtomicBool, served: &AtomicU64) -> Result<()> {
    let mut produced = 0;
    while !done.load(Ordering::Relaxed) {
        produce(dev, Transport::Tls, "bystander", &[], &numbered(20, 30))
            .context("the bystander was not served")?;
        produced += 20;
        let held =
            count(dev, Transport::Tls, "bystander").context("the bystander was not served")?;
        ensure!(held >= produced, "the bystander's topic holds {held} of {produced} records");
        served.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// Sends frames over one connection after the other; an answer or a hang-up is as good.
fn send(
    address: &str,
    corpus: &[Vec<u8>],
    seeded: &mut Seeded,
    frames: u64,
    tally: &Tally,
) -> Result<()> {
    while tally.handled() < frames {
        let mut stream =
            TcpStream::connect(address).context("the broker no longer takes connections")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        let mut written = 0;
        for _ in 0..=seeded.below(32) {
            if stream.write_all(&mutate(corpus, seeded)).is_err() {
                break;
            }
            written += 1;
        }
        drop(stream.shutdown(Shutdown::Write));
        let mut answers = Vec::new();
        // Ends with the broker's hang-up, clean or not, or after ten silent seconds.
        drop(stream.read_to_end(&mut answers));
        let answered = count_answers(&answers).min(written);
        tally.answered.fetch_add(answered, Ordering::Relaxed);
        tally.refused.fetch_add(u64::from(answered < written), Ordering::Relaxed);
    }
    Ok(())
}

/// A counter of all labels together, from the text of `/metrics`.
fn sum_of(metrics: &str, counter: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(counter));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Whole frames in what was read.
fn count_answers(mut bytes: &[u8]) -> u64 {
    let mut count = 0;
    while let Some((prefix, rest)) = bytes.split_first_chunk::<4>()
        && let Some(rest) = rest.get(u32::from_be_bytes(*prefix) as usize..)
    {
        (bytes, count) = (rest, count + 1);
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_answers_are_counted() {
        let cases: [(&[u8], u64); 4] = [
            (&[], 0),
            (&[0, 0, 0, 1, 9], 1),
            (&[0, 0, 0, 1], 0),
            (&[0, 0, 0, 0, 0, 0, 0, 2, 1], 1),
        ];
        for (bytes, expected) in cases {
            assert_eq!(count_answers(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_frames_again() {
        let corpus = split(&std::fs::read(recording()).unwrap()).unwrap();
        let frames = |seed| {
            let mut seeded = Seeded::new(seed);
            (0..200).map(|_| mutate(&corpus, &mut seeded)).collect::<Vec<_>>()
        };
        assert_eq!(frames(7), frames(7));
        assert_ne!(frames(7), frames(8));
    }
}
