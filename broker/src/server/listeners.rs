//! Binding, advertising and accepting.
//!
//! Every listener is bound before anything is served, so that a held port or an address that clients cannot use is a
//! start error, not a surprise later. What is advertised is decided here, once, and logged with where it came from.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tailway_daemon::tasks::Group;
use tailway_daemon::{StartError, Stop, Tasks};
use tailway_metadata::broker::{Endpoint, SecurityProtocol};
use tailway_net::listen::{AcceptError, HandshakeFailure};
use tailway_net::{HostPort, Incoming, Limits as NetLimits, Listener, Security};
use tokio::sync::Semaphore;

use super::access::Principal;
use super::connection;
use super::context::{Peer, Services};
use super::refusals::Reason;
use crate::config::{Advertise, Limits, ListenerConfig, is_loopback};
use crate::metrics::ListenerLabel;

/// How long a name to advertise may take to resolve.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The bound listeners of a broker, not accepting yet.
pub struct Server {
    bound: Vec<(Listener, AdvertisedListener)>,
    total: Arc<Semaphore>,
    connections_max: usize,
}

/// What clients of one listener are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdvertisedListener {
    pub name: Arc<str>,
    pub bound: SocketAddr,
    pub endpoint: Endpoint,
    /// Where the advertised address came from, in words.
    pub origin: &'static str,
}

impl AdvertisedListener {
    /// The address that clients are told.
    pub fn advertised(&self) -> HostPort {
        HostPort::new(self.endpoint.host.clone(), self.endpoint.port)
    }
}

impl Server {
    /// Binds every listener and settles what each advertises.
    pub async fn bind(configs: &[ListenerConfig], limits: &Limits) -> Result<Self, StartError> {
        let mut bound = Vec::new();
        for config in configs {
            let net_limits = NetLimits {
                connections_max: config.connections,
                handshake_timeout: limits.handshake_timeout,
            };
            let listener = Listener::bind(&config.address, config.security.clone(), net_limits)
                .await
                .map_err(|error| {
                    StartError::new(format!("listener {} did not start", config.name)).cause(error)
                })?;
            let advertised = advertise(config, listener.local_addr()).await?;
            announce(config, &advertised);
            bound.push((listener, advertised));
        }
        let total = Arc::new(Semaphore::new(limits.connections));
        Ok(Self { bound, total, connections_max: limits.connections })
    }

    pub fn advertised(&self) -> Vec<AdvertisedListener> {
        self.bound.iter().map(|(_, advertised)| advertised.clone()).collect()
    }

    /// Starts to accept. Connections are stopped together, before what was spawned earlier.
    pub fn start(self, services: &Arc<Services>, tasks: &Tasks) {
        let connections = tasks.group("connections");
        let next_id = Arc::new(AtomicU64::new(1));
        for (listener, advertised) in self.bound {
            let acceptor = Acceptor {
                listener,
                name: advertised.name,
                services: Arc::clone(services),
                connections: connections.clone(),
                total: Arc::clone(&self.total),
                connections_max: self.connections_max,
                next_id: Arc::clone(&next_id),
            };
            tasks.spawn_watched(format!("listener {}", acceptor.name), |stop| acceptor.run(stop));
        }
    }
}

struct Acceptor {
    listener: Listener,
    name: Arc<str>,
    services: Arc<Services>,
    connections: Group,
    total: Arc<Semaphore>,
    connections_max: usize,
    next_id: Arc<AtomicU64>,
}

impl Acceptor {
    async fn run(self, mut stop: Stop) {
        while let Some(accepted) = stop.unless(self.listener.accept()).await {
            match accepted {
                Ok(incoming) => self.take(incoming),
                Err(error @ AcceptError::TooMany { peer, .. }) => {
                    let text = error.to_string();
                    self.services.refusals.connection(
                        Reason::TooManyConnections,
                        peer.ip(),
                        &self.name,
                        &text,
                    );
                }
                Err(error @ AcceptError::Io(_)) => {
                    tracing::warn!(listener = %self.name, %error, "a connection was lost");
                }
            }
        }
    }

    fn take(&self, incoming: Incoming) {
        let peer = incoming.peer;
        let refusals = self.services.refusals.clone();
        let Ok(permit) = Arc::clone(&self.total).try_acquire_owned() else {
            let text = format!(
                "{} connections are open, which is limits.connections",
                self.connections_max
            );
            refusals.connection(Reason::TooManyConnections, peer.ip(), &self.name, &text);
            return;
        };
        let services = Arc::clone(&self.services);
        let name = Arc::clone(&self.name);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        // The configuration takes a plaintext listener with `insecure: true` only.
        let is_insecure = !self.listener.is_tls();
        self.connections.spawn(format!("connection {id} of {peer}"), |mut stop: Stop| async move {
            let Some(established) = stop.unless(incoming.establish()).await else { return };
            let accepted = match established {
                Ok(accepted) => accepted,
                Err(error) => {
                    let reason = match &error.failure {
                        // A port check says nothing and means nothing.
                        HandshakeFailure::Silent => return,
                        failure if failure.is_broken_off() => Reason::HandshakeBrokenOff,
                        _ => Reason::Handshake,
                    };
                    refusals.connection(reason, peer.ip(), &name, &error.failure.to_string());
                    return;
                }
            };
            let label = ListenerLabel { listener: name.to_string() };
            let open = services.metrics.connections.get_or_create_owned(&label);
            services.metrics.connections_accepted.get_or_create(&label).inc();
            open.inc();
            let principal = if is_insecure {
                Principal::insecure()
            } else {
                let cluster = &services.view.image().cluster_id;
                Principal::of_certificate(accepted.identity.as_ref(), cluster)
            };
            let client = Arc::new(Peer::new(id, peer, name, principal));
            connection::serve(accepted.stream, client, Arc::clone(&services), stop).await;
            open.dec();
            drop((permit, accepted.permit));
        });
    }
}

/// What clients of this listener are told, or why that could not work.
async fn advertise(
    config: &ListenerConfig,
    bound: SocketAddr,
) -> Result<AdvertisedListener, StartError> {
    let (address, origin) = match &config.advertise {
        Advertise::Explicit(address) => {
            check_reachable(config, address, bound).await?;
            (address.clone(), "advertise in the configuration")
        }
        Advertise::Auto if bound.ip().is_unspecified() => {
            let ip = default_route_address(bound).ok_or_else(|| {
                StartError::new(format!("listener {} has nothing to advertise", config.name))
                    .because(format!("it listens on {bound} and this host has no default route to tell its address by"))
                    .next(format!("write advertise: HOST:{} with the name or address that clients use", bound.port()))
            })?;
            (
                HostPort::new(ip.to_string(), bound.port()),
                "auto: this host's address on its default route",
            )
        }
        Advertise::Auto => {
            // A name in `address` is what the certificate is for; port 0 was replaced by a real one.
            (
                HostPort::new(config.address.host.clone(), bound.port()),
                "auto: the listener's own address",
            )
        }
    };
    let protocol = match config.security {
        Security::Plaintext => SecurityProtocol::Plaintext,
        Security::Tls(_) => SecurityProtocol::Tls,
    };
    Ok(AdvertisedListener {
        name: config.name.as_str().into(),
        bound,
        endpoint: Endpoint {
            name: config.name.clone(),
            host: address.host,
            port: address.port,
            protocol,
        },
        origin,
    })
}

/// An advertised name must resolve, and not to loopback unless only this host is meant.
async fn check_reachable(
    config: &ListenerConfig,
    address: &HostPort,
    bound: SocketAddr,
) -> Result<(), StartError> {
    let refuse = |cause: String, next: String| {
        StartError::new(format!("listener {} cannot advertise {address}", config.name))
            .because(cause)
            .next(next)
    };
    let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
    let found: Vec<SocketAddr> = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => {
            return Err(refuse(
                format!("the name does not resolve ({error})"),
                format!("getent hosts {}; or advertise an address", address.host),
            ));
        }
        Err(_) => {
            return Err(refuse(
                format!("the resolver did not answer within {RESOLVE_TIMEOUT:?}"),
                format!("getent hosts {}; or advertise an address", address.host),
            ));
        }
    };
    let only_loopback = found.iter().all(|found| found.ip().is_loopback());
    if only_loopback && !bound.ip().is_loopback() && !is_loopback(&address.host) {
        return Err(refuse(
            format!(
                "on this host it is {}, so clients elsewhere may connect to themselves",
                found.first().map_or(bound.ip(), SocketAddr::ip)
            ),
            "correct /etc/hosts, or advertise the address that clients use".into(),
        ));
    }
    Ok(())
}

/// This host's address towards the rest of the world. No packet is sent: connecting a datagram socket only asks the
/// routing table. The addresses are of the documentation ranges.
fn default_route_address(bound: SocketAddr) -> Option<IpAddr> {
    let (any, elsewhere) =
        if bound.is_ipv4() { ("0.0.0.0:0", "192.0.2.1:9") } else { ("[::]:0", "[2001:db8::1]:9") };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(elsewhere).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified() && !ip.is_loopback()).then_some(ip)
}

fn announce(config: &ListenerConfig, advertised: &AdvertisedListener) {
    tracing::info!(
        listener = %advertised.name,
        bound = %advertised.bound,
        advertised = %advertised.advertised(),
        origin = advertised.origin,
        "listening"
    );
    if matches!(config.security, Security::Plaintext) {
        tracing::warn!(
            listener = %advertised.name,
            bound = %advertised.bound,
            "INSECURE: this listener is plaintext, everybody on the way can read and change what goes over it, and \
             everybody who reaches it is let in; it is there because insecure: true says so"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: &str, advertise: Advertise) -> ListenerConfig {
        ListenerConfig {
            name: "plain".into(),
            address: address.parse().unwrap(),
            security: Security::Plaintext,
            advertise,
            connections: 10,
        }
    }

    async fn settle(address: &str, advertise: Advertise) -> Result<AdvertisedListener, StartError> {
        let limits = crate::server::testing::limits();
        let server = Server::bind(&[config(address, advertise)], &limits).await?;
        Ok(server.advertised().remove(0))
    }

    #[tokio::test]
    async fn auto_advertises_what_was_bound_with_its_real_port() {
        for host in ["127.0.0.1", "localhost"] {
            let settled = settle(&format!("{host}:0"), Advertise::Auto).await.unwrap();
            assert_ne!(settled.bound.port(), 0);
            assert_eq!(settled.advertised(), HostPort::new(host, settled.bound.port()));
        }
    }

    #[tokio::test]
    async fn a_wildcard_is_never_advertised_nor_is_loopback_in_its_place() {
        match settle("0.0.0.0:0", Advertise::Auto).await {
            Ok(settled) => {
                let ip = settled.advertised().ip().unwrap();
                assert!(!ip.is_unspecified() && !ip.is_loopback(), "{settled:?}");
            }
            // A host without a default route has nothing to tell.
            Err(error) => assert!(error.to_string().contains("write advertise:"), "{error}"),
        }
    }

    #[tokio::test]
    async fn what_is_written_is_advertised_as_written() {
        let written = HostPort::new("localhost", 19_092);
        let settled = settle("127.0.0.1:0", Advertise::Explicit(written.clone())).await.unwrap();
        assert_eq!(
            (settled.advertised(), settled.origin),
            (written, "advertise in the configuration")
        );
    }

    #[tokio::test]
    async fn a_name_that_means_loopback_here_is_refused_on_an_open_listener() {
        let bound: SocketAddr = "192.0.2.7:9092".parse().unwrap();
        // Not recognisable as loopback without the resolver.
        let config = config("192.0.2.7:9092", Advertise::Auto);
        let name = HostPort::new("localhost.", 9092);
        let refused = check_reachable(&config, &name, bound).await;
        let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(text.contains("cannot advertise localhost.:9092"), "{text}");
    }

    #[tokio::test]
    async fn a_held_port_is_a_start_error_that_names_the_listener() {
        let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = held.local_addr().unwrap().to_string();
        let text = settle(&address, Advertise::Auto).await.unwrap_err().to_string();
        assert!(text.contains("listener plain did not start"), "{text}");
        assert!(text.contains("is held by"), "{text}");
    }
}
