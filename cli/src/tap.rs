//! `tailway tap TOPIC`: the records of a topic, one a line, from where you say until you stop it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tailway_client::consume::Consumed;
use tailway_client::{
    Client, ClientError, Consumer, ConsumerOptions, StartAt, TopicInfo, TopicPartition,
};
use tailway_daemon::Deadline;
use tailway_daemon::exit::Exit;
use tailway_wire::record::RecordRef;

use crate::args::{From, TapArgs};
use crate::output::{Output, complain, yaml};
use crate::target;

/// How long one wait for records lasts before troubles are looked at.
const POLL: Duration = Duration::from_secs(1);

/// How long a topic that is not there is waited for: an agent's first line, or a producer's first record, makes it.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);

/// How often it is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A record, for programs.
#[derive(Debug, Serialize)]
struct Record<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    /// Milliseconds since 1970, as Kafka counts them.
    timestamp_ms: i64,
    key: Option<Text<'a>>,
    /// `null`: a tombstone, by which compaction deletes the key.
    value: Option<Text<'a>>,
    headers: Vec<Header>,
}

#[derive(Debug, Serialize)]
struct Header {
    key: String,
    value: Option<Text<'static>>,
}

/// Bytes: as they are if they are text, else in hexadecimal.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Text<'a> {
    Plain(std::borrow::Cow<'a, str>),
    Hex { hex: String },
}

impl<'a> Text<'a> {
    fn of(bytes: &'a [u8]) -> Text<'a> {
        if let Ok(text) = std::str::from_utf8(bytes) {
            return Text::Plain(text.into());
        }
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let hex = digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect();
        Text::Hex { hex }
    }

    fn owned(self) -> Text<'static> {
        match self {
            Text::Plain(text) => Text::Plain(text.into_owned().into()),
            Text::Hex { hex } => Text::Hex { hex },
        }
    }
}

pub(crate) async fn run(args: TapArgs, output: Output) -> Result<Exit> {
    let client = target::client(&args.target)?;
    let start = match args.from {
        From::Beginning => StartAt::Earliest,
        From::End => StartAt::Latest,
        From::Offset(offset) => StartAt::Offset(offset),
    };
    let mut consumer = Consumer::new(client.clone(), ConsumerOptions::default());
    consumer.assign(&partitions(&client, &args, start).await?).await?;
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut trouble = None;
    while left > 0 {
        let consumed = consumer.poll(POLL).await?;
        print(&consumed, args.meta, output, &mut left)?;
        let now = consumer.trouble().map(ToString::to_string);
        if now != trouble {
            if let Some(text) = &now {
                complain(&format!("tailway: trying again: {text}"));
            }
            trouble = now;
        }
    }
    Ok(Exit::Ok)
}

async fn partitions(
    client: &Client,
    args: &TapArgs,
    start: StartAt,
) -> Result<Vec<(TopicPartition, StartAt)>> {
    let topic = appearing(client, &args.topic).await?;
    let mut indexes: Vec<i32> = topic.partitions.keys().copied().collect();
    if let Some(only) = args.partition {
        indexes.retain(|index| *index == only);
        if indexes.is_empty() {
            bail!(
                "topic `{}` has no partition {only} (it has {})\n  next: tailway topic describe {}",
                topic.name,
                topic.partitions.len(),
                topic.name
            );
        }
    }
    let partition = |index| TopicPartition::new(Arc::clone(&topic.name), index);
    Ok(indexes.into_iter().map(|index| (partition(index), start)).collect())
}

/// The topic, which may be about to be made.
async fn appearing(client: &Client, name: &str) -> Result<Arc<TopicInfo>, ClientError> {
    let deadline = Deadline::after(APPEARS_WITHIN);
    let mut told = false;
    loop {
        match client.topic(name).await {
            Err(ClientError::UnknownTopic { .. }) if !deadline.remaining().is_zero() => {}
            found => return found,
        }
        if !std::mem::replace(&mut told, true) {
            let seconds = APPEARS_WITHIN.as_secs();
            complain(&format!(
                "tailway: there is no topic `{name}` yet; waiting {seconds} s for it"
            ));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn print(consumed: &[Consumed], meta: bool, output: Output, left: &mut u64) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for part in consumed {
        for record in &part.records {
            if *left == 0 {
                return Ok(out.flush()?);
            }
            *left -= 1;
            if !output.is_table() {
                let text = text(&part.partition, record, output)?;
                out.write_all(text.as_bytes())?;
                continue;
            }
            if meta {
                let partition = part.partition.partition;
                write!(out, "{partition}\t{}\t{}\t", record.offset, record.timestamp)?;
                out.write_all(record.key.as_deref().unwrap_or_default())?;
                out.write_all(b"\t")?;
            }
            out.write_all(record.value.as_deref().unwrap_or_default())?;
            out.write_all(b"\n")?;
        }
    }
    Ok(out.flush()?)
}

/// One object a line, or one document.
fn text(partition: &TopicPartition, record: &RecordRef, output: Output) -> Result<String> {
    let headers = record.headers.iter().map(|header| Header {
        key: header.key_str().into_owned(),
        value: header.value.as_deref().map(|value| Text::of(value).owned()),
    });
    let whole = Record {
        topic: &partition.topic,
        partition: partition.partition,
        offset: record.offset,
        timestamp_ms: record.timestamp,
        key: record.key.as_deref().map(Text::of),
        value: record.value.as_deref().map(Text::of),
        headers: headers.collect(),
    };
    Ok(match output {
        Output::Yaml => format!("---\n{}", yaml(&whole)?),
        _ => format!("{}\n", serde_json::to_string(&whole)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_text_where_it_can_be_and_its_fields_are_documented() {
        let header = Header { key: "k".to_owned(), value: Some(Text::of(b"v").owned()) };
        let record = Record {
            topic: "logs",
            partition: 1,
            offset: 7,
            timestamp_ms: 5,
            key: None,
            value: Some(Text::of(b"\xff\x01")),
            headers: vec![header],
        };
        let expected = r#"{"topic":"logs","partition":1,"offset":7,"timestamp_ms":5,"key":null,"value":{"hex":"ff01"},"headers":[{"key":"k","value":"v"}]}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), expected);
        let text = Record { value: Some(Text::of(b"line")), ..record };
        crate::output::documented("tap", &text);
    }
}
