//! Memory that requests and responses of all connections share.
//!
//! A frame that was announced larger than `FREE_BYTES` waits for its share before its bytes are read, and so does a second
//! one of a connection whose first is not answered yet; what is left is bounded by the number of connections. The queue is
//! fair, and reading has a deadline, so that a peer that announces much and sends little holds its share for that long.
//! An answer takes at most half of what is free, so that slow readers of large answers leave something for the others.

use std::sync::Arc;

use tailway_daemon::metrics::{Counter, Gauge};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Frames up to this size need no share.
pub const FREE_BYTES: usize = 64 * 1024;

/// One pool of bytes.
#[derive(Debug, Clone)]
pub struct Budget {
    pool: Arc<Semaphore>,
    total: usize,
    used: Gauge,
    waits: Counter,
}

/// Bytes taken from a pool, given back on drop.
#[derive(Debug)]
pub struct Share {
    permit: OwnedSemaphorePermit,
    used: Gauge,
}

impl Budget {
    pub fn new(total: usize, used: Gauge, waits: Counter) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        Self { pool: Arc::new(Semaphore::new(total)), total, used, waits }
    }

    /// Takes `bytes` (at most the whole pool), waiting until they are there.
    pub async fn take(&self, bytes: usize) -> Share {
        let wanted = bytes.min(self.total);
        let permits = u32::try_from(wanted).unwrap_or(u32::MAX);
        let permit = if let Ok(permit) = Arc::clone(&self.pool).try_acquire_many_owned(permits) {
            permit
        } else {
            self.waits.inc();
            // The pool is never closed; should it ever be, nothing may be read any more.
            let Ok(permit) = Arc::clone(&self.pool).acquire_many_owned(permits).await else {
                return std::future::pending().await;
            };
            permit
        };
        self.used.inc_by(i64::from(permits));
        Share { permit, used: self.used.clone() }
    }
}

impl Budget {
    /// Takes `most` bytes, or half of what is free if that is less, but at least `least`, for which it waits.
    /// Only for who holds nothing yet: who waits with a share in hand may wait for somebody who does the same.
    pub async fn take_some(&self, least: usize, most: usize) -> Share {
        let half = self.pool.available_permits() / 2;
        self.take(most.min(half.max(least))).await
    }

    /// As `take_some`, but `None` where that would wait.
    pub fn try_take_some(&self, least: usize, most: usize) -> Option<Share> {
        let half = self.pool.available_permits() / 2;
        let permits = u32::try_from(most.min(half.max(least))).ok()?;
        let permit = Arc::clone(&self.pool).try_acquire_many_owned(permits).ok()?;
        self.used.inc_by(i64::from(permits));
        Some(Share { permit, used: self.used.clone() })
    }

    /// Whether more than half is taken: no time to hold a share for longer than it takes to use it.
    pub fn is_scarce(&self) -> bool {
        self.pool.available_permits() < self.total / 2
    }
}

impl Share {
    pub fn bytes(&self) -> usize {
        self.permit.num_permits()
    }

    /// Keeps `bytes` of it and gives the rest back.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(bytes);
        if let Some(rest) = self.permit.split(surplus) {
            self.used.dec_by(i64::try_from(surplus).unwrap_or(i64::MAX));
            drop(rest);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.used.dec_by(i64::try_from(self.permit.num_permits()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_leave_something_for_the_others() {
        let budget = Budget::new(1_000, Gauge::default(), Counter::default());
        let mut shares = Vec::new();
        for expected in [400, 300, 150, 75, 37, 20] {
            let share = budget.take_some(20, 400).await;
            assert_eq!(share.bytes(), expected);
            shares.push(share);
        }
        assert!(budget.is_scarce());
        assert_eq!(budget.take_some(5, 5).await.bytes(), 5);
        assert_eq!(budget.try_take_some(5, 400).map(|share| share.bytes()), Some(9));
        assert!(budget.try_take_some(100, 400).is_none());
    }

    #[tokio::test]
    async fn shares_are_bounded_and_come_back() {
        let (used, waits) = (Gauge::default(), Counter::default());
        let budget = Budget::new(100, used.clone(), waits.clone());
        let mut first = budget.take(1_000).await;
        assert_eq!((used.get(), waits.get()), (100, 0), "more than the pool is the whole pool");
        let second = tailway_runtime::spawn({
            let budget = budget.clone();
            async move { budget.take(60).await }
        });
        tokio::task::yield_now().await;
        assert_eq!((used.get(), waits.get()), (100, 1));
        first.shrink_to(40);
        let second = second.await.unwrap();
        assert_eq!(used.get(), 100);
        drop((first, second));
        assert_eq!(used.get(), 0);
    }
}
