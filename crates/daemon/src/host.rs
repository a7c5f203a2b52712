//! One running daemon with its admin port and heartbeat: the same whether it is a process of its own or a part of
//! `tailway dev`.
//!
//! Invariant: whatever `start` began is stopped again, by `stop` or, if the start fails half-way, before it returns.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::admin::{Admin, Heart};
use crate::daemon::{Context, Daemon, StartError};
use crate::tasks::{Deadline, Stragglers, Tasks};

/// How often the runtime shows that it runs.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// What stopping may take after a start that failed half-way.
const UNDO_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Hosted<D> {
    daemon: D,
    context: Context,
    admin: Admin,
    house: Tasks,
}

impl<D: Daemon> Hosted<D> {
    /// Binds the admin port, then starts the daemon.
    pub async fn start(config: D::Config, context: Context) -> Result<Hosted<D>, StartError> {
        let heart = Heart::new(context.clock.clone());
        let address = D::admin(&config).address;
        let remote = D::metrics_listener(&config);
        let admin = Admin::start(D::NAME, address, remote, context.clone(), heart.clone())?;
        let house = Tasks::new();
        house.spawn("heartbeat", |mut stop| async move {
            let mut beat = tokio::time::interval(HEARTBEAT);
            beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stop.unless(beat.tick()).await.is_some() {
                heart.beat();
            }
        });
        match D::start(config, context.clone()).await {
            Ok(daemon) => Ok(Hosted { daemon, context, admin, house }),
            Err(error) => {
                let deadline = Deadline::after(UNDO_DEADLINE);
                let undone = [context.tasks.stop(deadline).await, house.stop(deadline).await];
                if let Err(late) = Stragglers::collect(undone) {
                    tracing::warn!(program = D::NAME, "after a failed start: {late}");
                }
                Err(error)
            }
        }
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Where the admin port really is.
    pub fn admin(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Where metrics are served to other hosts, if they are.
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.admin.metrics_address()
    }

    /// Stops the daemon, then its admin port, which shows the progress until the end.
    pub async fn stop(self, deadline: Deadline) -> Result<(), Stragglers> {
        let daemon = match deadline.run(self.daemon.stop(deadline)).await {
            Some(stopped) => stopped,
            None => Err(Stragglers(self.context.tasks.running())),
        };
        let house = self.house.stop(Deadline::after(HEARTBEAT)).await;
        drop(self.admin);
        Stragglers::collect([daemon, house])
    }
}
