//! openraft's own storage suite over our log, snapshot and state machine, in memory and on a real disk.

use std::path::Path;
use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use tailway_storage::{Disk, FsDisk, MemDisk};

use super::feed::Feed;
use super::log::{RaftLog, Writer};
use super::snapshot::SnapshotFile;
use super::state_machine::StateMachine;
use super::{StorageError, TypeConfig};

struct InMemory;
struct OnDisk;

async fn build(disk: Arc<dyn Disk>, dir: &Path) -> (Writer, RaftLog, StateMachine) {
    let (log, writer, _) =
        RaftLog::open(Arc::clone(&disk), &dir.join("raft.log"), [7; 16]).unwrap();
    let file = SnapshotFile::new(disk, dir.join("raft.snapshot"));
    (writer, log, StateMachine::open(file, Feed::new()).unwrap())
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, Writer> for InMemory {
    async fn build(&self) -> Result<(Writer, RaftLog, StateMachine), StorageError> {
        let disk = Arc::new(MemDisk::new());
        disk.create_dir_all(Path::new("/raft")).unwrap();
        Ok(build(disk, Path::new("/raft")).await)
    }
}

impl StoreBuilder<TypeConfig, RaftLog, StateMachine, (tempfile::TempDir, Writer)> for OnDisk {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Writer), RaftLog, StateMachine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let (writer, log, machine) = build(FsDisk::shared(), dir.path()).await;
        Ok(((dir, writer), log, machine))
    }
}

#[test]
fn openrafts_storage_suite_in_memory() {
    Suite::test_all(InMemory).unwrap();
}

#[test]
fn openrafts_storage_suite_on_disk() {
    Suite::test_all(OnDisk).unwrap();
}
