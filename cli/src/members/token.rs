//! `tailway token`: what lets hosts become members. The secret is made here; the coordinator gets its hash.

use anyhow::{Result, bail};
use tailway_daemon::exit::Exit;
use tailway_daemon::units::Span;
use tailway_metadata::enrollment::{CreateTokenRequest, Membership, Token};
use tailway_metadata::time::WallMs;
use tailway_metadata::{Role, Secret};
use tailway_net::HostPort;
use tailway_net::pin::sha256;
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use crate::output::{complain, say, table};

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

/// The time from `now` to `end` for people: its largest unit.
pub(super) fn span(now: WallMs, end: WallMs) -> String {
    let seconds = end.0.saturating_sub(now.0) / 1_000;
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        for (ms, text) in [
            (0, "0 s"),
            (119_999, "119 s"),
            (120_000, "2 min"),
            (7_200_000, "2 h"),
            (172_800_000, "2 days"),
            (365 * 86_400_000, "365 days"),
        ] {
            assert_eq!(span(WallMs(5), WallMs(5 + ms)), text);
        }
    }
}
