//! Named points at which a test build can be made to fail or to crash.
//!
//! `check("storage.sync_data")?` stands where something real may go wrong. Without the feature `faults` it is an empty
//! inline function. With it, points are armed by `TAILWAY_FAULTS`, read once, or by `arm` in a test:
//! `TAILWAY_FAULTS=storage.sync_data:3:error` fails the third hit and every one after it (`once`: only that one; `full`:
//! with "no space left"), `storage.rename:1:abort` ends the process there, as a crash would. Commas separate several.
//! Invariant: a name that is not in `POINTS` is refused when armed, so that a renamed point cannot pass unnoticed.

/// Every point there is.
pub const POINTS: &[&str] = &[
    "storage.open",
    "storage.write",
    "storage.set_len",
    "storage.sync_data",
    "storage.rename",
    "storage.sync_dir",
];

/// Every bug that can be planted: a guarded line of production code, broken on order, for simulations and tests to find.
pub const BUGS: &[&str] = &[
    "agent.doubts_sent_anew",
    "agent.offset_before_ack",
    "agent.plan_not_saved",
    "broker.ack_before_sync",
    "broker.checkpoint_ahead_of_sync",
    "broker.clean_marker_kept",
    "broker.commit_before_sync",
    "broker.failed_sync_retried",
    "broker.producer_ids_not_saved",
    "broker.producers_lost_at_roll",
    "broker.producers_not_rebuilt",
    "broker.recovery_cuts_to_checkpoint",
    "broker.recovery_trusts_page_cache",
    "broker.recovery_without_crc",
    "broker.segment_name_not_synced",
    "broker.shown_before_sync",
    "broker.unmentioned_deleted",
    "client.doubt_told_as_failure",
    "coordinator.entry_acked_before_sync",
    "coordinator.session_by_wall_clock",
    "coordinator.vote_not_synced",
    "storage.journal_bad_crc",
    "storage.replace_name_not_synced",
    "storage.replace_not_synced",
];

#[cfg(feature = "faults")]
mod armed;
#[cfg(feature = "faults")]
pub use armed::{Teeth, arm, check, disarm_all, is_planted, plant};

/// Whether a bug is planted: never, at no cost.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vanish without the feature")]
pub fn is_planted(_bug: &'static str) -> bool {
    false
}

/// Has a state machine check its invariants: in builds with faults after every event, otherwise never and at no cost.
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vanish without the feature")]
pub fn verify(check: impl FnOnce()) {
    if cfg!(feature = "faults") {
        check();
    }
}

/// Passes, at no cost.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[allow(
    clippy::inline_always,
    clippy::unnecessary_wraps,
    reason = "it must vanish without the feature"
)]
pub fn check(_point: &'static str) -> std::io::Result<()> {
    Ok(())
}
