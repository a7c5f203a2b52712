//! The listener: accepts, shakes hands, and lets in members of this cluster only.

use std::sync::Arc;
use std::time::Duration;

use tailway_daemon::tasks::Group;
use tailway_daemon::{Stop, Tasks};
use tailway_metadata::{BrokerId, ClusterId, Role};
use tailway_net::listen::HandshakeFailure;
use tailway_net::{Incoming, Listener, PeerIdentity};

use super::connection;
use super::service::{Peer, Service};
use crate::metrics::CoordinatorMetrics;

/// How often the gauge of open connections is read.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);

/// Serves the coordinator's port.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    service: Service,
    metrics: CoordinatorMetrics,
    connections: Group,
}

impl Server {
    /// Accepts from here on, until `tasks` stops: first the listener, then the connections.
    pub fn start(listener: Listener, service: Service, metrics: CoordinatorMetrics, tasks: &Tasks) {
        let connections = tasks.group("connections");
        let server = Arc::new(Server { listener, service, metrics, connections });
        tasks.spawn_watched("listener", |stop| accept(server, stop));
    }
}

async fn accept(server: Arc<Server>, mut stop: Stop) {
    let mut gauge = tokio::time::interval(GAUGE_INTERVAL);
    loop {
        tokio::select! {
            biased;
            () = stop.requested() => return,
            incoming = server.listener.accept() => match incoming {
                Ok(incoming) => {
                    let name = format!("connection {}", incoming.peer);
                    let serving = Arc::clone(&server);
                    server.connections.spawn(name, |stop| serving.admit(incoming, stop));
                }
                Err(error) => {
                    server.metrics.connections_refused.inc();
                    tracing::warn!(%error, "no connection taken");
                }
            },
            _ = gauge.tick() => {
                let open = i64::try_from(server.listener.open_connections()).unwrap_or(i64::MAX);
                server.metrics.connections.set(open);
            }
        }
    }
}

impl Server {
    async fn admit(self: Arc<Server>, incoming: Incoming, mut stop: Stop) {
        let Some(established) = stop.unless(incoming.establish()).await else { return };
        let accepted = match established {
            Ok(accepted) => accepted,
            Err(error) => {
                if matches!(error.failure, HandshakeFailure::Silent) {
                    // A port check says nothing and means nothing.
                    return;
                }
                self.metrics.connections_refused.inc();
                if error.failure.is_broken_off() {
                    // So does every broker that is stopped while it connects.
                    tracing::info!(%error, "no connection taken");
                } else {
                    tracing::warn!(%error, "no connection taken");
                }
                return;
            }
        };
        match who_is(accepted.identity.as_ref(), &self.service.cluster_id) {
            Ok(who) => {
                tracing::debug!(peer = %accepted.peer, ?who, "connected");
                connection::serve(accepted, who, self.service.clone(), stop).await;
            }
            Err(why) => {
                self.metrics.connections_refused.inc();
                tracing::warn!(peer = %accepted.peer, "connection closed: {why}");
            }
        }
    }
}

/// Who a certificate names, or why that is nobody here.
fn who_is(identity: Option<&PeerIdentity>, cluster: &ClusterId) -> Result<Peer, String> {
    let wanted = format!("wanted is spiffe://{cluster}/ROLE/ID");
    let Some(identity) = identity else {
        return Err(format!("its certificate has no name; {wanted}"));
    };
    let Some(spiffe) = &identity.spiffe else {
        let name = identity.common_name.as_deref().unwrap_or("nothing");
        return Err(format!("its certificate names {name:?} and no SPIFFE id; {wanted}"));
    };
    if spiffe.cluster != cluster.0 {
        return Err(format!("its certificate {spiffe} is of another cluster; {wanted}"));
    }
    let Ok(role) = spiffe.role.parse::<Role>() else {
        return Err(format!("its certificate {spiffe} is of no known role; {wanted}"));
    };
    let broker_id = spiffe.id.parse().ok().filter(|id| *id >= 0).map(BrokerId);
    if role == Role::Broker && broker_id.is_none() {
        return Err(format!("its certificate {spiffe} has no broker id; {wanted}"));
    }
    Ok(Peer { role, id: spiffe.id.as_str().into(), serial: identity.serial.clone() })
}

#[cfg(test)]
mod tests {
    use tailway_metadata::security::Serial;
    use tailway_net::SpiffeId;

    use super::*;

    #[test]
    fn only_members_of_this_cluster_are_let_in() {
        let cluster = ClusterId("c".into());
        let spiffe = |uri: &str| PeerIdentity {
            spiffe: SpiffeId::parse(uri),
            serial: Serial("07".into()),
            ..PeerIdentity::default()
        };
        let peer = |role, id: &str| Ok(Peer { role, id: id.into(), serial: Serial("07".into()) });
        let wanted = "wanted is spiffe://c/ROLE/ID";
        let refused = |text: &str| Err(format!("{text}; {wanted}"));
        let cases = [
            ("spiffe://c/broker/7", peer(Role::Broker, "7")),
            ("spiffe://c/coordinator/a", peer(Role::Coordinator, "a")),
            ("spiffe://c/agent/web1", peer(Role::Agent, "web1")),
            ("spiffe://c/admin/root", peer(Role::Admin, "root")),
            (
                "spiffe://d/broker/7",
                refused("its certificate spiffe://d/broker/7 is of another cluster"),
            ),
            ("spiffe://c/root/7", refused("its certificate spiffe://c/root/7 is of no known role")),
            (
                "spiffe://c/broker/x",
                refused("its certificate spiffe://c/broker/x has no broker id"),
            ),
            (
                "spiffe://c/broker/-1",
                refused("its certificate spiffe://c/broker/-1 has no broker id"),
            ),
            ("https://c/broker/7", refused("its certificate names \"nothing\" and no SPIFFE id")),
        ];
        for (uri, expected) in cases {
            assert_eq!(who_is(Some(&spiffe(uri)), &cluster), expected, "{uri}");
        }
        assert_eq!(who_is(None, &cluster), refused("its certificate has no name"));
    }
}
