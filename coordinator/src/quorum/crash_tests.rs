//! Power cuts at every operation on the disk: what was acknowledged is there after a restart, whatever of the rest is, and
//! the coordinator goes on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tailway_metadata::record::{ClusterRecord, ProducerIdsRecord};
use tailway_metadata::{
    BrokerEpoch, BrokerId, ClusterId, MetadataLogId, MetadataRecord, Offset, ProducerId,
};
use tailway_storage::{Disk, Operation, SimDisk};
use uuid::Uuid;

use super::node::{Node, NodeError, NodeSettings};

const DIR: &str = "/raft";
const PATIENCE: Duration = Duration::from_secs(20);
/// Enough for several snapshots and purges.
const PROPOSALS: i64 = 14;

fn settings() -> NodeSettings {
    NodeSettings { snapshot_every: 4, ..NodeSettings::new(0, "127.0.0.1:9190", [7; 16]) }
}

async fn start(disk: Arc<dyn Disk>) -> Result<Node, NodeError> {
    let starting = Node::start(disk, Path::new(DIR), settings());
    tokio::time::timeout(PATIENCE, starting).await.unwrap()
}

fn record(n: i64) -> MetadataRecord {
    if n == 0 {
        return MetadataRecord::Cluster(ClusterRecord {
            cluster_id: ClusterId("c".into()),
            log_id: MetadataLogId(Uuid::from_u128(1)),
        });
    }
    MetadataRecord::ProducerIds(ProducerIdsRecord {
        broker_id: BrokerId(0),
        broker_epoch: BrokerEpoch(0),
        next_producer_id: ProducerId(n),
    })
}

/// Proposes until it fails or is done; how many were acknowledged.
async fn work(node: &Node) -> i64 {
    let proposer = node.proposer();
    let from = node.feed().image().offset.0;
    for n in from..PROPOSALS {
        let proposed = tokio::time::timeout(PATIENCE, proposer.propose(vec![record(n)])).await;
        match proposed.unwrap() {
            Ok(applied) => assert_eq!(applied.end_offset, Offset(n + 1)),
            Err(_) => return n,
        }
    }
    PROPOSALS
}

fn mem_disk() -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

/// Starts on what a crash left, checks that `acknowledged` is there, and goes on to the end.
async fn recover(image: SimDisk, acknowledged: i64, what: &str) {
    let node = match start(Arc::new(image)).await {
        Ok(node) => node,
        Err(error) => panic!("{what}: {error}"),
    };
    node.proposer().barrier().await.unwrap();
    let found = node.feed().image();
    // The proposal whose answer the power cut took may be there or not.
    let offset = found.offset.0;
    assert!((acknowledged..=acknowledged + 1).contains(&offset), "{what}: {acknowledged} {offset}");
    assert_eq!(found.next_producer_id, ProducerId((offset - 1).max(0)), "{what}");
    assert_eq!(work(&node).await, PROPOSALS, "{what}");
    node.stop().await;
}

#[tokio::test]
async fn acknowledged_records_survive_a_power_cut_at_every_operation() {
    let whole = mem_disk();
    let node = start(Arc::new(whole.clone())).await.unwrap();
    assert_eq!(work(&node).await, PROPOSALS);
    node.stop().await;
    assert!(whole.count(Operation::Rename) >= 4, "snapshots and purges are among the operations");
    let total = whole.total();
    let mut survived = 0;
    for cut in 0..=total {
        let disk = mem_disk();
        disk.power_off_after(cut);
        let acknowledged = match start(Arc::new(disk.clone())).await {
            Ok(node) => {
                let acknowledged = work(&node).await;
                node.stop().await;
                acknowledged
            }
            Err(_) => 0,
        };
        survived += acknowledged;
        for seed in 0..3 {
            recover(
                disk.crash_image(seed),
                acknowledged,
                &format!("cut {cut} of {total}, seed {seed}"),
            )
            .await;
        }
        // kill -9: what was written is there, synced or not.
        recover(disk.kill(), acknowledged, &format!("killed at {cut} of {total}")).await;
    }
    assert!(survived > 0, "some cuts were late enough for an acknowledgement");
}

#[tokio::test]
async fn a_failed_sync_acknowledges_nothing_and_stops_raft() {
    let disk = mem_disk();
    let node = start(Arc::new(disk.clone())).await.unwrap();
    let proposer = node.proposer();
    proposer.propose(vec![record(0)]).await.unwrap();
    disk.fail(Operation::SyncData, 1, std::io::ErrorKind::Other);
    let error = tokio::time::timeout(PATIENCE, proposer.propose(vec![record(1)])).await.unwrap();
    assert!(error.is_err());
    let mut raft = proposer.watch();
    let stopped = raft.wait_for(|metrics| metrics.running_state.is_err());
    assert!(tokio::time::timeout(PATIENCE, stopped).await.is_ok());
    let again = tokio::time::timeout(PATIENCE, proposer.propose(vec![record(1)])).await.unwrap();
    assert!(again.is_err(), "the next sync would succeed, but is never tried");
    assert_eq!(node.feed().image().offset, Offset(1));
    drop(proposer);
    node.stop().await;
}

#[tokio::test]
async fn a_lost_snapshot_is_said_and_not_taken_for_an_empty_cluster() {
    let disk = mem_disk();
    let node = start(Arc::new(disk.clone())).await.unwrap();
    assert_eq!(work(&node).await, PROPOSALS);
    node.stop().await;
    let snapshot = Path::new(DIR).join(super::node::SNAPSHOT_FILE);
    let file = disk.open(&snapshot, tailway_storage::OpenMode::Write).unwrap();
    file.write_at(b"x", 40).unwrap();
    let error = start(Arc::new(disk.clone())).await.unwrap_err();
    assert!(error.to_string().contains("its checksum does not match"), "{error}");
    disk.remove_file(&snapshot).unwrap();
    let error = start(Arc::new(disk)).await.unwrap_err();
    assert!(error.to_string().contains("the snapshot has only nothing"), "{error}");
}

#[tokio::test]
async fn a_directory_of_another_coordinator_is_refused() {
    let disk: Arc<dyn Disk> = Arc::new(mem_disk());
    start(Arc::clone(&disk)).await.unwrap().stop().await;
    let other = NodeSettings { id: 1, ..settings() };
    let error = Node::start(disk, Path::new(DIR), other).await.unwrap_err();
    let text = "the voters of this data directory are [0], the configuration says 1 alone";
    assert_eq!(error.to_string(), text);
}
