//! A record as a document: its `_id`, its time, its JSON on one line.
//!
//! The id is the event's own where the agent sent it: file generation, offset in the file, the agent's producer and a CRC
//! of the text, so that what an agent sent twice is there once. Otherwise it is the record's place: topic id, partition, leader
//! epoch and offset, which no other record ever has. JSON objects stay as they are, but for `@metadata`, which is for
//! pipelines and not for the index, and `@timestamp`, which a data stream needs: where it is missing it is the record's. Whatever is
//! no JSON object becomes `message`.
//! Invariant: a document has no line end in it, so that no record can pass for an action of its own.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use tailway_metadata::TopicId;
use tailway_metadata::time::WallMs;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::forward::record::{Origin, Record};

/// The header of a dead letter that keeps its first id.
pub(crate) const ID_HEADER: &str = "tailway.dead.id";

/// A document, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Document {
    pub(super) id: String,
    /// The event's own time.
    pub(super) at: WallMs,
    pub(super) json: Vec<u8>,
}

/// The members of a JSON object, in order.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl Document {
    pub(super) fn of(record: &Record, topic_id: TopicId, partition: i32) -> Self {
        let value = record.value.as_deref().unwrap_or_default();
        let fallback = WallMs(record.timestamp);
        if let Some(members) = Members::parse(value) {
            let at = members.time();
            let id = id(record, topic_id, partition, Some(&members));
            let json = members.write(at.is_none().then_some(fallback));
            Self { id, at: at.unwrap_or(fallback), json }
        } else {
            let id = id(record, topic_id, partition, None);
            Self { id, at: fallback, json: wrap(record.value.as_deref(), fallback) }
        }
    }
}

/// The `_id` of a record, without its document.
pub(crate) fn id_of(record: &Record, topic_id: TopicId, partition: i32) -> String {
    let members = record.value.as_deref().and_then(Members::parse);
    id(record, topic_id, partition, members.as_ref())
}

fn id(record: &Record, topic_id: TopicId, partition: i32, members: Option<&Members<'_>>) -> String {
    if let Some(kept) = record.headers.get(ID_HEADER)
        && let Ok(kept) = std::str::from_utf8(&kept)
    {
        return kept.to_owned();
    }
    let event = record.origin.zip(members).and_then(|(origin, members)| {
        let (offset, crc) = members.line()?;
        (origin.from..origin.to).contains(&offset).then(|| event_id(&origin, offset, crc))
    });
    event.unwrap_or_else(|| {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(topic_id.0.as_bytes());
        bytes.extend_from_slice(&partition.to_be_bytes());
        bytes.extend_from_slice(&record.leader_epoch.to_be_bytes());
        bytes.extend_from_slice(&record.offset.to_be_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    })
}

fn event_id(origin: &Origin, offset: u64, crc: u32) -> String {
    let mut bytes = Vec::with_capacity(36);
    bytes.extend_from_slice(&origin.generation.to_be_bytes());
    bytes.extend_from_slice(&origin.producer_id.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&crc.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

impl<'a> Members<'a> {
    /// `None` if it is no JSON object.
    fn parse(value: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut reader = serde_json::Deserializer::from_str(text);
        let members = reader.deserialize_map(MembersVisitor).ok()?;
        reader.end().ok()?;
        Some(members)
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
    }

    /// `@timestamp`, as ISO 8601 or as milliseconds.
    fn time(&self) -> Option<WallMs> {
        let raw = self.get("@timestamp")?.get();
        if let Ok(ms) = raw.parse::<i64>() {
            return Some(WallMs(ms));
        }
        let text: String = serde_json::from_str(raw).ok()?;
        let at = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
        i64::try_from(at.unix_timestamp_nanos().div_euclid(1_000_000)).ok().map(WallMs)
    }

    /// `log.offset`, and a CRC of `message`.
    fn line(&self) -> Option<(u64, u32)> {
        let log = Members::parse(self.get("log")?.get().as_bytes())?;
        let offset = log.get("offset")?.get().parse().ok()?;
        let message = self.get("message")?.get();
        Some((offset, crc32c::crc32c(message.as_bytes())))
    }

    /// One line, with `at` as its time if there is one.
    fn write(&self, at: Option<WallMs>) -> Vec<u8> {
        let length: usize =
            self.0.iter().map(|(key, value)| key.len() + value.get().len() + 6).sum();
        let mut out = Vec::with_capacity(length + 48);
        out.push(b'{');
        if let Some(at) = at {
            push_member(&mut out, "@timestamp", time_text(at).as_bytes());
        }
        for (key, value) in &self.0 {
            let replaced = key == "@metadata" || (key == "@timestamp" && at.is_some());
            if !replaced {
                push_member(&mut out, key, value.get().as_bytes());
            }
        }
        out.push(b'}');
        // In JSON a line end stands between tokens only, where a blank does as well.
        for byte in out.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')) {
            *byte = b' ';
        }
        out
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

fn push_member(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    quote(out, key);
    out.push(b':');
    out.extend_from_slice(value);
}

fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    serde_json::to_writer(out, text).unwrap_or_default();
}

fn wrap(value: Option<&[u8]>, at: WallMs) -> Vec<u8> {
    let mut out = b"{".to_vec();
    push_member(&mut out, "@timestamp", time_text(at).as_bytes());
    out.extend_from_slice(b",\"message\":");
    match value {
        Some(value) => quote(&mut out, &String::from_utf8_lossy(value)),
        None => out.extend_from_slice(b"null"),
    }
    out.push(b'}');
    out
}

/// As JSON: ISO 8601 in UTC, or milliseconds where no calendar has it.
fn time_text(at: WallMs) -> String {
    let nanos = i128::from(at.0) * 1_000_000;
    let known = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok();
    let text =
        known.filter(|at| (0..10_000).contains(&at.year())).and_then(|at| at.format(&Rfc3339).ok());
    text.map_or_else(|| at.0.to_string(), |text| format!("\"{text}\""))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tailway_wire::record::RecordHeaders;

    use super::*;

    fn record(value: Option<&[u8]>) -> Record {
        Record {
            offset: 5,
            timestamp: 1_725_696_174_662,
            key: None,
            value: value.map(Bytes::copy_from_slice),
            headers: RecordHeaders::default(),
            leader_epoch: 2,
            origin: None,
            forwarded_by: None,
            unreadable: None,
        }
    }

    fn document(value: &[u8]) -> (String, i64) {
        let document = Document::of(&record(Some(value)), TopicId::default(), 3);
        (String::from_utf8(document.json).unwrap(), document.at.0)
    }

    #[test]
    fn json_stays_and_everything_else_is_a_message() {
        let own = 1_725_696_174_662;
        let cases: [(&[u8], &str, i64); 10] = [
            (
                br#"{"@timestamp":"2024-01-02T03:04:05.678Z","a":1}"#,
                r#"{"@timestamp":"2024-01-02T03:04:05.678Z","a":1}"#,
                1_704_164_645_678,
            ),
            (
                br#"{"@timestamp":1704164645678,"a":1}"#,
                r#"{"@timestamp":1704164645678,"a":1}"#,
                1_704_164_645_678,
            ),
            (
                br#"{"b": 1.50, "@metadata":{"beat":"filebeat"}}"#,
                r#"{"@timestamp":"2024-09-07T08:02:54.662Z","b":1.50}"#,
                own,
            ),
            (
                br#"{"@timestamp":"soon","a":1}"#,
                r#"{"@timestamp":"2024-09-07T08:02:54.662Z","a":1}"#,
                own,
            ),
            (
                b"{\n  \"a\":\r\n [1,\n2]\n}",
                r#"{"@timestamp":"2024-09-07T08:02:54.662Z","a":[1, 2]}"#,
                own,
            ),
            (
                b"{\"a\":1}\n{\"delete\":{}}",
                r#"{"@timestamp":"2024-09-07T08:02:54.662Z","message":"{\"a\":1}\n{\"delete\":{}}"}"#,
                own,
            ),
            (
                b"plain \"text\" \xff\n",
                "{\"@timestamp\":\"2024-09-07T08:02:54.662Z\",\"message\":\"plain \\\"text\\\" \u{fffd}\\n\"}",
                own,
            ),
            (b"[1,2]", r#"{"@timestamp":"2024-09-07T08:02:54.662Z","message":"[1,2]"}"#, own),
            (b"{\"a\":", r#"{"@timestamp":"2024-09-07T08:02:54.662Z","message":"{\"a\":"}"#, own),
            (b"", r#"{"@timestamp":"2024-09-07T08:02:54.662Z","message":""}"#, own),
        ];
        for (value, json, at) in cases {
            let got = document(value);
            assert_eq!(got, (json.to_owned(), at), "{}", String::from_utf8_lossy(value));
            assert!(!got.0.contains('\n'));
        }
        let none = Document::of(&record(None), TopicId::default(), 3);
        assert_eq!(none.json, br#"{"@timestamp":"2024-09-07T08:02:54.662Z","message":null}"#);
    }

    #[test]
    fn the_id_is_the_events_own_or_its_place() {
        let line = |offset: u64, text: &str| {
            format!(
                r#"{{"@timestamp":1,"log":{{"offset":{offset},"file":{{"path":"/a"}}}},"message":"{text}"}}"#
            )
        };
        let origin = Origin { generation: 7, from: 10, to: 90, producer_id: 1 };
        let id = |text: &str, origin: Option<Origin>, offset: i64, epoch: i32| {
            let record =
                Record { origin, offset, leader_epoch: epoch, ..record(Some(text.as_bytes())) };
            let document = Document::of(&record, TopicId::default(), 3);
            assert_eq!(document.id, id_of(&record, TopicId::default(), 3));
            document.id
        };
        let first = id(&line(10, "x"), Some(origin), 5, 2);
        assert_eq!(first.len(), 48);
        // Sent twice: another place in the log, the same event.
        assert_eq!(id(&line(10, "x"), Some(origin), 99, 3), first);
        let other = |generation, producer_id| Origin { generation, producer_id, ..origin };
        let different = [
            id(&line(11, "x"), Some(origin), 5, 2),
            id(&line(10, "y"), Some(origin), 5, 2),
            id(&line(10, "x"), Some(other(8, 1)), 5, 2),
            id(&line(10, "x"), Some(other(7, 2)), 5, 2),
            id(&line(10, "x"), None, 5, 2),
            id(&line(10, "x"), None, 5, 3),
            id(&line(10, "x"), None, 6, 2),
            id(&line(90, "x"), Some(origin), 7, 2),
            id("no json", Some(origin), 8, 2),
        ];
        let mut all: Vec<&String> = different.iter().chain([&first]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 10, "{different:?}");
    }
}
