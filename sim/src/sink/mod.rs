//! A simulated OpenSearch that the broker forwards to, and what is promised of forwarding.
//!
//! Judged as it happens: a document is what is durable at its record's place; no record is in two indices of a data stream;
//! no offset of the sink's group is written to the log of positions unless every record below it is in the index or a
//! durable dead letter (`commits`). Judged at the end, after all troubles are over: every record is in the index or a dead
//! letter, not both; positions are at the logs' ends; a dead letter is there once if nothing happened to the broker, which
//! writes it again if it ends between letter and commit.

mod commits;
mod http;
mod index;
mod node;

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tailway_broker::config::{RawSink, RawSinkCompression, SinkType};
use tailway_client::TopicPartition;
use tailway_daemon::units::Span;
use tailway_net::HostPort;
use tailway_runtime::sim::{self, HostId, note};
use tokio::time::{Instant, sleep};

use crate::clients::Shared;
use crate::machines::{address_of, broker_host};
use crate::plan::{Plan, SinkNaming, SinkPlan, SinkTrouble};
use crate::run::TOPIC;
use crate::writer::{LINES_PARTITIONS, LINES_TOPIC};

pub(crate) use commits::CommitWatch;
use index::Place;
use node::Node;

const NAME: &str = "es";
const GROUP: &str = "forward.es";
/// What is forwarded.
const TOPICS: [&str; 2] = [TOPIC, LINES_TOPIC];
/// Names of indices: head, topic, and the tail of a data stream or a date.
const NAME_HEAD: &str = "logs-";
const STREAM_TAIL: &str = "-default";
const HOST: HostId = HostId(70);
const PORT: u16 = 9200;
const REQUEST_TIMEOUT: Span = Span::from_secs(3);
const GAP_MS: RangeInclusive<u64> = 300..=6_000;
const DOWN_MS_MAX: u64 = 8_000;
const STALL_MS: RangeInclusive<u64> = 500..=8_000;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The sink of a run.
pub(crate) struct Sink {
    node: Arc<Node>,
    commits: CommitWatch,
    rng: ChaCha8Rng,
    next_trouble: Instant,
    /// Its node is down until then.
    down_until: Option<Instant>,
    /// How often a record may be a dead letter.
    letters_max: usize,
}

impl Sink {
    /// The sink that a plan wants.
    pub(crate) fn of(plan: &Plan, shared: &Shared) -> Option<Sink> {
        let own = plan.sink.clone()?;
        sim::add_host(HOST);
        tailway_net::sim::add_host(HOST, address_of(HOST), None);
        let (seed, shared) = (plan.seed, shared.clone());
        let node = Arc::new(Node {
            plan: own,
            seed,
            shared,
            state: Mutex::default(),
            begun: Instant::now(),
        });
        let letters_max = if plan.is_calm() { 1 } else { 1 + plan.strikes.len() };
        Some(Sink {
            commits: CommitWatch::new(Arc::clone(&node)),
            node,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x51_4b),
            next_trouble: Instant::now(),
            down_until: None,
            letters_max,
        })
    }

    /// What the broker's configuration says of it.
    pub(crate) fn config(&self) -> RawSink {
        let SinkPlan { naming, gzip, requests, batch_records, .. } = self.node.plan;
        let name = |tail: &str| Some(format!("{NAME_HEAD}{{topic}}{tail}"));
        let (data_stream, index) = match naming {
            SinkNaming::DataStream => (name(STREAM_TAIL), None),
            SinkNaming::Index => (None, name("")),
            SinkNaming::DatedIndex => (None, name("-%Y.%m.%d")),
        };
        RawSink {
            name: NAME.to_owned(),
            kind: Some(SinkType::Opensearch),
            topics: TOPICS.map(str::to_owned).to_vec(),
            urls: vec![format!("http://{}", address())],
            data_stream,
            index,
            compression: Some(if gzip {
                RawSinkCompression::Gzip
            } else {
                RawSinkCompression::None
            }),
            requests: Some(requests),
            batch_records: Some(batch_records),
            request_timeout: Some(REQUEST_TIMEOUT),
            ..RawSink::default()
        }
    }

    /// What looks at the log of positions on the broker's disk.
    pub(crate) fn commits(&self) -> CommitWatch {
        self.commits.clone()
    }

    pub(crate) fn start(&self) {
        sim::revive(HOST);
        sim::spawn_on(HOST, Arc::clone(&self.node).serve(address()));
    }

    /// Makes the trouble that is due.
    pub(crate) fn act(&mut self) {
        let now = Instant::now();
        if self.down_until.is_some_and(|until| until <= now) {
            self.down_until = None;
            self.start();
        }
        if now < self.next_trouble {
            return;
        }
        self.next_trouble = now + Duration::from_millis(self.rng.gen_range(GAP_MS));
        let kinds = [SinkTrouble::Down, SinkTrouble::Network, SinkTrouble::Rollovers];
        let kinds: Vec<SinkTrouble> =
            kinds.into_iter().filter(|kind| self.node.plan.has(*kind)).collect();
        let Some(kind) = kinds.choose(&mut self.rng).copied() else { return };
        note(|| format!("SINK {kind:?}"));
        match kind {
            SinkTrouble::Down if self.down_until.is_none() => {
                sim::kill(HOST);
                let pause = Duration::from_millis(self.rng.gen_range(0..DOWN_MS_MAX));
                self.down_until = Some(now + pause);
            }
            SinkTrouble::Network => self.trouble_network(),
            SinkTrouble::Rollovers => self.node.roll_over(),
            _ => {}
        }
    }

    fn trouble_network(&mut self) {
        let broker = broker_host(0);
        match self.rng.gen_range(0..5) {
            0 => tailway_net::sim::reset(broker, HOST),
            1 => tailway_net::sim::lose_next(broker, HOST),
            2 => tailway_net::sim::stall(HOST, broker, &STALL_MS),
            3 if self.node.may_be_late() => tailway_net::sim::stall(broker, HOST, &STALL_MS),
            _ => tailway_net::sim::lose_next(HOST, broker),
        }
    }

    /// No more troubles, but that what is no document is none.
    pub(crate) fn heal(&mut self) {
        self.node.lock().healed = true;
        if self.down_until.take().is_some() {
            self.start();
        }
    }

    /// Waits until everything has arrived; the error says what has not, or what is there that must not be.
    pub(crate) fn judge(
        &self,
        partitions: i32,
        patience: Duration,
    ) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let (node, commits, letters_max) =
            (Arc::clone(&self.node), self.commits.clone(), self.letters_max);
        async move {
            let deadline = Instant::now() + patience;
            let all = (0..partitions).map(|index| TopicPartition::new(TOPIC, index));
            let lines = (0..LINES_PARTITIONS).map(|index| TopicPartition::new(LINES_TOPIC, index));
            for tp in all.chain(lines) {
                let end = node.shared.oracle().durable_end(&tp);
                while let Err(cause) = has_arrived(&node, &commits, &tp, end) {
                    if Instant::now() >= deadline {
                        return Err(cause);
                    }
                    sleep(LOOK_EVERY).await;
                }
                node.shared.oracle().read_dead_letters();
                for offset in 0..end {
                    is_there_once(&node, &tp, offset, letters_max)?;
                }
                note(|| format!("sink: {tp} has arrived up to offset {end}"));
            }
            Ok(())
        }
    }
}

fn has_arrived(
    node: &Node,
    commits: &CommitWatch,
    tp: &TopicPartition,
    end: i64,
) -> Result<(), String> {
    let committed = commits.highest(&tp.topic, tp.partition);
    if committed >= end {
        return Ok(());
    }
    node.shared.oracle().read_dead_letters();
    let missing = (committed..end).find(|o| !node.is_settled(&tp.topic, tp.partition, *o));
    let missing = missing.map_or_else(
        || "nothing is missing".to_owned(),
        |offset| format!("record {offset} is neither in the index nor a dead letter"),
    );
    Err(format!("of {tp} the sink has {committed} of {end} committed, and {missing}"))
}

fn is_there_once(
    node: &Node,
    tp: &TopicPartition,
    offset: i64,
    letters_max: usize,
) -> Result<(), String> {
    let place = Place { topic: tp.topic.to_string(), partition: tp.partition, offset };
    let (has, letters) = (node.lock().index.has(&place), node.letters_of(&place));
    if has && letters > 0 {
        return Err(format!("{tp} offset {offset} is in the index and a dead letter as well"));
    }
    if !has && !(1..=letters_max).contains(&letters) {
        return Err(format!("{tp} offset {offset} is a dead letter {letters} times"));
    }
    if letters > 0 && !node.rejects(&place) {
        return Err(format!("{tp} offset {offset} is a dead letter, and the sink takes it"));
    }
    Ok(())
}

fn address() -> HostPort {
    HostPort::new(address_of(HOST).to_string(), PORT)
}
