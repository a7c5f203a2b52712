//! Numbered log lines: a writer that rotates as logrotate's `create` does, and the verdict on what came out.
//!
//! A line is `<file> <generation> <number> <filler>`; numbers rise by one per file over all its generations, so that loss,
//! repetition and disorder each show without a second source of truth.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many files, named `app-0.log`, `app-1.log` ...
    pub files: usize,
    /// Lines in all, spread evenly.
    pub lines: usize,
    /// Lines of one file between two rotations.
    pub rotate_every: usize,
    /// Pause after each round of one chunk per file.
    pub pause: Duration,
    /// Lines per chunk.
    pub chunk: usize,
}

struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    generation: usize,
    number: usize,
}

/// Writes all lines; returns when the last is in its file.
pub fn write(dir: &Path, plan: Plan) -> Result<()> {
    fs::create_dir_all(dir)?;
    let mut outputs = Vec::new();
    for index in 0..plan.files {
        let path = dir.join(format!("app-{index}.log"));
        outputs.push(Output { file: open(&path)?, path, generation: 0, number: 0 });
    }
    let each = plan.lines / plan.files;
    while outputs.iter().any(|output| output.number < each) {
        for (index, output) in outputs.iter_mut().enumerate() {
            for _ in 0..plan.chunk.min(each - output.number) {
                writeln!(output.file, "{}", line(index, output.generation, output.number))?;
                output.number += 1;
                if output.number % plan.rotate_every == 0 && output.number < each {
                    rotate(output)?;
                }
            }
            output.file.flush()?;
        }
        sleep(plan.pause);
    }
    Ok(())
}

/// The text of one line, without its end.
pub fn line(file: usize, generation: usize, number: usize) -> String {
    format!("{file} {generation} {number} {}", "x".repeat(number % 120))
}

fn open(path: &Path) -> Result<BufWriter<File>> {
    Ok(BufWriter::new(
        File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| path.display().to_string())?,
    ))
}

/// `app-0.log` becomes `app-0.log.N`, and a new `app-0.log` is created.
fn rotate(output: &mut Output) -> Result<()> {
    output.file.flush()?;
    output.generation += 1;
    fs::rename(&output.path, output.path.with_extension(format!("log.{}", output.generation)))?;
    output.file = open(&output.path)?;
    Ok(())
}

/// What a reader of the topic found, compared with what was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    pub read: usize,
    pub lost: usize,
    pub repeated: usize,
    pub foreign: usize,
    /// Neighbours of one file generation that came in the wrong order.
    pub disordered: usize,
}

/// Judges messages one by one, in the order in which a consumer saw them: in order within a partition is enough, because a
/// file generation stays in one.
#[derive(Debug)]
pub struct Judge {
    /// How often each number of each file was seen.
    seen: Vec<Vec<u32>>,
    newest: BTreeMap<(usize, usize), usize>,
    verdict: Verdict,
}

impl Judge {
    /// Of `lines` spread evenly over `files`.
    pub fn new(files: usize, lines: usize) -> Self {
        let seen = vec![vec![0; lines / files]; files];
        Self { seen, newest: BTreeMap::new(), verdict: Verdict::default() }
    }

    /// The next message.
    pub fn see(&mut self, message: &str) {
        self.verdict.read += 1;
        let Some((file, generation, number)) = parse(message) else {
            self.verdict.foreign += 1;
            return;
        };
        let Some(count) = self.seen.get_mut(file).and_then(|counts| counts.get_mut(number)) else {
            self.verdict.foreign += 1;
            return;
        };
        *count += 1;
        let last = self.newest.entry((file, generation)).or_insert(number);
        if number < *last {
            self.verdict.disordered += 1;
        }
        *last = (*last).max(number);
    }

    /// What it comes to.
    pub fn verdict(mut self) -> Verdict {
        for count in self.seen.iter().flatten() {
            match count {
                0 => self.verdict.lost += 1,
                more => self.verdict.repeated += *more as usize - 1,
            }
        }
        self.verdict
    }

    /// The first `max` numbers that are missing or came more than once, as `file/number xCOUNT`.
    pub fn oddities(&self, max: usize) -> Vec<String> {
        let of_file = |(file, counts): (usize, &Vec<u32>)| {
            let odd = counts.iter().enumerate().filter(|(_, count)| **count != 1);
            odd.map(|(number, count)| format!("{file}/{number} x{count}")).collect::<Vec<_>>()
        };
        self.seen.iter().enumerate().flat_map(of_file).take(max).collect()
    }
}

/// Judges messages in the order in which a consumer of one partition saw them.
pub fn judge<'a>(messages: impl Iterator<Item = &'a str>, files: usize, lines: usize) -> Verdict {
    let mut judge = Judge::new(files, lines);
    messages.for_each(|message| judge.see(message));
    judge.verdict()
}

fn parse(message: &str) -> Option<(usize, usize, usize)> {
    let mut words = message.split(' ');
    let file = words.next()?.parse().ok()?;
    let generation = words.next()?.parse().ok()?;
    let number: usize = words.next()?.parse().ok()?;
    (words.next()?.len() == number % 120).then_some((file, generation, number))
}

/// The `message` field of each ECS JSON document, one document a line.
pub fn messages(documents: &str) -> Result<Vec<String>> {
    documents.lines().map(message).collect()
}

/// The `message` field of an ECS JSON document.
pub fn message(document: &str) -> Result<String> {
    #[derive(serde::Deserialize)]
    struct Event {
        message: String,
    }
    let event: Event =
        serde_json::from_str(document).with_context(|| format!("no event: {document}"))?;
    Ok(event.message)
}

/// Every line exactly once and in order, or an error that says how it fell short.
pub fn ensure_exact(messages: &[String], files: usize, lines: usize) -> Result<()> {
    let verdict = judge(messages.iter().map(String::as_str), files, lines);
    ensure!(
        verdict == Verdict { read: lines, ..Verdict::default() },
        "{lines} lines were written; {verdict:?}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judge_names_each_way_to_fall_short() {
        let clean = ["0 0 0 ", "1 0 0 ", "0 0 1 x", "1 0 1 x"];
        let cases = [
            (clean.to_vec(), Verdict { read: 4, ..Verdict::default() }),
            (clean[..3].to_vec(), Verdict { read: 3, lost: 1, ..Verdict::default() }),
            (
                [&clean[..], &clean[3..]].concat(),
                Verdict { read: 5, repeated: 1, ..Verdict::default() },
            ),
            (
                vec![clean[2], clean[0], clean[1], clean[3]],
                Verdict { read: 4, disordered: 1, ..Verdict::default() },
            ),
            (
                [&clean[..], &["0 0 1 xx"]].concat(),
                Verdict { read: 5, foreign: 1, ..Verdict::default() },
            ),
        ];
        for (messages, expected) in cases {
            assert_eq!(judge(messages.iter().copied(), 2, 4), expected, "{messages:?}");
        }
    }

    #[test]
    fn the_writer_rotates_and_numbers_on() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan { files: 2, lines: 40, rotate_every: 8, pause: Duration::ZERO, chunk: 3 };
        write(dir.path(), plan).unwrap();
        let mut all = Vec::new();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            all.extend(fs::read_to_string(path).unwrap().lines().map(str::to_owned));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
        ensure_exact(&all, 2, 40).unwrap();
    }
}
