//! The last cluster image, kept on disk.
//!
//! A broker that restarts while no coordinator answers serves what this image says it leads. The file is replaced as a
//! whole before an image is published, so what a client was told survives. A damaged file is set aside and said: the
//! coordinator has everything that was in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailway_metadata::ClusterImage;
use tailway_storage::{Disk, OpenMode, StorageError, atomic_replace};

const FILE: &str = "cluster-image.json";
/// A larger file is none of ours.
const BYTES_MAX: u64 = 1 << 30;

/// Where the image lies.
#[derive(Debug, Clone)]
pub struct SavedImage {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl SavedImage {
    pub fn new(disk: Arc<dyn Disk>, data_dir: &Path) -> Self {
        Self { disk, path: data_dir.join(FILE) }
    }

    /// The image of the last run; `None` in a fresh directory, and after damage.
    pub fn load(&self) -> Result<Option<ClusterImage>, StorageError> {
        if !self.disk.exists(&self.path)? {
            return Ok(None);
        }
        let file = self.disk.open(&self.path, OpenMode::Read)?;
        let len = file.len()?.min(BYTES_MAX);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        file.read_exact_at(&mut bytes, 0)?;
        match ClusterImage::decode_snapshot(&bytes) {
            Ok(image) => Ok(Some(image)),
            Err(error) => {
                let aside = self.path.with_extension("json.damaged");
                tracing::error!(
                    path = %self.path.display(),
                    %error,
                    aside = %aside.display(),
                    "the saved cluster image cannot be read and is set aside; partitions are served once the \
                     coordinator answers"
                );
                self.disk.rename(&self.path, &aside)?;
                Ok(None)
            }
        }
    }

    /// Makes `image` the one that the next start begins with. Blocks.
    pub fn save(&self, image: &ClusterImage) -> Result<(), StorageError> {
        atomic_replace(&*self.disk, &self.path, &image.encode_snapshot())
    }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::{MetadataRecord, record};
    use tailway_storage::SimDisk;

    use super::*;

    #[test]
    fn an_image_comes_back_and_damage_is_set_aside() {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        disk.create_dir_all(Path::new("/d")).unwrap();
        let saved = SavedImage::new(Arc::clone(&disk), Path::new("/d"));
        assert_eq!(saved.load().unwrap(), None);
        let mut image = ClusterImage::default();
        image
            .apply(&MetadataRecord::ProducerIds(record::ProducerIdsRecord {
                broker_id: 0.into(),
                broker_epoch: 1.into(),
                next_producer_id: 1_000.into(),
            }))
            .unwrap();
        saved.save(&image).unwrap();
        assert_eq!(saved.load().unwrap(), Some(image));

        let file = disk.open(Path::new("/d/cluster-image.json"), OpenMode::Write).unwrap();
        file.write_at(b"}", 0).unwrap();
        assert_eq!(saved.load().unwrap(), None);
        assert!(disk.exists(Path::new("/d/cluster-image.json.damaged")).unwrap());
        assert!(!disk.exists(Path::new("/d/cluster-image.json")).unwrap());
    }
}
