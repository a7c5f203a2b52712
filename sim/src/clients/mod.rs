//! Simulated client processes: each on a host of its own, so that it can be cut off and killed, each writing down what it
//! saw. They are made of `tailway_client`, as the agent and the command line are.

mod drain;
mod member;
mod producer;
mod reader;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_client::{Client, ClientConfig, TopicPartition};
use tailway_net::HostPort;
use tailway_runtime::sim::{self, HostId, note};

use crate::history::History;
use crate::machines::address_of;
use crate::oracle::{Durable, Oracle};

pub(crate) use drain::{drain, drain_lines};
pub(crate) use producer::probe;

/// Of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    Produce,
    /// Reads all partitions from the start.
    Read,
    /// Reads as a member of the one group.
    Join,
}

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) history: History,
    pub(crate) brokers: Vec<HostPort>,
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    /// Set when producers are to send no more.
    pub(crate) quiet: Arc<AtomicBool>,
    pub(crate) oracle: Arc<Mutex<Oracle>>,
}

impl Shared {
    pub(crate) fn client(&self, name: &str) -> Client {
        let config = ClientConfig::new(self.brokers.clone(), name.to_owned());
        Client::new(config.with_request_timeout(REQUEST_TIMEOUT))
    }

    /// A record was acknowledged: it must be durable.
    fn acknowledged(&self, partition: &TopicPartition, offset: i64, val: u64) {
        // An offset that was not told is looked for by the final drain.
        if offset >= 0 {
            self.must_be_durable("acknowledged", partition, offset, Some(val));
        }
    }

    /// A record was read: what consumers see is durable.
    fn given(&self, partition: &TopicPartition, offset: i64, val: Option<u64>) {
        self.must_be_durable("given to a consumer", partition, offset, val);
    }

    /// An offset commit was acknowledged: it must be durable.
    fn committed(&self, group: &str, tp: &TopicPartition, offset: i64) {
        let mut oracle = self.oracle();
        if !oracle.commit_is_durable(group, tp, offset) {
            self.history.violation(format!(
                "I5: {tp}: offset {offset} of group {group} was committed, but no durable record has it"
            ));
        }
    }

    fn must_be_durable(&self, what: &str, tp: &TopicPartition, offset: i64, val: Option<u64>) {
        let mut oracle = self.oracle();
        let durable = oracle.durable_value(tp, offset);
        for found in oracle.take_findings() {
            self.history.violation(found);
        }
        if durable != Some(Durable(val)) || val.is_none() {
            self.history.violation(format!(
                "I1: {tp} offset {offset}: {val:?} was {what}, but durable there is {durable:?}"
            ));
        }
    }

    /// Where a group may not start below, in a partition of the topic.
    fn commit_floors(&self, group: &str) -> BTreeMap<TopicPartition, i64> {
        let oracle = self.oracle();
        let partitions = (0..self.partitions).map(|index| TopicPartition::new(&*self.topic, index));
        partitions.map(|tp| (tp.clone(), oracle.commit_floor(group, &tp))).collect()
    }

    pub(crate) fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.oracle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }
}

/// `topic/partition`, as histories spell it.
pub(crate) fn spelled(partition: &TopicPartition) -> String {
    format!("{}/{}", partition.topic, partition.partition)
}

/// An offset as histories have it; `None` for the protocol's "not told".
pub(crate) fn told(offset: i64) -> Option<u64> {
    u64::try_from(offset).ok()
}

/// A client process, which can be killed and started again as another.
pub(crate) struct ClientProcess {
    pub(crate) host: HostId,
    job: Job,
    lives: u64,
    name: String,
    shared: Shared,
}

impl ClientProcess {
    pub(crate) fn new(number: u32, job: Job, shared: Shared) -> ClientProcess {
        let host = HostId(100 + number);
        sim::add_host(host);
        tailway_net::sim::add_host(host, address_of(host), None);
        ClientProcess { host, job, lives: 0, name: String::new(), shared }
    }

    pub(crate) fn start(&mut self) {
        self.lives += 1;
        // Values of different lives differ, as clients'.
        let number = u64::from(self.host.0) * 1_000 + self.lives;
        let name = format!("{:?} {}.{}", self.job, self.host.0, self.lives).to_lowercase();
        note(|| format!("start {name}"));
        self.name.clone_from(&name);
        let shared = self.shared.clone();
        match self.job {
            Job::Produce => sim::spawn_on(self.host, producer::run(shared, name, number)),
            Job::Read => sim::spawn_on(self.host, reader::run(shared, name)),
            Job::Join => sim::spawn_on(self.host, member::run(shared, name)),
        }
    }

    pub(crate) fn kill(&self) {
        note(|| format!("kill {}", self.name));
        sim::kill(self.host);
        self.shared.history.killed(&self.name);
        sim::revive(self.host);
    }
}
