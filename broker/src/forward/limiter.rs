//! How many requests of one sink are under way at once: more while all goes well, fewer when it says that it is busy.
//!
//! The limit grows by one after as many good answers as it counts, and halves after a bad one, at most once in a second, so
//! that the answers to one burst count once. Invariant: it stays between 1 and the configured number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_metadata::time::Mono;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const HALVE_EVERY: Duration = Duration::from_secs(1);

/// The limit of one sink. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    permits: Arc<Semaphore>,
    state: Arc<Mutex<Limit>>,
}

/// Pure: what the limit is, and how many permits have to go when they come back.
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    now: usize,
    most: usize,
    good: usize,
    owed: usize,
    halved: Option<Mono>,
}

impl Limiter {
    pub(crate) fn new(most: usize) -> Self {
        let most = most.max(1);
        let start = most.min(2);
        let state = Limit { now: start, most, good: 0, owed: 0, halved: None };
        Self { permits: Arc::new(Semaphore::new(start)), state: Arc::new(Mutex::new(state)) }
    }

    /// A place among the requests under way; waits for it.
    pub(crate) async fn place(&self) -> Place {
        // Never closed; should it ever be, nothing may be sent any more.
        let Ok(permit) = Arc::clone(&self.permits).acquire_owned().await else {
            return std::future::pending().await;
        };
        Place { permit: Some(permit), limiter: self.clone() }
    }

    /// How many may be under way now.
    pub(crate) fn limit(&self) -> usize {
        self.state().now
    }

    fn state(&self) -> MutexGuard<'_, Limit> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request under way.
#[derive(Debug)]
pub(crate) struct Place {
    permit: Option<OwnedSemaphorePermit>,
    limiter: Limiter,
}

impl Place {
    /// The answer was good, or it was not.
    pub(crate) fn answered(self, good: bool, now: Mono) {
        let limiter = self.limiter.clone();
        let more = limiter.state().answered(good, now);
        drop(self);
        if more {
            limiter.permits.add_permits(1);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.limiter.state().pay()
            && let Some(permit) = self.permit.take()
        {
            permit.forget();
        }
    }
}

impl Limit {
    /// True if there is one place more.
    fn answered(&mut self, good: bool, now: Mono) -> bool {
        if !good {
            self.good = 0;
            let recent = self.halved.is_some_and(|halved| now.since(halved) < HALVE_EVERY);
            if !recent && self.now > 1 {
                let half = self.now.div_ceil(2);
                self.owed += self.now - half;
                self.now = half;
                self.halved = Some(now);
            }
            return false;
        }
        self.good += 1;
        if self.good < self.now || self.now >= self.most {
            return false;
        }
        self.good = 0;
        self.now += 1;
        if self.owed > 0 {
            self.owed -= 1;
            return false;
        }
        true
    }

    /// True if the permit that comes back has to go.
    fn pay(&mut self) -> bool {
        let owed = self.owed > 0;
        self.owed -= usize::from(owed);
        owed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_grows_with_good_answers_and_halves_with_bad_ones() {
        let limiter = Limiter::new(8);
        let at = |ms| Mono::from_millis(ms);
        for _ in 0..100 {
            limiter.place().await.answered(true, at(0));
        }
        assert_eq!((limiter.limit(), limiter.permits.available_permits()), (8, 8));
        // A burst counts once.
        for _ in 0..5 {
            limiter.place().await.answered(false, at(10));
        }
        assert_eq!((limiter.limit(), limiter.permits.available_permits()), (4, 4));
        for ms in [2_000, 4_000, 6_000, 8_000] {
            limiter.place().await.answered(false, at(ms));
        }
        assert_eq!((limiter.limit(), limiter.permits.available_permits()), (1, 1));
        // A request that was given up gives its place back.
        drop(limiter.place().await);
        assert_eq!(limiter.permits.available_permits(), 1);
        limiter.place().await.answered(true, at(9_000));
        assert_eq!((limiter.limit(), limiter.permits.available_permits()), (2, 2));
    }
}
