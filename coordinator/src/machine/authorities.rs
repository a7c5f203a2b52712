//! Which CAs there are: one is added, then it signs, then the old one is retired.
//!
//! So that nobody is cut off, each step waits for the members: one signs only once every member is known to trust it, and one
//! is retired only once no member's newest certificate and no token rests on it. An operator may force either, and is told
//! whom that cuts off. At most two CAs are trusted at a time.

use std::collections::BTreeMap;

use tailway_metadata::MetadataRecord;
use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::record::TrustRecord;
use tailway_metadata::security::{IssuedCertificate, Role, Security, Serial, Sha256};
use tailway_metadata::time::WallMs;
use tailway_wire::ErrorCode;

use super::draft::Draft;
use super::{Refusal, Reply};

/// CAs that there ever were.
const AUTHORITIES_MAX: usize = 100;
/// Members that a refusal names.
const SHOWN: usize = 10;

/// A CA whose key is on the coordinator's disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAuthority {
    pub sha256: Sha256,
    pub pem: String,
    pub not_after: WallMs,
}

impl NewAuthority {
    fn with(&self, id: AuthorityId, state: AuthorityState) -> CertificateAuthority {
        CertificateAuthority {
            id,
            sha256: self.sha256,
            pem: self.pem.clone(),
            not_after: self.not_after,
            state,
        }
    }
}

/// Has one more CA trusted. With the second the first is recorded, too.
pub fn add(
    draft: &mut Draft<'_>,
    first: &NewAuthority,
    new: &NewAuthority,
) -> Result<Reply, Refusal> {
    let known = &draft.image().security.authorities;
    let mut waiting = known.values().filter(|ca| ca.state == AuthorityState::Trusted);
    if let Some(other) = waiting.next() {
        let id = other.id;
        return Err(refused(format!(
            "two CAs are trusted already: finish that rotation first (tailway ca activate {id} or tailway ca retire {id})"
        )));
    }
    if known.len() >= AUTHORITIES_MAX {
        return Err(refused(format!("{AUTHORITIES_MAX} CAs are the limit of one cluster")));
    }
    if known.is_empty() {
        let first = first.with(AuthorityId::FIRST, AuthorityState::Active);
        draft.push(MetadataRecord::Authority(first));
    }
    let last = draft.image().security.authorities.last_key_value();
    let id = last.map_or(AuthorityId::FIRST, |(last, _)| AuthorityId(last.0.saturating_add(1)));
    let added = new.with(id, AuthorityState::Trusted);
    draft.push(MetadataRecord::Authority(added.clone()));
    Ok(Reply::Authority(added))
}

/// Has a CA sign that every member trusts.
pub fn activate(
    draft: &mut Draft<'_>,
    id: AuthorityId,
    force: bool,
    now: WallMs,
) -> Result<Reply, Refusal> {
    let security = &draft.image().security;
    let ca = find(security, id)?.clone();
    match ca.state {
        AuthorityState::Active => return Err(refused(format!("CA {id} signs already"))),
        AuthorityState::Retired => return Err(refused(format!("CA {id} was retired"))),
        AuthorityState::Trusted => {}
    }
    let unaware = members_without(security, now, |issued| issued.knows >= id);
    if !unaware.is_empty() && !force {
        return Err(refused(format!(
            "not every member trusts CA {id} yet, and those would be cut off: {}. Daemons learn it within minutes while they reach the coordinator, clients and admins by `tailway cert renew DIR`; `tailway ca list` shows how many know it; whoever is gone: tailway cert revoke ROLE/ID; to cut them off: --force",
            listed(&unaware)
        )));
    }
    let signing = security.authorities.values().find(|ca| ca.state == AuthorityState::Active);
    let signing = signing.cloned();
    if let Some(old) = signing {
        let old = CertificateAuthority { state: AuthorityState::Trusted, ..old };
        draft.push(MetadataRecord::Authority(old));
    }
    let active = CertificateAuthority { state: AuthorityState::Active, ..ca };
    draft.push(MetadataRecord::Authority(active.clone()));
    Ok(Reply::Authority(active))
}

/// Has nobody trust a CA any more on which nothing rests.
pub fn retire(
    draft: &mut Draft<'_>,
    id: AuthorityId,
    force: bool,
    now: WallMs,
) -> Result<Reply, Refusal> {
    let security = &draft.image().security;
    let ca = find(security, id)?.clone();
    match ca.state {
        AuthorityState::Retired => return Err(refused(format!("CA {id} was retired before"))),
        AuthorityState::Active => {
            return Err(refused(format!(
                "CA {id} signs: another has to sign first (tailway ca add, tailway ca activate NUMBER)"
            )));
        }
        AuthorityState::Trusted => {}
    }
    let old = members_without(security, now, |issued| issued.signed_by != id);
    let resting = security.tokens.values();
    let resting = resting.filter(|it| it.pins == id && it.used < it.uses && !it.is_expired(now));
    let tokens: Vec<String> = resting.map(|token| token.id.clone()).collect();
    if !force {
        if !old.is_empty() {
            return Err(refused(format!(
                "certificates of CA {id} are in force, whose holders would be cut off: {}. Daemons renew within minutes once another CA signs, clients and admins by `tailway cert renew DIR`; whoever is gone: tailway cert revoke ROLE/ID; to cut them off: --force",
                listed(&old)
            )));
        }
        if !tokens.is_empty() {
            return Err(refused(format!(
                "tokens name CA {id} and would be worthless: {}. Wait until they expire, or tailway token revoke ID; or --force",
                listed(&tokens)
            )));
        }
    }
    let retired = CertificateAuthority { state: AuthorityState::Retired, ..ca };
    draft.push(MetadataRecord::Authority(retired.clone()));
    Ok(Reply::Authority(retired))
}

/// A member trusts the CAs up to this one, by its own word.
pub fn note_trust(
    draft: &mut Draft<'_>,
    serial: &Serial,
    knows: AuthorityId,
) -> Result<Reply, Refusal> {
    let known = draft.image().security.certificates.get(serial);
    if known.is_some_and(|issued| issued.knows < knows) {
        draft.push(MetadataRecord::Trust(TrustRecord { serial: serial.clone(), knows }));
    }
    Ok(Reply::TrustNoted)
}

fn find(security: &Security, id: AuthorityId) -> Result<&CertificateAuthority, Refusal> {
    security.authorities.get(&id).ok_or_else(|| {
        Refusal::new(
            ErrorCode::RESOURCE_NOT_FOUND,
            format!("there is no CA {id} to change; `tailway ca list` shows those that are, `tailway ca add` makes one more"),
        )
    })
}

/// Members none of whose certificates in force is `enough`.
fn members_without(
    security: &Security,
    now: WallMs,
    enough: impl Fn(&IssuedCertificate) -> bool,
) -> Vec<String> {
    let mut members: BTreeMap<(Role, &str), bool> = BTreeMap::new();
    for issued in security.certificates.values() {
        if issued.is_good(now) && !security.is_revoked(&issued.serial) {
            *members.entry((issued.role, &issued.id)).or_default() |= enough(issued);
        }
    }
    let without = members.into_iter().filter(|(_, enough)| !enough);
    without.map(|((role, id), _)| format!("{role}/{id}")).collect()
}

fn listed(all: &[String]) -> String {
    let more = all.len().saturating_sub(SHOWN);
    let shown = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

fn refused(text: String) -> Refusal {
    Refusal::new(ErrorCode::POLICY_VIOLATION, text)
}
