//! The owner task of one partition of `__consumer_offsets`: event in, actions performed.
//!
//! Appends are submitted in order and their results come back in that order. Life: wait for the former owner's appends,
//! load, serve, and when it is given up (or the broker stops) answer everything that waits.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::clock::Clock;
use tailway_daemon::tasks::{Group as TaskGroup, Stop};
use tailway_metadata::ClusterImage;
use tailway_wire::ErrorCode;
use tokio::sync::{mpsc, oneshot, watch};

use super::{load, records};
use crate::machine::group::{
    Action, AppendId, Call, Caller, Event, GroupConfig, GroupShard, Notice, Request, Response,
};
use crate::machine::offsets::schema::OffsetsRecord;
use crate::partition::{AppendOptions, PartitionError, PartitionHandle};

/// Requests that may wait for the owner task.
const QUEUE: usize = 256;
/// Appends that may be under way; beyond it no request is taken from the queue.
const APPENDS_MAX: usize = 1024;
/// How long after a failed load it is tried again.
const LOAD_RETRY: Duration = Duration::from_secs(1);
/// How long a shard that ends waits for its appends before it answers for them.
const DRAIN: Duration = Duration::from_secs(2);

pub(super) enum Message {
    Request { caller: Caller, request: Box<Request>, answer: oneshot::Sender<Response> },
    ConnectionClosed(u64),
}

/// How a shard is reached. Requests that wait hold one too, so its end is told by `resign`, not by dropping it.
#[derive(Clone)]
pub(super) struct ShardDoor {
    pub(super) queue: mpsc::Sender<Message>,
    pub(super) loaded: watch::Receiver<bool>,
    /// True once the shard has no append under way any more and never will.
    pub(super) ended: watch::Receiver<bool>,
    given_up: Arc<watch::Sender<bool>>,
    leader_epoch: i32,
    handle: PartitionHandle,
}

impl std::fmt::Debug for ShardDoor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let partition = self.handle.topic_partition().partition;
        f.debug_struct("ShardDoor").field("partition", &partition).finish_non_exhaustive()
    }
}

impl ShardDoor {
    /// This broker does not lead the partition any more.
    pub(super) fn resign(&self) {
        self.given_up.send_replace(true);
    }

    /// Whether it serves this partition in this leadership.
    pub(super) fn is_of(&self, leader_epoch: i32, handle: &PartitionHandle) -> bool {
        self.leader_epoch == leader_epoch && self.handle.topic_id() == handle.topic_id()
    }
}

pub(super) struct ShardOptions {
    pub(super) handle: PartitionHandle,
    pub(super) leader_epoch: i32,
    pub(super) config: GroupConfig,
    pub(super) clock: Clock,
    pub(super) image: watch::Receiver<Arc<ClusterImage>>,
    pub(super) former: Option<watch::Receiver<bool>>,
}

pub(super) fn spawn(tasks: &TaskGroup, options: ShardOptions) -> ShardDoor {
    let (queue, messages) = mpsc::channel(QUEUE);
    let (set_loaded, loaded) = watch::channel(false);
    let (set_ended, ended) = watch::channel(false);
    let (given_up, resigned) = watch::channel(false);
    let (leader_epoch, handle) = (options.leader_epoch, options.handle.clone());
    let name = format!("groups of {}", handle.topic_partition());
    tasks.spawn_watched(name, |stop| async move {
        run(options, messages, set_loaded, Until { stop, resigned }).await;
        set_ended.send_replace(true);
    });
    ShardDoor { queue, loaded, ended, given_up: Arc::new(given_up), leader_epoch, handle }
}

/// The end of a shard: the broker stops, or leads the partition no more.
struct Until {
    stop: Stop,
    resigned: watch::Receiver<bool>,
}

impl Until {
    /// Cancel-safe.
    async fn reached(&mut self) {
        tokio::select! {
            biased;
            () = self.stop.requested() => {}
            // An error means that nobody is left to give it up or to ask it.
            _ = self.resigned.wait_for(|given_up| *given_up) => {}
        }
    }

    async fn unless<F: Future>(&mut self, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = self.reached() => None,
            output = future => Some(output),
        }
    }
}

async fn run(
    mut options: ShardOptions,
    messages: mpsc::Receiver<Message>,
    set_loaded: watch::Sender<bool>,
    mut until: Until,
) {
    if let Some(mut former) = options.former.take() {
        // An error means that it is gone altogether, which is as good.
        let ended = async { drop(former.wait_for(|ended| *ended).await) };
        if until.unless(ended).await.is_none() {
            return;
        }
    }
    let Some(machine) = until.unless(load_until_it_works(&options)).await else { return };
    let mut shard = Shard {
        machine,
        handle: options.handle,
        clock: options.clock,
        answers: BTreeMap::new(),
        appends: VecDeque::new(),
        next_call: 0,
        actions: Vec::new(),
    };
    shard.handle_event(Event::Loaded).await;
    set_loaded.send_replace(true);
    shard.serve(messages, options.image, &mut until).await;
    set_loaded.send_replace(false);
    shard.end().await;
}

async fn load_until_it_works(options: &ShardOptions) -> GroupShard {
    let partition = options.handle.topic_partition().partition;
    let mut has_failed = false;
    loop {
        let image = Arc::clone(&options.image.borrow());
        let mut machine = GroupShard::new(options.config.clone(), image);
        let began = options.clock.mono();
        match load::load(&options.handle, &mut machine, &options.clock).await {
            Ok(loaded) => {
                let took_ms = options.clock.mono().since(began).as_millis();
                let groups = machine.group_count();
                let records = loaded.records;
                tracing::info!(partition, groups, records, took_ms, "loaded groups and offsets");
                return machine;
            }
            Err(error) => {
                if !has_failed {
                    tracing::error!(
                        partition,
                        %error,
                        "cannot load groups and offsets; trying again every second"
                    );
                }
                has_failed = true;
                tokio::time::sleep(LOAD_RETRY).await;
            }
        }
    }
}

type Outcome = Pin<Box<dyn Future<Output = Result<(), PartitionError>> + Send>>;

struct Shard {
    machine: GroupShard,
    handle: PartitionHandle,
    clock: Clock,
    answers: BTreeMap<Call, oneshot::Sender<Response>>,
    /// In the order in which they were submitted.
    appends: VecDeque<(AppendId, Outcome)>,
    next_call: u64,
    actions: Vec<Action>,
}

impl Shard {
    async fn serve(
        &mut self,
        mut messages: mpsc::Receiver<Message>,
        mut image: watch::Receiver<Arc<ClusterImage>>,
        until: &mut Until,
    ) {
        // What it became while the partition was read.
        image.mark_changed();
        loop {
            let event = tokio::select! {
                biased;
                () = until.reached() => return,
                event = next_appended(&mut self.appends) => event,
                changed = image.changed() => match changed {
                    Ok(()) => Event::Image(Arc::clone(&image.borrow_and_update())),
                    Err(_) => return,
                },
                () = self.clock.sleep_until(self.machine.deadline()) => Event::Tick,
                message = messages.recv(), if self.appends.len() < APPENDS_MAX => match message {
                    Some(message) => self.event_of(message),
                    None => return,
                },
            };
            self.handle_event(event).await;
        }
    }

    fn event_of(&mut self, message: Message) -> Event {
        match message {
            Message::Request { caller, request, answer } => {
                let call = Call(self.next_call);
                self.next_call += 1;
                self.answers.insert(call, answer);
                Event::Request { call, caller, request: *request }
            }
            Message::ConnectionClosed(connection) => Event::ConnectionClosed(connection),
        }
    }

    async fn handle_event(&mut self, event: Event) {
        let mut actions = std::mem::take(&mut self.actions);
        self.machine.on_event(event, self.clock.mono(), self.clock.wall(), &mut actions);
        tailway_faults::verify(|| self.machine.check());
        for action in actions.drain(..) {
            match action {
                Action::Reply { call, response } => {
                    if let Some(answer) = self.answers.remove(&call) {
                        // The connection may be gone; then nobody wants to know.
                        drop(answer.send(response));
                    }
                }
                Action::Drop(call) => drop(self.answers.remove(&call)),
                Action::Append { append, records } => self.append(append, &records).await,
                Action::Notice(notice) => log(self.handle.topic_partition().partition, &notice),
            }
        }
        self.actions = actions;
    }

    async fn append(&mut self, append: AppendId, records: &[OffsetsRecord]) {
        let submitted = match records::encode(records, self.clock.wall()) {
            Ok(batch) => self.handle.submit(batch, AppendOptions::group_coordinator()).await,
            Err(error) => Err(PartitionError::InvalidRecord { reason: error.to_string() }),
        };
        let outcome: Outcome = Box::pin(async move {
            let submitted = submitted?;
            if tailway_faults::is_planted("broker.commit_before_sync") {
                return Ok(());
            }
            submitted.answer().await.map(|_| ())
        });
        self.appends.push_back((append, outcome));
    }

    /// Appends that are under way get their chance; whatever waits after that is told to look elsewhere.
    async fn end(&mut self) {
        let drain = async {
            while !self.appends.is_empty() {
                let event = next_appended(&mut self.appends).await;
                self.handle_event(event).await;
            }
        };
        // Beyond the time the answers are NOT_COORDINATOR, which promises nothing.
        drop(tokio::time::timeout(DRAIN, drain).await);
        self.handle_event(Event::Resigned).await;
        while let Some((_, outcome)) = self.appends.pop_front() {
            drop(outcome.await);
        }
    }
}

/// The oldest append's outcome; never, if none is under way. Cancel-safe: the append stays until it is through.
async fn next_appended(appends: &mut VecDeque<(AppendId, Outcome)>) -> Event {
    let Some((append, outcome)) = appends.front_mut() else { return std::future::pending().await };
    let append = *append;
    let outcome = outcome.await.map_err(|error| {
        tracing::error!(%error, "groups and offsets cannot be stored");
        records::error_code(&error)
    });
    appends.pop_front();
    Event::Appended { append, outcome: outcome.map_err(|code: ErrorCode| code) }
}

fn log(partition: i32, notice: &Notice) {
    match notice {
        Notice::RebalanceStarted { group, generation, reason } => {
            tracing::info!(partition, group = &**group, generation, reason, "group rebalances");
        }
        Notice::GenerationStarted { group, generation, members } => {
            tracing::info!(
                partition,
                group = &**group,
                generation,
                members,
                "group generation began"
            );
        }
        Notice::Stable { group, generation } => {
            tracing::info!(partition, group = &**group, generation, "group is stable");
        }
        Notice::BecameEmpty { group, generation } => {
            tracing::info!(partition, group = &**group, generation, "group is empty");
        }
        Notice::MemberReplaced { group, old, new } => {
            tracing::info!(
                partition,
                group = &**group,
                old = &**old,
                new = &**new,
                "static member came back"
            );
        }
        Notice::MemberRemoved { group, member, reason } => {
            tracing::info!(
                partition,
                group = &**group,
                member = &**member,
                reason,
                "member removed"
            );
        }
        Notice::OffsetsExpired { group, count } => {
            tracing::info!(partition, group = &**group, count, "committed offsets expired");
        }
        Notice::TooManyGroups { groups_max } => {
            tracing::warn!(partition, groups_max, "refused a new group: there are too many");
        }
    }
}
