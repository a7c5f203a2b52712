//! Named tasks with an end: the only way to spawn.
//!
//! Each spawn gets a [`Stop`] that it watches. `stop` walks the groups in reverse order of creation: tell the group, wait
//! for all its tasks, go on; one deadline covers everything, and what is left then is aborted and named.
//! Invariants: no task is without a name; a finished task leaves nothing behind; after `stop` nothing can be spawned.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::exit::Exit;
use crate::pulse::{Pulse, Pulses};

/// A point in time by which something has ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(span: Duration) -> Deadline {
        Deadline(Instant::now() + span)
    }

    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    /// Awaits `future`, but not beyond the deadline (`None`).
    pub async fn run<F: Future>(self, future: F) -> Option<F::Output> {
        tokio::time::timeout_at(self.0, future).await.ok()
    }
}

/// Told to a task when it should end. Clones are told together.
#[derive(Debug)]
pub struct Stop {
    told: watch::Receiver<bool>,
    /// Of a main loop: whoever waits for the end answers that the loop turns.
    pulse: Option<Pulse>,
}

/// The pulse stays with the loop itself: a clone that waits elsewhere says nothing about it.
impl Clone for Stop {
    fn clone(&self) -> Stop {
        Stop { told: self.told.clone(), pulse: None }
    }
}

impl Stop {
    /// Returns when it is time to end. Cancel-safe: made for `select!`, first and `biased`.
    pub async fn requested(&mut self) {
        // An error means that the `Tasks` is gone: as good as told.
        let told = async { drop(self.told.wait_for(|told| *told).await) };
        let Some(pulse) = &mut self.pulse else { return told.await };
        tokio::select! {
            biased;
            () = told => {}
            never = pulse.attend() => match never {},
        }
    }

    /// For a main loop that ends by other means: answers that it turns, and never returns. Cancel-safe.
    pub async fn attended(&mut self) -> Infallible {
        match &mut self.pulse {
            Some(pulse) => pulse.attend().await,
            None => std::future::pending().await,
        }
    }

    pub fn is_requested(&self) -> bool {
        *self.told.borrow() || self.told.has_changed().is_err()
    }

    /// Awaits `future` unless it is time to end (`None`).
    pub async fn unless<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.requested() => None,
            output = future => Some(output),
        }
    }

    /// For tests: a stop and the handle that tells it.
    pub fn pair() -> (StopHandle, Stop) {
        let (tell, told) = watch::channel(false);
        (StopHandle(tell), Stop { told, pulse: None })
    }
}

/// Tells a [`Stop`] made by `Stop::pair`.
#[derive(Debug)]
pub struct StopHandle(watch::Sender<bool>);

impl StopHandle {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }
}

/// The tasks that did not end by the deadline, each by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stragglers(pub Vec<String>);

impl fmt::Display for Stragglers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "did not stop in time: {}", self.0.join(", "))
    }
}

impl std::error::Error for Stragglers {}

impl Stragglers {
    /// Joins the outcomes of several stops into one.
    pub fn collect(
        outcomes: impl IntoIterator<Item = Result<(), Stragglers>>,
    ) -> Result<(), Stragglers> {
        let names: Vec<String> =
            outcomes.into_iter().filter_map(Result::err).flat_map(|late| late.0).collect();
        if names.is_empty() { Ok(()) } else { Err(Stragglers(names)) }
    }
}

/// A program's tasks. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
    pulses: Pulses,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    failed: watch::Sender<Option<String>>,
    /// What failed is the configuration.
    misconfigured: AtomicBool,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            state: Mutex::default(),
            failed: watch::Sender::new(None),
            misconfigured: AtomicBool::new(false),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    groups: Vec<Group>,
    stopped: bool,
}

impl Tasks {
    pub fn new() -> Tasks {
        Tasks::default()
    }

    /// Tasks that are stopped apart from others of the program, with their main loops among all of its main loops.
    pub fn watched_by(pulses: Pulses) -> Tasks {
        Tasks { shared: Arc::default(), pulses }
    }

    /// The pulses of the main loops.
    pub fn pulses(&self) -> &Pulses {
        &self.pulses
    }

    /// Starts a main loop in a group of its own: the watchdog is fed only while it answers, by waiting for its [`Stop`].
    pub fn spawn_watched<F>(&self, name: impl Into<Cow<'static, str>>, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        self.group(name.clone()).spawn_watched(name, task);
    }

    /// Starts one task in a group of its own.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        self.group(name.clone()).spawn(name, task);
    }

    /// A group whose tasks come and go (connections, partitions) and are stopped together, at this place in the order.
    pub fn group(&self, name: impl Into<Cow<'static, str>>) -> Group {
        let mut state = self.lock();
        let owner = Arc::downgrade(&self.shared);
        let group = Group::new(name.into(), owner, self.pulses.clone());
        if state.stopped {
            group.close();
        } else {
            // Groups of one whose task has ended are forgotten here, so that the list cannot grow without bound.
            state.groups.retain(|group| Arc::strong_count(&group.inner) > 1 || !group.is_empty());
            state.groups.push(group.clone());
        }
        group
    }

    /// Reports that the program cannot go on: whoever runs it stops it and exits 1. The first report stays.
    pub fn fail(&self, cause: impl Into<String>) {
        self.shared.fail(cause.into());
    }

    /// The same for what no restart can help, because this program was told to be something else than it is: exit 78.
    pub fn fail_misconfigured(&self, cause: impl Into<String>) {
        self.shared.misconfigured.store(true, Ordering::Release);
        self.shared.fail(cause.into());
    }

    /// How the process ends after `failed`.
    pub fn exit(&self) -> Exit {
        let misconfigured = self.shared.misconfigured.load(Ordering::Acquire);
        if misconfigured { Exit::Config } else { Exit::Failure }
    }

    /// Returns the cause once something called `fail` or a task panicked.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        // The lock of the value may not live across an await.
        let cause = failed.wait_for(Option::is_some).await.map(|cause| cause.clone());
        match cause {
            Ok(cause) => cause.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Names of the tasks that run now.
    pub fn running(&self) -> Vec<String> {
        self.lock().groups.iter().flat_map(Group::running).collect()
    }

    /// Stops everything in reverse order of start. Stragglers are aborted and named.
    pub async fn stop(&self, deadline: Deadline) -> Result<(), Stragglers> {
        let groups = {
            let mut state = self.lock();
            state.stopped = true;
            std::mem::take(&mut state.groups)
        };
        // A tenth is kept for the groups behind one that does not end: they are told and can end as well.
        let reserve = deadline.remaining() / 10;
        let soft = Deadline(deadline.0.checked_sub(reserve).unwrap_or(deadline.0));
        let mut outcomes = Vec::new();
        for (left, group) in groups.iter().enumerate().rev() {
            let share = reserve / u32::try_from(left + 1).unwrap_or(u32::MAX);
            let late = Deadline(Deadline::after(share).0.min(deadline.0));
            let until = Deadline(soft.0.max(late.0));
            outcomes.push(group.stop(until).await);
        }
        Stragglers::collect(outcomes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn fail(&self, cause: String) {
        self.failed.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(cause);
            }
            first
        });
    }
}

/// Tasks that are stopped together. Clones share them.
#[derive(Clone, Debug)]
pub struct Group {
    inner: Arc<GroupInner>,
}

#[derive(Debug)]
struct GroupInner {
    name: Cow<'static, str>,
    tell: watch::Sender<bool>,
    tasks: Mutex<GroupTasks>,
    idle: Notify,
    owner: std::sync::Weak<Shared>,
    pulses: Pulses,
}

#[derive(Debug, Default)]
struct GroupTasks {
    next: u64,
    running: BTreeMap<u64, (Cow<'static, str>, AbortHandle)>,
}

impl Group {
    fn new(name: Cow<'static, str>, owner: std::sync::Weak<Shared>, pulses: Pulses) -> Group {
        Group {
            inner: Arc::new(GroupInner {
                name,
                tell: watch::Sender::new(false),
                tasks: Mutex::default(),
                idle: Notify::new(),
                owner,
                pulses,
            }),
        }
    }

    /// Starts a task of this group. After `stop` nothing starts and the call is ignored.
    pub fn spawn<F>(&self, name: impl Into<Cow<'static, str>>, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.start(name.into(), None, task);
    }

    /// The same for a main loop: the watchdog is fed only while it answers, by waiting for its [`Stop`].
    pub fn spawn_watched<F>(&self, name: impl Into<Cow<'static, str>>, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let pulse = self.inner.pulses.of(name.clone());
        self.start(name, pulse, task);
    }

    fn start<F>(&self, name: Cow<'static, str>, pulse: Option<Pulse>, task: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = Stop { told: self.inner.tell.subscribe(), pulse };
        let mut tasks = self.lock();
        if *self.inner.tell.borrow() {
            return;
        }
        let id = tasks.next;
        tasks.next += 1;
        // The entry is removed by the guard's drop: at the task's end, at its panic, at its abort. It cannot come
        // before the insertion below, because it needs the lock that is held here.
        let guard = Leave { group: Arc::clone(&self.inner), id };
        let future = task(stop);
        let handle = tailway_runtime::spawn(async move {
            let guard = guard;
            future.await;
            drop(guard);
        });
        tasks.running.insert(id, (name, handle.abort_handle()));
    }

    pub fn len(&self) -> usize {
        self.lock().running.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells the group to end and waits for it. Stragglers are aborted and named.
    pub async fn stop(&self, deadline: Deadline) -> Result<(), Stragglers> {
        self.close();
        if deadline.run(self.wait_empty()).await.is_some() {
            return Ok(());
        }
        let late = self.running();
        for (_, handle) in self.lock().running.values() {
            handle.abort();
        }
        if late.is_empty() { Ok(()) } else { Err(Stragglers(late)) }
    }

    fn close(&self) {
        // Under the lock, so that a spawn is either before this (and told) or after it (and refused).
        let _tasks = self.lock();
        self.inner.tell.send_replace(true);
    }

    async fn wait_empty(&self) {
        loop {
            let idle = self.inner.idle.notified();
            if self.is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn running(&self) -> Vec<String> {
        let group = &self.inner.name;
        self.lock()
            .running
            .values()
            .map(
                |(name, _)| {
                    if name == group { name.to_string() } else { format!("{group}: {name}") }
                },
            )
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, GroupTasks> {
        self.inner.lock()
    }
}

impl GroupInner {
    fn lock(&self) -> MutexGuard<'_, GroupTasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Leave {
    group: Arc<GroupInner>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        let name = self.group.lock().running.remove(&self.id).map(|(name, _)| name);
        if std::thread::panicking()
            && let (Some(owner), Some(name)) = (self.group.owner.upgrade(), name)
        {
            owner.fail(format!("task {name} panicked"));
        }
        self.group.idle.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_end(log: &Arc<Mutex<Vec<&'static str>>>, name: &'static str, tasks: &Tasks) {
        let log = Arc::clone(log);
        tasks.spawn(name, move |mut stop| async move {
            stop.requested().await;
            log.lock().unwrap().push(name);
        });
    }

    #[tokio::test]
    async fn stops_in_reverse_order_of_start() {
        let tasks = Tasks::new();
        let log = Arc::default();
        for name in ["log", "server", "listener"] {
            log_end(&log, name, &tasks);
        }
        assert_eq!(tasks.running(), ["log", "server", "listener"]);
        tasks.stop(Deadline::after(Duration::from_secs(1))).await.unwrap();
        assert_eq!(*log.lock().unwrap(), ["listener", "server", "log"]);
        tasks.spawn("late", |_| async { unreachable!("nothing starts after the stop") });
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn one_deadline_for_all_and_stragglers_are_named() {
        let tasks = Tasks::new();
        let log = Arc::default();
        log_end(&log, "first", &tasks);
        let connections = tasks.group("connections");
        connections.spawn("127.0.0.1:5", |_| std::future::pending());
        connections.spawn("127.0.0.1:6", |mut stop| async move { stop.requested().await });
        tasks.spawn("deaf", |_| std::future::pending());
        let begun = Instant::now();
        let late = tasks.stop(Deadline::after(Duration::from_secs(10))).await.unwrap_err();
        assert_eq!(late.0, ["deaf", "connections: 127.0.0.1:5"]);
        assert_eq!(late.to_string(), "did not stop in time: deaf, connections: 127.0.0.1:5");
        assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(*log.lock().unwrap(), ["first"], "those behind a straggler still end well");
    }

    #[tokio::test]
    async fn finished_tasks_leave_nothing_behind() {
        let tasks = Tasks::new();
        for _ in 0..1_000 {
            tasks.spawn("short", |_| async {});
            tokio::task::yield_now().await;
        }
        assert!(tasks.lock().groups.len() <= 2, "{}", tasks.lock().groups.len());
        let connections = tasks.group("connections");
        connections.spawn("a", |_| async {});
        tokio::task::yield_now().await;
        assert!(connections.is_empty());
    }

    #[tokio::test]
    async fn a_failure_is_told_once_with_its_cause() {
        let tasks = Tasks::new();
        tasks.spawn("flusher", |_| async { panic!("on purpose") });
        assert_eq!(tasks.failed().await, "task flusher panicked");
        tasks.fail("second");
        assert_eq!(tasks.failed().await, "task flusher panicked");
    }

    #[tokio::test]
    async fn stop_ends_a_wait_and_a_dropped_owner_counts_as_told() {
        let (tell, mut stop) = Stop::pair();
        assert_eq!(stop.unless(async { 5 }).await, Some(5));
        tell.stop();
        assert_eq!(stop.unless(async { 5 }).await, None);
        let (tell, mut stop) = Stop::pair();
        drop(tell);
        stop.requested().await;
        assert!(stop.is_requested());
    }

    #[tokio::test]
    async fn a_main_loop_is_heard_where_it_waits_and_missed_where_it_hangs() {
        let tasks = Tasks::new();
        tasks.pulses().watch();
        let (event, comes) = tokio::sync::oneshot::channel::<()>();
        let work = tasks.group("work");
        work.spawn_watched("worker", |mut stop| async move {
            // A wait for an event as in every loop, and then one in which nobody is asked for.
            let _came = stop.unless(comes).await;
            std::future::pending::<()>().await;
        });
        let others = Tasks::watched_by(tasks.pulses().clone());
        let task = |mut stop: Stop| async move { match stop.attended().await {} };
        others.spawn_watched("elsewhere", task);
        for _ in 0..3 {
            tokio::task::yield_now().await;
            assert_eq!(tasks.pulses().ask(), Vec::<String>::new());
        }
        event.send(()).unwrap();
        tokio::task::yield_now().await;
        tasks.pulses().ask();
        tokio::task::yield_now().await;
        assert_eq!(tasks.pulses().ask(), ["worker"]);
    }
}
