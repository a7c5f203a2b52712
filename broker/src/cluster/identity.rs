//! Whose data directory this is: `meta.properties`, as Kafka writes it.
//!
//! Broker id and directory id are written once, when the directory is first used; the cluster id once, when the first
//! coordinator has been met. A directory of another broker or cluster is refused, never adapted.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tailway_metadata::{BrokerId, ClusterId, DirectoryId};
use tailway_storage::{Disk, OpenMode, StorageError, atomic_replace};
use uuid::Uuid;

const FILE: &str = "meta.properties";
const VERSION: &str = "1";

/// The directory's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub broker_id: BrokerId,
    pub directory_id: DirectoryId,
    /// Not known before the first coordinator has been met.
    pub cluster_id: Option<ClusterId>,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "{} belongs to broker {found}, this is broker {wanted}", path.display()
    )]
    OtherBroker { path: PathBuf, found: BrokerId, wanted: BrokerId },
    #[error(
        "{} belongs to cluster {found}, the coordinator is of cluster {wanted}", path.display()
    )]
    OtherCluster { path: PathBuf, found: ClusterId, wanted: ClusterId },
}

impl IdentityError {
    /// What to do about it.
    pub fn next(&self) -> &'static str {
        match self {
            Self::Storage(_) => "check the directory's owner and the disk",
            Self::Damaged { .. } => "restore the file; it is written once and never changes",
            Self::OtherBroker { .. } => "correct broker.id, or broker.data_dir",
            Self::OtherCluster { .. } => {
                "correct coordinator.addresses, or broker.data_dir; data is never moved between clusters"
            }
        }
    }
}

/// Reads the identity of `dir`, or gives it one.
pub fn load_or_create(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    broker_id: BrokerId,
) -> Result<Identity, IdentityError> {
    let path = dir.join(FILE);
    if !disk.exists(&path)? {
        let directory_id = DirectoryId(tailway_runtime::uuid());
        let identity = Identity { broker_id, directory_id, cluster_id: None };
        identity.save(disk, dir)?;
        return Ok(identity);
    }
    let file = disk.open(&path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX).min(64 << 10)];
    file.read_exact_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes);
    let identity =
        parse(&text).map_err(|reason| IdentityError::Damaged { path: path.clone(), reason })?;
    if identity.broker_id != broker_id {
        let found = identity.broker_id;
        return Err(IdentityError::OtherBroker { path, found, wanted: broker_id });
    }
    Ok(identity)
}

impl Identity {
    /// Binds the directory to `cluster`, for good.
    pub fn join(
        &mut self,
        disk: &Arc<dyn Disk>,
        dir: &Path,
        cluster: &ClusterId,
    ) -> Result<(), IdentityError> {
        match &self.cluster_id {
            Some(known) if known == cluster => Ok(()),
            Some(known) => Err(IdentityError::OtherCluster {
                path: dir.join(FILE),
                found: known.clone(),
                wanted: cluster.clone(),
            }),
            None => {
                let joined = Identity { cluster_id: Some(cluster.clone()), ..self.clone() };
                joined.save(disk, dir)?;
                *self = joined;
                Ok(())
            }
        }
    }

    fn save(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), IdentityError> {
        Ok(atomic_replace(&**disk, &dir.join(FILE), self.to_text().as_bytes())?)
    }

    fn to_text(&self) -> String {
        let cluster =
            self.cluster_id.as_ref().map_or_else(String::new, |id| format!("cluster.id={id}\n"));
        let directory = kafka_uuid(self.directory_id.0);
        let id = self.broker_id;
        format!("#\nversion={VERSION}\nnode.id={id}\n{cluster}directory.id={directory}\n")
    }
}

fn parse(text: &str) -> Result<Identity, String> {
    let value = |key: &str| {
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .find(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim().to_owned())
    };
    match value("version").as_deref() {
        Some(VERSION) => {}
        Some(other) => {
            return Err(format!("version={other} is not known to this version of Tailway"));
        }
        None => return Err("version is missing".into()),
    }
    let broker_id =
        value("node.id").and_then(|id| id.parse().ok()).ok_or("node.id is missing or no number")?;
    let directory_id = value("directory.id")
        .and_then(|id| parse_kafka_uuid(&id))
        .ok_or("directory.id is missing or no id")?;
    let cluster_id = match value("cluster.id").map(ClusterId) {
        Some(cluster) if !cluster.is_valid() => return Err("cluster.id is no cluster id".into()),
        cluster => cluster,
    };
    Ok(Identity {
        broker_id: BrokerId(broker_id),
        directory_id: DirectoryId(directory_id),
        cluster_id,
    })
}

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Kafka's text of a UUID: 22 characters of URL-safe base64 without padding.
fn kafka_uuid(id: Uuid) -> String {
    let number = id.as_u128();
    // 128 bits in groups of six from the front; the last group has two bits and four zeros.
    (0..22)
        .map(|group| {
            let bits = if group < 21 { number >> (122 - 6 * group) } else { number << 4 };
            char::from(BASE64[usize::try_from(bits & 63).unwrap_or_default()])
        })
        .collect()
}

fn parse_kafka_uuid(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut number: u128 = 0;
    for (group, byte) in text.bytes().enumerate() {
        let bits = u128::try_from(BASE64.iter().position(|c| *c == byte)?).ok()?;
        number = if group < 21 {
            (number << 6) | bits
        } else if bits.trailing_zeros() >= 4 {
            (number << 2) | (bits >> 4)
        } else {
            return None;
        };
    }
    Some(Uuid::from_u128(number))
}

#[cfg(test)]
mod tests {
    use tailway_storage::SimDisk;

    use super::*;

    fn disk() -> Arc<dyn Disk> {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/d")).unwrap();
        Arc::new(disk)
    }

    #[test]
    fn written_once_and_never_changed() {
        let disk = disk();
        let dir = Path::new("/d");
        let mut first = load_or_create(&disk, dir, BrokerId(7)).unwrap();
        assert_eq!(first.cluster_id, None);
        assert_eq!(load_or_create(&disk, dir, BrokerId(7)).unwrap(), first);

        let ours = ClusterId("MkU3OEVBNTcwNTJENDM2Qg".into());
        first.join(&disk, dir, &ours).unwrap();
        let mut second = load_or_create(&disk, dir, BrokerId(7)).unwrap();
        assert_eq!(second, first);
        second.join(&disk, dir, &ours).unwrap();
        let error = second.join(&disk, dir, &ClusterId("other".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/d/meta.properties belongs to cluster MkU3OEVBNTcwNTJENDM2Qg, the coordinator is of cluster other"
        );
        let error = load_or_create(&disk, dir, BrokerId(8)).unwrap_err();
        assert_eq!(error.to_string(), "/d/meta.properties belongs to broker 7, this is broker 8");
        assert_eq!(load_or_create(&disk, dir, BrokerId(7)).unwrap(), first);
    }

    #[test]
    fn damage_is_refused() {
        let good = "#\nversion=1\nnode.id=7\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\n";
        assert!(parse(good).is_ok());
        for (from, to, reason) in [
            ("version=1\n", "", "version is missing"),
            ("version=1", "version=2", "version=2 is not known to this version of Tailway"),
            ("node.id=7", "node.id=x", "node.id is missing or no number"),
            ("AAAAQ\n", "AAAA\n", "directory.id is missing or no id"),
            ("AAAAQ\n", "AAAAB\n", "directory.id is missing or no id"),
            ("node.id", "cluster.id=a b\nnode.id", "cluster.id is no cluster id"),
        ] {
            assert_eq!(parse(&good.replace(from, to)).unwrap_err(), reason);
        }
    }

    #[test]
    fn uuids_are_written_as_kafka_writes_them() {
        // The directory.id of a log directory that Kafka 4.3.1 formatted; the other form by Python's base64 and uuid.
        let id = Uuid::parse_str("d97a98c3-1322-2a52-c314-65c50fd70b85").unwrap();
        assert_eq!(kafka_uuid(id), "2XqYwxMiKlLDFGXFD9cLhQ");
        for id in [Uuid::nil(), Uuid::max(), id, tailway_runtime::uuid()] {
            assert_eq!(parse_kafka_uuid(&kafka_uuid(id)), Some(id), "{id}");
        }
    }
}
