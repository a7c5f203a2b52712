//! What happened on a simulated disk: a running digest of everything, and the last lines to read.
//!
//! The digest covers each call with its path, offset, length, contents and outcome, so that two runs that differ in one
//! byte on the disk or in one read differ in it. No clock and no address goes into it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Lines kept.
const LINES_MAX: usize = 512;

/// A call to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// An open of a file that must exist.
    Open,
    /// An open that may create a file, or the making of a directory.
    Create,
    Read,
    Write,
    SetLen,
    SyncData,
    Rename,
    /// Of a file or a directory.
    Remove,
    SyncDir,
    /// Of everything.
    SyncFilesystem,
    /// The lock of a directory.
    Lock,
}

impl Operation {
    /// Whether it changes what is on the disk or what is durable.
    pub fn changes_disk(self) -> bool {
        !matches!(self, Operation::Open | Operation::Read | Operation::Lock)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Open | Operation::Create => "open",
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::SetLen => "set length of",
            Operation::SyncData => "fdatasync",
            Operation::Rename => "rename",
            Operation::Remove => "remove",
            Operation::SyncDir => "sync directory",
            Operation::SyncFilesystem => "syncfs",
            Operation::Lock => "lock",
        }
    }
}

/// What was done to or on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Call(Operation),
    /// The power was cut with this seed.
    PowerCut(u64),
    /// The program was killed.
    Killed,
    /// The durable bit at the event's offset was flipped.
    Rotted,
    /// The page cache was dropped.
    CacheDropped,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(io::ErrorKind),
    /// A write that the platter will never see.
    Phantom,
    /// A write that the platter will have elsewhere.
    Misdirected,
}

/// One line of the trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskEvent {
    /// The first of the disk is 0.
    pub number: u64,
    pub act: Act,
    /// The path as given; the root if it concerns the whole disk.
    pub path: Arc<Path>,
    /// The new name of a rename.
    pub to: Option<PathBuf>,
    pub offset: u64,
    /// Bytes asked for or given; the length that was set.
    pub bytes: u64,
    pub outcome: Outcome,
}

impl DiskEvent {
    /// The call that it was, if it was one.
    pub fn operation(&self) -> Option<Operation> {
        match self.act {
            Act::Call(operation) => Some(operation),
            Act::PowerCut(_) | Act::Killed | Act::Rotted | Act::CacheDropped => None,
        }
    }
}

impl fmt::Display for DiskEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.number)?;
        match self.act {
            Act::Call(operation) => write!(f, "{}", operation.name())?,
            Act::PowerCut(seed) => write!(f, "power cut with seed {seed}")?,
            Act::Killed => write!(f, "kill")?,
            Act::Rotted => write!(f, "rot")?,
            Act::CacheDropped => write!(f, "drop cache")?,
        }
        write!(f, " {}", self.path.display())?;
        if let Some(to) = &self.to {
            write!(f, " to {}", to.display())?;
        }
        if self.offset > 0 || self.bytes > 0 {
            write!(f, " {}+{}", self.offset, self.bytes)?;
        }
        match self.outcome {
            Outcome::Done => Ok(()),
            Outcome::Failed(kind) => write!(f, ": {kind}"),
            Outcome::Phantom => write!(f, ": phantom"),
            Outcome::Misdirected => write!(f, ": misdirected"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Trace {
    events: u64,
    digest: u64,
    lines: VecDeque<DiskEvent>,
}

impl Trace {
    /// Takes note of an event; `contents` is a checksum of what was read or written. The event with its number.
    pub(super) fn note(&mut self, mut event: DiskEvent, contents: u32) -> DiskEvent {
        event.number = self.events;
        self.events += 1;
        let (act, detail) = match event.act {
            Act::Call(operation) => (operation as u64, 0),
            Act::PowerCut(seed) => (100, seed),
            Act::Killed => (101, 0),
            Act::Rotted => (102, 0),
            Act::CacheDropped => (103, 0),
        };
        let outcome = match event.outcome {
            Outcome::Done => 0,
            Outcome::Phantom => 1,
            Outcome::Misdirected => 2,
            // The number of a kind may differ between compilers, its words do not.
            Outcome::Failed(kind) => u64::from(crc32c::crc32c(kind.to_string().as_bytes())) << 8,
        };
        let to = event.to.as_deref().map_or(0, of_path);
        let fields = [
            act,
            detail,
            of_path(&event.path),
            to,
            event.offset,
            event.bytes,
            outcome,
            u64::from(contents),
        ];
        for field in fields {
            self.digest = mix(self.digest, field);
        }
        // Reads are many, and tell little when they succeed.
        let quiet = event.act == Act::Call(Operation::Read) && event.outcome == Outcome::Done;
        if !quiet {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(event.clone());
        }
        event
    }

    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn lines(&self) -> Vec<DiskEvent> {
        self.lines.iter().cloned().collect()
    }
}

fn of_path(path: &Path) -> u64 {
    u64::from(crc32c::crc32c(path.as_os_str().as_encoded_bytes()))
}

/// One round of splitmix64.
fn mix(digest: u64, field: u64) -> u64 {
    let mut z = (digest ^ field).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
