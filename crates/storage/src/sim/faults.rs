//! What goes wrong on a simulated disk: by chance, on order, and when the power goes.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::trace::Operation;
use crate::seed::Seed;

/// What goes wrong by chance, in chances per million calls. The default is a disk that is well. May be changed at any
/// time (`SimDisk::set_faults`); the seed is the disk's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SimFaults {
    /// Only what lies below this path goes wrong, and only there do writes land that go astray; an empty path is
    /// everything.
    pub under: PathBuf,
    /// EIO, nothing read.
    pub read_error: u32,
    /// EIO after a part was written.
    pub write_error: u32,
    /// EIO, the length unchanged.
    pub set_len_error: u32,
    /// EIO, and what was pending is partly on the platter and otherwise forgotten, though the cache still shows it: the
    /// next sync has nothing to do and succeeds (Linux; the PostgreSQL fsync errors of 2018). A syncfs that fails does so to
    /// some of the files that had something pending; a later sync of one of those, and no other, tells it once more.
    pub sync_error: u32,
    /// EIO, the changes still pending.
    pub sync_dir_error: u32,
    /// EIO of a create, rename or remove that is not done.
    pub name_error: u32,
    /// A write that is said to be done and never reaches the platter; its length does.
    pub phantom_write: u32,
    /// A write that reaches the platter over other durable bytes, of the same file or another, a number of sectors off.
    pub misdirected_write: u32,
}

impl SimFaults {
    fn error_chance(&self, operation: Operation) -> u32 {
        match operation {
            Operation::Read => self.read_error,
            Operation::Write => self.write_error,
            Operation::SetLen => self.set_len_error,
            Operation::SyncData | Operation::SyncFilesystem => self.sync_error,
            Operation::SyncDir => self.sync_dir_error,
            Operation::Create | Operation::Rename | Operation::Remove => self.name_error,
            Operation::Open | Operation::Lock => 0,
        }
    }
}

/// What can go wrong once, on order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimFault {
    /// A call fails with this error, as `SimFaults` says for each.
    Fail(Operation, io::ErrorKind),
    /// A write is lost without a word.
    PhantomWrite,
    /// A write lands elsewhere.
    MisdirectedWrite,
}

impl SimFault {
    fn operation(self) -> Operation {
        match self {
            SimFault::Fail(operation, _) => operation,
            SimFault::PhantomWrite | SimFault::MisdirectedWrite => Operation::Write,
        }
    }
}

/// What one call meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strike {
    None,
    Error(Failure),
    Phantom,
    Misdirected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// As ordered.
    Kind(io::ErrorKind),
    InputOutput,
    /// The power goes while it is under way.
    PowerCut,
}

impl Failure {
    pub(super) fn error(self) -> io::Error {
        match self {
            Failure::Kind(kind) => kind.into(),
            Failure::InputOutput => rustix::io::Errno::IO.into(),
            Failure::PowerCut => power_is_off(),
        }
    }
}

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("the power is off")
}

#[derive(Debug)]
pub(super) struct Faults {
    pub(super) plan: SimFaults,
    pub(super) seed: Seed,
    counts: BTreeMap<Operation, u64>,
    /// Operations that change the disk.
    total: u64,
    armed: Vec<Armed>,
    power_off_at: Option<u64>,
    is_off: bool,
}

#[derive(Debug)]
struct Armed {
    fault: SimFault,
    /// 1 is the next one.
    countdown: u64,
}

impl Faults {
    pub(super) fn new(seed: u64) -> Faults {
        let (plan, counts, armed) = Default::default();
        let seed = Seed::new(seed);
        Faults { plan, seed, counts, total: 0, armed, power_off_at: None, is_off: false }
    }

    pub(super) fn arm(&mut self, fault: SimFault, nth: u64) {
        self.armed.push(Armed { fault, countdown: nth });
    }

    pub(super) fn disarm_all(&mut self) {
        self.armed.clear();
        if !self.is_off {
            self.power_off_at = None;
        }
    }

    pub(super) fn power_off_after(&mut self, count: u64) {
        self.power_off_at = Some(self.total + count);
    }

    pub(super) fn power_on(&mut self) {
        self.power_off_at = None;
        self.is_off = false;
    }

    pub(super) fn is_off(&self) -> bool {
        self.is_off
    }

    pub(super) fn count(&self, operation: Operation) -> u64 {
        self.counts.get(&operation).copied().unwrap_or(0)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Counts the call and says what it meets.
    pub(super) fn strike(&mut self, operation: Operation, path: &Path) -> Strike {
        *self.counts.entry(operation).or_default() += 1;
        if operation.changes_disk() {
            self.total += 1;
            if self.power_off_at.is_some_and(|at| self.total > at) {
                self.is_off = true;
                return Strike::Error(Failure::PowerCut);
            }
        }
        if let Some(fault) = self.take_armed(operation) {
            return match fault {
                SimFault::Fail(_, kind) => Strike::Error(Failure::Kind(kind)),
                SimFault::PhantomWrite => Strike::Phantom,
                SimFault::MisdirectedWrite => Strike::Misdirected,
            };
        }
        if !path.starts_with(&self.plan.under) {
            return Strike::None;
        }
        if self.happens(self.plan.error_chance(operation)) {
            return Strike::Error(Failure::InputOutput);
        }
        if operation == Operation::Write {
            if self.happens(self.plan.phantom_write) {
                return Strike::Phantom;
            }
            if self.happens(self.plan.misdirected_write) {
                return Strike::Misdirected;
            }
        }
        Strike::None
    }

    /// All that are armed for the operation count down; the first that is due bites.
    fn take_armed(&mut self, operation: Operation) -> Option<SimFault> {
        let mut due = None;
        self.armed.retain_mut(|armed| {
            if armed.fault.operation() != operation {
                return true;
            }
            armed.countdown = armed.countdown.saturating_sub(1);
            if armed.countdown == 0 {
                due = due.or(Some(armed.fault));
            }
            armed.countdown > 0
        });
        due
    }

    fn happens(&mut self, per_million: u32) -> bool {
        per_million > 0 && self.seed.below(1_000_000) < u64::from(per_million)
    }
}
