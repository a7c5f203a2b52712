//! The certificates of a dev directory: one each for coordinator, broker, agent, client and admin in DIR/tls, signed by the
//! CA of the dev run's own coordinator, which knows them as it knows those of `tailway coordinator init`.
//!
//! Made once and kept; made anew when they end within a week, or when the CA or the cluster id is another.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tailway_coordinator::authority::{self, Authority};
use tailway_metadata::security::IssuedCertificate;
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterId, Role, Secret};
use tailway_net::PeerIdentity;
use tailway_net::validity::not_after;
use tailway_storage::FsDisk;

use super::files::write_file;

const LEAF_LIFE: Duration = Duration::from_hours(365 * 24);
/// Made anew when fewer than these are left.
const MARGIN_DAYS: u32 = 7;
/// By which a dev run is reached.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    dir: PathBuf,
    /// The coordinator's CA.
    authority: PathBuf,
}

/// Role and id of each certificate; the role is also the file's name.
const LEAVES: [(Role, &str); 5] = [
    (Role::Coordinator, "0"),
    (Role::Broker, "0"),
    (Role::Agent, "dev"),
    (Role::Client, "dev"),
    (Role::Admin, "dev"),
];

impl Certificates {
    /// `dir` for the certificates, `coordinator` being the coordinator's data directory.
    pub(crate) fn in_dir(dir: &Path, coordinator: &Path) -> Certificates {
        Certificates { dir: dir.to_owned(), authority: coordinator.join(authority::DIR) }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub(crate) fn cert(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.pem"))
    }

    pub(crate) fn key(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.key"))
    }

    /// Makes what is missing, ends soon or belongs to another cluster. Returns what was made and why, for the user.
    pub(crate) fn ensure(&self, cluster_id: &str, now: WallMs) -> Result<Vec<String>> {
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let cluster = ClusterId(cluster_id.to_owned());
        let mut made = Vec::new();
        let (authority, fresh) = match self.authority(now) {
            Ok(authority) => (authority, false),
            Err(why) => {
                made.push(format!("a certificate authority ({why})"));
                self.forget_authority()?;
                (Authority::create(&FsDisk, &self.authority, &cluster, now)?, true)
            }
        };
        let mut first = authority::load_first(&FsDisk, &self.authority, now)?;
        let known = first.len();
        for (role, id) in LEAVES {
            let why = if fresh {
                "for the new authority"
            } else if let Err(why) = self.leaf(role, id, cluster_id, now) {
                why
            } else {
                continue;
            };
            let names =
                if role.is_server() { NAMES.map(str::to_owned).to_vec() } else { Vec::new() };
            let issued = authority::first_certificate(role, id, &names, now, LEAF_LIFE);
            first.push(issued.clone());
            self.sign(&authority, &cluster, &issued)?;
            if !fresh {
                made.push(format!("the certificate of the {role} ({why})"));
            }
        }
        if first.len() > known {
            authority::save_first(&FsDisk, &self.authority, &first)?;
        }
        // Last: with it, all of them belong together.
        if fresh {
            write_file(&self.ca(), authority.pem().as_bytes(), 0o644)?;
        }
        Ok(made)
    }

    fn sign(
        &self,
        authority: &Authority,
        cluster: &ClusterId,
        issued: &IssuedCertificate,
    ) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = authority.sign(cluster, issued, &key)?;
        let role = issued.role.name();
        write_file(&self.cert(role), certificate.as_bytes(), 0o644)?;
        let key = Secret::new(key.serialize_pem());
        write_file(&self.key(role), key.expose().as_bytes(), 0o600)
    }

    /// The authority that is there, or why it cannot be used.
    fn authority(&self, now: WallMs) -> Result<Authority, &'static str> {
        let unreadable = "it could not be read";
        let authority = Authority::open(&FsDisk, &self.authority).map_err(|_| unreadable)?;
        let authority = authority.ok_or("none was there")?;
        let shown = fs::read_to_string(self.ca()).map_err(|_| "none was there")?;
        if shown != authority.pem() {
            return Err("the certificates were of another one");
        }
        lasting(authority.certificate(), now)?;
        Ok(authority)
    }

    fn forget_authority(&self) -> Result<()> {
        match fs::remove_dir_all(&self.authority) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.authority.display().to_string())
            }
            _ => Ok(()),
        }
    }

    /// Whether a certificate can go on being used, or why not.
    fn leaf(&self, role: Role, id: &str, cluster: &str, now: WallMs) -> Result<(), &'static str> {
        let role = role.name();
        let unreadable = "it could not be read";
        let certificate = CertificateDer::from_pem_file(self.cert(role)).map_err(|_| unreadable)?;
        let key = fs::read_to_string(self.key(role)).map(Secret::new).map_err(|_| unreadable)?;
        KeyPair::from_pem(key.expose()).map_err(|_| unreadable)?;
        lasting(&certificate, now)?;
        let named = PeerIdentity::from_certificate(&certificate).and_then(|peer| peer.spiffe);
        let right = named
            .is_some_and(|named| named.cluster == cluster && named.role == role && named.id == id);
        if right { Ok(()) } else { Err("it was for another cluster") }
    }
}

fn lasting(certificate: &CertificateDer<'_>, now: WallMs) -> Result<(), &'static str> {
    let margin = i64::from(MARGIN_DAYS) * 86_400_000;
    match not_after(certificate) {
        Some(end) if end.0 - now.0 > margin => Ok(()),
        Some(end) if end.0 > now.0 => Err("it ends within a week"),
        _ => Err("it had expired"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(1_790_000_000_000);

    fn later(days: i64) -> WallMs {
        WallMs(NOW.0 + days * 86_400_000)
    }

    #[test]
    fn made_once_kept_and_made_anew_when_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certificates::in_dir(&dir.path().join("tls"), &dir.path().join("coordinator"));
        let made = certs.ensure("abc", NOW).unwrap();
        assert_eq!(made, ["a certificate authority (none was there)"]);
        let first = fs::read(certs.cert("broker")).unwrap();
        assert!(certs.ensure("abc", later(300)).unwrap().is_empty());
        assert_eq!(fs::read(certs.cert("broker")).unwrap(), first);
        // The leaves end after a year, the authority after ten.
        let made = certs.ensure("abc", later(366)).unwrap();
        assert_eq!(made.len(), LEAVES.len(), "{made:?}");
        assert!(made[1].contains("broker (it had expired)"), "{made:?}");
        assert_eq!(certs.ensure("abc", later(4_000)).unwrap().len(), 1);
        // Another cluster id, a lost key, a lost authority.
        assert_eq!(certs.ensure("xyz", later(4_000)).unwrap().len(), LEAVES.len());
        fs::remove_file(certs.key("agent")).unwrap();
        assert_eq!(certs.ensure("xyz", later(4_000)).unwrap().len(), 1);
        fs::remove_file(dir.path().join("coordinator/ca/ca.key")).unwrap();
        let made = certs.ensure("xyz", later(4_000)).unwrap();
        assert_eq!(made, ["a certificate authority (none was there)"]);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let certs = Certificates::in_dir(dir.path(), dir.path());
        certs.ensure("abc", NOW).unwrap();
        let leaves = LEAVES.into_iter().map(|(role, _)| certs.key(role.name()));
        for key in leaves.chain([dir.path().join("ca/ca.key")]) {
            let mode = fs::metadata(&key).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        }
    }

    #[test]
    fn the_coordinator_is_told_of_all_that_are_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certificates::in_dir(&dir.path().join("tls"), dir.path());
        certs.ensure("abc", NOW).unwrap();
        let told = |now| authority::load_first(&FsDisk, &dir.path().join("ca"), now).unwrap();
        assert_eq!(told(NOW).len(), LEAVES.len());
        certs.ensure("abc", later(359)).unwrap();
        assert_eq!(told(later(359)).len(), 2 * LEAVES.len(), "the old ones end in a week");
        certs.ensure("abc", later(380)).unwrap();
        assert_eq!(told(later(380)).len(), LEAVES.len());
    }
}
