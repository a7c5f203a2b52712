//! What goes into and comes out of a forwarding cursor.
//!
//! Contents stay with the driver: here a record is its offset and its size.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Bounds of one cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Nothing is sent at or above the committed offset plus this: what an earlier run may have sent is below that.
    pub window: i64,
    /// Bytes of records held before nothing more is read.
    pub buffer_bytes: usize,
    /// One request holds at most so many bytes (or a single larger record) and records.
    pub batch_bytes: usize,
    pub batch_records: usize,
    /// Requests under way at once.
    pub in_flight_max: usize,
    /// One request at a time, and none while a record below it is not done; what is in doubt is read before it is looked up.
    pub is_ordered: bool,
    /// Whether the sink can be asked which records it has.
    pub looks_up: bool,
    /// So many records refused in an unbroken run are taken for a wrong setup rather than for wrong records.
    pub rejects_in_a_row_max: u32,
    pub commit_interval: Duration,
    /// Pauses after failures: the first, and the longest.
    pub backoff_first: Duration,
    pub backoff_cap: Duration,
}

/// A request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// A record as the cursor knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub offset: i64,
    /// Bytes that it takes in a request.
    pub bytes: usize,
}

/// Why the sink refuses one record for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The sink's status, as HTTP's 400.
    pub status: u16,
    /// The sink's name for it, as `mapper_parsing_exception`.
    pub kind: String,
    pub reason: String,
}

/// What has to be mended before anything more can be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseKind {
    /// The credentials are refused.
    Credentials,
    /// The target is not there, or not what the configuration says.
    Target,
    /// The target takes no writes: a block, a closed index, a limit of shards.
    Blocked,
    /// One record after the other is refused.
    Rejects,
    /// An answer that nothing is known of.
    Unknown,
}

impl fmt::Display for PauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials => "credentials",
            Self::Target => "target",
            Self::Blocked => "blocked",
            Self::Rejects => "rejects",
            Self::Unknown => "unknown",
        })
    }
}

/// A pause and what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub kind: PauseKind,
    pub cause: Arc<str>,
}

/// What became of one record of a request that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// It is there: now, or since an earlier attempt.
    Done,
    /// The sink is busy. `doubtful`: it may have taken it all the same.
    Again { doubtful: bool },
    /// No attempt can succeed.
    Rejected(Arc<Rejection>),
    /// Nothing is wrong with the record, but it cannot be written.
    Stuck(Pause),
}

/// Why a request has no answer for its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing of it can have arrived.
    Unsent { cause: Arc<str> },
    /// Some or all of it may have been done.
    Doubtful { cause: Arc<str>, retry_after: Option<Duration> },
    /// Refused as a whole, for now.
    Busy { cause: Arc<str>, retry_after: Option<Duration> },
    /// Refused as a whole for its size, or for a record in it: smaller requests tell for which.
    Split { rejection: Arc<Rejection> },
    /// Refused as a whole until something is mended.
    Pause(Pause),
}

impl Failure {
    /// What was said.
    pub fn cause(&self) -> Arc<str> {
        match self {
            Self::Unsent { cause }
            | Self::Doubtful { cause, .. }
            | Self::Busy { cause, .. }
            | Self::Pause(Pause { cause, .. }) => Arc::clone(cause),
            Self::Split { rejection } => rejection.reason.as_str().into(),
        }
    }

    /// Doubtful, with no word of when to come again.
    pub fn doubtful(cause: impl Into<Arc<str>>) -> Self {
        Self::Doubtful { cause: cause.into(), retry_after: None }
    }
}

/// What happens to a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The answer to `Action::Read`: records in order, and the offset behind them (more than the last plus one where
    /// records were compacted away).
    Read { records: Vec<Taken>, next: i64 },
    /// Records below were deleted before they were read.
    Trimmed { log_start: i64 },
    /// The answer to `Action::Send`: one item for each record, in order.
    Sent { batch: BatchId, outcome: Result<Vec<Item>, Failure> },
    /// The answer to `Action::LookUp`: for each record whether the sink has it.
    LookedUp { batch: BatchId, outcome: Result<Vec<bool>, Failure> },
    /// The answer to `Action::DeadLetter`: whether they are durable.
    DeadLettered { durable: bool },
    /// The answer to `Action::Commit`: whether it is durable.
    Committed { durable: bool },
    /// A deadline has passed.
    Tick,
    /// Nothing more is read or sent; what is answered is committed.
    Stop,
}

/// What the driver does for a cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Answer with `Event::Read` once there are records at or above `from`.
    Read {
        from: i64,
    },
    Send {
        batch: BatchId,
        offsets: Vec<i64>,
    },
    LookUp {
        batch: BatchId,
        offsets: Vec<i64>,
    },
    DeadLetter {
        records: Vec<(i64, Arc<Rejection>)>,
    },
    Commit {
        offset: i64,
    },
    /// Records below are done with.
    Forget {
        below: i64,
    },
    /// Nothing is delivered until something is mended; single attempts go on.
    Paused(Pause),
    Resumed,
}

/// Counts of what a cursor did, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub delivered: u64,
    /// Records that were sent again.
    pub retried: u64,
    pub dead: u64,
    /// Records that a lookup found, so that they were not sent again.
    pub found: u64,
}
