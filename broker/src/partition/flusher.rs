//! Group commit: one flusher per file system makes dirty partitions durable.
//!
//! While a group is being synced, the partitions that get dirty gather in the queue and form the next one; within a partition
//! everything appended in the meantime is covered by one sync. When a group is closed, and whether it is synced file by file
//! or by one syncfs, is decided by `machine::commit`. Files are spread over a few threads, because parallel fdatasyncs share
//! the file system's own commits.
//! Invariants: each job is run once and answered once; nothing is retried; when one sync of a group fails, every log of that
//! group is fenced and none of it is acknowledged any more.

use std::future::{pending, poll_fn};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use tailway_daemon::clock::Clock;
use tailway_daemon::tasks::{Group, Stop};
use tailway_storage::{Fence, Filesystem, StorageError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::PartitionError;
use super::shared::Shared;
use super::space::DiskSpace;
use crate::log::FlushJob;
use crate::machine::commit::{CommitGroups, How, Next, Running};

/// Syncs in flight at once, per group.
const THREADS_MAX: usize = 16;

/// Jobs in one commit group, and jobs that wait for the next.
const GROUP_MAX: usize = 1024;

/// What the crossover is said to be where there is no syncfs.
const NO_SYNCFS: usize = usize::MAX;

/// How a flush ended.
pub(super) type Flushed = Result<(), StorageError>;

struct Request {
    job: FlushJob,
    owner: Arc<Shared>,
    done: oneshot::Sender<Flushed>,
}

/// The way to the flusher.
#[derive(Clone)]
pub(super) struct Flusher {
    requests: mpsc::Sender<Request>,
    crossover: Arc<AtomicUsize>,
}

/// What the flusher works with.
pub(super) struct Means {
    pub(super) clock: Clock,
    pub(super) data_dir: PathBuf,
    /// `None` where syncfs is not to be relied on.
    pub(super) filesystem: Option<Arc<dyn Filesystem>>,
    pub(super) space: Arc<DiskSpace>,
}

impl Flusher {
    /// Starts the flusher as a task of `tasks`. It ends when the last `Flusher` is gone or the group stops.
    pub(super) fn start(tasks: &Group, means: Means) -> Self {
        let (requests, queue) = mpsc::channel(GROUP_MAX);
        let groups = CommitGroups::new(means.filesystem.is_some())
            .with_crossover_max(tailway_faults::bound("broker.syncfs_from_files", u64::MAX));
        let crossover = Arc::new(AtomicUsize::new(groups.crossover().unwrap_or(NO_SYNCFS)));
        let work = Work { means, groups, running: Vec::new(), crossover: Arc::clone(&crossover) };
        tasks.spawn_watched("flusher", |stop| work.run(queue, stop));
        Self { requests, crossover }
    }

    /// Queues a job of this partition. The receiver fails only if the flusher is gone.
    pub(super) async fn flush(
        &self,
        job: FlushJob,
        owner: &Arc<Shared>,
    ) -> oneshot::Receiver<Flushed> {
        let (done, answer) = oneshot::channel();
        let request = Request { job, owner: Arc::clone(owner), done };
        // If the flusher is gone, so is `done`, and the receiver says so.
        self.requests.send(request).await.ok();
        answer
    }

    /// From this many dirty files on one syncfs is used, if it is.
    pub(super) fn crossover(&self) -> Option<usize> {
        let files = self.crossover.load(Ordering::Relaxed);
        (files != NO_SYNCFS).then_some(files)
    }
}

/// The task.
struct Work {
    means: Means,
    groups: CommitGroups,
    running: Vec<InFlight>,
    crossover: Arc<AtomicUsize>,
}

/// A group that is being synced.
struct InFlight {
    group: Running,
    members: Arc<Members>,
    threads: Vec<JoinHandle<Done>>,
    left: Vec<Request>,
}

/// What a thread gives back. It answers nobody itself: each answer from there would wake the runtime once more.
#[derive(Default)]
struct Done {
    answers: Vec<Answer>,
    /// What a syncfs did not cover.
    left: Vec<Request>,
}

struct Answer {
    done: oneshot::Sender<Flushed>,
    result: Flushed,
    fence: Fence,
}

impl Answer {
    /// Unless its group has failed by now. Nobody waits any more if the partition was deleted meanwhile.
    fn send(self) {
        let Answer { done, result, fence } = self;
        done.send(result.and_then(|()| fence.check())).ok();
    }
}

impl Work {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>, mut stop: Stop) {
        let mut waiting = Vec::new();
        loop {
            let next = self.groups.next(self.means.clock.mono());
            let overtake = match next {
                Next::At(at) => Some(at),
                Next::Now | Next::WhenOneEnds => None,
            };
            tokio::select! {
                biased;
                () = stop.requested() => {
                    // What runs is answered still.
                    while !self.running.is_empty() {
                        ended(&mut self.running).await;
                    }
                    return;
                }
                ended = ended(&mut self.running) => self.ended(ended),
                count = queue.recv_many(&mut waiting, GROUP_MAX), if next == Next::Now => {
                    if count == 0 {
                        return;
                    }
                    self.close(std::mem::take(&mut waiting));
                }
                () = self.means.clock.sleep_until(overtake) => {}
            }
        }
    }

    /// Closes a group and begins to sync it.
    fn close(&mut self, requests: Vec<Request>) {
        let files = requests.iter().map(|request| request.job.files()).sum();
        let group = self.groups.close(files, self.means.clock.mono());
        tailway_faults::verify(|| self.groups.check());
        let members = Arc::new(Members::of(&requests));
        let threads = match (group.how, &self.means.filesystem) {
            (How::Filesystem, Some(filesystem)) => {
                let (filesystem, members) = (Arc::clone(filesystem), Arc::clone(&members));
                vec![tailway_runtime::spawn_blocking(move || {
                    sync_at_once(filesystem.as_ref(), &members, requests)
                })]
            }
            _ => self.sync_each(&members, requests),
        };
        self.running.push(InFlight { group, members, threads, left: Vec::new() });
    }

    fn sync_each(
        &self,
        members: &Arc<Members>,
        mut requests: Vec<Request>,
    ) -> Vec<JoinHandle<Done>> {
        let share = requests.len().div_ceil(THREADS_MAX).max(1);
        let mut threads = Vec::with_capacity(THREADS_MAX);
        while !requests.is_empty() {
            let rest = requests.split_off(share.min(requests.len()));
            let mine = std::mem::replace(&mut requests, rest);
            let (members, space) = (Arc::clone(members), Arc::clone(&self.means.space));
            threads.push(tailway_runtime::spawn_blocking(move || {
                let answers = mine.into_iter().map(|request| run(request, &members, &space));
                Done { answers: answers.collect(), left: Vec::new() }
            }));
        }
        threads
    }

    fn ended(&mut self, mut group: InFlight) {
        let left = std::mem::take(&mut group.left);
        if !left.is_empty() {
            group.threads = self.sync_each(&group.members, left);
            self.running.push(group);
            return;
        }
        if group.members.syncfs_failed.load(Ordering::Acquire)
            && !tailway_faults::is_planted("broker.syncfs_used_after_error")
        {
            tracing::error!(data_dir = %self.means.data_dir.display(), "after a failed syncfs every file is synced by itself until the broker is restarted");
            self.groups.syncfs_failed();
        }
        self.groups.ended(group.group, self.means.clock.mono());
        let crossover = self.groups.crossover().unwrap_or(NO_SYNCFS);
        self.crossover.store(crossover, Ordering::Relaxed);
    }
}

/// The next group whose threads have all ended; for ever if none runs.
async fn ended(running: &mut Vec<InFlight>) -> InFlight {
    if running.is_empty() {
        return pending().await;
    }
    poll_fn(|context| {
        for at in 0..running.len() {
            let InFlight { threads, left, .. } = &mut running[at];
            threads.retain_mut(|thread| match Pin::new(thread).poll(context) {
                Poll::Pending => true,
                Poll::Ready(done) => {
                    // A panic has dropped the answers of its jobs, which fails their partitions.
                    let done = done.unwrap_or_default();
                    done.answers.into_iter().for_each(Answer::send);
                    left.extend(done.left);
                    false
                }
            });
            if threads.is_empty() {
                return Poll::Ready(running.swap_remove(at));
            }
        }
        Poll::Pending
    })
    .await
}

/// One syncfs for all; what it did not cover is given back.
fn sync_at_once(filesystem: &dyn Filesystem, members: &Members, requests: Vec<Request>) -> Done {
    let mut synced = Done::default();
    let result = filesystem.sync();
    let failure =
        result.err().filter(|_| !tailway_faults::is_planted("broker.syncfs_error_ignored"));
    if let Some(error) = &failure {
        members.syncfs_failed.store(true, Ordering::Release);
        members.fail(error);
    }
    for Request { job, owner, done } in requests {
        let fence = job.fence().clone();
        if let Some(error) = &failure {
            synced.answers.push(Answer { done, result: Err(error.clone()), fence });
            continue;
        }
        // A directory may lead to another file system, which was not synced.
        if owner.is_elsewhere() {
            synced.left.push(Request { job, owner, done });
            continue;
        }
        match job.after_filesystem_sync() {
            Some(job) => synced.left.push(Request { job, owner, done }),
            None => synced.answers.push(Answer { done, result: Ok(()), fence }),
        }
    }
    synced
}

/// Runs one job.
fn run(request: Request, members: &Members, space: &DiskSpace) -> Answer {
    let Request { job, done, .. } = request;
    let fence = job.fence().clone();
    let result = job.run(|| space.make_room());
    if let Err(error) = &result {
        members.fail(error);
    }
    Answer { done, result, fence }
}

/// The logs of one group.
struct Members {
    owners: Vec<(Fence, Arc<Shared>)>,
    failed: AtomicBool,
    syncfs_failed: AtomicBool,
}

impl Members {
    fn of(requests: &[Request]) -> Self {
        let owners = requests
            .iter()
            .map(|request| (request.job.fence().clone(), Arc::clone(&request.owner)))
            .collect();
        let (failed, syncfs_failed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { owners, failed, syncfs_failed }
    }

    /// Fences them all. Their owners may have been answered, or be waiting: neither acknowledges anything any more.
    fn fail(&self, error: &StorageError) {
        if self.failed.swap(true, Ordering::AcqRel)
            || tailway_faults::is_planted("broker.group_fenced_singly")
        {
            return;
        }
        let cause: Arc<str> = error.to_string().into();
        let mut names = Vec::new();
        for (fence, owner) in &self.owners {
            fence.trip(Path::new(&owner.topic_partition.to_string()), error);
            if owner.fail(PartitionError::Storage { cause: Arc::clone(&cause) }) {
                names.push(owner.topic_partition.to_string());
            }
        }
        let (count, names) = (names.len(), names.join(", "));
        tracing::error!(count, partitions = %names, error = %cause, "a write or sync failed: the partitions of this commit group take no more records; look for the disk's errors in the kernel's log, then restart the broker, which reads again what the disk has");
    }
}
