//! DeleteTopics (20), versions 1-6. KIP-516 (by id from 6), KIP-599 (texts from 5).
//!
//! Forwarded to the coordinator like CreateTopics. The answer waits until this broker no longer serves the topics, but not
//! beyond the request's timeout or 5 s; their data goes with the record that removes them.

use std::time::Duration;

use tailway_daemon::Deadline;
use tailway_metadata::TopicId;
use tailway_wire::error_code::ErrorCode;
use tailway_wire::messages::delete_topics_request::DeleteTopicState;
use tailway_wire::messages::delete_topics_response::DeletableTopicResult;
use tailway_wire::messages::{DeleteTopicsRequest, DeleteTopicsResponse, TopicName};

use super::error::controller_error_code;
use super::text;
use crate::cluster::{ClusterView, Controller};

/// From this version on topics are named one by one, by name or id.
const STATES_FROM: i16 = 6;
/// From this version on an answer has a text.
const TEXT_FROM: i16 = 5;
const GONE_WITHIN: Duration = Duration::from_secs(5);

pub async fn handle(
    request: DeleteTopicsRequest,
    version: i16,
    controller: &Controller,
    view: &ClusterView,
) -> DeleteTopicsResponse {
    let at_most = Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let deadline = Deadline::after(at_most.min(GONE_WITHIN));
    let topics = if version >= STATES_FROM {
        request.topics
    } else {
        request.topic_names.into_iter().map(by_name).collect()
    };
    let image = view.image();
    let forwarded = DeleteTopicsRequest::default()
        .with_topics(topics.clone())
        .with_timeout_ms(request.timeout_ms);
    let mut results = match controller.delete_topics(&forwarded, at_most).await {
        Ok(response) => response.responses,
        Err(error) => {
            let code = controller_error_code(&error);
            let refused = topics.into_iter().map(|topic| {
                DeletableTopicResult::default()
                    .with_name(topic.name)
                    .with_topic_id(topic.topic_id)
                    .with_error_code(code.code())
                    .with_error_message(Some(text(&error)))
            });
            refused.collect()
        }
    };
    let deleted: Vec<TopicId> = results
        .iter()
        .filter(|result| ErrorCode::from(result.error_code).is_none())
        .filter_map(|result| Some(image.topic(result.name.as_deref()?)?.id))
        .collect();
    let mut images = view.follow();
    let gone = images.wait_for(|image| deleted.iter().all(|id| image.topic_by_id(*id).is_none()));
    drop(deadline.run(gone).await);
    for result in &mut results {
        if version < TEXT_FROM {
            result.error_message = None;
        }
        if version < STATES_FROM && result.name.is_none() {
            result.name = Some(TopicName::default());
        }
    }
    DeleteTopicsResponse::default().with_responses(results)
}

fn by_name(name: TopicName) -> DeleteTopicState {
    DeleteTopicState::default().with_name(Some(name))
}
