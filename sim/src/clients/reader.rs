//! A consumer that reads every partition from the start and goes on, now and then from an earlier place.

use std::time::Duration;

use rand::Rng;
use tailway_client::{Consumer, ConsumerOptions, StartAt, TopicPartition};
use tailway_history::{Act, Outcome};
use tailway_runtime::sim::HostRng;
use tokio::time::sleep;

use super::{Shared, spelled, told};

const POLL: Duration = Duration::from_secs(1);
/// One poll in this many is followed by a step back.
const REWIND_ONE_IN: u32 = 200;

pub(super) async fn run(shared: Shared, name: String) {
    let mut rng = HostRng;
    let options = ConsumerOptions {
        partition_bytes_max: rng.gen_range(1_000..100_000),
        out_of_range: None,
        ..ConsumerOptions::default()
    };
    let mut consumer = Consumer::new(shared.client(&name), options);
    for index in 0..shared.partitions {
        begin(&shared, &name, &mut consumer, TopicPartition::new(&*shared.topic, index), 0).await;
    }
    loop {
        match consumer.poll(POLL).await {
            Ok(polled) => shared.polled(&name, &polled),
            Err(error) => {
                shared.history.violation(format!("{name} cannot read on: {error}"));
                return;
            }
        }
        if rng.gen_ratio(1, REWIND_ONE_IN) {
            let partition =
                TopicPartition::new(&*shared.topic, rng.gen_range(0..shared.partitions));
            let end = consumer.position(&partition).unwrap_or(0);
            let offset = rng.gen_range(0..=end);
            begin(&shared, &name, &mut consumer, partition, offset).await;
        }
    }
}

async fn begin(
    shared: &Shared,
    name: &str,
    consumer: &mut Consumer,
    partition: TopicPartition,
    offset: i64,
) {
    let t0 = shared.history.now();
    let act = Act::Assign { tp: spelled(&partition), off: told(offset), group: None, drain: false };
    // An offset needs no question to a broker, so this does not fail; if it did, the next poll would.
    while consumer.assign(&[(partition.clone(), StartAt::Offset(offset))]).await.is_err() {
        sleep(POLL).await;
    }
    shared.history.add(name, t0, Outcome::Ok, act);
}
