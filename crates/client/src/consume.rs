//! Reading partitions from given offsets: one long-polling Fetch per leader, always under way.
//!
//! [`Consumer::poll`] returns what has come; while the caller works on it, the next Fetches are
//! already waiting at their brokers. Records share the memory of the answer they came in. What
//! passes by itself (a broker restarts, a leader moves) is tried again with backoff and shown by
//! [`Consumer::trouble`]; only what cannot pass is an error.
//!
//! Invariant: per partition, records are given out in offset order, each once, none left out: an
//! answer is used only if it starts where the position is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_metadata::ids::TopicPartition;
use tailway_net::backoff::Backoff;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::{BatchIter, RecordRef};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::{Client, FetchFrom, FetchLimits, Fetched, OffsetSpec, OwnLane};
use crate::error::ClientError;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartAt {
    Earliest,
    /// Only what comes from now on.
    Latest,
    Offset(i64),
    /// The first record of this time (milliseconds) or later; the end if there is none.
    Timestamp(i64),
}

/// Settings of a consumer.
#[derive(Debug, Clone)]
pub struct ConsumerOptions {
    /// How long a broker may hold a Fetch for want of records.
    pub wait_max: Duration,
    pub bytes_min: i32,
    /// Of one answer.
    pub bytes_max: i32,
    /// Of one partition in an answer.
    pub partition_bytes_max: i32,
    /// Of one batch after decompression; more is an error.
    pub batch_bytes_max: usize,
    /// Where to go on when the offset is no longer, or not yet, there; `None`: that is an error.
    pub out_of_range: Option<StartAt>,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            wait_max: Duration::from_millis(500),
            bytes_min: 1,
            bytes_max: 16 * 1024 * 1024,
            partition_bytes_max: 1024 * 1024,
            batch_bytes_max: 64 * 1024 * 1024,
            out_of_range: Some(StartAt::Earliest),
        }
    }
}

/// Records of one partition, in offset order.
#[derive(Debug, Clone)]
pub struct Consumed {
    pub partition: TopicPartition,
    /// Where the log ended for consumers when this was read.
    pub high_watermark: i64,
    pub records: Vec<RecordRef>,
}

#[derive(Debug)]
struct Position {
    /// Of the next record wanted.
    offset: i64,
    high_watermark: Option<i64>,
    /// Not before this time, after a failure.
    not_before: Option<Instant>,
    backoff: Backoff,
    /// A Fetch is under way.
    fetching: bool,
    /// The offset is out of range: a new one must be found first.
    lost: bool,
}

struct Answer {
    asked: Vec<FetchFrom>,
    result: Result<Vec<Fetched>, ClientError>,
}

/// Reads assigned partitions.
#[derive(Debug)]
pub struct Consumer {
    client: Client,
    options: ConsumerOptions,
    positions: BTreeMap<TopicPartition, Position>,
    fetches: JoinSet<Answer>,
    trouble: Option<ClientError>,
    /// What ended an answer whose first records could still be given out.
    failure: Option<ClientError>,
    lane: OwnLane,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("asked", &self.asked.len()).finish_non_exhaustive()
    }
}

impl Consumer {
    pub fn new(client: Client, options: ConsumerOptions) -> Self {
        let lane = client.own_lane();
        Self {
            client,
            options,
            positions: BTreeMap::new(),
            fetches: JoinSet::new(),
            trouble: None,
            failure: None,
            lane,
        }
    }

    /// Adds partitions, or moves those that are assigned.
    pub async fn assign(
        &mut self,
        partitions: &[(TopicPartition, StartAt)],
    ) -> Result<(), ClientError> {
        let mut starts: BTreeMap<TopicPartition, i64> = BTreeMap::new();
        let mut ask = Vec::new();
        for (partition, start) in partitions {
            let spec = match start {
                StartAt::Offset(offset) => {
                    starts.insert(partition.clone(), *offset);
                    continue;
                }
                StartAt::Earliest => OffsetSpec::Earliest,
                StartAt::Latest => OffsetSpec::Latest,
                StartAt::Timestamp(ms) => OffsetSpec::Timestamp(*ms),
            };
            ask.push((partition.clone(), spec));
        }
        let mut at_end = Vec::new();
        for listed in self.client.list_offsets(&ask).await? {
            if listed.offset < 0 {
                at_end.push((listed.partition, OffsetSpec::Latest));
            } else {
                starts.insert(listed.partition, listed.offset);
            }
        }
        for listed in self.client.list_offsets(&at_end).await? {
            starts.insert(listed.partition, listed.offset);
        }
        for (partition, offset) in starts {
            self.seek(partition, offset);
        }
        Ok(())
    }

    /// Adds all partitions of a topic.
    pub async fn assign_topic(&mut self, topic: &str, start: StartAt) -> Result<(), ClientError> {
        let topic = self.client.topic(topic).await?;
        let partitions: Vec<_> = topic
            .partitions
            .keys()
            .map(|index| (TopicPartition::new(Arc::clone(&topic.name), *index), start))
            .collect();
        self.assign(&partitions).await
    }

    /// Assigns a partition at an offset.
    pub fn seek(&mut self, partition: TopicPartition, offset: i64) {
        let position = Position {
            offset,
            high_watermark: None,
            not_before: None,
            backoff: Backoff::new(
                Duration::from_millis(50),
                Duration::from_secs(1),
                tailway_runtime::seed(),
            ),
            fetching: false,
            lost: false,
        };
        self.positions.insert(partition, position);
    }

    /// Takes a partition away; answers that are under way are ignored.
    pub fn unassign(&mut self, partition: &TopicPartition) {
        self.positions.remove(partition);
    }

    /// Takes everything away and ends the Fetches under way.
    pub fn unassign_all(&mut self) {
        self.positions.clear();
        self.failure = None;
        self.fetches.abort_all();
        self.fetches = JoinSet::new();
    }

    /// The offset of the next record of each assigned partition.
    pub fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.positions.iter().map(|(partition, position)| (partition, position.offset))
    }

    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.positions.get(partition).map(|position| position.offset)
    }

    /// Records not yet given out, as far as is known; `None` before every partition has answered.
    pub fn lag(&self) -> Option<i64> {
        self.positions.values().map(|p| Some((p.high_watermark? - p.offset).max(0))).sum()
    }

    /// What is in the way at present and is being tried again.
    pub fn trouble(&self) -> Option<&ClientError> {
        self.trouble.as_ref()
    }

    /// Records as soon as there are any; nothing after `timeout`. Safe to cancel.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<Consumed>, ClientError> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        let deadline = Instant::now() + timeout;
        loop {
            self.find_lost().await?;
            let retry_at = self.launch().await?;
            let wake = retry_at.map_or(deadline, |at| at.min(deadline));
            tokio::select! {
                biased;
                Some(joined) = self.fetches.join_next() => {
                    // Aborted tasks were of an assignment that is gone.
                    let Ok(answer) = joined else { continue };
                    let consumed = self.take_in(answer)?;
                    if !consumed.is_empty() {
                        return Ok(consumed);
                    }
                }
                () = sleep_until(wake) => {}
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Starts a Fetch for each leader that has partitions without one; when to try again those
    /// that must wait.
    async fn launch(&mut self) -> Result<Option<Instant>, ClientError> {
        let now = Instant::now();
        let mut retry_at: Option<Instant> = None;
        let mut by_leader: BTreeMap<i32, Vec<FetchFrom>> = BTreeMap::new();
        let idle: Vec<TopicPartition> = self
            .positions
            .iter()
            .filter(|(_, position)| !position.fetching)
            .map(|(partition, _)| partition.clone())
            .collect();
        for partition in idle {
            let Some(position) = self.positions.get(&partition) else { continue };
            if let Some(at) = position.not_before.filter(|at| *at > now) {
                retry_at = Some(retry_at.map_or(at, |other| other.min(at)));
                continue;
            }
            if position.lost {
                continue;
            }
            let offset = position.offset;
            match self.client.leader(&partition).await {
                Ok(leader) => by_leader.entry(leader.leader).or_default().push(FetchFrom {
                    partition,
                    offset,
                    leader_epoch: leader.leader_epoch,
                    bytes_max: self.options.partition_bytes_max,
                }),
                Err(error) => {
                    let at = self.hold_back(&partition, error)?;
                    retry_at = Some(retry_at.map_or(at, |other| other.min(at)));
                }
            }
        }
        for (leader, from) in by_leader {
            for asked in &from {
                if let Some(position) = self.positions.get_mut(&asked.partition) {
                    position.fetching = true;
                }
            }
            let client = self.client.clone();
            let lane = self.lane.lane();
            let limits = FetchLimits {
                wait_max: self.options.wait_max,
                bytes_min: self.options.bytes_min,
                bytes_max: self.options.bytes_max,
            };
            self.fetches.spawn(tailway_runtime::task(async move {
                let result = client.fetch_on(leader, lane, &from, limits).await;
                Answer { asked: from, result }
            }));
        }
        Ok(retry_at)
    }

    /// Notes a failure that may pass; gives back one that cannot.
    fn hold_back(
        &mut self,
        partition: &TopicPartition,
        error: ClientError,
    ) -> Result<Instant, ClientError> {
        if !error.is_retriable() {
            return Err(error);
        }
        self.client.invalidate(&partition.topic);
        let mut at = Instant::now();
        if let Some(position) = self.positions.get_mut(partition) {
            at += position.backoff.next_pause();
            position.not_before = Some(at);
        }
        self.trouble = Some(error);
        Ok(at)
    }

    /// Not async on purpose: between a position that moves on and the return of its records
    /// nothing may be cancelled.
    fn take_in(&mut self, answer: Answer) -> Result<Vec<Consumed>, ClientError> {
        let Answer { asked, result } = answer;
        let mut current = BTreeMap::new();
        for from in asked {
            if let Some(position) = self.positions.get_mut(&from.partition) {
                position.fetching = false;
                if position.offset == from.offset {
                    current.insert(from.partition, from.offset);
                }
            }
        }
        let fetched = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                for partition in current.keys() {
                    self.hold_back(partition, error.clone())?;
                }
                return Ok(Vec::new());
            }
        };
        let mut consumed = Vec::new();
        for fetched in fetched {
            let Some(offset) = current.remove(&fetched.partition) else { continue };
            match self.take_partition(fetched, offset) {
                Ok(taken) => consumed.extend(taken),
                // The positions of what was taken have moved: its records come first.
                Err(error) if !consumed.is_empty() => {
                    self.failure = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(consumed)
    }

    fn take_partition(
        &mut self,
        fetched: Fetched,
        offset: i64,
    ) -> Result<Option<Consumed>, ClientError> {
        let Fetched { partition, error, high_watermark, records, .. } = fetched;
        match error {
            ErrorCode::NONE => {}
            ErrorCode::OFFSET_OUT_OF_RANGE => {
                self.out_of_range(&partition, offset)?;
                return Ok(None);
            }
            code => {
                let refused = ClientError::Refused {
                    broker: "the leader".into(),
                    api: "Fetch",
                    subject: partition.to_string(),
                    code,
                    message: None,
                };
                self.hold_back(&partition, refused)?;
                return Ok(None);
            }
        }
        let (next, records) = read(&partition, offset, records, self.options.batch_bytes_max)?;
        self.trouble = None;
        let Some(position) = self.positions.get_mut(&partition) else { return Ok(None) };
        position.offset = next;
        position.high_watermark = Some(high_watermark);
        position.not_before = None;
        position.backoff.reset();
        Ok((!records.is_empty()).then_some(Consumed { partition, high_watermark, records }))
    }

    fn out_of_range(&mut self, partition: &TopicPartition, offset: i64) -> Result<(), ClientError> {
        let Some(start) = self.options.out_of_range else {
            return Err(ClientError::Refused {
                broker: "the leader".into(),
                api: "Fetch",
                subject: format!("{partition} at offset {offset}"),
                code: ErrorCode::OFFSET_OUT_OF_RANGE,
                message: Some("retention has removed it, or the topic was made anew".into()),
            });
        };
        tracing::warn!(%partition, offset, ?start, "this offset is not there; going on elsewhere");
        if let Some(position) = self.positions.get_mut(partition) {
            position.lost = true;
        }
        Ok(())
    }

    /// Finds offsets for partitions whose own is out of range.
    async fn find_lost(&mut self) -> Result<(), ClientError> {
        let Some(start) = self.options.out_of_range else { return Ok(()) };
        let now = Instant::now();
        let due = |p: &Position| p.lost && p.not_before.is_none_or(|at| at <= now);
        let lost: Vec<_> = self
            .positions
            .iter()
            .filter(|(_, position)| due(position))
            .map(|(partition, _)| (partition.clone(), start))
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.assign(&lost).await {
            for (partition, _) in &lost {
                self.hold_back(partition, error.clone())?;
            }
        }
        Ok(())
    }
}

/// The records from `offset` on, and the offset that follows the last whole batch.
fn read(
    partition: &TopicPartition,
    offset: i64,
    records: Bytes,
    batch_bytes_max: usize,
) -> Result<(i64, Vec<RecordRef>), ClientError> {
    let bad = |at: i64, cause: &tailway_wire::WireError| ClientError::BadRecords {
        partition: partition.clone(),
        offset: at,
        cause: cause.to_string(),
    };
    let mut next = offset;
    let mut found = Vec::new();
    let got_bytes = !records.is_empty();
    let mut any_batch = false;
    for batch in BatchIter::new(records) {
        let batch = batch.map_err(|cause| bad(next, &cause))?;
        any_batch = true;
        if batch.header.next_offset() <= offset {
            continue;
        }
        batch.validate().map_err(|cause| bad(next, &cause))?;
        if !batch.header.attributes.is_control() {
            for record in batch.records(batch_bytes_max).map_err(|cause| bad(next, &cause))? {
                let record = record.map_err(|cause| bad(next, &cause))?;
                if record.offset >= offset {
                    found.push(record);
                }
            }
        }
        next = batch.header.next_offset();
    }
    if got_bytes && !any_batch {
        return Err(ClientError::BadRecords {
            partition: partition.clone(),
            offset,
            cause: "the broker sent less than one batch".into(),
        });
    }
    Ok((next, found))
}
