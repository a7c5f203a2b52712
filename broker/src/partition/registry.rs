//! All partitions of this broker's data directory.
//!
//! A partition is recovered when it is first asked for, and that happens once: a partition that could not be opened stays so
//! until the broker is restarted. A directory that nothing asks for is left alone: metadata that does not mention data is
//! no reason to delete it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tailway_daemon::Pulses;
use tailway_daemon::clock::Clock;
use tailway_daemon::tasks::{Deadline, Group, Stop, Tasks};
use tailway_metadata::ids::{TopicId, TopicPartition};
use tailway_storage::{Disk, Filesystem, StorageError};
use tokio::sync::{OnceCell, oneshot};

use super::checkpoints::Checkpoints;
use super::directory;
use super::driver::{Closing, Command};
use super::flusher::{Flusher, Means};
use super::opening::{NotOpened, Opening, open};
use super::space::{DiskSpace, LOOK_INTERVAL};
use super::trusted::TrustedClock;
use super::{PartitionError, PartitionHandle, StorageReport};
use crate::log::{LogConfig, parse_dir};

/// Checkpoints lag behind by this much at most.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(5);

/// How long the registry's own tasks may take to end once all partitions are closed.
const TASKS_STOP: Duration = Duration::from_secs(5);

/// What the registry needs from the broker.
#[derive(Clone)]
pub struct PartitionsOptions {
    pub disk: Arc<dyn Disk>,
    /// The data directory (Kafka's `log.dirs` entry): partition directories and checkpoints live in it.
    pub data_dir: PathBuf,
    pub clock: Clock,
    /// How often retention and compaction look at every log (Kafka: `log.retention.check.interval.ms`, 5 min).
    pub retention_check_interval: Duration,
    /// Idempotent producers unheard of for this long are forgotten (Kafka: `producer.id.expiration.ms`, 1 day).
    pub producer_id_expiration: Duration,
    /// Bytes that are held back on the disk for commits and deletions; a small disk holds less back.
    pub disk_reserve: u64,
    /// By which the partitions' loops and the flusher are watched.
    pub pulses: Pulses,
}

/// What recovery found in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    pub topic_partition: TopicPartition,
    pub log_start_offset: i64,
    pub log_end_offset: i64,
    /// Bytes of an unfinished tail that were cut. They were never acknowledged with acks=all.
    pub trimmed_bytes: u64,
    /// Index files that had to be rebuilt although the last stop was clean.
    pub rebuilt_indexes: u32,
    /// Bytes checked by CRC because the last stop was not clean.
    pub checked_bytes: u64,
    /// Why the partition is not served, if it is not.
    pub quarantined: Option<Arc<str>>,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Partitions {
    inner: Arc<Inner>,
}

struct Inner {
    clock: Clock,
    trusted: Arc<TrustedClock>,
    producer_ttl_ms: i64,
    checkpoints: Arc<Checkpoints>,
    flusher: Flusher,
    filesystem: Option<Arc<dyn Filesystem>>,
    space: Arc<DiskSpace>,
    tasks: Tasks,
    owners: Group,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    slots: BTreeMap<TopicPartition, Slot>,
    reports: BTreeMap<TopicPartition, PartitionReport>,
    closed: bool,
}

type Slot = Arc<OnceCell<Result<PartitionHandle, NotOpened>>>;

impl Partitions {
    /// Reads the checkpoints and the clean-shutdown marker of the data directory and starts the flusher. Partitions are
    /// recovered when `open_or_create` names them; directories that nothing names are left alone, except the rests of
    /// deleted partitions.
    pub async fn open(options: PartitionsOptions) -> Result<Self, PartitionError> {
        let PartitionsOptions { disk, data_dir, clock, disk_reserve, .. } = options;
        let (checkpoints, space, filesystem) = blocking(move || {
            disk.create_dir_all(&data_dir)?;
            directory::purge_deleted(disk.as_ref(), &data_dir)?;
            // Before the first write: what cannot be written from here on is told.
            let filesystem = disk.filesystem(&data_dir)?;
            let space = DiskSpace::open(Arc::clone(&disk), data_dir.clone(), disk_reserve)?;
            let space = Arc::new(space);
            let checkpoints = Checkpoints::open(disk, data_dir, Arc::clone(&space))?;
            Ok((Arc::new(checkpoints), space, filesystem))
        })
        .await?;
        let data_dir = checkpoints.data_dir().to_path_buf();
        let tasks = Tasks::watched_by(options.pulses.clone());
        let service = tasks.group("partition service");
        let owners = tasks.group("partitions");
        let ttl = options.producer_id_expiration.as_millis();
        let means = Means {
            clock: clock.clone(),
            data_dir,
            filesystem: filesystem.clone(),
            space: Arc::clone(&space),
        };
        let inner = Inner {
            trusted: Arc::new(TrustedClock::new(clock.clone())),
            clock,
            producer_ttl_ms: i64::try_from(ttl).unwrap_or(i64::MAX),
            flusher: Flusher::start(&service, means),
            filesystem,
            space: Arc::clone(&space),
            checkpoints: Arc::clone(&checkpoints),
            tasks,
            owners,
            state: Mutex::default(),
        };
        let partitions = Self { inner: Arc::new(inner) };
        service.spawn("checkpoints", |stop| write_checkpoints(checkpoints, stop));
        service.spawn("disk space", |stop| watch_space(space, stop));
        let weak = Arc::downgrade(&partitions.inner);
        let interval = options.retention_check_interval;
        service.spawn("housekeeping", move |mut stop| async move {
            while stop.unless(tokio::time::sleep(interval)).await.is_some() {
                let Some(inner) = weak.upgrade() else { return };
                for handle in (Self { inner }).all() {
                    // A queue that is full now is looked at the next time.
                    handle.shared.commands.try_send(Command::Housekeep { done: None }).ok();
                }
            }
        });
        Ok(partitions)
    }

    /// The handle of `tp`, recovering it from disk or creating it. A directory of the same name with another topic id
    /// is a deleted namesake's: it is renamed to `<name>.<id>-stray` and never touched again. A partition that is damaged, or
    /// whose sync failed, is an error and stays one; after other errors (no space, no file handles) the next call tries again.
    pub async fn open_or_create(
        &self,
        tp: &TopicPartition,
        topic_id: TopicId,
        config: LogConfig,
        leader_epoch: i32,
    ) -> Result<PartitionHandle, PartitionError> {
        loop {
            let slot = self.slot(tp)?;
            let mut opened_now = false;
            let result = slot
                .get_or_init(|| {
                    opened_now = true;
                    self.open_partition(tp, topic_id, config.clone(), leader_epoch)
                })
                .await;
            let handle = match result {
                Ok(handle) => handle.clone(),
                Err(NotOpened { error, retriable }) => {
                    if *retriable {
                        self.forget_slot(tp, &slot);
                    }
                    return Err(error.clone());
                }
            };
            if opened_now {
                return Ok(handle);
            }
            if handle.topic_id() == topic_id {
                handle.reconfigure(config).await?;
                handle.become_leader(leader_epoch).await?;
                return Ok(handle);
            }
            // A new topic of the same name: the old one's data is kept aside when the directory is opened again.
            self.close(tp, &handle, Closing::Clean).await?;
        }
    }

    /// The handle of an open partition.
    pub fn handle(&self, tp: &TopicPartition) -> Option<PartitionHandle> {
        let slot = Arc::clone(self.lock().slots.get(tp)?);
        slot.get()?.as_ref().ok().cloned()
    }

    /// All open partitions, by name.
    pub fn all(&self) -> Vec<PartitionHandle> {
        let state = self.lock();
        state.slots.values().filter_map(|slot| slot.get()?.as_ref().ok().cloned()).collect()
    }

    /// What recovery did, per partition opened so far.
    pub fn reports(&self) -> Vec<PartitionReport> {
        self.lock().reports.values().cloned().collect()
    }

    /// Room on the disk, and how commit groups are synced.
    pub fn storage(&self) -> StorageReport {
        let syncfs_from_files = self.inner.flusher.crossover();
        StorageReport { disk: self.inner.space.report(), syncfs_from_files }
    }

    /// Partition directories on disk that nothing opened.
    pub async fn unclaimed(&self) -> Result<Vec<String>, PartitionError> {
        let checkpoints = Arc::clone(&self.inner.checkpoints);
        let entries = blocking(move || checkpoints.disk().list(checkpoints.data_dir())).await?;
        let state = self.lock();
        let is_unclaimed = |name: &str| {
            parse_dir(name).is_some_and(|(topic, partition)| {
                !state.slots.contains_key(&TopicPartition::new(topic, partition))
            })
        };
        let names = entries.into_iter().filter(|entry| entry.is_dir && is_unclaimed(&entry.name));
        Ok(names.map(|entry| entry.name).collect())
    }

    /// Closes `tp` and deletes its directory (renamed to `<name>.<id>-delete` first, so that a crash never leaves a
    /// half-deleted log under its own name). Waiting appends get `Closed`.
    pub async fn delete(&self, tp: &TopicPartition) -> Result<(), PartitionError> {
        if let Some(handle) = self.handle(tp) {
            self.close(tp, &handle, Closing::Discard).await?;
        } else {
            self.lock().slots.remove(tp);
        }
        self.lock().reports.remove(tp);
        self.inner.checkpoints.forget(tp);
        let checkpoints = Arc::clone(&self.inner.checkpoints);
        let dir = checkpoints.log_dir(tp);
        blocking(move || {
            // The checkpoints go first: what they say of the old log must not be held against a new one of that name.
            checkpoints.write_all()?;
            directory::delete(checkpoints.disk().as_ref(), &dir)
        })
        .await
    }

    /// Flushes and closes everything, writes checkpoints, producer snapshots and the clean-shutdown marker.
    /// Waiting appends are answered first. Fenced partitions make it an error, after the others are closed.
    pub async fn close_all(&self) -> Result<(), PartitionError> {
        self.lock().closed = true;
        let mut closing = Vec::new();
        for handle in self.all() {
            let (done, closed) = oneshot::channel();
            let command = Command::Close { how: Closing::Clean, done };
            if handle.send(command).await.is_ok() {
                closing.push((handle, closed));
            }
        }
        let mut result = Ok(());
        for (handle, closed) in closing {
            if let Err(error) = closed.await.unwrap_or(Err(PartitionError::Closed)) {
                let tp = handle.topic_partition();
                tracing::error!(topic = %tp.topic, partition = tp.partition, %error, "the partition could not be closed clean");
                result = Err(error);
            }
        }
        let checkpoints = Arc::clone(&self.inner.checkpoints);
        let all_clean = result.is_ok();
        let written = blocking(move || {
            checkpoints.write_all()?;
            if all_clean { checkpoints.write_clean_marker() } else { Ok(()) }
        })
        .await;
        if let Err(late) = self.inner.tasks.stop(Deadline::after(TASKS_STOP)).await {
            tracing::warn!(%late, "tasks of the partitions were aborted");
        }
        result.and(written)
    }

    async fn open_partition(
        &self,
        tp: &TopicPartition,
        topic_id: TopicId,
        config: LogConfig,
        leader_epoch: i32,
    ) -> Result<PartitionHandle, NotOpened> {
        let inner = &self.inner;
        let opening = Opening {
            tp: tp.clone(),
            topic_id,
            config,
            leader_epoch,
            clock: inner.clock.clone(),
            trusted: Arc::clone(&inner.trusted),
            filesystem: inner.filesystem.clone(),
            producer_ttl_ms: inner.producer_ttl_ms,
            checkpoints: Arc::clone(&inner.checkpoints),
            flusher: inner.flusher.clone(),
            space: Arc::clone(&inner.space),
        };
        let closed = |error| NotOpened { error, retriable: true };
        let (driver, report) = blocking(move || Ok(open(opening))).await.map_err(closed)?;
        let checked = report.checked_bytes > 0;
        self.lock().reports.insert(tp.clone(), report);
        let driver = driver?;
        let handle = PartitionHandle { shared: Arc::clone(&driver.shared) };
        inner.checkpoints.follow(&handle.shared);
        if checked {
            // What was checked and synced need not be checked again.
            inner.checkpoints.mark_dirty();
        }
        inner.owners.spawn_watched(tp.to_string(), |stop| driver.run(stop));
        Ok(handle)
    }

    async fn close(
        &self,
        tp: &TopicPartition,
        handle: &PartitionHandle,
        how: Closing,
    ) -> Result<(), PartitionError> {
        let (done, closed) = oneshot::channel();
        let sent = handle.send(Command::Close { how, done }).await;
        let result = match sent {
            Ok(()) => closed.await.unwrap_or(Err(PartitionError::Closed)),
            Err(error) => Err(error),
        };
        self.lock().slots.remove(tp);
        self.inner.checkpoints.forget(tp);
        // A log that failed has nothing more to lose by being closed.
        if how == Closing::Discard { Ok(()) } else { result }
    }

    /// The next one to ask for `tp` tries again.
    fn forget_slot(&self, tp: &TopicPartition, slot: &Slot) {
        let mut state = self.lock();
        if state.slots.get(tp).is_some_and(|known| Arc::ptr_eq(known, slot)) {
            state.slots.remove(tp);
        }
    }

    fn slot(&self, tp: &TopicPartition) -> Result<Slot, PartitionError> {
        let mut state = self.lock();
        if state.closed {
            return Err(PartitionError::Closed);
        }
        Ok(Arc::clone(state.slots.entry(tp.clone()).or_default()))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the checkpoint files a while after something moved. An idle broker writes nothing.
async fn write_checkpoints(checkpoints: Arc<Checkpoints>, mut stop: Stop) {
    loop {
        let due = async {
            checkpoints.changed.notified().await;
            tokio::time::sleep(CHECKPOINT_INTERVAL).await;
        };
        if stop.unless(due).await.is_none() {
            return;
        }
        let checkpoints = Arc::clone(&checkpoints);
        if let Err(error) = blocking(move || checkpoints.write_all()).await {
            tracing::warn!(%error, "the checkpoints could not be written; the next start takes longer");
        }
    }
}

/// Follows the room on the disk.
async fn watch_space(space: Arc<DiskSpace>, mut stop: Stop) {
    while stop.unless(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
        let space = Arc::clone(&space);
        // A panic in there has been reported where it happened.
        tailway_runtime::spawn_blocking(move || space.look()).await.ok();
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, PartitionError> {
    match tailway_runtime::spawn_blocking(act).await {
        Ok(result) => result.map_err(PartitionError::from),
        Err(_) => Err(PartitionError::Closed),
    }
}
