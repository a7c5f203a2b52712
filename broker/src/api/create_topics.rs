//! CreateTopics (19), versions 2-7. KIP-464 (defaults by -1), KIP-525 (configs in the answer from 5), KIP-516 (ids, 7).
//!
//! Every broker takes it and forwards it: only the coordinator decides. The answer waits until this broker can serve the
//! new topics, but not beyond the request's timeout or 5 s. While no coordinator answers, each topic gets
//! REQUEST_TIMED_OUT at once, with a text that says so: clients show it and do not try for a minute, as they would
//! with a code that means "try again".

use std::collections::BTreeMap;
use std::time::Duration;

use tailway_daemon::Deadline;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use tailway_wire::messages::{CreateTopicsRequest, CreateTopicsResponse};

use super::describe_configs::{Setting, topic_settings};
use super::error::controller_error_code;
use super::text;
use crate::cluster::{Controller, TopicCreator};

/// From this version on the answer has the topic's configs.
const CONFIGS_FROM: i16 = 5;
/// How long the answer waits until the topics are served, at most.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

pub async fn handle(
    request: CreateTopicsRequest,
    version: i16,
    controller: &Controller,
    creator: &TopicCreator,
    topic_defaults: &BTreeMap<String, String>,
) -> CreateTopicsResponse {
    let at_most = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = Deadline::after(at_most.min(SERVED_WITHIN));
    let mut response = match controller.create_topics(&request, at_most).await {
        Ok(response) => response,
        Err(error) => {
            let code = controller_error_code(&error);
            let topics = request.topics.into_iter().map(|topic| {
                CreatableTopicResult::default()
                    .with_name(topic.name)
                    .with_error_code(code.code())
                    .with_error_message(Some(text(&error)))
                    .with_configs(None)
            });
            return CreateTopicsResponse::default().with_topics(topics.collect());
        }
    };
    if !request.validate_only {
        let created: Vec<&str> = response
            .topics
            .iter()
            .filter(|topic| ErrorCode::from(topic.error_code).is_none())
            .map(|topic| topic.name.as_str())
            .collect();
        creator.wait_for(&created, deadline).await;
    }
    for topic in &mut response.topics {
        topic.configs = (version >= CONFIGS_FROM && topic.error_code == 0).then(|| {
            let asked = request.topics.iter().find(|asked| asked.name == topic.name);
            let own = asked.map(|asked| {
                asked
                    .configs
                    .iter()
                    .filter_map(|config| {
                        Some((config.name.to_string(), config.value.as_ref()?.to_string()))
                    })
                    .collect()
            });
            let settings = topic_settings(&own.unwrap_or_default(), topic_defaults);
            settings.into_iter().map(config).collect()
        });
    }
    response
}

fn config(setting: Setting) -> CreatableTopicConfigs {
    CreatableTopicConfigs::default()
        .with_name(text(setting.name))
        .with_value(Some(text(&setting.value)))
        .with_read_only(setting.read_only)
        .with_config_source(setting.source.code())
        .with_is_sensitive(false)
}
