//! Segment files that Apache Kafka 4.3.1 wrote, with batches by its Java producer and by librdkafka 2.0.2 in each
//! codec (testdata/README.md says how they were made): every batch validates, every record is what was sent.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::{Bytes, BytesMut};
use tailway_wire::record::{
    Batch, BatchBuilder, BatchIter, Compression, RecordRef, TimestampType, patch_base_offset,
    patch_leader_epoch,
};

const CAP: usize = 16 << 20;

fn segment(name: &str) -> Bytes {
    let path = format!("{}/testdata/kafka-4.3-{name}.log", env!("CARGO_MANIFEST_DIR"));
    Bytes::from(std::fs::read(&path).unwrap_or_else(|cause| panic!("{path}: {cause}")))
}

fn batches(name: &str) -> Vec<Batch> {
    let mut iter = BatchIter::new(segment(name));
    let batches: Vec<_> = iter.by_ref().map(|batch| batch.expect(name)).collect();
    assert!(iter.rest().is_empty(), "{name}: {} bytes are left", iter.rest().len());
    batches
}

fn records(batch: &Batch) -> Vec<RecordRef> {
    batch.records(CAP).unwrap().collect::<Result<_, _>>().unwrap()
}

fn rebuilt(batch: &Batch, codec: Compression) -> Batch {
    let mut builder = BatchBuilder::new(codec);
    let header = &batch.header;
    builder.set_base_offset(header.base_offset);
    builder.set_partition_leader_epoch(header.partition_leader_epoch);
    builder.set_producer(header.producer_id, header.producer_epoch, header.base_sequence);
    for record in records(batch) {
        let headers: Vec<_> = record.headers.iter().collect();
        let pairs: Vec<_> = headers
            .iter()
            .map(|header| (std::str::from_utf8(&header.key).unwrap(), header.value.as_deref()))
            .collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        builder.append(record.timestamp, key, value, &pairs).unwrap();
    }
    Batch::parse(&builder.finish().unwrap()).unwrap()
}

#[test]
fn every_codec_of_two_foreign_producers_is_read() {
    for codec in Compression::ALL {
        let batches = batches(codec.name());
        let expected: &[i32] = if codec == Compression::None { &[5, 3] } else { &[5, 1000, 1000] };
        let counts: Vec<_> = batches.iter().map(|batch| batch.header.records_count).collect();
        assert_eq!(counts, expected, "{codec}");
        let mut next = 0;
        for batch in &batches {
            batch.validate().unwrap();
            batch.header.check_from_producer().unwrap();
            assert_eq!(batch.header.compression(), Ok(codec));
            assert_eq!(batch.header.attributes.timestamp_type(), TimestampType::CreateTime);
            assert_eq!(batch.header.base_offset, next);
            next = batch.header.next_offset();
            let records = records(batch);
            let offsets = records.iter().map(|record| record.offset);
            assert!(offsets.eq(batch.header.base_offset..next), "{codec}");
            let largest = records.iter().map(|record| record.timestamp).max();
            assert_eq!(largest, Some(batch.header.max_timestamp));
        }
        check_java(&records(&batches[0]));
        check_librdkafka(&records(&batches[1]));
    }
}

/// Five records with keys, headers and a letter outside ASCII.
fn check_java(records: &[RecordRef]) {
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.key.as_deref(), Some(format!("key-{index}").as_bytes()));
        let value = format!("value number {index} \u{e9}");
        assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
        let headers: Vec<_> = record.headers.iter().collect();
        let pairs: Vec<_> =
            headers.iter().map(|header| (header.key_str(), header.value.as_deref())).collect();
        assert_eq!(pairs[0], ("origin".into(), Some(format!("host-{index}").as_bytes())));
        assert_eq!(pairs[1], ("trace".into(), Some(format!("t{index}").as_bytes())));
        assert_eq!(pairs.len(), 2);
    }
}

/// Numbered lines without key, with a header that has a value and one whose value is empty.
fn check_librdkafka(records: &[RecordRef]) {
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.key, None);
        let value = record.value.as_deref().unwrap();
        assert!(value.starts_with(format!("{index:06} ").as_bytes()), "{value:?}");
        assert_eq!(record.headers.get("source").as_deref(), Some(&b"kcat"[..]));
        assert_eq!(record.headers.get("empty").as_deref(), Some(&b""[..]));
        assert_eq!(record.headers.get("absent"), None);
        assert_eq!(record.headers.len(), 2);
    }
}

#[test]
fn uncompressed_batches_are_rebuilt_byte_for_byte() {
    for batch in batches("none") {
        assert_eq!(rebuilt(&batch, Compression::None).bytes, batch.bytes);
    }
}

#[test]
fn what_is_rebuilt_in_any_codec_holds_the_same_records() {
    for batch in batches("zstd") {
        for codec in Compression::ALL {
            let again = rebuilt(&batch, codec);
            again.validate().unwrap();
            assert_eq!(records(&again), records(&batch), "{codec}");
        }
    }
}

#[test]
fn broker_time_replaces_the_records_times() {
    let batches = batches("log-append-time");
    assert_eq!(batches.len(), 1);
    let header = &batches[0].header;
    assert_eq!(header.attributes.timestamp_type(), TimestampType::LogAppendTime);
    assert!(!header.has_producer_id());
    for record in records(&batches[0]) {
        assert_eq!(record.timestamp, header.max_timestamp);
    }
}

#[test]
fn a_leaders_stamp_is_what_kafka_itself_writes() {
    // Kafka made this batch of one that had CreateTime and another maximum: doing the same to a batch with
    // the same records gives the same bytes.
    let kafkas = &batches("log-append-time")[0];
    let mut builder = BatchBuilder::new(Compression::None);
    for record in records(kafkas) {
        builder.append(kafkas.header.base_timestamp, None, record.value.as_deref(), &[]).unwrap();
    }
    let sent = Batch::parse(&builder.finish().unwrap()).unwrap();
    assert_ne!(sent.bytes, kafkas.bytes);
    let (header, parts) = sent.assigned(0, 0, Some(kafkas.header.max_timestamp));
    assert_eq!(header, kafkas.header);
    assert_eq!(parts.concat(), kafkas.bytes);
}

#[test]
fn offset_and_epoch_change_without_the_crc() {
    for batch in batches("lz4") {
        let mut bytes = BytesMut::from(&batch.bytes[..]);
        patch_base_offset(&mut bytes, 1 << 40).unwrap();
        patch_leader_epoch(&mut bytes, 77).unwrap();
        let moved = Batch::parse(&bytes.freeze()).unwrap();
        moved.validate().unwrap();
        assert_eq!((moved.header.base_offset, moved.header.partition_leader_epoch), (1 << 40, 77));
        assert_eq!(moved.header.crc, batch.header.crc);
        assert_eq!(records(&moved)[0].offset, 1 << 40);
        let (header, parts) = batch.assigned(1 << 40, 77, None);
        assert_eq!(parts.concat(), moved.bytes);
        assert_eq!(header, moved.header);
    }
}

#[test]
fn a_fetch_may_end_anywhere() {
    let whole = segment("gzip");
    let starts: Vec<usize> = batches("gzip")
        .iter()
        .scan(0, |at, batch| {
            *at += batch.bytes.len();
            Some(*at)
        })
        .collect();
    for end in (0..whole.len()).step_by(7).chain(starts.iter().copied()) {
        let mut iter = BatchIter::new(whole.slice(..end));
        let count = iter.by_ref().map(|batch| batch.unwrap().validate().unwrap()).count();
        let expected = starts.iter().filter(|start| **start <= end).count();
        assert_eq!(count, expected, "cut at {end}");
        let complete = starts[..expected].last().copied().unwrap_or_default();
        assert_eq!(iter.rest().len(), end - complete, "cut at {end}");
    }
}

#[test]
fn every_flipped_byte_behind_the_length_is_noticed() {
    let batch = &batches("snappy")[0];
    for at in 16..batch.bytes.len() {
        let mut bytes = batch.bytes.to_vec();
        bytes[at] ^= 0x10;
        let read = Batch::parse(&Bytes::from(bytes)).and_then(|batch| batch.validate());
        assert!(read.is_err(), "byte {at}");
    }
}
