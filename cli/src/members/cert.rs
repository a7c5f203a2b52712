//! `tailway cert`: certificates for Kafka clients and operators, and the list of all.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tailway_daemon::exit::Exit;
use tailway_metadata::enrollment::{CertificateRef, Enrolled, IssueCertificateRequest, Membership};
use tailway_metadata::security::IssuedCertificate;
use tailway_metadata::{Role, Secret};
use tailway_net::certificate_request::CertificateRequest;
use tailway_wire::ApiKey;

use super::AsArgs;
use super::call::Caller;
use super::identity::{Identity, Papers};
use super::pkcs12;
use super::token::row;
use crate::output::{complain, say, span, table};

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
    write_pkcs12(&papers, name, &made.key_pem, &enrolled)?;
    let keystore = Secret::new(format!("{}{}", made.key_pem.expose(), enrolled.certificate_pem));
    papers.put(KEYSTORE_PEM, keystore.expose())?;
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

fn write_pkcs12(papers: &Papers, name: &str, key_pem: &Secret, enrolled: &Enrolled) -> Result<()> {
    let certificate = CertificateDer::from_pem_slice(enrolled.certificate_pem.as_bytes())
        .context("the coordinator's certificate is no PEM")?;
    let ca = CertificateDer::from_pem_slice(enrolled.ca_pem.as_bytes())
        .context("the coordinator's CA is no PEM")?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.expose().as_bytes())?;
    let password = Secret::new(tailway_runtime::uuid().simple().to_string());
    let store = pkcs12::encode(
        &pkcs12::Entry { name, key: key.secret_der(), certificate: &certificate, ca: &ca },
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
