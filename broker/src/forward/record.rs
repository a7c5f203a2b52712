//! Records as they stand in the log, each with what tells it from all others.

use std::sync::Arc;

use bytes::Bytes;
use tailway_wire::record::{Batch, BatchIter, RecordHeaders, RecordRef};

use super::kafka::batch::{FORWARDED_HEADER, cluster_of};
use crate::partition::ReadSlice;

/// A batch may decompress to this much.
const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// What the agent puts into the first record of each batch: `generation:from-to`.
const ORIGIN_HEADER: &str = "tailway.origin";
/// What a record takes besides its own bytes, about.
const OVERHEAD_BYTES: usize = 160;

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    /// Milliseconds.
    pub(crate) timestamp: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: RecordHeaders,
    /// Of its batch.
    pub(crate) leader_epoch: i32,
    pub(crate) origin: Option<Origin>,
    /// The cluster that a Kafka sink brought its batch from.
    pub(crate) forwarded_by: Option<Arc<str>>,
    /// It stands for a batch that cannot be read, and why; its value is the batch.
    pub(crate) unreadable: Option<String>,
}

/// The bytes of a file that a batch of the agent was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) generation: u128,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Of two hosts made from one image, each has its own producer.
    pub(crate) producer_id: i64,
}

/// What a read gave.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    pub(crate) records: Vec<Record>,
    /// The offset behind it.
    pub(crate) next: i64,
}

impl Record {
    /// What it takes, about.
    pub(crate) fn size(&self) -> usize {
        OVERHEAD_BYTES + self.content_size()
    }

    /// Bytes of key and value.
    pub(crate) fn content_size(&self) -> usize {
        let len = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        len(&self.key) + len(&self.value)
    }
}

/// The records of `slice` at `from` or above, below `limit`.
pub(crate) fn decode(slice: ReadSlice, from: i64, limit: i64) -> Decoded {
    let mut decoded = Decoded { records: Vec::new(), next: from };
    for bytes in slice.records {
        for batch in BatchIter::new(bytes) {
            // The log has checked them; what it serves is whole batches.
            let Ok(batch) = batch else { return decoded };
            if batch.header.base_offset >= limit {
                return decoded;
            }
            take(&batch, from, limit, &mut decoded.records);
            decoded.next = decoded.next.max(batch.header.next_offset().min(limit));
        }
    }
    decoded
}

fn take(batch: &Batch, from: i64, limit: i64, out: &mut Vec<Record>) {
    let header = &batch.header;
    if header.attributes.is_control() {
        return;
    }
    let read: Result<Vec<RecordRef>, _> =
        batch.records(DECOMPRESSED_BYTES_MAX).and_then(Iterator::collect);
    let records = match read {
        Ok(records) => records,
        Err(error) => return out.push(unreadable(batch, from, error.to_string())),
    };
    let origin = origin_of(&records, header.producer_id);
    let first = records.first().and_then(|first| first.headers.get(FORWARDED_HEADER));
    let forwarded_by = first.and_then(|origin| cluster_of(&origin));
    let wanted = records.into_iter().filter(|record| (from..limit).contains(&record.offset));
    out.extend(wanted.map(|record| Record {
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key,
        value: record.value,
        headers: record.headers,
        leader_epoch: header.partition_leader_epoch,
        origin,
        forwarded_by: forwarded_by.clone(),
        unreadable: None,
    }));
}

/// The producer's doing: the batch itself is what was stored. One record stands for all of it.
fn unreadable(batch: &Batch, from: i64, why: String) -> Record {
    Record {
        offset: batch.header.base_offset.max(from),
        timestamp: batch.header.max_timestamp,
        key: None,
        value: Some(batch.bytes.clone()),
        headers: RecordHeaders::default(),
        leader_epoch: batch.header.partition_leader_epoch,
        origin: None,
        forwarded_by: None,
        unreadable: Some(why),
    }
}

/// Of a batch as the agent made it: its first record, and no other, names the one file that all are from.
fn origin_of(records: &[RecordRef], producer_id: i64) -> Option<Origin> {
    let (first, others) = records.split_first()?;
    let text = first.headers.get(ORIGIN_HEADER)?;
    if others.iter().any(|record| !record.headers.is_empty()) {
        return None;
    }
    let (generation, range) = std::str::from_utf8(&text).ok()?.split_once(':')?;
    let (from, to) = range.split_once('-')?;
    Some(Origin {
        generation: u128::from_str_radix(generation, 16).ok()?,
        from: from.parse().ok()?,
        to: to.parse().ok()?,
        producer_id,
    })
}

#[cfg(test)]
mod tests {
    use tailway_wire::record::{BatchBuilder, Compression};

    use super::*;

    fn slice(batches: Vec<Bytes>) -> ReadSlice {
        ReadSlice { records: batches, high_watermark: 0, log_start_offset: 0, log_end_offset: 0 }
    }

    fn batch(base: i64, headers: &[Option<&str>]) -> Bytes {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.set_base_offset(base);
        builder.set_partition_leader_epoch(4);
        builder.set_producer(9, 0, 0);
        for (i, header) in headers.iter().enumerate() {
            let header: Vec<(&str, Option<&[u8]>)> =
                header.iter().map(|text| (ORIGIN_HEADER, Some(text.as_bytes()))).collect();
            let value = format!("v{i}");
            builder.append(7, None, Some(value.as_bytes()), &header).unwrap();
        }
        builder.finish().unwrap()
    }

    #[test]
    fn records_between_two_offsets() {
        let read = || slice(vec![batch(10, &[None, None, None]), batch(13, &[None, None])]);
        for (from, limit, offsets, next) in [
            (10, i64::MAX, vec![10, 11, 12, 13, 14], 15),
            (11, 14, vec![11, 12, 13], 14),
            (11, 13, vec![11, 12], 13),
            (12, 12, vec![], 12),
        ] {
            let decoded = decode(read(), from, limit);
            let found: Vec<i64> = decoded.records.iter().map(|record| record.offset).collect();
            assert_eq!((found, decoded.next), (offsets, next), "{from}..{limit}");
        }
    }

    #[test]
    fn the_origin_is_that_of_a_batch_as_the_agent_made_it() {
        let one = "000000000000000000000000000000ff:3-90";
        let origin = |headers: &[Option<&str>]| {
            let decoded = decode(slice(vec![batch(0, headers)]), 0, i64::MAX);
            decoded.records.iter().map(|record| record.origin).collect::<Vec<_>>()
        };
        let expected = Origin { generation: 255, from: 3, to: 90, producer_id: 9 };
        assert_eq!(origin(&[Some(one), None]), [Some(expected); 2]);
        assert_eq!(origin(&[Some(one), Some(one)]), [None; 2], "two batches in one");
        assert_eq!(origin(&[None, Some(one)]), [None; 2]);
        assert_eq!(origin(&[Some("ff:3-90+2:00ff")]), [None], "of several files");
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_one_record() {
        let mut builder = BatchBuilder::new(Compression::Gzip);
        builder.append(7, None, Some(b"x"), &[]).unwrap();
        let mut bytes = builder.finish().unwrap().to_vec();
        let last = bytes.len() - 20;
        bytes[last..].fill(0xff);
        let decoded = decode(slice(vec![bytes.clone().into()]), 0, i64::MAX);
        let [record] = &decoded.records[..] else { panic!("{decoded:?}") };
        assert!(record.unreadable.is_some());
        assert_eq!((record.offset, record.value.as_deref()), (0, Some(&bytes[..])));
        assert_eq!(decoded.next, 1);
    }
}
