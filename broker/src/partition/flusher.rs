//! Group commit: one flusher per data directory makes dirty partitions durable.
//!
//! While one group is being synced, the partitions that get dirty gather in the queue and form the next group; within a
//! partition everything appended in the meantime is covered by one sync. A group is spread over a few threads, because
//! parallel fdatasyncs share the file system's own commits.
//! Invariants: each job is run once and answered once; nothing is retried.

use tailway_daemon::tasks::{Group, Stop};
use tailway_storage::StorageError;
use tokio::sync::{mpsc, oneshot};

use crate::log::FlushJob;

/// Syncs in flight at once.
const THREADS_MAX: usize = 16;

/// Jobs in one commit group, and jobs that wait for the next.
const GROUP_MAX: usize = 1024;

/// How a flush ended.
pub(super) type Flushed = Result<(), StorageError>;

struct Request {
    job: FlushJob,
    done: oneshot::Sender<Flushed>,
}

/// The way to the flusher.
#[derive(Clone)]
pub(super) struct Flusher {
    requests: mpsc::Sender<Request>,
}

impl Flusher {
    /// Starts the flusher as a task of `tasks`. It ends when the last `Flusher` is gone or the group stops.
    pub(super) fn start(tasks: &Group) -> Self {
        let (requests, queue) = mpsc::channel(GROUP_MAX);
        tasks.spawn("flusher", |stop| run(queue, stop));
        Self { requests }
    }

    /// Queues a job. The receiver fails only if the flusher is gone.
    pub(super) async fn flush(&self, job: FlushJob) -> oneshot::Receiver<Flushed> {
        let (done, answer) = oneshot::channel();
        // If the flusher is gone, so is `done`, and the receiver says so.
        self.requests.send(Request { job, done }).await.ok();
        answer
    }
}

async fn run(mut queue: mpsc::Receiver<Request>, mut stop: Stop) {
    let mut group = Vec::new();
    loop {
        let count = tokio::select! {
            biased;
            () = stop.requested() => return,
            count = queue.recv_many(&mut group, GROUP_MAX) => count,
        };
        if count == 0 {
            return;
        }
        let share = group.len().div_ceil(THREADS_MAX);
        let mut threads = Vec::with_capacity(THREADS_MAX);
        while !group.is_empty() {
            let rest = group.split_off(share.min(group.len()));
            let mine = std::mem::replace(&mut group, rest);
            threads.push(tailway_runtime::spawn_blocking(move || {
                for Request { job, done } in mine {
                    // Nobody waits any more if the partition was deleted meanwhile.
                    done.send(job.run()).ok();
                }
            }));
        }
        for thread in threads {
            // A panic has dropped the answers of its jobs, which fails their partitions.
            thread.await.ok();
        }
    }
}
