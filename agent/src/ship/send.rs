//! Lanes at work: topics looked up, generations pinned, parcels planned and sent, answers taken.
//!
//! The order is always: decide, remember, send. What is done when an answer is missing, after a
//! pipeline stopped or in an earlier run, is in `resolve`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tailway_client::TopicPartition;
use tailway_client::machine::pipeline::Ack;
use tokio::sync::mpsc;

use super::{FileKey, ShipError, Shipper};
use crate::config::{Config, InputConfig};
use crate::event::Sender;
use crate::machine::identity::{Generation, hash_bytes};
use crate::machine::ledger::{PLANS_OPEN_MAX, Range, Record, Target, record_count};
use crate::machine::tail_file::Event;
use crate::output::inbox::LaneId;
use crate::output::lane::Lane;
use crate::output::link::Link;
use crate::output::parcel::Parcel;
use crate::output::topic::{self, TopicFound};

/// A topic that inputs send to.
#[derive(Debug, Default)]
pub(super) struct Topic {
    pub(super) found: Option<TopicFound>,
    pub(super) trouble: Option<String>,
    /// Files that wait for it.
    waiting: BTreeSet<FileKey>,
}

/// For each input, by its id, a hash of all that decides how bytes become records.
pub(super) fn pipelines(config: &Config, sender: &Sender) -> BTreeMap<String, u64> {
    let hash = |input: &InputConfig| {
        let (name, version) = (&sender.name, &sender.beat_version);
        let (id, format, limit) = (&input.id, input.format.name(), input.line_bytes_max);
        hash_bytes(format!("{name:?} {version:?} {id:?} {format} {limit}").as_bytes())
    };
    config.inputs.iter().map(|input| (input.id.clone(), hash(input))).collect()
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
            if let Some(now) = self.now_of(&target) {
                self.lane_of_target(&now);
                continue;
            }
            let plans: Vec<u64> =
                self.registry.ledger().plans_of(&target).map(|plan| plan.number).collect();
            tracing::warn!(
                topic = name,
                partition = target.partition,
                batches = plans.len(),
                "sending again what was on its way to a partition that is not there any more"
            );
            for plan in plans {
                let why = "its partition is not there any more".to_owned();
                self.registry.record(Record::Void { plan, why })?;
            }
            self.calendar.full_scan = self.clock.mono();
        }
        Ok(())
    }

    /// What the target is now: itself, or the partition of that number where its topic was made
    /// anew or its cluster is another; `None` if there is no such partition.
    fn now_of(&self, target: &Target) -> Option<Target> {
        if self.is_current(target) {
            return Some(target.clone());
        }
        let found = self.topics.get(&target.topic)?.found.as_ref()?;
        let now = Target {
            cluster: found.cluster.clone(),
            topic: target.topic.clone(),
            topic_id: found.topic_id.clone(),
            partition: target.partition,
        };
        self.is_current(&now).then_some(now)
    }

    /// Whether the target is in the cluster and topic that are there now.
    pub(super) fn is_current(&self, target: &Target) -> bool {
        let found = self.topics.get(&target.topic).and_then(|topic| topic.found.as_ref());
        found.is_some_and(|found| {
            target.is_in_cluster(&found.cluster)
                && target.is_of_topic(&found.topic_id)
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
                // All that are pinned to it share it.
                let known = self.lane_of.get_key_value(&target).map(|(known, _)| Arc::clone(known));
                let target = known.unwrap_or_else(|| Arc::new(target));
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
            topic: TopicFound {
                cluster: target.cluster.clone(),
                topic_id: target.topic_id.clone(),
                partitions: 0,
            },
            request_timeout: self.config.output.request_timeout,
            delivery_timeout: self.config.output.delivery_timeout,
            inbox: self.inbox.clone(),
        };
        let name = format!("link {}-{}", target.topic, target.partition);
        self.tasks.spawn(name, |stop| link.run(heard, stop));
        let batch_bytes = self.config.output.batch_bytes;
        let mut lane = Lane::new(id, target.clone(), batch_bytes, commands);
        lane.former = self.former_of(target);
        self.lane_of.insert(Arc::new(target.clone()), id);
        self.lanes.push(lane);
        self.resolve_lane(id);
        id
    }

    /// Targets of open plans that are this one now, and that no lane has.
    fn former_of(&self, target: &Target) -> Vec<Target> {
        let plans = self.registry.ledger().plans.values();
        let all: BTreeSet<&Target> = plans.map(|plan| &plan.target).collect();
        let is_former = |former: &&Target| {
            (&former.topic, former.partition) == (&target.topic, target.partition)
                && !self.is_current(former)
                && !self.lanes.iter().any(|lane| lane.has_plans_of(former))
        };
        all.into_iter().filter(is_former).cloned().collect()
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
        // What cannot be remembered is not sent.
        while self.registry.trouble().is_none() {
            let (now, linger) = (self.clock.mono(), self.linger());
            let lane = &mut self.lanes[id];
            let Some(parcel) = lane.next_parcel(&mut self.builder, linger, now)? else {
                return Ok(());
            };
            let number = self.registry.ledger().plan_next();
            let (at, pipeline) = (self.clock.wall(), self.pipeline_of(&parcel.ranges));
            let lane = &mut self.lanes[id];
            let Some(plan) = lane.plan(number, at, &parcel, pipeline) else { return Ok(()) };
            self.save_heads(&parcel)?;
            tailway_faults::crash("agent.plan.before");
            if !self.registry.plan(plan.clone())? {
                self.lanes[id].send_again(vec![parcel]);
                return Ok(());
            }
            tailway_faults::crash("agent.plan.after");
            self.metrics.batches_sent.inc();
            self.metrics.batch_bytes_sent.inc_by(parcel.bytes.len() as u64);
            self.lanes[id].send(&plan, parcel)?;
            tailway_faults::crash("agent.send.after");
            if tailway_faults::is_planted("agent.offset_before_ack") {
                self.stored(number, -1)?;
            }
            self.changed = true;
        }
        Ok(())
    }

    /// Hash of all that decides how the bytes of these ranges become records. Other inputs may come
    /// and go.
    pub(super) fn pipeline_of(&self, ranges: &[Range]) -> u64 {
        let ledger = self.registry.ledger();
        let inputs: BTreeSet<&str> = ranges
            .iter()
            .filter_map(|range| ledger.files.get(&range.generation))
            .map(|entry| &*entry.input)
            .collect();
        let hashes = inputs.into_iter().filter_map(|input| self.pipelines.get(input));
        hashes.fold(0, |all, hash| all.rotate_left(1) ^ hash)
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
        tailway_faults::crash("agent.ack.before");
        self.stored(sent.plan, ack.base_offset)?;
        tailway_faults::crash("agent.ack.after");
        if sent.resumed {
            self.resumed(id, &sent, ack.base_offset);
        }
        self.pump(id)?;
        self.unblock()
    }

    /// A plan's records are in the partition.
    pub(super) fn stored(&mut self, number: u64, base_offset: i64) -> Result<(), ShipError> {
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
    pub(super) fn unblock(&mut self) -> Result<(), ShipError> {
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

    /// Generations with plans that an earlier run left.
    pub(super) fn held(&self) -> BTreeSet<Generation> {
        let ranges = self.registry.ledger().plans.values().flat_map(|plan| &plan.ranges);
        let generations = ranges.map(|range| range.generation);
        generations.filter(|generation| !self.by_generation.contains_key(generation)).collect()
    }
}
