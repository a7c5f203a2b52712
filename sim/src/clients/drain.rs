//! The final drain: everything that is there, from the first offset to the high watermark, and what a poll of any client
//! goes through.

use std::time::Duration;

use tailway_client::consume::Consumed;
use tailway_client::{Consumer, ConsumerOptions, OffsetSpec, StartAt, TopicPartition};
use tailway_history::{Act, Outcome};
use tokio::time::Instant;

use super::{Shared, spelled, told};
use crate::history::val_of;

const DRAINER: &str = "drain";
const POLL: Duration = Duration::from_secs(1);

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
            Err(_) => tokio::time::sleep(POLL).await,
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
