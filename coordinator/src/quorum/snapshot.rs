//! The snapshot file: the image as of one log entry. Replaced atomically, checked when it is read.
//!
//! Layout: magic (8), version (u16), CRC-32C of what follows it (u32), length of the metadata (u32), metadata (JSON), image
//! (JSON). Integers are big-endian. There is one snapshot; a crash leaves the old one or the new one.

use std::path::PathBuf;
use std::sync::Arc;

use openraft::{BasicNode, SnapshotMeta};
use tailway_metadata::ClusterImage;
use tailway_storage::{Disk, StorageError, atomic_replace, read_small};

use super::codec::SnapshotMetaData;

const MAGIC: [u8; 8] = *b"TWRAFTSN";
const VERSION: u16 = 1;
/// Magic, version, CRC.
const CHECKED_FROM: usize = 14;
/// A larger file is not ours.
const BYTES_MAX: u64 = 1 << 30;

/// Where the snapshot lies. Calls block.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

/// A snapshot as it is read: what it says of itself, and the image as bytes.
#[derive(Clone, Debug)]
pub struct Stored {
    pub meta: SnapshotMeta<u64, BasicNode>,
    pub image: Vec<u8>,
}

impl SnapshotFile {
    pub fn new(disk: Arc<dyn Disk>, path: PathBuf) -> SnapshotFile {
        SnapshotFile { disk, path }
    }

    /// Replaces the snapshot, durably.
    pub fn save(
        &self,
        meta: &SnapshotMeta<u64, BasicNode>,
        image: &[u8],
    ) -> Result<(), StorageError> {
        let meta = serde_json::to_vec(&SnapshotMetaData::from(meta))
            .unwrap_or_else(|error| panic!("snapshot metadata is JSON: {error}"));
        let meta_len = u32::try_from(meta.len())
            .unwrap_or_else(|_| panic!("snapshot metadata of {} bytes", meta.len()));
        let checked = [&meta_len.to_be_bytes(), meta.as_slice(), image].concat();
        let crc = crc32c::crc32c(&checked);
        let file = [&MAGIC[..], &VERSION.to_be_bytes(), &crc.to_be_bytes(), &checked].concat();
        tailway_faults::crash("coordinator.snapshot.before");
        atomic_replace(self.disk.as_ref(), &self.path, &file)
            .inspect(|()| tailway_faults::crash("coordinator.snapshot.after"))
    }

    /// The snapshot, if there is one. A damaged one is an error: the log below it is gone.
    pub fn load(&self) -> Result<Option<Stored>, StorageError> {
        let bytes = read_small(self.disk.as_ref(), &self.path, BYTES_MAX)?;
        bytes.map(|bytes| self.parse(&bytes)).transpose()
    }

    fn parse(&self, bytes: &[u8]) -> Result<Stored, StorageError> {
        let header = bytes.split_at_checked(CHECKED_FROM).filter(|(h, _)| h.starts_with(&MAGIC));
        let Some((header, checked)) = header else {
            return Err(self.foreign("it does not begin like a snapshot".into()));
        };
        let (_, header) = header.split_at(MAGIC.len());
        let (version, crc) = header.split_at(2);
        if version != VERSION.to_be_bytes() {
            let version = u16::from_be_bytes([version[0], version[1]]);
            return Err(self.foreign(format!(
                "it has version {version}, this version of Tailway reads {VERSION}: a newer one wrote it; upgrade this program"
            )));
        }
        if crc != crc32c::crc32c(checked).to_be_bytes() {
            return Err(self.corrupt("its checksum does not match"));
        }
        let (meta_len, rest) =
            checked.split_first_chunk::<4>().ok_or_else(|| self.corrupt("it is cut off"))?;
        let meta_len = usize::try_from(u32::from_be_bytes(*meta_len)).unwrap_or(usize::MAX);
        let (meta, image) =
            rest.split_at_checked(meta_len).ok_or_else(|| self.corrupt("it is cut off"))?;
        let meta: SnapshotMetaData =
            serde_json::from_slice(meta).map_err(|error| self.corrupt(&error.to_string()))?;
        Ok(Stored { meta: meta.into(), image: image.to_vec() })
    }

    /// Reads the image out of a snapshot's bytes.
    pub fn image_of(&self, bytes: &[u8]) -> Result<ClusterImage, StorageError> {
        ClusterImage::decode_snapshot(bytes).map_err(|error| self.corrupt(&error.to_string()))
    }

    fn corrupt(&self, reason: &str) -> StorageError {
        StorageError::Corrupt { path: self.path.clone(), offset: 0, reason: reason.to_owned() }
    }

    fn foreign(&self, reason: String) -> StorageError {
        StorageError::Foreign { path: self.path.clone(), reason }
    }
}
