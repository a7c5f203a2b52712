//! `tailway token`: what lets hosts become members. The secret is made here; the coordinator gets its hash.

use anyhow::{Result, bail};
use tailway_daemon::exit::Exit;
use tailway_daemon::units::Span;
use tailway_metadata::enrollment::{CreateTokenRequest, Membership, Token};
use tailway_metadata::{Role, Secret};
use tailway_net::HostPort;
use tailway_net::pin::sha256;
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use crate::output::{complain, say, span, table};

pub(super) async fn create(role: Role, ttl: Span, uses: u32, admin: &AsArgs) -> Result<Exit> {
    if role == Role::Admin {
        bail!("no token makes an admin\n  next: tailway cert issue --role admin NAME");
    }
    let caller = Caller::connect(admin).await?;
    let secret = Secret::new(tailway_runtime::uuid().simple().to_string());
    let drawn = tailway_runtime::uuid().simple().to_string();
    // The role in front, so that whoever finds a token knows what it is for.
    let id = format!("{role}{}", drawn.get(..8).unwrap_or_default());
    let request = CreateTokenRequest {
        id: id.clone(),
        role,
        secret_sha256: sha256(secret.expose().as_bytes()),
        ttl_ms: ttl.as_millis(),
        uses,
    };
    let made: Membership = caller.ask(ApiKey::CreateToken, &request).await?;
    let token = Token { ca: made.ca_sha256, id, secret };
    say(token.to_secret_text().expose())?;
    let host = caller.identity.coordinator.parse()?.host;
    match made.enrollment_port {
        Some(port) => {
            let address = HostPort::new(host, port);
            complain(&format!("on the new host: tailway enroll {address} TOKEN"));
        }
        None => complain(
            "nobody can use it yet: the coordinator's configuration has no coordinator.enrollment.listen",
        ),
    }
    Ok(Exit::Ok)
}

pub(super) async fn list(admin: &AsArgs) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    let mut rows = vec![row(["ID", "ROLE", "USED", "ENDS", "MADE BY"])];
    for token in &members.tokens {
        let ends = if token.is_expired(members.now) {
            "expired".to_owned()
        } else {
            format!("in {}", span(members.now, token.expires))
        };
        let used = format!("{} of {}", token.used, token.uses);
        rows.push(row([&token.id, token.role.name(), &used, &ends, &token.created_by]));
    }
    for line in table(&rows) {
        say(&line)?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn revoke(id: &str, admin: &AsArgs) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    caller.ask::<_, ()>(ApiKey::RevokeToken, &id).await?;
    complain(&format!("token {id} is worthless now"));
    Ok(Exit::Ok)
}

pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}
