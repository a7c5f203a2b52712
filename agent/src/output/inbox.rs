//! What reaches the shipper's thread from everywhere else.
//!
//! The shipper blocks (it reads files), so it is a thread, and this is its one queue. Its length is
//! bounded by what may be under way: one answer per batch in flight, one per question asked, and
//! wakes that fold into one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_client::machine::pipeline::{Ack, SequencedBatch, StopReason};
use tailway_storage::{StorageError, Synced};

use super::link::Began;
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
    /// What was in doubt is resolved, and batches may be sent.
    Began {
        lane: LaneId,
        began: Began,
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
    /// A request of the process before this one was carried out only after it had been looked for.
    Repeated {
        lane: LaneId,
        records: i64,
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

/// The shipper's queue. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Inbox {
    shared: Arc<(Mutex<Queue>, Condvar)>,
}

impl Inbox {
    pub fn send(&self, message: Message) {
        self.lock().messages.push_back(message);
        self.shared.1.notify_one();
    }

    /// Ends a wait without a message: something else changed.
    pub fn wake(&self) {
        let mut queue = self.lock();
        if !queue.woken {
            queue.woken = true;
            self.shared.1.notify_one();
        }
    }

    /// Everything that has come, after waiting for it for `patience` at most.
    pub fn take(&self, patience: Duration) -> VecDeque<Message> {
        let mut queue = self.lock();
        if queue.messages.is_empty() && !queue.woken && !patience.is_zero() {
            let idle = |queue: &mut Queue| queue.messages.is_empty() && !queue.woken;
            let waited = self.shared.1.wait_timeout_while(queue, patience, idle);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.woken = false;
        std::mem::take(&mut queue.messages)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Messages are only pushed and taken: a panic in between leaves the queue whole.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let causes: Vec<_> = inbox.take(Duration::from_hours(1)).into_iter().collect();
        assert!(matches!(&causes[..], [
            Message::TopicTrouble { cause: a, .. },
            Message::TopicTrouble { cause: b, .. },
        ] if a == "a" && b == "b"));
        let other = inbox.clone();
        let waiter = std::thread::spawn(move || other.take(Duration::from_hours(1)).len());
        inbox.wake();
        assert_eq!(waiter.join().unwrap(), 0);
        assert!(inbox.take(Duration::ZERO).is_empty());
    }
}
