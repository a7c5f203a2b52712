//! A finished batch together with what it was made of, and the buffer it is made in.
//!
//! A parcel knows line by line which bytes of which file generations it carries, so that it can be
//! split if a broker finds it too large, and so that its plan can say what the lines were: a later
//! process that builds it again from the same bytes can tell that it has the same lines, in as many
//! records. The first record of each batch says where the batch came from.
//!
//! Invariant: the lines of a range are in file order and leave no byte out.

use std::fmt::Write as _;

use bytes::Bytes;
use tailway_metadata::time::WallMs;
use tailway_wire::WireError;
use tailway_wire::record::{Batch, BatchBuilder};

use crate::event::{Format, halve, text_of};
use crate::machine::identity::{Generation, Marker, hash_bytes};
use crate::machine::ledger::Range;

/// The header of the first record of each batch.
pub const ORIGIN_HEADER: &str = "tailway.origin";
/// Most generations that share a batch: bounds the plan's record in the journal.
const RANGES_MAX: usize = 1_000;
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
    /// Of its text; `None` where only the event is left, which does not say all bytes of it.
    crc: Option<u32>,
}

/// A batch and what it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    pub bytes: Bytes,
    pub count: i32,
    pub ranges: Vec<Range>,
    /// Bytes of its values before they were compressed.
    pub value_bytes: usize,
    lines: Vec<LineMark>,
}

/// Events that gather until they are a parcel.
#[derive(Debug, Default)]
pub struct Buffer {
    values: Vec<u8>,
    ends: Vec<(usize, WallMs)>,
    lines: Vec<LineMark>,
    ranges: Vec<Range>,
    range_used: usize,
}

/// A line on its way into a buffer.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    pub generation: Generation,
    /// Offsets in the file of its first byte and just behind its end.
    pub from: u64,
    pub to: u64,
    pub format: Format,
    /// The time of its record.
    pub at: WallMs,
    pub text: &'a [u8],
}

impl Buffer {
    /// Appends one event: `write` appends its value. Lines of a generation come in order.
    pub fn append(&mut self, entry: Entry<'_>, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.values);
        self.ends.push((self.values.len(), entry.at));
        let range = self.range_of(&entry);
        self.ranges[range].to = entry.to;
        let range = u32::try_from(range).unwrap_or(u32::MAX);
        let crc = Some(crc32c::crc32c(entry.text));
        self.lines.push(LineMark { range, file_end: entry.to, format: entry.format, crc });
    }

    /// The index of the generation's range, which is made if there is none.
    fn range_of(&mut self, entry: &Entry<'_>) -> usize {
        let generation = entry.generation;
        let is = |range: &Range| range.generation == generation;
        // A file's lines come many in a row, so the last one used is nearly always it.
        if self.ranges.get(self.range_used).is_some_and(is) {
            return self.range_used;
        }
        self.range_used = self.ranges.iter().position(is).unwrap_or_else(|| {
            let marker = Marker::default();
            self.ranges.push(Range { generation, from: entry.from, to: entry.to, marker });
            self.ranges.len() - 1
        });
        self.range_used
    }

    /// What stands in the file before the end of what was just appended of the generation.
    pub fn mark(&mut self, generation: Generation, marker: Marker) {
        if let Some(range) = self.ranges.iter_mut().rfind(|r| r.generation == generation) {
            range.marker = marker;
        }
    }

    /// Bytes of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// True if another generation may have lines in it.
    pub fn has_room(&self) -> bool {
        self.ranges.len() < RANGES_MAX
    }

    pub fn holds(&self, generation: Generation) -> bool {
        self.ranges.iter().any(|range| range.generation == generation)
    }

    /// Makes a parcel of all that is in it, and is empty then.
    pub fn finish(&mut self, builder: &mut BatchBuilder) -> Result<Parcel, WireError> {
        let values: Vec<(&[u8], WallMs)> = pieces(&self.values, &self.ends).collect();
        let bytes = build(builder, &values, &self.ranges)?;
        let parcel = Parcel {
            bytes,
            count: i32::try_from(self.ends.len()).unwrap_or(i32::MAX),
            ranges: std::mem::take(&mut self.ranges),
            value_bytes: self.values.len(),
            lines: std::mem::take(&mut self.lines),
        };
        self.values.clear();
        self.ends.clear();
        Ok(parcel)
    }

    /// Gives its memory back; only when it is empty.
    pub fn shrink(&mut self) {
        if self.is_empty() {
            *self = Self::default();
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
pub fn origin(ranges: &[Range]) -> String {
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
            let text = text_of(line.format, value);
            let crc = text.as_deref().map(crc32c::crc32c);
            let lines = vec![LineMark { file_end: range.to, crc, ..*line }];
            let (ranges, value_bytes) = (vec![range], value.len());
            Ok(Parcel { bytes, count: 1, ranges, value_bytes, lines })
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
        let value_bytes = values.iter().map(|(value, _)| value.len()).sum();
        Ok(Parcel { bytes, count, ranges, value_bytes, lines })
    };
    Ok(Some([make(0, half)?, make(half, records.len())?]))
}

/// Makes parcels that fit of one, in order. A record is never cut for it.
pub fn split_until(
    parcel: Parcel,
    builder: &mut BatchBuilder,
    fits: &impl Fn(&Parcel) -> bool,
) -> Result<Vec<Parcel>, WireError> {
    let (mut done, mut rest) = (Vec::new(), vec![parcel]);
    while let Some(parcel) = rest.pop() {
        let halves =
            if parcel.count < 2 || fits(&parcel) { None } else { split(&parcel, builder)? };
        match halves {
            Some([first, second]) => rest.extend([second, first]),
            None => done.push(parcel),
        }
    }
    Ok(done)
}

impl Parcel {
    /// A hash of its lines: their number, ends and texts, range by range. How lines of different
    /// files take turns does not matter. `None` if not all of them are known.
    pub fn lines_hash(&self) -> Option<u64> {
        let mut of_ranges = vec![(0_u64, 0_u32); self.ranges.len()];
        for line in &self.lines {
            let index = line.range as usize;
            let (count, crc) = of_ranges.get_mut(index)?;
            *count += 1;
            let from_start = line.file_end.wrapping_sub(self.ranges.get(index)?.from);
            *crc = crc32c::crc32c_append(*crc, &from_start.to_be_bytes());
            *crc = crc32c::crc32c_append(*crc, &line.crc?.to_be_bytes());
        }
        let mut text = Vec::with_capacity(of_ranges.len() * 12);
        for (count, crc) in of_ranges {
            text.extend_from_slice(&count.to_be_bytes());
            text.extend_from_slice(&crc.to_be_bytes());
        }
        Some(hash_bytes(&text))
    }

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
