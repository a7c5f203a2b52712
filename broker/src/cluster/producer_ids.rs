//! Producer ids: handed out from blocks that the coordinator gave to this broker alone.
//!
//! What is left of the blocks lies on disk, and an id leaves the disk before it is handed out: a chunk at a time, so that
//! a restart costs at most a chunk and an id is never handed out twice. A spare block is fetched as soon as less than one
//! is left, so that producers can start while no coordinator answers.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tailway_daemon::Stop;
use tailway_metadata::ProducerId;
use tailway_storage::{Disk, OpenMode, StorageError, atomic_replace};
use tokio::sync::{Mutex, Notify};

use super::controller::{Controller, ControllerError};
use crate::metrics::BrokerMetrics;

const FILE: &str = "producer-ids.json";
const VERSION: u32 = 0;
/// Ids taken from the disk at once.
const CHUNK: i64 = 100;
/// Below this many ids another block is fetched.
const SPARE: i64 = 1_000;
/// A larger file is none of ours.
const BYTES_MAX: u64 = 64 << 10;
const RETRY_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// Why there is no id.
#[derive(Debug, thiserror::Error)]
pub enum ProducerIdError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("no producer ids are left: {0}")]
    Controller(#[from] ControllerError),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("the broker stops")]
    Stopped,
}

/// Ids from `start`, `end` excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    start: i64,
    end: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OnDisk {
    version: u32,
    blocks: VecDeque<Block>,
}

#[derive(Debug)]
struct State {
    /// Not on disk any more.
    chunk: Block,
    /// On disk, in the order of use.
    blocks: VecDeque<Block>,
}

/// The ids of this broker. Clones share them.
#[derive(Clone)]
pub struct ProducerIds {
    state: Arc<Mutex<State>>,
    low: Arc<Notify>,
    disk: Arc<dyn Disk>,
    path: Arc<PathBuf>,
    controller: Controller,
    metrics: BrokerMetrics,
}

impl ProducerIds {
    /// Reads what earlier runs left.
    pub fn open(
        disk: Arc<dyn Disk>,
        data_dir: &Path,
        controller: Controller,
        metrics: BrokerMetrics,
    ) -> Result<Self, ProducerIdError> {
        let path = data_dir.join(FILE);
        let blocks = load(&*disk, &path)?;
        let state = State { chunk: Block { start: 0, end: 0 }, blocks };
        metrics.producer_ids_left.set(state.left());
        Ok(Self {
            state: Arc::new(Mutex::new(state)),
            low: Arc::new(Notify::new()),
            disk,
            path: Arc::new(path),
            controller,
            metrics,
        })
    }

    /// An id that nobody else ever gets.
    pub async fn next(&self) -> Result<i64, ProducerIdError> {
        let mut state = self.state.lock().await;
        if state.chunk.is_empty() {
            if state.blocks.is_empty() {
                let block = self.controller.allocate_producer_ids().await?;
                self.add(&mut state, block).await?;
            }
            let mut blocks = state.blocks.clone();
            let chunk = take_chunk(&mut blocks);
            if !tailway_faults::is_planted("broker.producer_ids_not_saved") {
                self.save(&blocks).await?;
            }
            state.blocks = blocks;
            state.chunk = chunk;
        }
        let id = state.chunk.start;
        state.chunk.start += 1;
        self.metrics.producer_ids_left.set(state.left());
        if state.left() < SPARE {
            self.low.notify_one();
        }
        Ok(id)
    }

    /// The task that keeps a spare block.
    pub async fn keep_spare(self, mut stop: Stop) {
        while stop.unless(self.refill()).await.is_some() {
            let low = async { self.low.notified().await };
            if stop.unless(low).await.is_none() {
                return;
            }
        }
    }

    async fn refill(&self) {
        let mut controller = self.controller.clone();
        loop {
            controller.up().await;
            if self.state.lock().await.left() >= SPARE {
                return;
            }
            // The coordinator is asked without the lock: what is left is handed out meanwhile.
            let added = match self.controller.allocate_producer_ids().await {
                Ok(block) => self.add(&mut *self.state.lock().await, block).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = added {
                tracing::warn!(%error, "no spare block of producer ids");
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }

    async fn add(
        &self,
        state: &mut State,
        (start, len): (ProducerId, i32),
    ) -> Result<(), ProducerIdError> {
        let mut blocks = state.blocks.clone();
        blocks.push_back(Block { start: start.0, end: start.0.saturating_add(len.into()) });
        self.save(&blocks).await?;
        state.blocks = blocks;
        self.metrics.producer_ids_left.set(state.left());
        Ok(())
    }

    async fn save(&self, blocks: &VecDeque<Block>) -> Result<(), ProducerIdError> {
        let on_disk = OnDisk { version: VERSION, blocks: blocks.clone() };
        let bytes = serde_json::to_vec(&on_disk).map_err(|error| ProducerIdError::Damaged {
            path: self.path.to_path_buf(),
            reason: error.to_string(),
        })?;
        let (disk, path) = (Arc::clone(&self.disk), Arc::clone(&self.path));
        tailway_runtime::spawn_blocking(move || atomic_replace(&*disk, &path, &bytes))
            .await
            .map_err(|_| ProducerIdError::Stopped)??;
        Ok(())
    }
}

impl Block {
    fn is_empty(self) -> bool {
        self.start >= self.end
    }

    fn len(self) -> i64 {
        (self.end - self.start).max(0)
    }
}

impl State {
    fn left(&self) -> i64 {
        self.chunk.len() + self.blocks.iter().map(|block| block.len()).sum::<i64>()
    }
}

/// Cuts the next ids off the front.
fn take_chunk(blocks: &mut VecDeque<Block>) -> Block {
    let Some(first) = blocks.front_mut() else { return Block { start: 0, end: 0 } };
    let cut = first.start.saturating_add(CHUNK).min(first.end);
    let chunk = Block { start: first.start, end: cut };
    first.start = cut;
    if first.is_empty() {
        blocks.pop_front();
    }
    chunk
}

fn load(disk: &dyn Disk, path: &Path) -> Result<VecDeque<Block>, ProducerIdError> {
    if !disk.exists(path)? {
        return Ok(VecDeque::new());
    }
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.len()?.min(BYTES_MAX);
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    let damaged = |reason: String| ProducerIdError::Damaged { path: path.to_path_buf(), reason };
    let on_disk: OnDisk =
        serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if on_disk.version > VERSION {
        return Err(damaged(format!("version {} is of a newer Tailway", on_disk.version)));
    }
    Ok(on_disk.blocks.into_iter().filter(|block| !block.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tailway_daemon::metrics::Metrics;
    use tailway_metadata::BrokerId;
    use tailway_storage::SimDisk;
    use tokio::sync::watch;

    use super::*;
    use crate::cluster::link::LinkState;

    fn open(disk: &Arc<dyn Disk>) -> ProducerIds {
        let away = LinkState::Away { cause: "refused".into() };
        let (_, link) = watch::channel(away);
        let controller = Controller::new(BrokerId(0), &[], Duration::from_secs(1), link);
        let metrics = BrokerMetrics::register(&Metrics::new());
        ProducerIds::open(Arc::clone(disk), Path::new("/d"), controller, metrics).unwrap()
    }

    fn disk_with(blocks: &str) -> Arc<dyn Disk> {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        let text = format!("{{\"version\":0,\"blocks\":{blocks}}}");
        atomic_replace(&disk, Path::new("/d/producer-ids.json"), text.as_bytes()).unwrap();
        Arc::new(disk)
    }

    #[tokio::test]
    async fn no_id_is_handed_out_twice_across_restarts_without_a_coordinator() {
        let disk = disk_with("[{\"start\":1000,\"end\":1250},{\"start\":5000,\"end\":5010}]");
        let mut seen = BTreeSet::new();
        let mut runs = 0;
        let error = loop {
            let ids = open(&disk);
            runs += 1;
            let mut failed = None;
            for _ in 0..30 {
                match ids.next().await {
                    Ok(id) => assert!(seen.insert(id), "{id} twice"),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            if let Some(error) = failed {
                break error;
            }
        };
        // Each run takes a chunk: 100, 100, 50 with the 10 of the next block.
        assert_eq!((runs, seen.len()), (4, 100));
        assert!(
            error
                .to_string()
                .starts_with("no producer ids are left: no coordinator answers (refused)"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_damaged_file_is_an_error_not_a_fresh_start() {
        let disk = disk_with("[{\"start\":1000}]");
        let away = LinkState::Away { cause: "".into() };
        let controller =
            Controller::new(BrokerId(0), &[], Duration::from_secs(1), watch::channel(away).1);
        let metrics = BrokerMetrics::register(&Metrics::new());
        let opened = ProducerIds::open(disk, Path::new("/d"), controller, metrics);
        assert!(matches!(opened, Err(ProducerIdError::Damaged { .. })));
    }
}
