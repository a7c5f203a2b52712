//! The certificates of a dev directory: an own CA with its key, and one certificate each for coordinator, broker, agent
//! and client, all in DIR/tls.
//!
//! Made once and kept; made anew when they end within a week, or when the CA or the cluster id is another. Invariant: the
//! CA's key is the last file written, so that an interrupted run is noticed and all is made again.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tailway_metadata::time::WallMs;
use tailway_net::PeerIdentity;
use time::OffsetDateTime;

use super::files::write_file;
use super::validity::not_after;

const DAY: Duration = Duration::from_hours(24);
const CA_DAYS: u32 = 3_650;
const LEAF_DAYS: u32 = 365;
/// Made anew when fewer than these are left.
const MARGIN_DAYS: u32 = 7;

/// Where the files are.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    dir: PathBuf,
}

/// Role and id of each certificate; the role is also the file's name.
const LEAVES: [(&str, &str); 4] =
    [("coordinator", "0"), ("broker", "0"), ("agent", "dev"), ("client", "dev")];

impl Certificates {
    pub(crate) fn in_dir(dir: &Path) -> Certificates {
        Certificates { dir: dir.to_owned() }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub(crate) fn cert(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.pem"))
    }

    pub(crate) fn key(&self, role: &str) -> PathBuf {
        self.dir.join(format!("{role}.key"))
    }

    /// Makes what is missing, ends soon or belongs to another cluster. Returns what was made and why, for the user.
    pub(crate) fn ensure(&self, cluster_id: &str, now: WallMs) -> Result<Vec<String>> {
        fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        let mut made = Vec::new();
        let authority = match self.authority(now) {
            Ok(authority) => authority,
            Err(why) => {
                made.push(format!("a certificate authority ({why})"));
                Authority { key: KeyPair::generate()?, fresh: true }
            }
        };
        let issuer = Issuer::new(ca_params(now)?, &authority.key);
        for (role, id) in LEAVES {
            let why = if authority.fresh {
                "for the new authority"
            } else if let Err(why) = self.leaf(role, id, cluster_id, now) {
                why
            } else {
                continue;
            };
            let key = KeyPair::generate()?;
            let certificate = leaf_params(role, id, cluster_id, now)?.signed_by(&key, &issuer)?;
            write_file(&self.cert(role), certificate.pem().as_bytes(), 0o644)?;
            write_file(&self.key(role), key.serialize_pem().as_bytes(), 0o600)?;
            if !authority.fresh {
                made.push(format!("the certificate of the {role} ({why})"));
            }
        }
        if authority.fresh {
            let certificate = ca_params(now)?.self_signed(&authority.key)?;
            write_file(&self.ca(), certificate.pem().as_bytes(), 0o644)?;
            write_file(&self.dir.join("ca.key"), authority.key.serialize_pem().as_bytes(), 0o600)?;
        }
        Ok(made)
    }

    /// The authority that is there, or why it cannot be used.
    fn authority(&self, now: WallMs) -> Result<Authority, &'static str> {
        let key = fs::read_to_string(self.dir.join("ca.key")).map_err(|_| "none was there")?;
        let key = KeyPair::from_pem(&key).map_err(|_| "its key could not be read")?;
        let certificate =
            CertificateDer::from_pem_file(self.ca()).map_err(|_| "it could not be read")?;
        lasting(&certificate, now)?;
        Ok(Authority { key, fresh: false })
    }

    /// Whether a certificate can go on being used, or why not.
    fn leaf(&self, role: &str, id: &str, cluster: &str, now: WallMs) -> Result<(), &'static str> {
        let unreadable = "it could not be read";
        let certificate = CertificateDer::from_pem_file(self.cert(role)).map_err(|_| unreadable)?;
        let key = fs::read_to_string(self.key(role)).map_err(|_| unreadable)?;
        KeyPair::from_pem(&key).map_err(|_| unreadable)?;
        lasting(&certificate, now)?;
        let named = PeerIdentity::from_certificate(&certificate).and_then(|peer| peer.spiffe);
        let right = named
            .is_some_and(|named| named.cluster == cluster && named.role == role && named.id == id);
        if right { Ok(()) } else { Err("it was for another cluster") }
    }
}

struct Authority {
    key: KeyPair,
    fresh: bool,
}

fn lasting(certificate: &CertificateDer<'_>, now: WallMs) -> Result<(), &'static str> {
    let margin = i64::from(MARGIN_DAYS) * 86_400_000;
    match not_after(certificate) {
        Some(end) if end.0 - now.0 > margin => Ok(()),
        Some(end) if end.0 > now.0 => Err("it ends within a week"),
        _ => Err("it had expired"),
    }
}

fn base_params(common_name: &str, days: u32, now: WallMs) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::from_unix_timestamp(now.0 / 1_000)?;
    // Yesterday, for clocks that are a little behind.
    params.not_before = now - DAY;
    params.not_after = now + DAY * days;
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Tailway");
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    Ok(params)
}

fn ca_params(now: WallMs) -> Result<CertificateParams> {
    let mut params = base_params("Tailway dev CA", CA_DAYS, now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn leaf_params(role: &str, id: &str, cluster_id: &str, now: WallMs) -> Result<CertificateParams> {
    let mut params = base_params(&format!("{role} {id}"), LEAF_DAYS, now)?;
    params.subject_alt_names = vec![
        SanType::URI(format!("spiffe://{cluster_id}/{role}/{id}").try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMs = WallMs(1_790_000_000_000);

    fn later(days: i64) -> WallMs {
        WallMs(NOW.0 + days * 86_400_000)
    }

    #[test]
    fn made_once_kept_and_made_anew_when_they_end() {
        let dir = tempfile::tempdir().unwrap();
        let certs = Certificates::in_dir(&dir.path().join("tls"));
        let made = certs.ensure("abc", NOW).unwrap();
        assert_eq!(made, ["a certificate authority (none was there)"]);
        let first = fs::read(certs.cert("broker")).unwrap();
        assert!(certs.ensure("abc", later(300)).unwrap().is_empty());
        assert_eq!(fs::read(certs.cert("broker")).unwrap(), first);
        // The leaves end after a year, the authority after ten.
        let made = certs.ensure("abc", later(366)).unwrap();
        assert_eq!(made.len(), 4, "{made:?}");
        assert!(made[1].contains("broker (it had expired)"), "{made:?}");
        assert_eq!(certs.ensure("abc", later(4_000)).unwrap().len(), 1);
        // Another cluster id, a lost key, a lost authority.
        assert_eq!(certs.ensure("xyz", later(4_000)).unwrap().len(), 4);
        fs::remove_file(certs.key("agent")).unwrap();
        assert_eq!(certs.ensure("xyz", later(4_000)).unwrap().len(), 1);
        fs::remove_file(dir.path().join("tls/ca.key")).unwrap();
        let made = certs.ensure("xyz", later(4_000)).unwrap();
        assert_eq!(made, ["a certificate authority (none was there)"]);
    }

    #[test]
    fn keys_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let certs = Certificates::in_dir(dir.path());
        certs.ensure("abc", NOW).unwrap();
        for (role, _) in LEAVES.into_iter().chain([("ca", "")]) {
            let mode = fs::metadata(certs.key(role)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{role}");
        }
    }
}
