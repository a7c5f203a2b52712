//! A sink and one partition's way into it, whatever it is.

use std::sync::Arc;

use tailway_metadata::TopicId;

use super::kafka::{self, Kafka};
use super::limiter::Limiter;
use super::opensearch::{self, OpenSearch};
use super::record::Record;
use super::stdout::{self, Stdout};
use crate::config::{SinkConfig, SinkTarget};
use crate::machine::forward::{Failure, Item};

/// What a lane forwards: the topic by the name and id that its events belong to.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) sink: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) topic_id: TopicId,
    pub(crate) partition: i32,
}

/// What else a lane may have to know of where its records are.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) cluster: Arc<str>,
    /// Of the topic.
    pub(crate) partitions: i32,
    /// They are dead letters that are delivered after all.
    pub(crate) is_replay: bool,
}

/// A sink as all partitions share it.
pub(crate) struct Sink {
    pub(crate) config: SinkConfig,
    pub(crate) limiter: Limiter,
    target: Target,
}

enum Target {
    OpenSearch(Arc<OpenSearch>),
    Kafka(Arc<Kafka>),
    Stdout(Arc<Stdout>),
}

/// One partition's way into a sink.
pub(crate) enum Lane {
    OpenSearch(opensearch::Lane),
    Kafka(kafka::Lane),
    Stdout(stdout::Lane),
}

impl Sink {
    pub(crate) fn new(config: SinkConfig) -> Self {
        let target = match &config.target {
            SinkTarget::OpenSearch(target) => {
                Target::OpenSearch(Arc::new(OpenSearch::new(target, &config.limits)))
            }
            SinkTarget::Kafka(target) => {
                Target::Kafka(Arc::new(Kafka::new(target, &config.limits)))
            }
            SinkTarget::Stdout => Target::Stdout(Arc::default()),
        };
        let limiter = Limiter::new(config.limits.requests);
        Self { config, limiter, target }
    }

    pub(crate) fn lane(&self, place: Place, home: Home) -> Lane {
        match &self.target {
            Target::OpenSearch(sink) => {
                Lane::OpenSearch(opensearch::Lane::new(Arc::clone(sink), place))
            }
            Target::Kafka(sink) => Lane::Kafka(kafka::Lane::new(Arc::clone(sink), place, home)),
            Target::Stdout(sink) => Lane::Stdout(stdout::Lane::new(Arc::clone(sink), place)),
        }
    }

    pub(crate) fn opensearch(&self) -> Option<&OpenSearch> {
        match &self.target {
            Target::OpenSearch(sink) => Some(sink),
            Target::Kafka(_) | Target::Stdout(_) => None,
        }
    }

    /// What it says that it is. Writes nothing.
    pub(crate) async fn what_it_is(&self) -> Result<String, Failure> {
        match &self.target {
            Target::OpenSearch(sink) => sink.what_it_is().await,
            Target::Kafka(sink) => sink.what_it_is().await,
            Target::Stdout(_) => Ok("standard output of the broker".to_owned()),
        }
    }

    /// Requests of one partition at once: one where the order can be kept.
    pub(crate) fn in_flight_max(&self) -> usize {
        match &self.target {
            Target::OpenSearch(_) => self.config.limits.requests,
            Target::Kafka(_) | Target::Stdout(_) => 1,
        }
    }
}

impl Lane {
    /// Makes sure that the sink is ready for this partition, before anything is read.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        match self {
            Self::OpenSearch(lane) => lane.prepare().await,
            Self::Kafka(_) | Self::Stdout(_) => Ok(()),
        }
    }

    /// Whether records go one request after the other, each planned before it is sent.
    pub(crate) fn is_ordered(&self) -> bool {
        matches!(self, Self::Kafka(_))
    }

    /// Of what an earlier run may have sent, where all is known to be below `end`.
    pub(crate) fn doubtful_below(&self, end: i64) -> i64 {
        match self {
            Self::Kafka(lane) => lane.doubtful_below(),
            Self::OpenSearch(_) | Self::Stdout(_) => end,
        }
    }

    /// Decides what is sent next. `true`: the memory has to be durable before.
    pub(crate) async fn plan(&self, records: &[Arc<Record>]) -> Result<bool, Failure> {
        match self {
            Self::Kafka(lane) => lane.plan(records).await,
            Self::OpenSearch(_) | Self::Stdout(_) => Ok(false),
        }
    }

    /// The memory is durable.
    pub(crate) fn planned(&self) {
        if let Self::Kafka(lane) = self {
            lane.planned();
        }
    }

    /// Sends records: one item for each, in order.
    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Result<Vec<Item>, Failure> {
        match self {
            Self::OpenSearch(lane) => lane.write(records).await,
            Self::Kafka(lane) => lane.write(records).await,
            Self::Stdout(lane) => lane.write(records).await,
        }
    }

    /// Whether `look_up` can tell what the sink has.
    pub(crate) fn looks_up(&self) -> bool {
        match self {
            Self::OpenSearch(lane) => lane.looks_up(),
            Self::Kafka(_) => true,
            Self::Stdout(_) => false,
        }
    }

    /// For each record whether the sink has it.
    pub(crate) async fn look_up(&self, records: Vec<Arc<Record>>) -> Result<Vec<bool>, Failure> {
        match self {
            Self::OpenSearch(lane) => lane.look_up(&records).await,
            Self::Kafka(lane) => lane.look_up(&records).await,
            Self::Stdout(_) => Ok(vec![false; records.len()]),
        }
    }

    /// What is kept beside the committed offset, and given back by `remember` to the run that goes on from there.
    pub(crate) fn memory(&self) -> String {
        match self {
            Self::OpenSearch(lane) => lane.memory(),
            Self::Kafka(lane) => lane.memory(),
            Self::Stdout(_) => String::new(),
        }
    }

    pub(crate) fn remember(&self, memory: &str) {
        match self {
            Self::OpenSearch(lane) => lane.remember(memory),
            Self::Kafka(lane) => lane.remember(memory),
            Self::Stdout(_) => {}
        }
    }

    /// Nothing that was sent is open.
    pub(crate) fn settled(&self) {
        match self {
            Self::OpenSearch(lane) => lane.settled(),
            Self::Kafka(_) | Self::Stdout(_) => {}
        }
    }

    /// The `_id` that a record has there, for its dead letter.
    pub(crate) fn id_of(&self, record: &Record, place: &Place) -> Option<String> {
        match self {
            Self::OpenSearch(_) => {
                Some(opensearch::document::id_of(record, place.topic_id, place.partition))
            }
            Self::Kafka(_) | Self::Stdout(_) => None,
        }
    }
}
