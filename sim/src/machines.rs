//! Simulated machines: a disk, a clock, an address, and the daemon that runs there as a supervisor would have it.
//!
//! A machine's program is the daemon's own `start` and `stop`; here is only what stands around it: `kill -9`, power cuts,
//! clean stops with a deadline, restarts a second after an end that nobody asked for.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, anyhow};
use tailway_agent::tail::memory::MemoryFiles;
use tailway_broker::config::RawSink;
use tailway_daemon::daemon::{Context, Daemon, StartError};
use tailway_daemon::ready::Status;
use tailway_daemon::run::STOP_DEADLINE;
use tailway_daemon::{Clock, Deadline};
use tailway_metadata::time::WallMs;
use tailway_net::{HostPort, PeerIdentity, SpiffeId};
use tailway_runtime::sim::{self, HostId, note};
use tailway_storage::{Disk, DiskEvent, SimDisk};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::oracle::DATA_DIR;
use crate::tls::{CLUSTER, TlsFiles};
use crate::vault::Vault;
use crate::writer::{LINES_TOPIC, LOGS_DIR};

/// Where a supervisor starts a program again that ended by itself.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// 2026-11-01.
const WALL_START: WallMs = WallMs(1_793_500_000_000);
const COORDINATOR_PORT: u16 = 9190;
const BROKER_PORT: u16 = 9092;

/// What a machine is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Coordinator,
    Broker(u8),
    Agent(u8),
}

impl Role {
    /// The machine's number, the role in its certificate, and its number there.
    fn identity(self) -> (HostId, &'static str, u8) {
        match self {
            Role::Coordinator => (HostId(1), "coordinator", 0),
            Role::Broker(id) => (HostId(10 + u32::from(id)), "broker", id),
            Role::Agent(id) => (HostId(50 + u32::from(id)), "agent", id),
        }
    }
}

/// How a program ended, once it has.
type Ended = Arc<Mutex<Option<Result<(), String>>>>;

struct Running {
    stop: Option<oneshot::Sender<()>>,
    ended: Ended,
    begun: Instant,
}

/// A machine with one program.
pub(crate) struct Machine {
    pub(crate) host: HostId,
    pub(crate) role: Role,
    disk: SimDisk,
    /// The log files of the programs that run beside an agent.
    files: MemoryFiles,
    drift_ppm: i32,
    /// What this machine's wall clock says at the begin of the run.
    wall: WallMs,
    begun: Instant,
    clock: Option<Clock>,
    running: Option<Running>,
    /// When the supervisor starts it again; `None`: it runs, or is to stay down.
    restart_at: Option<Instant>,
    tls: Arc<TlsFiles>,
    brokers: Vec<HostPort>,
    vault: Vault,
    /// Where its broker forwards to.
    sinks: Vec<RawSink>,
    /// Of the program that runs, or of the last one.
    status: Status,
}

impl Machine {
    pub(crate) fn new(
        role: Role,
        seed: u64,
        drift_ppm: i32,
        tls: &Arc<TlsFiles>,
        brokers: &[HostPort],
        vault: &Vault,
    ) -> Machine {
        let (host, spiffe_role, id) = role.identity();
        sim::add_host(host);
        let id = id.to_string();
        let spiffe = SpiffeId { cluster: CLUSTER.into(), role: spiffe_role.into(), id };
        let identity = PeerIdentity { spiffe: Some(spiffe), ..PeerIdentity::default() };
        tailway_net::sim::add_host(host, address_of(host), Some(identity));
        let machine = Machine {
            host,
            role,
            disk: SimDisk::with_seed(seed),
            files: MemoryFiles::new(Clock::simulated(WALL_START, 0)),
            drift_ppm,
            wall: WALL_START,
            begun: Instant::now(),
            clock: None,
            running: None,
            restart_at: None,
            tls: Arc::clone(tls),
            brokers: brokers.to_vec(),
            vault: vault.clone(),
            sinks: Vec::new(),
            status: Status::new(),
        };
        machine.watch(|_, _| {});
        machine
    }

    /// Has its broker forward to a sink, from its next start on.
    pub(crate) fn forward_to(&mut self, sink: RawSink) {
        self.sinks.push(sink);
    }

    /// Has somebody look at each event of the disk.
    pub(crate) fn watch(&self, look: impl Fn(&SimDisk, &DiskEvent) + Send + Sync + 'static) {
        let host = self.host;
        self.disk.on_event(move |disk, event| {
            note(|| format!("disk of {host} {event}"));
            look(disk, event);
        });
    }

    /// What the program's `/status` says in a section.
    pub(crate) fn status_of(&self, section: &str) -> String {
        self.status.json().get(section).map(ToString::to_string).unwrap_or_default()
    }

    pub(crate) fn name(&self) -> String {
        match self.role {
            Role::Coordinator => "coordinator".to_owned(),
            Role::Broker(id) => format!("broker {id}"),
            Role::Agent(id) => format!("agent {id}"),
        }
    }

    /// The disk as the program that lives now has it.
    pub(crate) fn disk(&self) -> &SimDisk {
        &self.disk
    }

    /// The files that its agent follows.
    pub(crate) fn files(&self) -> &MemoryFiles {
        &self.files
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Starts the program.
    pub(crate) fn start(&mut self) -> Result<()> {
        note(|| format!("start {}", self.name()));
        self.restart_at = None;
        tailway_net::sim::power_on(self.host);
        sim::revive(self.host);
        let elapsed = i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        let clock = Clock::simulated(WallMs(self.wall.0 + elapsed), self.drift_ppm);
        self.clock = Some(clock.clone());
        let (stop, stopped) = oneshot::channel();
        let ended = Ended::default();
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let (tell, context) = (Arc::clone(&ended), Context::new(clock));
        self.status = context.status.clone();
        let name = self.name();
        let tell = move |outcome: Result<(), String>| {
            note(|| {
                format!("{name} ended: {}", outcome.as_ref().err().map_or("clean", |cause| cause))
            });
            *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        };
        match self.role {
            Role::Coordinator => {
                let config = coordinator_config(&self.tls)?;
                sim::spawn_on(self.host, async move {
                    let started =
                        tailway_coordinator::Coordinator::start_on(disk, config, context.clone());
                    tell(life(started.await, context, stopped).await);
                });
            }
            Role::Broker(id) => {
                self.vault.broker_starts(&self.disk);
                let config = broker_config(id, self.host, &self.tls, &self.sinks)?;
                sim::spawn_on(self.host, async move {
                    let started = tailway_broker::Broker::start_on(disk, config, context.clone());
                    tell(life(started.await, context, stopped).await);
                });
            }
            Role::Agent(id) => {
                let config = agent_config(id, &self.brokers)?;
                let files = Arc::new(self.files.clone());
                sim::spawn_on(self.host, async move {
                    let started =
                        tailway_agent::Agent::start_on(disk, files, config, context.clone());
                    tell(life(started.await, context, stopped).await);
                });
            }
        }
        self.running = Some(Running { stop: Some(stop), ended, begun: Instant::now() });
        Ok(())
    }

    /// `kill -9`, and a restart after `pause`.
    pub(crate) fn kill(&mut self, pause: Duration) {
        note(|| format!("kill {}", self.name()));
        self.end();
        self.disk = self.disk.kill();
        self.restart_at = Some(Instant::now() + pause);
    }

    /// The plug is pulled; the power is back after `pause`.
    pub(crate) fn cut_power(&mut self, seed: u64, pause: Duration) {
        note(|| format!("cut the power of {}", self.name()));
        tailway_net::sim::power_off(self.host);
        self.end();
        self.disk = self.disk.crash(seed);
        self.restart_at = Some(Instant::now() + pause);
    }

    fn end(&mut self) {
        sim::kill(self.host);
        self.running = None;
    }

    /// Asks the program to stop.
    pub(crate) fn ask_to_stop(&mut self) {
        note(|| format!("stop {}", self.name()));
        self.restart_at = None;
        if let Some(stop) = self.running.as_mut().and_then(|running| running.stop.take()) {
            // Nobody listens if it ended by itself.
            stop.send(()).ok();
        }
    }

    /// Waits for the end that `ask_to_stop` asked for; the error says what is wrong with it.
    pub(crate) async fn stopped(&mut self) -> Result<(), String> {
        let Some(running) = &self.running else { return Ok(()) };
        let ended = Arc::clone(&running.ended);
        let deadline = Instant::now() + STOP_DEADLINE + Duration::from_secs(5);
        loop {
            let outcome = ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(outcome) = outcome {
                self.end();
                self.disk = self.disk.kill();
                return outcome;
            }
            if Instant::now() >= deadline {
                return Err("it did not stop within its deadline".into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn restart_after(&mut self, pause: Duration) {
        self.restart_at = Some(Instant::now() + pause);
    }

    /// Moves the machine's wall clock.
    pub(crate) fn jump_clock(&mut self, by_ms: i64) {
        note(|| format!("the clock of {} jumps by {by_ms} ms", self.name()));
        self.wall.0 += by_ms;
        if let Some(clock) = &self.clock {
            clock.set_wall(WallMs(clock.wall().0 + by_ms));
        }
    }

    /// What a supervisor does now and then. The text of an end that nobody asked for.
    pub(crate) fn tend(&mut self) -> Result<Option<String>> {
        if self.disk.is_off() {
            // Its power went in the middle of an operation.
            let seed = self.disk.total();
            self.cut_power(seed, RESTART_PAUSE);
            return Ok(None);
        }
        let ended = self.running.as_ref().and_then(|running| {
            running.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
        });
        if let Some(outcome) = ended {
            self.end();
            self.disk = self.disk.kill();
            self.restart_after(RESTART_PAUSE);
            return Ok(outcome.err());
        }
        if self.restart_at.is_some_and(|at| at <= Instant::now()) {
            self.start()?;
        }
        Ok(None)
    }

    /// How long the program has been running.
    pub(crate) fn uptime(&self) -> Option<Duration> {
        self.running.as_ref().map(|running| running.begun.elapsed())
    }
}

pub(crate) fn address_of(host: HostId) -> IpAddr {
    let [_, _, high, low] = host.0.to_be_bytes();
    IpAddr::from([10, 0, high, low])
}

pub(crate) fn broker_host(id: u8) -> HostId {
    Role::Broker(id).identity().0
}

/// Where clients find a broker.
pub(crate) fn broker_address(id: u8) -> HostPort {
    HostPort::new(address_of(broker_host(id)).to_string(), BROKER_PORT)
}

/// A daemon from start to end, as `run_daemon` has it.
async fn life<D: Daemon>(
    started: Result<D, StartError>,
    context: Context,
    stop: oneshot::Receiver<()>,
) -> Result<(), String> {
    let daemon = started.map_err(|error| format!("did not start: {error}"))?;
    let cause = tokio::select! {
        biased;
        cause = context.tasks.failed() => Some(cause),
        _ = stop => None,
    };
    let stopped = daemon.stop(Deadline::after(STOP_DEADLINE)).await;
    match cause {
        Some(cause) => Err(format!("failed: {cause}")),
        None => stopped.map_err(|late| late.to_string()),
    }
}

/// Through the text and back, as a file would come.
fn checked<R, C>(
    raw: &R,
    check: fn(R, tailway_daemon::Problems) -> Result<C, tailway_daemon::Problems>,
) -> Result<C>
where
    R: serde::Serialize + serde::de::DeserializeOwned,
{
    let yaml = tailway_daemon::config::to_yaml(raw).map_err(|error| anyhow!("{error}"))?;
    let path = std::path::Path::new("simulated.yaml");
    let (raw, problems) =
        tailway_daemon::config::load_text(path, &yaml).map_err(|problems| anyhow!("{problems}"))?;
    check(raw, problems).map_err(|problems| anyhow!("{problems}"))
}

fn coordinator_config(tls: &TlsFiles) -> Result<tailway_coordinator::config::Config> {
    use tailway_coordinator::config::{Config, RawConfig, RawCoordinator, RawTls};
    let raw = RawConfig {
        coordinator: RawCoordinator {
            id: 0,
            cluster_id: CLUSTER.to_owned(),
            data_dir: DATA_DIR.into(),
            listen: coordinator_address(),
            tls: RawTls {
                ca: tls.ca(),
                cert: tls.cert("coordinator"),
                key: tls.key("coordinator"),
            },
            ..RawCoordinator::default()
        },
        ..RawConfig::default()
    };
    checked(&raw, Config::check)
}

fn coordinator_address() -> String {
    HostPort::new(address_of(Role::Coordinator.identity().0).to_string(), COORDINATOR_PORT)
        .to_string()
}

fn broker_config(
    id: u8,
    host: HostId,
    tls: &TlsFiles,
    sinks: &[RawSink],
) -> Result<tailway_broker::config::Config> {
    use tailway_broker::config::{
        Config, Protocol, RawBroker, RawConfig, RawCoordinator, RawListener, RawLog, RawTls,
    };
    use tailway_daemon::units::Span;
    let address = HostPort::new(address_of(host).to_string(), BROKER_PORT).to_string();
    let raw = RawConfig {
        broker: RawBroker { id: i32::from(id), data_dir: DATA_DIR.into(), rack: None },
        coordinator: RawCoordinator {
            addresses: vec![coordinator_address()],
            tls: RawTls { ca: Some(tls.ca()), cert: tls.cert("broker"), key: tls.key("broker") },
            ..RawCoordinator::default()
        },
        listeners: vec![RawListener {
            name: "plaintext".to_owned(),
            advertise: address.clone(),
            address,
            protocol: Protocol::Plaintext,
            insecure: true,
            ..RawListener::default()
        }],
        log: RawLog { retention_check_interval: Span::from_secs(5), ..RawLog::default() },
        sinks: sinks.to_vec(),
        ..RawConfig::default()
    };
    checked(&raw, Config::check)
}

fn agent_config(id: u8, brokers: &[HostPort]) -> Result<tailway_agent::Config> {
    use tailway_agent::Config;
    use tailway_agent::config::{RawAgent, RawConfig, RawInput, RawMetrics, RawOutput};
    use tailway_agent::event::Format;
    use tailway_daemon::units::Span;
    let raw = RawConfig {
        agent: RawAgent {
            data_dir: DATA_DIR.into(),
            name: format!("agent-{id}"),
            rescan_interval: Span::from_secs(5),
            ..RawAgent::default()
        },
        output: RawOutput {
            brokers: brokers.iter().map(ToString::to_string).collect(),
            topic: LINES_TOPIC.to_owned(),
            insecure: true,
            tls: None,
            ..RawOutput::default()
        },
        inputs: vec![RawInput {
            id: "logs".to_owned(),
            paths: vec![format!("{LOGS_DIR}/*.log")],
            format: Format::Raw,
            ..RawInput::default()
        }],
        // They are of the machine that simulates.
        metrics: RawMetrics { enabled: false, ..RawMetrics::default() },
        ..RawConfig::default()
    };
    checked(&raw, Config::check)
}
