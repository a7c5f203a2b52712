//! Who becomes a member: join tokens, certificates issued and revoked.
//!
//! A decision comes before the signature: a certificate is signed only once its record is committed, so that none exists
//! that could not be listed and revoked. A token's secret is compared before anything about the token is told, so that
//! guessing learns nothing. An identity is given by token only while nobody holds it: whoever steals a token cannot become a
//! host that is there.

use tailway_metadata::enrollment::CertificateRef;
use tailway_metadata::record::{RemoveCertificateRecord, RemoveTokenRecord};
use tailway_metadata::security::{IssuedCertificate, JoinToken, Role, Serial, Sha256};
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterImage, MetadataRecord};
use tailway_wire::ErrorCode;

use super::draft::Draft;
use super::{Refusal, Reply};

/// Tokens at a time.
const TOKENS_MAX: usize = 1_000;
/// Certificates that are remembered: those that have not expired.
const CERTIFICATES_MAX: usize = 20_000;
/// Certificates of one member that are in force at a time, by renewals.
const IN_FORCE_MAX: usize = 16;
/// Certificates that one token may give.
const USES_MAX: u32 = 10_000;
/// The longest life of a token: a month.
const TTL_MS_MAX: u64 = 31 * 24 * 3_600_000;
/// Longest id of a member.
const ID_LEN_MAX: usize = 64;
/// Names that every host has for itself.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Names in a certificate.
const NAMES_MAX: usize = 32;

/// A token to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    pub id: String,
    pub role: Role,
    pub secret_sha256: Sha256,
    pub ttl_ms: u64,
    pub uses: u32,
    pub created_by: String,
    pub now: WallMs,
}

/// A certificate to record before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certify {
    pub grant: Grant,
    pub id: String,
    /// Host names and addresses, each of them well formed.
    pub names: Vec<String>,
    pub serial: Serial,
    pub not_before: WallMs,
    pub not_after: WallMs,
    pub now: WallMs,
}

/// On whose word a certificate is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The bearer of a token, with the hash of the secret that came.
    Token { id: String, secret_sha256: Sha256 },
    /// An operator, for any role.
    Admin { name: String, role: Role },
    /// The member itself, by the certificate that it has; the names stay as they are.
    Renewal { serial: Serial, role: Role },
}

pub fn create_token(draft: &mut Draft<'_>, new: &NewToken) -> Result<Reply, Refusal> {
    let invalid = |text: String| Err(Refusal::new(ErrorCode::INVALID_REQUEST, text));
    if !(1..=USES_MAX).contains(&new.uses) {
        return invalid(format!("a token is good for 1 to {USES_MAX} uses"));
    }
    if !(1..=TTL_MS_MAX).contains(&new.ttl_ms) {
        return invalid("a token lives from a moment to 31 days".into());
    }
    if new.role == Role::Admin {
        return invalid(
            "no token makes an admin: an admin issues the certificate (tailway cert issue --role admin NAME)".into(),
        );
    }
    check_id(&new.id)?;
    forget_expired(draft, new.now);
    let tokens = &draft.image().security.tokens;
    if tokens.contains_key(&new.id) {
        return invalid(format!("there is a token {} already", new.id));
    }
    if tokens.len() >= TOKENS_MAX {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!(
                "there are {TOKENS_MAX} tokens, which is the limit; revoke some (tailway token list)"
            ),
        ));
    }
    let token = JoinToken {
        id: new.id.clone(),
        role: new.role,
        secret_sha256: new.secret_sha256,
        expires: WallMs(new.now.0.saturating_add_unsigned(new.ttl_ms)),
        uses: new.uses,
        used: 0,
        created_by: new.created_by.clone(),
        pins: draft.image().security.active_authority(),
    };
    draft.push(MetadataRecord::Token(token.clone()));
    Ok(Reply::TokenCreated(token))
}

pub fn revoke_token(draft: &mut Draft<'_>, id: &str) -> Result<Reply, Refusal> {
    if !draft.image().security.tokens.contains_key(id) {
        return Err(Refusal::new(
            ErrorCode::RESOURCE_NOT_FOUND,
            format!("there is no token {id}; `tailway token list` shows those that are"),
        ));
    }
    draft.push(MetadataRecord::RemoveToken(RemoveTokenRecord { id: id.to_owned() }));
    Ok(Reply::TokenRevoked)
}

pub fn certify(draft: &mut Draft<'_>, request: &Certify) -> Result<Reply, Refusal> {
    let (role, token, issued_by) = match &request.grant {
        Grant::Token { id, secret_sha256 } => {
            let token = redeem(draft.image(), id, secret_sha256, request.now)?;
            (token.role, Some(token), format!("token {id}"))
        }
        Grant::Admin { name, role } => (*role, None, format!("admin {name}")),
        Grant::Renewal { serial, role } => (*role, None, format!("renewal of {serial}")),
    };
    let names = match &request.grant {
        Grant::Renewal { serial, .. } => renewed(draft.image(), serial, role, request)?,
        Grant::Token { .. } | Grant::Admin { .. } => request.names.clone(),
    };
    check_member(role, &request.id, &names)?;
    if token.is_some() {
        check_unheld(draft.image(), role, request)?;
    }
    forget_expired(draft, request.now);
    if draft.image().security.certificates.len() >= CERTIFICATES_MAX {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!("{CERTIFICATES_MAX} certificates are in force, which is the limit"),
        ));
    }
    if let Some(mut token) = token {
        token.used += 1;
        draft.push(MetadataRecord::Token(token));
    }
    let issued = IssuedCertificate {
        serial: request.serial.clone(),
        role,
        id: request.id.clone(),
        names,
        not_before: request.not_before,
        not_after: request.not_after,
        issued_by,
        revoked: None,
        signed_by: draft.image().security.active_authority(),
        // It comes with the certificates of all CAs to trust.
        knows: draft.image().security.newest_authority(),
    };
    draft.push(MetadataRecord::Certificate(issued.clone()));
    Ok(Reply::Certified(issued))
}

pub fn revoke_certificates(
    draft: &mut Draft<'_>,
    which: &CertificateRef,
    now: WallMs,
) -> Result<Reply, Refusal> {
    let named = |issued: &&IssuedCertificate| match which {
        CertificateRef::Serial(serial) => issued.serial == *serial,
        CertificateRef::Member { role, id } => issued.is_of(*role, id),
    };
    let certificates = &draft.image().security.certificates;
    let mut found: Vec<IssuedCertificate> = certificates.values().filter(named).cloned().collect();
    if found.is_empty() {
        let what = match which {
            CertificateRef::Serial(serial) => {
                format!("no certificate has the serial number {serial}")
            }
            CertificateRef::Member { role, id } => format!("no certificate is {role}/{id}'s"),
        };
        return Err(Refusal::new(
            ErrorCode::RESOURCE_NOT_FOUND,
            format!("{what}; `tailway cert list` shows those that are in force"),
        ));
    }
    for issued in &mut found {
        if issued.revoked.is_none() {
            issued.revoked = Some(now);
            draft.push(MetadataRecord::Certificate(issued.clone()));
        }
    }
    Ok(Reply::CertificatesRevoked(found))
}

/// Certificates that were made before there was a state to record them in, by `coordinator init`.
pub fn adopt(draft: &mut Draft<'_>, first: &[IssuedCertificate]) {
    for issued in first {
        if !draft.image().security.certificates.contains_key(&issued.serial) {
            draft.push(MetadataRecord::Certificate(issued.clone()));
        }
    }
}

/// The token, if it is good; else why not, and that only to whoever has its secret.
fn redeem(
    image: &ClusterImage,
    id: &str,
    secret_sha256: &Sha256,
    now: WallMs,
) -> Result<JoinToken, Refusal> {
    let refused = |text: String| Refusal::new(ErrorCode::CLUSTER_AUTHORIZATION_FAILED, text);
    let proved = |token: &&JoinToken| {
        token.secret_sha256.matches(secret_sha256)
            || tailway_faults::is_planted("coordinator.token_secret_unchecked")
    };
    let token = image.security.tokens.get(id).filter(proved).ok_or_else(|| {
        refused(
            "the token is not known here: it was altered, revoked or made by another cluster; make a new one (tailway token create)".into(),
        )
    })?;
    if token.is_expired(now) && !tailway_faults::is_planted("coordinator.token_expiry_unchecked") {
        return Err(refused(format!(
            "token {id} expired {} s ago by the coordinator's clock; make a new one (tailway token create --ttl ...)",
            now.0.saturating_sub(token.expires.0) / 1_000
        )));
    }
    if token.used >= token.uses {
        if tailway_faults::is_planted("coordinator.token_uses_unchecked") {
            return Ok(JoinToken { uses: token.uses + 1, ..token.clone() });
        }
        return Err(refused(format!(
            "token {id} is used up: it was good for {} certificates; make a new one (tailway token create --uses ...)",
            token.uses
        )));
    }
    Ok(token.clone())
}

/// The names of the certificate that is renewed, if it may be.
fn renewed(
    image: &ClusterImage,
    serial: &Serial,
    role: Role,
    request: &Certify,
) -> Result<Vec<String>, Refusal> {
    let refused = |text: String| Err(Refusal::new(ErrorCode::CLUSTER_AUTHORIZATION_FAILED, text));
    let certificates = &image.security.certificates;
    let known = certificates.get(serial).filter(|issued| issued.is_of(role, &request.id));
    let Some(known) = known else {
        return refused(format!(
            "certificate {serial} is not one that this coordinator issued to {role}/{}: enrol with a token (tailway token create --role {role})",
            request.id
        ));
    };
    if !known.is_good(request.now) && !tailway_faults::is_planted("coordinator.revoked_renewed") {
        let what = if known.revoked.is_some() { "was revoked" } else { "has expired" };
        return refused(format!("certificate {serial} {what}: enrol with a token"));
    }
    let of_member = certificates.values().filter(|issued| issued.is_of(role, &request.id));
    if of_member.filter(|issued| issued.is_good(request.now)).count() >= IN_FORCE_MAX {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            format!(
                "{role}/{} has {IN_FORCE_MAX} certificates in force already: something renews too often (in a timer: tailway cert renew DIR --if-due); an admin ends the old ones: tailway cert list, tailway cert revoke SERIAL",
                request.id
            ),
        ));
    }
    Ok(known.names.clone())
}

/// That no other certificate in force is this member's or names one of its hosts.
fn check_unheld(image: &ClusterImage, role: Role, request: &Certify) -> Result<(), Refusal> {
    let security = &image.security;
    let in_force = |issued: &&IssuedCertificate| {
        issued.is_good(request.now) && !security.is_revoked(&issued.serial)
    };
    for issued in image.security.certificates.values().filter(in_force) {
        let shared = request
            .names
            .iter()
            .find(|name| !LOOPBACK.contains(&name.as_str()) && issued.names.contains(name));
        let what = if issued.is_of(role, &request.id) {
            format!("{role}/{} is a member already", request.id)
        } else if let Some(name) = shared {
            format!("the name {name} belongs to {}/{}", issued.role, issued.id)
        } else {
            continue;
        };
        return Err(Refusal::new(
            ErrorCode::DUPLICATE_RESOURCE,
            format!(
                "{what} (certificate {}); if that host is gone or this is that host: tailway cert revoke {}",
                issued.serial, issued.serial
            ),
        ));
    }
    Ok(())
}

fn check_member(role: Role, id: &str, names: &[String]) -> Result<(), Refusal> {
    let invalid = |text: String| Err(Refusal::new(ErrorCode::INVALID_REQUEST, text));
    check_id(id)?;
    match role {
        // As it is printed: `07` and `7` would be two members with one number.
        Role::Broker if id.parse::<i32>().is_ok_and(|n| n >= 0 && n.to_string() == id) => {}
        Role::Coordinator if id.parse::<u64>().is_ok_and(|n| n.to_string() == id) => {}
        Role::Broker | Role::Coordinator => {
            return invalid(format!(
                "the id of a {role} is its number, not {id:?}; give --id NUMBER"
            ));
        }
        Role::Agent | Role::Client | Role::Admin => {}
    }
    match (role.is_server(), names.len()) {
        (true, 1..=NAMES_MAX) | (false, 0) => Ok(()),
        (true, 0) => invalid(format!("a {role} is reached by a name: give --name HOST")),
        (true, more) => invalid(format!("{more} names are more than the {NAMES_MAX} allowed")),
        (false, _) => invalid(format!("nobody connects to a {role}: it has no host names")),
    }
}

fn check_id(id: &str) -> Result<(), Refusal> {
    let good = (1..=ID_LEN_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if good {
        return Ok(());
    }
    Err(Refusal::new(
        ErrorCode::INVALID_REQUEST,
        format!("an id is 1 to {ID_LEN_MAX} of A-Z a-z 0-9 . _ -"),
    ))
}

/// What has expired says nothing any more: a certificate that is over is refused by its date.
fn forget_expired(draft: &mut Draft<'_>, now: WallMs) {
    let security = &draft.image().security;
    let tokens: Vec<String> = security
        .tokens
        .values()
        .filter(|t| long_over(t.expires, now))
        .map(|t| t.id.clone())
        .collect();
    let certificates: Vec<Serial> = security
        .certificates
        .values()
        .filter(|issued| long_over(issued.not_after, now))
        .map(|issued| issued.serial.clone())
        .collect();
    for id in tokens {
        draft.push(MetadataRecord::RemoveToken(RemoveTokenRecord { id }));
    }
    for serial in certificates {
        draft.push(MetadataRecord::RemoveCertificate(RemoveCertificateRecord { serial }));
    }
}

/// A day after its end, so that a late user is told that it expired, and clocks may differ.
fn long_over(end: WallMs, now: WallMs) -> bool {
    now.0.saturating_sub(end.0) > 24 * 3_600_000
}
