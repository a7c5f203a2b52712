//! The owner of one cursor: one partition on its way into one sink.
//!
//! It alone tells the cursor what happens, holds the records, and starts what the cursor asks for as jobs that report back.
//! On a stop nothing more is sent, and what is answered in time is committed; the next run looks up the rest.
//! Invariants: a position with its memory is durable before anything is sent; a record is held until the cursor forgets it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::{Clock, Deadline};
use tailway_metadata::time::Mono;
use tailway_net::backoff::Backoff;
use tokio::task::JoinSet;

use super::dead_letters::{DeadLetters, Letter};
use super::lifetime::Lifetime;
use super::limiter::Limiter;
use super::progress::{Committed, Progress, group_of};
use super::reading::{Reading, Source};
use super::record::Record;
use super::report::{LaneReport, Reporter};
use super::sink::{Lane, Place, Sink};
use crate::cluster::PartitionDoor;
use crate::config::Start;
use crate::machine::forward::{Action, BatchId, Cursor, Event, Failure, Item, Options, Pause};
use crate::partition::ListOffset;

/// Offsets above the durable commit that may be sent: as many are looked up after a crash at most.
const WINDOW: i64 = 50_000;
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
const BACKOFF_CAP: Duration = Duration::from_secs(30);
/// What is under way at a stop is waited for this long.
const STOP_WAIT: Duration = Duration::from_secs(3);
/// How often it is said where it stands: while there is something to do, and while there is not.
const REPORT_EVERY: Duration = Duration::from_secs(1);
const REPORT_IDLE_EVERY: Duration = Duration::from_secs(15);
/// A position that does not move is committed again, before the group coordinator forgets it.
const KEEP_EVERY: Duration = Duration::from_hours(6);
/// The same trouble is said again after this long.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// What a driver is made of.
pub(super) struct Driver {
    pub(super) sink: Arc<Sink>,
    pub(super) lane: Arc<Lane>,
    /// Where the records belong.
    pub(super) place: Place,
    /// Where they are read.
    pub(super) source: Source,
    pub(super) door: PartitionDoor,
    pub(super) progress: Progress,
    pub(super) dead_letters: DeadLetters,
    pub(super) reporter: Reporter,
    pub(super) clock: Clock,
    pub(super) buffer_bytes: usize,
    pub(super) seed: u64,
    /// The highest offset that was to be committed; held while one is.
    pub(super) highest: Arc<tokio::sync::Mutex<i64>>,
}

/// What a job reports.
enum Done {
    Read(Reading),
    Sent { batch: BatchId, outcome: Result<Vec<Item>, Failure>, records: Vec<Arc<Record>> },
    LookedUp { batch: BatchId, outcome: Result<Vec<bool>, Failure> },
    DeadLettered(Result<(), String>),
    Committed(Result<(), String>),
    Kept,
}

struct Owner {
    parts: Driver,
    cursor: Cursor,
    held: BTreeMap<i64, Arc<Record>>,
    jobs: JoinSet<Done>,
    actions: Vec<Action>,
    /// What is in the way besides the sink: commits, dead letters, the log itself.
    own_trouble: Option<String>,
    lag_seconds: i64,
    report_at: Mono,
    keep_at: Mono,
    said_at: Option<Mono>,
}

impl Driver {
    pub(super) async fn run(mut self, mut lifetime: Lifetime) {
        let Some(Some((committed, doubtful_below))) = lifetime.unless(self.open()).await else {
            return;
        };
        let limits = &self.sink.config.limits;
        let options = Options {
            window: WINDOW,
            buffer_bytes: self.buffer_bytes,
            batch_bytes: limits.batch_bytes,
            batch_records: limits.batch_records,
            in_flight_max: self.sink.in_flight_max(),
            is_ordered: self.lane.is_ordered(),
            looks_up: self.lane.looks_up(),
            rejects_in_a_row_max: limits.rejects_in_a_row_max,
            commit_interval: COMMIT_INTERVAL,
            backoff_first: BACKOFF_FIRST,
            backoff_cap: BACKOFF_CAP,
        };
        let now = self.clock.mono();
        let owner = Owner {
            cursor: Cursor::new(options, committed, doubtful_below, self.seed),
            parts: self,
            held: BTreeMap::new(),
            jobs: JoinSet::new(),
            actions: Vec::new(),
            own_trouble: None,
            lag_seconds: 0,
            report_at: now,
            keep_at: now + KEEP_EVERY,
            said_at: None,
        };
        owner.run(lifetime).await;
    }

    /// Finds the position, or commits the first one. `None`: the partition is gone.
    async fn open(&mut self) -> Option<(i64, i64)> {
        let mut backoff = Backoff::new(BACKOFF_FIRST, BACKOFF_CAP, self.seed);
        loop {
            let (trouble, pause) = match self.try_open().await {
                Ok(position) => return Some(position),
                Err(failure) => {
                    let kind = match &failure {
                        Failure::Pause(Pause { kind, .. }) => Some(kind.to_string()),
                        _ => None,
                    };
                    (failure.cause(), kind)
                }
            };
            let attempt = backoff.attempts();
            if attempt == 0 || attempt % 10 == 9 {
                let (sink, topic) = (&self.place.sink, &self.source.topic);
                tracing::warn!(%sink, %topic, partition = self.source.partition, %trouble, "forwarding cannot begin yet");
            }
            let state = if pause.is_some() { "paused" } else { "starting" };
            let trouble = Some(trouble.to_string());
            let report = LaneReport { state, pause, trouble, ..LaneReport::default() };
            self.reporter.set(report, crate::machine::forward::Tally::default());
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn try_open(&self) -> Result<(i64, i64), Failure> {
        let failed = |cause: String| Failure::Unsent { cause: cause.into() };
        let Source { topic, partition, .. } = &self.source;
        let group = group_of(&self.place.sink);
        let found = self.progress.fetch(&group, topic, *partition).await.map_err(failed)?;
        let watermarks = *self.door.watermarks().borrow();
        let mut start = self.sink.config.start;
        if let Some(Committed { offset, memory }) = found {
            let (id, memory) = memory.split_once(' ').unwrap_or_default();
            let of_another = !id.is_empty() && id != self.source.topic_id.to_string();
            if !of_another && offset <= watermarks.log_end {
                self.lane.remember(memory);
                self.commit(offset).await.map_err(failed)?;
                return Ok((offset, self.lane.doubtful_below(watermarks.high_watermark)));
            }
            tracing::warn!(%topic, partition, offset, "the committed offset is of an earlier topic of this name; forwarding begins at the start of this one");
            start = Start::Earliest;
        }
        self.lane.prepare().await?;
        let which = match start {
            Start::Latest if !self.source.is_replay() => ListOffset::Latest,
            Start::Latest | Start::Earliest => ListOffset::Earliest,
        };
        let listed =
            self.door.list_offset(which).await.map_err(|error| failed(error.to_string()))?;
        self.commit(listed.offset).await.map_err(failed)?;
        Ok((listed.offset, listed.offset))
    }

    /// Commits, one after the other and never less than before, with the lane's memory as it is then.
    fn commit(&self, offset: i64) -> impl Future<Output = Result<(), String>> + use<> {
        let Source { topic, topic_id, partition, .. } = self.source.clone();
        let (progress, group) = (self.progress.clone(), group_of(&self.place.sink));
        let (lane, highest) = (Arc::clone(&self.lane), Arc::clone(&self.highest));
        async move {
            let mut highest = highest.lock().await;
            *highest = offset.max(*highest);
            let memory = format!("{topic_id} {}", lane.memory());
            let committed = Committed { offset: *highest, memory };
            progress.commit(&group, &topic, partition, committed).await
        }
    }
}

impl Owner {
    async fn run(mut self, mut lifetime: Lifetime) {
        let mut stop_by: Option<Deadline> = None;
        self.tell(Event::Tick);
        loop {
            if self.cursor.is_stopped() || stop_by.is_some_and(|by| by.remaining().is_zero()) {
                break;
            }
            let clock = self.parts.clock.clone();
            let (deadline, report_at) = (self.cursor.deadline(), self.report_at);
            tokio::select! {
                biased;
                () = lifetime.ended(), if stop_by.is_none() => {
                    stop_by = Some(Deadline::after(STOP_WAIT));
                    self.tell(Event::Stop);
                }
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    match done {
                        Ok(Done::Read(Reading::Gone(why))) => {
                            tracing::debug!(topic = %self.parts.source.topic, why, "forwarding of a partition ends");
                            break;
                        }
                        Ok(done) => self.done(done),
                        // A job that panicked has ended the program already; an aborted one is of a stop.
                        Err(_) => break,
                    }
                }
                () = clock.sleep_until(deadline) => self.tell(Event::Tick),
                () = clock.sleep_until(Some(report_at)) => {}
                () = until(stop_by) => {}
            }
            self.report();
        }
    }

    fn tell(&mut self, event: Event) {
        let now = self.parts.clock.mono();
        let mut actions = std::mem::take(&mut self.actions);
        self.cursor.on_event(event, now, &mut actions);
        tailway_faults::verify(|| self.cursor.check());
        for action in actions.drain(..) {
            self.perform(action);
        }
        self.actions = actions;
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Read(Reading::Records { records, next }) => {
                let taken = records.iter().map(|record| crate::machine::forward::Taken {
                    offset: record.offset,
                    bytes: record.size(),
                });
                let taken = taken.collect();
                self.held
                    .extend(records.into_iter().map(|record| (record.offset, Arc::new(record))));
                self.tell(Event::Read { records: taken, next });
                // What the cursor did not take is read again.
                let beyond = self.held.split_off(&self.cursor.read_position());
                drop(beyond);
            }
            Done::Read(Reading::Trimmed { from, log_start }) => {
                let count = u64::try_from(log_start.saturating_sub(from)).unwrap_or(0);
                let Source { topic, partition, .. } = &self.parts.source;
                let sink = &self.parts.place.sink;
                tracing::error!(%sink, %topic, partition, from, log_start, "retention deleted records before this sink had them; keep them for longer (retention.ms), or mend what holds the sink up");
                self.parts.reporter.deleted_unread(count);
                self.tell(Event::Trimmed { log_start });
            }
            Done::Read(Reading::Gone(_)) | Done::Kept => {}
            Done::Sent { batch, outcome, records } => {
                if let Ok(items) = &outcome {
                    self.count_bytes(items, &records);
                }
                self.tell(Event::Sent { batch, outcome });
            }
            Done::LookedUp { batch, outcome } => self.tell(Event::LookedUp { batch, outcome }),
            Done::DeadLettered(outcome) => {
                let durable = self.note(outcome);
                self.tell(Event::DeadLettered { durable });
            }
            Done::Committed(outcome) => {
                let durable = self.note(outcome);
                self.tell(Event::Committed { durable });
            }
        }
    }

    /// Remembers what is in the way of commits and dead letters; whether nothing is.
    fn note(&mut self, outcome: Result<(), String>) -> bool {
        let durable = outcome.is_ok();
        self.own_trouble = outcome.err();
        durable
    }

    fn count_bytes(&mut self, items: &[Item], records: &[Arc<Record>]) {
        let done = items.iter().zip(records).filter(|(item, _)| **item == Item::Done);
        let bytes: usize = done.map(|(_, record)| record.content_size()).sum();
        self.parts.reporter.delivered_bytes(bytes as u64);
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Read { from } => {
                let (door, source) = (self.parts.door.clone(), self.parts.source.clone());
                let progress = self.parts.progress.clone();
                self.start(async move { Done::Read(source.read(&door, &progress, from).await) });
            }
            Action::Send { batch, offsets } => {
                let records = self.records(&offsets);
                let (lane, limiter) =
                    (Arc::clone(&self.parts.lane), self.parts.sink.limiter.clone());
                let clock = self.parts.clock.clone();
                // Where the order is kept, all below is done.
                let plan = offsets.first().map(|lowest| self.parts.commit(*lowest));
                self.start(async move {
                    let outcome = match planned(&lane, &records, plan).await {
                        Ok(()) => send(&lane, &limiter, &clock, records.clone()).await,
                        Err(failure) => Err(failure),
                    };
                    Done::Sent { batch, outcome, records }
                });
            }
            Action::LookUp { batch, offsets } => {
                let (records, lane) = (self.records(&offsets), Arc::clone(&self.parts.lane));
                self.start(async move {
                    Done::LookedUp { batch, outcome: lane.look_up(records).await }
                });
            }
            Action::DeadLetter { records } => {
                let letters = records.into_iter().filter_map(|(offset, rejection)| {
                    let record = Arc::clone(self.held.get(&offset)?);
                    let id = self.parts.lane.id_of(&record, &self.parts.place);
                    Some(Letter { record, rejection, id })
                });
                let letters = letters.collect();
                let (dead, place) = (self.parts.dead_letters.clone(), self.parts.place.clone());
                self.start(async move { Done::DeadLettered(dead.write(&place, letters).await) });
            }
            Action::Commit { offset } => {
                if self.cursor.is_settled() {
                    self.parts.lane.settled();
                }
                self.keep_at = self.parts.clock.mono() + KEEP_EVERY;
                let commit = self.parts.commit(offset);
                self.start(async move { Done::Committed(commit.await) });
            }
            Action::Forget { below } => self.held = self.held.split_off(&below),
            Action::Paused(Pause { kind, cause }) => {
                let Source { topic, partition, .. } = &self.parts.source;
                let sink = &self.parts.place.sink;
                tracing::error!(%sink, %topic, partition, %kind, %cause, "forwarding pauses until this is mended; nothing is given up, single attempts go on");
                self.report_at = Mono::ZERO;
            }
            Action::Resumed => {
                let Source { topic, partition, .. } = &self.parts.source;
                tracing::info!(sink = %self.parts.place.sink, %topic, partition, "forwarding goes on");
                self.report_at = Mono::ZERO;
            }
        }
    }

    fn start(&mut self, job: impl Future<Output = Done> + Send + 'static) {
        self.jobs.spawn(tailway_runtime::task(job));
    }

    fn records(&self, offsets: &[i64]) -> Vec<Arc<Record>> {
        offsets.iter().filter_map(|offset| self.held.get(offset)).cloned().collect()
    }

    /// Says where it stands, if it is time.
    fn report(&mut self) {
        let now = self.parts.clock.mono();
        if now >= self.keep_at {
            self.keep_at = now + KEEP_EVERY;
            let commit = self.parts.commit(self.cursor.committed());
            self.start(async move {
                drop(commit.await);
                Done::Kept
            });
        }
        if now < self.report_at {
            return;
        }
        let high_watermark = self.parts.door.watermarks().borrow().high_watermark;
        let committed = self.cursor.committed();
        let lag = high_watermark.saturating_sub(committed).max(0);
        if lag == 0 {
            self.lag_seconds = 0;
        } else if let Some((_, oldest)) = self.held.first_key_value() {
            let age = self.parts.clock.wall().0.saturating_sub(oldest.timestamp);
            self.lag_seconds = (age / 1_000).max(0);
        }
        let (cause, pause) = self.cursor.trouble().unzip();
        let pause = pause.flatten();
        let state = match (pause, cause.is_some() || self.own_trouble.is_some()) {
            (Some(_), _) => "paused",
            (None, true) => "retrying",
            (None, false) => "flowing",
        };
        let trouble = cause.map(str::to_owned).or_else(|| self.own_trouble.clone());
        self.say(trouble.as_deref().filter(|_| pause.is_none()), now);
        let report = LaneReport {
            committed: Some(committed),
            high_watermark,
            lag_records: Some(lag),
            lag_seconds: Some(self.lag_seconds),
            state,
            pause: pause.map(|kind| kind.to_string()),
            trouble,
            ..LaneReport::default()
        };
        let busy = lag > 0 || state != "flowing";
        self.report_at = now + if busy { REPORT_EVERY } else { REPORT_IDLE_EVERY };
        self.parts.reporter.set(report, self.cursor.tally());
    }

    fn say(&mut self, trouble: Option<&str>, now: Mono) {
        let Some(trouble) = trouble else { return };
        if self.said_at.is_none_or(|at| now.since(at) >= SAY_EVERY) {
            self.said_at = Some(now);
            let Source { topic, partition, .. } = &self.parts.source;
            tracing::warn!(sink = %self.parts.place.sink, %topic, partition, trouble, "forwarding is held up and tried again");
        }
    }
}

/// Makes durable what the lane has to remember of what it is about to send, if it has to.
async fn planned(
    lane: &Lane,
    records: &[Arc<Record>],
    commit: Option<impl Future<Output = Result<(), String>>>,
) -> Result<(), Failure> {
    if !lane.plan(records).await? {
        return Ok(());
    }
    if let Some(commit) = commit {
        commit.await.map_err(|cause| Failure::Unsent { cause: cause.into() })?;
    }
    lane.planned();
    Ok(())
}

/// One request, in its turn among those of all partitions.
async fn send(
    lane: &Lane,
    limiter: &Limiter,
    clock: &Clock,
    records: Vec<Arc<Record>>,
) -> Result<Vec<Item>, Failure> {
    let turn = limiter.place().await;
    let outcome = lane.write(records).await;
    match &outcome {
        Ok(items) => {
            let busy = items.iter().any(|item| matches!(item, Item::Again { .. }));
            turn.answered(!busy, clock.mono());
        }
        Err(Failure::Busy { .. } | Failure::Doubtful { .. }) => turn.answered(false, clock.mono()),
        Err(_) => drop(turn),
    }
    outcome
}

async fn until(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.instant()).await,
        None => std::future::pending().await,
    }
}
