//! Named points at which a test build can be made to fail or to crash, and named bugs that it can be given.
//!
//! `check("storage.sync_data")?` stands where something real may go wrong, `crash("broker.ack.before")` where a process may end.
//! Without the feature `faults` both are empty inline functions. With it, points are armed by the environment, read once,
//! or by `arm` in a test:
//! `TAILWAY_FAULTS=storage.sync_data:3:error` fails the third hit and every one after it (`once`: only that one; `full`:
//! with "no space left"), `storage.rename:1:abort` ends the process there, as a crash would, `storage.write:1:panic` by a panic,
//! `agent.plan.after:1:stall` holds its thread there for ever. Commas separate several.
//! `TAILWAY_CRASH_AT=storage.write.after:3` is the short form for crashes, `TAILWAY_PLANT=NAME` plants a bug, and
//! `TAILWAY_BOUNDS=NAME:VALUE` makes a bound small, so that a test reaches it.
//! Invariant: a name that is not in a list here is refused, so that a renamed one cannot pass unnoticed.

/// Every point there is.
pub const POINTS: &[&str] = &[
    "storage.open",
    "storage.write",
    "storage.set_len",
    "storage.sync_data",
    "storage.rename",
    "storage.sync_dir",
    "storage.sync_filesystem",
    "storage.remove",
];

/// Every point at which a process can be made to end. `X.before` of a point of `POINTS` is that point: nothing is done yet.
pub const CRASHES: &[&str] = &[
    "agent.ack.after",
    "agent.ack.before",
    "agent.journal_rewrite.after",
    "agent.journal_rewrite.before",
    "agent.plan.after",
    "agent.plan.before",
    "agent.send.after",
    "broker.ack.after",
    "broker.ack.before",
    "broker.append.after",
    "broker.append.before",
    "broker.roll.after",
    "broker.roll.before",
    "coordinator.ack.after",
    "coordinator.ack.before",
    "coordinator.purge.after",
    "coordinator.purge.before",
    "coordinator.snapshot.after",
    "coordinator.snapshot.before",
    "storage.remove.after",
    "storage.remove.before",
    "storage.rename.after",
    "storage.rename.before",
    "storage.set_len.after",
    "storage.set_len.before",
    "storage.sync_data.after",
    "storage.sync_data.before",
    "storage.sync_dir.after",
    "storage.sync_dir.before",
    "storage.sync_filesystem.after",
    "storage.sync_filesystem.before",
    "storage.write.after",
    "storage.write.before",
];

/// Every bound that a test may make smaller.
pub const BOUNDS: &[&str] =
    &["agent.journal_rewrite_bytes", "broker.syncfs_from_files", "coordinator.snapshot_every"];

/// Every bug that can be planted: a guarded line of production code, broken on order, for simulations and tests to find.
pub const BUGS: &[&str] = &[
    "agent.doubts_sent_anew",
    "agent.expired_producer_resent",
    "agent.offset_before_ack",
    "agent.plan_not_saved",
    "agent.size_trusted_without_hash",
    "broker.ack_before_sync",
    "broker.checkpoint_ahead_of_sync",
    "broker.clean_marker_kept",
    "broker.commit_before_sync",
    "broker.failed_sync_retried",
    "broker.forward_busy_item_dropped",
    "broker.forward_commit_before_delivery",
    "broker.forward_conflict_is_an_error",
    "broker.forward_doubts_not_looked_up",
    "broker.forward_past_lost_dead_letter",
    "broker.full_disk_acked",
    "broker.group_fenced_singly",
    "broker.jumped_clock_believed",
    "broker.producer_ids_not_saved",
    "broker.producers_lost_at_roll",
    "broker.producers_not_rebuilt",
    "broker.quarantine_served",
    "broker.recovery_cuts_to_checkpoint",
    "broker.recovery_trusts_page_cache",
    "broker.recovery_without_crc",
    "broker.segment_name_not_synced",
    "broker.shown_before_sync",
    "broker.syncfs_error_ignored",
    "broker.syncfs_used_after_error",
    "broker.unmentioned_deleted",
    "client.doubt_told_as_failure",
    "coordinator.entry_acked_before_sync",
    "coordinator.session_by_wall_clock",
    "coordinator.vote_not_synced",
    "storage.journal_bad_crc",
    "storage.replace_name_not_synced",
    "storage.replace_not_synced",
];

/// Every place whose visits are counted, so that a simulation can tell that it comes there and how often.
pub const PLACES: &[&str] =
    &["broker.duplicate_recognised", "broker.partition_quarantined", "broker.sequence_refused"];

/// Every check of who may do what that can be left out on order. No simulation has certificates, so what finds these are
/// the tests of the crates that they stand in.
pub const GUARDS: &[&str] = &[
    "broker.revoked_served",
    "broker.role_unchecked",
    "coordinator.revoked_renewed",
    "coordinator.revoked_served",
    "coordinator.role_unchecked",
    "coordinator.token_expiry_unchecked",
    "coordinator.token_secret_unchecked",
    "coordinator.token_uses_unchecked",
    "net.any_ca_is_pinned",
    "net.exposed_key_accepted",
    "net.revoked_accepted",
    "net.revoked_server_believed",
];

#[cfg(feature = "faults")]
mod armed;
#[cfg(feature = "faults")]
mod places;
#[cfg(feature = "faults")]
pub use armed::{Teeth, arm, bound, check, crash, disarm_all, is_planted, plant};
#[cfg(feature = "faults")]
pub use places::{reached, take_visits};

/// Counts a visit: never, at no cost.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vanish without the feature")]
pub fn reached(_place: &'static str) {}

/// The bound as it is.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vanish without the feature")]
pub fn bound(_name: &'static str, value: u64) -> u64 {
    value
}

/// Goes on, at no cost.
#[cfg(not(feature = "faults"))]
#[inline(always)]
#[allow(clippy::inline_always, reason = "it must vanish without the feature")]
pub fn crash(_point: &'static str) {}

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
