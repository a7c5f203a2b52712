//! The task that owns the controller: feeds it requests, leadership, commits and time, and performs its actions.
//!
//! Order of events: stop, the outcome of the proposal under way, Raft's state, requests, the deadline. A Raft that has
//! stopped (its disk failed) ends the program: a coordinator that cannot commit must not look alive.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tailway_daemon::ready::Condition;
use tailway_daemon::{Clock, Stop, Tasks};
use tailway_metadata::time::Mono;
use tailway_metadata::{MetadataLogId, MetadataRecord, Offset};
use tokio::sync::{mpsc, oneshot, watch};

use crate::machine::controller::Controller;
use crate::machine::{Action, Event, Reply, Request, RequestId};
use crate::metrics::CoordinatorMetrics;
use crate::quorum::Applied;
use crate::quorum::feed::Feed;
use crate::quorum::node::{ProposeError, Proposer};

/// What applying the committed log may take when leadership begins.
const APPLY_WAIT: Duration = Duration::from_secs(30);
/// Requests on their way to the controller.
pub const QUEUE: usize = 256;

/// A request with the place for its answer.
#[derive(Debug)]
pub struct Call {
    pub request: Request,
    pub reply: oneshot::Sender<Reply>,
}

/// `Ok` while this coordinator leads, else why not.
pub type Leadership = Result<(), String>;

/// What the driver works with.
#[derive(Debug)]
pub struct Driver {
    pub controller: Controller,
    pub node_id: u64,
    pub proposer: Proposer,
    pub feed: Feed,
    pub clock: Clock,
    pub calls: mpsc::Receiver<Call>,
    pub leadership: watch::Sender<Leadership>,
    pub ready: Condition,
    pub metrics: CoordinatorMetrics,
    pub tasks: Tasks,
}

type Proposal = Pin<Box<dyn Future<Output = Result<Applied, ProposeError>> + Send>>;

#[derive(Default)]
struct UnderWay {
    next_id: u64,
    replies: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    proposal: Option<Proposal>,
    leads: bool,
    /// The image that the metrics show.
    shown: Option<Offset>,
}

impl Driver {
    pub async fn run(mut self, mut stop: Stop) {
        let mut under_way = UnderWay::default();
        let mut raft = self.proposer.watch();
        raft.mark_changed();
        loop {
            let deadline = self.controller.deadline();
            let event = tokio::select! {
                biased;
                () = stop.requested() => break,
                outcome = finished(&mut under_way.proposal) => {
                    under_way.proposal = None;
                    if outcome.is_err() {
                        // Raft's state decides anew whether and as what to go on.
                        under_way.leads = false;
                        raft.mark_changed();
                    }
                    decided(outcome)
                }
                changed = raft.changed() => {
                    if changed.is_err() {
                        self.lost("Raft has ended");
                        break;
                    }
                    match self.leadership_changed(&mut under_way).await {
                        Some(event) => event,
                        None => continue,
                    }
                }
                Some(call) = self.calls.recv() => under_way.accept(call),
                () = self.clock.sleep_until(deadline) => Event::Tick,
            };
            let mut now = self.clock.mono();
            if tailway_faults::is_planted("coordinator.session_by_wall_clock") {
                now = Mono::from_millis(self.clock.wall().0.unsigned_abs());
            }
            self.turn(event, now, &mut under_way);
        }
        self.tell_leadership(Err("the coordinator is stopping".into()));
    }

    fn turn(&mut self, event: Event, now: Mono, under_way: &mut UnderWay) {
        let mut actions = Vec::new();
        self.controller.on_event(event, now, &mut actions);
        tailway_faults::verify(|| self.controller.check());
        for action in actions {
            match action {
                Action::Propose(records) => {
                    tell(&records, &self.controller, now);
                    let proposer = self.proposer.clone();
                    let proposal = async move { proposer.propose(records).await };
                    under_way.proposal = Some(Box::pin(proposal));
                }
                Action::Reply { id, reply } => {
                    if let Some(waiter) = under_way.replies.remove(&id) {
                        // Whoever gave up waiting has dropped the receiver.
                        drop(waiter.send(reply));
                    }
                }
            }
        }
        if under_way.leads && self.controller.image().offset.0 > 0 {
            self.ready.holds();
        }
        let image = self.feed.image();
        if under_way.shown != Some(image.offset) {
            under_way.shown = Some(image.offset);
            self.metrics.show_image(&image);
        }
    }

    /// What Raft's new state means to the controller, if anything.
    async fn leadership_changed(&mut self, under_way: &mut UnderWay) -> Option<Event> {
        let status = self.proposer.status(self.node_id);
        self.metrics.show_raft(&status);
        if let Some(failure) = &status.failure {
            let why = format!("Raft has stopped: {failure}");
            self.lost(&why);
            under_way.leads = false;
            return Some(Event::LeadsNoMore { why });
        }
        if status.leads == under_way.leads {
            return None;
        }
        if status.leads {
            match tokio::time::timeout(APPLY_WAIT, self.proposer.barrier()).await {
                Ok(Ok(())) => {}
                // Raft's state has changed again, or is about to: the next change decides.
                Ok(Err(error)) => {
                    tracing::warn!(%error, "leadership is not confirmed");
                    return None;
                }
                Err(_) => {
                    let why = format!("Raft has not applied its log within {APPLY_WAIT:?}");
                    self.lost(&why);
                    return Some(Event::LeadsNoMore { why });
                }
            }
            under_way.leads = true;
            self.tell_leadership(Ok(()));
            tracing::info!(term = status.term, offset = %self.feed.image().offset, "leads");
            let fresh_log_id = MetadataLogId(tailway_runtime::uuid());
            return Some(Event::Leads { image: self.feed.image(), fresh_log_id });
        }
        under_way.leads = false;
        let why = "Raft has no leader".to_owned();
        self.ready.not_yet(why.clone());
        self.tell_leadership(Err(why.clone()));
        Some(Event::LeadsNoMore { why })
    }

    fn tell_leadership(&self, leadership: Leadership) {
        // The value before is of no interest.
        drop(self.leadership.send_replace(leadership));
    }

    fn lost(&self, why: &str) {
        self.ready.not_yet(why);
        self.tell_leadership(Err(why.to_owned()));
        self.tasks.fail(why);
    }
}

impl UnderWay {
    fn accept(&mut self, call: Call) -> Event {
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.replies.insert(id, call.reply);
        Event::Request { id, request: call.request }
    }
}

fn decided(outcome: Result<Applied, ProposeError>) -> Event {
    match outcome {
        Ok(_) => Event::Committed,
        Err(error) => {
            tracing::error!(%error, "a proposal failed");
            Event::ProposalFailed { why: error.to_string() }
        }
    }
}

async fn finished(proposal: &mut Option<Proposal>) -> Result<Applied, ProposeError> {
    match proposal {
        Some(proposal) => proposal.await,
        None => std::future::pending().await,
    }
}

/// What an operator wants to see in the log of what is about to be committed.
fn tell(records: &[MetadataRecord], controller: &Controller, now: Mono) {
    for record in records {
        match record {
            MetadataRecord::Cluster(r) => {
                tracing::info!(cluster_id = %r.cluster_id, log_id = %r.log_id, "new cluster");
            }
            MetadataRecord::RegisterBroker(b) => tracing::info!(
                broker_id = %b.id, broker_epoch = %b.epoch, directory = %b.directory, endpoints = ?b.endpoints,
                "broker registered"
            ),
            MetadataRecord::BrokerRegistrationChange(r)
                if r.fenced && controller.is_silent(r.broker_id, now) =>
            {
                tracing::warn!(
                    broker_id = %r.broker_id, broker_epoch = %r.broker_epoch,
                    "broker fenced: no heartbeat came for as long as its session lasts; see whether it runs, and its log"
                );
            }
            MetadataRecord::BrokerRegistrationChange(r) if r.fenced => {
                tracing::info!(
                    broker_id = %r.broker_id, broker_epoch = %r.broker_epoch,
                    "broker fenced at its own request, as when it stops"
                );
            }
            MetadataRecord::BrokerRegistrationChange(r) => {
                tracing::info!(broker_id = %r.broker_id, broker_epoch = %r.broker_epoch, "broker unfenced");
            }
            MetadataRecord::Topic(r) => {
                tracing::info!(topic = %r.name, topic_id = %r.topic_id, "topic created");
            }
            MetadataRecord::RemoveTopic(r) => {
                tracing::info!(topic_id = %r.topic_id, "topic deleted");
            }
            MetadataRecord::Token(t) if t.used == 0 => tracing::info!(
                token = t.id, role = %t.role, uses = t.uses, by = t.created_by, "join token created"
            ),
            MetadataRecord::Token(t) => tracing::info!(
                token = t.id, role = %t.role, used = t.used, uses = t.uses, "join token used"
            ),
            MetadataRecord::RemoveToken(r) => tracing::info!(token = r.id, "join token gone"),
            MetadataRecord::Certificate(c) if c.revoked.is_some() => tracing::warn!(
                serial = %c.serial, role = %c.role, id = c.id, "certificate revoked"
            ),
            MetadataRecord::Certificate(c) => tracing::info!(
                serial = %c.serial, role = %c.role, id = c.id, names = ?c.names, by = c.issued_by,
                "certificate issued"
            ),
            MetadataRecord::RemoveCertificate(_)
            | MetadataRecord::Config(_)
            | MetadataRecord::Partition(_)
            | MetadataRecord::PartitionChange(_)
            | MetadataRecord::Authority(_)
            | MetadataRecord::Trust(_)
            | MetadataRecord::ProducerIds(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
