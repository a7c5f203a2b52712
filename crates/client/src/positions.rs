//! A group's committed offsets, read and written by somebody who is no member of it: for tools and for groups that nobody
//! joins.
//!
//! A coordinator takes such a commit only while the group has no members, as Kafka does.

use std::collections::BTreeMap;
use std::sync::Arc;

use tailway_metadata::ids::TopicPartition;

use crate::client::Client;
use crate::error::ClientError;
use crate::group::GroupOptions;
use crate::membership::Membership;

/// What Kafka calls the generation of who is no member.
const NO_GENERATION: i32 = -1;

/// The committed offsets of one group.
#[derive(Debug)]
pub struct GroupPositions {
    membership: Membership,
}

impl GroupPositions {
    pub fn new(client: Client, group_id: impl Into<String>) -> Self {
        let options = GroupOptions::new(group_id, Vec::new());
        Self { membership: Membership::new(client, options) }
    }

    /// What is committed for these partitions of a topic; `None` where nothing is.
    pub async fn committed(
        &mut self,
        topic: &str,
        partitions: Vec<i32>,
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>, ClientError> {
        let wanted = BTreeMap::from([(Arc::from(topic), partitions)]);
        self.membership.committed_offsets(&wanted).await
    }

    /// Durable when it returns.
    pub async fn commit(
        &mut self,
        offsets: &BTreeMap<TopicPartition, i64>,
    ) -> Result<(), ClientError> {
        self.membership.commit(NO_GENERATION, offsets).await
    }
}
