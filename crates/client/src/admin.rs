//! Managing topics: list, describe, create, delete, configurations.
//!
//! Requests that change something go to the controller where the cluster names one. Answers come
//! per topic; an error about one topic does not hide what happened to the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailway_wire::api::ApiKey;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use tailway_wire::messages::delete_topics_request::DeleteTopicState;
use tailway_wire::messages::describe_configs_request::DescribeConfigsResource;
use tailway_wire::messages::describe_configs_response::DescribeConfigsResourceResult;
use tailway_wire::messages::{
    CreateTopicsRequest, CreateTopicsResponse, Decodable, DeleteTopicsRequest,
    DeleteTopicsResponse, DescribeConfigsRequest, DescribeConfigsResponse, Encodable, StrBytes,
    TopicName,
};

use crate::client::{Client, Lane, ListedOffset, OffsetSpec, Retries};
use crate::connection::Connection;
use crate::error::ClientError;
use crate::metadata::{ClusterMetadata, TopicInfo, Wanted};
use tailway_metadata::ids::TopicPartition;

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    pub name: String,
    /// `None`: the cluster's default.
    pub partitions: Option<i32>,
    /// `None`: the cluster's default.
    pub replication_factor: Option<i16>,
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            partitions: None,
            replication_factor: None,
            configs: BTreeMap::new(),
        }
    }
}

/// A topic that was created; counts are -1 where the broker is too old to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedTopic {
    pub name: String,
    pub partitions: i32,
    pub replication_factor: i16,
}

/// Where the value of a configuration key comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    Topic,
    DynamicBroker,
    DynamicCluster,
    StaticBroker,
    Default,
    Other(i8),
}

impl From<i8> for ConfigSource {
    fn from(source: i8) -> Self {
        match source {
            1 => Self::Topic,
            2 => Self::DynamicBroker,
            3 => Self::DynamicCluster,
            4 => Self::StaticBroker,
            5 => Self::Default,
            other => Self::Other(other),
        }
    }
}

impl std::fmt::Display for ConfigSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Topic => f.write_str("topic"),
            Self::DynamicBroker => f.write_str("broker"),
            Self::DynamicCluster => f.write_str("cluster"),
            Self::StaticBroker => f.write_str("broker file"),
            Self::Default => f.write_str("default"),
            Self::Other(code) => write!(f, "source {code}"),
        }
    }
}

/// One key of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigEntry {
    pub name: String,
    /// `None` where it is a secret.
    pub value: Option<String>,
    pub source: ConfigSource,
    pub read_only: bool,
    pub sensitive: bool,
    pub documentation: Option<String>,
}

/// What has a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigResource {
    Topic(String),
    Broker(i32),
}

/// Manages a cluster through a [`Client`].
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

impl Admin {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Brokers and all topics.
    pub async fn describe_cluster(&self) -> Result<Arc<ClusterMetadata>, ClientError> {
        self.client.describe_cluster().await
    }

    /// All topics, by name.
    pub async fn list_topics(&self) -> Result<Vec<Arc<TopicInfo>>, ClientError> {
        Ok(self.describe_cluster().await?.topics.values().cloned().collect())
    }

    /// One topic as of now, with brokers at hand in [`Client::known`].
    pub async fn describe_topic(&self, name: &str) -> Result<Arc<TopicInfo>, ClientError> {
        self.client.invalidate(name);
        self.client.topic(name).await
    }

    /// Creates topics; one result for each, in order.
    pub async fn create_topics(
        &self,
        topics: &[NewTopic],
        validate_only: bool,
    ) -> Result<Vec<Result<CreatedTopic, ClientError>>, ClientError> {
        let timeout_ms = self.timeout_ms();
        let (connection, answer): (_, CreateTopicsResponse) = self
            .ask_controller(
                ApiKey::CreateTopics,
                |_| create_topics_request(topics, timeout_ms, validate_only),
                |answer: &CreateTopicsResponse| {
                    answer.topics.iter().map(|topic| topic.error_code).collect()
                },
            )
            .await?;
        let mut by_name: BTreeMap<String, _> =
            answer.topics.into_iter().map(|topic| (topic.name.to_string(), topic)).collect();
        let result = |topic: &NewTopic| {
            let Some(created) = by_name.remove(&topic.name) else {
                let detail = format!("`{}` is not in it", topic.name);
                return Err(connection.nonsense(ApiKey::CreateTopics, detail));
            };
            let code = ErrorCode::from(created.error_code);
            if code.is_error() {
                let message = created.error_message;
                return Err(connection.refused(ApiKey::CreateTopics, &topic.name, code, message));
            }
            self.client.invalidate(&topic.name);
            Ok(CreatedTopic {
                name: topic.name.clone(),
                partitions: created.num_partitions,
                replication_factor: created.replication_factor,
            })
        };
        Ok(topics.iter().map(result).collect())
    }

    /// Creates one topic.
    pub async fn create_topic(&self, topic: &NewTopic) -> Result<CreatedTopic, ClientError> {
        let mut results = self.create_topics(std::slice::from_ref(topic), false).await?;
        results.pop().unwrap_or_else(|| Err(ClientError::Usage("nothing to create".into())))
    }

    /// Deletes topics; one result for each, in order.
    pub async fn delete_topics(
        &self,
        names: &[String],
    ) -> Result<Vec<Result<(), ClientError>>, ClientError> {
        let timeout_ms = self.timeout_ms();
        let (connection, answer): (_, DeleteTopicsResponse) = self
            .ask_controller(
                ApiKey::DeleteTopics,
                |version| delete_topics_request(names, timeout_ms, version),
                |answer: &DeleteTopicsResponse| {
                    answer.responses.iter().map(|topic| topic.error_code).collect()
                },
            )
            .await?;
        let result = |name: &String| {
            let named =
                |r: &&tailway_wire::messages::delete_topics_response::DeletableTopicResult| {
                    r.name.as_ref().is_some_and(|n| n.as_str() == name)
                };
            let Some(deleted) = answer.responses.iter().find(named) else {
                let detail = format!("`{name}` is not in it");
                return Err(connection.nonsense(ApiKey::DeleteTopics, detail));
            };
            self.client.invalidate(name);
            match ErrorCode::from(deleted.error_code) {
                ErrorCode::NONE => Ok(()),
                ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => Err(ClientError::UnknownTopic {
                    topic: name.clone(),
                    broker: Arc::clone(connection.broker()),
                }),
                code => {
                    let message = deleted.error_message.clone();
                    Err(connection.refused(ApiKey::DeleteTopics, name, code, message))
                }
            }
        };
        Ok(names.iter().map(result).collect())
    }

    /// The configuration of a topic or broker, by name.
    pub async fn describe_configs(
        &self,
        resource: &ConfigResource,
    ) -> Result<Vec<ConfigEntry>, ClientError> {
        const API: ApiKey = ApiKey::DescribeConfigs;
        let build = |version| describe_configs_request(resource, version);
        let (connection, answer): (_, DescribeConfigsResponse) = match resource {
            ConfigResource::Topic(_) => self.client.ask_any(API, build).await?,
            // A broker's own settings only it can tell.
            ConfigResource::Broker(id) => {
                let connection = self.client.broker(*id, Lane::SHARED).await?;
                let timeout = self.client.config().request_timeout;
                let answer = connection.call(API, timeout, build).await?;
                (connection, answer)
            }
        };
        let Some(result) = answer.results.into_iter().next() else {
            return Err(connection.nonsense(API, "it is empty"));
        };
        let code = ErrorCode::from(result.error_code);
        if let (ErrorCode::UNKNOWN_TOPIC_OR_PARTITION, ConfigResource::Topic(topic)) =
            (code, resource)
        {
            let broker = Arc::clone(connection.broker());
            return Err(ClientError::UnknownTopic { topic: topic.clone(), broker });
        }
        if code.is_error() {
            let subject = match resource {
                ConfigResource::Topic(name) => name.clone(),
                ConfigResource::Broker(id) => format!("broker {id}"),
            };
            return Err(connection.refused(API, subject, code, result.error_message));
        }
        let mut entries: Vec<ConfigEntry> = result.configs.into_iter().map(config_entry).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// The offsets of all partitions of a topic.
    pub async fn list_offsets(
        &self,
        topic: &str,
        spec: OffsetSpec,
    ) -> Result<Vec<ListedOffset>, ClientError> {
        let topic = self.client.topic(topic).await?;
        let partitions = topic.partitions.keys();
        let wanted: Vec<_> = partitions
            .map(|index| (TopicPartition::new(Arc::clone(&topic.name), *index), spec))
            .collect();
        self.client.list_offsets(&wanted).await
    }

    fn timeout_ms(&self) -> i32 {
        // The broker gives up first, so that its reason reaches us.
        let timeout = self.client.config().request_timeout.mul_f32(0.8);
        i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Asks the controller, or any broker where none is named; again if it has moved.
    async fn ask_controller<Req: Encodable, Resp: Decodable>(
        &self,
        api: ApiKey,
        build: impl Fn(i16) -> Req,
        codes: impl Fn(&Resp) -> Vec<i16>,
    ) -> Result<(Connection, Resp), ClientError> {
        let client = &self.client;
        let timeout = client.config().request_timeout;
        let mut retries = Retries::until(client.deadline());
        loop {
            let attempt = async {
                let known = client.fetch_metadata(Wanted::Topics(Vec::new()), false).await?;
                let connection = match known.controller {
                    id if known.brokers.contains_key(&id) => {
                        client.broker(id, Lane::SHARED).await?
                    }
                    _ => client.any_connection().await?,
                };
                let answer: Resp = connection.call(api, timeout, &build).await?;
                if codes(&answer).contains(&ErrorCode::NOT_CONTROLLER.code()) {
                    return Err(connection.refused(api, "", ErrorCode::NOT_CONTROLLER, None));
                }
                Ok((connection, answer))
            };
            if let Some(answered) = retries.run(attempt).await? {
                return Ok(answered);
            }
        }
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn create_topics_request(
    topics: &[NewTopic],
    timeout_ms: i32,
    validate_only: bool,
) -> CreateTopicsRequest {
    let config = |(name, value): (&String, &String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = |topic: &NewTopic| {
        CreatableTopic::default()
            .with_name(TopicName(text(&topic.name)))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(topic.configs.iter().map(config).collect())
    };
    CreateTopicsRequest::default()
        .with_topics(topics.iter().map(topic).collect())
        .with_timeout_ms(timeout_ms)
        .with_validate_only(validate_only)
}

fn delete_topics_request(names: &[String], timeout_ms: i32, version: i16) -> DeleteTopicsRequest {
    let request = DeleteTopicsRequest::default().with_timeout_ms(timeout_ms);
    let names = names.iter().map(|name| TopicName(text(name)));
    if version >= 6 {
        let state = |name| DeleteTopicState::default().with_name(Some(name));
        request.with_topics(names.map(state).collect())
    } else {
        request.with_topic_names(names.collect())
    }
}

fn describe_configs_request(resource: &ConfigResource, version: i16) -> DescribeConfigsRequest {
    let (kind, name) = match resource {
        ConfigResource::Topic(name) => (2, text(name)),
        ConfigResource::Broker(id) => (4, text(&id.to_string())),
    };
    let resource = DescribeConfigsResource::default()
        .with_resource_type(kind)
        .with_resource_name(name)
        .with_configuration_keys(None);
    DescribeConfigsRequest::default()
        .with_resources(vec![resource])
        .with_include_documentation(version >= 3)
}

fn config_entry(entry: DescribeConfigsResourceResult) -> ConfigEntry {
    ConfigEntry {
        name: entry.name.to_string(),
        value: entry.value.map(|value| value.to_string()),
        source: ConfigSource::from(entry.config_source),
        read_only: entry.read_only,
        sensitive: entry.is_sensitive,
        documentation: entry.documentation.map(|doc| doc.to_string()),
    }
}
