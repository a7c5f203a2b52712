//! `tailway tap TOPIC`: the records of a topic, one a line, from where you say until you stop it.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use tailway_client::consume::Consumed;
use tailway_client::{Client, Consumer, ConsumerOptions, StartAt, TopicPartition};
use tailway_daemon::exit::Exit;

use crate::args::{From, TapArgs};
use crate::output::complain;
use crate::target;

/// How long one wait for records lasts before troubles are looked at.
const POLL: Duration = Duration::from_secs(1);

pub(crate) async fn run(args: TapArgs) -> Result<Exit> {
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
        print(&consumed, args.meta, &mut left)?;
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
    let topic = client.topic(&args.topic).await?;
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

fn print(consumed: &[Consumed], meta: bool, left: &mut u64) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for part in consumed {
        for record in &part.records {
            if *left == 0 {
                return out.flush();
            }
            *left -= 1;
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
    out.flush()
}
