//! What the simulated clients saw, for the checker, and what must not be, as it is found.
//!
//! A send has its place in the history from the moment it is made, as unknown: a client that is killed leaves it so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use tailway_history::{Act, Event, Outcome};
use tailway_runtime::sim::note;
use tokio::time::Instant;

/// Bytes of a payload before its padding: value and CRC-32C.
const PAYLOAD_HEAD: usize = 12;

/// Shared by all clients of a run.
#[derive(Clone, Debug)]
pub(crate) struct History {
    begun: Instant,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Debug, Default)]
struct Seen {
    events: Vec<Event>,
    violations: Vec<String>,
    /// Events of the run until the first violation.
    found_at: Option<u64>,
    /// Sends without an answer, by process.
    open: BTreeMap<String, usize>,
}

/// The place of an event in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EventAt(usize);

impl History {
    pub(crate) fn new() -> History {
        History { begun: Instant::now(), seen: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the begin.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn send(&self, proc: &str, tp: String, val: u64) -> EventAt {
        *self.lock().open.entry(proc.to_owned()).or_default() += 1;
        self.begin(proc, Act::Send { tp, off: None, val, idempotent: true })
    }

    /// How a send ended.
    pub(crate) fn sent(&self, at: EventAt, outcome: Outcome, offset: Option<u64>) {
        let mut guard = self.lock();
        let seen = &mut *guard;
        if let Some(event) = seen.events.get_mut(at.0) {
            if let Some(open) = seen.open.get_mut(&event.proc) {
                *open -= 1;
            }
            if let Act::Send { off, .. } = &mut event.act {
                *off = offset;
            }
        }
        drop(guard);
        self.end(at, outcome);
    }

    /// Adds an event that begins now and whose end is not known: a client that is killed leaves it so.
    pub(crate) fn begin(&self, proc: &str, act: Act) -> EventAt {
        let (t0, mut seen) = (self.now(), self.lock());
        seen.events.push(Event { proc: proc.to_owned(), t0, t1: t0, outcome: Outcome::Info, act });
        EventAt(seen.events.len() - 1)
    }

    /// How an event ended that had begun.
    pub(crate) fn end(&self, at: EventAt, outcome: Outcome) {
        let (now, mut seen) = (self.now(), self.lock());
        if let Some(event) = seen.events.get_mut(at.0) {
            event.t1 = now;
            event.outcome = outcome;
            let line = event.to_line();
            note(|| line);
        }
    }

    /// Adds an event that took from `t0` until now.
    pub(crate) fn add(&self, proc: &str, t0: u64, outcome: Outcome, act: Act) {
        let event = Event { proc: proc.to_owned(), t0, t1: self.now(), outcome, act };
        note(|| event.to_line());
        self.lock().events.push(event);
    }

    /// Notes what must not be.
    pub(crate) fn violation(&self, text: impl Into<String>) {
        let text = text.into();
        note(|| format!("VIOLATION {text}"));
        let mut seen = self.lock();
        seen.found_at.get_or_insert_with(tailway_runtime::sim::events);
        seen.violations.push(text);
    }

    /// How many events the run had when the first violation was noted.
    pub(crate) fn found_at(&self) -> Option<u64> {
        self.lock().found_at
    }

    pub(crate) fn is_clean(&self) -> bool {
        self.lock().violations.is_empty()
    }

    /// Whether sends have no answer that may still get one.
    pub(crate) fn waiting(&self) -> bool {
        let seen = self.lock();
        seen.open.values().any(|open| *open > 0)
    }

    /// A client was killed: what it waits for is never answered.
    pub(crate) fn killed(&self, proc: &str) {
        self.lock().open.remove(proc);
    }

    /// Sends that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        let is_ack =
            |event: &&Event| matches!(event.act, Act::Send { .. }) && event.outcome == Outcome::Ok;
        self.lock().events.iter().filter(is_ack).count()
    }

    /// Lines that were written so far.
    pub(crate) fn lines(&self) -> usize {
        self.lock().events.iter().filter(|event| matches!(event.act, Act::Line { .. })).count()
    }

    /// The events and the violations.
    pub(crate) fn take(&self) -> (Vec<Event>, Vec<String>) {
        let mut seen = self.lock();
        (std::mem::take(&mut seen.events), std::mem::take(&mut seen.violations))
    }
}

/// A record's value: `val`, its CRC, padding.
pub(crate) fn payload(val: u64, padding: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(PAYLOAD_HEAD + padding);
    bytes.put_u64(val);
    bytes.put_u32(crc32c::crc32c(&val.to_be_bytes()));
    bytes.put_bytes(b'.', padding);
    bytes.freeze()
}

/// The `val` of a payload; `None` if no client made it.
pub(crate) fn val_of(payload: Option<&Bytes>) -> Option<u64> {
    let head = payload?.get(..PAYLOAD_HEAD)?;
    let (val, crc) = head.split_first_chunk::<8>()?;
    (crc32c::crc32c(val).to_be_bytes() == crc).then(|| u64::from_be_bytes(*val))
}
