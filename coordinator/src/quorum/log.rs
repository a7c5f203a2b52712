//! The durable Raft log over a journal: entries, votes, truncations and purges as one list of operations.
//!
//! Entries are also kept in memory, where readers find them; a snapshot every 1,000 entries keeps that small. One task
//! owns the journal ([`Writer`]): it takes what has gathered, appends it with one write, syncs once and only then calls
//! back, so appends that come together share an fsync. A purge rewrites the journal without what the snapshot has.
//!
//! Invariants: operations reach the journal in the order of the calls; a callback or a returned vote means durable; after a
//! failed write or sync nothing succeeds any more (the journal is fenced) and Raft stops.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError, Vote};
use tailway_storage::{Disk, Journal, JournalFormat, Recovery, StorageError as DiskError};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::codec::{EntryData, LogIdData, LogOp};
use super::{Entry, LogId, StorageError, TypeConfig};

const MAGIC: [u8; 8] = *b"TWRAFTLG";
const VERSION: u16 = 1;
/// A batch of a few ten thousand records fits.
const RECORD_BYTES_MAX: u32 = 64 << 20;
/// Commands that may wait for the disk; openraft waits with them.
const QUEUE: usize = 256;

/// The Raft log. Clones share it (openraft gives them to its readers).
#[derive(Clone, Debug)]
pub struct RaftLog {
    memory: Arc<Mutex<Memory>>,
    writer: mpsc::Sender<Command>,
}

/// What the journal adds up to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Memory {
    vote: Option<Vote<u64>>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    entries: BTreeMap<u64, EntryData>,
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{path}: record at byte {position} cannot be read: {cause}")]
    Record { path: String, position: u64, cause: serde_json::Error },
    #[error("{path}: entry {found} follows entry {last}: the log has a hole")]
    Hole { path: String, last: u64, found: u64 },
}

/// The task that owns the journal. It ends when the last `RaftLog` is gone.
#[derive(Debug)]
pub struct Writer {
    task: JoinHandle<()>,
    failed: watch::Receiver<Option<DiskError>>,
}

impl Writer {
    /// Tells when the log could not be written; nothing is committed from then on.
    pub fn failure(&self) -> watch::Receiver<Option<DiskError>> {
        self.failed.clone()
    }

    /// Waits until everything that was asked for is written.
    pub async fn join(self) {
        // A panic in it has been reported to Raft by the dropped callbacks.
        drop(self.task.await);
    }
}

enum Command {
    /// Append and sync, then call back.
    Append { ops: Vec<Vec<u8>>, flushed: LogFlushed<TypeConfig> },
    /// Append and sync, then answer.
    Sync { op: Vec<u8>, done: oneshot::Sender<Result<(), DiskError>> },
    /// Append; durable with the next sync.
    Note { op: Vec<u8> },
    /// Replace everything, then answer.
    Rewrite { ops: Vec<Vec<u8>>, done: oneshot::Sender<Result<(), DiskError>> },
}

impl RaftLog {
    /// Opens or makes the log at `path`. `identity` names the data directory. Blocks; needs a runtime for its task.
    pub fn open(
        disk: Arc<dyn Disk>,
        path: &Path,
        identity: [u8; 16],
    ) -> Result<(RaftLog, Writer, Recovery), OpenError> {
        let format = JournalFormat {
            magic: MAGIC,
            version: VERSION,
            identity,
            record_bytes_max: RECORD_BYTES_MAX,
        };
        let mut memory = Memory::default();
        let mut failure = None;
        let (journal, recovery) = Journal::open_with(disk, path, format, &mut |entry| {
            if failure.is_none() {
                failure = memory.replay(path, entry.position, &entry.bytes).err();
            }
        })?;
        if let Some(failure) = failure {
            return Err(failure);
        }
        let (writer, commands) = mpsc::channel(QUEUE);
        let (fail, failed) = watch::channel(None);
        let task = tailway_runtime::spawn(write_loop(journal, commands, fail));
        let log = RaftLog { memory: Arc::new(Mutex::new(memory)), writer };
        Ok((log, Writer { task, failed }, recovery))
    }

    /// The last entry that the snapshot must have.
    pub fn purged(&self) -> Option<LogId> {
        self.lock().purged
    }

    /// Forgets that this node led, as Raft wants after a restart; openraft would go on in the same term otherwise, and an
    /// entry could get the id of one that a power cut took. Returns the term; 0 in a new log.
    pub fn step_down(&self) -> u64 {
        let mut memory = self.lock();
        let Some(vote) = memory.vote else { return 0 };
        let term = vote.leader_id().get_term();
        memory.vote = vote.leader_id().voted_for().map(|node| Vote::new(term, node));
        term
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        // Nothing inside the lock panics half way through a change.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, command: Command) -> Result<(), DiskError> {
        self.writer.send(command).await.map_err(|_| ended())
    }

    /// Has `op` written and synced.
    async fn sync(&self, op: &LogOp) -> Result<(), DiskError> {
        let (done, answer) = oneshot::channel();
        self.send(Command::Sync { op: op.encode(), done }).await?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn ended() -> DiskError {
    let cause = io::Error::other("the task that writes the Raft log has ended");
    DiskError::io("write", Path::new("raft.log"), cause)
}

impl Memory {
    fn replay(&mut self, path: &Path, position: u64, bytes: &[u8]) -> Result<(), OpenError> {
        let path = || path.display().to_string();
        let op = LogOp::decode(bytes).map_err(|cause| OpenError::Record {
            path: path(),
            position,
            cause,
        })?;
        match op {
            LogOp::Vote(vote) => self.vote = Some(vote.into()),
            LogOp::Committed(id) => self.committed = id.map(LogId::from),
            LogOp::Truncate(from) => self.truncate(from),
            LogOp::Purge(id) => self.purge(id.into()),
            LogOp::Entry(entry) => {
                let found = entry.id.index;
                let last = self.last().map(|id| id.index);
                if let Some(last) = last
                    && found != last + 1
                {
                    return Err(OpenError::Hole { path: path(), last, found });
                }
                self.entries.insert(found, entry);
            }
        }
        Ok(())
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.id.into()).or(self.purged)
    }

    fn truncate(&mut self, from: u64) {
        self.entries.split_off(&from);
    }

    fn purge(&mut self, id: LogId) {
        self.entries = self.entries.split_off(&(id.index + 1));
        self.purged = Some(id);
    }

    /// The shortest list of operations that gives this.
    fn ops(&self) -> Vec<Vec<u8>> {
        let purged = self.purged.iter().map(|id| LogOp::Purge(id.into()));
        let vote = self.vote.iter().map(|vote| LogOp::Vote(vote.into()));
        let committed = self.committed.iter().map(|id| LogOp::Committed(Some(id.into())));
        let entries = self.entries.values().map(|entry| LogOp::Entry(entry.clone()));
        purged.chain(vote).chain(committed).chain(entries).map(|op| op.encode()).collect()
    }
}

impl RaftLogReader<TypeConfig> for RaftLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        Ok(self.lock().entries.range(bounds).map(|(_, entry)| entry.clone().into()).collect())
    }
}

/// `BTreeMap::range` panics on these.
fn is_empty(bounds: (Bound<u64>, Bound<u64>)) -> bool {
    let (
        Bound::Included(start) | Bound::Excluded(start),
        Bound::Included(end) | Bound::Excluded(end),
    ) = bounds
    else {
        return false;
    };
    let both_included = matches!(bounds, (Bound::Included(_), Bound::Included(_)));
    start > end || (start == end && !both_included)
}

impl RaftLogStorage<TypeConfig> for RaftLog {
    type LogReader = RaftLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let memory = self.lock();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last() })
    }

    async fn get_log_reader(&mut self) -> RaftLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote<u64>) -> Result<(), StorageError> {
        self.lock().vote = Some(*vote);
        let op = LogOp::Vote(vote.into());
        if tailway_faults::is_planted("coordinator.vote_not_synced") {
            return self.send(Command::Note { op: op.encode() }).await.map_err(|e| write_error(&e));
        }
        self.sync(&op).await.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote<u64>>, StorageError> {
        Ok(self.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.lock().committed = committed;
        let op = LogOp::Committed(committed.as_ref().map(LogIdData::from)).encode();
        self.send(Command::Note { op }).await.map_err(|error| write_error(&error))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<EntryData> = entries.into_iter().map(|e| EntryData::from(&e)).collect();
        let ops = entries.iter().map(|entry| LogOp::Entry(entry.clone()).encode()).collect();
        self.lock().entries.extend(entries.into_iter().map(|entry| (entry.id.index, entry)));
        let command = Command::Append { ops, flushed: callback };
        self.send(command).await.map_err(|error| write_error(&error))
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.lock().truncate(log_id.index);
        self.sync(&LogOp::Truncate(log_id.index)).await.map_err(|error| write_error(&error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let ops = {
            let mut memory = self.lock();
            memory.purge(log_id);
            memory.ops()
        };
        let (done, answer) = oneshot::channel();
        let sent = self.send(Command::Rewrite { ops, done }).await;
        let outcome = match sent {
            Ok(()) => answer.await.unwrap_or_else(|_| Err(ended())),
            Err(error) => Err(error),
        };
        outcome.map_err(|error| write_error(&error))
    }
}

fn write_error(error: &DiskError) -> StorageError {
    StorageIOError::write_logs(AnyError::new(error)).into()
}

/// Takes what has gathered, has it written and synced where blocking is allowed, and answers.
async fn write_loop(
    mut journal: Journal,
    mut commands: mpsc::Receiver<Command>,
    fail: watch::Sender<Option<DiskError>>,
) {
    let mut gathered = Vec::new();
    while commands.recv_many(&mut gathered, QUEUE).await > 0 {
        let commands = std::mem::take(&mut gathered);
        let work = move || {
            let outcome = write(&mut journal, commands);
            (journal, outcome)
        };
        // A panic in there has dropped the callbacks, which tells Raft.
        let Ok((back, outcome)) = tailway_runtime::spawn_blocking(work).await else { return };
        journal = back;
        if let Err(error) = outcome {
            fail.send_replace(Some(error));
        }
    }
    // Notes at the very end; losing them is allowed, keeping them spares a replay.
    let last = tailway_runtime::spawn_blocking(move || journal.sync()).await;
    if let Ok(Err(error)) = last {
        tracing::debug!(%error, "the last notes of the Raft log are not synced");
    }
}

/// The first failure, if there was one.
fn write(journal: &mut Journal, commands: Vec<Command>) -> Result<(), DiskError> {
    let mut outcome = Ok(());
    let mut group = Vec::new();
    for command in commands {
        if let Command::Rewrite { ops, done } = command {
            outcome = outcome.and(commit(journal, std::mem::take(&mut group)));
            // The caller may have been cancelled; the journal is as asked either way.
            tailway_faults::crash("coordinator.purge.before");
            drop(done.send(journal.rewrite(&ops).map(drop)));
            tailway_faults::crash("coordinator.purge.after");
        } else {
            group.push(command);
        }
    }
    outcome.and(commit(journal, group))
}

/// One write, one sync (unless there are only notes), then the answers.
fn commit(journal: &mut Journal, group: Vec<Command>) -> Result<(), DiskError> {
    let ops: Vec<&[u8]> = group.iter().flat_map(Command::ops).collect();
    if ops.is_empty() {
        return Ok(());
    }
    let entries_wait = !tailway_faults::is_planted("coordinator.entry_acked_before_sync");
    let only_notes = group.iter().all(|command| match command {
        Command::Note { .. } => true,
        Command::Append { .. } => !entries_wait,
        Command::Sync { .. } | Command::Rewrite { .. } => false,
    });
    let written = journal.append_many(&ops).map(drop);
    let outcome = if only_notes { written } else { written.and_then(|()| journal.sync()) };
    if let Err(error) = &outcome {
        tracing::error!(%error, "the Raft log cannot be written: nothing is committed from here on");
    }
    tailway_faults::crash("coordinator.ack.before");
    for command in group {
        match command {
            Command::Append { flushed, .. } => {
                flushed.log_io_completed(outcome.clone().map_err(io::Error::other));
            }
            Command::Sync { done, .. } => drop(done.send(outcome.clone())),
            Command::Note { .. } | Command::Rewrite { .. } => {}
        }
    }
    tailway_faults::crash("coordinator.ack.after");
    outcome
}

impl Command {
    fn ops(&self) -> Vec<&[u8]> {
        match self {
            Command::Append { ops, .. } | Command::Rewrite { ops, .. } => {
                ops.iter().map(Vec::as_slice).collect()
            }
            Command::Sync { op, .. } | Command::Note { op } => vec![op],
        }
    }
}
