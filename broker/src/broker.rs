//! Wiring: what starts in which order, and stops in the reverse.
//!
//! Data directory, listeners (bound, not accepting), partitions, last image, coordinator session, and only then clients: so
//! a broker that cannot serve does not start, and one that starts serves what it led before. The stop turns it around:
//! no new clients, answers that are due, goodbye to the coordinator, partitions closed clean.

use std::path::Path;
use std::sync::Arc;

use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::{
    Certificates, Context, Daemon, Deadline, MetricsListener, Problems, Runtime, StartError,
    Stragglers, Tasks,
};
use tailway_metadata::broker::Endpoint;
use tailway_metadata::{ClusterImage, IncarnationId};
use tailway_net::{HostPort, Security, ServerTls};
use tailway_storage::{DirLock, Disk, FsDisk};
use tokio::sync::watch;

use crate::cluster::follower::Follower;
use crate::cluster::identity::{self, Identity};
use crate::cluster::link::{LinkState, LinkWatch};
use crate::cluster::producer_ids::ProducerIds;
use crate::cluster::reconcile::Reconciler;
use crate::cluster::saved_image::SavedImage;
use crate::cluster::session::Session;
use crate::cluster::{ClusterView, Controller, GroupDoor, Routes, TopicCreator, health};
use crate::config::{Config, CoordinatorConfig, ListenerConfig};
use crate::forward::Forwarders;
use crate::group::{Groups, GroupsOptions};
use crate::metrics::BrokerMetrics;
use crate::partition::{Partitions, PartitionsOptions};
use crate::server::budget::Budget;
use crate::server::context::{BrokerFacts, Services};
use crate::server::refusals::Refusals;
use crate::server::{AdvertisedListener, Server};
use crate::start_report::StartReport;
use crate::status;

/// Threads that drive connections and partitions; blocking work has its own.
const WORKERS_MAX: usize = 4;
/// The part of a stop's deadline, in percent, that closing the partitions may count on.
const CLOSE_SHARE_PERCENT: u32 = 40;

/// A running broker.
pub struct Broker {
    tasks: Tasks,
    partitions: Partitions,
    listeners: Vec<AdvertisedListener>,
    // Until the partitions are closed, nobody else may use the directory.
    _lock: DirLock,
}

impl Daemon for Broker {
    const NAME: &'static str = "tailway-broker";
    const ABOUT: &'static str = "Stores partitions and speaks the Kafka protocol";
    const CONFIG_PATH: &'static str = "/etc/tailway/broker.yaml";

    type Config = Config;

    fn load_config(path: &Path) -> Result<Config, Problems> {
        Config::load(path)
    }

    fn logging(config: &Config) -> &LoggingConfig {
        &config.logging
    }

    fn admin(config: &Config) -> &AdminConfig {
        &config.admin
    }

    fn metrics_listener(config: &Config) -> Option<MetricsListener> {
        config.metrics_listener.clone()
    }

    fn runtime(_config: &Config) -> Runtime {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Runtime::Workers(cores.min(WORKERS_MAX))
    }

    async fn start(config: Config, context: Context) -> Result<Broker, StartError> {
        Broker::start_on(FsDisk::shared(), config, context).await
    }

    async fn stop(self, deadline: Deadline) -> Result<(), Stragglers> {
        let for_tasks = deadline.remaining() * (100 - CLOSE_SHARE_PERCENT) / 100;
        let stopped = self.tasks.stop(Deadline::after(for_tasks)).await;
        let closed = match deadline.run(self.partitions.close_all()).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                tracing::error!(%error, "not every partition was closed clean; the next start checks their tails");
                Ok(())
            }
            None => Err(Stragglers(vec!["closing the partitions".to_owned()])),
        };
        Stragglers::collect([stopped, closed])
    }
}

impl Broker {
    /// As [`Daemon::start`], with everything durable on `disk`.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        config: Config,
        context: Context,
    ) -> Result<Broker, StartError> {
        let metrics = BrokerMetrics::register(&context.metrics);
        let ready = context.ready.condition("cluster", "not registered with a coordinator yet");
        certificates_of(&config).keep(&context);
        let (lock, identity) = open_data_dir(&disk, &config)?;
        let server = Server::bind(&config.listeners, &config.limits).await?;
        let listeners = server.advertised();
        let endpoints: Arc<[Endpoint]> =
            listeners.iter().map(|listener| listener.endpoint.clone()).collect();
        let partitions = open_partitions(&disk, &config, &context).await?;
        let (publish_image, image) = watch::channel(Arc::new(ClusterImage::default()));
        refuse_revoked(&config, &image);
        let away = LinkState::Away { cause: "not connected yet".into() };
        let (publish_link, link) = watch::channel(away);
        let view =
            ClusterView::new(config.broker_id, config.rack.clone(), Arc::clone(&endpoints), image);
        let parts = Parts::new(&config, &context, view, partitions.clone(), link, &disk, metrics)?;
        let follower = parts.follow(&config, &disk, publish_image).await?;
        StartReport::of(&partitions.reports(), &config.data_dir).say();

        let incarnation = IncarnationId(tailway_runtime::uuid());
        let producer_ids = parts.producer_ids.clone();
        let routes = parts.routes.clone();
        let metrics = parts.metrics.clone();
        let services = Arc::new(parts.into_services(&config, &context));
        status::publish(&context.status, &services, &listeners, &config, incarnation);
        let session = Session {
            me: config.broker_id,
            rack: config.rack,
            endpoints,
            config: config.coordinator,
            incarnation,
            identity,
            disk,
            data_dir: config.data_dir,
            follower,
            link: publish_link,
            ready,
            tasks: context.tasks.clone(),
            metrics: metrics.clone(),
            seed: incarnation.0.as_u64_pair().0,
        };
        context.tasks.spawn_watched("coordinator session", |stop| session.run(stop));
        let storage = context.ready.condition("storage", "not looked at yet");
        context.tasks.spawn("health", |stop| health::watch(routes, metrics, storage, stop));
        context.tasks.spawn("producer ids", |stop| producer_ids.keep_spare(stop));
        Forwarders::start(config.sinks, &services, &context);
        server.start(&services, &context.tasks);
        Ok(Broker { tasks: context.tasks, partitions, listeners, _lock: lock })
    }

    /// What clients are told to connect to, by listener. Ports that were 0 in the configuration are real here.
    pub fn listeners(&self) -> &[AdvertisedListener] {
        &self.listeners
    }
}

/// What the image says was revoked is refused in the handshake.
fn refuse_revoked(config: &Config, image: &watch::Receiver<Arc<ClusterImage>>) {
    for tls in servers_of(config) {
        let image = image.clone();
        tls.refuse_revoked(move |serial| image.borrow().security.is_revoked(serial));
    }
}

fn servers_of(config: &Config) -> Vec<ServerTls> {
    let server = |listener: &ListenerConfig| match &listener.security {
        Security::Tls(tls) => Some(tls.clone()),
        Security::Plaintext => None,
    };
    let metrics = config.metrics_listener.iter().map(|metrics| metrics.tls.clone());
    config.listeners.iter().filter_map(server).chain(metrics).collect()
}

fn certificates_of(config: &Config) -> Certificates {
    let clients = vec![config.coordinator.tls.clone()];
    Certificates { servers: servers_of(config), clients, own: None }
}

fn failed(what: &str, error: impl std::error::Error) -> StartError {
    StartError::new(what).cause(error)
}

fn open_data_dir(disk: &Arc<dyn Disk>, config: &Config) -> Result<(DirLock, Identity), StartError> {
    let dir = &config.data_dir;
    let failed = || StartError::new(format!("the data directory {} cannot be used", dir.display()));
    disk.create_dir_all(dir).map_err(|error| {
        failed().cause(error).next(format!("create {} for the user this runs as", dir.display()))
    })?;
    let lock = disk.lock_dir(dir).map_err(|error| failed().cause(error))?;
    let identity = identity::load_or_create(disk, dir, config.broker_id).map_err(|error| {
        let next = error.next();
        failed().cause(error).next(next).config()
    })?;
    Ok((lock, identity))
}

async fn open_partitions(
    disk: &Arc<dyn Disk>,
    config: &Config,
    context: &Context,
) -> Result<Partitions, StartError> {
    let options = PartitionsOptions {
        disk: Arc::clone(disk),
        data_dir: config.data_dir.clone(),
        clock: context.clock.clone(),
        retention_check_interval: config.log.retention_check_interval,
        producer_id_expiration: config.log.producer_id_expiration,
        disk_reserve: config.log.disk_reserve,
        pulses: context.tasks.pulses().clone(),
    };
    Partitions::open(options).await.map_err(|error| {
        let dir = config.data_dir.display();
        StartError::new(format!("the partitions in {dir} cannot be opened")).cause(error)
    })
}

/// What answers requests, before the limits are put around it.
struct Parts {
    view: ClusterView,
    routes: Routes,
    groups: Groups,
    controller: Controller,
    producer_ids: ProducerIds,
    metrics: BrokerMetrics,
}

impl Parts {
    fn new(
        config: &Config,
        context: &Context,
        view: ClusterView,
        partitions: Partitions,
        link: LinkWatch,
        disk: &Arc<dyn Disk>,
        metrics: BrokerMetrics,
    ) -> Result<Self, StartError> {
        let routes = Routes::new(view.clone(), partitions);
        let groups = Groups::new(GroupsOptions {
            clock: context.clock.clone(),
            tasks: context.tasks.clone(),
        });
        let CoordinatorConfig { addresses, request_timeout, .. } = &config.coordinator;
        let controller = Controller::new(config.broker_id, addresses, *request_timeout, link);
        let producer_ids = ProducerIds::open(
            Arc::clone(disk),
            &config.data_dir,
            controller.clone(),
            metrics.clone(),
        )
        .map_err(|error| failed("the producer ids on disk cannot be used", error))?;
        Ok(Self { view, routes, groups, controller, producer_ids, metrics })
    }

    /// The image of the last run; its partitions are open when this returns.
    async fn follow(
        &self,
        config: &Config,
        disk: &Arc<dyn Disk>,
        publish: watch::Sender<Arc<ClusterImage>>,
    ) -> Result<Follower, StartError> {
        let me = config.broker_id;
        let reconciler = Reconciler::new(
            me,
            self.routes.clone(),
            self.groups.clone(),
            config.topics.defaults.clone(),
            self.metrics.clone(),
        );
        let saved = SavedImage::new(Arc::clone(disk), &config.data_dir);
        Follower::start(me, saved, reconciler, publish, self.metrics.clone())
            .await
            .map_err(|error| failed("the saved cluster image cannot be read", error))
    }

    fn into_services(self, config: &Config, context: &Context) -> Services {
        let Self { view, routes, groups, controller, producer_ids, metrics } = self;
        let requests = Budget::new(
            config.limits.request_memory,
            metrics.request_memory.clone(),
            metrics.request_memory_waits.clone(),
        );
        let responses = Budget::new(
            config.limits.response_memory,
            metrics.response_memory.clone(),
            metrics.response_memory_waits.clone(),
        );
        let auto_create = config.topics.auto_create;
        Services {
            creator: TopicCreator::new(view.clone(), controller.clone(), auto_create),
            facts: facts(config, &view),
            limits: config.limits.clone(),
            refusals: Refusals::new(metrics.clone(), context.clock.clone()),
            groups: GroupDoor::Local(groups),
            view,
            routes,
            controller,
            producer_ids,
            requests,
            responses,
            metrics,
        }
    }
}

/// What DescribeConfigs shows of this broker, by Kafka's names.
fn facts(config: &Config, view: &ClusterView) -> BrokerFacts {
    let advertised = view
        .endpoints()
        .iter()
        .map(|endpoint| {
            let address = HostPort::new(endpoint.host.clone(), endpoint.port);
            format!("{}://{address}", endpoint.name)
        })
        .collect::<Vec<_>>()
        .join(",");
    let listeners = config
        .listeners
        .iter()
        .map(|listener| format!("{}://{}", listener.name, listener.address))
        .collect::<Vec<_>>()
        .join(",");
    let limits = &config.limits;
    let settings = vec![
        ("advertised.listeners", advertised),
        ("auto.create.topics.enable", config.topics.auto_create.to_string()),
        ("broker.rack", config.rack.clone().unwrap_or_default()),
        ("connections.max.idle.ms", limits.idle_timeout.as_millis().to_string()),
        ("fetch.max.bytes", limits.fetch_size.to_string()),
        ("listeners", listeners),
        ("log.dirs", config.data_dir.display().to_string()),
        (
            "log.retention.check.interval.ms",
            config.log.retention_check_interval.as_millis().to_string(),
        ),
        ("max.connections", limits.connections.to_string()),
        ("node.id", config.broker_id.to_string()),
        ("producer.id.expiration.ms", config.log.producer_id_expiration.as_millis().to_string()),
        ("socket.request.max.bytes", limits.request_size.to_string()),
    ];
    BrokerFacts { settings, topic_defaults: config.topics.defaults.clone() }
}
