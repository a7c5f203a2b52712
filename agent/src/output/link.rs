//! One partition's task: find out what is in doubt, get a producer identity, send.
//!
//! The shipper's lane says `Resolve` once at its start and again after its pipeline stopped, and is
//! told which doubtful batches are stored. Then it says `Start`, with those of an earlier process
//! that are to be sent again as they were, and from then on batches go out in the order in which
//! they come. Until something works it is tried again, and what is in the way is told.
//!
//! A request of a process that was killed may still be on its way when its successor looks for it.
//! A batch that is sent again with its own sequences is stored once whichever comes first. What is
//! sent anew is not: the new epoch of the producer keeps the old request out from the first batch
//! on, and not before. So what lies between the look and the first acknowledgement is looked at
//! again, and a batch found twice is told instead of hidden. An acknowledgement without an offset
//! does not say how far to look, so the next one that has an offset does. Looking again holds up
//! neither the acknowledgements nor a stop, and is tried until it works.
//!
//! A topic that was deleted and made anew is another topic: before it is looked into, and when
//! sending has trouble, the link compares its id, and the cluster's, with those that the lane knows.

use std::time::Duration;

use bytes::Bytes;
use tailway_client::machine::pipeline::{
    Ack, PipelineOptions, ProducerIdentity, SequencedBatch, StopReason,
};
use tailway_client::produce::{SenderEvent, SenderOptions};
use tailway_client::{Client, ClientError, PartitionSender, TopicPartition};
use tailway_daemon::Stop;
use tailway_net::backoff::Backoff;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::inbox::{Inbox, LaneId, Message};
use super::resolve::{Doubt, LookFrom, Scanned, offset_of, scan};
use super::topic::TopicFound;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// For requests of a process that died a moment ago.
const SETTLE: Duration = Duration::from_secs(1);
/// Second looks under way; of more, the oldest is given up.
const LOOKS_MAX: usize = 16;

/// What the lane wants.
#[derive(Debug)]
pub enum Command {
    /// Find out about `doubts`. `settle`: requests may still be on their way.
    Resolve { doubts: Vec<Doubt>, from: LookFrom, settle: bool },
    /// Get ready to send under `identity`, or under one that was never used. `resent`, with their
    /// counts of records, are the first batches, from `first_sequence` on; an earlier process has
    /// sent them.
    Start { identity: Option<ProducerIdentity>, first_sequence: i32, resent: Vec<(Bytes, i32)> },
    /// A batch with the next sequences of the identity in `Started`.
    Batch { bytes: Bytes, count: i32 },
}

/// What became of the doubts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What is looked for later lies behind this offset.
    pub scan_from: i64,
    /// Base offsets of the doubtful batches that are stored.
    pub found: Vec<Option<i64>>,
    /// The first of the offsets that were deleted before they could be looked at, if any were.
    pub deleted_from: Option<i64>,
    /// Everything below it was looked at.
    pub looked_to: i64,
}

/// The task's side of a lane.
#[derive(Debug, Clone)]
pub struct Link {
    pub lane: LaneId,
    pub client: Client,
    pub partition: TopicPartition,
    /// The topic that the lane knows.
    pub topic: TopicFound,
    pub request_timeout: Duration,
    /// A batch that has no acknowledgement for this long is looked for instead of sent again.
    pub delivery_timeout: Duration,
    pub inbox: Inbox,
}

/// Most batches that are looked for a second time; of more, the oldest are left.
const MISSING_MAX: usize = 64;

/// Doubtful batches that were not there at the first look, which ended at `looked_to`, and how
/// often each may be there later.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Missing {
    doubts: Vec<(Doubt, u32)>,
    looked_to: i64,
}

impl Missing {
    fn of(doubts: &[Doubt], resolved: &Resolved) -> Self {
        let missing = doubts.iter().zip(&resolved.found).filter(|(_, found)| found.is_none());
        let doubts = missing.map(|(doubt, _)| (*doubt, 0)).collect();
        Self { doubts, looked_to: resolved.looked_to }
    }

    /// Adds those of a later look.
    fn join(&mut self, later: Missing) {
        if self.doubts.is_empty() {
            *self = later;
            return;
        }
        self.looked_to = self.looked_to.min(later.looked_to);
        for (doubt, allowed) in later.doubts {
            self.doubts.retain(|(known, _)| *known != doubt);
            self.doubts.push((doubt, allowed));
        }
        self.doubts.drain(..self.doubts.len().saturating_sub(MISSING_MAX));
    }

    /// What to look for between `looked_to` and `end`, where an acknowledged batch ends (`None`:
    /// it does not say), if anything. It is asked for once.
    fn take_before(&mut self, end: Option<i64>) -> Vec<(Doubt, u32)> {
        let Some(end) = end else { return Vec::new() };
        let doubts = std::mem::take(&mut self.doubts);
        if end > self.looked_to { doubts } else { Vec::new() }
    }
}

fn is_other(known: &TopicFound, found: &TopicFound) -> bool {
    let differ = |a: &str, b: &str| !a.is_empty() && !b.is_empty() && a != b;
    differ(&known.cluster, &found.cluster) || differ(&known.topic_id, &found.topic_id)
}

/// Where the acknowledged batch ends, if it says.
fn end_of(ack: &Ack) -> Option<i64> {
    (ack.base_offset >= 0).then(|| ack.base_offset + i64::from(ack.record_count))
}

/// Records that are stored more often than they may be.
fn records_repeated(doubts: &[(Doubt, u32)], scanned: &Scanned) -> i64 {
    let of = |((doubt, allowed), copies): (&(Doubt, u32), &u32)| {
        i64::from(copies.saturating_sub(*allowed)) * i64::from(doubt.record_count())
    };
    doubts.iter().zip(&scanned.copies).map(of).sum()
}

/// What a task keeps from one pipeline to the next.
#[derive(Debug)]
struct Memory {
    topic: TopicFound,
    missing: Missing,
    /// Of the last look, before it is known whether it is sent again as it was.
    fresh: Missing,
    looks: JoinSet<()>,
}

impl Link {
    /// Runs until the lane is dropped or the program stops.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>, mut stop: Stop) {
        let mut memory = Memory {
            topic: self.topic.clone(),
            missing: Missing::default(),
            fresh: Missing::default(),
            looks: JoinSet::new(),
        };
        while self.turn(&mut memory, &mut commands, &mut stop).await.is_some() {}
    }

    async fn turn(
        &self,
        memory: &mut Memory,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut Stop,
    ) -> Option<()> {
        match stop.unless(commands.recv()).await?? {
            Command::Resolve { doubts, from, settle } => {
                if settle {
                    stop.unless(tokio::time::sleep(SETTLE)).await?;
                }
                if !doubts.is_empty() {
                    let known = &memory.topic;
                    let moved = self.until_it_works(|| self.moved(known), stop).await?;
                    if let Some(found) = moved {
                        self.tell_moved(memory, found);
                        return Some(());
                    }
                }
                let look = || self.look(&doubts, from);
                let resolved = self.until_it_works(look, stop).await?;
                memory.fresh = Missing::of(&doubts, &resolved);
                self.inbox.send(Message::Resolved { lane: self.lane, resolved });
            }
            Command::Start { identity, first_sequence, resent } => {
                let identity = match identity {
                    Some(identity) => identity,
                    None => self.until_it_works(|| self.client.init_producer_id(), stop).await?,
                };
                self.inbox.send(Message::Started { lane: self.lane, identity });
                let mut fresh = std::mem::take(&mut memory.fresh);
                for (_, allowed) in &mut fresh.doubts {
                    *allowed = u32::from(!resent.is_empty());
                }
                memory.missing.join(fresh);
                self.send(identity, (first_sequence, resent), memory, commands, stop).await?;
            }
            // It was on its way when its pipeline stopped: it comes again later.
            Command::Batch { .. } => {}
        }
        Some(())
    }

    async fn until_it_works<T, F>(&self, attempt: impl Fn() -> F, stop: &mut Stop) -> Option<T>
    where
        F: Future<Output = Result<T, ClientError>>,
    {
        let mut backoff = self.backoff();
        loop {
            match stop.unless(attempt()).await? {
                Ok(value) => return Some(value),
                Err(error) => self.tell_trouble(error.to_string()),
            }
            stop.unless(tokio::time::sleep(backoff.next_pause())).await?;
        }
    }

    fn backoff(&self) -> Backoff {
        let seed = self.partition.partition.unsigned_abs();
        Backoff::new(PAUSE_FIRST, PAUSE_MAX, u64::from(seed))
    }

    /// The topic as it is now, if it is not the one that is known.
    async fn moved(&self, known: &TopicFound) -> Result<Option<TopicFound>, ClientError> {
        let name = &self.partition.topic;
        self.client.invalidate(name);
        let topic = self.client.topic_or_create(name).await?;
        let found = TopicFound::of(&self.client, &topic);
        Ok(is_other(known, &found).then_some(found))
    }

    /// The same, as far as it is known without asking.
    fn has_moved(&self, known: &TopicFound) -> Option<TopicFound> {
        let cluster = self.client.known();
        let topic = cluster.topic(&self.partition.topic)?;
        let found = TopicFound::of(&self.client, topic);
        is_other(known, &found).then_some(found)
    }

    fn tell_moved(&self, memory: &mut Memory, found: TopicFound) {
        memory.topic = found.clone();
        // What is looked for a second time was in the topic that is gone.
        memory.missing = Missing::default();
        self.inbox.send(Message::Moved { lane: self.lane, found });
    }

    async fn look(&self, doubts: &[Doubt], from: LookFrom) -> Result<Resolved, ClientError> {
        let scan_from = offset_of(&self.client, &self.partition, from).await?;
        let mut resolved =
            Resolved { scan_from, found: Vec::new(), deleted_from: None, looked_to: scan_from };
        if !doubts.is_empty() {
            let scanned = scan(&self.client, &self.partition, scan_from, None, doubts).await?;
            resolved.found = scanned.found;
            resolved.deleted_from = scanned.deleted_from;
            resolved.looked_to = scanned.end;
        }
        Ok(resolved)
    }

    /// Sends until the pipeline stops (`Some`), or nobody wants to send any more.
    async fn send(
        &self,
        identity: ProducerIdentity,
        (first_sequence, resent): (i32, Vec<(Bytes, i32)>),
        memory: &mut Memory,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut Stop,
    ) -> Option<()> {
        let pipeline = PipelineOptions {
            delivery_timeout: Some(self.delivery_timeout),
            sent_before: resent.len(),
            ..PipelineOptions::default()
        };
        let options = SenderOptions {
            next_sequence: first_sequence,
            request_timeout: self.request_timeout,
            pipeline,
            ..SenderOptions::default()
        };
        let (mut sender, mut events) =
            PartitionSender::start(self.client.clone(), self.partition.clone(), identity, options);
        let mut resent_left = resent.len();
        for (bytes, count) in resent {
            // There is room for as many as may be open. If it stopped, it says so as its last event.
            if sender.push(bytes, count).await.is_err() {
                break;
            }
        }
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => return None,
                event = events.recv() => match event? {
                    SenderEvent::Acked(ack) => {
                        resent_left = resent_left.saturating_sub(1);
                        if resent_left == 0 {
                            self.look_again(memory, &ack);
                        }
                        self.inbox.send(Message::Acked { lane: self.lane, ack });
                    }
                    SenderEvent::Retrying { cause, .. } => {
                        self.tell_trouble(cause);
                        stop.unless(self.create_if_gone()).await?;
                        if let Some(found) = self.has_moved(&memory.topic) {
                            self.tell_moved(memory, found);
                            return Some(());
                        }
                    }
                    SenderEvent::Stopped { reason, open } => {
                        self.tell_stopped(reason, open);
                        return Some(());
                    }
                },
                command = commands.recv() => match command? {
                    // A pipeline that stopped meanwhile says so as its last event.
                    Command::Batch { bytes, count } => drop(sender.push(bytes, count).await),
                    other => {
                        tracing::error!(partition = %self.partition, ?other, "it is sending already");
                    }
                },
                Some(_) = memory.looks.join_next() => {}
            }
        }
    }

    /// A topic that was deleted is created anew, as it was the first time.
    async fn create_if_gone(&self) {
        let topic = &self.partition.topic;
        let found = self.client.topic(topic).await;
        if !matches!(found, Err(ClientError::UnknownTopic { .. })) {
            return;
        }
        if let Err(error) = self.client.topic_or_create(topic).await {
            self.tell_trouble(error.to_string());
        }
    }

    /// After the first acknowledgement: is anything stored by now that should not be?
    fn look_again(&self, memory: &mut Memory, ack: &Ack) {
        let end = end_of(ack);
        let doubts = memory.missing.take_before(end);
        if doubts.is_empty() {
            return;
        }
        while memory.looks.try_join_next().is_some() {}
        if memory.looks.len() >= LOOKS_MAX {
            self.tell_trouble("too many batches wait to be looked for again".to_owned());
            return;
        }
        let (link, from) = (self.clone(), memory.missing.looked_to);
        let look = async move {
            let wanted: Vec<Doubt> = doubts.iter().map(|(doubt, _)| *doubt).collect();
            let mut backoff = link.backoff();
            let scanned = loop {
                match scan(&link.client, &link.partition, from, end, &wanted).await {
                    Ok(scanned) => break scanned,
                    Err(error) => link.tell_trouble(format!("cannot look again: {error}")),
                }
                tokio::time::sleep(backoff.next_pause()).await;
            };
            let records = records_repeated(&doubts, &scanned);
            if records > 0 {
                link.inbox.send(Message::Repeated { lane: link.lane, records });
            }
        };
        memory.looks.spawn(tailway_runtime::task(look));
    }

    fn tell_trouble(&self, cause: String) {
        self.inbox.send(Message::LaneTrouble { lane: self.lane, cause });
    }

    fn tell_stopped(&self, reason: StopReason, open: Vec<SequencedBatch>) {
        self.inbox.send(Message::Stopped { lane: self.lane, reason, open });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(sequences: std::ops::Range<i32>, looked_to: i64) -> Missing {
        let doubt = |n| {
            let (producer_id, producer_epoch) = (1, 0);
            (Doubt { producer_id, producer_epoch, first_sequence: n, last_sequence: n }, 0)
        };
        Missing { doubts: sequences.map(doubt).collect(), looked_to }
    }

    fn ack(base_offset: i64) -> Ack {
        let (base_sequence, record_count) = (0, 1);
        Ack { base_sequence, record_count, base_offset, log_append_time: -1, leader_epoch: 0 }
    }

    #[test]
    fn the_second_look_is_at_the_first_acknowledgement_that_says_where() {
        // Offsets of acknowledgements as they come, and how many batches are looked for at each.
        let cases: [(&[i64], &[usize]); 5] = [
            (&[101, 102], &[3, 0]),
            (&[-1, 105, 106], &[0, 3, 0]),
            (&[-1, -1, 101], &[0, 0, 3]),
            // Where nothing is that was not looked at; below it, the topic is another one.
            (&[99, 101], &[0, 0]),
            (&[7, 101], &[0, 0]),
        ];
        for (acked, expected) in cases {
            let mut missing = missing(0..3, 100);
            let looked: Vec<usize> =
                acked.iter().map(|at| missing.take_before(end_of(&ack(*at))).len()).collect();
            assert_eq!(looked, expected, "{acked:?}");
        }
    }

    #[test]
    fn a_pipeline_that_stopped_hands_on_what_it_did_not_look_for() {
        let mut all = Missing::default();
        all.join(missing(0..2, 100));
        assert_eq!(all, missing(0..2, 100));
        all.join(missing(2..3, 120));
        assert_eq!(all, missing(0..3, 100), "from where the first look ended");
        all.join(missing(3..200, 130));
        assert_eq!(all, missing(200 - 64..200, 100), "a bound");
        assert_eq!(all.take_before(Some(131)).len(), 64);
        all.join(missing(0..0, 150));
        assert_eq!(all, missing(0..0, 150));
    }

    #[test]
    fn what_is_there_more_often_than_it_may_be_is_counted() {
        let of = |allowed: u32, copies: u32| {
            let mut doubts = missing(0..1, 0).doubts;
            doubts[0].0.last_sequence = 9;
            doubts[0].1 = allowed;
            let scanned =
                Scanned { found: vec![None], copies: vec![copies], deleted_from: None, end: 0 };
            records_repeated(&doubts, &scanned)
        };
        let cases = [(0, 0, 0), (0, 1, 10), (1, 0, 0), (1, 1, 0), (1, 2, 10), (0, 2, 20)];
        for (allowed, copies, records) in cases {
            assert_eq!(of(allowed, copies), records, "{copies} of {allowed}");
        }
    }
}
