//! `tailway ca`: one CA takes over from another. The coordinator decides; here it is asked, and its answer told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use tailway_daemon::exit::Exit;
use tailway_metadata::Role;
use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::enrollment::{AlterAuthorities, Membership};
use tailway_metadata::security::{IssuedCertificate, Sha256};
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use crate::output::{Output, Row, complain, moment, span};

pub(super) async fn list(admin: &AsArgs, output: Output) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    output.rows(&rows(&members))?;
    Ok(Exit::Ok)
}

/// A CA, and who knows it and rests on it. Of a retired one nobody counts.
#[derive(Debug, Serialize)]
struct Listed {
    ca: AuthorityId,
    state: AuthorityState,
    not_after: String,
    known_by: Option<usize>,
    members: usize,
    resting: Option<usize>,
    tokens: Option<usize>,
    sha256: Sha256,
    #[serde(skip)]
    ends_in: String,
}

impl Row for Listed {
    const HEADING: &'static [&'static str] =
        &["CA", "STATE", "ENDS IN", "KNOWN BY", "RESTING ON IT", "TOKENS", "SHA-256"];

    fn cells(&self) -> Vec<String> {
        let or = |count: Option<String>| count.unwrap_or_else(|| "-".to_owned());
        vec![
            self.ca.to_string(),
            self.state.name().to_owned(),
            self.ends_in.clone(),
            or(self.known_by.map(|known| format!("{known} of {}", self.members))),
            or(self.resting.map(|count| count.to_string())),
            or(self.tokens.map(|count| count.to_string())),
            self.sha256.to_string(),
        ]
    }
}

/// What became of a CA.
#[derive(Debug, Serialize)]
struct Altered {
    ca: AuthorityId,
    state: AuthorityState,
    not_after: String,
    sha256: Sha256,
}

impl Altered {
    fn of(ca: &CertificateAuthority) -> Altered {
        Altered { ca: ca.id, state: ca.state, not_after: moment(ca.not_after), sha256: ca.sha256 }
    }
}

/// Of members only those in force count, each once.
fn rows(members: &Membership) -> Vec<Listed> {
    let retired: BTreeSet<AuthorityId> = members
        .authorities
        .iter()
        .filter(|ca| ca.state == AuthorityState::Retired)
        .map(|ca| ca.id)
        .collect();
    let mut in_force: BTreeMap<(Role, &str), Vec<&IssuedCertificate>> = BTreeMap::new();
    for issued in &members.certificates {
        if issued.is_good(members.now) && !retired.contains(&issued.signed_by) {
            in_force.entry((issued.role, &issued.id)).or_default().push(issued);
        }
    }
    let mut rows = Vec::new();
    for ca in &members.authorities {
        let knowing =
            in_force.values().filter(|held| held.iter().any(|it| it.knows >= ca.id)).count();
        let resting =
            in_force.values().filter(|held| held.iter().all(|it| it.signed_by == ca.id)).count();
        let tokens = members.tokens.iter();
        let tokens = tokens
            .filter(|it| it.pins == ca.id && it.used < it.uses && !it.is_expired(members.now))
            .count();
        let of_present = |count| Some(count).filter(|_| ca.state != AuthorityState::Retired);
        rows.push(Listed {
            ca: ca.id,
            state: ca.state,
            not_after: moment(ca.not_after),
            known_by: of_present(knowing),
            members: in_force.len(),
            resting: of_present(resting),
            tokens: of_present(tokens),
            sha256: ca.sha256,
            ends_in: span(members.now, ca.not_after),
        });
    }
    rows
}

pub(super) async fn add(admin: &AsArgs, output: Output) -> Result<Exit> {
    let added = alter(AlterAuthorities::Add, admin).await?;
    output.line(&Altered::of(&added), format!("CA {} {}", added.id, added.sha256))?;
    complain(&format!(
        "it signs nothing yet. Members learn within minutes to trust it, clients and admins by `tailway cert renew DIR`; `tailway ca list` shows how many know it\n  next: tailway ca activate {}",
        added.id
    ));
    Ok(Exit::Ok)
}

pub(super) async fn activate(
    authority: AuthorityId,
    force: bool,
    admin: &AsArgs,
    output: Output,
) -> Result<Exit> {
    let altered = alter(AlterAuthorities::Activate { authority, force }, admin).await?;
    output.line(&Altered::of(&altered), format!("CA {authority} signs from now on"))?;
    complain(
        "members renew within minutes, clients and admins by `tailway cert renew DIR`; `tailway ca list` shows how many still rest on the old one\n  next: tailway ca retire NUMBER, of the old one",
    );
    Ok(Exit::Ok)
}

pub(super) async fn retire(
    authority: AuthorityId,
    force: bool,
    admin: &AsArgs,
    output: Output,
) -> Result<Exit> {
    let altered = alter(AlterAuthorities::Retire { authority, force }, admin).await?;
    let line = format!("CA {authority} is trusted by nobody any more, and its key is removed");
    output.line(&Altered::of(&altered), line)?;
    Ok(Exit::Ok)
}

async fn alter(request: AlterAuthorities, admin: &AsArgs) -> Result<CertificateAuthority> {
    let caller = Caller::connect(admin).await?;
    caller.ask(ApiKey::AlterAuthorities, &request).await
}

#[cfg(test)]
mod tests {
    use tailway_metadata::time::WallMs;
    use tailway_net::pin::sha256;

    use super::*;
    use crate::output::{documented, table_of};

    fn authority(id: AuthorityId, state: AuthorityState) -> CertificateAuthority {
        let not_after = WallMs(3 * 86_400_000);
        CertificateAuthority { id, sha256: sha256(b"ca"), pem: String::new(), not_after, state }
    }

    #[test]
    fn a_retired_ca_has_nobody() {
        let first = authority(AuthorityId::FIRST, AuthorityState::Retired);
        let members = Membership {
            now: WallMs(0),
            ca_sha256: first.sha256,
            enrollment_port: None,
            tokens: Vec::new(),
            certificates: Vec::new(),
            brokers: Vec::new(),
            authorities: vec![first, authority(AuthorityId(2), AuthorityState::Active)],
        };
        let listed = rows(&members);
        let table = table_of(&listed);
        let expected = [
            "CA  STATE    ENDS IN  KNOWN BY  RESTING ON IT  TOKENS  SHA-256",
            "1   retired  3 days   -         -              -       ",
            "2   signs    3 days   0 of 0    0              0       ",
        ];
        for (line, expected) in table.iter().zip(expected) {
            assert!(line.starts_with(expected), "{line}");
        }
        documented("ca list", &listed[1]);
        for command in ["ca add", "ca activate", "ca retire"] {
            documented(command, &Altered::of(&members.authorities[1]));
        }
    }
}
