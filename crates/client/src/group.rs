//! A member of a classic consumer group: join, sync, heartbeat, commit, leave.
//!
//! [`GroupConsumer::poll`] does it all: it joins in the background, reads what was assigned, and
//! when the group rebalances it commits, gives everything up, and joins again (eager protocol,
//! range assignor). A task sends heartbeats between polls. Offsets committed are those of records
//! that an earlier poll returned: a record is committed only after the caller came back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::ids::TopicPartition;
use tailway_wire::error_code::ErrorCode;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, sleep, timeout_at};

use crate::client::Client;
use crate::consume::{Consumed, Consumer, ConsumerOptions, StartAt};
use crate::error::ClientError;
use crate::membership::{Joined, Membership};

/// Settings of a group member.
#[derive(Debug, Clone)]
pub struct GroupOptions {
    pub group_id: String,
    pub topics: Vec<String>,
    /// A name for life: a restart within the session timeout causes no rebalance.
    pub instance_id: Option<String>,
    /// Without a heartbeat for this long, the group goes on without us.
    pub session_timeout: Duration,
    /// How long others wait for us in a rebalance.
    pub rebalance_timeout: Duration,
    pub heartbeat_interval: Duration,
    /// `None`: only [`GroupConsumer::commit`] commits.
    pub auto_commit: Option<Duration>,
    /// Where to begin in partitions without a committed offset.
    pub start: StartAt,
    pub consumer: ConsumerOptions,
}

impl GroupOptions {
    pub fn new(group_id: impl Into<String>, topics: Vec<String>) -> Self {
        Self {
            group_id: group_id.into(),
            topics,
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_mins(1),
            heartbeat_interval: Duration::from_secs(3),
            auto_commit: Some(Duration::from_secs(5)),
            start: StartAt::Latest,
            consumer: ConsumerOptions::default(),
        }
    }
}

/// What heartbeats found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pulse {
    Fine,
    /// The group rebalances, or does not know this generation any more.
    Rejoin,
    /// The member id is not known any more.
    Forgotten,
    /// Another member took over our instance id.
    Fenced,
}

#[derive(Debug)]
struct Stable {
    joined: Joined,
    pulse: watch::Receiver<Pulse>,
    heartbeats: AbortHandle,
    last_commit: Instant,
}

impl Drop for Stable {
    fn drop(&mut self) {
        self.heartbeats.abort();
    }
}

#[derive(Debug)]
enum State {
    Out,
    Joining(JoinHandle<(Membership, Result<Joined, ClientError>)>),
    Stable(Stable),
}

/// A member of a consumer group.
#[derive(Debug)]
pub struct GroupConsumer {
    options: GroupOptions,
    consumer: Consumer,
    /// `None` while a join in the background has it.
    membership: Option<Membership>,
    state: State,
    /// Offsets of what has been returned and the caller has come back for.
    processed: BTreeMap<TopicPartition, i64>,
    committed: BTreeMap<TopicPartition, i64>,
    joins: u64,
}

impl GroupConsumer {
    /// Nothing is joined until the first poll.
    pub fn new(client: Client, options: GroupOptions) -> Self {
        let consumer = Consumer::new(client.clone(), options.consumer.clone());
        let membership = Some(Membership::new(client, options.clone()));
        Self {
            options,
            consumer,
            membership,
            state: State::Out,
            processed: BTreeMap::new(),
            committed: BTreeMap::new(),
            joins: 0,
        }
    }

    /// What this member reads at present.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.consumer.positions().map(|(partition, _)| partition.clone()).collect()
    }

    /// Whether this member is in the group and reads.
    pub fn is_stable(&self) -> bool {
        matches!(self.state, State::Stable(_))
    }

    /// How often this member has joined: each time it begins anew at the committed offsets, also where the generation
    /// of the group is the same.
    pub fn joins(&self) -> u64 {
        self.joins
    }

    /// What is in the way at present and is being tried again.
    pub fn trouble(&self) -> Option<&ClientError> {
        self.consumer.trouble()
    }

    /// Records as soon as there are any; nothing after `timeout` or while the group rebalances.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<Consumed>, ClientError> {
        let deadline = Instant::now() + timeout;
        self.processed =
            self.consumer.positions().map(|(partition, at)| (partition.clone(), at)).collect();
        loop {
            self.follow_pulse().await?;
            match &mut self.state {
                State::Out => self.start_joining()?,
                State::Joining(task) => {
                    let Ok(ended) = timeout_at(deadline, task).await else {
                        return Ok(Vec::new());
                    };
                    self.end_joining(ended.ok()).await?;
                }
                State::Stable(stable) => {
                    let mut pulse = stable.pulse.clone();
                    let due = self.options.auto_commit.map(|every| stable.last_commit + every);
                    if due.is_some_and(|due| Instant::now() >= due) {
                        self.auto_commit().await;
                        continue;
                    }
                    let left = deadline.saturating_duration_since(Instant::now());
                    tokio::select! {
                        biased;
                        changed = pulse.wait_for(|pulse| *pulse != Pulse::Fine) => {
                            if changed.is_err() {
                                self.state = State::Out;
                            }
                        }
                        consumed = self.consumer.poll(left) => return consumed,
                    }
                }
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Commits the offsets of everything that polls returned so far, this one's caller's word
    /// being that it is processed.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.processed =
            self.consumer.positions().map(|(partition, at)| (partition.clone(), at)).collect();
        self.commit_processed().await
    }

    /// Leaves the group: commits, if that is automatic, and lets the others go on at once.
    pub async fn leave(mut self) -> Result<(), ClientError> {
        if let State::Joining(task) = &mut self.state {
            // It cannot be taken back half way; its end is bounded.
            let ended = task.await.ok();
            self.end_joining(ended).await?;
        }
        let committed = if self.options.auto_commit.is_some() && self.is_stable() {
            self.processed =
                self.consumer.positions().map(|(partition, at)| (partition.clone(), at)).collect();
            self.commit_processed().await
        } else {
            Ok(())
        };
        self.consumer.unassign_all();
        self.state = State::Out;
        let left = match &mut self.membership {
            Some(membership) => membership.leave().await,
            None => Ok(()),
        };
        committed.and(left)
    }

    /// Acts on what the heartbeats found.
    async fn follow_pulse(&mut self) -> Result<(), ClientError> {
        let State::Stable(stable) = &self.state else { return Ok(()) };
        let pulse = *stable.pulse.borrow();
        match pulse {
            Pulse::Fine => Ok(()),
            Pulse::Rejoin => {
                if self.options.auto_commit.is_some() {
                    self.auto_commit().await;
                }
                self.give_up_partitions();
                Ok(())
            }
            Pulse::Forgotten => {
                if let Some(membership) = &mut self.membership {
                    membership.forget();
                }
                self.give_up_partitions();
                Ok(())
            }
            Pulse::Fenced => {
                self.give_up_partitions();
                Err(ClientError::Usage(format!(
                    "another member of group `{}` uses the instance id `{}`: give each its own",
                    self.options.group_id,
                    self.options.instance_id.as_deref().unwrap_or_default()
                )))
            }
        }
    }

    fn give_up_partitions(&mut self) {
        self.consumer.unassign_all();
        self.processed.clear();
        self.committed.clear();
        self.state = State::Out;
    }

    fn start_joining(&mut self) -> Result<(), ClientError> {
        let Some(mut membership) = self.membership.take() else {
            return Err(ClientError::Stopped("group consumer"));
        };
        self.state = State::Joining(tailway_runtime::spawn(async move {
            let joined = membership.join().await;
            (membership, joined)
        }));
        Ok(())
    }

    async fn end_joining(
        &mut self,
        ended: Option<(Membership, Result<Joined, ClientError>)>,
    ) -> Result<(), ClientError> {
        self.state = State::Out;
        let Some((membership, joined)) = ended else {
            return Err(ClientError::Stopped("group consumer"));
        };
        let heartbeats = membership.clone();
        self.membership = Some(membership);
        let joined = joined?;
        let starts: Vec<_> = joined
            .offsets
            .iter()
            .map(|(partition, offset)| {
                (partition.clone(), offset.map_or(self.options.start, StartAt::Offset))
            })
            .collect();
        self.committed = joined
            .offsets
            .iter()
            .filter_map(|(partition, offset)| Some((partition.clone(), (*offset)?)))
            .collect();
        let (tell, pulse) = watch::channel(Pulse::Fine);
        let generation = joined.generation;
        let task = tailway_runtime::spawn(beat(heartbeats, generation, tell));
        self.state = State::Stable(Stable {
            joined,
            pulse,
            heartbeats: task.abort_handle(),
            last_commit: Instant::now(),
        });
        self.joins += 1;
        let assigned = self.consumer.assign(&starts).await;
        if assigned.is_err() {
            // A member that heartbeats and reads nothing would keep its partitions from everybody: it joins again.
            self.give_up_partitions();
        }
        assigned
    }

    async fn auto_commit(&mut self) {
        if let Err(error) = self.commit_processed().await {
            tracing::warn!(group = self.options.group_id, %error, "offsets were not committed");
        }
        if let State::Stable(stable) = &mut self.state {
            stable.last_commit = Instant::now();
        }
    }

    async fn commit_processed(&mut self) -> Result<(), ClientError> {
        let State::Stable(stable) = &self.state else {
            return Err(ClientError::Usage("offsets cannot be committed outside the group".into()));
        };
        let new: BTreeMap<TopicPartition, i64> = self
            .processed
            .iter()
            .filter(|(partition, offset)| self.committed.get(*partition) != Some(*offset))
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect();
        let Some(membership) = &mut self.membership else { return Ok(()) };
        if new.is_empty() {
            return Ok(());
        }
        membership.commit(stable.joined.generation, &new).await?;
        self.committed.extend(new);
        Ok(())
    }
}

impl Drop for GroupConsumer {
    fn drop(&mut self) {
        // A join that nobody waits for would make a member that never reads.
        if let State::Joining(task) = &self.state {
            task.abort();
        }
    }
}

/// Sends heartbeats until one says that the assignment is over.
async fn beat(mut membership: Membership, generation: i32, tell: watch::Sender<Pulse>) {
    let every = membership.options().heartbeat_interval;
    let session = membership.options().session_timeout;
    let mut last_answer = Instant::now();
    loop {
        sleep(every).await;
        let pulse = match membership.heartbeat(generation).await {
            Ok(ErrorCode::NONE) => {
                last_answer = Instant::now();
                continue;
            }
            Ok(ErrorCode::UNKNOWN_MEMBER_ID) => Pulse::Forgotten,
            Ok(ErrorCode::FENCED_INSTANCE_ID) => Pulse::Fenced,
            Ok(ErrorCode::REBALANCE_IN_PROGRESS | ErrorCode::ILLEGAL_GENERATION) => Pulse::Rejoin,
            // A coordinator that moves or is away: the session outlasts it, or does not.
            Ok(_) | Err(_) if last_answer.elapsed() < session => continue,
            Ok(_) | Err(_) => Pulse::Rejoin,
        };
        tell.send_replace(pulse);
        return;
    }
}

/// For the message of a join that takes long.
pub(crate) fn describe(assignment: &BTreeMap<Arc<str>, Vec<i32>>) -> String {
    let topics = assignment.iter().map(|(topic, indexes)| format!("{topic} {indexes:?}"));
    topics.collect::<Vec<_>>().join(", ")
}
