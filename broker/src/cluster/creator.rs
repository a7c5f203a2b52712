//! Creating topics on behalf of whoever asked: the coordinator decides, then this broker waits until it can serve them.
//!
//! "Ready" means that the image which has the topic is published, and that comes after its partitions are open: the
//! answer of the same request may name the leader.

use std::collections::BTreeMap;
use std::time::Duration;

use std::sync::Arc;
use tailway_daemon::Deadline;
use tailway_metadata::topic;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::create_topics_request::CreatableTopic;
use tailway_wire::messages::{CreateTopicsRequest, StrBytes, TopicName};
use tokio::sync::Semaphore;

use super::controller::Controller;
use super::view::ClusterView;

/// How long a request that merely asked for a topic may be held up by its creation.
const AUTO_CREATE_TIMEOUT: Duration = Duration::from_secs(5);
/// Creations on their way to the coordinator at once; a stampede of clients waits behind them.
const IN_FLIGHT_MAX: usize = 4;
/// Kafka's number for "the cluster's default".
const DEFAULT: i32 = -1;

/// Creates topics. Clones share it.
#[derive(Clone)]
pub struct TopicCreator {
    view: ClusterView,
    controller: Controller,
    auto_create: bool,
    in_flight: Arc<Semaphore>,
}

impl TopicCreator {
    pub fn new(view: ClusterView, controller: Controller, auto_create: bool) -> Self {
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Self { view, controller, auto_create, in_flight }
    }

    /// Whether asking for a topic may create it here.
    pub fn auto_create(&self) -> bool {
        self.auto_create
    }

    /// Makes sure that the topics are there and served. What could not be created comes back with the code to answer.
    pub async fn ensure(&self, names: &[&str]) -> BTreeMap<String, ErrorCode> {
        let deadline = Deadline::after(AUTO_CREATE_TIMEOUT);
        let created = deadline.run(self.create_missing(names)).await;
        let mut refused = created.unwrap_or_default();
        let wanted: Vec<&str> =
            names.iter().copied().filter(|name| !refused.contains_key(*name)).collect();
        self.wait_for(&wanted, deadline).await;
        let image = self.view.image();
        for name in wanted.iter().filter(|name| image.topic(name).is_none()) {
            // Kafka's answer while a topic is on its way: clients ask again.
            refused.insert((*name).to_owned(), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        }
        refused
    }

    /// Waits until the image has all of these topics, but not beyond the deadline.
    pub async fn wait_for(&self, names: &[&str], deadline: Deadline) {
        let mut images = self.view.follow();
        let all_there =
            images.wait_for(|image| names.iter().all(|name| image.topic(name).is_some()));
        if matches!(deadline.run(all_there).await, Some(Err(_))) {
            tracing::debug!("the broker stops while topics are created");
        }
    }

    async fn create_missing(&self, names: &[&str]) -> BTreeMap<String, ErrorCode> {
        // The semaphore is never closed.
        let _place = self.in_flight.acquire().await;
        let image = self.view.image();
        let mut refused = BTreeMap::new();
        let mut topics = Vec::new();
        for name in names.iter().filter(|name| image.topic(name).is_none()) {
            if topic::validate_name(name).is_err() {
                refused.insert((*name).to_owned(), ErrorCode::INVALID_TOPIC_EXCEPTION);
                continue;
            }
            topics.push(
                CreatableTopic::default()
                    .with_name(TopicName(StrBytes::from_string((*name).to_owned())))
                    .with_num_partitions(DEFAULT)
                    .with_replication_factor(-1),
            );
        }
        if topics.is_empty() {
            return refused;
        }
        let timeout_ms = i32::try_from(AUTO_CREATE_TIMEOUT.as_millis()).unwrap_or(i32::MAX);
        let request =
            CreateTopicsRequest::default().with_topics(topics).with_timeout_ms(timeout_ms);
        match self.controller.create_topics(&request, AUTO_CREATE_TIMEOUT).await {
            Ok(answer) => {
                for topic in answer.topics {
                    let code = ErrorCode::from(topic.error_code);
                    if code == ErrorCode::NONE || code == ErrorCode::TOPIC_ALREADY_EXISTS {
                        continue;
                    }
                    tracing::info!(
                        topic = topic.name.as_str(),
                        error = code.name(),
                        reason = topic.error_message.as_deref().unwrap_or(""),
                        "a topic that a client asked for was not created"
                    );
                    refused.insert(topic.name.to_string(), code);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "topics that a client asked for were not created");
                for topic in request.topics {
                    let code = ErrorCode::UNKNOWN_TOPIC_OR_PARTITION;
                    refused.insert(topic.name.to_string(), code);
                }
            }
        }
        refused
    }
}
