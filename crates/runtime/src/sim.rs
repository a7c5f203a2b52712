//! A seeded scheduler: all tasks of all simulated hosts on one thread, in an order that the seed decides.
//!
//! Time is tokio's paused clock, which jumps to the next timer when nothing is ready. Tasks are kept here and not by tokio,
//! for two reasons: of several that are ready the seed picks the next (tokio would take them as they were woken, and the
//! wake order of its `watch` differs from run to run), and a host is killed by dropping its tasks between two polls, as a
//! process is. What tokio gets to see of a task is a [`Task`] that waits for its output, so that `JoinHandle`, `JoinSet`
//! and `abort` work as ever.
//! Invariants: only the seed decides; a task of a dead host is never polled again; a run that polls without end while time
//! stands still panics and says who.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::hash::Hasher;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use twox_hash::XxHash64;

/// Lines of the trace that are kept for people.
const TRACE_LINES_MAX: usize = 500_000;

/// Polls without time going on, after which the run is taken for a livelock.
const POLLS_PER_INSTANT_MAX: u64 = 5_000_000;

/// A simulated machine. 0 is the scenario itself, which no fault reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(pub u32);

impl HostId {
    /// The scenario.
    pub const OUTSIDE: HostId = HostId(0);
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host {}", self.0)
    }
}

type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
    static CURRENT: Cell<Option<HostId>> = const { Cell::new(None) };
}

struct World {
    rng: ChaCha8Rng,
    tasks: BTreeMap<u64, Entry>,
    next_task: u64,
    hosts: BTreeMap<HostId, Host>,
    ready: Arc<Ready>,
    polls: u64,
    /// Whether each poll is an event of the trace, to find what is not decided by the seed.
    traces_polls: bool,
    trace: Option<Trace>,
}

/// What happened: a hash over all of it, and the last lines for people.
struct Trace {
    begun: Instant,
    hasher: XxHash64,
    lines: VecDeque<String>,
    count: u64,
}

struct Entry {
    host: HostId,
    /// Absent while it is polled.
    future: Option<BoxFuture>,
}

struct Host {
    rng: ChaCha8Rng,
    alive: bool,
    blocking_ms: RangeInclusive<u64>,
}

/// Which tasks want to be polled.
#[derive(Default)]
struct Ready {
    state: Mutex<(BTreeSet<u64>, Option<Waker>)>,
}

impl Ready {
    fn lock(&self) -> MutexGuard<'_, (BTreeSet<u64>, Option<Waker>)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, task: u64) {
        let (_, root) = {
            let mut state = self.lock();
            (state.0.insert(task), state.1.take())
        };
        if let Some(root) = root {
            root.wake();
        }
    }
}

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.add(self.task);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.add(self.task);
    }
}

/// Runs `scenario` and everything that it starts, as `seed` has it, until it returns. What still runs then is dropped.
///
/// # Panics
/// If a run is going on in this thread already, if a task panics, or if tasks wake each other for ever.
pub fn run<T: Send + 'static>(seed: u64, scenario: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap_or_else(|error| panic!("no runtime: {error}"));
    let world = World {
        rng: ChaCha8Rng::seed_from_u64(seed),
        tasks: BTreeMap::new(),
        next_task: 0,
        hosts: BTreeMap::new(),
        ready: Arc::default(),
        polls: 0,
        traces_polls: false,
        trace: None,
    };
    let ready = Arc::clone(&world.ready);
    WORLD.with_borrow_mut(|slot| {
        assert!(slot.is_none(), "this thread simulates already");
        *slot = Some(world);
    });
    add_host(HostId::OUTSIDE);
    let output = runtime.block_on(tokio::task::unconstrained(async move {
        with_world(|world| world.trace = Some(Trace::new()));
        let main = within(HostId::OUTSIDE, || Task::new(scenario));
        Executor { ready, main, last: (Instant::now(), 0) }.await
    }));
    // Futures are dropped outside of the borrow: their ends may ask for the world once more.
    let world = WORLD.with_borrow_mut(Option::take);
    drop(runtime);
    drop(world);
    output
}

struct Executor<T> {
    ready: Arc<Ready>,
    main: Task<T>,
    /// When time last went on, and the polls since.
    last: (Instant, u64),
}

impl<T: Send + 'static> Future for Executor<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        loop {
            if let Poll::Ready(output) = Pin::new(&mut self.main).poll(cx) {
                return Poll::Ready(output);
            }
            let Some(task) = pick(&self.ready, cx) else { return Poll::Pending };
            let now = Instant::now();
            self.last = if self.last.0 == now { (now, self.last.1 + 1) } else { (now, 0) };
            poll_task(task, &self.ready, self.last.1 > POLLS_PER_INSTANT_MAX);
        }
    }
}

/// Takes one of the ready tasks; registers the waker if there is none.
fn pick(ready: &Ready, cx: &Context<'_>) -> Option<u64> {
    let mut state = ready.lock();
    let count = state.0.len();
    if count == 0 {
        state.1 = Some(cx.waker().clone());
        return None;
    }
    let nth = if count == 1 { 0 } else { with_world(|world| world.rng.gen_range(0..count)) };
    let task = state.0.iter().nth(nth).copied()?;
    state.0.remove(&task);
    Some(task)
}

fn poll_task(task: u64, ready: &Arc<Ready>, livelock: bool) {
    let taken = with_world(|world| {
        world.polls += 1;
        let entry = world.tasks.get_mut(&task)?;
        let taken = (entry.host, entry.future.take()?);
        if world.traces_polls
            && let Some(trace) = &mut world.trace
        {
            trace.add(&format!("poll task {task} of {}", taken.0));
        }
        Some(taken)
    });
    // Its host was killed, or it was aborted, after it was woken.
    let Some((host, mut future)) = taken else { return };
    assert!(
        !livelock,
        "livelock: tasks of {host} and others wake each other while time stands still"
    );
    let waker = Waker::from(Arc::new(TaskWaker { task, ready: Arc::clone(ready) }));
    let done = within(host, || future.as_mut().poll(&mut Context::from_waker(&waker))).is_ready();
    let leftover = with_world(|world| match world.tasks.get_mut(&task) {
        Some(entry) if !done => {
            entry.future = Some(future);
            None
        }
        // Done, or aborted or killed by itself while it ran.
        _ => {
            world.tasks.remove(&task);
            Some(future)
        }
    });
    within(host, || drop(leftover));
}

fn with_world<T>(act: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| match world {
        Some(world) => act(world),
        None => panic!("no simulation runs in this thread"),
    })
}

/// Runs `act` as code of `host`.
fn within<T>(host: HostId, act: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(Some(host));
    let output = act();
    CURRENT.set(before);
    output
}

/// The host whose code runs now; `None` outside of a simulation.
pub fn current() -> Option<HostId> {
    CURRENT.get()
}

/// Makes a host, alive and with fast disks. Its randomness comes from the seed and from how many hosts there were.
pub fn add_host(host: HostId) {
    with_world(|world| {
        let rng = ChaCha8Rng::seed_from_u64(world.rng.next_u64());
        world.hosts.insert(host, Host { rng, alive: true, blocking_ms: 0..=1 });
    });
}

/// How long blocking work takes on a host, in milliseconds: drawn anew for each piece.
pub fn set_blocking_ms(host: HostId, span: RangeInclusive<u64>) {
    with_world(|world| {
        if let Some(host) = world.hosts.get_mut(&host) {
            host.blocking_ms = span;
        }
    });
}

/// Starts a task on a host, as its program's `main`.
pub fn spawn_on<F>(host: HostId, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    drop(within(host, || crate::spawn(future)));
}

/// Ends everything that runs on a host at once, as `kill -9` does: nothing of it is polled again, and what its
/// destructors start is dropped.
pub fn kill(host: HostId) {
    let dropped: Vec<Entry> = with_world(|world| {
        if let Some(host) = world.hosts.get_mut(&host) {
            host.alive = false;
        }
        let doomed: Vec<u64> =
            world.tasks.iter().filter(|(_, task)| task.host == host).map(|(id, _)| *id).collect();
        doomed.iter().filter_map(|id| world.tasks.remove(id)).collect()
    });
    within(host, || drop(dropped));
}

/// Lets tasks start on a killed host again.
pub fn revive(host: HostId) {
    with_world(|world| {
        if let Some(host) = world.hosts.get_mut(&host) {
            host.alive = true;
        }
    });
}

/// Makes each poll an event of the trace, which tells where two runs of a seed part.
pub fn trace_polls() {
    with_world(|world| world.traces_polls = true);
}

/// Polls so far: how much happened.
pub fn polls() -> u64 {
    with_world(|world| world.polls)
}

/// Adds an event to the trace: the line is hashed with its time, and the last ones are kept. Nothing outside of a run.
pub fn note(line: impl FnOnce() -> String) {
    if current().is_none() {
        return;
    }
    let line = line();
    with_world(|world| {
        if let Some(trace) = &mut world.trace {
            trace.add(&line);
        }
    });
}

/// The hash of all events so far with the number of polls, and how many events there were.
pub fn trace_hash() -> (u64, u64) {
    with_world(|world| match &world.trace {
        Some(trace) => {
            let mut hasher = trace.hasher.clone();
            hasher.write_u64(world.polls);
            (hasher.finish(), trace.count)
        }
        None => (0, 0),
    })
}

/// Events so far; 0 outside of a run. For a panic's last words, so it never panics itself.
pub fn events() -> u64 {
    let count = WORLD.try_with(|world| {
        let world = world.try_borrow().ok()?;
        Some(world.as_ref()?.trace.as_ref()?.count)
    });
    count.ok().flatten().unwrap_or(0)
}

/// The last lines of the trace, oldest first.
pub fn trace_lines() -> Vec<String> {
    with_world(|world| world.trace.iter().flat_map(|trace| trace.lines.iter().cloned()).collect())
}

impl Trace {
    fn new() -> Trace {
        let hasher = XxHash64::with_seed(0);
        Trace { begun: Instant::now(), hasher, lines: VecDeque::new(), count: 0 }
    }

    fn add(&mut self, line: &str) {
        let ms = self.begun.elapsed().as_millis();
        self.hasher.write_u128(ms);
        self.hasher.write(line.as_bytes());
        self.count += 1;
        if self.lines.len() == TRACE_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{:>4}.{:03} {line}", ms / 1_000, ms % 1_000));
    }
}

/// Draws from the current host's randomness.
pub fn draw<T>(act: impl FnOnce(&mut ChaCha8Rng) -> T) -> Option<T> {
    let host = current()?;
    with_world(|world| world.hosts.get_mut(&host).map(|host| act(&mut host.rng)))
}

pub(crate) fn random_bytes() -> Option<[u8; 16]> {
    draw(|rng| {
        let mut bytes = [0; 16];
        rng.fill_bytes(&mut bytes);
        bytes
    })
}

pub(crate) fn blocking_delay() -> Option<Duration> {
    let host = current()?;
    with_world(|world| {
        let host = world.hosts.get_mut(&host)?;
        Some(Duration::from_millis(host.rng.gen_range(host.blocking_ms.clone())))
    })
}

/// The current host's randomness as a generator, for libraries that want one.
#[derive(Clone, Copy, Debug, Default)]
pub struct HostRng;

impl RngCore for HostRng {
    fn next_u32(&mut self) -> u32 {
        draw(ChaCha8Rng::next_u32).unwrap_or_else(rand_from_the_system)
    }

    fn next_u64(&mut self) -> u64 {
        draw(ChaCha8Rng::next_u64).unwrap_or_else(crate::seed)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(8) {
            let bytes = self.next_u64().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

#[allow(clippy::cast_possible_truncation, reason = "any 32 of the random bits do")]
fn rand_from_the_system() -> u32 {
    crate::seed() as u32
}

/// A task as tokio sees it: in a simulation a wait for what the scheduler polls, otherwise the future itself.
pub enum Task<T> {
    Plain(Pin<Box<dyn Future<Output = T> + Send>>),
    Simulated { id: u64, output: oneshot::Receiver<T> },
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Plain(_) => f.write_str("Task"),
            Task::Simulated { id, .. } => write!(f, "Task({id})"),
        }
    }
}

impl<T: Send + 'static> Task<T> {
    pub(crate) fn new(future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let Some(host) = current() else { return Task::Plain(Box::pin(future)) };
        let (give, output) = oneshot::channel();
        let future: BoxFuture = Box::pin(async move {
            // Whoever waited may be gone; the task ran all the same.
            drop(give.send(future.await));
        });
        let mut future = Some(future);
        let id = with_world(|world| {
            let id = world.next_task;
            world.next_task += 1;
            if world.hosts.get(&host).is_some_and(|host| host.alive) {
                world.tasks.insert(id, Entry { host, future: future.take() });
                world.ready.add(id);
            }
            id
        });
        Task::Simulated { id, output }
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match self.get_mut() {
            Task::Plain(future) => future.as_mut().poll(cx),
            Task::Simulated { output, .. } => match Pin::new(output).poll(cx) {
                Poll::Ready(Ok(output)) => Poll::Ready(output),
                // Its host was killed: whoever waits here is dead as well, or waits for ever, as for a lost machine.
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl<T> Drop for Task<T> {
    /// An abort: the task is dropped wherever it stands.
    fn drop(&mut self) {
        let Task::Simulated { id, .. } = self else { return };
        let id = *id;
        let entry = WORLD
            .try_with(|world| match world.try_borrow_mut() {
                Ok(mut world) => world.as_mut().and_then(|world| world.tasks.remove(&id)),
                Err(_) => None,
            })
            .ok()
            .flatten();
        if let Some(entry) = entry {
            within(entry.host, || drop(entry.future));
        }
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
