//! What reaches the shipper from everywhere else.
//!
//! The shipper blocks (it reads files), so it has a thread, and this is its one queue. Its length is
//! bounded by what may be under way: one answer per batch in flight, one per question asked, and
//! wakes that fold into one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_client::machine::pipeline::{Ack, ProducerIdentity, SequencedBatch, StopReason};
use tailway_client::resolve::Resolved;
use tailway_storage::{StorageError, Synced};

use super::topic::TopicFound;

/// A lane by its number.
pub type LaneId = usize;

/// Something the shipper should know.
#[derive(Debug)]
pub enum Message {
    /// A topic is there.
    Topic {
        name: String,
        found: TopicFound,
    },
    /// A topic cannot be looked up or created now; it is tried again.
    TopicTrouble {
        name: String,
        cause: String,
    },
    /// What became of the batches in doubt is known.
    Resolved {
        lane: LaneId,
        resolved: Resolved,
    },
    /// The topic is another one of its name, or in another cluster, than the lane's. Its pipeline
    /// has stopped.
    Moved {
        lane: LaneId,
        found: TopicFound,
    },
    /// Batches may be sent.
    Started {
        lane: LaneId,
        identity: ProducerIdentity,
    },
    /// Something is in the way of a lane and is tried again.
    LaneTrouble {
        lane: LaneId,
        cause: String,
    },
    Acked {
        lane: LaneId,
        ack: Ack,
    },
    /// The lane's pipeline gave up; `open` has no acknowledgement.
    Stopped {
        lane: LaneId,
        reason: StopReason,
        open: Vec<SequencedBatch>,
    },
    /// A request was carried out only after it had been looked for, and its records were sent anew.
    Repeated {
        lane: LaneId,
        records: i64,
    },
    /// Records were sent again, and nobody may look whether they are there twice.
    Unproven {
        lane: LaneId,
        records: i32,
        why: String,
    },
    /// The journal is durable up to a point, or will never be again.
    Synced(Result<Synced, StorageError>),
    /// Send what is there, and end within this time.
    Stop(Duration),
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Message>,
    woken: bool,
}

impl Queue {
    fn is_idle(&self) -> bool {
        self.messages.is_empty() && !self.woken
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// For a shipper that is a task.
    #[cfg(feature = "sim")]
    told: tokio::sync::Notify,
}

/// The shipper's queue. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    shared: Arc<Shared>,
}

impl Inbox {
    pub fn send(&self, message: Message) {
        self.lock().messages.push_back(message);
        self.tell();
    }

    /// Ends a wait without a message: something else changed.
    pub fn wake(&self) {
        let was_woken = std::mem::replace(&mut self.lock().woken, true);
        if !was_woken {
            self.tell();
        }
    }

    fn tell(&self) {
        self.shared.changed.notify_one();
        #[cfg(feature = "sim")]
        self.shared.told.notify_one();
    }

    /// Blocks until something has come, for `patience` at most.
    pub fn wait(&self, patience: Duration) {
        let queue = self.lock();
        if queue.is_idle() && !patience.is_zero() {
            let idle = |queue: &mut Queue| queue.is_idle();
            // Nothing is lost by a panic elsewhere: see `lock`.
            drop(self.shared.changed.wait_timeout_while(queue, patience, idle));
        }
    }

    /// As `wait`, for a shipper that is a task. It lets the others have a turn even if there is
    /// nothing to wait for, as another thread would have one.
    #[cfg(feature = "sim")]
    pub async fn wait_simulated(&self, patience: Duration) {
        let mut had_turn = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut had_turn, true) {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
        let something = async {
            while self.lock().is_idle() {
                self.shared.told.notified().await;
            }
        };
        // An end by time is as good as the other.
        drop(tokio::time::timeout(patience, something).await);
    }

    /// Everything that has come.
    pub fn take(&self) -> VecDeque<Message> {
        let mut queue = self.lock();
        queue.woken = false;
        std::mem::take(&mut queue.messages)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Messages are only pushed and taken: a panic in between leaves the queue whole.
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(cause: &str) -> Message {
        Message::TopicTrouble { name: "logs".into(), cause: cause.into() }
    }

    #[test]
    fn messages_come_in_order_and_a_wake_ends_the_wait() {
        let inbox = Inbox::default();
        inbox.send(trouble("a"));
        inbox.send(trouble("b"));
        inbox.wait(Duration::from_hours(1));
        let causes: Vec<_> = inbox.take().into_iter().collect();
        assert!(matches!(&causes[..], [
            Message::TopicTrouble { cause: a, .. },
            Message::TopicTrouble { cause: b, .. },
        ] if a == "a" && b == "b"));
        let other = inbox.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_hours(1)));
        inbox.wake();
        waiter.join().unwrap();
        assert!(inbox.take().is_empty());
    }
}
