//! The image: from the last run's, along the coordinator's records, to everybody who routes by it.
//!
//! One step is: delete what a record removed, save the new image, open what it adds, publish. So a client that was told
//! about a topic finds its partition open, and a restart knows it. The removal comes before the save, because a removal
//! that was not carried out is only repeated while the saved image still has the topic.

use std::sync::Arc;

use tailway_metadata::control::{FollowError, FollowMetadataRequest, FollowMetadataResponse};
use tailway_metadata::{BrokerEpoch, BrokerId, ClusterId, ClusterImage, MetadataRecord, TopicId};
use tailway_storage::StorageError;
use tokio::sync::watch;

use super::reconcile::Reconciler;
use super::saved_image::SavedImage;
use crate::metrics::BrokerMetrics;

/// How long one FollowMetadata may wait for news.
pub const MAX_WAIT_MS: u32 = 10_000;

/// Why the image could not go on.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("the cluster image cannot be saved: {0}")]
    Save(#[from] StorageError),
    #[error("the image was being saved when the broker stopped")]
    Stopped,
}

/// Owns the image.
pub struct Follower {
    me: BrokerId,
    current: Arc<ClusterImage>,
    saved: SavedImage,
    reconciler: Reconciler,
    publish: watch::Sender<Arc<ClusterImage>>,
    metrics: BrokerMetrics,
}

impl Follower {
    /// Starts from the image of the last run, if there is one: its partitions are open when this returns.
    pub async fn start(
        me: BrokerId,
        saved: SavedImage,
        reconciler: Reconciler,
        publish: watch::Sender<Arc<ClusterImage>>,
        metrics: BrokerMetrics,
    ) -> Result<Self, StorageError> {
        let current = Arc::new(saved.load()?.unwrap_or_default());
        let follower = Self { me, current, saved, reconciler, publish, metrics };
        follower.reconciler.apply(&ClusterImage::default(), &follower.current).await;
        follower.announce();
        Ok(follower)
    }

    pub fn image(&self) -> &Arc<ClusterImage> {
        &self.current
    }

    /// What to ask for next.
    pub fn request(
        &self,
        cluster_id: &ClusterId,
        broker_epoch: BrokerEpoch,
    ) -> FollowMetadataRequest {
        FollowMetadataRequest {
            cluster_id: cluster_id.clone(),
            broker_id: self.me,
            broker_epoch,
            log_id: self.current.log_id,
            from_offset: self.current.offset,
            max_wait_ms: MAX_WAIT_MS,
        }
    }

    /// Goes on by one answer.
    pub async fn advance(&mut self, response: &FollowMetadataResponse) -> Result<(), AdvanceError> {
        let next = Arc::new(response.apply_to(&self.current)?);
        if next == self.current {
            return Ok(());
        }
        self.reconciler.remove(&self.current, &removed(response)).await;
        let (saved, image) = (self.saved.clone(), Arc::clone(&next));
        tailway_runtime::spawn_blocking(move || saved.save(&image))
            .await
            .map_err(|_| AdvanceError::Stopped)??;
        self.reconciler.apply(&self.current, &next).await;
        self.current = next;
        self.announce();
        Ok(())
    }

    fn announce(&self) {
        self.metrics.metadata_offset.set(self.current.offset.0);
        self.publish.send_replace(Arc::clone(&self.current));
    }
}

fn removed(response: &FollowMetadataResponse) -> Vec<TopicId> {
    let of_record = |record: &MetadataRecord| match record {
        MetadataRecord::RemoveTopic(removed) => Some(removed.topic_id),
        MetadataRecord::Cluster(_)
        | MetadataRecord::RegisterBroker(_)
        | MetadataRecord::BrokerRegistrationChange(_)
        | MetadataRecord::Topic(_)
        | MetadataRecord::Config(_)
        | MetadataRecord::Partition(_)
        | MetadataRecord::PartitionChange(_)
        | MetadataRecord::ProducerIds(_)
        | MetadataRecord::Token(_)
        | MetadataRecord::RemoveToken(_)
        | MetadataRecord::Certificate(_)
        | MetadataRecord::RemoveCertificate(_)
        | MetadataRecord::Authority(_)
        | MetadataRecord::Trust(_) => None,
    };
    response.records.iter().filter_map(of_record).collect()
}
