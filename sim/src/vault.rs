//! A topic whose disk rots: its log is struck by what no replica-less log survives (flipped bits, writes that never arrived
//! or landed elsewhere), and what is judged is honesty.
//!
//! Promised of a record that was acknowledged or read: whoever asks for its offset later gets that record or an error, never
//! another record and never a word that there was none. Damage below what the recovery point checkpoint says, or anywhere
//! after a clean stop, quarantines the log, which the broker's status says; other logs go on. Not promised: a record at the
//! very end, above the recovery point, whose bytes rot before a crash, looks like a write that the crash cut, so that a
//! start may take it for that. Such offsets are `doubtful`: they may be gone or have another record from then on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng;
use tailway_client::produce::ProducerRecord;
use tailway_client::{
    Consumer, ConsumerOptions, OffsetSpec, Producer, ProducerOptions, StartAt, TopicPartition,
};
use tailway_history::value;
use tailway_runtime::sim::{HostRng, note};
use tailway_storage::SimDisk;
use tailway_wire::error_code::ErrorCode;
use tokio::time::{Instant, sleep};

use crate::clients::Shared;
use crate::history::{payload, val_of};
use crate::oracle::DATA_DIR;

pub(crate) const VAULT_TOPIC: &str = "vault";
/// Its one log.
pub(crate) const VAULT_DIR: &str = "/data/vault-0";
/// What its values begin with.
const CLIENT: u64 = 90;
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(500);
const PAUSE_MS_MAX: u64 = 100;
const PADDING_MAX: usize = 300;
/// One poll in this many is followed by reading it all again.
const AGAIN_ONE_IN: u32 = 30;

/// Records that somebody may hear of after the start that cut them.
const UNDER_WAY_MAX: i64 = 16;

/// What is known of the log. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vault(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    values: BTreeMap<i64, u64>,
    places: BTreeMap<u64, i64>,
    /// Offsets below may never be denied.
    sealed: i64,
    /// Offsets from `sealed` to here may have been cut by a start.
    doubtful_to: i64,
}

impl Known {
    fn saw(&mut self, offset: i64, val: Option<u64>) -> Result<(), String> {
        let Some(val) = val else {
            return Err(format!("offset {offset} shows what nobody has sent"));
        };
        let doubtful = |offset: i64| (self.sealed..self.doubtful_to).contains(&offset);
        let place = self.places.get(&val).copied().unwrap_or(offset);
        if place != offset && !doubtful(place) {
            return Err(format!("value {val} stands at offset {place} and at {offset}"));
        }
        let known = self.values.get(&offset).copied().unwrap_or(val);
        if known != val && !doubtful(offset) {
            return Err(format!("offset {offset} was {known} and is {val}"));
        }
        if known != val {
            self.places.remove(&known);
        }
        if place != offset {
            self.values.remove(&place);
        }
        self.values.insert(offset, val);
        self.places.insert(val, offset);
        Ok(())
    }
}

impl Vault {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A broker is about to start on this disk.
    pub(crate) fn broker_starts(&self, disk: &SimDisk) {
        if !disk.live_paths().iter().any(|path| path.starts_with(VAULT_DIR)) {
            return;
        }
        let read = |name: &str| disk.live_image(&Path::new(DATA_DIR).join(name));
        let clean = read(tailway_broker::log::checkpoint::CLEAN_SHUTDOWN).is_some();
        let points = read(tailway_broker::log::checkpoint::RECOVERY_POINT);
        let points =
            points.and_then(|bytes| tailway_broker::log::checkpoint::decode_offsets(&bytes).ok());
        let tp = TopicPartition::new(VAULT_TOPIC, 0);
        let point = points.and_then(|points| points.get(&tp).copied()).unwrap_or(0);
        let mut known = self.lock();
        let end = known.values.last_key_value().map_or(0, |(last, _)| last + 1);
        known.sealed = known.sealed.max(point).max(if clean { end } else { 0 });
        known.doubtful_to = known.doubtful_to.max(end + UNDER_WAY_MAX);
        let (sealed, doubtful_to) = (known.sealed, known.doubtful_to);
        drop(known);
        note(|| format!("vault: sealed to {sealed}, doubtful to {doubtful_to}"));
    }

    fn saw(&self, shared: &Shared, what: &str, offset: i64, val: Option<u64>) {
        let seen = self.lock().saw(offset, val);
        if let Err(cause) = seen {
            shared.history.violation(format!("rot: {VAULT_TOPIC}-0, {what}: {cause}"));
        }
    }

    /// The broker was asked when everything below `sealed` was durable, and said that the log ends here.
    fn ends(shared: &Shared, sealed: i64, end: i64) {
        if end < sealed {
            shared.history.violation(format!(
                "rot: {VAULT_TOPIC}-0 is said to end at offset {end}, and everything below {sealed} was known to be durable: it was cut in silence"
            ));
        }
    }
}

/// Sends one record after the other.
pub(crate) async fn fill(shared: Shared, vault: Vault) {
    let mut rng = HostRng;
    let options = ProducerOptions {
        delivery_timeout: DELIVERY_TIMEOUT,
        create_topics: false,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(shared.client("vault"), options);
    let mut n = 0;
    while !shared.is_quiet() {
        let val = value(CLIENT, n);
        n += 1;
        let record = ProducerRecord {
            partition: Some(0),
            value: Some(payload(val, rng.gen_range(0..PADDING_MAX))),
            ..ProducerRecord::default()
        };
        if let Ok(delivery) = producer.send(VAULT_TOPIC, record).await
            && let Ok(delivered) = delivery.wait().await
            && delivered.offset >= 0
        {
            vault.saw(&shared, "acknowledged", delivered.offset, Some(val));
        }
        sleep(Duration::from_millis(rng.gen_range(0..PAUSE_MS_MAX))).await;
    }
}

/// Reads all of it, again and again.
pub(crate) async fn read(shared: Shared, vault: Vault) {
    let mut rng = HostRng;
    while !shared.is_quiet() {
        let mut reader = Reader::start(&shared, &vault).await;
        while !shared.is_quiet() && !rng.gen_ratio(1, AGAIN_ONE_IN) {
            if reader.poll().await.is_err() {
                break;
            }
        }
    }
}

/// Reads from the first offset on.
struct Reader {
    shared: Shared,
    vault: Vault,
    consumer: Consumer,
    tp: TopicPartition,
    /// Of the vault, when it began.
    sealed: i64,
}

impl Reader {
    async fn start(shared: &Shared, vault: &Vault) -> Reader {
        let options = ConsumerOptions { out_of_range: None, ..ConsumerOptions::default() };
        let mut consumer = Consumer::new(shared.client("vault reader"), options);
        let tp = TopicPartition::new(VAULT_TOPIC, 0);
        while consumer.assign(&[(tp.clone(), StartAt::Offset(0))]).await.is_err() {
            sleep(POLL).await;
        }
        let sealed = vault.lock().sealed;
        Reader { shared: shared.clone(), vault: vault.clone(), consumer, tp, sealed }
    }

    /// The error: it is of no use to go on with this consumer.
    async fn poll(&mut self) -> Result<(), String> {
        match self.consumer.poll(POLL).await {
            Ok(polled) => {
                for consumed in polled {
                    Vault::ends(&self.shared, self.sealed, consumed.high_watermark);
                    for record in consumed.records {
                        let val = val_of(record.value.as_ref());
                        self.vault.saw(&self.shared, "read", record.offset, val);
                    }
                }
                Ok(())
            }
            Err(error) => {
                let at = self.position();
                if error.code() == Some(ErrorCode::OFFSET_OUT_OF_RANGE) {
                    Vault::ends(&self.shared, self.sealed, at);
                }
                note(|| format!("vault reader at offset {at}: {error}"));
                sleep(POLL).await;
                Err(error.to_string())
            }
        }
    }

    fn position(&self) -> i64 {
        self.consumer.position(&self.tp).unwrap_or(0)
    }
}

/// At the end: whether the log can be read as a whole, or else what readers get. What comes from the page cache of the
/// broker that wrote it is not checked there but by who reads it, who objects.
pub(crate) async fn inspect(
    shared: Shared,
    vault: Vault,
    patience: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut last = "nothing is in its way".to_owned();
    let client = shared.client("vault reader");
    let mut reader = Reader::start(&shared, &vault).await;
    while Instant::now() < deadline {
        let ends = client.list_offsets(&[(reader.tp.clone(), OffsetSpec::Latest)]).await;
        if let Some(end) = ends.ok().and_then(|ends| ends.first().map(|end| end.offset)) {
            Vault::ends(&shared, reader.sealed, end);
            if reader.position() >= end {
                return Ok(());
            }
        }
        let polled = reader.poll().await;
        if let Some(trouble) = reader.consumer.trouble() {
            last = trouble.to_string();
        }
        if let Err(error) = polled {
            if error.contains("fails its CRC") {
                return Ok(());
            }
            last = error;
            reader = Reader::start(&shared, &vault).await;
        }
    }
    Err(last)
}
