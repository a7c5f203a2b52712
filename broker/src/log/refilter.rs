//! Takes records out of a batch and leaves everything else as it was: offsets, sequences, timestamps, codec.
//!
//! Kept records are copied as they are, because their fields are relative to the header, which keeps its base offset and
//! base timestamp. A batch that loses all records may stay as an empty one, in Kafka's form.

use bytes::Bytes;
use tailway_wire::WireError;
use tailway_wire::record::{
    Attributes, BATCH_OVERHEAD, Batch, BatchHeader, Compression, LOG_OVERHEAD, TimestampType,
};

/// A batch may decompress to this much.
const DECOMPRESSED_BYTES_MAX: usize = 128 * 1024 * 1024;

/// A record as far as compaction is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordView<'a> {
    pub offset: i64,
    pub key: Option<&'a [u8]>,
    /// It has no value: the key is deleted.
    pub is_tombstone: bool,
}

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refiltered {
    Unchanged,
    Changed(BatchHeader, Bytes),
    /// No record is left.
    Empty,
}

/// Calls `visit` with each record.
pub(super) fn visit(batch: &Batch, mut visit: impl FnMut(RecordView<'_>)) -> Result<(), WireError> {
    let body = body(batch)?;
    for record in Records::new(&batch.header, &body) {
        visit(record?.view);
    }
    Ok(())
}

/// The batch with only the records that `keep` wants.
pub(super) fn refilter(
    batch: &Batch,
    mut keep: impl FnMut(RecordView<'_>) -> bool,
) -> Result<Refiltered, WireError> {
    let body = body(batch)?;
    let mut kept = Vec::with_capacity(body.len());
    let (mut count, mut total, mut newest_delta) = (0, 0, i64::MIN);
    for record in Records::new(&batch.header, &body) {
        let record = record?;
        total += 1;
        if keep(record.view) {
            kept.extend_from_slice(record.bytes);
            newest_delta = newest_delta.max(record.timestamp_delta);
            count += 1;
        }
    }
    if count == total && total > 0 {
        return Ok(Refiltered::Unchanged);
    }
    if count == 0 {
        return Ok(Refiltered::Empty);
    }
    let mut header = batch.header.clone();
    if header.attributes.timestamp_type() == TimestampType::CreateTime {
        header.max_timestamp = header.base_timestamp.saturating_add(newest_delta);
    }
    header.records_count = count;
    let body = header.compression()?.compress(&kept)?;
    Ok(Refiltered::Changed(seal(header, &body), body))
}

/// The batch without records: keeps the place of its offsets and sequences.
pub(super) fn emptied(batch: &Batch) -> (BatchHeader, Bytes) {
    let mut header = batch.header.clone();
    let kind = header.attributes.timestamp_type();
    header.attributes = Attributes::new(Compression::None).with_timestamp_type(kind);
    header.base_timestamp = -1;
    header.records_count = 0;
    (seal(header, &[]), Bytes::new())
}

/// Makes length and CRC right.
fn seal(mut header: BatchHeader, body: &[u8]) -> BatchHeader {
    let size = BATCH_OVERHEAD - LOG_OVERHEAD + body.len();
    header.batch_length = i32::try_from(size).unwrap_or(i32::MAX);
    let covered = crc32c::crc32c(&header.encode()[21..]);
    header.crc = crc32c::crc32c_append(covered, body);
    header
}

fn body(batch: &Batch) -> Result<Bytes, WireError> {
    let records = batch.bytes.slice(BATCH_OVERHEAD..);
    batch.header.compression()?.decompress(&records, DECOMPRESSED_BYTES_MAX)
}

struct Record<'a> {
    view: RecordView<'a>,
    timestamp_delta: i64,
    bytes: &'a [u8],
}

struct Records<'a> {
    rest: &'a [u8],
    base_offset: i64,
    left: i32,
    index: i32,
}

impl<'a> Records<'a> {
    fn new(header: &BatchHeader, body: &'a [u8]) -> Self {
        let (base_offset, left) = (header.base_offset, header.records_count);
        Self { rest: body, base_offset, left, index: 0 }
    }

    fn read(&mut self) -> Option<Record<'a>> {
        let mut rest = self.rest;
        let len = usize::try_from(varint(&mut rest)?).ok()?;
        let mut fields = rest.get(..len)?;
        let (bytes, after) = self.rest.split_at(self.rest.len() - rest.len() + len);
        take(&mut fields, 1)?;
        let timestamp_delta = varint(&mut fields)?;
        let offset_delta = varint(&mut fields)?;
        let key = match varint(&mut fields)? {
            -1 => None,
            len => Some(take(&mut fields, usize::try_from(len).ok()?)?),
        };
        let is_tombstone = varint(&mut fields)? < 0;
        let offset = self.base_offset.checked_add(offset_delta)?;
        self.rest = after;
        Some(Record { view: RecordView { offset, key, is_tombstone }, timestamp_delta, bytes })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left <= 0 {
            return None;
        }
        let record = self.read();
        self.left = if record.is_some() { self.left - 1 } else { 0 };
        self.index += 1;
        let index = self.index - 1;
        Some(record.ok_or(WireError::InvalidRecord {
            index,
            cause: "its fields do not fit its length".into(),
        }))
    }
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

/// A zigzag varint of up to 64 bits.
fn varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut raw: u64 = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)?[0];
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tailway_wire::record::BatchBuilder;

    use super::*;

    fn batch(codec: Compression) -> Batch {
        let mut builder = BatchBuilder::new(codec);
        builder.set_base_offset(100);
        builder.set_producer(5, 1, 40);
        for (time, key, value) in
            [(10, "a", Some("1")), (30, "b", None), (20, "a", Some("2")), (5, "c", Some("3"))]
        {
            let value = value.map(str::as_bytes);
            builder.append(time, Some(key.as_bytes()), value, &[("h", Some(b"x"))]).unwrap();
        }
        Batch::parse(&builder.finish().unwrap()).unwrap()
    }

    #[test]
    fn records_are_seen_as_they_are() {
        for codec in Compression::ALL {
            let mut seen = Vec::new();
            visit(&batch(codec), |record| {
                let key = record.key.map(<[u8]>::to_vec);
                seen.push((record.offset, key, record.is_tombstone));
            })
            .unwrap();
            let key = |text: &str| Some(text.as_bytes().to_vec());
            let expected = [
                (100, key("a"), false),
                (101, key("b"), true),
                (102, key("a"), false),
                (103, key("c"), false),
            ];
            assert_eq!(seen, expected, "{codec}");
        }
    }

    #[test]
    fn what_is_left_is_as_it_was() {
        for codec in Compression::ALL {
            let before = batch(codec);
            let kept = refilter(&before, |record| record.offset >= 102).unwrap();
            let Refiltered::Changed(header, body) = kept else { panic!("{codec}: {kept:?}") };
            let bytes = Bytes::from([&header.encode()[..], &body].concat());
            let after = Batch::parse(&bytes).unwrap();
            after.validate().unwrap();
            let expected = BatchHeader {
                batch_length: header.batch_length,
                crc: header.crc,
                records_count: 2,
                max_timestamp: 20,
                ..before.header.clone()
            };
            assert_eq!(after.header, expected, "{codec}");
            let all: Vec<_> = before.records(1 << 20).unwrap().map(Result::unwrap).collect();
            let left: Vec<_> = after.records(1 << 20).unwrap().map(Result::unwrap).collect();
            assert_eq!(left, all[2..], "{codec}");
            assert_eq!(refilter(&before, |_| true), Ok(Refiltered::Unchanged));
            assert_eq!(refilter(&before, |_| false), Ok(Refiltered::Empty));
        }
    }

    #[test]
    fn an_emptied_batch_keeps_its_place() {
        let before = batch(Compression::Zstd);
        let (header, body) = emptied(&before);
        assert!(body.is_empty());
        let after = Batch::parse(&Bytes::from(header.encode().to_vec())).unwrap();
        after.validate().unwrap();
        let places = |batch: &Batch| {
            let header = &batch.header;
            (header.base_offset, header.next_offset(), header.producer_id, header.last_sequence())
        };
        assert_eq!(places(&after), places(&before));
        assert_eq!((after.header.records_count, after.bytes.len()), (0, BATCH_OVERHEAD));
        assert_eq!(refilter(&after, |_| true), Ok(Refiltered::Empty), "a later pass drops it");
    }

    #[test]
    fn records_that_do_not_fit_are_an_error() {
        let good = batch(Compression::None);
        for len in BATCH_OVERHEAD..good.bytes.len() {
            let cut = Batch { header: good.header.clone(), bytes: good.bytes.slice(..len) };
            assert!(visit(&cut, |_| {}).is_err(), "{len}");
        }
    }
}
