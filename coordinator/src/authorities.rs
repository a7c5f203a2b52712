//! The CAs whose keys are on this host, and which of them the cluster's state says to use.
//!
//! The state (`tailway_metadata::authority`) says which are trusted and which signs; this has the keys. Before the second is
//! added the state says nothing, and the first is all there is. While two are trusted, each vouches for the other where
//! hosts with a token connect: a token pins one of them, and is good whichever signed the coordinator's certificate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;
use tailway_metadata::ClusterId;
use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::security::{Security, Sha256};
use tailway_metadata::time::WallMs;
use tailway_net::validity;
use tailway_storage::Disk;

use crate::authority::{Authority, AuthorityError, Revocation};
use crate::machine::NewAuthority;

/// Ready to sign, by hash.
type Keys = BTreeMap<Sha256, Arc<Authority>>;

/// The CAs of this host.
pub struct Authorities {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// The one that there is while nothing is recorded; gone once it was retired.
    first: Option<Arc<Authority>>,
    keys: RwLock<Keys>,
    lists: Mutex<BTreeMap<Sha256, Signed>>,
}

/// A revocation list as it was signed: no two signatures are the same, and members replace their file when its text changes.
struct Signed {
    revoked: Vec<Revocation>,
    pem: String,
}

/// How long after its end a revoked certificate stays on the list, for hosts whose clock is behind.
const LISTED_AFTER_END_MS: i64 = 86_400_000;

impl Authorities {
    /// Those in `dir`, if there is any. Blocks.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<Option<Authorities>, AuthorityError> {
        let all = Authority::open_all(disk.as_ref(), dir)?;
        if all.is_empty() {
            return Ok(None);
        }
        let keys: Keys = all.into_iter().map(|it| (it.sha256(), Arc::new(it))).collect();
        let first = Authority::open(disk.as_ref(), dir)?;
        let first = first.and_then(|first| keys.get(&first.sha256()).cloned());
        let (keys, lists) = (RwLock::new(keys), Mutex::default());
        Ok(Some(Authorities { disk, dir: dir.to_owned(), first, keys, lists }))
    }

    /// The CA with that number. The error says what to do.
    pub fn find(&self, security: &Security, id: AuthorityId) -> Result<Arc<Authority>, String> {
        let found = match security.authorities.get(&id) {
            Some(ca) => self.keys().get(&ca.sha256).cloned(),
            None => self.first.clone(),
        };
        found.ok_or_else(|| {
            format!(
                "the key of CA {id} is not in {}: restore that directory from a backup of this host",
                self.dir.display()
            )
        })
    }

    /// The CA that signs.
    pub fn active(&self, security: &Security) -> Result<Arc<Authority>, String> {
        self.find(security, security.active_authority())
    }

    /// What members trust, in PEM: the certificates of the CAs, then which of theirs were revoked.
    pub fn trusted_pem(&self, security: &Security) -> String {
        let (mut pem, signers) = if security.authorities.is_empty() {
            let first = self.first.iter().map(|first| (AuthorityId::FIRST, Arc::clone(first)));
            (self.first.iter().map(|first| first.pem()).collect(), first.collect())
        } else {
            let keys = self.keys();
            let signer = |ca: &CertificateAuthority| Some((ca.id, keys.get(&ca.sha256)?.clone()));
            let signers: Vec<_> = security.trusted_authorities().filter_map(signer).collect();
            let trusted = security.trusted_authorities().map(|ca| ca.pem.as_str());
            (trusted.collect::<String>(), signers)
        };
        for (id, signer) in signers {
            match self.revocation_list(&signer, revoked_of(security, id)) {
                Ok(list) => pem.push_str(&list),
                Err(error) => {
                    tracing::error!(%error, ca = id.0, "members are not told which certificates of a CA were revoked");
                }
            }
        }
        pem
    }

    fn revocation_list(
        &self,
        signer: &Authority,
        revoked: Vec<Revocation>,
    ) -> Result<String, AuthorityError> {
        // Only ever replaced as a whole.
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(signed) = lists.get(&signer.sha256())
            && signed.revoked == revoked
        {
            return Ok(signed.pem.clone());
        }
        let pem = signer.revocation_list(&revoked)?;
        lists.insert(signer.sha256(), Signed { revoked, pem: pem.clone() });
        Ok(pem)
    }

    /// All of them as `ca list` shows them, also while nothing is recorded.
    pub fn described(&self, security: &Security) -> Vec<CertificateAuthority> {
        if !security.authorities.is_empty() {
            return security.authorities.values().cloned().collect();
        }
        let first = self.first.as_deref().map(papers);
        first
            .map(|first| CertificateAuthority {
                id: AuthorityId::FIRST,
                sha256: first.sha256,
                pem: first.pem,
                not_after: first.not_after,
                state: AuthorityState::Active,
            })
            .into_iter()
            .collect()
    }

    /// What the enrolment listener shows: every trusted CA, and what each says of the others.
    pub fn shown(&self, security: &Security) -> Vec<CertificateDer<'static>> {
        let keys = self.keys();
        let trusted: Vec<&Arc<Authority>> = if security.authorities.is_empty() {
            self.first.iter().collect()
        } else {
            security.trusted_authorities().filter_map(|ca| keys.get(&ca.sha256)).collect()
        };
        let mut shown: Vec<CertificateDer<'static>> =
            trusted.iter().map(|authority| authority.certificate().clone()).collect();
        for one in &trusted {
            for other in trusted.iter().filter(|other| other.sha256() != one.sha256()) {
                match one.vouch_for(other) {
                    Ok(cross) => shown.push(cross),
                    Err(error) => tracing::error!(%error, "a CA cannot vouch for the other"),
                }
            }
        }
        shown
    }

    /// Makes one more, on the disk; nobody trusts it before it is recorded. What the first is, and what it is. Blocks.
    pub fn create(
        &self,
        cluster: &ClusterId,
        now: WallMs,
    ) -> Result<(NewAuthority, NewAuthority), AuthorityError> {
        let made = Authority::create_another(self.disk.as_ref(), &self.dir, cluster, now)?;
        let new = papers(&made);
        // Without the first there is a record of it, and this is not looked at.
        let first = self.first.as_deref().map_or_else(|| new.clone(), papers);
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.insert(made.sha256(), Arc::new(made));
        Ok((first, new))
    }

    /// Removes the key of one that is not, or no more, trusted. Blocks.
    pub fn forget(&self, sha256: &Sha256) -> Result<(), AuthorityError> {
        let Some(authority) = self.keys().get(sha256).cloned() else { return Ok(()) };
        authority.forget(self.disk.as_ref(), &self.dir)?;
        self.keys.write().unwrap_or_else(PoisonError::into_inner).remove(sha256);
        Ok(())
    }

    fn keys(&self) -> std::sync::RwLockReadGuard<'_, Keys> {
        // Only inserted into and removed from: whole after every step.
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was revoked of a CA's certificates, without those that had ended long before the newest revocation. What is on the list
/// depends on no clock, so that it changes only when something is revoked.
fn revoked_of(security: &Security, id: AuthorityId) -> Vec<Revocation> {
    let of_it = security.certificates.values().filter(|issued| issued.signed_by == id);
    let revoked: Vec<_> = of_it.filter_map(|issued| Some((issued, issued.revoked?))).collect();
    let newest = revoked.iter().map(|(_, at)| at.0).max().unwrap_or_default();
    let counts = |end: WallMs| end.0.saturating_add(LISTED_AFTER_END_MS) > newest;
    revoked
        .into_iter()
        .filter(|(issued, _)| counts(issued.not_after))
        .map(|(issued, at)| Revocation { serial: issued.serial.clone(), at })
        .collect()
}

fn papers(authority: &Authority) -> NewAuthority {
    NewAuthority {
        sha256: authority.sha256(),
        pem: authority.pem().to_owned(),
        not_after: validity::not_after(authority.certificate()).unwrap_or(WallMs(0)),
    }
}

/// No key in it.
impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use tailway_metadata::security::{Role, Serial};
    use tailway_storage::FsDisk;

    use super::*;
    use crate::authority::first_certificate;

    const NOW: WallMs = WallMs(1_790_000_000_000);
    const DAY: std::time::Duration = std::time::Duration::from_hours(24);

    #[test]
    fn a_list_names_what_was_revoked_and_changes_with_that_alone() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterId("c1".into());
        let first = Authority::create(&FsDisk, dir.path(), &cluster, NOW).unwrap();
        let authorities = Authorities::open(Arc::new(FsDisk), dir.path()).unwrap().unwrap();
        let mut security = Security::default();
        let mut put = |id: &str, life, revoked: Option<i64>| {
            let mut issued = first_certificate(Role::Agent, id, &[], NOW, life);
            issued.revoked = revoked.map(|days| WallMs(NOW.0 + days * 86_400_000));
            security.certificates.insert(issued.serial.clone(), issued.clone());
            (issued.serial, security.clone())
        };
        let ids = |revoked: &[Revocation]| -> Vec<Serial> {
            revoked.iter().map(|revocation| revocation.serial.clone()).collect()
        };
        let (_, nothing) = put("good", DAY, None);
        let text = authorities.trusted_pem(&nothing);
        let list = text.strip_prefix(first.pem()).unwrap();
        assert!(list.starts_with("-----BEGIN X509 CRL-----"), "{text}");
        assert_eq!(authorities.trusted_pem(&nothing), text, "it is signed once");
        let (short, one) = put("short", DAY, Some(0));
        assert_eq!(ids(&revoked_of(&one, AuthorityId::FIRST)), [short]);
        assert_ne!(authorities.trusted_pem(&one), text);
        // Two days after its end it is worthless by every clock.
        let (long, later) = put("long", 9 * DAY, Some(3));
        assert_eq!(ids(&revoked_of(&later, AuthorityId::FIRST)), [long]);
        assert_eq!(revoked_of(&later, AuthorityId(2)), []);
    }
}
