//! `tailway cert`: certificates for Kafka clients and operators, and the list of all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::Serialize;
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_metadata::enrollment::{CertificateRef, Enrolled, IssueCertificateRequest, Membership};
use tailway_metadata::security::{IssuedCertificate, Serial};
use tailway_metadata::time::WallMs;
use tailway_metadata::{Role, Secret};
use tailway_net::certificate_request::CertificateRequest;
use tailway_net::pin::sha256;
use tailway_net::renewal;
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use super::identity::{Identity, Papers};
use super::pkcs12;
use crate::output::{Output, Row, complain, moment, span};

/// A certificate that was made, and its files.
#[derive(Debug, Serialize)]
struct Issued {
    role: Role,
    id: String,
    serial: Serial,
    not_after: String,
    /// PEM.
    certificate: PathBuf,
    key: PathBuf,
    ca: PathBuf,
    keystore_pem: PathBuf,
    keystore_p12: PathBuf,
    keystore_password: PathBuf,
}

impl Issued {
    fn lines(&self) -> Vec<String> {
        let files = [
            (&self.certificate, "certificate (PEM)"),
            (&self.key, "its key (PEM, PKCS#8)"),
            (&self.ca, "the CA to trust (PEM)"),
            (&self.keystore_pem, "certificate and key in one (PEM, for Java)"),
            (&self.keystore_p12, "all of it (PKCS12, for Java before Kafka 2.7)"),
            (&self.keystore_password, "the password of the PKCS12"),
        ];
        files.map(|(path, what)| format!("{}  {what}", path.display())).into()
    }
}

/// A renewal, or that none was due.
#[derive(Debug, Serialize)]
struct Renewal<'a> {
    role: Role,
    id: &'a str,
    serial: &'a Serial,
    not_after: String,
    renewed: bool,
    /// Whether the list of what was revoked was replaced.
    revocations_replaced: bool,
}

/// A certificate as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    serial: Serial,
    role: Role,
    id: String,
    state: CertificateState,
    not_after: String,
    hosts: Vec<String>,
    issued_by: String,
    #[serde(skip)]
    ends_in: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum CertificateState {
    Good,
    Expired,
    Revoked,
}

impl Listed {
    fn of(issued: &IssuedCertificate, now: WallMs) -> Listed {
        let state = if issued.revoked.is_some() {
            CertificateState::Revoked
        } else if issued.is_good(now) {
            CertificateState::Good
        } else {
            CertificateState::Expired
        };
        Listed {
            serial: issued.serial.clone(),
            role: issued.role,
            id: issued.id.clone(),
            state,
            not_after: moment(issued.not_after),
            hosts: issued.names.clone(),
            issued_by: issued.issued_by.clone(),
            ends_in: span(now, issued.not_after),
        }
    }
}

impl Row for Listed {
    const HEADING: &'static [&'static str] =
        &["SERIAL", "ROLE", "ID", "STATE", "HOSTS", "ISSUED BY"];

    fn cells(&self) -> Vec<String> {
        let state = match self.state {
            CertificateState::Good => format!("ends in {}", self.ends_in),
            CertificateState::Expired => "expired".to_owned(),
            CertificateState::Revoked => "revoked".to_owned(),
        };
        let Listed { serial, role, id, hosts, issued_by, .. } = self;
        let (serial, role) = (serial.to_string(), role.name().to_owned());
        vec![serial, role, id.clone(), state, hosts.join(","), issued_by.clone()]
    }
}

/// A certificate that nobody accepts any more.
#[derive(Debug, Serialize)]
struct Revoked {
    serial: Serial,
    role: Role,
    id: String,
}

pub(super) async fn issue(
    role: Role,
    name: &str,
    hosts: Vec<String>,
    out: Option<PathBuf>,
    admin: &AsArgs,
    output: Output,
) -> Result<Exit> {
    let papers = Papers::in_dir(out.as_deref().unwrap_or(Path::new(name)))?;
    papers.prepare()?;
    let caller = Caller::connect(admin).await?;
    let made = CertificateRequest::generate()?;
    let request = IssueCertificateRequest {
        role,
        id: name.to_owned(),
        names: hosts,
        csr: made.csr_pem.clone(),
    };
    let enrolled: Enrolled = caller.ask(ApiKey::IssueCertificate, &request).await?;
    let identity = Identity {
        version: 0,
        cluster_id: enrolled.cluster_id.clone(),
        role,
        id: name.to_owned(),
        serial: enrolled.certificate.serial.clone(),
        not_after: enrolled.certificate.not_after,
        coordinator: caller.identity.coordinator.clone(),
    };
    write_keystores(&papers, name, &made.key_pem, &enrolled)?;
    papers.write(&made.key_pem, &enrolled.certificate_pem, &enrolled.ca_pem, &identity)?;
    let issued = &enrolled.certificate;
    complain(&format!(
        "{role} {name}: certificate {}, good for {}",
        issued.serial,
        span(issued.not_before, issued.not_after)
    ));
    let made = Issued {
        role,
        id: name.to_owned(),
        serial: issued.serial.clone(),
        not_after: moment(issued.not_after),
        certificate: papers.cert(),
        key: papers.key(),
        ca: papers.ca(),
        keystore_pem: papers.dir.join(KEYSTORE_PEM),
        keystore_p12: papers.dir.join(P12),
        keystore_password: papers.dir.join(P12_PASSWORD),
    };
    output.whole(&made, Issued::lines)?;
    Ok(Exit::Ok)
}

pub(super) const KEYSTORE_PEM: &str = "keystore.pem";
const P12: &str = "keystore.p12";
const P12_PASSWORD: &str = "keystore.password";

/// `tailway cert renew`: a new key and a certificate for it, in the place of those that are there.
///
/// `if_due`: only if a third of its life is left, or the cluster trusts other CAs. What was revoked meanwhile is written down anyway.
pub(super) async fn renew(dir: &Path, if_due: bool, output: Output) -> Result<Exit> {
    let papers = Papers::found(dir)?;
    let identity = papers.identity()?;
    let address = identity.coordinator.parse()?;
    let tls = papers.tls()?;
    let failed = |why: String| {
        let next = if why.contains("expired") {
            "an admin issues another: tailway cert issue, or a token (tailway token create) and `tailway enroll`"
        } else {
            "tailway status says which step fails"
        };
        anyhow!("the certificate in {} is not renewed: {why}\n  next: {next}", dir.display())
    };
    let now = Clock::new().wall();
    if if_due && papers.remark(now).is_none() {
        let known = std::fs::read_to_string(papers.ca()).unwrap_or_default();
        let authorities = read_certificates(TlsFile::Ca, &papers.ca())?;
        let trusts = authorities.iter().map(|ca| sha256(ca)).collect();
        let trust = renewal::trust(&address, &tls, trusts).await.map_err(failed)?;
        if !trust.renew && authorities_in(&trust.ca_pem)? == authorities {
            let mut lines = Vec::new();
            if trust.ca_pem != known {
                papers.put("ca.pem", &trust.ca_pem)?;
                let ca = papers.ca();
                lines.push(format!("{}: the list of what was revoked is replaced", ca.display()));
            }
            let revocations_replaced = !lines.is_empty();
            let left = span(now, identity.not_after);
            lines.push(format!(
                "{} {}: not due yet, its certificate ends in {left}",
                identity.role, identity.id
            ));
            let as_it_was = renewed(&identity, false, revocations_replaced);
            output.whole(&as_it_was, |_| lines)?;
            return Ok(Exit::Ok);
        }
    }
    let made = CertificateRequest::generate()?;
    let enrolled = renewal::renew(&address, &tls, made.csr_pem.clone()).await.map_err(failed)?;
    let issued = &enrolled.certificate;
    let identity =
        Identity { serial: issued.serial.clone(), not_after: issued.not_after, ..identity };
    if papers.dir.join(KEYSTORE_PEM).exists() {
        write_keystores(&papers, &identity.id, &made.key_pem, &enrolled)?;
    }
    papers.replace(&made.key_pem, &enrolled.certificate_pem, &enrolled.ca_pem, &identity)?;
    let line = format!(
        "{} {}: certificate {}, ends in {} ({})",
        identity.role,
        identity.id,
        issued.serial,
        span(Clock::new().wall(), issued.not_after),
        moment(issued.not_after)
    );
    output.line(&renewed(&identity, true, true), line)?;
    Ok(Exit::Ok)
}

fn renewed(identity: &Identity, renewed: bool, revocations_replaced: bool) -> Renewal<'_> {
    let Identity { role, id, serial, not_after, .. } = identity;
    Renewal {
        role: *role,
        id,
        serial,
        not_after: moment(*not_after),
        renewed,
        revocations_replaced,
    }
}

/// Key and certificate in the forms that Java reads.
fn write_keystores(
    papers: &Papers,
    name: &str,
    key_pem: &Secret,
    enrolled: &Enrolled,
) -> Result<()> {
    write_pkcs12(papers, name, key_pem, enrolled)?;
    let keystore = Secret::new(format!("{}{}", key_pem.expose(), enrolled.certificate_pem));
    papers.put(KEYSTORE_PEM, keystore.expose())
}

fn authorities_in(ca_pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(ca_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .context("the coordinator's CA is no PEM")
}

fn write_pkcs12(papers: &Papers, name: &str, key_pem: &Secret, enrolled: &Enrolled) -> Result<()> {
    let certificate = CertificateDer::from_pem_slice(enrolled.certificate_pem.as_bytes())
        .context("the coordinator's certificate is no PEM")?;
    let authorities = authorities_in(&enrolled.ca_pem)?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())?;
    // Whoever uses it goes on with the password that it has.
    let password = match std::fs::read_to_string(papers.dir.join(P12_PASSWORD)) {
        Ok(known) => Secret::new(known),
        Err(_) => Secret::new(tailway_runtime::uuid().simple().to_string()),
    };
    let store = pkcs12::encode(
        &pkcs12::Entry {
            name,
            key: key.secret_der(),
            certificate: &certificate,
            authorities: &authorities,
        },
        &password,
    )?;
    papers.put(P12_PASSWORD, password.expose())?;
    papers.put(P12, store)
}

pub(super) async fn list(admin: &AsArgs, output: Output) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    let listed: Vec<Listed> =
        members.certificates.iter().map(|issued| Listed::of(issued, members.now)).collect();
    output.rows(&listed)?;
    Ok(Exit::Ok)
}

pub(super) async fn revoke(which: &CertificateRef, admin: &AsArgs, output: Output) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let revoked: Vec<IssuedCertificate> = caller.ask(ApiKey::RevokeCertificates, which).await?;
    let of = |IssuedCertificate { serial, role, id, .. }| Revoked { serial, role, id };
    let revoked: Vec<Revoked> = revoked.into_iter().map(of).collect();
    output.whole(&revoked, |revoked| {
        let line = |it: &Revoked| format!("{}  {} {} is revoked", it.serial, it.role, it.id);
        revoked.iter().map(line).collect()
    })?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use tailway_metadata::authority::AuthorityId;

    use super::*;
    use crate::output::{documented, table_of};

    fn issued(revoked: Option<WallMs>) -> IssuedCertificate {
        IssuedCertificate {
            serial: Serial("0a1b".to_owned()),
            role: Role::Broker,
            id: "1".to_owned(),
            names: vec!["b1".to_owned(), "10.0.0.1".to_owned()],
            not_before: WallMs(0),
            not_after: WallMs(7_200_000),
            issued_by: "token broker1".to_owned(),
            revoked,
            signed_by: AuthorityId::FIRST,
            knows: AuthorityId::FIRST,
        }
    }

    #[test]
    fn a_certificate_is_good_expired_or_revoked() {
        let (good, revoked) = (issued(None), issued(Some(WallMs(1))));
        let listed = [
            Listed::of(&good, WallMs(0)),
            Listed::of(&good, WallMs(7_200_000)),
            Listed::of(&revoked, WallMs(0)),
        ];
        let expected = [
            "SERIAL  ROLE    ID  STATE        HOSTS        ISSUED BY",
            "0a1b    broker  1   ends in 2 h  b1,10.0.0.1  token broker1",
            "0a1b    broker  1   expired      b1,10.0.0.1  token broker1",
            "0a1b    broker  1   revoked      b1,10.0.0.1  token broker1",
        ];
        assert_eq!(table_of(&listed), expected);
        documented("cert list", &listed[0]);
    }

    #[test]
    fn fields_are_those_that_are_documented() {
        let (serial, path) = (Serial("0a".to_owned()), PathBuf::from("a"));
        let made = Issued {
            role: Role::Client,
            id: String::new(),
            serial: serial.clone(),
            not_after: String::new(),
            certificate: path.clone(),
            key: path.clone(),
            ca: path.clone(),
            keystore_pem: path.clone(),
            keystore_p12: path.clone(),
            keystore_password: path,
        };
        assert_eq!(made.lines().len(), 6);
        documented("cert issue", &made);
        let renewed = Renewal {
            role: Role::Client,
            id: "a",
            serial: &serial,
            not_after: String::new(),
            renewed: false,
            revocations_replaced: false,
        };
        documented("cert renew", &renewed);
        let revoked = Revoked { serial: serial.clone(), role: Role::Client, id: String::new() };
        documented("cert revoke", &revoked);
    }
}
