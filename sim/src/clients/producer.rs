//! Producers: an idempotent one that sends in bursts for as long as it lives, and a probe that asks once whether a
//! partition takes records.

use std::ops::RangeInclusive;
use std::time::Duration;

use rand::Rng;
use tailway_client::produce::{Delivery, DeliveryError, ProducerRecord};
use tailway_client::{Producer, ProducerOptions, TopicPartition};
use tailway_history::{Outcome, value};
use tailway_runtime::sim::HostRng;
use tailway_wire::record::Compression;
use tokio::time::{Instant, sleep};

use super::{Shared, spelled, told};
use crate::history::{EventAt, payload};

const DELIVERY_TIMEOUT_S: RangeInclusive<u64> = 4..=20;
const PADDING_BYTES_MAX: usize = 400;
const BURST_MAX: u32 = 12;
const PAUSE_MS_MAX: u64 = 120;
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// Sends until everybody is to be quiet, then waits for the answers.
pub(super) async fn run(shared: Shared, name: String, number: u64) {
    let mut rng = HostRng;
    let options = ProducerOptions {
        compression: if rng.gen_bool(0.5) { Compression::None } else { Compression::Lz4 },
        linger: Duration::from_millis(rng.gen_range(0..20)),
        batch_bytes: rng.gen_range(300..6_000),
        delivery_timeout: Duration::from_secs(rng.gen_range(DELIVERY_TIMEOUT_S)),
        create_topics: false,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(shared.client(&name), options);
    let mut n = 0;
    while !shared.is_quiet() {
        for _ in 0..rng.gen_range(1..=BURST_MAX) {
            let partition =
                TopicPartition::new(&*shared.topic, rng.gen_range(0..shared.partitions));
            let val = value(number, n);
            n += 1;
            let record = ProducerRecord {
                partition: Some(partition.partition),
                value: Some(payload(val, rng.gen_range(0..PADDING_BYTES_MAX))),
                ..ProducerRecord::default()
            };
            let at = shared.history.send(&name, spelled(&partition), val);
            match producer.send(&shared.topic, record).await {
                Ok(delivery) => {
                    drop(tailway_runtime::spawn(wait(shared.clone(), at, val, delivery)));
                }
                // Not taken: the topic could not be looked up.
                Err(_) => shared.history.sent(at, Outcome::Fail, None),
            }
        }
        sleep(Duration::from_millis(rng.gen_range(0..PAUSE_MS_MAX))).await;
    }
    producer.flush().await;
}

async fn wait(
    shared: Shared,
    at: EventAt,
    val: u64,
    delivery: Delivery,
) -> Result<(), DeliveryError> {
    let outcome = delivery.wait().await;
    match &outcome {
        Ok(delivered) => {
            shared.acknowledged(&delivered.partition, delivered.offset, val);
            shared.history.sent(at, Outcome::Ok, told(delivered.offset));
        }
        Err(error) if error.in_doubt => shared.history.sent(at, Outcome::Info, None),
        Err(_) => shared.history.sent(at, Outcome::Fail, None),
    }
    outcome.map(drop)
}

/// Sends one record to each partition, again and again until each has taken one or `patience` is over; then the error says
/// what stood in the way last.
pub(crate) async fn probe(shared: Shared, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let options = ProducerOptions { delivery_timeout: patience, ..ProducerOptions::default() };
    let producer = Producer::new(shared.client("probe"), options);
    let mut n = 0;
    for index in 0..shared.partitions {
        let partition = TopicPartition::new(&*shared.topic, index);
        loop {
            let val = value(1, n);
            n += 1;
            let at = shared.history.send("probe", spelled(&partition), val);
            let value = Some(payload(val, 0));
            let record =
                ProducerRecord { partition: Some(index), value, ..ProducerRecord::default() };
            let cause = match producer.send(&shared.topic, record).await {
                Ok(delivery) => match wait(shared.clone(), at, val, delivery).await {
                    Ok(()) => break,
                    Err(error) => error.to_string(),
                },
                Err(error) => {
                    shared.history.sent(at, Outcome::Fail, None);
                    error.to_string()
                }
            };
            if Instant::now() >= deadline {
                return Err(format!("partition {index} takes no records: {cause}"));
            }
            sleep(PROBE_PAUSE).await;
        }
    }
    Ok(())
}
