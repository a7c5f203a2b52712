//! Which partitions a topic has: asked until there is an answer.

use std::time::Duration;

use tailway_client::{Client, TopicInfo};
use tailway_daemon::Stop;
use tailway_net::backoff::Backoff;

use super::inbox::{Inbox, Message};

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFound {
    /// Empty where the broker does not tell.
    pub cluster: String,
    /// Empty where the broker does not tell.
    pub topic_id: String,
    pub partitions: i32,
}

impl TopicFound {
    pub fn of(client: &Client, topic: &TopicInfo) -> Self {
        let id = topic.topic_id.0;
        Self {
            cluster: client.known().cluster_id.clone().unwrap_or_default(),
            topic_id: if id.is_nil() { String::new() } else { id.to_string() },
            partitions: i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX),
        }
    }
}

/// Looks the topic up, which may create it, until it is there or the program stops.
pub async fn find(client: Client, name: String, inbox: Inbox, mut stop: Stop) {
    let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX, name.len() as u64);
    loop {
        let Some(found) = stop.unless(client.topic_or_create(&name)).await else { return };
        match found {
            Ok(topic) => {
                let found = TopicFound::of(&client, &topic);
                inbox.send(Message::Topic { name, found });
                return;
            }
            Err(error) => {
                inbox.send(Message::TopicTrouble { name: name.clone(), cause: error.to_string() });
            }
        }
        let pause = tokio::time::sleep(backoff.next_pause());
        if stop.unless(pause).await.is_none() {
            return;
        }
    }
}
