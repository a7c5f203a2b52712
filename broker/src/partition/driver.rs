//! The owner task of one partition: drives `machine::partition` over the log.
//!
//! It takes what gathered in the queue as one group, lets the machine give out offsets, writes the group at once and only
//! then performs the answers. Writes go to the page cache from this task; everything that waits for the disk (syncs,
//! deletions, compaction) happens elsewhere.
//! Invariants: one flush in flight, one piece of maintenance in flight; each append is answered exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tailway_daemon::Stop;
use tailway_daemon::clock::Clock;
use tailway_storage::StorageError;
use tailway_wire::record::Batch;
use tokio::sync::{mpsc, oneshot};

use super::checkpoints::Checkpoints;
use super::flusher::{Flushed, Flusher};
use super::maintenance::{Maintenance, Outcome};
use super::shared::Shared;
use super::trusted::TrustedClock;
use super::validate::facts;
use super::{Acks, Appended, PartitionError, ProducerReport};
use crate::log::{Log, LogConfig, PlacedBatch};
use crate::machine::partition::{Action, Event, PartitionLeader, RequestId};
use crate::machine::retention::Trusted;

/// Commands taken from the queue at once.
const COMMANDS_PER_GROUP: usize = 64;

/// Bytes written at once, about.
const BYTES_PER_WRITE: usize = 4 * 1024 * 1024;

/// Appends that may wait for a flush; beyond that the queue is not read.
const WAITING_MAX: usize = 4096;

/// Commands that may wait in a partition's queue. Their bytes are bounded by whoever holds the requests.
pub(super) const QUEUE: usize = 128;

type Reply = oneshot::Sender<Result<Appended, PartitionError>>;

pub(super) enum Command {
    Append { batches: Vec<Batch>, acks: Acks, reply: Reply },
    BecomeLeader { leader_epoch: i32 },
    DescribeProducers { reply: oneshot::Sender<Vec<ProducerReport>> },
    Reconfigure { config: Arc<LogConfig> },
    Housekeep { done: Option<oneshot::Sender<()>> },
    Quarantine { cause: Arc<str> },
    Close { how: Closing, done: oneshot::Sender<Result<(), PartitionError>> },
}

/// What closing leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    /// Everything durable and ready for a clean start.
    Clean,
    /// Whatever is there: the log is going to be deleted.
    Discard,
}

pub(super) struct Driver {
    pub(super) shared: Arc<Shared>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) log: Log,
    pub(super) leader: PartitionLeader,
    pub(super) flusher: Flusher,
    pub(super) clock: Clock,
    pub(super) trusted: Arc<TrustedClock>,
    pub(super) checkpoints: Arc<Checkpoints>,
}

/// What the task holds besides the parts it was made of.
struct Owner {
    parts: Driver,
    actions: Vec<Action>,
    /// The group that is being gathered.
    group: Vec<PlacedBatch>,
    group_bytes: usize,
    waiting: BTreeMap<RequestId, Reply>,
    next_request: u64,
    flush: Option<Flush>,
    maintenance: Maintenance,
}

struct Flush {
    through: i64,
    done: oneshot::Receiver<Flushed>,
}

impl Driver {
    /// `attended` answers the watchdog; it ends by `Command::Close`.
    pub(super) async fn run(self, attended: Stop) {
        let owner = Owner {
            parts: self,
            actions: Vec::new(),
            group: Vec::new(),
            group_bytes: 0,
            waiting: BTreeMap::new(),
            next_request: 0,
            flush: None,
            maintenance: Maintenance::default(),
        };
        owner.run(attended).await;
    }
}

impl Owner {
    async fn run(mut self, mut attended: Stop) {
        let mut commands = Vec::new();
        loop {
            tokio::select! {
                biased;
                never = attended.attended() => match never {},
                flushed = flushed(&mut self.flush) => self.flushed(flushed).await,
                outcome = self.maintenance.finished() => self.maintained(outcome).await,
                count = self.parts.commands.recv_many(&mut commands, COMMANDS_PER_GROUP),
                    if self.waiting.len() < WAITING_MAX =>
                {
                    if count == 0 {
                        return;
                    }
                    for command in commands.drain(..) {
                        if let Command::Close { how, done } = command {
                            self.write_group().await;
                            self.close(how, done).await;
                            return;
                        }
                        self.command(command).await;
                    }
                    self.write_group().await;
                }
            }
        }
    }

    async fn command(&mut self, command: Command) {
        match command {
            Command::Append { batches, acks, reply } => self.append(&batches, acks, reply).await,
            Command::BecomeLeader { leader_epoch } => {
                self.event(Event::BecomeLeader { leader_epoch }).await;
                let epoch = self.parts.leader.leader_epoch();
                self.parts.shared.leader_epoch.store(epoch, Ordering::Release);
            }
            Command::DescribeProducers { reply } => {
                // Who asked may have given up.
                reply.send(self.parts.leader.producers().reports()).ok();
            }
            Command::Reconfigure { config } => {
                self.write_group().await;
                self.parts.log.reconfigure(config.as_ref().clone());
            }
            Command::Housekeep { done } => {
                self.write_group().await;
                self.housekeep(done).await;
            }
            Command::Quarantine { cause } => self.event(Event::Quarantined { cause }).await,
            Command::Close { .. } => {}
        }
    }

    async fn append(&mut self, batches: &[Batch], acks: Acks, reply: Reply) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request, reply);
        let wall = self.parts.clock.wall();
        let stamp = self.parts.log.config().log_append_time.then_some(wall.0);
        let event = Event::Produce {
            request,
            acks,
            batches: facts(batches),
            wall,
            log_append_time: stamp.unwrap_or(-1),
        };
        let mut actions = std::mem::take(&mut self.actions);
        self.parts.leader.on_event(event, self.parts.clock.mono(), &mut actions);
        tailway_faults::verify(|| self.parts.leader.check());
        // Placed at once, in the order given; the rest of the actions waits for nothing.
        actions.retain(|action| {
            let Action::Append { index, base_offset, leader_epoch, .. } = action else {
                return true;
            };
            let batch = &batches[*index];
            let (header, parts) = batch.assigned(*base_offset, *leader_epoch, stamp);
            self.group_bytes += batch.bytes.len();
            self.group.push(PlacedBatch { header, parts });
            false
        });
        self.actions = actions;
        self.perform().await;
        if self.group_bytes >= BYTES_PER_WRITE {
            self.write_group().await;
        }
    }

    /// Writes what was gathered and tells the machine.
    async fn write_group(&mut self) {
        if self.group.is_empty() {
            return;
        }
        let now = self.parts.clock.wall();
        tailway_faults::crash("broker.append.before");
        let mut written = self.parts.log.append(&self.group, self.parts.leader.producers(), now);
        if is_disk_full(&written) && self.parts.shared.space.make_room() {
            // These have been let in; the rest of them fits into what the reserve held.
            let log_end = self.parts.log.log_end();
            self.group.retain(|batch| batch.header.base_offset >= log_end);
            written = self.parts.log.append(&self.group, self.parts.leader.producers(), now);
        }
        self.group.clear();
        self.group_bytes = 0;
        match written {
            Ok(()) => {
                tailway_faults::crash("broker.append.after");
                let log_end = self.parts.leader.log_end();
                self.parts.shared.watermarks.send_if_modified(|now| {
                    now.log_end = log_end;
                    if tailway_faults::is_planted("broker.shown_before_sync") {
                        now.high_watermark = log_end;
                    }
                    false
                });
                self.event(Event::Written).await;
            }
            Err(error) if error.is_disk_full() => {
                let log_end = self.parts.log.log_end();
                if tailway_faults::is_planted("broker.full_disk_acked") {
                    return self.event(Event::Written).await;
                }
                let refusal = self.parts.shared.space.refusal();
                self.event(Event::DiskFull { log_end, refusal }).await;
            }
            Err(error) => self.storage_failed(&error).await,
        }
    }

    async fn flushed(&mut self, (through, result): (i64, Option<Flushed>)) {
        match result {
            Some(Ok(())) => {
                self.parts.shared.view.advance_recovery_point(through);
                self.parts.checkpoints.mark_dirty();
                self.event(Event::Flushed { durable: through }).await;
            }
            Some(Err(error)) => self.storage_failed(&error).await,
            None => self.event(Event::Close).await,
        }
    }

    async fn storage_failed(&mut self, error: &StorageError) {
        let cause: Arc<str> = error.to_string().into();
        if self.parts.shared.fail(PartitionError::Storage { cause: Arc::clone(&cause) }) {
            let tp = &self.parts.shared.topic_partition;
            tracing::error!(topic = %tp.topic, partition = tp.partition, error = %cause, "a write or sync failed: the partition takes no more records until the broker is restarted");
        }
        self.event(Event::StorageFailed { cause }).await;
    }

    async fn event(&mut self, event: Event) {
        self.parts.leader.on_event(event, self.parts.clock.mono(), &mut self.actions);
        tailway_faults::verify(|| self.parts.leader.check());
        self.perform().await;
    }

    async fn perform(&mut self) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                // `append` places them itself.
                Action::Append { .. } => {}
                Action::Flush { through } => Box::pin(self.start_flush(through)).await,
                Action::AdvanceHighWatermark { high_watermark } => {
                    let log_end = self.parts.leader.log_end();
                    self.parts.shared.watermarks.send_modify(|now| {
                        now.high_watermark = high_watermark;
                        now.log_end = now.log_end.max(high_watermark).min(log_end);
                    });
                }
                Action::CompleteProduce { request, outcome } => {
                    if let Some(reply) = self.waiting.remove(&request) {
                        tailway_faults::crash("broker.ack.before");
                        // The connection may be gone; the append stays.
                        reply.send(outcome).ok();
                        tailway_faults::crash("broker.ack.after");
                    }
                }
            }
        }
        if self.actions.is_empty() {
            self.actions = actions;
        }
    }

    async fn start_flush(&mut self, through: i64) {
        match self.parts.log.take_flush() {
            Ok(job) => {
                let done = self.parts.flusher.flush(job, &self.parts.shared).await;
                self.flush = Some(Flush { through, done });
                if tailway_faults::is_planted("broker.ack_before_sync") {
                    self.event(Event::Flushed { durable: through }).await;
                }
            }
            Err(error) => self.storage_failed(&error).await,
        }
    }

    async fn housekeep(&mut self, done: Option<oneshot::Sender<()>>) {
        let Trusted { now: wall, settled } = self.parts.trusted.now();
        self.event(Event::Tick { wall }).await;
        if self.parts.shared.failure().is_some() || self.maintenance.is_running() {
            // What runs now does the same work; the caller is told when that is done.
            self.maintenance.also_tell(done);
            return;
        }
        if self.flush.is_none() {
            self.parts.log.release_if_idle();
        }
        let (log_start, high_watermark) =
            (self.parts.leader.log_start(), self.parts.leader.high_watermark());
        let producers = self.parts.leader.producers();
        let now = Trusted { now: wall, settled };
        let gone = match self.parts.log.apply_retention(log_start, high_watermark, producers, now) {
            Ok(gone) => gone,
            // Rolling the last segment found no room; the next check tries again.
            Err(error) if error.is_disk_full() => Vec::new(),
            Err(error) => return self.storage_failed(&error).await,
        };
        if let Some(first) = self.parts.shared.view.segments().first() {
            let log_start = first.base_offset().max(log_start);
            self.event(Event::LogStartMoved { log_start }).await;
            let log_start = self.parts.leader.log_start();
            self.parts.shared.watermarks.send_if_modified(|now| {
                let moved = now.log_start != log_start;
                now.log_start = log_start;
                moved
            });
        }
        let producers = self.parts.leader.producers().last_offsets();
        self.maintenance.start(&self.parts, gone, producers, wall);
        self.maintenance.also_tell(done);
    }

    async fn maintained(&mut self, outcome: Outcome) {
        let tp = &self.parts.shared.topic_partition;
        if let Err(error) = &outcome {
            // Nothing is lost: what should have gone is still there, and the next check tries again.
            tracing::warn!(topic = %tp.topic, partition = tp.partition, %error, "retention or compaction failed");
        }
        self.parts.checkpoints.mark_dirty();
        if let Err(error @ StorageError::Corrupt { .. }) = outcome {
            let cause: Arc<str> = error.to_string().into();
            self.parts.shared.fail(PartitionError::Quarantined { cause: Arc::clone(&cause) });
            self.event(Event::Quarantined { cause }).await;
        }
    }

    async fn close(&mut self, how: Closing, done: oneshot::Sender<Result<(), PartitionError>>) {
        self.parts.commands.close();
        self.maintenance.cancel().await;
        while how == Closing::Clean && self.flush.is_some() {
            let result = flushed(&mut self.flush).await;
            self.flushed(result).await;
        }
        self.event(Event::Close).await;
        let result = match how {
            Closing::Clean => self.close_log().await,
            Closing::Discard => Ok(()),
        };
        self.parts.shared.close();
        // The registry may have given up waiting.
        done.send(result).ok();
    }

    async fn close_log(&mut self) -> Result<(), PartitionError> {
        if let Some(failure) = self.parts.shared.failure() {
            return Err(failure);
        }
        let log_end = self.parts.leader.log_end();
        let storage =
            |error: StorageError| PartitionError::Storage { cause: error.to_string().into() };
        let job = self.parts.log.close(self.parts.leader.producers()).map_err(storage)?;
        let flushed = self.parts.flusher.flush(job, &self.parts.shared).await.await;
        flushed.map_err(|_| PartitionError::Closed)?.map_err(storage)?;
        self.parts.shared.view.advance_recovery_point(log_end);
        Ok(())
    }
}

fn is_disk_full(result: &Result<(), StorageError>) -> bool {
    result.as_ref().is_err_and(StorageError::is_disk_full)
}

/// The flush in flight, for ever if there is none. `None` inside: the flusher is gone.
async fn flushed(flush: &mut Option<Flush>) -> (i64, Option<Flushed>) {
    let Some(Flush { through, done }) = flush else { return std::future::pending().await };
    let (through, result) = (*through, done.await.ok());
    *flush = None;
    (through, result)
}
