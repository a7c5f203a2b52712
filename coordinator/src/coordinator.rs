//! The coordinator as a daemon: opens its data, leads, listens, and stops in reverse.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tailway_daemon::certificates::{OwnAnswer, OwnPapers};
use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::{
    Certificates, Context, Daemon, Deadline, MetricsListener, Problems, StartError, Stragglers,
    Tasks,
};
use tailway_metadata::enrollment::{Enrolled, Trust};
use tailway_metadata::security::{IssuedCertificate, Security as Members, Serial, Sha256};
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterImage, DirectoryId, Role};
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{Limits, Listener, PeerIdentity, Security, ServerTls};
use tailway_storage::{DirLock, Disk, FsDisk, StorageError};
use tokio::sync::{mpsc, watch};

use crate::api::enrollment::Enrollment;
use crate::api::membership::{certify, trust};
use crate::api::server::Server;
use crate::api::service::Service;
use crate::authorities::Authorities;
use crate::authority::{self, AuthorityError};
use crate::config::{Config, RawTls};
use crate::driver::{self, Driver};
use crate::identity::{IDENTITY_FILE, Identity, IdentityError};
use crate::machine::controller::Controller;
use crate::machine::{Grant, Settings};
use crate::metrics::CoordinatorMetrics;
use crate::quorum::feed::Feed;
use crate::quorum::node::{LOG_FILE, Node, NodeError, NodeSettings, Proposer, SNAPSHOT_FILE};
use crate::rotation;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts that become members at the same time.
const ENROLLING_MAX: usize = 64;

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    context: Context,
    node: Node,
    address: std::net::SocketAddr,
    enrolls_at: Option<std::net::SocketAddr>,
    _lock: DirLock,
}

impl Coordinator {
    /// As [`Daemon::start`], with everything durable on `disk`.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        config: Config,
        context: Context,
    ) -> Result<Coordinator, StartError> {
        start(disk, config, context).await
    }

    /// Where it listens: the real port, if the configuration says 0.
    pub fn address(&self) -> std::net::SocketAddr {
        self.address
    }

    /// Where hosts become members, if they do here.
    pub fn enrolls_at(&self) -> Option<std::net::SocketAddr> {
        self.enrolls_at
    }
}

impl Daemon for Coordinator {
    const NAME: &'static str = "tailway-coordinator";
    const ABOUT: &'static str = "Keeps what a Tailway cluster is: brokers, topics, leaders. Brokers connect to it over mutual TLS.";
    const CONFIG_PATH: &'static str = "/etc/tailway/coordinator.yaml";

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

    async fn start(config: Config, context: Context) -> Result<Coordinator, StartError> {
        start(FsDisk::shared(), config, context).await
    }

    async fn stop(self, deadline: Deadline) -> Result<(), Stragglers> {
        let tasks = self.context.tasks.stop(deadline).await;
        let raft = match deadline.run(self.node.stop()).await {
            Some(()) => Ok(()),
            None => Err(Stragglers(vec!["raft".into()])),
        };
        Stragglers::collect([tasks, raft])
    }
}

async fn start(
    disk: Arc<dyn Disk>,
    config: Config,
    context: Context,
) -> Result<Coordinator, StartError> {
    let ready = context.ready.condition("raft", "the coordinator is starting");
    let (lock, identity) = claim(Arc::clone(&disk), &config).await?;
    let membership = open_authority(Arc::clone(&disk), &config, context.clock.wall()).await?;
    // Bound before the data is touched: a held port is the likeliest mistake, and costs nothing to find.
    let limits =
        Limits { connections_max: config.connections, handshake_timeout: HANDSHAKE_TIMEOUT };
    let listener = Listener::bind(&config.listen, Security::Tls(config.tls.clone()), limits)
        .await
        .map_err(|error| {
            StartError::new(format!("cannot listen on {}", error.address))
                .because(error.cause)
                .next(error.next)
        })?;
    let address = listener.local_addr();
    let enrollment = bind_enrollment(&config, membership.authorities.as_deref()).await?;
    let settings = NodeSettings::new(
        config.id,
        config.listen.to_string(),
        *identity.directory_id.0.as_bytes(),
    );
    let node = Node::start(disk, &config.data_dir, settings)
        .await
        .map_err(|error| node_error(&config.data_dir, &error))?;
    if node.recovery().torn_bytes > 0 {
        let torn_bytes = node.recovery().torn_bytes;
        tracing::info!(torn_bytes, "an unfinished append was cut off the Raft log");
    }
    let metrics = CoordinatorMetrics::new(&context.metrics);
    show(&context, &node, &config);
    let (calls, queue) = mpsc::channel(driver::QUEUE);
    let starting = Err("the coordinator is starting".to_owned());
    let (leadership, leads) = watch::channel(starting);
    let service = Service {
        cluster_id: config.settings.cluster_id.clone(),
        port: address.port(),
        enrollment_port: enrollment.as_ref().map(|(listener, _)| listener.local_addr().port()),
        calls,
        feed: node.feed().clone(),
        leadership: leads,
        metrics: metrics.clone(),
        clock: context.clock.clone(),
        keeps_own: keeps_own(&config.tls_files) && membership.authorities.is_some(),
        authorities: membership.authorities,
        certificate_lifetime: config.certificate_lifetime,
    };
    let enrolls_at = enrollment.as_ref().map(|(listener, _)| listener.local_addr());
    let own = service.keeps_own.then(|| own_papers(&service, &config.tls_files, config.id));
    let servers = [config.tls].into_iter().chain(config.metrics_listener.map(|it| it.tls));
    serve_members(enrollment, &service, (servers.collect(), own), &context);
    let settings = Settings { first_certificates: membership.first, ..config.settings };
    let driver = Driver {
        controller: Controller::new(settings),
        node_id: config.id,
        proposer: node.proposer(),
        feed: node.feed().clone(),
        clock: context.clock.clone(),
        calls: queue,
        leadership,
        ready,
        metrics: metrics.clone(),
        tasks: context.tasks.clone(),
    };
    context.tasks.spawn_watched("controller", |stop| driver.run(stop));
    watch_log(&node, &context.tasks);
    Server::start(listener, service, metrics, &context.tasks);
    tracing::info!(%address, data_dir = %config.data_dir.display(), "brokers may connect (mutual TLS)");
    Ok(Coordinator { context, node, address, enrolls_at, _lock: lock })
}

/// What the CA's directory has.
struct OwnCa {
    authorities: Option<Arc<Authorities>>,
    first: Vec<IssuedCertificate>,
}

async fn open_authority(
    disk: Arc<dyn Disk>,
    config: &Config,
    now: WallMs,
) -> Result<OwnCa, StartError> {
    let dir = config.data_dir.join(authority::DIR);
    let what = format!("cannot use the CA in {}", dir.display());
    let open = move || -> Result<OwnCa, AuthorityError> {
        let authorities = Authorities::open(Arc::clone(&disk), &dir)?.map(Arc::new);
        let first = authority::load_first(disk.as_ref(), &dir, now)?;
        Ok(OwnCa { authorities, first })
    };
    match tailway_runtime::spawn_blocking(open).await {
        Ok(Ok(own)) => Ok(own),
        Ok(Err(error)) => Err(StartError::new(what)
            .cause(error)
            .next("correct that, or restore the directory from a backup")
            .config()),
        Err(error) => Err(StartError::new(what).cause(error)),
    }
}

/// The enrolment listener, if one is configured. Its chain shows the CA, by which a token's bearer knows us.
async fn bind_enrollment(
    config: &Config,
    authorities: Option<&Authorities>,
) -> Result<Option<(Listener, ServerTls)>, StartError> {
    let Some(address) = &config.enrollment else { return Ok(None) };
    let what = format!("cannot let hosts become members on {address}");
    let Some(authorities) = authorities else {
        return Err(StartError::new(what)
            .because("this coordinator has no CA of its own")
            .next("`tailway coordinator init` makes one; or leave coordinator.enrollment.listen empty")
            .config());
    };
    let (cert, key) = (&config.tls_files.cert, &config.tls_files.key);
    // What the state says is shown once it is read.
    let tls = ServerTls::showing(cert, key, authorities.shown(&Members::default()))
        .map_err(|error| StartError::new(what.clone()).cause(error).config())?;
    let limits = Limits { connections_max: ENROLLING_MAX, handshake_timeout: HANDSHAKE_TIMEOUT };
    let bound = Listener::bind(address, Security::Tls(tls.clone()), limits).await;
    bound
        .map(|listener| Some((listener, tls)))
        .map_err(|error| StartError::new(what).because(error.cause).next(error.next))
}

/// Lets hosts become members, and keeps the certificates of all listeners.
fn serve_members(
    enrollment: Option<(Listener, ServerTls)>,
    service: &Service,
    (mut servers, own): (Vec<ServerTls>, Option<OwnPapers>),
    context: &Context,
) {
    for tls in &servers {
        let feed = service.feed.clone();
        tls.refuse_revoked(move |serial| feed.image().security.is_revoked(serial));
    }
    let mut shown = None;
    if let Some((listener, tls)) = enrollment {
        servers.push(tls.clone());
        shown = Some(tls);
        tracing::info!(address = %listener.local_addr(), "hosts with a token may become members");
        Enrollment::start(listener, service.clone(), &context.tasks);
    }
    rotation::follow(service, shown, &context.tasks);
    Certificates { servers, clients: Vec::new(), own }.keep(context);
}

/// Whether the coordinator's certificate is one that `coordinator init` made, which has its key in the same file.
fn keeps_own(files: &RawTls) -> bool {
    files.cert == files.key
}

/// This coordinator's own next certificate, decided and signed here as for every member, and whom it is to trust.
fn own_papers(service: &Service, files: &RawTls, id: u64) -> OwnPapers {
    let (renewing, cert) = (service.clone(), files.cert.clone());
    let renewal = move |csr: String| {
        let (service, cert) = (renewing.clone(), cert.clone());
        let renewed = async move {
            let grant = Grant::Renewal { serial: present(cert).await?, role: Role::Coordinator };
            let renewed = certify(&service, grant, id.to_string(), Vec::new(), &csr).await;
            renewed.map_err(|refusal| refusal.text)
        };
        Box::pin(renewed) as OwnAnswer<Enrolled>
    };
    let (trusting, cert) = (service.clone(), files.cert.clone());
    let trust = move |trusts: Vec<Sha256>| {
        let (service, cert) = (trusting.clone(), cert.clone());
        let told = async move {
            let told = trust(&service, &present(cert).await?, &trusts).await;
            told.map_err(|refusal| refusal.text)
        };
        Box::pin(told) as OwnAnswer<Trust>
    };
    OwnPapers { renewal: Box::new(renewal), trust: Box::new(trust) }
}

/// The serial number of the certificate in a file.
async fn present(cert: PathBuf) -> Result<Serial, String> {
    let read = move || read_certificates(TlsFile::Certificate, &cert);
    let chain = tailway_runtime::spawn_blocking(read).await.map_err(|error| error.to_string())?;
    let chain = chain.map_err(|error| error.to_string())?;
    let identity = chain.first().and_then(PeerIdentity::from_certificate);
    Ok(identity.map(|identity| identity.serial).unwrap_or_default())
}

/// Ends the program when its log cannot be written, and not only at the next write: a supervisor starts it again, and
/// brokers do not wait for one that can decide nothing.
fn watch_log(node: &Node, tasks: &Tasks) {
    let (mut failure, all) = (node.log_failure(), tasks.clone());
    tasks.spawn("raft log", |mut stop| async move {
        let failed = stop.unless(failure.wait_for(Option::is_some)).await;
        let cause = failed.and_then(Result::ok).and_then(|cause| cause.clone());
        if let Some(cause) = cause {
            all.fail(format!("the Raft log cannot be written: {cause}"));
        }
    });
}

/// Locks the data directory and makes sure that it is ours.
async fn claim(disk: Arc<dyn Disk>, config: &Config) -> Result<(DirLock, Identity), StartError> {
    let (dir, id) = (config.data_dir.clone(), config.id);
    let cluster_id = config.settings.cluster_id.clone();
    let claim = move || -> Result<(DirLock, Identity), IdentityError> {
        disk.create_dir_all(&dir)?;
        let lock = disk.lock_dir(&dir)?;
        let fresh = DirectoryId(tailway_runtime::uuid());
        let data_files = [LOG_FILE, SNAPSHOT_FILE];
        let identity = Identity::claim(disk.as_ref(), &dir, (&cluster_id, id), fresh, &data_files)?;
        Ok((lock, identity))
    };
    let what = format!("cannot use the data directory {}", config.data_dir.display());
    match tailway_runtime::spawn_blocking(claim).await {
        Ok(Ok(claimed)) => Ok(claimed),
        Ok(Err(error)) => Err(identity_error(what, &error)),
        Err(error) => Err(StartError::new(what).cause(error)),
    }
}

fn identity_error(what: String, error: &IdentityError) -> StartError {
    let start = StartError::new(what).cause(error);
    match error {
        IdentityError::Disk(StorageError::Locked { .. }) => start
            .next("stop the other coordinator, or set coordinator.data_dir to another directory"),
        IdentityError::Disk(_) => {
            start.next("check that the directory exists and may be written by this user")
        }
        IdentityError::OtherCluster { .. } | IdentityError::OtherCoordinator { .. } => start
            .next("correct coordinator.cluster_id, coordinator.id or coordinator.data_dir")
            .config(),
        IdentityError::Malformed { .. } | IdentityError::Incomplete { .. } => start
            .next(format!("restore the whole directory, {IDENTITY_FILE} included, from one backup"))
            .config(),
    }
}

fn node_error(dir: &Path, error: &NodeError) -> StartError {
    let start = StartError::new(format!("cannot start Raft in {}", dir.display())).cause(error);
    match error {
        NodeError::OtherVoters { .. } => start.next("correct coordinator.id").config(),
        NodeError::SnapshotMissing { .. } => start.config(),
        NodeError::Log(_) | NodeError::Snapshot(_) => {
            start.next("look at the file named above; restore the whole directory from one backup if it is damaged")
        }
        NodeError::Raft(_) => start.next("look at the messages above"),
    }
}

/// What `/status` shows.
fn show(context: &Context, node: &Node, config: &Config) {
    let (proposer, id) = (node.proposer(), config.id);
    let cluster_id = config.settings.cluster_id.clone();
    context.status.section("cluster_id", move || json!(cluster_id));
    context.status.section("raft", move || raft_status(&proposer, id));
    let feed = node.feed().clone();
    context.status.section("metadata", move || metadata_status(&feed));
    let feed = node.feed().clone();
    context.status.section("brokers", move || brokers_status(&feed.image()));
    let feed = node.feed().clone();
    context.status.section("topics", move || topics_status(&feed.image()));
}

fn raft_status(proposer: &Proposer, id: u64) -> Value {
    let raft = proposer.status(id);
    json!({
        "id": id,
        "term": raft.term,
        "leader": raft.leader,
        "leads": raft.leads,
        "voters": raft.voters,
        "last_log_index": raft.last_log_index,
        "last_applied_index": raft.last_applied_index,
        "snapshot_index": raft.snapshot_index,
        "failure": raft.failure,
    })
}

fn metadata_status(feed: &Feed) -> Value {
    let image = feed.image();
    json!({
        "log_id": image.log_id,
        "last_offset": image.offset.0 - 1,
        "end_offset": image.offset,
        "next_producer_id": image.next_producer_id,
    })
}

fn brokers_status(image: &ClusterImage) -> Value {
    image.brokers.values().map(|broker| json!(broker)).collect()
}

/// Topics shown in `/status`; `count` counts them all.
const TOPICS_SHOWN: usize = 100;

fn topics_status(image: &ClusterImage) -> Value {
    let topics: Vec<Value> = image.topics().take(TOPICS_SHOWN).map(|topic| json!(topic)).collect();
    json!({ "count": image.topics().len(), "first": topics })
}
