//! An operator's calls about members: tokens, certificates. JSON in, JSON out; the controller decides, the CA signs.

use std::sync::Arc;

use rcgen::CertificateSigningRequestParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tailway_metadata::authority::CertificateAuthority;
use tailway_metadata::enrollment::{
    AlterAuthorities, Answer, CertificateRef, CreateTokenRequest, Enrolled,
    IssueCertificateRequest, Membership, RenewCertificateRequest, Trust, TrustRequest,
};
use tailway_metadata::security::{IssuedCertificate, Serial, Sha256};
use tailway_wire::{ApiKey, ErrorCode};

use super::service::{CALL_TIMEOUT, Peer, Service};
use crate::authorities::Authorities;
use crate::authority;
use crate::machine::{Certify, Grant, NewToken, Refusal, Reply, Request};

/// The body of the answer.
pub(super) async fn answer(
    service: &Service,
    api: ApiKey,
    peer: &Peer,
    allowed: Result<(), Refusal>,
    body: &[u8],
) -> Vec<u8> {
    if let Err(refusal) = allowed {
        return encode::<()>(Err(refusal));
    }
    match api {
        ApiKey::CreateToken => encode(create_token(service, peer, body).await),
        ApiKey::RevokeToken => encode(revoke_token(service, body).await),
        ApiKey::DescribeMembership => encode(describe(service)),
        ApiKey::IssueCertificate => encode(issue(service, peer, body).await),
        ApiKey::RenewCertificate => encode(renew(service, peer, body).await),
        ApiKey::DescribeTrust => encode(describe_trust(service, peer, body).await),
        ApiKey::AlterAuthorities => encode(alter_authorities(service, peer, body).await),
        _ => encode(revoke(service, body).await),
    }
}

fn encode<T: Serialize>(outcome: Result<T, Refusal>) -> Vec<u8> {
    match outcome {
        Ok(done) => Answer::Done(done).encode(),
        Err(refusal) => refused(refusal).encode(),
    }
}

pub(super) fn refused(refusal: Refusal) -> Answer<()> {
    Answer::Refused { code: refusal.code.into(), text: refusal.text }
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| {
        Refusal::new(ErrorCode::INVALID_REQUEST, format!("the request cannot be read: {error}"))
    })
}

async fn create_token(
    service: &Service,
    peer: &Peer,
    body: &[u8],
) -> Result<impl Serialize, Refusal> {
    let request: CreateTokenRequest = read(body)?;
    let authorities = authorities_of(service)?;
    let new = NewToken {
        id: request.id,
        role: request.role,
        secret_sha256: request.secret_sha256,
        ttl_ms: request.ttl_ms,
        uses: request.uses,
        created_by: format!("{} {}", peer.role, peer.id),
        now: service.clock.wall(),
    };
    match service.call(Request::CreateToken(new), CALL_TIMEOUT).await {
        Reply::TokenCreated(token) => {
            let now = service.clock.wall();
            let security = Arc::clone(&service.feed.image().security);
            let pinned = authorities.find(&security, token.pins).map_err(unusable)?;
            Ok(Membership {
                now,
                ca_sha256: pinned.sha256(),
                enrollment_port: service.enrollment_port,
                tokens: vec![token],
                certificates: Vec::new(),
                brokers: Vec::new(),
                authorities: Vec::new(),
            })
        }
        other => Err(refusal_of(other)),
    }
}

async fn revoke_token(service: &Service, body: &[u8]) -> Result<(), Refusal> {
    let id: String = read(body)?;
    match service.call(Request::RevokeToken(id), CALL_TIMEOUT).await {
        Reply::TokenRevoked => Ok(()),
        other => Err(refusal_of(other)),
    }
}

fn describe(service: &Service) -> Result<Membership, Refusal> {
    if let Err(why) = &*service.leadership.borrow() {
        let text = format!("this coordinator does not lead: {why}");
        return Err(Refusal::new(ErrorCode::NOT_CONTROLLER, text));
    }
    let image = service.feed.image();
    let security = Arc::clone(&image.security);
    let authorities = authorities_of(service)?;
    Ok(Membership {
        now: service.clock.wall(),
        ca_sha256: authorities.active(&security).map_err(unusable)?.sha256(),
        enrollment_port: service.enrollment_port,
        tokens: security.tokens.values().cloned().collect(),
        certificates: security.certificates.values().cloned().collect(),
        brokers: image.brokers.values().cloned().collect(),
        authorities: authorities.described(&security),
    })
}

async fn issue(service: &Service, peer: &Peer, body: &[u8]) -> Result<Enrolled, Refusal> {
    let request: IssueCertificateRequest = read(body)?;
    let grant = Grant::Admin { name: peer.id.to_string(), role: request.role };
    certify(service, grant, request.id, request.names, &request.csr).await
}

async fn renew(service: &Service, peer: &Peer, body: &[u8]) -> Result<Enrolled, Refusal> {
    let request: RenewCertificateRequest = read(body)?;
    let grant = Grant::Renewal { serial: peer.serial.clone(), role: peer.role };
    certify(service, grant, peer.id.to_string(), Vec::new(), &request.csr).await
}

async fn revoke(service: &Service, body: &[u8]) -> Result<Vec<IssuedCertificate>, Refusal> {
    let which: CertificateRef = read(body)?;
    let now = service.clock.wall();
    match service.call(Request::RevokeCertificates { which, now }, CALL_TIMEOUT).await {
        Reply::CertificatesRevoked(revoked) => Ok(revoked),
        other => Err(refusal_of(other)),
    }
}

async fn describe_trust(service: &Service, peer: &Peer, body: &[u8]) -> Result<Trust, Refusal> {
    let request: TrustRequest = read(body)?;
    trust(service, &peer.serial, &request.trusts).await
}

/// Whom the holder of that certificate is to trust; notes that it knows the newest CA, if it does.
pub(crate) async fn trust(
    service: &Service,
    serial: &Serial,
    trusts: &[Sha256],
) -> Result<Trust, Refusal> {
    let security = Arc::clone(&service.feed.image().security);
    let ca_pem = authorities_of(service)?.trusted_pem(&security);
    let issued = security.certificates.get(serial);
    let newest = security.newest_authority();
    let knows = security.authorities.get(&newest).is_some_and(|ca| trusts.contains(&ca.sha256));
    if knows && issued.is_some_and(|issued| issued.knows < newest) {
        let noted = Request::NoteTrust { serial: serial.clone(), knows: newest };
        if let Reply::Refused(refusal) = service.call(noted, CALL_TIMEOUT).await {
            return Err(refusal);
        }
    }
    let active = security.active_authority();
    Ok(Trust { ca_pem, renew: issued.is_some_and(|issued| issued.signed_by != active) })
}

async fn alter_authorities(
    service: &Service,
    peer: &Peer,
    body: &[u8],
) -> Result<CertificateAuthority, Refusal> {
    let request: AlterAuthorities = read(body)?;
    let now = service.clock.wall();
    let reply = match request {
        AlterAuthorities::Add => return add_authority(service, peer).await,
        AlterAuthorities::Activate { authority, force } => {
            let request = Request::ActivateAuthority { authority, force, now };
            service.call(request, CALL_TIMEOUT).await
        }
        AlterAuthorities::Retire { authority, force } => {
            let request = Request::RetireAuthority { authority, force, now };
            service.call(request, CALL_TIMEOUT).await
        }
    };
    let changed = authority_in(reply)?;
    let state = changed.state.name();
    tracing::info!(ca = changed.id.0, sha256 = %changed.sha256, by = %peer.id, "the CA is {state} now");
    Ok(changed)
}

/// Its key is on the disk before it is recorded, so that none is trusted that cannot sign.
async fn add_authority(service: &Service, peer: &Peer) -> Result<CertificateAuthority, Refusal> {
    let authorities = Arc::clone(authorities_of(service)?);
    if !service.keeps_own {
        return Err(Refusal::new(
            ErrorCode::POLICY_VIOLATION,
            "this coordinator does not keep its own certificate (coordinator.tls.cert and coordinator.tls.key are not one file, as `tailway coordinator init` makes it), so it could not follow another CA",
        ));
    }
    let (making, cluster, now) =
        (Arc::clone(&authorities), service.cluster_id.clone(), service.clock.wall());
    let made = tailway_runtime::spawn_blocking(move || making.create(&cluster, now)).await;
    let (first, new) = made
        .map_err(|error| error.to_string())
        .and_then(|made| made.map_err(|error| error.to_string()))
        .map_err(unusable)?;
    let sha256 = new.sha256;
    match authority_in(service.call(Request::AddAuthority { first, new }, CALL_TIMEOUT).await) {
        Ok(added) => {
            tracing::info!(ca = added.id.0, %sha256, by = %peer.id, "a CA was added, to be trusted");
            Ok(added)
        }
        // Not if the outcome is not known: it may be recorded.
        Err(refusal) if refusal.code == ErrorCode::POLICY_VIOLATION => {
            let forgotten =
                tailway_runtime::spawn_blocking(move || authorities.forget(&sha256)).await;
            if let Ok(Err(error)) = forgotten {
                tracing::warn!(%error, "the key of a CA that was refused is still there");
            }
            Err(refusal)
        }
        Err(refusal) => Err(refusal),
    }
}

fn authority_in(reply: Reply) -> Result<CertificateAuthority, Refusal> {
    match reply {
        Reply::Authority(changed) => Ok(changed),
        other => Err(refusal_of(other)),
    }
}

/// Has a certificate decided on and recorded, and then signs it.
pub(crate) async fn certify(
    service: &Service,
    grant: Grant,
    id: String,
    names: Vec<String>,
    csr: &str,
) -> Result<Enrolled, Refusal> {
    let authorities = authorities_of(service)?;
    let invalid = |text: String| Refusal::new(ErrorCode::INVALID_REQUEST, text);
    let csr = CertificateSigningRequestParams::from_pem(csr)
        .map_err(|error| invalid(format!("the certificate request cannot be read: {error}")))?;
    for name in &names {
        authority::host_name(name).map_err(|error| invalid(error.to_string()))?;
    }
    let now = service.clock.wall();
    let (not_before, not_after) = authority::validity(now, service.certificate_lifetime);
    let serial = Serial::of(&authority::fresh_serial());
    let request = Certify { grant, id, names, serial, not_before, not_after, now };
    let issued = match service.call(Request::Certify(request), CALL_TIMEOUT).await {
        Reply::Certified(issued) => issued,
        other => return Err(refusal_of(other)),
    };
    let image = service.feed.image();
    let authority = authorities.find(&image.security, issued.signed_by).map_err(unusable)?;
    let certificate_pem =
        authority.sign(&service.cluster_id, &issued, &csr.public_key).map_err(|error| {
            Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, format!("the CA cannot sign: {error}"))
        })?;
    let endpoints = image.brokers.values().flat_map(|broker| &broker.endpoints);
    let tls = endpoints.filter(|e| e.protocol == tailway_metadata::broker::SecurityProtocol::Tls);
    Ok(Enrolled {
        cluster_id: service.cluster_id.clone(),
        certificate: issued,
        certificate_pem,
        ca_pem: authorities.trusted_pem(&image.security),
        coordinator_port: service.port,
        brokers: tls
            .map(|e| tailway_net::HostPort::new(e.host.clone(), e.port).to_string())
            .collect(),
    })
}

fn unusable(why: String) -> Refusal {
    Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, why)
}

fn authorities_of(service: &Service) -> Result<&Arc<Authorities>, Refusal> {
    service.authorities.as_ref().ok_or_else(|| {
        Refusal::new(
            ErrorCode::INVALID_REQUEST,
            "this coordinator has no CA of its own: `tailway coordinator init` makes one",
        )
    })
}

fn refusal_of(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("the controller answered another request: {other:?}"),
    }
}
