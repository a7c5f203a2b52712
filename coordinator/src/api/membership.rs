//! An operator's calls about members: tokens, certificates. JSON in, JSON out; the controller decides, the CA signs.

use std::sync::Arc;

use rcgen::CertificateSigningRequestParams;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tailway_metadata::enrollment::{
    Answer, CertificateRef, CreateTokenRequest, Enrolled, IssueCertificateRequest, Membership,
    RenewCertificateRequest,
};
use tailway_metadata::security::{IssuedCertificate, Serial};
use tailway_wire::{ApiKey, ErrorCode};

use super::service::{CALL_TIMEOUT, Peer, Service};
use crate::authority::{self, Authority};
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
    let authority = authority_of(service)?;
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
            Ok(Membership {
                now,
                ca_sha256: authority.sha256(),
                enrollment_port: service.enrollment_port,
                tokens: vec![token],
                certificates: Vec::new(),
                brokers: Vec::new(),
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
    Ok(Membership {
        now: service.clock.wall(),
        ca_sha256: authority_of(service)?.sha256(),
        enrollment_port: service.enrollment_port,
        tokens: security.tokens.values().cloned().collect(),
        certificates: security.certificates.values().cloned().collect(),
        brokers: image.brokers.values().cloned().collect(),
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

/// Has a certificate decided on and recorded, and then signs it.
pub(crate) async fn certify(
    service: &Service,
    grant: Grant,
    id: String,
    names: Vec<String>,
    csr: &str,
) -> Result<Enrolled, Refusal> {
    let authority = authority_of(service)?;
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
    let certificate_pem =
        authority.sign(&service.cluster_id, &issued, &csr.public_key).map_err(|error| {
            Refusal::new(ErrorCode::UNKNOWN_SERVER_ERROR, format!("the CA cannot sign: {error}"))
        })?;
    let image = service.feed.image();
    let endpoints = image.brokers.values().flat_map(|broker| &broker.endpoints);
    let tls = endpoints.filter(|e| e.protocol == tailway_metadata::broker::SecurityProtocol::Tls);
    Ok(Enrolled {
        cluster_id: service.cluster_id.clone(),
        certificate: issued,
        certificate_pem,
        ca_pem: authority.pem().to_owned(),
        coordinator_port: service.port,
        brokers: tls
            .map(|e| tailway_net::HostPort::new(e.host.clone(), e.port).to_string())
            .collect(),
    })
}

fn authority_of(service: &Service) -> Result<&Authority, Refusal> {
    service.authority.as_deref().ok_or_else(|| {
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
