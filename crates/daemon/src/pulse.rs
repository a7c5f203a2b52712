//! Whether a program's main loops turn: what decides if systemd's watchdog is fed.
//!
//! Nobody beats by a timer. Each round every loop is asked, and it answers where it waits for its next event: a loop that
//! hangs in what it does, or whose thread does, is not there and so does not answer. Without a watchdog nobody asks, and
//! no loop has a pulse.
//! Invariants: a loop that began after a round was asked owes it nothing; one that has ended owes nothing any more.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// The pulses of a program's loops. Clones share them.
#[derive(Clone, Debug)]
pub struct Pulses {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    are_watched: AtomicBool,
    round: watch::Sender<u64>,
    loops: Mutex<Loops>,
}

#[derive(Debug, Default)]
struct Loops {
    next: u64,
    /// By its number: the name, and the last round that it answered.
    known: BTreeMap<u64, (Cow<'static, str>, Arc<AtomicU64>)>,
}

impl Default for Pulses {
    fn default() -> Pulses {
        let shared = Shared {
            are_watched: AtomicBool::new(false),
            round: watch::Sender::new(0),
            loops: Mutex::default(),
        };
        Pulses { shared: Arc::new(shared) }
    }
}

impl Pulses {
    /// From here on loops that begin have a pulse. To be called before anything is started.
    pub fn watch(&self) {
        self.shared.are_watched.store(true, Ordering::Release);
    }

    /// The pulse of a loop that begins; `None` if nobody will ask.
    pub fn of(&self, name: impl Into<Cow<'static, str>>) -> Option<Pulse> {
        if !self.shared.are_watched.load(Ordering::Acquire) {
            return None;
        }
        let asked = self.shared.round.subscribe();
        let mut loops = self.shared.lock();
        let answered = Arc::new(AtomicU64::new(*asked.borrow()));
        let id = loops.next;
        loops.next += 1;
        loops.known.insert(id, (name.into(), Arc::clone(&answered)));
        Some(Pulse { id, asked, answered, shared: Arc::clone(&self.shared) })
    }

    /// Ends a round and begins the next: the loops that have not answered, by name.
    pub fn ask(&self) -> Vec<String> {
        // Under the lock, so that a loop is either asked or begins in the new round.
        let loops = self.shared.lock();
        let round = *self.shared.round.borrow();
        let late = loops.known.values();
        let late = late.filter(|(_, answered)| answered.load(Ordering::Acquire) < round);
        let late = late.map(|(name, _)| name.to_string()).collect();
        self.shared.round.send_replace(round + 1);
        late
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Loops> {
        // Each change is a single insertion or removal: a panic in between leaves it whole.
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pulse of one loop, which is watched while this is alive.
#[derive(Debug)]
pub struct Pulse {
    id: u64,
    asked: watch::Receiver<u64>,
    answered: Arc<AtomicU64>,
    shared: Arc<Shared>,
}

impl Pulse {
    /// Answers what was asked up to now: for a loop in a thread, which calls it at each turn.
    pub fn beat(&mut self) {
        let round = *self.asked.borrow_and_update();
        self.answered.store(round, Ordering::Release);
    }

    /// Answers while it is polled, and never returns: for a loop's `select!`. Cancel-safe.
    pub async fn attend(&mut self) -> Infallible {
        loop {
            self.beat();
            if self.asked.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.shared.lock().known.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_answers_where_it_waits_and_nowhere_else() {
        let pulses = Pulses::default();
        assert!(pulses.of("before").is_none(), "nobody asks");
        pulses.watch();
        let mut pulse = pulses.of("loop").unwrap();
        assert!(pulses.ask().is_empty(), "it began in this round");
        assert_eq!(pulses.ask(), ["loop"]);
        pulse.beat();
        assert!(pulses.ask().is_empty(), "it is back");
        let waiting = tailway_runtime::spawn(async move { match pulse.attend().await {} });
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert!(pulses.ask().is_empty(), "it answers though it has nothing else to do");
        }
        waiting.abort();
        assert!(waiting.await.is_err());
        pulses.ask();
        assert!(pulses.ask().is_empty(), "one that has ended is not missed");
    }
}
