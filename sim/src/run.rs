//! One seed from begin to verdict: a phase of faults, then healing, then convergence within [`HEALED_WITHIN`], a final
//! drain, clean stops, and the checker over everything that clients saw.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tailway_client::Admin;
use tailway_client::admin::NewTopic;
use tailway_history::Checker;
use tailway_net::HostPort;
use tailway_net::sim::Counts;
use tailway_runtime::sim::{self, HostId, note};
use tailway_wire::error_code::ErrorCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{ClientProcess, Job, Shared, drain, drain_lines, probe};
use crate::history::History;
use crate::ledger::LedgerWatch;
use crate::machines::{Machine, Role, address_of, broker_address};
use crate::nemesis::Nemesis;
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::sink::Sink;
use crate::tls::TlsFiles;
use crate::vault::{self, VAULT_TOPIC, Vault};
use crate::writer::{self, LINES_PARTITIONS, LINES_TOPIC};

/// After the last fault is gone, everything works again within this simulated time.
const HEALED_WITHIN: Duration = Duration::from_secs(30);
/// For the final drain and for answers that are due.
const PATIENCE: Duration = Duration::from_mins(1);
/// For reading the vault, after which it counts as not served.
const VAULT_PATIENCE: Duration = Duration::from_secs(10);
/// For a sink to get what is left, once everybody is quiet: a lane waits half a minute between two attempts at most.
const SINK_PATIENCE: Duration = Duration::from_secs(90);
/// For whoever has given up, to say why.
const GRACE: Duration = Duration::from_secs(15);
/// How often supervisors and the nemesis look.
const TICK: Duration = Duration::from_millis(100);
pub(crate) const TOPIC: &str = "orders";
/// The host of the one who creates the topic, probes and drains: no fault reaches it.
const OPERATOR: HostId = HostId(99);

/// What came of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Verdict {
    /// What must not be; empty is good.
    pub(crate) violations: Vec<String>,
    /// Of everything that happened.
    pub(crate) hash: u64,
    pub(crate) events: u64,
    /// Events until the first violation, if there is one.
    pub(crate) found_at: Option<u64>,
    pub(crate) acknowledged: usize,
    pub(crate) simulated: Duration,
    /// How often what happened, by name.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// The last events as text.
    pub(crate) trace: Vec<String>,
}

/// What the network did and where the programs came, since the begin of the run in this thread.
fn take_counts() -> BTreeMap<&'static str, u64> {
    let Counts { requests_lost, answers_lost, stalled, late, overtaken } =
        tailway_net::sim::counts();
    let mut counts = tailway_faults::take_visits();
    counts.extend([
        ("net.requests_lost", requests_lost),
        ("net.answers_lost", answers_lost),
        ("net.connections_stalled", stalled),
        ("net.late_after_given_up", late),
        ("net.overtaken_by_newer", overtaken),
    ]);
    counts
}

/// Runs a seed.
pub(crate) fn run(seed: u64, tls: &Arc<TlsFiles>, trace_polls: bool) -> Verdict {
    run_plan(Plan::of(seed), tls, trace_polls)
}

/// Runs a plan.
pub(crate) fn run_plan(plan: Plan, tls: &Arc<TlsFiles>, trace_polls: bool) -> Verdict {
    let tls = Arc::clone(tls);
    let seed = plan.seed;
    tailway_net::sim::clear();
    drop(tailway_faults::take_visits());
    let verdict = sim::run(seed, async move {
        if trace_polls {
            sim::trace_polls();
        }
        let begun = Instant::now();
        let mut verdict = Scenario::new(plan, &tls).run().await;
        (verdict.hash, verdict.events) = sim::trace_hash();
        if !verdict.violations.is_empty() {
            verdict.found_at.get_or_insert(verdict.events);
        }
        verdict.counts = take_counts();
        verdict.trace = sim::trace_lines();
        verdict.simulated = begun.elapsed();
        verdict
    });
    tailway_net::sim::clear();
    verdict
}

struct Scenario {
    plan: Plan,
    machines: Vec<Machine>,
    clients: Vec<ClientProcess>,
    shared: Shared,
    vault: Vault,
    sink: Option<Sink>,
    rng: ChaCha8Rng,
}

impl Scenario {
    fn new(plan: Plan, tls: &Arc<TlsFiles>) -> Scenario {
        note(|| format!("{plan:?}"));
        let mut rng = ChaCha8Rng::seed_from_u64(plan.seed ^ 0x5eed);
        sim::add_host(OPERATOR);
        tailway_net::sim::add_host(OPERATOR, address_of(OPERATOR), None);
        let brokers: Vec<HostPort> = (0..plan.brokers).map(broker_address).collect();
        let roles = [Role::Coordinator]
            .into_iter()
            .chain((0..plan.brokers).map(Role::Broker))
            .chain((0..plan.agents).map(Role::Agent));
        let vault = Vault::default();
        let mut machines: Vec<Machine> = roles
            .map(|role| {
                let drift =
                    if plan.drift_ppm == 0 { 0 } else { rng.gen_range(-1..=1) * plan.drift_ppm };
                Machine::new(role, rng.r#gen(), drift, tls, &brokers, &vault)
            })
            .collect();
        let holds = |machine: &&Machine| matches!(machine.role, Role::Broker(_));
        let disks = machines.iter().filter(holds).map(|machine| machine.disk().clone()).collect();
        let shared = Shared {
            history: History::new(),
            brokers,
            topic: TOPIC.to_owned(),
            partitions: plan.partitions,
            quiet: Arc::new(AtomicBool::new(false)),
            oracle: Arc::new(Mutex::new(Oracle::new(disks))),
        };
        for machine in machines.iter().filter(|machine| matches!(machine.role, Role::Agent(_))) {
            let (name, files) = (machine.name(), machine.files().clone());
            let ledger = Mutex::new(LedgerWatch::new(name, files, shared.clone()));
            machine.watch(move |disk, event| {
                ledger.lock().unwrap_or_else(PoisonError::into_inner).look(disk, event);
            });
        }
        let sink = Sink::of(&plan, &shared);
        if let Some(sink) = &sink {
            for machine in machines.iter_mut().filter(|m| matches!(m.role, Role::Broker(_))) {
                let commits = sink.commits();
                machine.forward_to(sink.config());
                machine.watch(move |disk, event| commits.look(disk, event));
            }
        }
        let jobs =
            [(Job::Produce, plan.producers), (Job::Read, plan.readers), (Job::Join, plan.members)];
        let jobs = jobs.into_iter().flat_map(|(job, count)| (0..count).map(move |_| job));
        let clients = jobs
            .zip(1..)
            .map(|(job, number)| ClientProcess::new(number, job, shared.clone()))
            .collect();
        Scenario { plan, machines, clients, shared, vault, sink, rng }
    }

    async fn run(mut self) -> Verdict {
        if let Err(cause) = self.phases().await {
            self.shared.history.violation(cause);
        }
        let acknowledged = self.shared.history.acknowledged();
        let found_at = self.shared.history.found_at();
        let (events, mut violations) = self.shared.history.take();
        // A history that was given up half way misses its drain.
        if violations.is_empty() {
            let oracle = self.shared.oracle();
            violations.extend(oracle.verdict(TOPIC, self.plan.partitions, self.plan.is_calm()));
            drop(oracle);
            let mut checker = Checker::new();
            checker.source("seed");
            for event in &events {
                checker.event(event);
            }
            violations.extend(checker.finish().violations.iter().map(|violation| {
                let lines = violation.lines.iter().filter_map(|line| {
                    let number: usize = line.rsplit(':').next()?.parse().ok()?;
                    events.get(number.checked_sub(1)?).map(tailway_history::Event::to_line)
                });
                let lines: Vec<String> = lines.map(|line| format!("\n    {line}")).collect();
                format!("{violation}{}", lines.concat())
            }));
        }
        let (hash, events) = (0, 0);
        let (simulated, counts, trace) = (Duration::ZERO, BTreeMap::new(), Vec::new());
        Verdict { violations, hash, events, found_at, acknowledged, simulated, counts, trace }
    }

    async fn phases(&mut self) -> Result<(), String> {
        // Agents would create their topic themselves, with a retention that takes records away.
        let agents =
            self.machines.iter().position(|machine| matches!(machine.role, Role::Agent(_)));
        let agents = agents.unwrap_or(self.machines.len());
        for machine in &mut self.machines[..agents] {
            machine.start().map_err(|error| error.to_string())?;
        }
        self.create_topics().await?;
        for machine in &mut self.machines[agents..] {
            machine.start().map_err(|error| error.to_string())?;
        }
        for client in &mut self.clients {
            client.start();
        }
        if let Some(sink) = &self.sink {
            sink.start();
        }
        if self.plan.has_vault() {
            sim::spawn_on(OPERATOR, vault::fill(self.shared.clone(), self.vault.clone()));
            sim::spawn_on(OPERATOR, vault::read(self.shared.clone(), self.vault.clone()));
        }
        let agents = self.machines.iter().filter(|machine| matches!(machine.role, Role::Agent(_)));
        for (machine, number) in agents.zip(1..) {
            let written = writer::run(self.shared.clone(), machine.files().clone(), number);
            sim::spawn_on(HostId::OUTSIDE, written);
        }
        let mut nemesis =
            Nemesis::new(ChaCha8Rng::seed_from_u64(self.rng.r#gen()), &self.plan.strikes);
        let end = Instant::now() + self.plan.safety;
        while Instant::now() < end && self.shared.history.is_clean() {
            nemesis.act(&mut self.machines, &mut self.clients).await?;
            if let Some(sink) = &mut self.sink {
                sink.act();
            }
            self.tend()?;
            sleep(TICK).await;
        }
        nemesis.heal(&mut self.machines);
        if let Some(sink) = &mut self.sink {
            sink.heal();
        }
        self.converge().await?;
        self.settle().await
    }

    /// Supervisors at work. A program that does not start at all, with its disk well, is a finding; that is seen later,
    /// by what does not converge.
    fn tend(&mut self) -> Result<(), String> {
        for machine in &mut self.machines {
            machine.tend().map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Runs what the operator does, with supervisors at work meanwhile.
    async fn operate<F>(&mut self, doing: &str, patience: Duration, work: F) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        note(|| format!("OPERATOR {doing}"));
        let (tell, mut told) = oneshot::channel();
        sim::spawn_on(OPERATOR, async move {
            // The scenario may have given up.
            drop(tell.send(work.await));
        });
        let deadline = Instant::now() + patience;
        loop {
            match timeout(TICK, &mut told).await {
                Ok(Ok(outcome)) => return outcome.map_err(|cause| format!("{doing}: {cause}")),
                Ok(Err(_)) => return Err(format!("{doing}: its task is gone")),
                Err(_) if Instant::now() >= deadline => {
                    return Err(format!("{doing}: no end after {patience:?}"));
                }
                Err(_) => self.tend()?,
            }
        }
    }

    async fn create_topics(&mut self) -> Result<(), String> {
        let mut topics = vec![(TOPIC, self.plan.partitions), (LINES_TOPIC, LINES_PARTITIONS)];
        topics.extend(self.plan.has_vault().then_some((VAULT_TOPIC, 1)));
        for (name, partitions) in topics {
            self.create_topic(name, partitions).await?;
        }
        Ok(())
    }

    async fn create_topic(&mut self, name: &str, partitions: i32) -> Result<(), String> {
        let mut topic = NewTopic::new(name);
        topic.partitions = Some(partitions);
        let mut configs = vec![
            ("segment.bytes", self.plan.segment_bytes.to_string()),
            ("index.interval.bytes", self.plan.index_interval_bytes.to_string()),
            ("retention.ms", "-1".to_owned()),
        ];
        if self.plan.log_append_time {
            configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
        }
        topic.configs = configs.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let admin = Admin::new(self.shared.client("operator"));
        self.operate("create the topic", HEALED_WITHIN, async move {
            loop {
                match admin.create_topic(&topic).await {
                    Ok(_) => return Ok(()),
                    // No broker has registered yet, or the answer was lost.
                    Err(error)
                        if error.is_retriable()
                            || error.code() == Some(ErrorCode::INVALID_REPLICATION_FACTOR) =>
                    {
                        sleep(TICK).await;
                    }
                    Err(error) if error.code() == Some(ErrorCode::TOPIC_ALREADY_EXISTS) => {
                        return Ok(());
                    }
                    Err(error) => return Err(error.to_string()),
                }
            }
        })
        .await
    }

    /// Everything is whole again: within the limit every partition takes records and every machine is up.
    async fn converge(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        let shared = self.shared.clone();
        // A while longer than the probe itself, which knows what stood in its way.
        let probing = probe(shared, HEALED_WITHIN);
        self.operate("I8: probe after healing", HEALED_WITHIN + GRACE, probing).await?;
        while let Some(down) = self.machines.iter().find(|machine| machine.uptime().is_none()) {
            if begun.elapsed() > HEALED_WITHIN {
                return Err(format!("{} is still down after healing", down.name()));
            }
            self.tend()?;
            sleep(TICK).await;
        }
        Ok(())
    }

    /// No more records; everything that is due is answered; all is read once more; all stop cleanly.
    async fn settle(&mut self) -> Result<(), String> {
        self.shared.quiet.store(true, Ordering::Relaxed);
        let history = self.shared.history.clone();
        let deadline = Instant::now() + PATIENCE;
        // Sends of killed clients stay unanswered; those of the others end with their delivery timeout.
        while Instant::now() < deadline && history.is_clean() && history.waiting() {
            self.tend()?;
            sleep(TICK).await;
        }
        let shared = self.shared.clone();
        self.operate("final drain", PATIENCE, drain(shared, PATIENCE)).await?;
        if self.plan.agents > 0 {
            let count = history.lines();
            let draining = drain_lines(self.shared.clone(), count, PATIENCE);
            self.operate("drain of the agents' lines", 2 * PATIENCE, draining).await?;
        }
        if self.plan.has_vault() {
            self.judge_vault().await?;
        }
        self.judge_sink().await?;
        for client in &self.clients {
            client.kill();
        }
        // Any order must do.
        let first = self.rng.gen_range(0..self.machines.len());
        let count = self.machines.len();
        for index in (0..count).map(|index| (index + first) % count) {
            let machine = &mut self.machines[index];
            machine.ask_to_stop();
            machine.stopped().await.map_err(|cause| format!("{}: {cause}", machine.name()))?;
        }
        Ok(())
    }

    /// Everything that is durable has arrived, once.
    async fn judge_sink(&mut self) -> Result<(), String> {
        let Some(sink) = &self.sink else { return Ok(()) };
        let judging = sink.judge(self.plan.partitions, SINK_PATIENCE);
        let judged = self.operate("sink", SINK_PATIENCE + GRACE, judging).await;
        judged.map_err(|cause| {
            let said: Vec<String> =
                self.machines.iter().map(|machine| machine.status_of("sinks")).collect();
            format!("{cause}; the broker says {}", said.concat())
        })
    }

    /// The log that rots is read as a whole, or a broker's status says why it is not.
    async fn judge_vault(&mut self) -> Result<(), String> {
        let inspecting = vault::inspect(self.shared.clone(), self.vault.clone(), VAULT_PATIENCE);
        let Err(cause) = self.operate("look at the vault", PATIENCE, inspecting).await else {
            return Ok(());
        };
        note(|| format!("the vault is not served: {cause}"));
        let said = |machine: &Machine| {
            let sections = ["partitions", "failed_partitions", "recovery"];
            sections.iter().any(|section| {
                let text = machine.status_of(section);
                text.contains(VAULT_TOPIC) && text.contains("quarantined: ")
            })
        };
        if self.machines.iter().any(said) {
            return Ok(());
        }
        Err(format!("rot: {VAULT_TOPIC}-0 is not served, and no broker's status says why: {cause}"))
    }
}
