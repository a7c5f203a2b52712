//! A sink and one partition's way into it, whatever it is.

use std::sync::Arc;

use tailway_metadata::TopicId;

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

/// A sink as all partitions share it.
pub(crate) struct Sink {
    pub(crate) config: SinkConfig,
    pub(crate) limiter: Limiter,
    target: Target,
}

enum Target {
    OpenSearch(Arc<OpenSearch>),
    Stdout(Arc<Stdout>),
}

/// One partition's way into a sink.
pub(crate) enum Lane {
    OpenSearch(opensearch::Lane),
    Stdout(stdout::Lane),
}

impl Sink {
    pub(crate) fn new(config: SinkConfig) -> Self {
        let target = match &config.target {
            SinkTarget::OpenSearch(target) => {
                Target::OpenSearch(Arc::new(OpenSearch::new(target, &config.limits)))
            }
            SinkTarget::Stdout => Target::Stdout(Arc::default()),
        };
        let limiter = Limiter::new(config.limits.requests);
        Self { config, limiter, target }
    }

    pub(crate) fn lane(&self, place: Place) -> Lane {
        match &self.target {
            Target::OpenSearch(sink) => {
                Lane::OpenSearch(opensearch::Lane::new(Arc::clone(sink), place))
            }
            Target::Stdout(sink) => Lane::Stdout(stdout::Lane::new(Arc::clone(sink), place)),
        }
    }

    pub(crate) fn opensearch(&self) -> Option<&OpenSearch> {
        match &self.target {
            Target::OpenSearch(sink) => Some(sink),
            Target::Stdout(_) => None,
        }
    }

    /// Requests of one partition at once: one where the order can be kept.
    pub(crate) fn in_flight_max(&self) -> usize {
        match &self.target {
            Target::OpenSearch(_) => self.config.limits.requests,
            Target::Stdout(_) => 1,
        }
    }
}

impl Lane {
    /// Makes sure that the sink is ready for this partition, before anything is read.
    pub(crate) async fn prepare(&self) -> Result<(), Failure> {
        match self {
            Self::OpenSearch(lane) => lane.prepare().await,
            Self::Stdout(_) => Ok(()),
        }
    }

    /// Sends records: one item for each, in order.
    pub(crate) async fn write(&self, records: Vec<Arc<Record>>) -> Result<Vec<Item>, Failure> {
        match self {
            Self::OpenSearch(lane) => lane.write(records).await,
            Self::Stdout(lane) => lane.write(records).await,
        }
    }

    /// Whether `look_up` can tell what the sink has.
    pub(crate) fn looks_up(&self) -> bool {
        match self {
            Self::OpenSearch(lane) => lane.looks_up(),
            Self::Stdout(_) => false,
        }
    }

    /// For each record whether the sink has it.
    pub(crate) async fn look_up(&self, records: Vec<Arc<Record>>) -> Result<Vec<bool>, Failure> {
        match self {
            Self::OpenSearch(lane) => lane.look_up(&records).await,
            Self::Stdout(_) => Ok(vec![false; records.len()]),
        }
    }

    /// What is kept beside the committed offset, and given back by `remember` to the run that goes on from there.
    pub(crate) fn memory(&self) -> String {
        match self {
            Self::OpenSearch(lane) => lane.memory(),
            Self::Stdout(_) => String::new(),
        }
    }

    pub(crate) fn remember(&self, memory: &str) {
        match self {
            Self::OpenSearch(lane) => lane.remember(memory),
            Self::Stdout(_) => {}
        }
    }

    /// Nothing that was sent is open.
    pub(crate) fn settled(&self) {
        match self {
            Self::OpenSearch(lane) => lane.settled(),
            Self::Stdout(_) => {}
        }
    }

    /// The `_id` that a record has there, for its dead letter.
    pub(crate) fn id_of(&self, record: &Record, place: &Place) -> Option<String> {
        match self {
            Self::OpenSearch(_) => {
                Some(opensearch::document::id_of(record, place.topic_id, place.partition))
            }
            Self::Stdout(_) => None,
        }
    }
}
