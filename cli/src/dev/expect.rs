//! `--expect N`: counts the records of the dev topics from offset 0, through a consumer like anybody's.
//!
//! N records are not enough to say "exactly N": they must also be all. So at N it waits until the agent has nothing left
//! to send (or a little while), and fails if more came.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tailway_client::{Client, ClientError, Consumer, ConsumerOptions, StartAt, TopicPartition};
use tailway_daemon::Deadline;

/// How long one wait for records lasts.
const POLL: Duration = Duration::from_millis(200);
/// A topic that does not exist yet is asked for this often.
const RETRY: Duration = Duration::from_millis(50);
/// Quiet for this long, with nothing left to send, means that no more come.
const SETTLE: Duration = Duration::from_millis(300);
/// Quiet for this long is enough even if the agent still has something to send.
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// How the count ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Counted {
    Exactly,
    /// More than were expected are there.
    More(u64),
    /// At the timeout; and what was in the way, if that is known.
    Less(u64, Option<String>),
}

impl Counted {
    pub(crate) fn is_as_expected(&self) -> bool {
        *self == Counted::Exactly
    }

    /// The result in words.
    pub(crate) fn text(&self, expected: u64, timeout: Duration) -> String {
        match self {
            Counted::Exactly => format!("{expected} records, as expected"),
            Counted::More(found) => format!("{found} records are there, expected {expected}"),
            Counted::Less(found, trouble) => {
                let seconds = timeout.as_secs();
                let trouble = trouble.as_ref().map_or_else(String::new, |t| format!(": {t}"));
                format!("{found} records after {seconds} s, expected {expected}{trouble}")
            }
        }
    }
}

/// Counts until the outcome is known. `nothing_left` says whether the agent has sent all it has.
pub(crate) async fn count(
    client: Client,
    topic: &str,
    expected: u64,
    timeout: Duration,
    nothing_left: impl Fn() -> bool,
) -> Result<Counted> {
    let deadline = Deadline::after(timeout);
    let mut counter = Counter { client, consumer: None, found: 0, trouble: None };
    let mut quiet_since = tokio::time::Instant::now();
    loop {
        let news = match deadline.run(counter.poll(topic)).await {
            Some(news) => news?,
            None => false,
        };
        let now = tokio::time::Instant::now();
        if news {
            quiet_since = now;
        }
        let quiet = now.saturating_duration_since(quiet_since);
        let over = deadline.remaining().is_zero();
        if counter.found > expected {
            return Ok(Counted::More(counter.found));
        }
        if counter.found == expected {
            let settled = quiet >= SETTLE && counter.is_at_end() && nothing_left();
            if settled || quiet >= SETTLE_MAX || over {
                return Ok(Counted::Exactly);
            }
        } else if over {
            return Ok(Counted::Less(counter.found, counter.trouble));
        }
    }
}

struct Counter {
    client: Client,
    consumer: Option<Consumer>,
    found: u64,
    trouble: Option<String>,
}

impl Counter {
    /// Whether more records were found. Safe to cancel.
    async fn poll(&mut self, topic: &str) -> Result<bool> {
        let consumer = match &mut self.consumer {
            Some(consumer) => consumer,
            None => match assigned(&self.client, topic).await {
                Ok(consumer) => self.consumer.insert(consumer),
                // The topic is created when its first record comes.
                Err(error) if error.is_retriable() => {
                    self.trouble = Some(error.to_string());
                    tokio::time::sleep(RETRY).await;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            },
        };
        let before = self.found;
        for consumed in consumer.poll(POLL).await? {
            self.found += u64::try_from(consumed.records.len())?;
        }
        self.trouble = consumer.trouble().map(ToString::to_string);
        Ok(self.found > before)
    }

    fn is_at_end(&self) -> bool {
        self.consumer.as_ref().is_none_or(|consumer| consumer.lag() == Some(0))
    }
}

async fn assigned(client: &Client, topic: &str) -> Result<Consumer, ClientError> {
    client.invalidate(topic);
    let info = client.topic(topic).await?;
    let partition = |index: &i32| TopicPartition::new(Arc::clone(&info.name), *index);
    let partitions: Vec<_> =
        info.partitions.keys().map(|index| (partition(index), StartAt::Offset(0))).collect();
    let mut consumer = Consumer::new(client.clone(), ConsumerOptions::default());
    consumer.assign(&partitions).await?;
    Ok(consumer)
}
