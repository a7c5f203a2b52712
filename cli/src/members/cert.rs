//! `tailway cert`: certificates for Kafka clients and operators, and the list of all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tailway_daemon::Clock;
use tailway_daemon::exit::Exit;
use tailway_metadata::enrollment::{CertificateRef, Enrolled, IssueCertificateRequest, Membership};
use tailway_metadata::security::IssuedCertificate;
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
use super::token::row;
use crate::output::{complain, moment, say, span, table};

pub(super) async fn issue(
    role: Role,
    name: &str,
    hosts: Vec<String>,
    out: Option<PathBuf>,
    admin: &AsArgs,
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
    for (path, what) in [
        (papers.cert(), "certificate (PEM)"),
        (papers.key(), "its key (PEM, PKCS#8)"),
        (papers.ca(), "the CA to trust (PEM)"),
        (papers.dir.join(KEYSTORE_PEM), "certificate and key in one (PEM, for Java)"),
        (papers.dir.join(P12), "all of it (PKCS12, for Java before Kafka 2.7)"),
        (papers.dir.join(P12_PASSWORD), "the password of the PKCS12"),
    ] {
        say(&format!("{}  {what}", path.display()))?;
    }
    Ok(Exit::Ok)
}

pub(super) const KEYSTORE_PEM: &str = "keystore.pem";
const P12: &str = "keystore.p12";
const P12_PASSWORD: &str = "keystore.password";

/// `tailway cert renew`: a new key and a certificate for it, in the place of those that are there.
///
/// `if_due`: only if a third of its life is left, or the cluster trusts other CAs. What was revoked meanwhile is written down anyway.
pub(super) async fn renew(dir: &Path, if_due: bool) -> Result<Exit> {
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
            if trust.ca_pem != known {
                papers.put("ca.pem", &trust.ca_pem)?;
                say(&format!(
                    "{}: the list of what was revoked is replaced",
                    papers.ca().display()
                ))?;
            }
            say(&format!(
                "{} {}: not due yet, its certificate ends in {}",
                identity.role,
                identity.id,
                span(now, identity.not_after)
            ))?;
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
    say(&format!(
        "{} {}: certificate {}, ends in {} ({})",
        identity.role,
        identity.id,
        issued.serial,
        span(Clock::new().wall(), issued.not_after),
        moment(issued.not_after)
    ))?;
    Ok(Exit::Ok)
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

pub(super) async fn list(admin: &AsArgs) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let members: Membership = caller.ask(ApiKey::DescribeMembership, &()).await?;
    let mut rows = vec![row(["SERIAL", "ROLE", "ID", "STATE", "HOSTS", "ISSUED BY"])];
    for issued in &members.certificates {
        let state = if issued.revoked.is_some() {
            "revoked".to_owned()
        } else if issued.is_good(members.now) {
            format!("ends in {}", span(members.now, issued.not_after))
        } else {
            "expired".to_owned()
        };
        let IssuedCertificate { serial, role, id, names, issued_by, .. } = issued;
        rows.push(row([&serial.0, role.name(), id, &state, &names.join(","), issued_by]));
    }
    for line in table(&rows) {
        say(&line)?;
    }
    Ok(Exit::Ok)
}

pub(super) async fn revoke(which: &CertificateRef, admin: &AsArgs) -> Result<Exit> {
    let caller = Caller::connect(admin).await?;
    let revoked: Vec<IssuedCertificate> = caller.ask(ApiKey::RevokeCertificates, which).await?;
    for issued in revoked {
        say(&format!("{}  {} {} is revoked", issued.serial, issued.role, issued.id))?;
    }
    Ok(Exit::Ok)
}
