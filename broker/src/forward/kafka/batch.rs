//! Records as a batch for another cluster: key, value, headers and timestamp as they are, and where they are from.
//!
//! The first record of each batch says where the batch is from (`tailway.forwarded`: cluster, topic id, partition, offsets). A
//! record that had come here from another cluster keeps all it passed in `tailway.path`. What comes from the target, or
//! passed it, is not sent there again. Both headers are replaced on the way, so that nothing else of a record changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tailway_client::ProducerIdentity;
use tailway_wire::WireError;
use tailway_wire::record::{BatchBuilder, Compression};

use super::plan::Plan;
use crate::forward::dead_letters::HEADER_PREFIX as DEAD_PREFIX;
use crate::forward::record::Record;
use crate::forward::sink::Place;

/// On the first record of each batch.
pub(crate) const FORWARDED_HEADER: &str = "tailway.forwarded";
/// On each record that came from another cluster: those that it passed, by commas, the oldest first.
const PATH_HEADER: &str = "tailway.path";

/// The clusters that a record passed before this one.
pub(super) fn path(record: &Record) -> Vec<String> {
    let text = record.headers.get(PATH_HEADER).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut path: Vec<String> =
        text.split(',').filter(|cluster| !cluster.is_empty()).map(str::to_owned).collect();
    path.extend(record.forwarded_by.as_deref().map(str::to_owned));
    let mut known = BTreeSet::new();
    path.retain(|cluster| known.insert(cluster.clone()));
    path
}

/// What the first record of a plan's batch says.
pub(super) fn origin(cluster: &str, place: &Place, plan: &Plan) -> String {
    let Place { topic_id, partition, .. } = place;
    format!("{cluster} {topic_id}-{partition} {}-{}", plan.from, plan.to)
}

/// The cluster in such a text.
pub(crate) fn cluster_of(origin: &[u8]) -> Option<Arc<str>> {
    let text = std::str::from_utf8(origin).ok()?;
    text.split(' ').next().filter(|cluster| !cluster.is_empty()).map(Arc::from)
}

/// How batches of one partition are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub(super) compression: Compression,
    /// These are dead letters that go where they belonged: what made them letters is left out.
    pub(super) is_replay: bool,
}

/// The batch of a plan.
pub(super) fn build(
    records: &[Arc<Record>],
    origin: &str,
    identity: ProducerIdentity,
    first_sequence: i32,
    form: Form,
) -> Result<Bytes, WireError> {
    let size = records.iter().map(|record| record.size()).sum();
    let mut builder = BatchBuilder::with_capacity(form.compression, size);
    builder.set_producer(identity.producer_id, identity.producer_epoch, first_sequence);
    for (at, record) in records.iter().enumerate() {
        let path = path(record).join(",");
        let is_added = |key: &[u8]| {
            key == FORWARDED_HEADER.as_bytes()
                || key == PATH_HEADER.as_bytes()
                || (form.is_replay && key.starts_with(DEAD_PREFIX))
        };
        let kept: Vec<(String, Option<Bytes>)> = record
            .headers
            .iter()
            .filter(|header| !is_added(&header.key))
            .map(|header| (header.key_str().into_owned(), header.value))
            .collect();
        let mut headers: Vec<(&str, Option<&[u8]>)> =
            kept.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
        if at == 0 {
            headers.push((FORWARDED_HEADER, Some(origin.as_bytes())));
        }
        if !path.is_empty() {
            headers.push((PATH_HEADER, Some(path.as_bytes())));
        }
        let timestamp = record.timestamp.max(-1);
        builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers)?;
    }
    builder.finish()
}

#[cfg(test)]
mod tests {
    use tailway_metadata::TopicId;
    use tailway_wire::record::Batch;

    use super::*;
    use crate::forward::record::decode;
    use crate::partition::ReadSlice;

    const IDENTITY: ProducerIdentity = ProducerIdentity { producer_id: 7, producer_epoch: 1 };

    fn stored(batch: Bytes) -> Vec<Arc<Record>> {
        let count = i64::from(Batch::parse(&batch).unwrap().header.records_count);
        let slice = ReadSlice {
            records: vec![batch],
            high_watermark: count,
            log_start_offset: 0,
            log_end_offset: count,
        };
        decode(slice, 0, i64::MAX).records.into_iter().map(Arc::new).collect()
    }

    fn form(compression: Compression) -> Form {
        Form { compression, is_replay: false }
    }

    fn headers(record: &Record) -> Vec<String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let one = |header: tailway_wire::record::RecordHeader| {
            let value = header.value.as_deref().map_or("null".into(), text);
            format!("{}={value}", text(&header.key))
        };
        record.headers.iter().map(one).collect()
    }

    /// From A to B to C, with a record of B's own beside those of A.
    #[test]
    fn records_stay_as_they_are_and_say_what_they_passed() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(5, Some(b"k"), None, &[("h", Some(b"1")), ("h", None)]).unwrap();
        builder.append(3, None, Some(b"v"), &[]).unwrap();
        let at_a = stored(builder.finish().unwrap());
        let plan = Plan { from: 0, to: 2, count: 2, first_sequence: 9 };
        let place = Place {
            sink: "s".into(),
            topic: "t".into(),
            topic_id: TopicId::default(),
            partition: 4,
        };
        let from_a = origin("A", &place, &plan);
        assert_eq!(from_a, format!("A {}-4 0-2", TopicId::default()));
        let batch = build(&at_a, &from_a, IDENTITY, 9, form(Compression::Zstd)).unwrap();
        let header = Batch::parse(&batch).unwrap().header.clone();
        let producer = (header.producer_id, header.producer_epoch, header.base_sequence);
        assert_eq!((producer, header.last_sequence()), ((7, 1, 9), 10));

        let mut at_b = stored(batch);
        assert_eq!(headers(&at_b[0]), ["h=1", "h=null", &format!("{FORWARDED_HEADER}={from_a}")]);
        assert_eq!(headers(&at_b[1]), [""; 0]);
        for (here, there) in at_a.iter().zip(&at_b) {
            assert_eq!(
                (&here.key, &here.value, here.timestamp),
                (&there.key, &there.value, there.timestamp)
            );
            assert_eq!(path(there), ["A"], "all of the batch came from A");
        }
        at_b.extend(at_a.clone());
        let batch = build(&at_b, "B x-0 0-4", IDENTITY, 0, form(Compression::None)).unwrap();
        let at_c = stored(batch);
        let last: Vec<Vec<String>> = at_c.iter().map(|record| headers(record)).collect();
        assert_eq!(last[0], ["h=1", "h=null", "tailway.forwarded=B x-0 0-4", "tailway.path=A"]);
        assert_eq!(last[1], ["tailway.path=A"]);
        assert_eq!(last[2], ["h=1", "h=null"]);
        let paths: Vec<Vec<String>> = at_c.iter().map(|record| path(record)).collect();
        assert_eq!(paths, [vec!["A", "B"], vec!["A", "B"], vec!["B"], vec!["B"]]);
    }
}
