//! One direction of a simulated connection: bytes with the time at which they arrive.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tailway_runtime::sim::HostId;
use tokio::time::Instant;

use super::{Link, WINDOW_BYTES};

/// Whose words a direction carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// Those of the host that dialed.
    Requests,
    Answers,
}

/// A direction, shared by its two ends and by whoever makes it fail.
#[derive(Debug)]
pub(super) struct SharedPipe {
    pub(super) from: HostId,
    pub(super) to: HostId,
    pub(super) way: Way,
    /// Of the connection: later ones have greater numbers.
    pub(super) number: u64,
    pipe: Mutex<Pipe>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each fault may strike whatever the others do")]
pub(super) struct Pipe {
    pub(super) link: Link,
    /// No bytes at all mean the end of the stream.
    segments: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_due: Instant,
    /// Nothing arrives before this.
    stalled_until: Option<Instant>,
    /// The next write is lost, and the connection with it.
    loses_next: bool,
    /// The writer has given the connection up; what it wrote is still under way.
    abandoned: bool,
    /// It was told that something arrived after that.
    told_late: bool,
    broken: bool,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a reader finds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    Bytes(Bytes),
    End,
    Broken,
    /// Something comes at that time.
    Later(Instant),
    Nothing,
}

impl SharedPipe {
    pub(super) fn lock(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    pub(super) fn shared(
        (from, to): (HostId, HostId),
        (way, number): (Way, u64),
        link: Link,
    ) -> Arc<SharedPipe> {
        let pipe = Pipe {
            link,
            segments: VecDeque::new(),
            bytes: 0,
            last_due: Instant::now(),
            stalled_until: None,
            loses_next: false,
            abandoned: false,
            told_late: false,
            broken: false,
            closed: false,
            reader: None,
            writer: None,
        };
        Arc::new(SharedPipe { from, to, way, number, pipe: Mutex::new(pipe) })
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Room for more bytes.
    pub(super) fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.bytes)
    }

    pub(super) fn wait_for_room(&mut self, waker: Waker) {
        self.writer = Some(waker);
    }

    pub(super) fn wait_for_bytes(&mut self, waker: Waker) {
        self.reader = Some(waker);
    }

    /// Sends bytes on their way; they arrive after those before them.
    pub(super) fn send(&mut self, bytes: Bytes, delay: Duration) {
        if self.closed {
            return;
        }
        self.closed = bytes.is_empty();
        self.last_due = self.last_due.max(Instant::now() + delay);
        self.bytes += bytes.len();
        self.segments.push_back((self.last_due, bytes));
        wake(&mut self.reader);
    }

    /// What has arrived, `most` bytes of it.
    pub(super) fn take(&mut self, most: usize) -> Found {
        if self.broken {
            return Found::Broken;
        }
        let Some((due, bytes)) = self.segments.front_mut() else { return Found::Nothing };
        if self.link.cut {
            return Found::Nothing;
        }
        let due = self.stalled_until.map_or(*due, |until| until.max(*due));
        if due > Instant::now() {
            return Found::Later(due);
        }
        if bytes.is_empty() {
            return Found::End;
        }
        let taken = bytes.split_to(most.min(bytes.len()));
        if bytes.is_empty() {
            self.segments.pop_front();
        }
        self.bytes -= taken.len();
        wake(&mut self.writer);
        Found::Bytes(taken)
    }

    /// Whether something was sent that nobody has read.
    pub(super) fn has_unread(&self) -> bool {
        self.bytes > 0
    }

    pub(super) fn set_cut(&mut self, cut: bool) {
        self.link.cut = cut;
        if !cut {
            wake(&mut self.reader);
        }
    }

    /// Holds everything back until `until`; with `None` all that waited arrives.
    pub(super) fn stall(&mut self, until: Option<Instant>) {
        self.stalled_until = until;
        wake(&mut self.reader);
    }

    pub(super) fn lose_next(&mut self) {
        self.loses_next = true;
    }

    pub(super) fn loses_next(&self) -> bool {
        self.loses_next
    }

    /// The writer is gone, and what it wrote arrives all the same.
    pub(super) fn abandon(&mut self) {
        self.abandoned = true;
    }

    /// Whether bytes that were taken just now are the first that arrive after the writer has gone.
    pub(super) fn is_late(&mut self) -> bool {
        self.abandoned && !std::mem::replace(&mut self.told_late, true)
    }

    /// Loses what is under way, which it says whether there was, and fails both ends.
    pub(super) fn reset(&mut self) -> bool {
        let lost = self.bytes > 0;
        self.broken = true;
        self.segments.clear();
        self.bytes = 0;
        wake(&mut self.reader);
        wake(&mut self.writer);
        lost
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
