//! `tailway token`: what lets hosts become members. The secret is made here; the coordinator gets its hash.

use anyhow::{Result, bail};
use serde::Serialize;
use tailway_daemon::exit::Exit;
use tailway_daemon::units::Span;
use tailway_metadata::enrollment::{CreateTokenRequest, Membership, Token};
use tailway_metadata::security::JoinToken;
use tailway_metadata::time::WallMs;
use tailway_metadata::{Role, Secret};
use tailway_net::HostPort;
use tailway_net::pin::sha256;
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use crate::output::{Output, Row, complain, moment, span};

/// A new token. Shown once, by this command only.
#[derive(Serialize)]
struct Created<'a> {
    token: &'a str,
    id: &'a str,
    role: Role,
    uses: u32,
    /// Where it is used; `null`: nowhere yet.
    enroll_at: Option<String>,
}

/// A token as it is listed, without its secret.
#[derive(Debug, Serialize)]
struct Listed {
    id: String,
    role: Role,
    used: u32,
    uses: u32,
    expires: String,
    expired: bool,
    created_by: String,
    #[serde(skip)]
    ends: String,
}

impl Listed {
    fn of(token: &JoinToken, now: WallMs) -> Listed {
        let expired = token.is_expired(now);
        Listed {
            id: token.id.clone(),
            role: token.role,
            used: token.used,
            uses: token.uses,
            expires: moment(token.expires),
            expired,
            created_by: token.created_by.clone(),
            ends: if expired {
                "expired".to_owned()
            } else {
                format!("in {}", span(now, token.expires))
            },
        }
    }
}

impl Row for Listed {
    const HEADING: &'static [&'static str] = &["ID", "ROLE", "USED", "ENDS", "MADE BY"];

    fn cells(&self) -> Vec<String> {
        let used = format!("{} of {}", self.used, self.uses);
        let Listed { id, role, ends, created_by, .. } = self;
        vec![id.clone(), role.name().to_owned(), used, ends.clone(), created_by.clone()]
    }
}

/// A token that is worthless now.
#[derive(Debug, Serialize)]
struct Revoked<'a> {
    id: &'a str,
}

pub(super) async fn create(
    role: Role,
    ttl: Span,
    uses: u32,
    admin: &AsArgs,
    output: Output,
) -> Result<Exit> {
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
    let token = Token { ca: made.ca_sha256, id: id.clone(), secret }.to_secret_text();
    let host = caller.identity.coordinator.parse()?.host;
    let enroll_at = made.enrollment_port.map(|port| HostPort::new(host, port).to_string());
    let hint = match &enroll_at {
        Some(address) => format!("on the new host: tailway enroll {address} TOKEN"),
        None => "nobody can use it yet: the coordinator's configuration has no coordinator.enrollment.listen".to_owned(),
    };
    let created = Created { token: token.expose(), id: &id, role, uses, enroll_at };
    output.line(&created, token.expose())?;
    complain(&hint);
    Ok(Exit::Ok)
}

pub(super) async fn list(admin: &AsArgs, output: Output) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    let listed: Vec<Listed> =
        members.tokens.iter().map(|token| Listed::of(token, members.now)).collect();
    output.rows(&listed)?;
    Ok(Exit::Ok)
}

pub(super) async fn revoke(id: &str, admin: &AsArgs, output: Output) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    caller.ask::<_, ()>(ApiKey::RevokeToken, &id).await?;
    output.whole(&Revoked { id }, |_| Vec::new())?;
    complain(&format!("token {id} is worthless now"));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use tailway_metadata::authority::AuthorityId;

    use super::*;
    use crate::output::{documented, table_of};

    #[test]
    fn tokens_are_listed_without_their_secrets() {
        let token = JoinToken {
            id: "agent1".to_owned(),
            role: Role::Agent,
            secret_sha256: sha256(b"secret"),
            expires: WallMs(7_200_000),
            uses: 5,
            used: 2,
            created_by: "admin root".to_owned(),
            pins: AuthorityId::FIRST,
        };
        let listed = [Listed::of(&token, WallMs(0)), Listed::of(&token, WallMs(7_200_000))];
        let expected = [
            "ID      ROLE   USED    ENDS     MADE BY",
            "agent1  agent  2 of 5  in 2 h   admin root",
            "agent1  agent  2 of 5  expired  admin root",
        ];
        assert_eq!(table_of(&listed), expected);
        let json = serde_json::to_value(&listed[1]).unwrap();
        assert_eq!(json["expires"], "1970-01-01T02:00:00Z");
        assert_eq!(json["expired"], true);
        documented("token list", &listed[0]);
    }

    #[test]
    fn fields_are_those_that_are_documented() {
        let created = Created { token: "", id: "", role: Role::Agent, uses: 1, enroll_at: None };
        documented("token create", &created);
        documented("token revoke", &Revoked { id: "" });
    }
}
