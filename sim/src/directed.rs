//! Scenarios with a purpose of their own, for what random plans reach too rarely. Each runs by seed, as a plan does.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tailway_coordinator::quorum::codec::LogOp;
use tailway_coordinator::quorum::node::{LOG_FILE, Node, NodeSettings};
use tailway_runtime::sim::{self, HostId, note};
use tailway_storage::{Disk, Journal, JournalFormat, OpenMode, Operation, SimDisk};
use tokio::time::{Instant, sleep};

use crate::plan::{Fault, Plan, SinkNaming, SinkPlan, SinkTrouble};
use crate::run::{Verdict, run_plan};
use crate::tls::TlsFiles;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Two brokers; nothing happens but that clocks jump: nobody may lose a leadership.
    ClockJumps,
    /// A coordinator whose power is cut as soon as it leads, again and again: no term may come twice, and nothing may be
    /// written in a term before the vote for it is durable.
    CutAsItLeads,
    /// A sink refuses records while there is no coordinator to make the topic of the dead letters: nothing may be passed.
    LettersWithoutCoordinator,
}

impl Scenario {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::ClockJumps => "clock-jumps",
            Scenario::CutAsItLeads => "cut-as-it-leads",
            Scenario::LettersWithoutCoordinator => "letters-without-coordinator",
        }
    }

    pub(crate) fn run(self, seed: u64, tls: &Arc<TlsFiles>) -> Verdict {
        match self {
            Scenario::ClockJumps => run_plan(clock_jumps(seed), tls, false),
            Scenario::CutAsItLeads => cut_as_it_leads(seed),
            Scenario::LettersWithoutCoordinator => {
                run_plan(letters_without_coordinator(seed), tls, false)
            }
        }
    }
}

fn clock_jumps(seed: u64) -> Plan {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let strikes = (2..20).map(|s| (Duration::from_millis(s * 1_000), Fault::ClockJump));
    let strikes = strikes.filter(|_| rng.gen_bool(0.7)).collect();
    Plan { brokers: 2, agents: 0, strikes, safety: Duration::from_secs(22), ..Plan::of(seed) }
}

/// Rejects begin when there is no coordinator: for longer than the broker waits for its topic it is killed as soon as it is back.
fn letters_without_coordinator(seed: u64) -> Plan {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let begin = rng.gen_range(1_000..3_000);
    let at = (begin..begin + 15_000).step_by(100).map(Duration::from_millis);
    let sink = SinkPlan {
        naming: SinkNaming::Index,
        gzip: false,
        requests: 2,
        batch_records: 50,
        troubles: vec![SinkTrouble::Rejects],
        rejects_after: Duration::from_millis(begin + 1_000),
    };
    Plan {
        brokers: 1,
        agents: 0,
        strikes: at.map(|at| (at, Fault::KillCoordinator)).collect(),
        safety: Duration::from_secs(25),
        sink: Some(sink),
        ..Plan::of(seed)
    }
}

/// Lives of the coordinator in one run.
const LIVES: u64 = 12;
/// For one election, on a disk that takes its time.
const ELECTED_WITHIN: Duration = Duration::from_secs(30);
const DIR: &str = "/raft";

fn cut_as_it_leads(seed: u64) -> Verdict {
    sim::run(seed, async move {
        let begun = Instant::now();
        let violations = terms(seed).await.err().into_iter().collect::<Vec<String>>();
        let (hash, events) = sim::trace_hash();
        let found_at = (!violations.is_empty()).then_some(events);
        let (trace, simulated) = (sim::trace_lines(), begun.elapsed());
        let (acknowledged, counts) = (0, BTreeMap::new());
        Verdict { violations, hash, events, found_at, acknowledged, simulated, counts, trace }
    })
}

async fn terms(seed: u64) -> Result<(), String> {
    let host = HostId(1);
    sim::add_host(host);
    sim::set_blocking_ms(host, 1..=20);
    let mut disk = SimDisk::with_seed(seed);
    let broken = Arc::new(Mutex::new(None));
    let found = Arc::clone(&broken);
    disk.on_event(move |disk, event| {
        note(|| format!("disk {event}"));
        if event.operation() == Some(Operation::Write)
            && let Err(cause) = vote_comes_first(disk)
        {
            found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(cause);
        }
    });
    let made = disk.create_dir_all(Path::new(DIR)).and_then(|()| disk.sync_dir(Path::new("/")));
    made.map_err(|error| error.to_string())?;
    let mut last = 0;
    for life in 0..LIVES {
        let term = term_of_a_life(host, Arc::new(disk.clone())).await?;
        note(|| format!("leads in term {term}"));
        if let Some(cause) = broken.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(cause);
        }
        if term <= last {
            return Err(format!(
                "I4: the coordinator leads in term {term}, and did before the power was cut"
            ));
        }
        last = term;
        sim::kill(host);
        disk = disk.crash(seed ^ life);
        sim::revive(host);
    }
    Ok(())
}

async fn term_of_a_life(host: HostId, disk: Arc<dyn Disk>) -> Result<u64, String> {
    let term = Arc::new(Mutex::new(None));
    let tell = Arc::clone(&term);
    sim::spawn_on(host, async move {
        let settings = NodeSettings::new(0, "simulated:9190", [7; 16]);
        let started = Node::start(disk, Path::new(DIR), settings).await;
        let (leads, node) = match started {
            Ok(node) => (Ok(node.status().term), Some(node)),
            Err(error) => (Err(error.to_string()), None),
        };
        *tell.lock().unwrap_or_else(PoisonError::into_inner) = Some(leads);
        std::future::pending::<()>().await;
        drop(node);
    });
    let deadline = Instant::now() + ELECTED_WITHIN;
    while Instant::now() < deadline {
        if let Some(term) = term.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return term;
        }
        sleep(Duration::from_millis(1)).await;
    }
    Err(format!("the coordinator does not lead after {ELECTED_WITHIN:?}"))
}

/// Raft's rule: who acts in a term has its vote for it on disk.
fn vote_comes_first(disk: &SimDisk) -> Result<(), String> {
    let path = Path::new(DIR).join(LOG_FILE);
    let (Some(live), Some(durable)) = (disk.live_image(&path), disk.durable_image(&path)) else {
        return Ok(());
    };
    let (_, written) = terms_in(&live)?;
    let (voted, _) = terms_in(&durable)?;
    if written > voted {
        return Err(format!(
            "I4: an entry of term {written} is written, but the last durable vote is for term {voted}"
        ));
    }
    Ok(())
}

/// The last terms of votes and of entries in a Raft log.
fn terms_in(log: &[u8]) -> Result<(u64, u64), String> {
    let (disk, path) = (SimDisk::new(), Path::new("/log"));
    let file = disk.open(path, OpenMode::Create).map_err(|error| error.to_string())?;
    file.write_at(log, 0).map_err(|error| error.to_string())?;
    let format = JournalFormat {
        magic: *b"TWRAFTLG",
        version: 1,
        identity: [0; 16],
        record_bytes_max: 1 << 20,
    };
    let opened = Journal::open(Arc::new(disk), path, format).map_err(|error| error.to_string())?;
    let (mut voted, mut written) = (0, 0);
    for entry in opened.entries {
        match LogOp::decode(&entry.bytes).map_err(|error| error.to_string())? {
            LogOp::Vote(vote) => voted = voted.max(vote.term),
            LogOp::Entry(entry) => written = written.max(entry.id.term),
            LogOp::Committed(_) | LogOp::Truncate(_) | LogOp::Purge(_) => {}
        }
    }
    Ok((voted, written))
}
