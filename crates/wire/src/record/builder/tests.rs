//! What is built is read back, in place or not, and costs no allocation per record.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::record::{Batch, RecordRef};

type Field = Option<Vec<u8>>;

#[derive(Debug, Clone)]
struct Given {
    timestamp: i64,
    key: Field,
    value: Field,
    headers: Vec<(String, Field)>,
    in_place: bool,
}

fn field() -> impl Strategy<Value = Field> {
    // Around the sizes where a length takes another byte, too.
    let size = prop_oneof![0_usize..20, 60_usize..70, 8185_usize..8195];
    // Only size and start differ: drawing every byte would be most of the test's time.
    let bytes = (size, any::<u8>()).prop_map(|(size, first)| {
        (0..size).map(|index| first.wrapping_add(index.to_le_bytes()[0])).collect()
    });
    proptest::option::of(bytes)
}

prop_compose! {
    fn given()(
        timestamp in -1_i64..2_000_000_000_000,
        key in field(),
        value in field(),
        headers in proptest::collection::vec((".{0,10}", field()), 0..3),
        in_place: bool,
    ) -> Given {
        Given { timestamp, key, value, headers, in_place }
    }
}

fn append(builder: &mut BatchBuilder, given: &Given) {
    let headers: Vec<_> =
        given.headers.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    let key = given.key.as_deref();
    match &given.value {
        Some(value) if given.in_place => builder
            .append_with(given.timestamp, key, &headers, |out| out.extend_from_slice(value))
            .unwrap(),
        value => builder.append(given.timestamp, key, value.as_deref(), &headers).unwrap(),
    }
}

fn read(batch: &Bytes) -> Vec<RecordRef> {
    let batch = Batch::parse(batch).unwrap();
    batch.validate().unwrap();
    batch.records(64 << 20).unwrap().collect::<Result<_, _>>().unwrap()
}

fn check(record: &RecordRef, given: &Given, offset: i64) {
    assert_eq!(record.offset, offset);
    assert_eq!(record.timestamp, given.timestamp);
    assert_eq!(record.key.as_deref(), given.key.as_deref());
    assert_eq!(record.value.as_deref(), given.value.as_deref());
    let headers: Vec<_> = record
        .headers
        .iter()
        .map(|header| (header.key_str().into_owned(), header.value.map(|value| value.to_vec())))
        .collect();
    assert_eq!(headers, given.headers);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_appended_is_read(
        given in proptest::collection::vec(given(), 1..12),
        codec in prop_oneof![
            Just(Compression::None), Just(Compression::Gzip), Just(Compression::Snappy),
            Just(Compression::Lz4), Just(Compression::Zstd)],
        producer in (any::<i64>(), any::<i16>(), any::<i32>()),
    ) {
        let mut builder = BatchBuilder::new(codec);
        builder.set_producer(producer.0, producer.1, producer.2);
        // Twice: the second batch comes out of used buffers.
        let batches = [(); 2].map(|()| {
            for given in &given {
                append(&mut builder, given);
            }
            builder.finish().unwrap()
        });
        prop_assert_eq!(&batches[0], &batches[1]);
        let header = BatchHeader::parse(&batches[0]).unwrap();
        prop_assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), producer);
        prop_assert_eq!(header.compression().unwrap(), codec);
        let times = given.iter().map(|given| given.timestamp);
        prop_assert_eq!(header.max_timestamp, times.max().unwrap());
        let records = read(&batches[0]);
        prop_assert_eq!(records.len(), given.len());
        for ((record, given), offset) in records.iter().zip(&given).zip(0..) {
            check(record, given, offset);
        }
    }

    #[test]
    fn in_place_or_not_gives_the_same_bytes(given in proptest::collection::vec(given(), 1..8)) {
        let batches = [true, false].map(|in_place| {
            let mut builder = BatchBuilder::new(Compression::None);
            for given in &given {
                append(&mut builder, &Given { in_place, ..given.clone() });
            }
            builder.finish().unwrap()
        });
        prop_assert_eq!(&batches[0], &batches[1]);
    }
}

#[test]
fn rollback_leaves_no_trace() {
    let mut builder = BatchBuilder::new(Compression::None);
    let empty = builder.mark();
    builder.append(99, None, Some(b"goes"), &[]).unwrap();
    builder.rollback(empty);
    assert!(builder.is_empty());
    assert_eq!(builder.max_timestamp(), None);

    builder.append(5, None, Some(b"stays"), &[]).unwrap();
    let mark = builder.mark();
    builder.append_with(1000, None, &[], |out| out.resize(out.len() + 70_000, b'x')).unwrap();
    assert_eq!(builder.count(), 2);
    builder.rollback(mark);
    builder.append(7, None, Some(b"stays too"), &[]).unwrap();
    assert_eq!(builder.max_timestamp(), Some(7));
    let rolled_back = builder.finish().unwrap();

    builder.append(5, None, Some(b"stays"), &[]).unwrap();
    builder.append(7, None, Some(b"stays too"), &[]).unwrap();
    assert_eq!(rolled_back, builder.finish().unwrap());
}

#[test]
fn gaps_in_the_offsets_are_kept() {
    // What compaction leaves of offsets 100 to 109: 103 and 107.
    let mut builder = BatchBuilder::new(Compression::Zstd);
    builder.set_base_offset(100);
    builder.skip_to(3);
    builder.append(1, Some(b"a"), Some(b"1"), &[]).unwrap();
    builder.skip_to(7);
    builder.append(1, Some(b"b"), Some(b"2"), &[]).unwrap();
    builder.skip_to(10);
    let batch = builder.finish().unwrap();
    let header = BatchHeader::parse(&batch).unwrap();
    assert_eq!((header.last_offset(), header.records_count), (109, 2));
    assert_eq!(read(&batch).iter().map(|record| record.offset).collect::<Vec<_>>(), [103, 107]);
    let error = header.check_from_producer().unwrap_err();
    assert!(error.to_string().contains("not consecutive"), "{error}");
    // The next batch starts at its own beginning.
    builder.append(1, None, None, &[]).unwrap();
    assert_eq!(BatchHeader::parse(&builder.finish().unwrap()).unwrap().last_offset_delta, 0);
}

#[test]
fn an_empty_batch_is_refused() {
    let mut builder = BatchBuilder::new(Compression::Lz4);
    assert!(matches!(builder.finish(), Err(WireError::InvalidBatch { .. })));
}

#[test]
fn a_writer_that_takes_bytes_away_is_refused() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(1, None, Some(b"first"), &[]).unwrap();
    let size = builder.uncompressed_size();
    let error = builder.append_with(2, None, &[], Vec::clear).unwrap_err();
    assert!(matches!(error, WireError::InvalidRecord { index: 1, .. }), "{error}");
    assert_eq!((builder.count(), builder.uncompressed_size()), (1, size));
}

#[test]
fn timestamps_too_far_apart_are_refused() {
    let mut builder = BatchBuilder::new(Compression::None);
    builder.append(i64::MIN, None, None, &[]).unwrap();
    assert!(builder.append(i64::MAX, None, None, &[]).is_err());
    assert!(builder.append_with(i64::MAX, None, &[], |_| ()).is_err());
    assert_eq!(builder.count(), 1);
    read(&builder.finish().unwrap());
}

#[test]
fn buffers_are_kept_between_batches() {
    let mut builder = BatchBuilder::with_capacity(Compression::Zstd, 1 << 20);
    let fill = |builder: &mut BatchBuilder| {
        for index in 0..1000 {
            builder
                .append_with(index, None, &[], |out| out.extend_from_slice(&[b'a'; 500]))
                .unwrap();
        }
        let memory = (builder.records.as_ptr(), builder.records.capacity());
        builder.finish().unwrap();
        (memory, builder.compressed.as_ptr(), builder.compressed.capacity())
    };
    let first = fill(&mut builder);
    // The same places at the same size: nothing was allocated for a record or a batch but the result.
    assert_eq!(first, fill(&mut builder));
    assert_eq!(first, fill(&mut builder));
}
