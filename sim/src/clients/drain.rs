//! The final drain: everything that is there, from the first offset to the high watermark, and what a poll of any client
//! goes through.

use std::time::Duration;

use tailway_client::consume::Consumed;
use tailway_client::{Consumer, ConsumerOptions, OffsetSpec, StartAt, TopicPartition};
use tailway_history::{Act, Outcome};
use tokio::time::{Instant, sleep};

use super::{Shared, spelled, told};
use crate::history::val_of;
use crate::writer::{LINES_TOPIC, line_of};

const DRAINER: &str = "drain";
const POLL: Duration = Duration::from_secs(1);
/// Polls after the last line that is due, for what should not come.
const LATE_POLLS: usize = 3;

impl Shared {
    /// Writes down what a poll gave.
    pub(super) fn polled(&self, name: &str, polled: &[Consumed]) {
        for consumed in polled {
            for record in &consumed.records {
                let val = val_of(record.value.as_ref());
                self.given(&consumed.partition, record.offset, val);
                let act = Act::Poll {
                    tp: spelled(&consumed.partition),
                    off: told(record.offset).unwrap_or_default(),
                    val,
                    epoch: None,
                    hw: told(consumed.high_watermark),
                };
                self.history.add(name, self.history.now(), Outcome::Ok, act);
            }
        }
    }
}

/// Reads all partitions to their ends within `patience`.
pub(crate) async fn drain(shared: Shared, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let client = shared.client(DRAINER);
    let partitions: Vec<TopicPartition> =
        (0..shared.partitions).map(|index| TopicPartition::new(&*shared.topic, index)).collect();
    let ask: Vec<_> =
        partitions.iter().map(|partition| (partition.clone(), OffsetSpec::Latest)).collect();
    let ends = loop {
        match client.list_offsets(&ask).await {
            Ok(ends) => break ends,
            Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
            Err(_) => sleep(POLL).await,
        }
    };
    let mut consumer = Consumer::new(client, ConsumerOptions::default());
    for partition in &partitions {
        let act = Act::Assign { tp: spelled(partition), off: Some(0), group: None, drain: true };
        consumer
            .assign(&[(partition.clone(), StartAt::Offset(0))])
            .await
            .map_err(|error| error.to_string())?;
        shared.history.add(DRAINER, shared.history.now(), Outcome::Ok, act);
    }
    let behind = |consumer: &Consumer| {
        ends.iter().any(|end| consumer.position(&end.partition).unwrap_or(0) < end.offset)
    };
    while behind(&consumer) {
        if Instant::now() >= deadline {
            let trouble =
                consumer.trouble().map_or("nothing in its way".into(), ToString::to_string);
            return Err(format!("the drain does not come to its end: {trouble}"));
        }
        let polled = consumer.poll(POLL).await.map_err(|error| error.to_string())?;
        shared.polled(DRAINER, &polled);
    }
    for partition in &partitions {
        let off = told(consumer.position(partition).unwrap_or(0)).unwrap_or_default();
        let act = Act::Drain { tp: spelled(partition), off };
        shared.history.add(DRAINER, shared.history.now(), Outcome::Ok, act);
    }
    Ok(())
}

/// Reads the agents' topic from its start until `count` lines and a while more have come; each is a document.
pub(crate) async fn drain_lines(
    shared: Shared,
    count: usize,
    patience: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut consumer = Consumer::new(shared.client(DRAINER), ConsumerOptions::default());
    while let Err(error) = consumer.assign_topic(LINES_TOPIC, StartAt::Earliest).await {
        if Instant::now() >= deadline {
            return Err(error.to_string());
        }
        sleep(POLL).await;
    }
    let (mut seen, mut late) = (0, 0);
    while late < LATE_POLLS {
        if Instant::now() >= deadline {
            return Err(format!("of {count} lines {seen} have come"));
        }
        late += usize::from(seen >= count);
        for consumed in consumer.poll(POLL).await.map_err(|error| error.to_string())? {
            for record in &consumed.records {
                let Some((file, val)) = line_of(record.value.as_ref()) else {
                    return Err(format!("offset {} of the lines is none", record.offset));
                };
                seen += 1;
                let act = Act::Doc { file, val };
                shared.history.add(DRAINER, shared.history.now(), Outcome::Ok, act);
            }
        }
    }
    Ok(())
}
