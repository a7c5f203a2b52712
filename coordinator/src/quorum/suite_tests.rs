//! openraft's own storage suite over our log, snapshot and state machine, in memory and on a real disk.

use std::path::Path;
use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tailway_storage::{Disk, FsDisk, SimDisk};

use super::feed::Feed;
use super::log::{RaftLog, Writer};
use super::snapshot::SnapshotFile;
use super::state_machine::StateMachine;
use super::{StorageError, TypeConfig};

struct InMemory;
struct OnDisk;

fn build(disk: Arc<dyn Disk>, dir: &Path) -> (Writer, RaftLog, StateMachine) {
    let (log, writer, _) =
        RaftLog::open(Arc::clone(&disk), &dir.join("raft.log"), [7; 16]).unwrap();
    let file = SnapshotFile::new(disk, dir.join("raft.snapshot"));
    (writer, log, StateMachine::open(file, Feed::new()).unwrap())
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, Writer> for InMemory {
    async fn build(&self) -> Result<(Writer, RaftLog, StateMachine), StorageError> {
        let disk = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/raft")).unwrap();
        Ok(build(disk, Path::new("/raft")))
    }
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, (tempfile::TempDir, Writer)> for OnDisk {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Writer), RaftLog, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (writer, log, machine) = build(FsDisk::shared(), dir.path());
        Ok(((dir, writer), log, machine))
    }
}

/// What `Suite::test_all` runs, with paused time: the suite sleeps for eight seconds in all.
macro_rules! run_suite {
    ($builder:expr, $suite:ty) => {
        run_suite!($builder, $suite,
            last_membership_in_log_initial
            last_membership_in_log
            last_membership_in_log_multi_step
            get_membership_initial
            get_membership_from_log_and_empty_sm
            get_membership_from_empty_log_and_sm
            get_membership_from_log_le_sm_last_applied
            get_membership_from_log_gt_sm_last_applied_1
            get_membership_from_log_gt_sm_last_applied_2
            get_initial_state_without_init
            get_initial_state_membership_from_log_and_sm
            get_initial_state_with_state
            get_initial_state_last_log_gt_sm
            get_initial_state_last_log_lt_sm
            get_initial_state_log_ids
            get_initial_state_re_apply_committed
            save_vote
            get_log_entries
            limited_get_log_entries
            try_get_log_entry
            initial_logs
            get_log_state
            get_log_id
            last_id_in_log
            last_applied_state
            purge_logs_upto_0
            purge_logs_upto_5
            purge_logs_upto_20
            delete_logs_since_11
            delete_logs_since_0
            append_to_log
            snapshot_meta
            apply_single
            apply_multiple
        );
        <$suite>::transfer_snapshot(&$builder).await.unwrap();
    };
    ($builder:expr, $suite:ty, $($test:ident)*) => {
        $(
            let (guard, log, machine) = $builder.build().await.unwrap();
            <$suite>::$test(log, machine).await.unwrap();
            drop(guard);
        )*
    };
}

#[tokio::test(start_paused = true)]
async fn openrafts_storage_suite_in_memory() {
    run_suite!(InMemory, Suite<TypeConfig, RaftLog, StateMachine, InMemory, Writer>);
}

#[tokio::test(start_paused = true)]
async fn openrafts_storage_suite_on_disk() {
    type Guard = (tempfile::TempDir, Writer);
    run_suite!(OnDisk, Suite<TypeConfig, RaftLog, StateMachine, OnDisk, Guard>);
}
