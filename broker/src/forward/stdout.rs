//! Standard output as a sink: one JSON object a line, for trying things out and for pipes.
//!
//! `{"topic","partition","offset","timestamp","key","headers","value"}`; a value that is a JSON object stays one, any other
//! is a string. A line that was written is delivered; nothing can be asked of a pipe, so that what was in doubt comes again.

use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::record::Record;
use super::sink::Place;
use crate::machine::forward::{Failure, Item, Pause, PauseKind};

/// The sink: lines of different partitions do not mix.
#[derive(Debug, Default)]
pub(crate) struct Stdout {
    turn: Mutex<()>,
}

/// One partition's way into it.
pub(crate) struct Lane {
    sink: Arc<Stdout>,
    place: Place,
}

impl Lane {
    pub(crate) fn new(sink: Arc<Stdout>, place: Place) -> Self {
        Self { sink, place }
    }

    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Result<Vec<Item>, Failure> {
        let (sink, place) = (Arc::clone(&self.sink), self.place.clone());
        let written = tailway_runtime::spawn_blocking(move || {
            let text = lines(&records, &place)?;
            let _turn = sink.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            out.flush()?;
            Ok(records.len())
        });
        match written.await {
            Ok(Ok(count)) => Ok(vec![Item::Done; count]),
            Ok(Err(error)) => Err(Failure::Pause(said(&error))),
            Err(_) => Err(Failure::doubtful("the broker stops")),
        }
    }
}

fn said(error: &io::Error) -> Pause {
    let cause = format!("standard output cannot be written: {error}");
    Pause { kind: PauseKind::Target, cause: cause.into() }
}

fn lines(records: &[Arc<Record>], place: &Place) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for record in records {
        line(record, place, &mut out)?;
        out.push(b'\n');
    }
    Ok(out)
}

#[derive(serde::Serialize)]
struct Line<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<&'a str>,
    value: LineValue<'a>,
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum LineValue<'a> {
    Json(&'a RawValue),
    Text(Option<String>),
}

fn line(record: &Record, place: &Place, out: &mut Vec<u8>) -> io::Result<()> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let value = record.value.as_deref();
    let json: Option<&RawValue> = value
        .and_then(|value| serde_json::from_slice(value).ok())
        .filter(|raw: &&RawValue| raw.get().starts_with('{') && !raw.get().contains(['\n', '\r']));
    let headers = record.headers.iter().map(|header| {
        let value = header.value.as_deref().map_or(Value::Null, |value| text(value).into());
        (header.key_str().into_owned(), value)
    });
    let line = Line {
        topic: &place.topic,
        partition: place.partition,
        offset: record.offset,
        timestamp: record.timestamp,
        key: record.key.as_deref().map(text),
        headers: headers.collect(),
        unreadable: record.unreadable.as_deref(),
        value: json.map_or_else(|| LineValue::Text(value.map(text)), LineValue::Json),
    };
    serde_json::to_writer(out, &line).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tailway_metadata::TopicId;
    use tailway_wire::record::{BatchBuilder, Compression};

    use super::*;
    use crate::forward::record::decode;
    use crate::partition::ReadSlice;

    #[test]
    fn a_record_is_a_line() {
        let mut builder = BatchBuilder::new(Compression::None);
        builder.append(7, Some(b"k"), Some(b"{\"a\": 1}"), &[("h", Some(b"v"))]).unwrap();
        builder.append(8, None, Some(b"two\nlines"), &[]).unwrap();
        builder.append(9, None, None, &[("n", None)]).unwrap();
        builder.append(9, None, Some(b"{\"a\":\n1}"), &[]).unwrap();
        let records: Vec<Bytes> = vec![builder.finish().unwrap()];
        let slice =
            ReadSlice { records, high_watermark: 3, log_start_offset: 0, log_end_offset: 3 };
        let records: Vec<Arc<Record>> =
            decode(slice, 0, i64::MAX).records.into_iter().map(Arc::new).collect();
        let place = Place {
            sink: "out".into(),
            topic: "t".into(),
            topic_id: TopicId::default(),
            partition: 2,
        };
        let text = String::from_utf8(lines(&records, &place).unwrap()).unwrap();
        let expected = [
            r#"{"topic":"t","partition":2,"offset":0,"timestamp":7,"key":"k","headers":{"h":"v"},"value":{"a": 1}}"#,
            r#"{"topic":"t","partition":2,"offset":1,"timestamp":8,"value":"two\nlines"}"#,
            r#"{"topic":"t","partition":2,"offset":2,"timestamp":9,"headers":{"n":null},"value":null}"#,
            r#"{"topic":"t","partition":2,"offset":3,"timestamp":9,"value":"{\"a\":\n1}"}"#,
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
