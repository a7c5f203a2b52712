//! The process whose logs are followed: it appends in bursts, rotates by renaming as logrotate does, and deletes files.
//!
//! What the agent promises decides what may be deleted. It reads on in a deleted file while it has it open, but a kill -9
//! closes it, and then nobody can read what was left. So a file goes only once `/status` of the agent says that all of
//! it is acknowledged; until then it stays. Two ways: the oldest rotated file is removed, or a file is removed and made anew
//! under its name, mostly with its inode.
//!
//! Lengths tell generations of a file apart in `/status`, whose paths may be a rename behind: no two generations of a file get
//! the same length.

#![allow(clippy::print_stdout, reason = "tells its parent")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::deployment::http_get;
use crate::lines;

/// Rotated files of one name that are kept; more only while the oldest is not delivered.
const KEPT: usize = 4;
/// Pauses between bursts, milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 2..40;

/// What to write.
#[derive(Clone, Debug, clap::Args)]
pub struct WriterArgs {
    #[arg(long)]
    pub dir: PathBuf,
    #[arg(long)]
    pub seed: u64,
    #[arg(long)]
    pub files: usize,
    /// In all, spread evenly.
    #[arg(long)]
    pub lines: usize,
    /// Over which they are spread.
    #[arg(long)]
    pub seconds: u64,
    /// Lines of one file between two rotations.
    #[arg(long)]
    pub rotate_every: usize,
    /// Admin address of the agent.
    #[arg(long)]
    pub agent: String,
}

/// What was done, printed as JSON at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub lines: usize,
    pub renamed: usize,
    pub recreated: usize,
    pub removed: usize,
}

struct Output {
    index: usize,
    path: PathBuf,
    file: File,
    generation: usize,
    number: usize,
    bytes: u64,
    rotate_at: usize,
    /// Complete, and to be removed and made anew once it is delivered.
    retiring: bool,
    /// Numbers and lengths of rotated files, the newest first; the number is its place in this list from 1 on.
    rotated: Vec<u64>,
    lengths: BTreeSet<u64>,
}

struct Writer {
    args: WriterArgs,
    rng: ChaCha8Rng,
    written: Written,
    asked: Instant,
}

/// Writes all lines and says what else it did, on stdout.
pub fn run(args: WriterArgs) -> Result<()> {
    fs::create_dir_all(&args.dir)?;
    let rng = ChaCha8Rng::seed_from_u64(args.seed);
    let span = Duration::from_secs(args.seconds.max(1));
    let (begin, asked) = (Instant::now(), Instant::now());
    let mut outputs =
        (0..args.files).map(|index| Output::new(index, &args)).collect::<Result<Vec<_>>>()?;
    let mut writer = Writer { args, rng, written: Written::default(), asked };
    let each = writer.args.lines / writer.args.files;
    let total = each * writer.args.files;
    while writer.written.lines < total {
        let due = total as u128 * begin.elapsed().as_millis() / span.as_millis();
        let due = usize::try_from(due).unwrap_or(total).min(total);
        let mut burst = due.saturating_sub(writer.written.lines);
        while burst > 0 {
            let at = writer.rng.gen_range(0..outputs.len());
            let before = writer.written.lines;
            writer.append(&mut outputs[at], burst, each)?;
            if writer.written.lines == before {
                break;
            }
            burst -= writer.written.lines - before;
        }
        writer.tidy_up(&mut outputs)?;
        sleep(Duration::from_millis(writer.rng.gen_range(PAUSE_MS)));
    }
    println!("{}", serde_json::to_string(&writer.written)?);
    Ok(())
}

impl Writer {
    /// At most `max` lines to one file, in one write; none while it waits to be removed, unless it waits alone.
    fn append(&mut self, output: &mut Output, max: usize, each: usize) -> Result<()> {
        if output.retiring {
            return Ok(());
        }
        let room = each.min(output.rotate_at) - output.number;
        let (max, mut text) = (max.min(room).min(self.rng.gen_range(1..400)), String::new());
        for number in output.number..output.number + max {
            text += &lines::line(output.index, output.generation, number);
            text.push('\n');
        }
        output.file.write_all(text.as_bytes())?;
        output.bytes += text.len() as u64;
        output.number += max;
        self.written.lines += max;
        if output.number < output.rotate_at || output.number == each {
            return Ok(());
        }
        if output.lengths.contains(&output.bytes) {
            output.rotate_at += 1;
            return Ok(());
        }
        output.lengths.insert(output.bytes);
        output.rotate_at +=
            self.args.rotate_every / 2 + self.rng.gen_range(0..self.args.rotate_every);
        if self.rng.gen_bool(0.3) {
            output.retiring = true;
            return Ok(());
        }
        self.written.renamed += 1;
        output.rotate()
    }

    /// Removes what is delivered, a few times a second.
    fn tidy_up(&mut self, outputs: &mut [Output]) -> Result<()> {
        let waits = |output: &Output| output.retiring || output.rotated.len() > KEPT;
        if self.asked.elapsed() < Duration::from_millis(200) || !outputs.iter().any(waits) {
            return Ok(());
        }
        self.asked = Instant::now();
        // A dead agent says nothing: then nothing is delivered yet.
        let Ok(delivered) = delivered(&self.args.agent) else { return Ok(()) };
        for output in outputs {
            let is = |path: &Path, bytes: u64| {
                delivered.iter().any(|file| {
                    file.size == bytes && file.path.starts_with(&*path.to_string_lossy())
                })
            };
            if output.retiring && is(&output.path, output.bytes) {
                output.recreate()?;
                self.written.recreated += 1;
            }
            if output.rotated.len() > KEPT
                && let Some(bytes) = output.rotated.last().copied()
                && is(&output.path, bytes)
            {
                fs::remove_file(output.place(output.rotated.len()))?;
                output.rotated.pop();
                self.written.removed += 1;
            }
        }
        Ok(())
    }
}

impl Output {
    fn new(index: usize, args: &WriterArgs) -> Result<Self> {
        let path = args.dir.join(format!("app-{index}.log"));
        Ok(Self {
            index,
            file: create(&path)?,
            path,
            generation: 0,
            number: 0,
            bytes: 0,
            rotate_at: args.rotate_every,
            retiring: false,
            rotated: Vec::new(),
            lengths: BTreeSet::new(),
        })
    }

    fn place(&self, number: usize) -> PathBuf {
        self.path.with_extension(format!("log.{number}"))
    }

    /// `app-0.log.1` becomes `app-0.log.2` and so on, then `app-0.log` becomes `app-0.log.1` and is made anew.
    fn rotate(&mut self) -> Result<()> {
        for number in (1..=self.rotated.len()).rev() {
            fs::rename(self.place(number), self.place(number + 1))?;
        }
        fs::rename(&self.path, self.place(1))?;
        self.rotated.insert(0, self.bytes);
        self.begin()
    }

    /// The same name, and where the file system gives it again the same inode.
    fn recreate(&mut self) -> Result<()> {
        fs::remove_file(&self.path)?;
        self.retiring = false;
        self.begin()
    }

    fn begin(&mut self) -> Result<()> {
        self.file = create(&self.path)?;
        self.generation += 1;
        self.bytes = 0;
        Ok(())
    }
}

fn create(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.create_new(true).append(true);
    options.open(path).with_context(|| path.display().to_string())
}

#[derive(Deserialize)]
struct Delivered {
    path: String,
    size: u64,
    acked: u64,
}

/// The files of which the agent says that all of it is acknowledged.
fn delivered(agent: &str) -> Result<Vec<Delivered>> {
    #[derive(Deserialize)]
    struct Status {
        shipper: Shipper,
    }
    #[derive(Deserialize)]
    struct Shipper {
        files: Vec<Delivered>,
    }
    let (code, body) = http_get(agent, "/status")?;
    anyhow::ensure!(code == 200, "/status answers {code}");
    let status: Status = serde_json::from_str(&body)?;
    Ok(status.shipper.files.into_iter().filter(|file| file.acked == file.size).collect())
}
