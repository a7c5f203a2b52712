//! A disk in memory that can lose its power, lie and rot, for simulations and crash tests.
//!
//! It keeps what programs see apart from what is durable: bytes per file (`images`), names per directory (`names`). A test
//! cuts the power (`crash`) or ends the program (`kill`), orders faults once (`arm`, `fail`) or by chance (`SimFaults`),
//! looks at what is durable, and reads or compares what happened (`trace`, `digest`).
//! Each program has a life: `crash` and `kill` end it, and every handle, lock and `SimDisk` value of that life answers with
//! an error from then on, so that a task which outlived its program cannot touch the disk of the next one. What inspects or
//! damages the disk works through any value.
//! Driven by one thread, everything follows from the calls and the seeds. Not simulated: latency, and what `FsDisk` hides
//! (short writes, EINTR). A file's holes take room.

mod calls;
mod faults;
mod images;
mod names;
mod trace;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

pub(crate) use calls::SimLock;
pub use faults::{SimFault, SimFaults};
pub use trace::{Act, DiskEvent, Operation, Outcome};

use crate::seed::Seed;
use faults::Faults;
use images::{FileNode, Images, Odds, Stray, index};
use names::{Names, Node};
use trace::Trace;

type Hook = Arc<dyn Fn(&SimDisk, &DiskEvent) + Send + Sync>;

/// The disk as one life of a program sees it. Clones are of the same disk and life.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
    life: u64,
}

struct Shared {
    state: Mutex<State>,
    hook: Mutex<Option<Hook>>,
}

#[derive(Debug)]
struct State {
    names: Names,
    /// All files that somebody may still reach, by number, for writes that go astray.
    files: BTreeMap<u64, Weak<Mutex<Images>>>,
    /// Bytes of all files that have a name.
    used: u64,
    bytes_max: Option<u64>,
    life: u64,
    /// Why the life before this one ended.
    ended_by: &'static str,
    /// Directory -> lock.
    locks: BTreeMap<u64, u64>,
    locks_taken: u64,
    faults: Faults,
    trace: Trace,
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").field("life", &self.life).finish_non_exhaustive()
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk without a size limit.
    pub fn new() -> SimDisk {
        SimDisk::with_seed(0)
    }

    /// An empty disk whose faults happen by this seed.
    pub fn with_seed(seed: u64) -> SimDisk {
        SimDisk::of(State::new(Names::new(), seed))
    }

    /// An empty disk on which writes fail with "no space left" beyond `bytes_max`.
    pub fn with_capacity(bytes_max: u64) -> SimDisk {
        let disk = SimDisk::new();
        disk.set_capacity(Some(bytes_max));
        disk
    }

    fn of(state: State) -> SimDisk {
        let life = state.life;
        let shared = Shared { state: Mutex::new(state), hook: Mutex::new(None) };
        SimDisk { shared: Arc::new(shared), life }
    }

    /// Changes the limit, as when somebody frees or takes space.
    pub fn set_capacity(&self, bytes_max: Option<u64>) {
        self.state().bytes_max = bytes_max;
    }

    /// Changes what goes wrong by chance.
    pub fn set_faults(&self, faults: SimFaults) {
        self.state().faults.plan = faults;
    }

    /// What goes wrong by chance now.
    pub fn faults(&self) -> SimFaults {
        self.state().faults.plan.clone()
    }

    /// Orders a fault for the `nth` call from now (1 = the next) that it can happen to, once.
    pub fn arm(&self, fault: SimFault, nth: u64) {
        self.state().faults.arm(fault, nth);
    }

    /// Fails the `nth` such call from now (1 = the next), once.
    pub fn fail(&self, operation: Operation, nth: u64, error: io::ErrorKind) {
        self.arm(SimFault::Fail(operation, error), nth);
    }

    /// Forgets the orders that have not been carried out, a coming loss of power included.
    pub fn disarm_all(&self) {
        self.state().faults.disarm_all();
    }

    /// Lets `count` more operations that change the disk through. The power goes during the next one, which may be done,
    /// done in part or not; from then on every call fails. `crash` (or `kill`, for what the page cache had) goes on.
    pub fn power_off_after(&self, count: u64) {
        self.state().faults.power_off_after(count);
    }

    /// Whether `power_off_after` has come to pass.
    pub fn is_off(&self) -> bool {
        self.state().faults.is_off()
    }

    /// How many calls of this kind were tried.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().faults.count(operation)
    }

    /// How many calls that change the disk were tried.
    pub fn total(&self) -> u64 {
        self.state().faults.total()
    }

    /// Cuts the power and restores it: each un-synced 512-byte sector, length change, creation, rename and removal
    /// survives or not, as the seed says. Ends the life of the program; returns the disk for the next one.
    #[must_use]
    pub fn crash(&self, seed: u64) -> SimDisk {
        let mut state = self.state();
        state.crash(&mut Seed::new(seed));
        self.begin_life(state, Act::PowerCut(seed), "the power was cut")
    }

    /// Ends the life of the program and nothing else: what it wrote is in the page cache and read by the next one, for
    /// which the disk is returned.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        self.begin_life(self.state(), Act::Killed, "the program was killed")
    }

    /// The disk as the program that lives now sees it.
    #[must_use]
    pub fn current(&self) -> SimDisk {
        SimDisk { shared: Arc::clone(&self.shared), life: self.state().life }
    }

    /// What a power cut at this moment may leave, as a disk of its own with the same capacity and no faults. This one is
    /// unchanged.
    #[must_use]
    pub fn crash_image(&self, seed: u64) -> SimDisk {
        let state = self.state();
        let mut copies: BTreeMap<u64, FileNode> = BTreeMap::new();
        let mut names = state.names.clone();
        names.replace_files(&mut |file| {
            let images = lock(file);
            let copy = copies.entry(images.number);
            FileNode::clone(copy.or_insert_with(|| Arc::new(Mutex::new(images.clone()))))
        });
        let mut image = State::new(names, seed);
        image.bytes_max = state.bytes_max;
        drop(state);
        image.files = copies.iter().map(|(number, file)| (*number, Arc::downgrade(file))).collect();
        image.crash(&mut Seed::new(seed));
        SimDisk::of(image)
    }

    /// Reads everything that is clean from the platter again, as under memory pressure: from here on programs see what a
    /// failed sync, a phantom or a misdirected write has lost.
    pub fn drop_caches(&self) {
        let mut state = self.state();
        for file in state.names.files(false).values() {
            lock(file).drop_cache();
        }
        state.note_act(Act::CacheDropped, Path::new("/"), 0);
    }

    /// Flips one durable bit of a file, and the page cache shows it unless that place is about to be written. The offset
    /// of the byte; nothing if the file is not there or has no durable bytes.
    pub fn rot(&self, path: &Path, seed: u64) -> Option<u64> {
        let mut state = self.state();
        let file = state.file(path)?;
        let at = lock(&file).rot(&mut Seed::new(seed))?;
        state.note_act(Act::Rotted, path, at);
        Some(at)
    }

    /// What programs would read from a file now, from `offset` on.
    pub fn live_image_from(&self, path: &Path, offset: u64) -> Option<Vec<u8>> {
        let file = self.state().file(path)?;
        Some(rest_of(lock(&file).live(), offset))
    }

    /// How long a power cut leaves a file at the least.
    pub fn durable_len(&self, path: &Path) -> Option<u64> {
        let file = self.state().names.file(path, true)?;
        Some(lock(&file).durable().len() as u64)
    }

    /// What a power cut leaves of a file at the least, from `offset` on.
    pub fn durable_image_from(&self, path: &Path, offset: u64) -> Option<Vec<u8>> {
        let file = self.state().names.file(path, true)?;
        Some(rest_of(lock(&file).durable(), offset))
    }

    /// What programs would read from a file now.
    pub fn live_image(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.state().file(path)?;
        Some(lock(&file).live().to_vec())
    }

    /// What a power cut leaves of a file at the least, if anything of it is durable under this name.
    pub fn durable_image(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.state().names.file(path, true)?;
        Some(lock(&file).durable().to_vec())
    }

    /// The durable names in a directory, sorted; none if it is not there.
    pub fn durable_names(&self, dir: &Path) -> Vec<String> {
        self.state().names.names_in(dir, true)
    }

    /// All files that programs see, in order of their absolute paths.
    pub fn live_paths(&self) -> Vec<PathBuf> {
        self.state().names.files(false).into_keys().collect()
    }

    /// All files whose names are durable, in order of their absolute paths.
    pub fn durable_paths(&self) -> Vec<PathBuf> {
        self.state().names.files(true).into_keys().collect()
    }

    /// The last events, oldest first; of reads only those that failed.
    pub fn trace(&self) -> Vec<DiskEvent> {
        self.state().trace.lines()
    }

    /// Of everything that has happened: equal for equal runs.
    pub fn digest(&self) -> u64 {
        self.state().trace.digest()
    }

    /// Calls `hook` after each event, with this disk. It may look at the disk; calls that it makes are events themselves.
    pub fn on_event(&self, hook: impl Fn(&SimDisk, &DiskEvent) + Send + Sync + 'static) {
        *lock(&self.shared.hook) = Some(Arc::new(hook));
    }

    fn begin_life(&self, mut state: MutexGuard<'_, State>, act: Act, why: &'static str) -> SimDisk {
        state.life += 1;
        state.ended_by = why;
        state.locks.clear();
        for file in state.names.files(false).values() {
            lock(file).unreported = false;
        }
        state.faults.power_on();
        let event = state.note_act(act, Path::new("/"), 0);
        let next = SimDisk { shared: Arc::clone(&self.shared), life: state.life };
        drop(state);
        next.tell(&event);
        next
    }

    fn tell(&self, event: &DiskEvent) {
        let hook = lock(&self.shared.hook).clone();
        if let Some(hook) = hook {
            hook(self, event);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }
}

impl State {
    fn new(names: Names, seed: u64) -> State {
        State {
            names,
            files: BTreeMap::new(),
            used: 0,
            bytes_max: None,
            life: 0,
            ended_by: "",
            locks: BTreeMap::new(),
            locks_taken: 0,
            faults: Faults::new(seed),
            trace: Trace::default(),
        }
    }

    fn crash(&mut self, seed: &mut Seed) {
        let odds = Odds::draw(seed);
        self.names.crash(seed, odds);
        // By number, so that the seed's choices do not hang on names.
        let files: BTreeMap<u64, FileNode> =
            self.names.files(true).into_values().map(|file| (number_of(&file), file)).collect();
        let mut strays = Vec::new();
        for file in files.values() {
            let odds = if seed.coin() { odds } else { Odds::draw(seed) };
            strays.append(&mut lock(file).settle(seed, odds));
        }
        self.files = files.iter().map(|(number, file)| (*number, Arc::downgrade(file))).collect();
        self.land(strays);
        self.used = 0;
        for file in files.values() {
            let mut images = lock(file);
            images.forget_cache();
            images.linked = true;
            self.used += images.len();
        }
    }

    /// Lets misdirected bytes land.
    fn land(&self, strays: Vec<Stray>) {
        for Stray { file, offset, bytes } in strays {
            if let Some(file) = self.files.get(&file).and_then(Weak::upgrade) {
                lock(&file).overwrite_durable(&bytes, offset);
            }
        }
    }

    fn file(&self, path: &Path) -> Option<FileNode> {
        match self.names.find(path) {
            Ok(Some(Node::File(file))) => Some(file),
            _ => None,
        }
    }

    fn note_act(&mut self, act: Act, path: &Path, offset: u64) -> DiskEvent {
        let outcome = Outcome::Done;
        let path = Arc::from(path);
        let event = DiskEvent { number: 0, act, path, to: None, offset, bytes: 0, outcome };
        self.trace.note(event, 0)
    }
}

fn rest_of(image: &[u8], offset: u64) -> Vec<u8> {
    image.get(index(offset)..).unwrap_or_default().to_vec()
}

fn number_of(file: &FileNode) -> u64 {
    lock(file).number
}

/// A panic of a test's thread leaves no half-made state behind: nothing here panics between two changes.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod filesystem_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
