//! Dead letters: records that a sink refuses for good, kept in `TOPIC.dead` as they were, with who refused them and why.
//!
//! Key, value, timestamp and headers are the original's; what is added stands in headers `tailway.dead.*`. The topic is made by
//! the first letter, without retention by time. Invariant: a letter is written when it is durable, and lands however large the
//! original is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tailway_daemon::Deadline;
use tailway_metadata::PartitionIndex;
use tailway_metadata::topic::NAME_LEN_MAX;
use tailway_wire::ErrorCode;
use tailway_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tailway_wire::messages::{CreateTopicsRequest, StrBytes, TopicName};
use tailway_wire::record::{BatchBuilder, Compression};

use super::opensearch::document::ID_HEADER;
use super::record::Record;
use super::sink::Place;
use crate::cluster::routes::NO_EPOCH_CHECK;
use crate::cluster::{Controller, Routes, TopicCreator};
use crate::config::DEAD_SUFFIX;
use crate::machine::forward::Rejection;
use crate::partition::{Acks, AppendOptions, AppendOrigin};

const CREATE_TIMEOUT: Duration = Duration::from_secs(10);
/// Letters are written in batches of about this size; a larger one is a batch of its own.
const BATCH_BYTES: usize = 512 * 1024;

/// What is added to a letter.
pub const SINK_HEADER: &str = "tailway.dead.sink";
pub const TOPIC_HEADER: &str = "tailway.dead.topic";
pub const PARTITION_HEADER: &str = "tailway.dead.partition";
pub const OFFSET_HEADER: &str = "tailway.dead.offset";
pub const STATUS_HEADER: &str = "tailway.dead.status";
pub const TYPE_HEADER: &str = "tailway.dead.type";
pub const REASON_HEADER: &str = "tailway.dead.reason";
/// What all of them begin with.
pub(crate) const HEADER_PREFIX: &[u8] = b"tailway.dead.";

/// A record and why it is given up.
pub(crate) struct Letter {
    pub(crate) record: Arc<Record>,
    pub(crate) rejection: Arc<Rejection>,
    /// What it is called at the sink.
    pub(crate) id: Option<String>,
}

/// Writes dead letters. Clones share everything.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    routes: Routes,
    creator: TopicCreator,
    controller: Controller,
}

/// The topic of the dead letters of `topic`.
pub fn dead_topic(topic: &str) -> String {
    // A name that leaves no room for the suffix is cut: topic names are ASCII.
    let head = topic.get(..NAME_LEN_MAX - DEAD_SUFFIX.len()).unwrap_or(topic);
    format!("{head}{DEAD_SUFFIX}")
}

impl DeadLetters {
    pub(crate) fn new(routes: Routes, creator: TopicCreator, controller: Controller) -> Self {
        Self { routes, creator, controller }
    }

    /// Writes the letters of one partition; durable when it returns `Ok`.
    pub(crate) async fn write(&self, place: &Place, letters: Vec<Letter>) -> Result<(), String> {
        let topic = dead_topic(&place.topic);
        self.make_topic(&topic).await?;
        let image = self.routes.image();
        let count = image.topic(&topic).map_or(0, |topic| topic.partitions.len());
        let count = i32::try_from(count).unwrap_or(i32::MAX).max(1);
        let index = place.partition % count;
        let door = self
            .routes
            .partition(&image, &topic, index, NO_EPOCH_CHECK)
            .map_err(|code| format!("{topic}-{index} cannot take dead letters: {}", code.name()))?;
        let refused = |error: crate::partition::PartitionError| {
            format!("{topic}-{index} did not take dead letters: {error}")
        };
        let options = AppendOptions { acks: Acks::All, origin: AppendOrigin::DeadLetters };
        let mut pending = Vec::new();
        for batch in batches(place, &letters)? {
            pending.push(door.submit(batch, options).await.map_err(refused)?);
        }
        for append in pending {
            append.answer().await.map_err(refused)?;
        }
        Ok(())
    }

    async fn make_topic(&self, name: &str) -> Result<(), String> {
        if self.is_there(name) {
            return Ok(());
        }
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let forever = CreatableTopicConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("-1")));
        let topic = CreatableTopic::default()
            .with_name(TopicName(text(name)))
            .with_num_partitions(-1)
            .with_replication_factor(-1)
            .with_configs(vec![forever]);
        let timeout_ms = i32::try_from(CREATE_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
        let request =
            CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(timeout_ms);
        let answer = self.controller.create_topics(&request, CREATE_TIMEOUT).await;
        let answer = answer.map_err(|error| format!("{name} cannot be made: {error}"))?;
        for topic in answer.topics {
            let code = ErrorCode::from(topic.error_code);
            if code.is_error() && code != ErrorCode::TOPIC_ALREADY_EXISTS {
                let why = topic.error_message.as_deref().unwrap_or_default();
                return Err(format!("{name} cannot be made: {} {why}", code.name()));
            }
        }
        self.creator.wait_for(&[name], Deadline::after(CREATE_TIMEOUT)).await;
        if self.is_there(name) { Ok(()) } else { Err(format!("{name} is not served yet")) }
    }

    fn is_there(&self, name: &str) -> bool {
        let image = self.routes.image();
        image.topic(name).is_some_and(|topic| topic.partition(PartitionIndex(0)).is_some())
    }
}

fn batches(place: &Place, letters: &[Letter]) -> Result<Vec<Bytes>, String> {
    let mut builder = BatchBuilder::new(Compression::Zstd);
    let mut batches = Vec::new();
    let failed =
        |error: tailway_wire::WireError| format!("a dead letter cannot be written: {error}");
    for letter in letters {
        append(&mut builder, place, letter).map_err(failed)?;
        if builder.uncompressed_size() >= BATCH_BYTES {
            batches.push(builder.finish().map_err(failed)?);
        }
    }
    if !builder.is_empty() {
        batches.push(builder.finish().map_err(failed)?);
    }
    Ok(batches)
}

fn append(
    builder: &mut BatchBuilder,
    place: &Place,
    letter: &Letter,
) -> Result<(), tailway_wire::WireError> {
    let Letter { record, rejection, id } = letter;
    let added = [
        (SINK_HEADER, place.sink.to_string()),
        (TOPIC_HEADER, place.topic.to_string()),
        (PARTITION_HEADER, place.partition.to_string()),
        (OFFSET_HEADER, record.offset.to_string()),
        (STATUS_HEADER, rejection.status.to_string()),
        (TYPE_HEADER, rejection.kind.clone()),
        (REASON_HEADER, rejection.reason.clone()),
    ];
    // One that is refused again does not keep what was said the first time.
    let kept: Vec<(String, Option<Bytes>)> = record
        .headers
        .iter()
        .filter(|header| !header.key.starts_with(HEADER_PREFIX))
        .map(|header| (header.key_str().into_owned(), header.value))
        .collect();
    let mut headers: Vec<(&str, Option<&[u8]>)> =
        kept.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    headers.extend(added.iter().map(|(key, value)| (*key, Some(value.as_bytes()))));
    headers.extend(id.iter().map(|id| (ID_HEADER, Some(id.as_bytes()))));
    let timestamp = record.timestamp.max(-1);
    builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers)
}

#[cfg(test)]
mod tests {
    use tailway_metadata::TopicId;
    use tailway_wire::record::{Batch, RecordHeaders};

    use super::*;

    #[test]
    fn a_letter_is_the_original_with_who_refused_it_and_why() {
        let record = Record {
            offset: 42,
            timestamp: 7,
            key: Some("k".into()),
            value: Some("v".into()),
            headers: RecordHeaders::default(),
            leader_epoch: 1,
            origin: None,
            forwarded_by: None,
            unreadable: None,
        };
        let place = Place {
            sink: "es".into(),
            topic: "logs".into(),
            topic_id: TopicId::default(),
            partition: 3,
        };
        let rejection = Rejection { status: 400, kind: "mapper".into(), reason: "no".into() };
        let write = |record: Record, reason: &str| {
            let rejection = Arc::new(Rejection { reason: reason.into(), ..rejection.clone() });
            let letter = Letter { record: Arc::new(record), rejection, id: Some("id".into()) };
            let batches = batches(&place, &[letter]).unwrap();
            let batch = Batch::parse(&batches[0]).unwrap();
            batch.records(1_000).unwrap().next().unwrap().unwrap()
        };
        let first = write(record.clone(), "no");
        assert_eq!(
            (first.key.clone(), first.value.clone(), first.timestamp),
            (record.key.clone(), record.value.clone(), 7)
        );
        let headers = |record: &tailway_wire::record::RecordRef| {
            let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
            record
                .headers
                .iter()
                .map(|h| format!("{}={}", text(h.key), text(h.value.unwrap())))
                .collect::<Vec<_>>()
        };
        let expected = [
            "tailway.dead.sink=es",
            "tailway.dead.topic=logs",
            "tailway.dead.partition=3",
            "tailway.dead.offset=42",
            "tailway.dead.status=400",
            "tailway.dead.type=mapper",
            "tailway.dead.reason=no",
            "tailway.dead.id=id",
        ];
        assert_eq!(headers(&first), expected);
        let again = write(Record { headers: first.headers, ..record }, "still no");
        assert_eq!(headers(&again)[6], "tailway.dead.reason=still no");
        assert_eq!(headers(&again).len(), 8);
    }

    #[test]
    fn the_topic_is_named_after_its_topic() {
        assert_eq!(dead_topic("logs"), "logs.dead");
        assert_eq!(dead_topic(&"x".repeat(249)).len(), 249);
    }
}
