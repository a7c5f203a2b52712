//! The three daemons of one dev run: started in order, each ready before the next, and stopped in reverse.
//!
//! They are started through the `Daemon` trait from the YAML files, exactly as three processes would be.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use tailway_agent::Agent;
use tailway_broker::Broker;
use tailway_coordinator::Coordinator;
use tailway_daemon::{Clock, Context, Daemon, Deadline, Hosted, Problems, Stragglers};

use super::dir::DevDir;

/// How long one daemon may take to become ready.
const READY_TIMEOUT: Duration = Duration::from_secs(20);

/// A configuration that was written here and yet is refused: its problems are shown as they are (exit 78).
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadConfig(pub(crate) String);

/// What runs. `None` while it has not been started.
#[derive(Default)]
pub(crate) struct System {
    coordinator: Option<Hosted<Coordinator>>,
    broker: Option<Hosted<Broker>>,
    agent: Option<Hosted<Agent>>,
}

impl System {
    /// Starts what is not yet running. After an error, `stop` stops what was started.
    pub(crate) async fn start(&mut self, dir: &DevDir, clock: &Clock) -> Result<()> {
        self.start_servers(dir, clock).await?;
        start_one(&mut self.agent, &dir.config("agent"), clock).await
    }

    /// Starts coordinator and broker only.
    pub(crate) async fn start_servers(&mut self, dir: &DevDir, clock: &Clock) -> Result<()> {
        start_one(&mut self.coordinator, &dir.config("coordinator"), clock).await?;
        start_one(&mut self.broker, &dir.config("broker"), clock).await
    }

    /// Name and context of each that runs, in the order of their start.
    pub(crate) fn contexts(&self) -> Vec<(&'static str, &Context)> {
        let coordinator = self.coordinator.as_ref().map(|d| (Coordinator::NAME, d.context()));
        let broker = self.broker.as_ref().map(|d| (Broker::NAME, d.context()));
        let agent = self.agent.as_ref().map(|d| (Agent::NAME, d.context()));
        [coordinator, broker, agent].into_iter().flatten().collect()
    }

    /// The agent's context, while it runs.
    pub(crate) fn agent(&self) -> Option<&Context> {
        self.agent.as_ref().map(Hosted::context)
    }

    /// Conditions that do not hold: `tailway-broker: ...`.
    pub(crate) fn not_ready(&self) -> Vec<String> {
        let reasons = |(name, context): (&str, &Context)| -> Vec<String> {
            let reasons = context.ready.reasons();
            reasons.into_iter().map(|(_, reason)| format!("{name}: {reason}")).collect()
        };
        self.contexts().into_iter().flat_map(reasons).collect()
    }

    /// Returns when one of them cannot go on, with its name and the cause.
    pub(crate) async fn failed(&self) -> String {
        let one = async |index: usize| match self.contexts().get(index) {
            Some((name, context)) => format!("{name}: {}", context.tasks.failed().await),
            None => std::future::pending().await,
        };
        tokio::select! {
            biased;
            cause = one(0) => cause,
            cause = one(1) => cause,
            cause = one(2) => cause,
        }
    }

    /// Agent, broker, coordinator; one deadline for all.
    pub(crate) async fn stop(&mut self, deadline: Deadline) -> Result<(), Stragglers> {
        Stragglers::collect([
            stop_one(self.agent.take(), deadline).await,
            stop_one(self.broker.take(), deadline).await,
            stop_one(self.coordinator.take(), deadline).await,
        ])
    }
}

async fn start_one<D: Daemon>(
    slot: &mut Option<Hosted<D>>,
    config: &Path,
    clock: &Clock,
) -> Result<()> {
    let refused = |problems: Problems| BadConfig(problems.to_string());
    let config = D::load_config(config).map_err(refused)?;
    let hosted = Hosted::<D>::start(config, Context::new(clock.clone()))
        .await
        .map_err(|error| anyhow!("{} cannot start: {error}", D::NAME))?;
    let context = slot.insert(hosted).context();
    tokio::select! {
        biased;
        cause = context.tasks.failed() => bail!("{} cannot go on: {cause}", D::NAME),
        () = context.ready.wait() => Ok(()),
        () = tokio::time::sleep(READY_TIMEOUT) => {
            let reasons: Vec<String> =
                context.ready.reasons().into_iter().map(|(_, reason)| reason).collect();
            bail!(
                "{} is not ready after {} s: {}",
                D::NAME,
                READY_TIMEOUT.as_secs(),
                reasons.join("; ")
            )
        }
    }
}

async fn stop_one<D: Daemon>(
    hosted: Option<Hosted<D>>,
    deadline: Deadline,
) -> Result<(), Stragglers> {
    match hosted {
        Some(hosted) => hosted.stop(deadline).await,
        None => Ok(()),
    }
}
