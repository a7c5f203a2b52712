//! The shipper: one owner of the files, the journal and the lanes.
//!
//! It reads, and reading blocks, so it has a thread and is no task; being one owner of all three it
//! needs no lock between "read", "remembered" and "sent". It goes in steps, each without waiting;
//! `drive` waits between them. It performs what the machines decide: `files` what each file asks
//! for, `home` what a restart of the host did to them, `read` the turns, `scan` what discovery finds, `send` what the lanes may send, `resolve`,
//! `resume` and `rebuild` what is to become of batches in doubt, `report` what people see. Whatever waits for a network is a
//! task elsewhere and answers through the inbox.
//!
//! Invariants: no batch is sent before its plan is in the journal; no file is read while a plan
//! that carries its bytes is unresolved from an earlier run; memory for events is bounded by the
//! spool.

mod drive;
mod files;
mod follow;
mod home;
mod read;
mod rebuild;
mod report;
mod resolve;
mod resume;
mod scan;
mod send;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tailway_client::Client;
use tailway_daemon::Clock;
use tailway_daemon::tasks::Group;
use tailway_metadata::time::Mono;
use tailway_wire::WireError;
use tailway_wire::record::BatchBuilder;

use crate::config::Config;
use crate::event::{EventWriter, Sender};
use crate::machine::identity::{FileId, Generation};
use crate::machine::ledger::{Record, Target};
use crate::machine::poll::PollPolicy;
use crate::machine::tail_file::{self, Action};
use crate::metrics::AgentMetrics;
use crate::output::inbox::{Inbox, LaneId, Message};
use crate::output::lane::{Lane, Lapse};
use crate::registry::{Registry, RegistryError};
use crate::tail::discover::Discovery;
use crate::tail::files::TailFiles;
use crate::tail::watch::Watches;

use files::Followed;
use resolve::Restart;
use resume::Unsent;
use scan::Dir;
use send::Topic;

pub use drive::drive;
#[cfg(feature = "sim")]
pub use drive::drive_simulated;

/// A followed file by its number.
type FileKey = usize;

/// Turns between two looks at the inbox.
const TURNS_MAX: usize = 8;
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_millis(500);
/// How often directories are listed that cannot be watched.
const POLLED_SCAN_INTERVAL: Duration = Duration::from_secs(2);
/// At a stop, for lanes that have trouble.
const STOP_TROUBLED: Duration = Duration::from_secs(1);

/// Why the shipper cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error("the journal cannot be kept, and without it nothing may be sent: {0}")]
    Registry(#[from] RegistryError),
    #[error("a batch cannot be built: {0}")]
    Batch(#[from] WireError),
}

/// What the shipper is made of.
#[derive(Debug)]
pub struct Parts {
    pub config: Arc<Config>,
    pub sender: Sender,
    pub clock: Clock,
    pub inbox: Inbox,
    pub registry: Registry,
    /// The files to follow are in here.
    pub source: Arc<dyn TailFiles>,
    pub client: Client,
    /// Where links and lookups run.
    pub tasks: Group,
    pub metrics: AgentMetrics,
    pub report: Arc<Mutex<Value>>,
}

/// A stop that was asked for.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    since: Mono,
    until: Mono,
}

/// What is to come after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another step, when something is in the inbox or after this time.
    Wait(Duration),
    /// Nothing: it has stopped.
    Done,
}

/// When something is to be done next.
#[derive(Debug, Clone, Copy)]
struct Calendar {
    sync: Mono,
    housekeeping: Mono,
    full_scan: Mono,
    polled_scan: Mono,
    report: Mono,
}

/// The shipper. Its life is `start`, then `step` until it is done.
#[derive(Debug)]
pub struct Shipper {
    config: Arc<Config>,
    clock: Clock,
    inbox: Inbox,
    registry: Registry,
    source: Arc<dyn TailFiles>,
    client: Client,
    tasks: Group,
    metrics: AgentMetrics,
    report: Arc<Mutex<Value>>,
    policy: PollPolicy,
    /// Of each input a hash of what decides how bytes become records.
    pipelines: BTreeMap<String, u64>,

    discovery: Discovery,
    watches: Watches,
    dirs: BTreeMap<PathBuf, Dir>,
    /// Directories to list again, and names in them that may mean another file than before.
    dirty: BTreeSet<PathBuf>,
    dirty_names: BTreeSet<PathBuf>,
    /// Directories of files that the last listing missed.
    look_again: BTreeSet<PathBuf>,
    /// Where renamed files are now, and the name that each had first.
    moved: BTreeMap<PathBuf, PathBuf>,
    /// Inputs that were never started before, by index: `start: end` is for them.
    new_inputs: BTreeSet<usize>,
    troubles: BTreeMap<PathBuf, String>,

    files: BTreeMap<FileKey, Followed>,
    file_next: FileKey,
    by_id: BTreeMap<FileId, FileKey>,
    by_path: BTreeMap<PathBuf, FileKey>,
    by_generation: BTreeMap<Generation, FileKey>,
    /// Generations that are over while bytes of theirs are still on their way.
    ended: BTreeSet<Generation>,
    /// Generations with lines of an earlier run that were voided, until a scan has looked for them.
    unsent: BTreeMap<Generation, Unsent>,
    /// Descriptors of followed files: how many at most, the files that have one in the order of
    /// opening, and those that wait for one.
    open_files_max: usize,
    opened: BTreeMap<u64, FileKey>,
    opened_next: u64,
    want_open: VecDeque<FileKey>,
    timers: BTreeSet<(Mono, FileKey)>,
    turns: VecDeque<FileKey>,
    actions: VecDeque<(FileKey, Action)>,

    topics: BTreeMap<String, Topic>,
    lanes: Vec<Lane>,
    lane_of: BTreeMap<Arc<Target>, LaneId>,
    restarts: BTreeMap<LaneId, Restart>,
    writer: EventWriter,
    builder: BatchBuilder,
    buffer: Vec<u8>,

    calendar: Calendar,
    /// Why events may be stored twice, whatever their file, if they may.
    repeated: Option<Lapse>,
    syncing: bool,
    changed: bool,
    stopping: Option<Stopping>,
}

impl Shipper {
    pub fn new(parts: Parts) -> Self {
        let Parts {
            config,
            sender,
            clock,
            inbox,
            registry,
            source,
            client,
            tasks,
            metrics,
            report,
        } = parts;
        let now = clock.mono();
        let known = &registry.ledger().inputs;
        let new_inputs = config.inputs.iter().enumerate();
        let new_inputs = new_inputs.filter(|(_, input)| !known.contains(&input.id));
        Self {
            pipelines: send::pipelines(&config, &sender),
            new_inputs: new_inputs.map(|(index, _)| index).collect(),
            writer: EventWriter::new(&sender),
            builder: BatchBuilder::new(config.output.compression.compression()),
            watches: Watches::new(Arc::clone(&source), inbox.clone()),
            policy: PollPolicy::default(),
            discovery: Discovery::default(),
            dirs: BTreeMap::new(),
            dirty: BTreeSet::new(),
            dirty_names: BTreeSet::new(),
            look_again: BTreeSet::new(),
            moved: BTreeMap::new(),
            troubles: BTreeMap::new(),
            files: BTreeMap::new(),
            file_next: 0,
            by_id: BTreeMap::new(),
            by_path: BTreeMap::new(),
            by_generation: BTreeMap::new(),
            ended: BTreeSet::new(),
            unsent: BTreeMap::new(),
            open_files_max: files::open_files_max(source.as_ref()),
            opened: BTreeMap::new(),
            opened_next: 0,
            want_open: VecDeque::new(),
            timers: BTreeSet::new(),
            turns: VecDeque::new(),
            actions: VecDeque::new(),
            topics: BTreeMap::new(),
            lanes: Vec::new(),
            lane_of: BTreeMap::new(),
            restarts: BTreeMap::new(),
            buffer: Vec::new(),
            calendar: Calendar {
                sync: now + SYNC_INTERVAL,
                housekeeping: now,
                full_scan: now,
                polled_scan: now + POLLED_SCAN_INTERVAL,
                report: now,
            },
            repeated: None,
            syncing: false,
            changed: true,
            stopping: None,
            config,
            clock,
            inbox,
            registry,
            source,
            client,
            tasks,
            metrics,
            report,
        }
    }

    /// The inbox that a step takes from.
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The first scan.
    pub fn start(&mut self) -> Result<(), ShipError> {
        self.settle_home()?;
        self.look_up_topics();
        self.full_scan()?;
        self.publish();
        Ok(())
    }

    /// Takes what is in the inbox and does what is due.
    pub fn step(&mut self) -> Result<Step, ShipError> {
        for message in self.inbox.take() {
            self.receive(message)?;
        }
        self.listen_to_watches()?;
        self.tick_files()?;
        for _ in 0..TURNS_MAX {
            // What is not read by now is read after the next start.
            let next = if self.stopping.is_none() { self.turns.pop_front() } else { None };
            let Some(key) = next else { break };
            self.turn(key)?;
        }
        self.pump_all()?;
        self.keep_house()?;
        if self.stopping.is_some_and(|stopping| self.may_stop(stopping)) {
            self.finish()?;
            return Ok(Step::Done);
        }
        Ok(Step::Wait(self.patience()))
    }

    /// How long to wait for something to happen.
    fn patience(&self) -> Duration {
        let is_stopping = self.stopping.is_some();
        let has_work = !self.turns.is_empty() || !self.dirty.is_empty();
        if has_work && !is_stopping {
            return Duration::ZERO;
        }
        let linger = self.linger();
        let calendar = &self.calendar;
        // Only what a step will do then: a time that passes without it would be no wait at all.
        let scans = [calendar.full_scan, calendar.polled_scan];
        let scans = scans.into_iter().filter(|_| !is_stopping);
        let restarts = self.restarts.values().filter(|restart| !restart.begun);
        let may_plan = self.registry.trouble().is_none();
        let lanes = self.lanes.iter().filter(|_| may_plan);
        let next = [calendar.sync, calendar.housekeeping]
            .into_iter()
            .chain(scans)
            .chain(lanes.filter_map(|lane| lane.deadline(linger)))
            .chain(self.timers.first().map(|(at, _)| *at))
            .chain(restarts.map(|restart| restart.at))
            .min();
        next.map_or(HOUSEKEEPING_INTERVAL, |at| at.since(self.clock.mono()))
    }

    fn receive(&mut self, message: Message) -> Result<(), ShipError> {
        self.changed = true;
        match message {
            Message::Topic { name, found } => self.topic_found(&name, found),
            Message::TopicTrouble { name, cause } => {
                self.topic_trouble(&name, cause);
                Ok(())
            }
            Message::Resolved { lane, resolved } => self.resolved(lane, resolved),
            Message::Moved { lane, found } => {
                self.moved(lane, found);
                Ok(())
            }
            Message::Started { lane, identity } => self.started(lane, identity),
            Message::LaneTrouble { lane, cause } => {
                self.lane_trouble(lane, cause);
                Ok(())
            }
            Message::Acked { lane, ack } => self.acked(lane, ack),
            Message::Stopped { lane, reason, open } => {
                self.stopped(lane, &reason, open.len());
                Ok(())
            }
            Message::Repeated { lane, records } => {
                self.repeated(lane, records);
                Ok(())
            }
            Message::Unproven { lane, records, why } => {
                self.unproven(lane, records.unsigned_abs(), &why);
                Ok(())
            }
            Message::Synced(done) => {
                self.syncing = false;
                self.registry.synced(done);
                Ok(())
            }
            Message::Stop(within) => {
                let since = self.clock.mono();
                self.stopping = Some(Stopping { since, until: since + within });
                self.turns.clear();
                Ok(())
            }
        }
    }

    fn tick_files(&mut self) -> Result<(), ShipError> {
        let now = self.clock.mono();
        while let Some((at, key)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(file) = self.files.get_mut(&key) {
                file.scheduled = None;
            }
            self.tell(key, tail_file::Event::Tick)?;
        }
        Ok(())
    }

    fn keep_house(&mut self) -> Result<(), ShipError> {
        let now = self.clock.mono();
        self.restart_lanes(now);
        if now >= self.calendar.sync {
            self.calendar.sync = now + SYNC_INTERVAL;
            self.start_sync();
        }
        if now >= self.calendar.housekeeping {
            self.calendar.housekeeping = now + HOUSEKEEPING_INTERVAL;
            self.open_waiting()?;
            self.arm_quiet_dirs()?;
            for lane in &mut self.lanes {
                lane.shrink(now);
            }
            if self.turns.is_empty() && self.buffer.capacity() > 0 {
                self.buffer = Vec::new();
            }
            if !self.syncing {
                self.catch_up()?;
                self.registry.compact_if_worth_it()?;
            }
            if self.changed && now >= self.calendar.report {
                self.changed = false;
                let begun = self.clock.mono();
                self.publish();
                let took = self.clock.mono().since(begun);
                self.calendar.report = now + report::pause_after(took);
            }
        }
        if self.stopping.is_some() {
            return Ok(());
        }
        if now >= self.calendar.full_scan {
            self.full_scan()?;
        }
        if now >= self.calendar.polled_scan {
            self.calendar.polled_scan = now + POLLED_SCAN_INTERVAL;
            self.mark_polled_dirs();
        }
        self.rescan_dirty()
    }

    /// Tries again to write the journal, if it is behind.
    fn catch_up(&mut self) -> Result<(), ShipError> {
        if self.registry.trouble().is_none() {
            return Ok(());
        }
        self.changed = true;
        if self.registry.catch_up()? { self.unblock() } else { Ok(()) }
    }

    fn start_sync(&mut self) {
        if self.syncing {
            return;
        }
        let Some(ticket) = self.registry.sync_ticket() else { return };
        self.syncing = true;
        let inbox = self.inbox.clone();
        // Not awaited: its answer is a message, and at a stop the journal is synced once more.
        let sync = move || inbox.send(Message::Synced(ticket.run()));
        drop(tailway_runtime::spawn_blocking(sync));
    }

    fn may_stop(&self, stopping: Stopping) -> bool {
        let now = self.clock.mono();
        let mut busy = self.lanes.iter().filter(|lane| !lane.is_empty()).peekable();
        if busy.peek().is_none() || now >= stopping.until {
            return true;
        }
        // What is only buffered is read again at the next start; what has trouble may never end.
        let hopeless = busy.all(|lane| !lane.is_flowing() || lane.trouble.is_some());
        hopeless && now.since(stopping.since) >= STOP_TROUBLED
    }

    fn finish(&mut self) -> Result<(), ShipError> {
        self.registry.record(Record::Rest)?;
        if !self.registry.sync()? {
            tracing::error!(
                cause = self.registry.trouble(),
                "stopped without all in the journal; the next start finds out about what was sent"
            );
        }
        self.publish();
        let open = self.registry.ledger().plans.len();
        if open > 0 {
            tracing::warn!(
                batches = open,
                "stopped while batches had no answer; the next start finds out about them"
            );
        }
        Ok(())
    }

    fn linger(&self) -> Duration {
        if self.stopping.is_some() { Duration::ZERO } else { self.config.output.linger }
    }
}

#[cfg(test)]
mod tests;
