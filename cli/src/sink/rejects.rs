//! Dead letters: what a sink refused, grouped by what it said, and the wish to have it delivered again.
//!
//! A letter is open as long as the group `forward.SINK` has not passed it in `TOPIC.dead`. A replay commits the end of that topic
//! to the group `replay.SINK`: the broker then delivers up to there, under the same ids, and what is refused again is a new
//! letter behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tailway_broker::config::DEAD_SUFFIX;
use tailway_broker::forward::dead_letters::{
    OFFSET_HEADER, PARTITION_HEADER, REASON_HEADER, SINK_HEADER, STATUS_HEADER, TOPIC_HEADER,
    TYPE_HEADER, dead_topic,
};
use tailway_broker::forward::progress::{group_of, replay_group_of};
use tailway_client::{
    Admin, Client, Consumer, ConsumerOptions, GroupPositions, OffsetSpec, StartAt, TopicPartition,
};
use tailway_daemon::exit::Exit;
use tailway_wire::record::RecordRef;

use super::args::RejectsArgs;
use crate::output::{Output, Row, complain, count};
use crate::target;

/// How long nothing may come before what is there counts as read.
const SILENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);
/// How long a replay is watched.
const WATCH: Duration = Duration::from_mins(5);
/// Longest signature that is printed.
const SIGNATURE_CHARS_MAX: usize = 160;

/// From where and up to where letters are open.
type Open = BTreeMap<TopicPartition, (i64, i64)>;

/// Refused records that have been refused for the same reason.
#[derive(Debug, Default, PartialEq, Eq)]
struct Kind {
    records: u64,
    example: String,
}

/// They, and what was said of them.
#[derive(Debug, Serialize)]
struct Rejects {
    records: u64,
    reason: String,
    example: String,
}

impl Row for Rejects {
    const HEADING: &'static [&'static str] = &["RECORDS", "REASON", "EXAMPLE"];

    fn cells(&self) -> Vec<String> {
        vec![self.records.to_string(), self.reason.clone(), self.example.clone()]
    }
}

/// How a replay went.
#[derive(Debug, Default, Serialize)]
struct Replayed {
    records: u64,
    /// Not delivered yet when it was no longer watched.
    left: u64,
    refused_again: u64,
}

pub(crate) async fn show(args: RejectsArgs, output: Output) -> Result<Exit> {
    let client = target::client(&args.target)?;
    let open = open(&client, &args).await?;
    let kinds = read(&client, &args.name, &open).await?;
    let rejects = |(reason, kind): (String, Kind)| Rejects {
        records: kind.records,
        reason,
        example: kind.example,
    };
    let mut rows: Vec<Rejects> = kinds.into_iter().map(rejects).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.records));
    if rows.is_empty() {
        let none = format!("sink {} has no refused records", args.name);
        output.whole(&rows, |_| vec![none])?;
        return Ok(Exit::Ok);
    }
    output.rows(&rows)?;
    complain(&format!("after a fix: tailway sink replay {}", args.name));
    Ok(Exit::Ok)
}

pub(crate) async fn replay(args: RejectsArgs, output: Output) -> Result<Exit> {
    let client = target::client(&args.target)?;
    let wanted = open(&client, &args).await?;
    let total: i64 = wanted.values().map(|(from, to)| to - from).sum();
    if total == 0 {
        let none = format!("sink {} has no refused records", args.name);
        output.line(&Replayed::default(), none)?;
        return Ok(Exit::Ok);
    }
    let ends = wanted.iter().map(|(partition, (_, to))| (partition.clone(), *to)).collect();
    GroupPositions::new(client.clone(), replay_group_of(&args.name)).commit(&ends).await?;
    let mut forwarded = GroupPositions::new(client.clone(), group_of(&args.name));
    let begun = tokio::time::Instant::now();
    let records = u64::try_from(total).unwrap_or(0);
    loop {
        let mut left = 0;
        for (partition, (_, to)) in &wanted {
            let at = forwarded.committed(&partition.topic, vec![partition.partition]).await?;
            let at = at.get(partition).copied().flatten().unwrap_or(0);
            left += (to - at).max(0);
        }
        if left == 0 {
            break;
        }
        if begun.elapsed() >= WATCH {
            complain(&format!(
                "{left} of {total} are not delivered yet; the broker goes on: tailway sink list"
            ));
            if !output.is_table() {
                let left = u64::try_from(left).unwrap_or(0);
                output.line(&Replayed { records, left, ..Replayed::default() }, "")?;
            }
            return Ok(Exit::Failure);
        }
        tokio::time::sleep(POLL).await;
    }
    let kinds = read(&client, &args.name, &open(&client, &args).await?).await?;
    let again: u64 = kinds.values().map(|kind| kind.records).sum();
    let replayed = Replayed { records, left: 0, refused_again: again };
    output.line(&replayed, format!("replayed {}", count(records, "record")))?;
    if again == 0 {
        return Ok(Exit::Ok);
    }
    complain(&format!("{again} were refused again: tailway sink rejects {}", args.name));
    Ok(Exit::Failure)
}

/// The open letters of a sink.
async fn open(client: &Client, args: &RejectsArgs) -> Result<Open> {
    let admin = Admin::new(client.clone());
    let mut topics: Vec<Arc<str>> = Vec::new();
    for topic in admin.list_topics().await? {
        let wanted = args.topic.as_ref().is_none_or(|of| *topic.name == *dead_topic(of));
        if topic.name.ends_with(DEAD_SUFFIX) && wanted {
            topics.push(Arc::clone(&topic.name));
        }
    }
    if let (Some(topic), true) = (&args.topic, topics.is_empty()) {
        bail!("no record of {topic} was ever refused: there is no topic {}", dead_topic(topic));
    }
    let mut forwarded = GroupPositions::new(client.clone(), group_of(&args.name));
    let mut open = Open::new();
    for topic in topics {
        let starts = admin.list_offsets(&topic, OffsetSpec::Earliest).await?;
        let ends = admin.list_offsets(&topic, OffsetSpec::Latest).await?;
        let partitions = ends.iter().map(|end| end.partition.partition).collect();
        let committed = forwarded.committed(&topic, partitions).await?;
        for end in ends {
            let start = starts.iter().find(|start| start.partition == end.partition);
            let start = start.map_or(0, |start| start.offset);
            let at = committed.get(&end.partition).copied().flatten().unwrap_or(0).max(start);
            if at < end.offset {
                open.insert(end.partition, (at, end.offset));
            }
        }
    }
    Ok(open)
}

/// What they are, by what was said.
async fn read(client: &Client, sink: &str, open: &Open) -> Result<BTreeMap<String, Kind>> {
    let mut kinds = BTreeMap::new();
    let mut left = open.clone();
    let mut consumer = Consumer::new(client.clone(), ConsumerOptions::default());
    let start = |(partition, (from, _)): (&TopicPartition, &(i64, i64))| {
        (partition.clone(), StartAt::Offset(*from))
    };
    consumer.assign(&open.iter().map(start).collect::<Vec<_>>()).await?;
    let mut silent_since = tokio::time::Instant::now();
    while !left.is_empty() {
        let consumed = consumer.poll(POLL).await?;
        if !consumed.is_empty() {
            silent_since = tokio::time::Instant::now();
        }
        for part in consumed {
            let Some((_, to)) = open.get(&part.partition) else { continue };
            for record in part.records.iter().filter(|record| record.offset < *to) {
                note(record, sink, &mut kinds);
            }
            if part.records.last().is_some_and(|last| last.offset + 1 >= *to) {
                left.remove(&part.partition);
            }
        }
        if silent_since.elapsed() >= SILENCE {
            let trouble = consumer.trouble().map_or_else(String::new, |error| format!(": {error}"));
            bail!("not all refused records could be read{trouble}");
        }
    }
    Ok(kinds)
}

fn note(record: &RecordRef, sink: &str, kinds: &mut BTreeMap<String, Kind>) {
    let header = |name: &str| {
        let value = record.headers.get(name).unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    };
    if header(SINK_HEADER) != sink {
        return;
    }
    let signature = signature(&header(STATUS_HEADER), &header(TYPE_HEADER), &header(REASON_HEADER));
    let kind = kinds.entry(signature).or_default();
    kind.records += 1;
    if kind.example.is_empty() {
        let (topic, partition) = (header(TOPIC_HEADER), header(PARTITION_HEADER));
        kind.example = format!("{topic}-{partition} offset {}", header(OFFSET_HEADER));
    }
}

/// What differs from record to record is left out: what stands in quotes, and numbers.
fn signature(status: &str, kind: &str, reason: &str) -> String {
    let mut text = format!("{status} {kind}: ");
    let mut rest = reason.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\'' | '"' => {
                text.push_str("'..'");
                for inner in rest.by_ref() {
                    if inner == c {
                        break;
                    }
                }
            }
            c if c.is_ascii_digit() => {
                text.push('N');
                while rest.next_if(char::is_ascii_digit).is_some() {}
            }
            c if c.is_control() => text.push(' '),
            c => text.push(c),
        }
    }
    if let Some((end, _)) = text.char_indices().nth(SIGNATURE_CHARS_MAX) {
        text.truncate(end);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_that_are_documented() {
        let rejects = Rejects { records: 1, reason: String::new(), example: String::new() };
        crate::output::documented("sink rejects", &rejects);
        crate::output::documented("sink replay", &Replayed::default());
        assert_eq!(crate::output::table_of(&[rejects])[0], "RECORDS  REASON  EXAMPLE");
    }

    #[test]
    fn a_signature_leaves_out_what_differs_from_record_to_record() {
        let es = "failed to parse field [n] of type [long] in document with id 'Tv12'. Preview of field's value: 'abc'";
        let expected = "400 mapper: failed to parse field [n] of type [long] in document with id '..'. Preview of field'..'abc'..'";
        assert_eq!(signature("400", "mapper", es), expected);
        assert_eq!(signature("413", "too_large", "1234 bytes at 5"), "413 too_large: N bytes at N");
        assert_eq!(signature("400", "x", &"y".repeat(500)).len(), SIGNATURE_CHARS_MAX);
    }
}
