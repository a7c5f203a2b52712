//! Lanes at work: topics looked up, generations pinned, parcels planned and sent, answers taken.
//!
//! The order is always: decide, remember, send. After a pipeline stopped, and at the start for what
//! an earlier run left, the link finds out which planned batches are stored; those count as
//! acknowledged, the others are voided and their records sent again under a new identity.

use std::collections::BTreeSet;
use std::time::Duration;

use tailway_client::TopicPartition;
use tailway_client::machine::pipeline::{Ack, StopReason};
use tailway_metadata::time::Mono;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::record::Compression;
use tokio::sync::mpsc;

use super::{FileKey, ShipError, Shipper};
use crate::config::{Codec, Config};
use crate::event::Sender;
use crate::machine::identity::{Generation, hash_bytes};
use crate::machine::ledger::{PLANS_OPEN_MAX, Plan, Record, Target, record_count};
use crate::machine::tail_file::Event;
use crate::output::inbox::LaneId;
use crate::output::lane::{Lane, Parcel, Sent, split};
use crate::output::link::{Began, Link};
use crate::output::resolve::Doubt;
use crate::output::topic::{self, TopicFound};

/// Between the stop of a pipeline and its new beginning; doubles up to the maximum.
const RESTART_FIRST: Duration = Duration::from_millis(500);
const RESTART_MAX: Duration = Duration::from_secs(30);

/// A topic that inputs send to.
#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) found: Option<TopicFound>,
    pub(super) trouble: Option<String>,
    /// Files that wait for it.
    waiting: BTreeSet<FileKey>,
}

/// A lane whose pipeline stopped.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) at: Mono,
    pause: Duration,
    /// What was on its way, oldest first.
    sent: Vec<Sent>,
    too_large: bool,
    /// It was too large and could not be split.
    hopeless: bool,
    pub(super) begun: bool,
}

/// What is stored of a plan from before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored(i64),
    Missing,
}

pub(super) fn compression(codec: Codec) -> Compression {
    match codec {
        Codec::None => Compression::None,
        Codec::Gzip => Compression::Gzip,
        Codec::Snappy => Compression::Snappy,
        Codec::Lz4 => Compression::Lz4,
        Codec::Zstd => Compression::Zstd,
    }
}

/// Hash of all that decides how bytes become records.
pub(super) fn pipeline_hash(config: &Config, sender: &Sender) -> u64 {
    let inputs: Vec<_> = config
        .inputs
        .iter()
        .map(|input| (&input.id, input.format.name(), &input.topic, input.line_bytes_max))
        .collect();
    hash_bytes(format!("{}|{}|{inputs:?}", sender.name, sender.beat_version).as_bytes())
}

impl Shipper {
    // Topics.

    /// Asks for all topics that inputs send to, and those to which an earlier run sent what is
    /// still in doubt: its files wait for the answer, also if their input sends elsewhere now.
    pub(super) fn look_up_topics(&mut self) {
        let mut names: BTreeSet<String> =
            self.config.inputs.iter().map(|input| input.topic.clone()).collect();
        let plans = self.registry.ledger().plans.values();
        names.extend(plans.map(|plan| plan.target.topic.clone()));
        for name in names {
            let (client, inbox) = (self.client.clone(), self.inbox.clone());
            let asked = name.clone();
            self.tasks
                .spawn(format!("topic {name}"), |stop| topic::find(client, asked, inbox, stop));
            self.topics.insert(name, Topic::default());
        }
    }

    pub(super) fn topic_trouble(&mut self, name: &str, cause: String) {
        self.metrics.retries.inc();
        let Some(topic) = self.topics.get_mut(name) else { return };
        if topic.trouble.as_ref() != Some(&cause) {
            tracing::warn!(topic = name, cause, "nothing can be sent yet; retrying");
            topic.trouble = Some(cause);
        }
    }

    pub(super) fn topic_found(&mut self, name: &str, found: TopicFound) -> Result<(), ShipError> {
        let partitions = found.partitions;
        tracing::info!(topic = name, partitions, cluster = found.cluster, "found a topic");
        let Some(topic) = self.topics.get_mut(name) else { return Ok(()) };
        topic.trouble = None;
        topic.found = Some(found);
        let waiting = std::mem::take(&mut topic.waiting);
        self.resolve_earlier_plans(name)?;
        for key in waiting {
            self.tell(key, Event::Blocked(false))?;
        }
        Ok(())
    }

    /// Plans of an earlier run: lanes for those that can be looked up, the others are voided.
    fn resolve_earlier_plans(&mut self, name: &str) -> Result<(), ShipError> {
        let mut targets: BTreeSet<Target> = BTreeSet::new();
        targets.extend(self.registry.ledger().plans.values().map(|plan| plan.target.clone()));
        for target in targets.into_iter().filter(|target| target.topic == name) {
            if self.is_current(&target) {
                self.lane_of_target(&target);
                continue;
            }
            let plans: Vec<u64> =
                self.registry.ledger().plans_of(&target).map(|plan| plan.number).collect();
            tracing::warn!(
                topic = name,
                partition = target.partition,
                batches = plans.len(),
                "sending again what was on its way to a topic or cluster that is not there any more"
            );
            for plan in plans {
                let why = "another topic or cluster has its name now".to_owned();
                self.registry.record(Record::Void { plan, why })?;
            }
            self.calendar.full_scan = self.clock.mono();
        }
        Ok(())
    }

    /// Whether the target is in the cluster and topic that are there now.
    fn is_current(&self, target: &Target) -> bool {
        let found = self.topics.get(&target.topic).and_then(|topic| topic.found.as_ref());
        let same = |a: &str, b: &str| a.is_empty() || b.is_empty() || a == b;
        found.is_some_and(|found| {
            same(&found.cluster, &target.cluster)
                && same(&found.topic_id, &target.topic_id)
                && target.partition < found.partitions
        })
    }

    // Lanes.

    /// The lane of a file's generation, if it has room for more; else the file waits for it.
    pub(super) fn lane_with_room(&mut self, key: FileKey) -> Result<Option<LaneId>, ShipError> {
        let Some(id) = self.lane_of_file(key)? else { return Ok(None) };
        let has_room = |shipper: &Self| {
            shipper.lanes[id].has_room() && shipper.spool_bytes() < shipper.config.spool_bytes
        };
        if !has_room(self) {
            self.pump(id)?;
        }
        if has_room(self) {
            return Ok(Some(id));
        }
        self.lanes[id].waiting.insert(key);
        Ok(None)
    }

    fn lane_of_file(&mut self, key: FileKey) -> Result<Option<LaneId>, ShipError> {
        let Some(file) = self.files.get(&key) else { return Ok(None) };
        if let Some(lane) = file.lane {
            return Ok(Some(lane));
        }
        let generation = file.generation;
        let topic_name = self.config.inputs[file.input].topic.clone();
        let Some(topic) = self.topics.get_mut(&topic_name) else { return Ok(None) };
        let Some(found) = topic.found.clone() else {
            topic.waiting.insert(key);
            return Ok(None);
        };
        let entry = self.registry.ledger().files.get(&generation);
        let pinned = entry.and_then(|entry| entry.target.clone());
        let target = match pinned {
            Some(target) if target.topic == topic_name && self.is_current(&target) => target,
            _ => {
                let spread = hash_bytes(&generation.0.to_be_bytes());
                let partitions = u64::from(found.partitions.unsigned_abs().max(1));
                let target = Target {
                    cluster: found.cluster,
                    topic: topic_name,
                    topic_id: found.topic_id,
                    partition: i32::try_from(spread % partitions).unwrap_or_default(),
                };
                self.registry.record(Record::Pin { generation, target: target.clone() })?;
                target
            }
        };
        let lane = self.lane_of_target(&target);
        if let Some(file) = self.files.get_mut(&key) {
            file.lane = Some(lane);
        }
        Ok(Some(lane))
    }

    fn lane_of_target(&mut self, target: &Target) -> LaneId {
        if let Some(id) = self.lane_of.get(target) {
            return *id;
        }
        let id = self.lanes.len();
        let (commands, heard) = mpsc::channel(PLANS_OPEN_MAX + 3);
        let link = Link {
            lane: id,
            client: self.client.clone(),
            partition: TopicPartition::new(target.topic.as_str(), target.partition),
            request_timeout: self.config.output.request_timeout,
            inbox: self.inbox.clone(),
        };
        let name = format!("link {}-{}", target.topic, target.partition);
        self.tasks.spawn(name, |stop| link.run(heard, stop));
        let batch_bytes = self.config.output.batch_bytes;
        let mut lane = Lane::new(id, target.clone(), batch_bytes, commands);
        let ledger = self.registry.ledger();
        let doubts: Vec<Doubt> = ledger.plans_of(target).map(doubt).collect();
        if !doubts.is_empty() {
            tracing::info!(
                topic = target.topic,
                partition = target.partition,
                batches = doubts.len(),
                "finding out what became of batches that were sent before"
            );
        }
        let settle = !doubts.is_empty();
        lane.begin(doubts, ledger.scan_from.get(target).copied(), settle);
        self.lane_of.insert(target.clone(), id);
        self.lanes.push(lane);
        id
    }

    /// Bytes of events that no broker acknowledged yet.
    pub(super) fn spool_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.buffered() + lane.parcel_bytes()).sum()
    }

    pub(super) fn pump_all(&mut self) -> Result<(), ShipError> {
        (0..self.lanes.len()).try_for_each(|lane| self.pump(lane))
    }

    /// Sends what the lane may send.
    pub(super) fn pump(&mut self, id: LaneId) -> Result<(), ShipError> {
        loop {
            let (now, linger) = (self.clock.mono(), self.linger());
            let lane = &mut self.lanes[id];
            let Some(parcel) = lane.next_parcel(&mut self.builder, linger, now)? else {
                return Ok(());
            };
            let number = self.registry.ledger().plan_next();
            let Some(plan) = lane.plan(number, &parcel, self.pipeline) else { return Ok(()) };
            self.save_heads(&parcel)?;
            self.registry.record(Record::Plan(plan.clone()))?;
            self.metrics.batches_sent.inc();
            self.metrics.batch_bytes_sent.inc_by(parcel.bytes.len() as u64);
            self.lanes[id].send(&plan, parcel)?;
            self.changed = true;
        }
    }

    /// Remembers how the files start, as far as that is new.
    fn save_heads(&mut self, parcel: &Parcel) -> Result<(), ShipError> {
        for range in &parcel.ranges {
            let generation = range.generation;
            let key = self.by_generation.get(&generation);
            let Some(file) = key.and_then(|key| self.files.get_mut(key)) else { continue };
            if file.head.len != file.head_saved {
                file.head_saved = file.head.len;
                let head = file.head;
                self.registry.record(Record::Head { generation, head })?;
            }
        }
        Ok(())
    }

    // Answers.

    pub(super) fn acked(&mut self, id: LaneId, ack: Ack) -> Result<(), ShipError> {
        self.lanes[id].trouble = None;
        let Some(sent) = self.lanes[id].acked(ack.base_sequence) else { return Ok(()) };
        self.restarts.remove(&id);
        self.stored(sent.plan, ack.base_offset)?;
        self.pump(id)?;
        self.unblock()
    }

    /// A plan's records are in the partition.
    fn stored(&mut self, number: u64, base_offset: i64) -> Result<(), ShipError> {
        let Some(plan) = self.registry.ledger().plans.get(&number).cloned() else { return Ok(()) };
        self.registry.record(Record::Acked { plan: number, base_offset })?;
        let count = record_count(plan.first_sequence, plan.last_sequence);
        self.metrics.records_acked.inc_by(u64::from(count.unsigned_abs()));
        for range in &plan.ranges {
            if let Some(key) = self.by_generation.get(&range.generation).copied() {
                self.tell(key, Event::Acked { to: range.to })?;
            }
        }
        self.end_generations()
    }

    /// Files that waited for room go on, as far as there is some.
    fn unblock(&mut self) -> Result<(), ShipError> {
        if self.spool_bytes() >= self.config.spool_bytes {
            return Ok(());
        }
        for id in 0..self.lanes.len() {
            if !self.lanes[id].has_room() {
                continue;
            }
            for key in std::mem::take(&mut self.lanes[id].waiting) {
                self.tell(key, Event::Blocked(false))?;
            }
        }
        Ok(())
    }

    pub(super) fn lane_trouble(&mut self, id: LaneId, cause: String) {
        self.metrics.retries.inc();
        let lane = &mut self.lanes[id];
        if lane.trouble.as_ref() != Some(&cause) {
            let (topic, partition) = (&lane.target.topic, lane.target.partition);
            tracing::warn!(topic, partition, cause, "sending is held up; retrying");
            lane.trouble = Some(cause);
        }
    }

    pub(super) fn repeated(&mut self, id: LaneId, records: i64) {
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::error!(
            topic,
            partition,
            records,
            "events are stored twice: a request of the process before this one was carried out late"
        );
        lane.repeated = Some(format!("{records} events are stored twice since the last start"));
        self.metrics.records_repeated.inc_by(records.unsigned_abs());
    }

    // Stopped and begun again.

    pub(super) fn stopped(&mut self, id: LaneId, reason: &StopReason, open: usize) {
        let text = match reason {
            StopReason::Refused { code, message } => match message {
                Some(message) => format!("refused: {code}: {message}"),
                None => format!("refused: {code}"),
            },
            StopReason::DeliveryTimedOut { cause, .. } => cause.clone(),
        };
        let too_large = matches!(
            reason,
            StopReason::Refused {
                code: ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE,
                ..
            }
        );
        let lane = &mut self.lanes[id];
        let (topic, partition) = (&lane.target.topic, lane.target.partition);
        tracing::warn!(
            topic,
            partition,
            reason = text,
            batches = open,
            "a partition's sender stopped"
        );
        lane.trouble = Some(text);
        let now = self.clock.mono();
        let sent = Vec::from(lane.take_sent());
        if too_large {
            self.lanes[id].shrink_batches();
        }

        let pause = match self.restarts.get(&id) {
            None if too_large => Duration::ZERO,
            Some(before) if too_large && !before.hopeless => Duration::ZERO,
            Some(before) => (before.pause * 2).clamp(RESTART_FIRST, RESTART_MAX),
            None => RESTART_FIRST,
        };
        let at = now + pause;
        let restart = Restart { at, pause, sent, too_large, hopeless: false, begun: false };
        self.restarts.insert(id, restart);
        self.restart_lanes(now);
    }

    /// Begins again where the pause is over.
    pub(super) fn restart_lanes(&mut self, now: Mono) {
        for (id, restart) in &mut self.restarts {
            if restart.begun || restart.at > now {
                continue;
            }
            restart.begun = true;
            let ledger = self.registry.ledger();
            let lane = &mut self.lanes[*id];
            let doubts = ledger.plans_of(&lane.target).map(doubt).collect();
            let scan_from = ledger.scan_from.get(&lane.target).copied();
            // What was refused for its size is not on its way any more.
            lane.begin(doubts, scan_from, !restart.too_large);
        }
    }

    /// The link knows what became of the plans, and has a new identity.
    pub(super) fn began(&mut self, id: LaneId, began: Began) -> Result<(), ShipError> {
        let target = self.lanes[id].target.clone();
        if !self.registry.ledger().scan_from.contains_key(&target) {
            let from = began.scan_from;
            self.registry.record(Record::ScanFrom { target: target.clone(), from })?;
        }
        let (mut sent, too_large) = match self.restarts.get_mut(&id) {
            Some(restart) => (std::mem::take(&mut restart.sent), restart.too_large),
            None => (Vec::new(), false),
        };
        let plans: Vec<Plan> = self.registry.ledger().plans_of(&target).cloned().collect();
        let fates = began.found.iter().map(|found| match found {
            Some(offset) => Fate::Stored(*offset),
            None => Fate::Missing,
        });
        let (mut again, mut missing, mut from_earlier_run) = (Vec::new(), false, false);
        for (plan, fate) in plans.iter().zip(fates) {
            let known = sent.iter().position(|sent| sent.plan == plan.number);
            let known = known.map(|at| sent.remove(at));
            from_earlier_run |= known.is_none();
            let records = record_count(plan.first_sequence, plan.last_sequence).unsigned_abs();
            match fate {
                Fate::Stored(offset) if !missing => {
                    tracing::info!(
                        plan = plan.number,
                        records,
                        offset,
                        "a batch in doubt is stored"
                    );
                    self.stored(plan.number, offset)?;
                }
                Fate::Stored(offset) => {
                    // Brokers store a producer's batches in order; this one does not.
                    tracing::error!(
                        plan = plan.number,
                        offset,
                        "stored although one before it is not"
                    );
                    self.repeated(id, i64::from(records));
                    self.void(plan.number, "one before it is not stored")?;
                    again.extend(known);
                }
                Fate::Missing => {
                    missing = true;
                    tracing::info!(plan = plan.number, records, "a batch in doubt is not stored");
                    self.metrics.records_resent.inc_by(u64::from(records));
                    self.void(plan.number, "it is not in the partition")?;
                    again.extend(known);
                }
            }
        }
        let (parcels, hopeless) = self.parcels_again(again, too_large)?;
        if let Some(restart) = self.restarts.get_mut(&id) {
            restart.hopeless = hopeless;
        }
        self.lanes[id].send_again(parcels);
        self.lanes[id].began(began.identity);
        if from_earlier_run {
            // Their files were not followed until now.
            self.calendar.full_scan = self.clock.mono();
        }
        self.pump(id)?;
        self.unblock()
    }

    fn void(&mut self, plan: u64, why: &str) -> Result<(), ShipError> {
        Ok(self.registry.record(Record::Void { plan, why: why.to_owned() })?)
    }

    /// Parcels to send again; the first is split if it was too large. Also whether it could not be.
    fn parcels_again(
        &mut self,
        sent: Vec<Sent>,
        too_large: bool,
    ) -> Result<(Vec<Parcel>, bool), ShipError> {
        let (mut parcels, mut hopeless) = (Vec::new(), false);
        for (at, sent) in sent.into_iter().enumerate() {
            let parcel = sent.parcel;
            let is_culprit = too_large && at == 0;
            let halves = if is_culprit { split(&parcel, &mut self.builder)? } else { None };
            if let Some(halves) = halves {
                self.metrics.lines_cut.inc_by(u64::from(parcel.count == 1));
                parcels.extend(halves);
            } else {
                hopeless |= is_culprit;
                parcels.push(parcel);
            }
        }
        Ok((parcels, hopeless))
    }

    /// Generations with plans that an earlier run left.
    pub(super) fn held(&self) -> BTreeSet<Generation> {
        let ranges = self.registry.ledger().plans.values().flat_map(|plan| &plan.ranges);
        let generations = ranges.map(|range| range.generation);
        generations.filter(|generation| !self.by_generation.contains_key(generation)).collect()
    }
}

fn doubt(plan: &Plan) -> Doubt {
    Doubt {
        producer_id: plan.producer_id,
        producer_epoch: plan.producer_epoch,
        first_sequence: plan.first_sequence,
        last_sequence: plan.last_sequence,
    }
}
