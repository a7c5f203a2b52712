//! One partition's task: resolve what is in doubt, get a producer identity, send.
//!
//! The shipper's lane says `Begin` once at its start and again after its pipeline stopped; between
//! that and `Began` nothing is sent. Until something works it is tried again, and what is in the
//! way is told. Then batches go out in the order in which they come.
//!
//! A request of a process that was killed may still be on its way when its successor looks for it.
//! So the first look waits a moment, and when the first new batch is stored, what lies between the
//! look and that batch is looked at again: a batch found only then has been sent twice, and that
//! is told instead of hidden. An acknowledgement without an offset (a resend that the broker knew
//! again) does not say how far to look, so the next one that has an offset does; and what was to be
//! looked for when a pipeline stopped is looked for when the next one gets that far.

use std::time::Duration;

use bytes::Bytes;
use tailway_client::machine::pipeline::{Ack, ProducerIdentity, StopReason};
use tailway_client::produce::{SenderEvent, SenderOptions};
use tailway_client::{Client, ClientError, OffsetSpec, PartitionSender, TopicPartition};
use tailway_daemon::Stop;
use tailway_net::backoff::Backoff;
use tokio::sync::mpsc;

use super::inbox::{Inbox, LaneId, Message};
use super::resolve::{Doubt, scan};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// For requests of a process that died a moment ago.
const SETTLE: Duration = Duration::from_secs(1);

/// What the lane wants.
#[derive(Debug)]
pub enum Command {
    /// Find out about `doubts`, then get ready to send. `scan_from`: where to look; `None` if
    /// nothing was ever sent to this partition. `settle`: requests may still be on their way.
    Begin { doubts: Vec<Doubt>, scan_from: Option<i64>, settle: bool },
    /// A batch with the next sequences of the identity in `Began`.
    Batch { bytes: Bytes, count: i32 },
}

/// The link is ready to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Began {
    pub identity: ProducerIdentity,
    /// What is looked for later lies behind this offset.
    pub scan_from: i64,
    /// Base offsets of the doubtful batches that are stored.
    pub found: Vec<Option<i64>>,
}

/// The task's side of a lane.
#[derive(Debug)]
pub struct Link {
    pub lane: LaneId,
    pub client: Client,
    pub partition: TopicPartition,
    pub request_timeout: Duration,
    pub inbox: Inbox,
}

/// Most batches that are looked for a second time; of more, the oldest are left.
const MISSING_MAX: usize = 64;

/// Doubtful batches that were not there at the first look, which ended at `looked_to`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    doubts: Vec<Doubt>,
    looked_to: i64,
}

impl Missing {
    /// Adds those of a later look.
    fn join(&mut self, later: Missing) {
        if self.doubts.is_empty() {
            *self = later;
            return;
        }
        self.looked_to = self.looked_to.min(later.looked_to);
        self.doubts.extend(later.doubts);
        self.doubts.drain(..self.doubts.len().saturating_sub(MISSING_MAX));
    }

    /// What to look for between `looked_to` and an acknowledged batch at this offset (-1: unknown),
    /// if anything. It is asked for once.
    fn take_before(&mut self, base_offset: i64) -> Vec<Doubt> {
        if base_offset < 0 {
            return Vec::new();
        }
        let doubts = std::mem::take(&mut self.doubts);
        if base_offset > self.looked_to { doubts } else { Vec::new() }
    }
}

impl Link {
    /// Runs until the lane is dropped or the program stops.
    pub async fn run(self, mut commands: mpsc::Receiver<Command>, mut stop: Stop) {
        let mut missing = Missing::default();
        loop {
            let Some(Some(command)) = stop.unless(commands.recv()).await else { return };
            // Batches that were on their way when the pipeline stopped come again later.
            let Command::Begin { doubts, scan_from, settle } = command else { continue };
            if settle && stop.unless(tokio::time::sleep(SETTLE)).await.is_none() {
                return;
            }
            let Some((began, later)) = self.begin(&doubts, scan_from, &mut stop).await else {
                return;
            };
            missing.join(later);
            let identity = began.identity;
            self.inbox.send(Message::Began { lane: self.lane, began });
            if self.send(identity, &mut missing, &mut commands, &mut stop).await.is_none() {
                return;
            }
        }
    }

    async fn begin(
        &self,
        doubts: &[Doubt],
        scan_from: Option<i64>,
        stop: &mut Stop,
    ) -> Option<(Began, Missing)> {
        let seed = self.partition.partition.unsigned_abs();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, u64::from(seed));
        loop {
            match stop.unless(self.try_begin(doubts, scan_from)).await? {
                Ok(began) => return Some(began),
                Err(error) => self.tell_trouble(error.to_string()),
            }
            stop.unless(tokio::time::sleep(backoff.next_pause())).await?;
        }
    }

    async fn try_begin(
        &self,
        doubts: &[Doubt],
        scan_from: Option<i64>,
    ) -> Result<(Began, Missing), ClientError> {
        let scan_from = if let Some(from) = scan_from {
            from
        } else {
            let spec = [(self.partition.clone(), OffsetSpec::Latest)];
            self.client.list_offsets(&spec).await?.first().map_or(0, |listed| listed.offset)
        };
        let mut found = Vec::new();
        let mut looked_to = scan_from;
        if !doubts.is_empty() {
            let scanned = scan(&self.client, &self.partition, scan_from, None, doubts).await?;
            (found, looked_to) = (scanned.found, scanned.end.max(scan_from));
        }
        let identity = self.client.init_producer_id().await?;
        let missing = doubts.iter().zip(&found).filter(|(_, found)| found.is_none());
        let missing = missing.map(|(doubt, _)| *doubt).collect();
        let began = Began { identity, scan_from, found };
        Ok((began, Missing { doubts: missing, looked_to }))
    }

    /// Sends until the pipeline stops (`Some`), or nobody wants to send any more.
    async fn send(
        &self,
        identity: ProducerIdentity,
        missing: &mut Missing,
        commands: &mut mpsc::Receiver<Command>,
        stop: &mut Stop,
    ) -> Option<()> {
        let options =
            SenderOptions { request_timeout: self.request_timeout, ..SenderOptions::default() };
        let (mut sender, mut events) =
            PartitionSender::start(self.client.clone(), self.partition.clone(), identity, options);
        loop {
            tokio::select! {
                biased;
                () = stop.requested() => return None,
                event = events.recv() => match event? {
                    SenderEvent::Acked(ack) => {
                        self.look_again(missing, &ack).await;
                        self.inbox.send(Message::Acked { lane: self.lane, ack });
                    }
                    SenderEvent::Retrying { cause, .. } => {
                        self.tell_trouble(cause);
                        stop.unless(self.create_if_gone()).await?;
                    }
                    SenderEvent::Stopped { reason, open } => {
                        self.tell_stopped(reason, open);
                        return Some(());
                    }
                },
                command = commands.recv() => match command? {
                    // A pipeline that stopped meanwhile says so as its last event.
                    Command::Batch { bytes, count } => drop(sender.push(bytes, count).await),
                    Command::Begin { .. } => {
                        tracing::error!(partition = %self.partition, "a lane began twice");
                    }
                },
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

    /// After the first acknowledgement: is anything stored by now that was not at the first look?
    async fn look_again(&self, missing: &mut Missing, ack: &Ack) {
        let doubts = missing.take_before(ack.base_offset);
        if doubts.is_empty() {
            return;
        }
        let (from, to) = (missing.looked_to, Some(ack.base_offset));
        match scan(&self.client, &self.partition, from, to, &doubts).await {
            Ok(scanned) => {
                let found = doubts.iter().zip(&scanned.found).filter(|(_, found)| found.is_some());
                let count = |doubt: &Doubt| {
                    i64::from(doubt.last_sequence) - i64::from(doubt.first_sequence) + 1
                };
                let records = found.map(|(doubt, _)| count(doubt)).sum();
                if records > 0 {
                    self.inbox.send(Message::Repeated { lane: self.lane, records });
                }
            }
            Err(error) => self.tell_trouble(format!("cannot look again: {error}")),
        }
    }

    fn tell_trouble(&self, cause: String) {
        self.inbox.send(Message::LaneTrouble { lane: self.lane, cause });
    }

    fn tell_stopped(
        &self,
        reason: StopReason,
        open: Vec<tailway_client::machine::pipeline::SequencedBatch>,
    ) {
        self.inbox.send(Message::Stopped { lane: self.lane, reason, open });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(sequences: std::ops::Range<i32>, looked_to: i64) -> Missing {
        let doubt =
            |n| Doubt { producer_id: 1, producer_epoch: 0, first_sequence: n, last_sequence: n };
        Missing { doubts: sequences.map(doubt).collect(), looked_to }
    }

    #[test]
    fn the_second_look_is_at_the_first_acknowledgement_that_says_where() {
        // Offsets of acknowledgements as they come, and how many batches are looked for at each.
        let cases: [(&[i64], &[usize]); 5] = [
            (&[101, 102], &[3, 0]),
            (&[-1, 105, 106], &[0, 3, 0]),
            (&[-1, -1, 101], &[0, 0, 3]),
            // Nothing can have come between; below it, the topic is another one.
            (&[100, 101], &[0, 0]),
            (&[7, 101], &[0, 0]),
        ];
        for (acked, expected) in cases {
            let mut missing = missing(0..3, 100);
            let looked: Vec<usize> =
                acked.iter().map(|offset| missing.take_before(*offset).len()).collect();
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
        assert_eq!(all.take_before(131).len(), 64);
        all.join(missing(0..0, 150));
        assert_eq!(all, missing(0..0, 150));
    }
}
