//! Eleven certificates that are not to be trusted, and one that is: made with the cluster's own CA where they need it.
//!
//! Whoever makes them has the CA's key, so that what is wrong with each is the one thing that it is named for.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};

/// What is wrong with a certificate; `Good` is the control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Good,
    /// It names another host.
    Name,
    /// It names another address, and is shown to who dials an address.
    Ip,
    Expired,
    NotYetValid,
    /// Of another CA with the same name.
    WrongCa,
    /// For the other end of a connection (its extended key usage).
    WrongUse,
    SelfSigned,
    Revoked,
    /// Of a CA that the cluster's CA has signed and that is not shown.
    NoIntermediate,
    /// The host's name is its common name, and it has no subject alternative name.
    CnOnly,
    /// `*.DOMAIN`, for a name with one label more.
    Wildcard,
}

/// All of them.
pub const FAULTS: [Fault; 12] = [
    Fault::Good,
    Fault::Name,
    Fault::Ip,
    Fault::Expired,
    Fault::NotYetValid,
    Fault::WrongCa,
    Fault::WrongUse,
    Fault::SelfSigned,
    Fault::Revoked,
    Fault::NoIntermediate,
    Fault::CnOnly,
    Fault::Wildcard,
];

/// Which end of a connection shows the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Server,
    Client,
}

/// Whom a certificate is made for.
#[derive(Clone, Debug)]
pub struct Subject {
    pub end: End,
    /// `spiffe://CLUSTER/ROLE/ID`.
    pub identity: String,
    /// A host name of at least three labels.
    pub host: String,
    pub address: Ipv4Addr,
}

/// A certificate and its key, in files of their own.
#[derive(Clone, Debug)]
pub struct Forged {
    pub fault: Fault,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Makes certificates by the CA whose certificate and key are in `ca`.
#[derive(Debug)]
pub struct Forger {
    ca: PathBuf,
    out: PathBuf,
}

impl Forger {
    /// With the CA in a folder, into another.
    pub fn new(ca: &Path, out: &Path) -> Result<Self> {
        fs::create_dir_all(out)?;
        Ok(Self { ca: ca.into(), out: out.into() })
    }

    /// The certificate with this fault. A revoked one is made good: whoever can has to revoke it.
    pub fn make(&self, fault: Fault, subject: &Subject) -> Result<Forged> {
        let key = KeyPair::generate()?;
        let params = params(fault, subject)?;
        let ca_key = KeyPair::from_pem(&self.read("ca.key")?)?;
        let ca = Issuer::from_ca_cert_pem(&self.read("ca.pem")?, ca_key)?;
        let certificate = match fault {
            Fault::SelfSigned => params.self_signed(&key)?,
            Fault::WrongCa => {
                // Its name does not tell it from the cluster's.
                let other = Issuer::from_ca_cert_pem(&self.read("ca.pem")?, KeyPair::generate()?)?;
                params.signed_by(&key, &other)?
            }
            Fault::NoIntermediate => {
                let between = authority_params("an intermediate CA");
                let between = CertifiedIssuer::signed_by(between, KeyPair::generate()?, &ca)?;
                params.signed_by(&key, &between)?
            }
            _ => params.signed_by(&key, &ca)?,
        };
        let name = format!("{:?}-{fault:?}", subject.end).to_lowercase();
        self.put(fault, &name, &certificate.pem(), &key.serialize_pem())
    }

    /// A certificate and key of somebody else's making, in one file.
    pub fn take(&self, fault: Fault, name: &str, member: &Path) -> Result<Forged> {
        let both = fs::read_to_string(member).with_context(|| member.display().to_string())?;
        let key = both.find("-----BEGIN PRIVATE KEY").context("there is no key")?;
        let (certificate, key) = both.split_at(key);
        self.put(fault, name, certificate, key)
    }

    fn put(&self, fault: Fault, name: &str, certificate: &str, key: &str) -> Result<Forged> {
        let at = |end: &str| self.out.join(format!("{name}.{end}"));
        fs::write(at("pem"), certificate)?;
        fs::write(at("key"), key)?;
        fs::set_permissions(at("key"), PermissionsExt::from_mode(0o600))?;
        Ok(Forged { fault, cert: at("pem"), key: at("key") })
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.ca.join(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }
}

fn params(fault: Fault, subject: &Subject) -> Result<CertificateParams> {
    use ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};
    let dns = |name: &str| -> Result<SanType> { Ok(SanType::DnsName(name.try_into()?)) };
    let host = dns(&subject.host)?;
    let address = SanType::IpAddress(IpAddr::V4(subject.address));
    let mut names = match fault {
        Fault::Name => vec![dns("other.test")?],
        Fault::Ip => vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))],
        Fault::CnOnly => Vec::new(),
        Fault::Wildcard => {
            let domain = subject.host.rsplit_once('.').context("the host has one label")?.1;
            vec![dns(&format!("*.{domain}"))?]
        }
        _ => vec![host, address],
    };
    if fault != Fault::CnOnly {
        names.push(SanType::URI(subject.identity.as_str().try_into()?));
    }
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    let name = if fault == Fault::CnOnly { subject.host.as_str() } else { "e2e" };
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match (fault, subject.end) {
        (Fault::WrongUse, End::Server) => vec![ClientAuth],
        (Fault::WrongUse, End::Client) => vec![ServerAuth],
        _ => vec![ServerAuth, ClientAuth],
    };
    (params.not_before, params.not_after) = match fault {
        Fault::Expired => (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
        Fault::NotYetValid => (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1)),
        _ => (date_time_ymd(2020, 1, 1), date_time_ymd(2090, 1, 1)),
    };
    // As the cluster's own have it: some software finds the CA by it.
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
