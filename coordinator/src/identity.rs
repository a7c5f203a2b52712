//! Whose data directory this is: written once, at the first start, and compared at every other.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tailway_metadata::{ClusterId, DirectoryId};
use tailway_storage::{Disk, StorageError, atomic_replace, read_small};

pub const IDENTITY_FILE: &str = "identity.json";
const VERSION: u32 = 0;
const BYTES_MAX: u64 = 64 << 10;

/// Cluster, coordinator and directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    version: u32,
    pub cluster_id: ClusterId,
    pub coordinator_id: u64,
    pub directory_id: DirectoryId,
}

/// Why the directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Disk(#[from] StorageError),
    #[error("{path} cannot be read: {cause}")]
    Malformed { path: String, cause: String },
    #[error("{dir} belongs to cluster {found}, the configuration says {wanted}")]
    OtherCluster { dir: String, found: ClusterId, wanted: ClusterId },
    #[error("{dir} belongs to coordinator {found}, the configuration says {wanted}")]
    OtherCoordinator { dir: String, found: u64, wanted: u64 },
    #[error("{dir} has a {file} but no {IDENTITY_FILE}: it is not whole")]
    Incomplete { dir: String, file: String },
}

impl Identity {
    /// Reads the identity of `dir`, or writes it into a directory that has none of `data_files` either. Blocks.
    pub fn claim(
        disk: &dyn Disk,
        dir: &Path,
        wanted: (&ClusterId, u64),
        fresh: DirectoryId,
        data_files: &[&str],
    ) -> Result<Identity, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let shown = || dir.display().to_string();
        if let Some(found) = read(disk, &path)? {
            if found.cluster_id != *wanted.0 {
                return Err(IdentityError::OtherCluster {
                    dir: shown(),
                    found: found.cluster_id,
                    wanted: wanted.0.clone(),
                });
            }
            if found.coordinator_id != wanted.1 {
                return Err(IdentityError::OtherCoordinator {
                    dir: shown(),
                    found: found.coordinator_id,
                    wanted: wanted.1,
                });
            }
            return Ok(found);
        }
        for file in data_files {
            if disk.exists(&dir.join(file))? {
                return Err(IdentityError::Incomplete { dir: shown(), file: (*file).to_owned() });
            }
        }
        let identity = Identity {
            version: VERSION,
            cluster_id: wanted.0.clone(),
            coordinator_id: wanted.1,
            directory_id: fresh,
        };
        let json = serde_json::to_vec(&identity)
            .unwrap_or_else(|error| panic!("an identity is JSON: {error}"));
        atomic_replace(disk, &path, &json)?;
        Ok(identity)
    }
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Identity>, IdentityError> {
    let malformed =
        |cause: String| IdentityError::Malformed { path: path.display().to_string(), cause };
    let bytes = read_small(disk, path, BYTES_MAX).map_err(|error| match error {
        StorageError::Foreign { reason, .. } => malformed(reason),
        other => other.into(),
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    let identity: Identity =
        serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
    if identity.version > VERSION {
        return Err(malformed(format!(
            "it has version {}, this version of Tailway reads up to {VERSION}: a newer one wrote it; upgrade this program",
            identity.version
        )));
    }
    Ok(Some(identity))
}

#[cfg(test)]
mod tests {
    use tailway_storage::OpenMode;
    use tailway_storage::SimDisk;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_directory_is_claimed_once() {
        let disk = SimDisk::new();
        let dir = Path::new("/data");
        disk.create_dir_all(dir).unwrap();
        let claim = |cluster: &str, id: u64, fresh: u128| {
            let fresh = DirectoryId(Uuid::from_u128(fresh));
            Identity::claim(&disk, dir, (&ClusterId(cluster.into()), id), fresh, &["raft.log"])
                .map(|identity| identity.directory_id.0.as_u128())
                .map_err(|error| error.to_string())
        };
        assert_eq!(claim("c1", 0, 7), Ok(7));
        assert_eq!(claim("c1", 0, 8), Ok(7), "the first id stays");
        assert_eq!(
            claim("c2", 0, 8),
            Err("/data belongs to cluster c1, the configuration says c2".into())
        );
        assert_eq!(
            claim("c1", 1, 8),
            Err("/data belongs to coordinator 0, the configuration says 1".into())
        );
        disk.remove_file(&dir.join(IDENTITY_FILE)).unwrap();
        disk.open(&dir.join("raft.log"), OpenMode::Create).unwrap();
        assert_eq!(
            claim("c1", 0, 8),
            Err("/data has a raft.log but no identity.json: it is not whole".into())
        );
    }
}
