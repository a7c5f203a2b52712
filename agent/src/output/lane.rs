//! The shipper's side of one partition: events that wait, parcels on their way, what to send next.
//!
//! Events gather in a buffer as they are read. A parcel is a finished batch together with what it
//! was made of: which bytes of which file generations, line by line, so that it can be split if a
//! broker finds it too large. The first record of each batch says where it came from.
//!
//! Invariants: parcels are acknowledged in the order in which they were sent; at most five are on
//! their way; after the pipeline stopped nothing is sent before what was on its way is resolved.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use tailway_client::ProducerIdentity;
use tailway_client::machine::pipeline::sequence_after;
use tailway_metadata::time::{Mono, WallMs};
use tailway_wire::WireError;
use tailway_wire::record::{Batch, BatchBuilder, stamp_producer};
use tokio::sync::mpsc;

use super::inbox::LaneId;
use super::link::Command;
use super::resolve::Doubt;
use crate::event::{Format, halve};
use crate::machine::identity::{Generation, Marker, hash_bytes};
use crate::machine::ledger::{PLANS_OPEN_MAX, Plan, Range, Target};

/// The header of the first record of each batch.
pub const ORIGIN_HEADER: &str = "tailway.origin";
/// Most generations that share a batch: bounds the plan's record in the journal.
const RANGES_MAX: usize = 1_000;
/// However small the batches must be, they have a few lines.
const BATCH_BYTES_MIN: usize = 2 * 1024;
/// A buffer that was not used for this long is given back.
const BUFFER_IDLE: Duration = Duration::from_secs(5);
/// A batch is decompressed again only to be split, and was made here.
const SPLIT_BYTES_MAX: usize = 256 << 20;

/// One line in a buffer or parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LineMark {
    /// Index of its range.
    range: u32,
    /// Offset in the file just behind it.
    file_end: u64,
    format: Format,
}

/// A batch and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    pub bytes: Bytes,
    pub count: i32,
    pub ranges: Vec<Range>,
    lines: Vec<LineMark>,
}

/// A parcel that was sent under a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub plan: u64,
    pub base_sequence: i32,
    pub parcel: Parcel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Beginning,
    Flowing(ProducerIdentity),
}

/// One partition.
#[derive(Debug)]
pub struct Lane {
    pub id: LaneId,
    pub target: Target,
    /// Files that wait for room.
    pub waiting: BTreeSet<usize>,
    /// What is in the way, and is tried again.
    pub trouble: Option<String>,
    /// Why something may have been sent twice, if it may.
    pub repeated: Option<String>,
    phase: Phase,
    next_sequence: i32,
    acked_through: i32,
    values: Vec<u8>,
    ends: Vec<(usize, WallMs)>,
    lines: Vec<LineMark>,
    ranges: Vec<Range>,
    range_used: usize,
    opened_at: Option<Mono>,
    used_at: Mono,
    /// A buffer of this size is full.
    batch_bytes: usize,
    sent: VecDeque<Sent>,
    again: VecDeque<Parcel>,
    commands: mpsc::Sender<Command>,
}

impl Lane {
    /// A lane whose link listens to `commands`.
    pub fn new(
        id: LaneId,
        target: Target,
        batch_bytes: usize,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            id,
            target,
            waiting: BTreeSet::new(),
            trouble: None,
            repeated: None,
            phase: Phase::Beginning,
            next_sequence: 0,
            acked_through: -1,
            values: Vec::new(),
            ends: Vec::new(),
            lines: Vec::new(),
            ranges: Vec::new(),
            range_used: 0,
            opened_at: None,
            used_at: Mono::ZERO,
            batch_bytes,
            sent: VecDeque::new(),
            again: VecDeque::new(),
            commands,
        }
    }

    // Filling.

    /// Appends one event: `write` appends its value. Lines of a generation come in order.
    pub fn append(
        &mut self,
        generation: Generation,
        lines: std::ops::Range<u64>,
        format: Format,
        at: WallMs,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        write(&mut self.values);
        self.ends.push((self.values.len(), at));
        let range = self.range_of(generation, &lines);
        self.ranges[range].to = lines.end;
        let range = u32::try_from(range).unwrap_or(u32::MAX);
        self.lines.push(LineMark { range, file_end: lines.end, format });
    }

    /// The index of the generation's range, which is made if there is none.
    fn range_of(&mut self, generation: Generation, lines: &std::ops::Range<u64>) -> usize {
        let is = |range: &Range| range.generation == generation;
        // A file's lines come many in a row, so the last one used is nearly always it.
        if self.ranges.get(self.range_used).is_some_and(is) {
            return self.range_used;
        }
        self.range_used = self.ranges.iter().position(is).unwrap_or_else(|| {
            let (from, to) = (lines.start, lines.end);
            self.ranges.push(Range { generation, from, to, marker: Marker::default() });
            self.ranges.len() - 1
        });
        self.range_used
    }

    /// What stands in the file before the end of what was just appended of the generation.
    pub fn mark(&mut self, generation: Generation, marker: Marker, now: Mono) {
        self.used_at = now;
        if self.opened_at.is_none() && !self.ends.is_empty() {
            self.opened_at = Some(now);
        }
        if let Some(range) = self.ranges.iter_mut().rfind(|r| r.generation == generation) {
            range.marker = marker;
        }
    }

    /// Bytes that wait to become a batch.
    pub fn buffered(&self) -> usize {
        self.values.len()
    }

    /// True if another event may be appended.
    pub fn has_room(&self) -> bool {
        self.values.len() < self.batch_bytes && self.ranges.len() < RANGES_MAX
    }

    /// True if bytes of the generation wait or are on their way.
    pub fn holds(&self, generation: Generation) -> bool {
        let is = |range: &Range| range.generation == generation;
        self.ranges.iter().any(is)
            || self.again.iter().any(|parcel| parcel.ranges.iter().any(is))
            || self.sent.iter().any(|sent| sent.parcel.ranges.iter().any(is))
    }

    // Sending.

    pub fn is_flowing(&self) -> bool {
        matches!(self.phase, Phase::Flowing(_))
    }

    /// Nothing waits and nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty() && self.again.is_empty() && self.sent.is_empty()
    }

    /// Bytes of finished batches.
    pub fn parcel_bytes(&self) -> usize {
        let again = self.again.iter().map(|parcel| parcel.bytes.len());
        again.chain(self.sent.iter().map(|sent| sent.parcel.bytes.len())).sum()
    }

    /// When the buffer is to be sent although it is not full; `None` if it cannot be anyway.
    pub fn deadline(&self, linger: Duration) -> Option<Mono> {
        let may = self.is_flowing() && self.sent.len() < PLANS_OPEN_MAX;
        self.opened_at.filter(|_| may).map(|at| at + linger)
    }

    /// The next parcel to send, if there is one and it may be sent now.
    pub fn next_parcel(
        &mut self,
        builder: &mut BatchBuilder,
        linger: Duration,
        now: Mono,
    ) -> Result<Option<Parcel>, WireError> {
        if !self.is_flowing() || self.sent.len() >= PLANS_OPEN_MAX {
            return Ok(None);
        }
        if let Some(parcel) = self.again.pop_front() {
            return Ok(Some(parcel));
        }
        let due = self.opened_at.is_some_and(|at| at + linger <= now);
        if self.ends.is_empty() || (!due && self.has_room()) {
            return Ok(None);
        }
        let values: Vec<(&[u8], WallMs)> = pieces(&self.values, &self.ends).collect();
        let bytes = build(builder, &values, &self.ranges)?;
        let parcel = Parcel {
            bytes,
            count: i32::try_from(self.ends.len()).unwrap_or(i32::MAX),
            ranges: std::mem::take(&mut self.ranges),
            lines: std::mem::take(&mut self.lines),
        };
        self.values.clear();
        self.ends.clear();
        self.opened_at = None;
        Ok(Some(parcel))
    }

    /// The plan under which the parcel goes out next.
    pub fn plan(&self, number: u64, parcel: &Parcel, pipeline: u64) -> Option<Plan> {
        let Phase::Flowing(identity) = self.phase else { return None };
        Some(Plan {
            number,
            target: self.target.clone(),
            producer_id: identity.producer_id,
            producer_epoch: identity.producer_epoch,
            first_sequence: self.next_sequence,
            last_sequence: sequence_after(self.next_sequence, parcel.count - 1),
            acked_through: self.acked_through,
            ranges: parcel.ranges.clone(),
            pipeline,
        })
    }

    /// Sends the parcel whose plan is recorded.
    pub fn send(&mut self, plan: &Plan, mut parcel: Parcel) -> Result<(), WireError> {
        parcel.bytes = stamp_producer(
            parcel.bytes,
            plan.producer_id,
            plan.producer_epoch,
            plan.first_sequence,
        )?;
        let batch = Command::Batch { bytes: parcel.bytes.clone(), count: parcel.count };
        // The channel holds more than may be on its way; if the link is gone, the program stops.
        drop(self.commands.try_send(batch));
        self.next_sequence = sequence_after(plan.first_sequence, parcel.count);
        let base_sequence = plan.first_sequence;
        self.sent.push_back(Sent { plan: plan.number, base_sequence, parcel });
        Ok(())
    }

    /// The oldest parcel is stored.
    pub fn acked(&mut self, base_sequence: i32) -> Option<Sent> {
        let oldest = self.sent.front()?;
        assert_eq!(oldest.base_sequence, base_sequence, "acknowledgements come in order");
        let sent = self.sent.pop_front()?;
        self.acked_through = sequence_after(sent.base_sequence, sent.parcel.count - 1);
        Some(sent)
    }

    /// Gives back a buffer that is not needed at the moment.
    pub fn shrink(&mut self, now: Mono) {
        if self.ends.is_empty() && now.since(self.used_at) >= BUFFER_IDLE {
            self.values = Vec::new();
            self.ends = Vec::new();
        }
    }

    // Beginning, and beginning again.

    /// Asks the link to find out about `doubts` and get ready.
    pub fn begin(&mut self, doubts: Vec<Doubt>, scan_from: Option<i64>, settle: bool) {
        self.phase = Phase::Beginning;
        drop(self.commands.try_send(Command::Begin { doubts, scan_from, settle }));
    }

    /// A batch was refused because it was too large: those that follow are smaller.
    pub fn shrink_batches(&mut self) {
        self.batch_bytes = (self.batch_bytes / 2).max(BATCH_BYTES_MIN);
    }

    /// The link is ready: batches go out under this identity from sequence 0 on.
    pub fn began(&mut self, identity: ProducerIdentity) {
        self.phase = Phase::Flowing(identity);
        self.next_sequence = 0;
        self.acked_through = -1;
        self.trouble = None;
    }

    /// Takes what was on its way when the pipeline stopped: each is in doubt.
    pub fn take_sent(&mut self) -> VecDeque<Sent> {
        self.phase = Phase::Beginning;
        std::mem::take(&mut self.sent)
    }

    /// Sends these parcels again, before anything else, in order.
    pub fn send_again(&mut self, parcels: Vec<Parcel>) {
        for parcel in parcels.into_iter().rev() {
            self.again.push_front(parcel);
        }
    }
}

/// The values of a buffer.
fn pieces<'a>(
    values: &'a [u8],
    ends: &'a [(usize, WallMs)],
) -> impl Iterator<Item = (&'a [u8], WallMs)> {
    let starts = std::iter::once(0).chain(ends.iter().map(|(end, _)| *end));
    starts.zip(ends).map(|(start, (end, at))| (&values[start..*end], *at))
}

/// Makes a batch of values; its first record says where they came from.
fn build(
    builder: &mut BatchBuilder,
    values: &[(&[u8], WallMs)],
    ranges: &[Range],
) -> Result<Bytes, WireError> {
    builder.clear();
    let origin = origin(ranges);
    let header = [(ORIGIN_HEADER, Some(origin.as_bytes()))];
    let mut headers = &header[..];
    for (value, at) in values {
        builder.append(at.0, None, Some(value), headers)?;
        headers = &[];
    }
    builder.finish()
}

/// `generation:from-to` of the first range; of more, their number and a hash of all.
fn origin(ranges: &[Range]) -> String {
    let text = |range: &Range| format!("{}:{}-{}", range.generation, range.from, range.to);
    let Some(first) = ranges.first() else { return String::new() };
    let mut origin = text(first);
    if ranges.len() > 1 {
        let all: String = ranges.iter().map(text).collect();
        let (more, hash) = (ranges.len() - 1, hash_bytes(all.as_bytes()));
        // Writing to a String cannot fail.
        write!(origin, "+{more}:{hash:016x}").unwrap_or_default();
    }
    origin
}

/// Makes two parcels of one, if need be by cutting its only record in two; `None` if that cannot be.
pub fn split(
    parcel: &Parcel,
    builder: &mut BatchBuilder,
) -> Result<Option<[Parcel; 2]>, WireError> {
    let batch = Batch::parse(&parcel.bytes)?;
    let records: Result<Vec<_>, _> = batch.records(SPLIT_BYTES_MAX)?.collect();
    let records = records?;
    if let ([line], [range], [record]) = (&parcel.lines[..], &parcel.ranges[..], &records[..]) {
        let value = record.value.as_deref().unwrap_or_default();
        let halves = halve(line.format, value, range.from);
        let Some((first, second, len)) = halves.filter(|h| range.from + h.2 < range.to) else {
            return Ok(None);
        };
        let middle = range.from + len;
        let mut make = |value: &[u8], range: Range| -> Result<Parcel, WireError> {
            let at = WallMs(record.timestamp);
            let bytes = build(builder, &[(value, at)], &[range])?;
            let lines = vec![LineMark { file_end: range.to, ..*line }];
            Ok(Parcel { bytes, count: 1, ranges: vec![range], lines })
        };
        let before = Range { to: middle, marker: Marker::default(), ..*range };
        return Ok(Some([make(&first, before)?, make(&second, Range { from: middle, ..*range })?]));
    }
    let half = records.len() / 2;
    let mut make = |from: usize, to: usize| -> Result<Parcel, WireError> {
        let (ranges, lines) = parcel.part(from, to);
        let values: Vec<(&[u8], WallMs)> = records[from..to]
            .iter()
            .map(|r| (r.value.as_deref().unwrap_or_default(), WallMs(r.timestamp)))
            .collect();
        let bytes = build(builder, &values, &ranges)?;
        let count = i32::try_from(to - from).unwrap_or(i32::MAX);
        Ok(Parcel { bytes, count, ranges, lines })
    };
    Ok(Some([make(0, half)?, make(half, records.len())?]))
}

impl Parcel {
    /// The ranges and lines of the records `from..to`. Markers stay only where a range ends.
    fn part(&self, from: usize, to: usize) -> (Vec<Range>, Vec<LineMark>) {
        let mut ranges: Vec<Range> = Vec::new();
        let mut lines = Vec::new();
        for (at, mark) in self.lines.iter().enumerate().take(to) {
            let whole = self.ranges[mark.range as usize];
            let before = self.lines[..at].iter().rev().find(|m| m.range == mark.range);
            let start = before.map_or(whole.from, |mark| mark.file_end);
            if at < from {
                continue;
            }
            let known = ranges.iter().position(|range| range.generation == whole.generation);
            let index = known.unwrap_or_else(|| {
                ranges.push(Range { from: start, ..whole });
                ranges.len() - 1
            });
            ranges[index].to = mark.file_end;
            let range = u32::try_from(index).unwrap_or(u32::MAX);
            lines.push(LineMark { range, ..*mark });
        }
        for range in &mut ranges {
            let whole = self.ranges.iter().find(|whole| whole.generation == range.generation);
            if whole.is_none_or(|whole| whole.to != range.to) {
                // What stands before a place inside is not known any more; the head still is.
                range.marker = Marker::default();
            }
        }
        (ranges, lines)
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
