//! `tailway ca`: one CA takes over from another. The coordinator decides; here it is asked, and its answer told.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use tailway_daemon::exit::Exit;
use tailway_metadata::Role;
use tailway_metadata::authority::{AuthorityId, AuthorityState, CertificateAuthority};
use tailway_metadata::enrollment::{AlterAuthorities, Membership};
use tailway_metadata::security::IssuedCertificate;
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use super::token::row;
use crate::output::{complain, say, span, table};

pub(super) async fn list(admin: &AsArgs) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    for line in table(&rows(&members)) {
        say(&line)?;
    }
    Ok(Exit::Ok)
}

/// Of members only those in force count, each once.
fn rows(members: &Membership) -> Vec<Vec<String>> {
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
    let mut rows =
        vec![row(["CA", "STATE", "ENDS IN", "KNOWN BY", "RESTING ON IT", "TOKENS", "SHA-256"])];
    for ca in &members.authorities {
        let knowing =
            in_force.values().filter(|held| held.iter().any(|it| it.knows >= ca.id)).count();
        let resting =
            in_force.values().filter(|held| held.iter().all(|it| it.signed_by == ca.id)).count();
        let tokens = members.tokens.iter();
        let tokens = tokens
            .filter(|it| it.pins == ca.id && it.used < it.uses && !it.is_expired(members.now))
            .count();
        let is_retired = ca.state == AuthorityState::Retired;
        let shown = |count: String| if is_retired { "-".to_owned() } else { count };
        rows.push(row([
            &ca.id.to_string(),
            ca.state.name(),
            &span(members.now, ca.not_after),
            &shown(format!("{knowing} of {}", in_force.len())),
            &shown(resting.to_string()),
            &shown(tokens.to_string()),
            &ca.sha256.to_string(),
        ]));
    }
    rows
}

pub(super) async fn add(admin: &AsArgs) -> Result<Exit> {
    let added = alter(AlterAuthorities::Add, admin).await?;
    say(&format!("CA {} {}", added.id, added.sha256))?;
    complain(&format!(
        "it signs nothing yet. Members learn within minutes to trust it, clients and admins by `tailway cert renew DIR`; `tailway ca list` shows how many know it\n  next: tailway ca activate {}",
        added.id
    ));
    Ok(Exit::Ok)
}

pub(super) async fn activate(authority: AuthorityId, force: bool, admin: &AsArgs) -> Result<Exit> {
    alter(AlterAuthorities::Activate { authority, force }, admin).await?;
    say(&format!("CA {authority} signs from now on"))?;
    complain(
        "members renew within minutes, clients and admins by `tailway cert renew DIR`; `tailway ca list` shows how many still rest on the old one\n  next: tailway ca retire NUMBER, of the old one",
    );
    Ok(Exit::Ok)
}

pub(super) async fn retire(authority: AuthorityId, force: bool, admin: &AsArgs) -> Result<Exit> {
    alter(AlterAuthorities::Retire { authority, force }, admin).await?;
    say(&format!("CA {authority} is trusted by nobody any more, and its key is removed"))?;
    Ok(Exit::Ok)
}

async fn alter(request: AlterAuthorities, admin: &AsArgs) -> Result<CertificateAuthority> {
    let caller = Caller::connect(admin).await?;
    caller.ask(ApiKey::AlterAuthorities, &request).await
}
