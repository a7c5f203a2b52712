//! DescribeCluster (60), version 0. KIP-700.
//!
//! Differs: authorized operations are never reported (there are no ACLs yet).

use tailway_wire::messages::describe_cluster_response::DescribeClusterBroker;
use tailway_wire::messages::{DescribeClusterRequest, DescribeClusterResponse};

use super::text;
use crate::cluster::ClusterView;

pub fn handle(
    _request: &DescribeClusterRequest,
    listener: &str,
    view: &ClusterView,
) -> DescribeClusterResponse {
    let image = view.image();
    let brokers = view.nodes(&image, listener).into_iter().map(|node| {
        DescribeClusterBroker::default()
            .with_broker_id(node.id.0.into())
            .with_host(text(node.host))
            .with_port(node.port.into())
            .with_rack(node.rack.map(text))
    });
    DescribeClusterResponse::default()
        .with_error_message(None)
        .with_cluster_id(text(&image.cluster_id))
        .with_controller_id(view.me().0.into())
        .with_brokers(brokers.collect())
}
