//! The replicated state machine: the cluster image, published to followers as it changes.
//!
//! `apply` keeps the image in memory only; a restart rebuilds it from the snapshot file and the log. A record that does not
//! fit the image stops Raft: serving a wrong image is worse than serving none.

use std::io::Cursor;
use std::sync::Arc;

use openraft::storage::{RaftStateMachine, Snapshot};
use openraft::{
    AnyError, BasicNode, EntryPayload, OptionalSend, RaftSnapshotBuilder, SnapshotMeta,
    StorageIOError,
};
use tailway_metadata::ClusterImage;
use tailway_storage::StorageError as DiskError;

use super::feed::Feed;
use super::snapshot::{SnapshotFile, Stored};
use super::{Applied, Batch, Entry, LogId, StorageError, StoredMembership, TypeConfig};

#[derive(Debug)]
pub struct StateMachine {
    applied: Option<LogId>,
    membership: StoredMembership,
    image: Arc<ClusterImage>,
    feed: Feed,
    file: SnapshotFile,
}

/// The state as of one moment, to be written while the machine goes on.
#[derive(Debug)]
pub struct SnapshotBuilder {
    applied: Option<LogId>,
    membership: StoredMembership,
    image: Arc<ClusterImage>,
    file: SnapshotFile,
}

impl StateMachine {
    /// Starts from the snapshot file. Blocks.
    pub fn open(file: SnapshotFile, feed: Feed) -> Result<StateMachine, DiskError> {
        let mut machine = StateMachine {
            applied: None,
            membership: StoredMembership::default(),
            image: Arc::default(),
            feed,
            file,
        };
        if let Some(Stored { meta, image }) = machine.file.load()? {
            machine.image = Arc::new(machine.file.image_of(&image)?);
            machine.applied = meta.last_log_id;
            machine.membership = meta.last_membership;
        }
        machine.feed.reset(Arc::clone(&machine.image));
        Ok(machine)
    }

    /// The last entry that the snapshot has.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    fn apply_batch(&mut self, at: LogId, batch: &Batch) -> Result<(), StorageError> {
        let Batch(records) = batch;
        let image = Arc::make_mut(&mut self.image);
        for record in records.iter() {
            image.apply(record).map_err(|e| StorageIOError::apply(at, AnyError::new(&e)))?;
        }
        if let Some(what) = image.inconsistency() {
            let text = format!("after entry {} the image is not consistent: {what}", at.index);
            return Err(StorageIOError::apply(at, AnyError::error(text)).into());
        }
        self.feed.publish(records, Arc::clone(&self.image));
        Ok(())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut applied = Vec::new();
        for entry in entries {
            match &entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(batch) => self.apply_batch(entry.log_id, batch)?,
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership.clone());
                }
            }
            self.applied = Some(entry.log_id);
            applied.push(Applied { end_offset: self.image.offset });
        }
        Ok(applied)
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder {
            applied: self.applied,
            membership: self.membership.clone(),
            image: Arc::clone(&self.image),
            file: self.file.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta<u64, BasicNode>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let bytes = snapshot.into_inner();
        let image = self.file.image_of(&bytes).map_err(|error| read_error(&error))?;
        save(&self.file, meta.clone(), bytes).await?;
        self.image = Arc::new(image);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.feed.reset(Arc::clone(&self.image));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        let file = self.file.clone();
        let loaded = tailway_runtime::spawn_blocking(move || file.load()).await;
        let loaded = loaded.map_err(|e| StorageIOError::read_snapshot(None, AnyError::new(&e)))?;
        let loaded = loaded.map_err(|error| read_error(&error))?;
        Ok(loaded.map(|stored| Snapshot {
            meta: stored.meta,
            snapshot: Box::new(Cursor::new(stored.image)),
        }))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let bytes = self.image.encode_snapshot();
        let at = self.applied.map_or_else(
            || "empty".to_owned(),
            |id| format!("{}-{}", id.committed_leader_id().term, id.index),
        );
        let meta = SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
            // The offset tells apart snapshots at the same entry after a recovery.
            snapshot_id: format!("{at}-{}", self.image.offset),
        };
        save(&self.file, meta.clone(), bytes.clone()).await?;
        Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(bytes)) })
    }
}

async fn save(
    file: &SnapshotFile,
    meta: SnapshotMeta<u64, BasicNode>,
    bytes: Vec<u8>,
) -> Result<(), StorageError> {
    let file = file.clone();
    let write = tailway_runtime::spawn_blocking(move || file.save(&meta, &bytes)).await;
    let written = write.map_err(|e| StorageIOError::write_snapshot(None, AnyError::new(&e)))?;
    written.map_err(|e| StorageIOError::write_snapshot(None, AnyError::new(&e)).into())
}

fn read_error(error: &DiskError) -> StorageError {
    StorageIOError::read_snapshot(None, AnyError::new(error)).into()
}
