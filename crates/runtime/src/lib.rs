//! What a program asks of the machine besides time, disk and network: tasks, threads for blocking work, randomness.
//!
//! In a shipped binary each function is tokio's or the operating system's own. With the feature `sim` a thread may run a
//! simulation ([`sim::run`]): every task of every simulated host is then polled by one scheduler in an order that the seed
//! decides, blocking work takes simulated time, and randomness comes from the host's own seed.
//! Invariant: nothing in Tailway calls `tokio::spawn`, `spawn_blocking` or `Uuid::new_v4` by another way than this one, so
//! that a seed decides everything.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "tests"))]

use std::future::Future;

use tokio::task::JoinHandle;
use uuid::Uuid;

#[cfg(feature = "sim")]
pub mod sim;

/// Starts a task, as `tokio::spawn` does.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    tokio::spawn(task(future))
}

/// What to hand to a `JoinSet`: the future itself, known to the simulation if there is one.
#[cfg(not(feature = "sim"))]
pub fn task<F: Future>(future: F) -> F {
    future
}

/// What to hand to a `JoinSet`: the future itself, known to the simulation if there is one.
#[cfg(feature = "sim")]
pub fn task<F>(future: F) -> sim::Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    sim::Task::new(future)
}

/// Runs `work`, which may block, on a thread for such work, as `tokio::task::spawn_blocking` does.
pub fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(feature = "sim")]
    if let Some(delay) = sim::blocking_delay() {
        return spawn(async move {
            tokio::time::sleep(delay).await;
            work()
        });
    }
    #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    tokio::task::spawn_blocking(work)
}

/// A random identity (RFC 9562, version 4).
pub fn uuid() -> Uuid {
    #[cfg(feature = "sim")]
    if let Some(bytes) = sim::random_bytes() {
        return uuid::Builder::from_random_bytes(bytes).into_uuid();
    }
    #[allow(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
    Uuid::new_v4()
}

/// A random number, for what only has to differ from process to process (backoff jitter).
pub fn seed() -> u64 {
    uuid().as_u64_pair().1
}
