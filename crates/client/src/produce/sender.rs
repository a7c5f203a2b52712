//! The driver of one partition's [`Pipeline`]: one task that performs what the pipeline decides.
//!
//! The owner waits for room, asks for the next sequence, builds (and perhaps journals) the batch,
//! and pushes it. Acks come back in order through a bounded channel; the owner must read it while
//! it pushes, or both wait. A round of sends runs in a task of its own, on one route, so that
//! dialing never keeps the pipeline from hearing outcomes. Dropping the sender ends everything
//! at once; what had no ack then is in doubt, as after a crash.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ids::TopicPartition;
use tailway_metadata::time::Mono;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Acks, Client};
use crate::error::ProduceError;
use crate::machine::pipeline::{
    Ack, Action, Attempt, BatchSequence, Event, OPEN_MAX, Outcome, Pipeline, PipelineOptions,
    ProducerIdentity, SequencedBatch, StopReason, sequence_after,
};

/// Events kept for an owner that is slow to read them.
const EVENTS: usize = 64;

/// Settings of a sender.
#[derive(Debug, Clone)]
pub struct SenderOptions {
    /// The sequence of the first batch: 0 for a new producer identity.
    pub next_sequence: i32,
    pub acks: Acks,
    /// For one attempt.
    pub request_timeout: Duration,
    pub pipeline: PipelineOptions,
}

impl Default for SenderOptions {
    fn default() -> Self {
        Self {
            next_sequence: 0,
            acks: Acks::All,
            request_timeout: Duration::from_secs(30),
            pipeline: PipelineOptions::default(),
        }
    }
}

/// What the owner hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SenderEvent {
    /// The oldest batch without an ack is stored.
    Acked(Ack),
    /// Something is in the way and is tried again. May be left out under pressure.
    Retrying { cause: String, attempts: u32 },
    /// The last event: nothing more is sent. `open` has no ack, oldest first; unless the reason
    /// says that the first was refused, each may or may not be stored.
    Stopped { reason: StopReason, open: Vec<SequencedBatch> },
}

/// The pipeline has stopped; the events say why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sender of {0} has stopped", .partition)]
pub struct SenderStopped {
    partition: i32,
}

/// The owner's handle of one partition's sender.
#[derive(Debug)]
pub struct PartitionSender {
    partition: TopicPartition,
    identity: ProducerIdentity,
    next_sequence: i32,
    room: Arc<Semaphore>,
    reserved: Option<OwnedSemaphorePermit>,
    batches: mpsc::Sender<(SequencedBatch, OwnedSemaphorePermit)>,
}

impl PartitionSender {
    /// Spawns the driver. Events end with `Stopped`, or when the sender is dropped.
    pub fn start(
        client: Client,
        partition: TopicPartition,
        identity: ProducerIdentity,
        options: SenderOptions,
    ) -> (Self, mpsc::Receiver<SenderEvent>) {
        let (batches, pushed) = mpsc::channel(OPEN_MAX);
        let (events, heard) = mpsc::channel(EVENTS);
        let open_max = if identity.is_idempotent() { OPEN_MAX } else { 1 };
        let room = Arc::new(Semaphore::new(open_max));
        let pipeline = Pipeline::new(identity, options.next_sequence, options.pipeline.clone());
        let next_sequence = pipeline.next_batch_sequence(1).base_sequence;
        let (done, ended) = mpsc::channel(OPEN_MAX);
        let driver = Driver {
            pipeline,
            client,
            partition: partition.clone(),
            acks: options.acks,
            request_timeout: options.request_timeout,
            events,
            permits: VecDeque::new(),
            round: None,
            rounds: JoinSet::new(),
            done,
            started: Instant::now(),
        };
        let stop = Arc::clone(&room);
        tailway_runtime::spawn(async move {
            driver.run(pushed, ended).await;
            stop.close();
        });
        let sender = Self { partition, identity, next_sequence, room, reserved: None, batches };
        (sender, heard)
    }

    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    pub fn identity(&self) -> ProducerIdentity {
        self.identity
    }

    /// Waits until a batch may be pushed. Safe to cancel.
    pub async fn ready(&mut self) -> Result<(), SenderStopped> {
        if self.reserved.is_none() {
            let permit = Arc::clone(&self.room).acquire_owned().await;
            self.reserved = Some(permit.map_err(|_| self.stopped())?);
        }
        Ok(())
    }

    /// What the header of the next batch must carry.
    pub fn next_batch_sequence(&self, record_count: i32) -> BatchSequence {
        let base_sequence = self.next_sequence;
        let last_sequence = if self.identity.is_idempotent() {
            sequence_after(base_sequence, record_count - 1)
        } else {
            -1
        };
        BatchSequence { identity: self.identity, base_sequence, last_sequence }
    }

    /// Hands over a batch with [`Self::next_batch_sequence`] in its header.
    pub async fn push(&mut self, bytes: Bytes, record_count: i32) -> Result<(), SenderStopped> {
        self.ready().await?;
        let Some(permit) = self.reserved.take() else { return Err(self.stopped()) };
        let batch = SequencedBatch { base_sequence: self.next_sequence, record_count, bytes };
        self.batches.send((batch, permit)).await.map_err(|_| self.stopped())?;
        if self.identity.is_idempotent() {
            self.next_sequence = sequence_after(self.next_sequence, record_count);
        }
        Ok(())
    }

    fn stopped(&self) -> SenderStopped {
        SenderStopped { partition: self.partition.partition }
    }
}

type Ended = (Attempt, Outcome);

struct Driver {
    pipeline: Pipeline,
    client: Client,
    partition: TopicPartition,
    acks: Acks,
    request_timeout: Duration,
    events: mpsc::Sender<SenderEvent>,
    /// One for each open batch, oldest first.
    permits: VecDeque<OwnedSemaphorePermit>,
    /// Where the current round takes its sends.
    round: Option<mpsc::Sender<(Attempt, Bytes)>>,
    rounds: JoinSet<()>,
    done: mpsc::Sender<Ended>,
    started: Instant,
}

impl Driver {
    async fn run(
        mut self,
        mut pushed: mpsc::Receiver<(SequencedBatch, OwnedSemaphorePermit)>,
        mut ended: mpsc::Receiver<Ended>,
    ) {
        let mut actions = Vec::new();
        loop {
            let wake = self.pipeline.deadline().map(|at| self.instant(at));
            let event = tokio::select! {
                biased;
                Some((attempt, outcome)) = ended.recv() => Event::Ended { attempt, outcome },
                batch = pushed.recv() => {
                    // The owner has dropped its handle: what is open is in doubt, by its choice.
                    let Some((batch, permit)) = batch else { return };
                    self.permits.push_back(permit);
                    Event::Push(batch)
                }
                () = sleep_until(wake.unwrap_or(self.started)), if wake.is_some() => Event::Tick,
                Some(_) = self.rounds.join_next() => continue,
            };
            let now = self.now();
            self.pipeline.on_event(event, now, &mut actions);
            tailway_faults::verify(|| self.pipeline.check());
            for action in actions.drain(..) {
                if self.perform(action).await.is_err() {
                    return;
                }
            }
            if self.pipeline.is_stopped() {
                return;
            }
        }
    }

    /// Fails when nobody listens any more.
    async fn perform(&mut self, action: Action) -> Result<(), ()> {
        match action {
            Action::NewRound { refresh, .. } => {
                if refresh {
                    self.client.invalidate(&self.partition.topic);
                }
                let (sends, queue) = mpsc::channel(OPEN_MAX);
                self.round = Some(sends);
                let round = Round {
                    client: self.client.clone(),
                    partition: self.partition.clone(),
                    acks: self.acks,
                    request_timeout: self.request_timeout,
                    done: self.done.clone(),
                };
                self.rounds.spawn(tailway_runtime::task(round.run(queue)));
            }
            Action::Send { attempt, bytes } => {
                let Some(round) = &self.round else { return Err(()) };
                round.send((attempt, bytes)).await.map_err(|_| ())?;
            }
            Action::Acked(ack) => {
                self.events.send(SenderEvent::Acked(ack)).await.map_err(|_| ())?;
                self.permits.pop_front();
            }
            Action::Retrying { cause, attempts } => {
                tracing::debug!(partition = %self.partition, attempts, cause, "retrying");
                // News that may be missed; acks may not.
                drop(self.events.try_send(SenderEvent::Retrying { cause, attempts }));
            }
            Action::Stopped { reason, open } => {
                let stopped = SenderEvent::Stopped { reason, open };
                self.events.send(stopped).await.map_err(|_| ())?;
            }
        }
        Ok(())
    }

    fn now(&self) -> Mono {
        Mono(u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn instant(&self, at: Mono) -> Instant {
        self.started + Duration::from_micros(at.as_micros())
    }
}

/// The sends of one round, on one route.
struct Round {
    client: Client,
    partition: TopicPartition,
    acks: Acks,
    request_timeout: Duration,
    done: mpsc::Sender<Ended>,
}

impl Round {
    async fn run(self, mut queue: mpsc::Receiver<(Attempt, Bytes)>) {
        let mut answers: JoinSet<Ended> = JoinSet::new();
        let mut route = None;
        loop {
            let ended = tokio::select! {
                biased;
                Some(ended) = answers.join_next() => match ended {
                    Ok(ended) => ended,
                    // Only a panic ends an answer's task early, and a panic ends the process.
                    Err(_) => continue,
                },
                next = queue.recv() => {
                    let Some((attempt, bytes)) = next else { break };
                    match self.send(&mut route, attempt, bytes, &mut answers).await {
                        Some(outcome) => (attempt, outcome),
                        None => continue,
                    }
                }
            };
            if self.done.send(ended).await.is_err() {
                return;
            }
        }
        while let Some(Ok(ended)) = answers.join_next().await {
            if self.done.send(ended).await.is_err() {
                return;
            }
        }
    }

    /// Begins a send; an outcome at once means that it was not sent.
    async fn send(
        &self,
        route: &mut Option<Result<crate::client::Route, String>>,
        attempt: Attempt,
        bytes: Bytes,
        answers: &mut JoinSet<Ended>,
    ) -> Option<Outcome> {
        if route.is_none() {
            let found = self.client.route(&self.partition).await;
            *route = Some(found.map_err(|error| error.to_string()));
        }
        // The round keeps its route, also a failed one: a later batch must not find a way where
        // an earlier one found none.
        let begun = match route {
            Some(Ok(route)) => route.begin_produce(bytes, self.acks, self.request_timeout).await,
            Some(Err(cause)) => return Some(Outcome::NotSent { cause: cause.clone() }),
            None => return None,
        };
        match begun {
            Ok(pending) => {
                let answer = async move { (attempt, outcome(pending.response().await)) };
                answers.spawn(tailway_runtime::task(answer));
                None
            }
            Err(error) => {
                *route = Some(Err(error.to_string()));
                Some(outcome(Err(error)))
            }
        }
    }
}

fn outcome(result: Result<crate::client::Produced, ProduceError>) -> Outcome {
    match result {
        Ok(produced) => Outcome::Acked {
            base_offset: produced.base_offset,
            log_append_time: produced.log_append_time,
            leader_epoch: produced.leader_epoch,
        },
        Err(ProduceError::Refused { code, message, .. }) => Outcome::Refused { code, message },
        Err(ProduceError::Unknown { cause, .. }) => Outcome::Unknown { cause: cause.to_string() },
        Err(ProduceError::NotSent { cause, .. }) => Outcome::NotSent { cause: cause.to_string() },
    }
}
