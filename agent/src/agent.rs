//! The agent as a daemon: what it opens, in which order, and how it stops.
//!
//! Start: data directory and its lock, who we are, the journal, then the shipper's thread and the
//! tasks. It is ready when the files are found, whether or not a broker answers: what cannot be
//! sent waits in the files. Stop: the shipper sends what is read and waits for its answers, then
//! everything else ends.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tailway_client::{Client, ClientConfig};
use tailway_daemon::config::common::{AdminConfig, LoggingConfig};
use tailway_daemon::ready::Condition;
use tailway_daemon::{
    Certificates, Context, Daemon, Deadline, MetricsListener, Problems, Pulse, StartError,
    Stragglers, Tasks,
};
use tailway_storage::{DirLock, Disk, FsDisk, OpenMode, StorageError, atomic_replace};
use tokio::sync::watch;

use crate::config::Config;
use crate::event::Sender;
use crate::host::sampler::{self, Sampler};
use crate::metrics::AgentMetrics;
use crate::output::inbox::{Inbox, Message};
use crate::registry::{Registry, RegistryError};
use crate::ship::{self, Parts, ShipError, Shipper};
use crate::tail::files::TailFiles;
use crate::tail::os::OsFiles;

pub(crate) const IDENTITY_FILE: &str = "agent.json";
const JOURNAL_FILE: &str = "journal";
const IDENTITY_VERSION: u16 = 1;
const SHIPPER_STACK_BYTES: usize = 1 << 20;
/// What the shipper leaves of the stop's deadline to everything else.
const STOP_SHARE: Duration = Duration::from_secs(2);

/// The running agent.
#[derive(Debug)]
pub struct Agent {
    inbox: Inbox,
    tasks: Tasks,
    ended: watch::Receiver<Option<Result<(), String>>>,
    _lock: DirLock,
}

/// `agent.json`: who this agent is, for ever.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    version: u16,
    agent_id: String,
}

/// What lies in the data directory.
struct Opened {
    lock: DirLock,
    identity: Identity,
    registry: Registry,
}

impl Daemon for Agent {
    const NAME: &'static str = "tailway-agent";
    const ABOUT: &'static str = "Follows files, samples the host, and ships both to Kafka";
    const CONFIG_PATH: &'static str = "/etc/tailway/agent.yaml";

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

    async fn start(config: Config, context: Context) -> Result<Self, StartError> {
        Self::start_on(Arc::new(FsDisk), Arc::new(OsFiles), config, context).await
    }

    async fn stop(mut self, deadline: Deadline) -> Result<(), Stragglers> {
        let left = deadline.remaining();
        let share = left.saturating_sub(STOP_SHARE.min(left / 2));
        self.inbox.send(Message::Stop(share));
        let ended = deadline.run(self.ended.wait_for(Option::is_some)).await.is_some();
        let shipper = if ended { Ok(()) } else { Err(Stragglers(vec!["shipper".to_owned()])) };
        Stragglers::collect([shipper, self.tasks.stop(deadline).await])
    }
}

impl Agent {
    /// Starts with its own state on `disk` and following the files in `source`.
    pub async fn start_on(
        disk: Arc<dyn Disk>,
        source: Arc<dyn TailFiles>,
        config: Config,
        context: Context,
    ) -> Result<Self, StartError> {
        let data_dir = config.data_dir.clone();
        let opened = tailway_runtime::spawn_blocking(move || open(disk, &data_dir)).await;
        let opened =
            opened.map_err(|cause| StartError::new("cannot open the data").cause(cause))?;
        let Opened { lock, identity, registry } = opened?;
        let config = Arc::new(config);
        let sender = sender_of(&config, &identity);
        let client = client_of(&config, &sender);
        let inbox = Inbox::default();
        let metrics = AgentMetrics::new(&context.metrics);
        let report = Arc::new(Mutex::new(Value::Null));
        show_status(&context, &config, &sender, &report);
        let clients = config.output.tls.iter().cloned().collect();
        let servers = config.metrics_listener.iter().map(|metrics| metrics.tls.clone()).collect();
        Certificates { servers, clients, own: None }.keep(&context);
        if let Some(metrics_config) = config.metrics.clone() {
            let sampler = Sampler::new(metrics_config, sender.clone());
            let (client, clock, metrics) = (client.clone(), context.clock.clone(), metrics.clone());
            let task = |stop| sampler::run(sampler, client, clock, metrics, stop);
            context.tasks.spawn_watched("host metrics", task);
        }
        let parts = Parts {
            config,
            sender,
            clock: context.clock.clone(),
            inbox: inbox.clone(),
            registry,
            source,
            client,
            tasks: context.tasks.group("output"),
            metrics,
            report,
        };
        let ended = spawn_shipper(parts, &context)?;
        Ok(Self { inbox, tasks: context.tasks, ended, _lock: lock })
    }
}

type End = watch::Sender<Option<Result<(), String>>>;

/// Starts the shipper's thread. Its end, however it comes, is in the channel.
fn spawn_shipper(
    parts: Parts,
    context: &Context,
) -> Result<watch::Receiver<Option<Result<(), String>>>, StartError> {
    let (end, ended) = watch::channel(None);
    let found = context.ready.condition("files", "the files to follow are being looked for");
    start_driver(Shipper::new(parts), found, end, context.tasks.pulses().of("shipper"))?;
    let (mut watched, tasks) = (ended.clone(), context.tasks.clone());
    context.tasks.spawn("shipper", |mut stop| async move {
        // At a stop the shipper is asked by the agent itself.
        let cause = match stop.unless(watched.wait_for(Option::is_some)).await {
            None => return,
            Some(Err(_)) => "the shipper's thread died".to_owned(),
            Some(Ok(ended)) => match &*ended {
                Some(Err(cause)) => cause.clone(),
                _ => return,
            },
        };
        tasks.fail(cause);
    });
    Ok(ended)
}

fn start_driver(
    shipper: Shipper,
    found: Condition,
    end: End,
    pulse: Option<Pulse>,
) -> Result<(), StartError> {
    let tell = move |result: Result<(), ShipError>| {
        end.send_replace(Some(result.map_err(|error| error.to_string())));
    };
    #[cfg(feature = "sim")]
    if tailway_runtime::sim::current().is_some() {
        let life = async move {
            tell(ship::drive_simulated(shipper, || found.holds()).await);
        };
        drop(tailway_runtime::spawn(life));
        return Ok(());
    }
    let runtime = tokio::runtime::Handle::current();
    std::thread::Builder::new()
        .name("shipper".to_owned())
        .stack_size(SHIPPER_STACK_BYTES)
        .spawn(move || {
            let _entered = runtime.enter();
            tell(ship::drive(shipper, || found.holds(), pulse));
        })
        .map_err(|cause| StartError::new("cannot start the shipper's thread").cause(cause))?;
    Ok(())
}

fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Opened, StartError> {
    let failed = |what: &str, error: StorageError| {
        StartError::new(format!("cannot {what} {}", dir.display())).cause(error)
    };
    disk.create_dir_all(dir).map_err(|error| failed("make the data directory", error))?;
    let lock = disk.lock_dir(dir).map_err(|error| {
        failed("lock the data directory", error)
            .next("stop the other agent, or name another agent.data_dir")
    })?;
    let identity = identity_in(&disk, dir)
        .map_err(|error| StartError::new("cannot tell which agent this is").cause(error))?;
    let path = dir.join(JOURNAL_FILE);
    let (registry, recovery) =
        Registry::open(disk, &path).map_err(|error| damaged(&path, error))?;
    if recovery.torn_bytes > 0 {
        tracing::warn!(
            bytes = recovery.torn_bytes,
            "cut an unfinished record off the journal: the last run ended in the middle of it"
        );
    }
    Ok(Opened { lock, identity, registry })
}

fn damaged(path: &Path, error: RegistryError) -> StartError {
    StartError::new(format!("cannot use the journal {}", path.display())).cause(error).next(
        "look at the disk; as a last resort move the journal away: files are then read from their start again",
    )
}

fn identity_in(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Identity, IdentityError> {
    let path = dir.join(IDENTITY_FILE);
    if disk.exists(&path)? {
        let file = disk.open(&path, OpenMode::Read)?;
        let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or_default()];
        file.read_exact_at(&mut bytes, 0)?;
        return serde_json::from_slice(&bytes)
            .map_err(|cause| IdentityError::Unreadable { path, cause });
    }
    let agent_id = tailway_runtime::uuid().to_string();
    let identity = Identity { version: IDENTITY_VERSION, agent_id };
    let text = json!(identity).to_string();
    atomic_replace(disk.as_ref(), &path, text.as_bytes())?;
    Ok(identity)
}

#[derive(Debug, thiserror::Error)]
enum IdentityError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable { path: PathBuf, cause: serde_json::Error },
}

fn sender_of(config: &Config, identity: &Identity) -> Sender {
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    Sender {
        name: config.name.clone().unwrap_or(host),
        id: identity.agent_id.clone(),
        ephemeral_id: tailway_runtime::uuid().to_string(),
        beat_version: config.beat_version.clone(),
    }
}

fn client_of(config: &Config, sender: &Sender) -> Client {
    let output = &config.output;
    if output.tls.is_none() {
        tracing::warn!(
            "events are sent in PLAINTEXT, as output.insecure asks for: anybody on the way can read and change them"
        );
    }
    let client =
        ClientConfig::new(output.brokers.clone(), format!("tailway-agent {}", sender.name));
    let client = client.with_tls(output.tls.clone()).with_request_timeout(output.request_timeout);
    Client::new(client)
}

fn show_status(context: &Context, config: &Config, sender: &Sender, report: &Arc<Mutex<Value>>) {
    let who = json!({
        "name": sender.name,
        "id": sender.id,
        "version": tailway_daemon::VERSION,
        "data_dir": config.data_dir.display().to_string(),
    });
    context.status.section("agent", move || who.clone());
    let report = Arc::clone(report);
    context.status.section("shipper", move || {
        // Replaced whole by its writer, so a panic there leaves the last good one.
        report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    });
}
