//! Carries out the strikes of a plan, and ends those that last.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use tailway_runtime::sim::{self, HostId, note};
use tailway_storage::{Operation, SimFault, SimFaults};
use tokio::time::Instant;

use crate::clients::ClientProcess;
use crate::machines::{Machine, Role};
use crate::plan::Fault;
use crate::vault::VAULT_DIR;

/// What a disk call can fail with; reads are left out, since a broker may refuse to serve what it cannot read.
const FAILING: [Operation; 7] = [
    Operation::SyncData,
    Operation::SyncData,
    Operation::Write,
    Operation::SetLen,
    Operation::SyncDir,
    Operation::Rename,
    Operation::Create,
];
/// Disk calls until an armed fault strikes.
const ARMED_CALLS_MAX: u64 = 60;
/// Faults that last, last this long at most.
const LASTING_MS_MAX: u64 = 8_000;
const DOWN_MS_MAX: u64 = 4_000;
/// What is left on a disk that is full.
const FULL_BYTES_MAX: u64 = 20_000;

/// How long a connection is stalled; clients give up after ten seconds.
const STALL_MS: RangeInclusive<u64> = 500..=25_000;
/// Writes that go astray, of a million.
const STRAY_MAX: u32 = 150_000;

/// What has to be taken back.
#[derive(Clone, Copy, Debug)]
enum Undo {
    Mend(HostId, HostId),
    Hasten(HostId, HostId),
    FastDisk(usize),
    FreeDisk(usize),
    ArriveAgain(usize),
    /// A broker with a fenced log is restarted by its operator.
    Restart(usize),
}

/// The cause of all trouble.
pub(crate) struct Nemesis {
    rng: ChaCha8Rng,
    strikes: VecDeque<(Instant, Fault)>,
    undo: Vec<(Instant, Undo)>,
    /// Machines whose disk was made to fail: their programs may have logs that are fenced until a restart.
    troubled: BTreeSet<usize>,
}

impl Nemesis {
    pub(crate) fn new(rng: ChaCha8Rng, strikes: &[(Duration, Fault)]) -> Nemesis {
        let begun = Instant::now();
        let strikes = strikes.iter().map(|(at, fault)| (begun + *at, *fault)).collect();
        Nemesis { rng, strikes, undo: Vec::new(), troubled: BTreeSet::new() }
    }

    /// Does what is due.
    pub(crate) async fn act(
        &mut self,
        machines: &mut [Machine],
        clients: &mut [ClientProcess],
    ) -> Result<(), String> {
        let now = Instant::now();
        let due: Vec<Undo> =
            self.undo.iter().filter(|(at, _)| *at <= now).map(|(_, undo)| *undo).collect();
        self.undo.retain(|(at, _)| *at > now);
        for undo in due {
            self.take_back(undo, machines);
        }
        while self.strikes.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, fault)) = self.strikes.pop_front() else { break };
            note(|| format!("STRIKE {fault:?}"));
            self.strike(fault, machines, clients).await?;
        }
        Ok(())
    }

    /// Ends everything that lasts and strikes no more.
    pub(crate) fn heal(&mut self, machines: &mut [Machine]) {
        note(|| "HEAL".to_owned());
        self.strikes.clear();
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.take_back(undo, machines);
        }
        tailway_net::sim::mend_all();
        tailway_net::sim::unstall_all();
        for machine in machines.iter() {
            machine.disk().disarm_all();
            machine.disk().set_capacity(None);
        }
        for index in std::mem::take(&mut self.troubled) {
            if machines[index].runs() {
                machines[index].kill(Duration::ZERO);
            }
        }
    }

    fn take_back(&mut self, undo: Undo, machines: &mut [Machine]) {
        note(|| format!("UNDO {undo:?}"));
        match undo {
            Undo::Mend(from, to) => tailway_net::sim::set_cut(from, to, false),
            Undo::Hasten(from, to) => tailway_net::sim::set_delay_ms(from, to, 0..=1),
            Undo::FastDisk(index) => sim::set_blocking_ms(machines[index].host, 0..=1),
            Undo::ArriveAgain(index) => machines[index].disk().set_faults(SimFaults::default()),
            Undo::FreeDisk(index) => machines[index].disk().set_capacity(None),
            Undo::Restart(index) => {
                if machines[index].runs() {
                    let pause = self.pause(DOWN_MS_MAX);
                    machines[index].kill(pause);
                }
            }
        }
    }

    fn pause(&mut self, ms_max: u64) -> Duration {
        Duration::from_millis(self.rng.gen_range(0..ms_max))
    }

    fn later(&mut self, ms_max: u64, undo: Undo) {
        let at = Instant::now() + self.pause(ms_max);
        self.undo.push((at, undo));
    }

    /// One of the machines that run.
    fn victim(&mut self, machines: &[Machine], fits: fn(Role) -> bool) -> Option<usize> {
        let fitting: Vec<usize> = (0..machines.len())
            .filter(|index| machines[*index].runs() && fits(machines[*index].role))
            .collect();
        fitting.choose(&mut self.rng).copied()
    }

    async fn strike(
        &mut self,
        fault: Fault,
        machines: &mut [Machine],
        clients: &mut [ClientProcess],
    ) -> Result<(), String> {
        match fault {
            Fault::KillClient => {
                if let Some(client) = clients.choose_mut(&mut self.rng) {
                    client.kill();
                    client.start();
                }
            }
            Fault::CutLink
            | Fault::ResetConnections
            | Fault::LoseNext
            | Fault::StallConnections
            | Fault::SlowLink => {
                self.strike_link(fault, machines, clients);
            }
            Fault::Rot | Fault::StrayWrites => self.strike_vault(fault, machines),
            _ => {
                if let Some(index) = self.victim(machines, suits(fault)) {
                    self.strike_machine(fault, index, machines).await?;
                }
            }
        }
        Ok(())
    }

    fn strike_link(&mut self, fault: Fault, machines: &[Machine], clients: &[ClientProcess]) {
        // Nothing is said between two clients, nor between two agents.
        let is_server = |machine: &&Machine| !matches!(machine.role, Role::Agent(_));
        let servers: Vec<HostId> =
            machines.iter().filter(is_server).map(|server| server.host).collect();
        let Some(server) = servers.choose(&mut self.rng).copied() else { return };
        let hosts = machines.iter().map(|machine| machine.host);
        let others: Vec<HostId> = hosts
            .chain(clients.iter().map(|client| client.host))
            .filter(|host| *host != server)
            .collect();
        match fault {
            // Of many clients at once: it takes a request under way to matter.
            Fault::LoseNext | Fault::StallConnections => {
                let answers = fault == Fault::LoseNext && self.rng.gen_bool(0.7);
                for other in others {
                    if self.rng.gen_bool(0.3) {
                        continue;
                    }
                    match fault {
                        Fault::LoseNext if answers => tailway_net::sim::lose_next(server, other),
                        Fault::LoseNext => tailway_net::sim::lose_next(other, server),
                        _ => tailway_net::sim::stall(other, server, &STALL_MS),
                    }
                }
                return;
            }
            _ => {}
        }
        let Some(other) = others.choose(&mut self.rng).copied() else { return };
        let (a, b) = if self.rng.gen_bool(0.5) { (server, other) } else { (other, server) };
        match fault {
            Fault::ResetConnections => tailway_net::sim::reset(a, b),
            Fault::SlowLink => {
                let ms = self.rng.gen_range(5..400);
                tailway_net::sim::set_delay_ms(a, b, 1..=ms);
                self.later(LASTING_MS_MAX, Undo::Hasten(a, b));
            }
            _ => {
                tailway_net::sim::set_cut(a, b, true);
                self.later(2 * LASTING_MS_MAX, Undo::Mend(a, b));
                if self.rng.gen_bool(0.5) {
                    tailway_net::sim::set_cut(b, a, true);
                    self.later(2 * LASTING_MS_MAX, Undo::Mend(b, a));
                }
            }
        }
    }

    /// Strikes the one log that is meant to be struck so.
    fn strike_vault(&mut self, fault: Fault, machines: &[Machine]) {
        let has_it = |machine: &Machine| {
            let paths = machine.disk().durable_paths();
            paths.into_iter().any(|path| path.starts_with(VAULT_DIR))
        };
        let Some(index) = machines.iter().position(has_it) else { return };
        let disk = machines[index].disk();
        if fault == Fault::StrayWrites {
            disk.set_faults(SimFaults {
                under: VAULT_DIR.into(),
                phantom_write: self.rng.gen_range(0..STRAY_MAX),
                misdirected_write: self.rng.gen_range(0..STRAY_MAX),
                ..SimFaults::default()
            });
            self.later(LASTING_MS_MAX, Undo::ArriveAgain(index));
            return;
        }
        let is_log = |path: &PathBuf| {
            path.starts_with(VAULT_DIR) && path.extension().is_some_and(|suffix| suffix == "log")
        };
        let logs: Vec<PathBuf> = disk.durable_paths().into_iter().filter(is_log).collect();
        if let Some(log) = logs.choose(&mut self.rng) {
            disk.rot(log, self.rng.r#gen());
        }
    }

    async fn strike_machine(
        &mut self,
        fault: Fault,
        index: usize,
        machines: &mut [Machine],
    ) -> Result<(), String> {
        let pause = self.pause(DOWN_MS_MAX);
        let machine = &mut machines[index];
        match fault {
            Fault::KillBroker | Fault::KillCoordinator | Fault::KillAgent => machine.kill(pause),
            Fault::CutPowerOfBroker | Fault::CutPowerOfCoordinator => {
                machine.cut_power(self.rng.r#gen(), pause);
            }
            Fault::CutPowerInMidOperation => {
                machine.disk().power_off_after(self.rng.gen_range(0..ARMED_CALLS_MAX));
            }
            Fault::StopBroker | Fault::StopCoordinator | Fault::StopAgent => {
                machine.ask_to_stop();
                // A program may fail in the very moment; what must not be is that it does not end.
                if let Err(cause) = machine.stopped().await
                    && cause.contains("did not stop")
                {
                    return Err(format!("{}: {cause}", machine.name()));
                }
                machine.restart_after(pause);
            }
            Fault::SlowDisk => {
                sim::set_blocking_ms(machine.host, 0..=self.rng.gen_range(10..800));
                self.later(LASTING_MS_MAX, Undo::FastDisk(index));
            }
            Fault::DiskErrorOfBroker | Fault::DiskErrorOfCoordinator => {
                let operation = FAILING.choose(&mut self.rng).copied().unwrap_or(Operation::Write);
                let fault = SimFault::Fail(operation, ErrorKind::Other);
                self.troubled.insert(index);
                machine.disk().arm(fault, self.rng.gen_range(1..ARMED_CALLS_MAX));
                self.later(LASTING_MS_MAX, Undo::Restart(index));
            }
            Fault::DiskFull => {
                self.troubled.insert(index);
                let disk = machine.disk();
                let used: usize = disk
                    .live_paths()
                    .iter()
                    .filter_map(|path| disk.live_image(path))
                    .map(|image| image.len())
                    .sum();
                let left = self.rng.gen_range(0..FULL_BYTES_MAX);
                disk.set_capacity(Some(used as u64 + left));
                self.later(LASTING_MS_MAX, Undo::FreeDisk(index));
                // A log that met the full disk is fenced until a restart.
                self.later(2 * LASTING_MS_MAX, Undo::Restart(index));
            }
            Fault::DropCaches => machine.disk().drop_caches(),
            Fault::ClockJump => {
                let by = *[-3_600_000, 3_600_000, -5_000, 5_000, 86_400_000 * 3_650]
                    .choose(&mut self.rng)
                    .unwrap_or(&0);
                machine.jump_clock(by);
            }
            // Of no machine.
            Fault::KillClient
            | Fault::CutLink
            | Fault::ResetConnections
            | Fault::LoseNext
            | Fault::StallConnections
            | Fault::SlowLink
            | Fault::Rot
            | Fault::StrayWrites => {}
        }
        Ok(())
    }
}

/// Which machines a fault is for. What a power cut or a failing disk of an agent's host takes of its log files and its
/// journal is not simulated.
fn suits(fault: Fault) -> fn(Role) -> bool {
    match fault {
        Fault::KillBroker
        | Fault::CutPowerOfBroker
        | Fault::StopBroker
        | Fault::DiskErrorOfBroker => |role| matches!(role, Role::Broker(_)),
        Fault::KillCoordinator
        | Fault::CutPowerOfCoordinator
        | Fault::StopCoordinator
        | Fault::DiskErrorOfCoordinator => |role| role == Role::Coordinator,
        Fault::KillAgent | Fault::StopAgent => |role| matches!(role, Role::Agent(_)),
        Fault::CutPowerInMidOperation | Fault::DiskFull => |role| !matches!(role, Role::Agent(_)),
        _ => |_| true,
    }
}
