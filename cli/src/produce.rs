//! `tailway produce TOPIC`: each line of standard input becomes a record, acknowledged by all in-sync replicas.
//!
//! At most `IN_FLIGHT` records wait for their ack; the first that is refused ends the command, naming why. What had been
//! delivered before is said in any case.

use std::collections::VecDeque;
use std::io::{self, BufRead};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use serde::Serialize;
use tailway_client::produce::{Delivery, ProducerRecord};
use tailway_client::{Client, Producer, ProducerOptions};
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_wire::record::Compression;
use tokio::sync::mpsc;

use crate::args::ProduceArgs;
use crate::output::{Output, complain, count};
use crate::target;

const IN_FLIGHT: usize = 10_000;
/// Lines read ahead.
const LINES: usize = 256;
/// The longest line, so that a file without line ends cannot fill the memory.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What was acknowledged, also of a run that failed.
#[derive(Debug, Serialize)]
struct Produced<'a> {
    topic: &'a str,
    records: u64,
}

pub(crate) async fn run(args: ProduceArgs, output: Output) -> Result<Exit> {
    let Some(compression) = Compression::from_name(&args.compression) else {
        bail!("`{}` is no codec; write none, gzip, snappy, lz4 or zstd", args.compression);
    };
    let client = target::client(&args.target)?;
    // Asked first, so that a typo is an error and not a new topic.
    client.topic(&args.topic).await?;
    let timeout = Duration::from_secs(args.target.request_timeout);
    let mut sent = 0;
    let done = send(client.clone(), &args, compression, timeout, &mut sent).await;
    complain(&format!("{} delivered to {}", count(sent, "record"), args.topic));
    output.whole(&Produced { topic: &args.topic, records: sent }, |_| Vec::new())?;
    client.close().await;
    done.map(|()| Exit::Ok)
}

async fn send(
    client: Client,
    args: &ProduceArgs,
    compression: Compression,
    timeout: Duration,
    delivered: &mut u64,
) -> Result<()> {
    let options = ProducerOptions {
        compression,
        delivery_timeout: timeout * 3,
        create_topics: false,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(client, options);
    let clock = Clock::new();
    let mut lines = lines();
    let mut waiting: VecDeque<Delivery> = VecDeque::new();
    while let Some(line) = lines.recv().await {
        let (key, value) = split(line?, args.key_separator.as_deref())?;
        let timestamp = clock.wall().0;
        let record =
            ProducerRecord { key, value: Some(value), timestamp, ..ProducerRecord::default() };
        waiting.push_back(producer.send(&args.topic, record).await?);
        if waiting.len() >= IN_FLIGHT
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.wait().await?;
            *delivered += 1;
        }
    }
    producer.flush().await;
    for delivery in waiting {
        delivery.wait().await?;
        *delivered += 1;
    }
    Ok(())
}

/// Standard input, line by line, read on a thread of its own: reading may block for ever.
fn lines() -> mpsc::Receiver<Result<Bytes>> {
    let (send, receive) = mpsc::channel(LINES);
    std::thread::spawn(move || {
        let mut input = io::BufReader::new(io::stdin().lock());
        loop {
            let line = match read_line(&mut input) {
                Ok(Some(line)) => Ok(line),
                Ok(None) => return,
                Err(error) => Err(error),
            };
            let last = line.is_err();
            if send.blocking_send(line).is_err() || last {
                return;
            }
        }
    });
    receive
}

/// The next line without its end; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> Result<Option<Bytes>> {
    let mut line = Vec::new();
    let read = io::Read::take(&mut *input, LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .context("cannot read standard input")?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if u64::try_from(read)? == LINE_BYTES_MAX {
        bail!("a line is longer than {} MiB", LINE_BYTES_MAX >> 20);
    }
    Ok(Some(line.into()))
}

fn split(line: Bytes, separator: Option<&str>) -> Result<(Option<Bytes>, Bytes)> {
    let Some(separator) = separator.filter(|separator| !separator.is_empty()) else {
        return Ok((None, line));
    };
    let found = line.windows(separator.len()).position(|window| window == separator.as_bytes());
    let Some(at) = found else {
        let line = String::from_utf8_lossy(&line);
        bail!("no `{separator}` in the line `{}`", line.chars().take(80).collect::<String>());
    };
    Ok((Some(line.slice(..at)), line.slice(at + separator.len()..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_only() {
        let mut input = io::Cursor::new("a\r\n\nlast".as_bytes());
        let mut read = || read_line(&mut input).unwrap();
        assert_eq!(read(), Some(Bytes::from_static(b"a")));
        assert_eq!(read(), Some(Bytes::new()));
        assert_eq!(read(), Some(Bytes::from_static(b"last")));
        assert_eq!(read(), None);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut input = io::BufReader::new(io::repeat(b'x'));
        assert!(read_line(&mut input).unwrap_err().to_string().contains("longer than 16 MiB"));
    }

    #[test]
    fn keys_are_split_off_at_the_first_separator() {
        let line = Bytes::from_static(b"k::v::w");
        let (key, value) = split(line.clone(), Some("::")).unwrap();
        assert_eq!((key.unwrap().as_ref(), value.as_ref()), (&b"k"[..], &b"v::w"[..]));
        assert_eq!(split(line.clone(), None).unwrap(), (None, line.clone()));
        assert!(split(line, Some("=")).unwrap_err().to_string().contains("no `=`"));
    }
}
