//! The cluster as this broker serves it: the last image, and who is reached where by clients of one listener.

use std::sync::Arc;

use tailway_metadata::broker::Endpoint;
use tailway_metadata::{BrokerId, ClusterImage};
use tokio::sync::watch;

/// A broker's address as one listener's clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub id: BrokerId,
    pub host: String,
    pub port: u16,
    pub rack: Option<String>,
}

/// The image and this broker's own endpoints. Clones share them.
#[derive(Debug, Clone)]
pub struct ClusterView {
    me: BrokerId,
    rack: Option<String>,
    endpoints: Arc<[Endpoint]>,
    image: watch::Receiver<Arc<ClusterImage>>,
}

impl ClusterView {
    pub fn new(
        me: BrokerId,
        rack: Option<String>,
        endpoints: Arc<[Endpoint]>,
        image: watch::Receiver<Arc<ClusterImage>>,
    ) -> Self {
        Self { me, rack, endpoints, image }
    }

    pub fn me(&self) -> BrokerId {
        self.me
    }

    /// What this broker advertises.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    pub fn image(&self) -> Arc<ClusterImage> {
        Arc::clone(&self.image.borrow())
    }

    /// For those that wait for the image to change.
    pub fn follow(&self) -> watch::Receiver<Arc<ClusterImage>> {
        self.image.clone()
    }

    /// The live brokers that clients of `listener` can reach, by id. This broker is always among them: whoever asks
    /// has just reached it, whatever the coordinator thinks at the moment.
    pub fn nodes(&self, image: &ClusterImage, listener: &str) -> Vec<Node> {
        let mut nodes: Vec<Node> = image
            .live_brokers()
            .filter(|broker| broker.id != self.me)
            .filter_map(|broker| {
                let endpoint = broker.endpoint(listener)?;
                Some(Node {
                    id: broker.id,
                    host: endpoint.host.clone(),
                    port: endpoint.port,
                    rack: broker.rack.clone(),
                })
            })
            .chain(self.myself(listener))
            .collect();
        nodes.sort_by_key(|node| node.id);
        nodes
    }

    /// Where clients of `listener` reach one broker.
    pub fn node(&self, image: &ClusterImage, id: BrokerId, listener: &str) -> Option<Node> {
        self.nodes(image, listener).into_iter().find(|node| node.id == id)
    }

    fn myself(&self, listener: &str) -> Option<Node> {
        let endpoint = self.endpoints.iter().find(|endpoint| endpoint.name == listener)?;
        Some(Node {
            id: self.me,
            host: endpoint.host.clone(),
            port: endpoint.port,
            rack: self.rack.clone(),
        })
    }
}
