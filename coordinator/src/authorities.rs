//! The CAs whose keys are on this host, and which of them the cluster's state says to use.
//!
//! The state (`tailway_metadata::authority`) says which are trusted and which signs; this has the keys. Before the second is
//! added the state says nothing, and the first is all there is. While two are trusted, each vouches for the other where
//! hosts with a token connect: a token pins one of them, and is good whichever signed the coordinator's certificate.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;
use tailway_metadata::ClusterId;
use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::security::{Security, Sha256};
use tailway_metadata::time::WallMs;
use tailway_net::validity;
use tailway_storage::Disk;

use crate::authority::{Authority, AuthorityError};
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
}

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
        Ok(Some(Authorities { disk, dir: dir.to_owned(), first, keys: RwLock::new(keys) }))
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

    /// The certificates that members trust, in PEM.
    pub fn trusted_pem(&self, security: &Security) -> String {
        if security.authorities.is_empty() {
            return self.first.iter().map(|first| first.pem()).collect();
        }
        security.trusted_authorities().map(|ca| ca.pem.as_str()).collect()
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
