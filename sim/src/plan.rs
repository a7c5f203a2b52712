//! What a seed means: how many machines and clients, which kinds of faults, and when each strikes.
//!
//! Each seed switches about half of the kinds off (swarm testing: a run with everything on hides what only shows when some
//! things stay whole), so that runs differ in kind and not only in time.

use std::time::Duration;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9`.
    KillBroker,
    KillCoordinator,
    KillClient,
    KillAgent,
    /// The plug, at any moment.
    CutPowerOfBroker,
    CutPowerOfCoordinator,
    /// The plug, during the n-th operation on the disk from now.
    CutPowerInMidOperation,
    /// A clean stop and a start.
    StopBroker,
    StopCoordinator,
    StopAgent,
    /// Silence in one direction or both.
    CutLink,
    ResetConnections,
    /// What one host says next to another is lost on each of their connections, and the connection with it: requests or
    /// answers.
    LoseNext,
    /// Existing connections hold everything back for so long that their clients give them up.
    StallConnections,
    SlowLink,
    SlowDisk,
    /// A call to the disk fails once; a failed sync forgets what it should have written. The broker is restarted later.
    DiskErrorOfBroker,
    DiskErrorOfCoordinator,
    DiskFull,
    /// What is only in the page cache and clean is read from the platter again.
    DropCaches,
    ClockJump,
    /// A bit of the vault's log flips.
    Rot,
    /// For a while some writes to the vault's files never arrive, or land elsewhere in them.
    StrayWrites,
}

/// All kinds.
const FAULTS: [Fault; 23] = [
    Fault::KillBroker,
    Fault::KillCoordinator,
    Fault::KillClient,
    Fault::KillAgent,
    Fault::CutPowerOfBroker,
    Fault::CutPowerOfCoordinator,
    Fault::CutPowerInMidOperation,
    Fault::StopBroker,
    Fault::StopCoordinator,
    Fault::StopAgent,
    Fault::CutLink,
    Fault::ResetConnections,
    Fault::LoseNext,
    Fault::StallConnections,
    Fault::SlowLink,
    Fault::SlowDisk,
    Fault::DiskErrorOfBroker,
    Fault::DiskErrorOfCoordinator,
    Fault::DiskFull,
    Fault::DropCaches,
    Fault::ClockJump,
    Fault::Rot,
    Fault::StrayWrites,
];

/// A kind of trouble with a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SinkTrouble {
    /// 429 for some records of a bulk.
    BusyItems,
    /// 503 for some records of a bulk, which are there or not.
    UnsureItems,
    /// 429 for a request, with and without `Retry-After`.
    Busy,
    /// 503 for a request, which is done or not.
    Unavailable,
    /// The connection ends before a request is done.
    Resets,
    /// The connection ends after it is done.
    LostAnswers,
    /// Half of an answer.
    TruncatedAnswers,
    /// The answer comes late, or too late.
    SlowAnswers,
    /// Some records are no documents, whatever comes.
    Rejects,
    /// The node is gone for a while; what it has stays.
    Down,
    /// What is under way is lost by the network.
    Network,
    /// The data stream goes on in another index.
    Rollovers,
}

const SINK_TROUBLES: [SinkTrouble; 12] = [
    SinkTrouble::BusyItems,
    SinkTrouble::UnsureItems,
    SinkTrouble::Busy,
    SinkTrouble::Unavailable,
    SinkTrouble::Resets,
    SinkTrouble::LostAnswers,
    SinkTrouble::TruncatedAnswers,
    SinkTrouble::SlowAnswers,
    SinkTrouble::Rejects,
    SinkTrouble::Down,
    SinkTrouble::Network,
    SinkTrouble::Rollovers,
];

/// Where a sink puts records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SinkNaming {
    DataStream,
    Index,
    DatedIndex,
}

/// A sink that the broker forwards to.
#[derive(Clone, Debug)]
pub(crate) struct SinkPlan {
    pub(crate) naming: SinkNaming,
    pub(crate) gzip: bool,
    pub(crate) requests: usize,
    pub(crate) batch_records: usize,
    pub(crate) troubles: Vec<SinkTrouble>,
    /// Rejects begin this long after the run.
    pub(crate) rejects_after: Duration,
}

impl SinkPlan {
    fn draw(rng: &mut ChaCha8Rng) -> SinkPlan {
        let namings = [
            SinkNaming::DataStream,
            SinkNaming::DataStream,
            SinkNaming::Index,
            SinkNaming::DatedIndex,
        ];
        SinkPlan {
            naming: *namings.choose(rng).unwrap_or(&SinkNaming::DataStream),
            gzip: rng.gen_bool(0.5),
            requests: rng.gen_range(1..=8),
            batch_records: *[5, 50, 2_000].choose(rng).unwrap_or(&50),
            troubles: SINK_TROUBLES.into_iter().filter(|_| rng.gen_bool(0.5)).collect(),
            rejects_after: Duration::from_millis(rng.gen_range(0..10_000)),
        }
    }

    pub(crate) fn has(&self, trouble: SinkTrouble) -> bool {
        self.troubles.contains(&trouble)
    }
}

/// Of the seeds with one broker.
const SINK_SHARE: f64 = 0.35;

/// A run, as far as it is decided before it begins.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) brokers: u8,
    pub(crate) partitions: i32,
    pub(crate) producers: u32,
    pub(crate) readers: u32,
    pub(crate) members: u32,
    pub(crate) agents: u8,
    pub(crate) segment_bytes: u32,
    pub(crate) index_interval_bytes: u32,
    pub(crate) log_append_time: bool,
    pub(crate) drift_ppm: i32,
    /// When what strikes, in order.
    pub(crate) strikes: Vec<(Duration, Fault)>,
    /// How long faults go on.
    pub(crate) safety: Duration,
    /// Only where one broker leads everything: the position of a sink and its dead letters have to be where the lane is.
    pub(crate) sink: Option<SinkPlan>,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Plan {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let safety = Duration::from_secs(rng.gen_range(15..40));
        let kinds: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.gen_bool(0.4)).collect();
        let mut strikes: Vec<(Duration, Fault)> = Vec::new();
        let mean_gap_ms = rng.gen_range(800..6_000);
        let mut at = Duration::from_millis(rng.gen_range(500..3_000));
        while at < safety && !kinds.is_empty() {
            strikes.extend(kinds.choose(&mut rng).map(|fault| (at, *fault)));
            at += Duration::from_millis(rng.gen_range(0..2 * mean_gap_ms));
        }
        let mut plan = Plan {
            seed,
            brokers: if rng.gen_bool(0.7) { 1 } else { 2 },
            partitions: rng.gen_range(1..=4),
            producers: rng.gen_range(1..=3),
            readers: rng.gen_range(1..=2),
            members: rng.gen_range(0..=3),
            agents: rng.gen_range(0..=2),
            segment_bytes: *[2_048, 8_192, 32_768, 1 << 20].choose(&mut rng).unwrap_or(&8_192),
            index_interval_bytes: rng.gen_range(0..2_000),
            log_append_time: rng.gen_bool(0.2),
            drift_ppm: *[0, 0, 200, -200, 20_000, -20_000].choose(&mut rng).unwrap_or(&0),
            strikes,
            safety,
            sink: None,
        };
        // Drawn last, so that all else is what it would be without.
        if plan.brokers == 1 && rng.gen_bool(SINK_SHARE) {
            plan.sink = Some(SinkPlan::draw(&mut rng));
        }
        plan
    }

    /// Whether there is a topic whose disk rots.
    pub(crate) fn has_vault(&self) -> bool {
        let rots = |fault: &Fault| matches!(fault, Fault::Rot | Fault::StrayWrites);
        self.strikes.iter().any(|(_, fault)| rots(fault))
    }

    /// Whether nothing strikes that may cost a broker its session with the coordinator.
    pub(crate) fn is_calm(&self) -> bool {
        let harmless = [
            Fault::ClockJump,
            Fault::DropCaches,
            Fault::Rot,
            Fault::StrayWrites,
            Fault::KillAgent,
            Fault::KillClient,
            Fault::StopAgent,
        ];
        self.strikes.iter().all(|(_, fault)| harmless.contains(fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_all_kinds_come_in_some() {
        let strikes = |seed| format!("{:?}", Plan::of(seed));
        assert_eq!(strikes(7), strikes(7));
        let kinds: BTreeSet<Fault> = (0..100)
            .flat_map(|seed| Plan::of(seed).strikes.into_iter().map(|(_, fault)| fault))
            .collect();
        assert_eq!(kinds.len(), FAULTS.len());
        let quiet = (0..100).filter(|seed| Plan::of(*seed).strikes.is_empty()).count();
        assert!(quiet < 10, "{quiet} of 100 seeds are without any fault");
    }
}
