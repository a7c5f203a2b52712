//! Who is at the other end, as its certificate says.
//!
//! Tailway's own certificates carry `spiffe://<cluster>/<role>/<id>` as URI name; certificates of
//! other origin are known by their common name. The verifier has checked the chain before any of
//! this is read; bytes are still treated as hostile (no index, no trust in lengths).

use rustls_pki_types::CertificateDer;
use tailway_metadata::security::Serial;
use webpki::EndEntityCert;

/// A name of the form `spiffe://<cluster>/<role>/<id>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    pub cluster: String,
    pub role: String,
    pub id: String,
}

/// What a verified peer certificate names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PeerIdentity {
    pub spiffe: Option<SpiffeId>,
    pub common_name: Option<String>,
    /// The certificate's serial number; empty where identities are given without certificates.
    pub serial: Serial,
}

impl SpiffeId {
    /// Reads `spiffe://<cluster>/<role>/<id>`; anything else is not ours.
    pub fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let (cluster, role, id) = (parts.next()?, parts.next()?, parts.next()?);
        let whole = parts.next().is_none() && [cluster, role, id].iter().all(|p| !p.is_empty());
        whole.then(|| Self { cluster: cluster.into(), role: role.into(), id: id.into() })
    }
}

impl std::fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.cluster, self.role, self.id)
    }
}

impl PeerIdentity {
    /// Reads the names out of an end-entity certificate.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = EndEntityCert::try_from(certificate).ok()?;
        let spiffe = parsed.valid_uri_names().find_map(SpiffeId::parse);
        let common_name = common_name(parsed.subject());
        (spiffe.is_some() || common_name.is_some()).then(|| Self {
            spiffe,
            common_name,
            serial: Serial::of(parsed.serial()),
        })
    }

    /// Whether the certificate names a member of `cluster` with the given role.
    pub fn has_role(&self, cluster: &str, role: &str) -> bool {
        self.spiffe.as_ref().is_some_and(|id| id.cluster == cluster && id.role == role)
    }
}

/// Shown in logs and as principal.
impl std::fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.spiffe, &self.common_name) {
            (Some(spiffe), _) => spiffe.fmt(f),
            (None, Some(name)) => write!(f, "CN={name}"),
            (None, None) => f.write_str("unnamed"),
        }
    }
}

/// The last common name (OID 2.5.4.3) of an X.501 name: `SEQUENCE content of SET of SEQUENCE`.
fn common_name(mut name: &[u8]) -> Option<String> {
    const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
    let mut found = None;
    while !name.is_empty() {
        let (_, mut set, rest) = element(name)?;
        name = rest;
        while !set.is_empty() {
            let (_, attribute, rest) = element(set)?;
            set = rest;
            let (_, oid, value) = element(attribute)?;
            let (_, text, _) = element(value)?;
            if oid == COMMON_NAME {
                found = std::str::from_utf8(text).ok().map(str::to_owned);
            }
        }
    }
    found
}

/// One DER element: tag, content, what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(&n, rest)| (usize::from(n), rest))?,
        0x82 => rest.split_first_chunk::<2>().map(|(n, r)| (u16::from_be_bytes(*n).into(), r))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_name: Option<&str>, uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Example");
        if let Some(name) = common_name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn our_uri_is_found_among_other_names() {
        let der = certificate(Some("n0"), &["https://example.org/x", "spiffe://c1/broker/0"]);
        let identity = PeerIdentity::from_certificate(&der).unwrap();
        assert_eq!(identity.to_string(), "spiffe://c1/broker/0");
        assert_eq!(identity.common_name.as_deref(), Some("n0"));
        assert!(identity.has_role("c1", "broker"));
        assert!(!identity.has_role("c1", "coordinator"));
        assert!(!identity.has_role("c2", "broker"));
    }

    #[test]
    fn the_common_name_stands_in_and_gives_no_role() {
        let identity = PeerIdentity::from_certificate(&certificate(Some("shipper"), &[])).unwrap();
        assert_eq!(identity.to_string(), "CN=shipper");
        assert!(!identity.has_role("shipper", "shipper"));
        assert_eq!(PeerIdentity::from_certificate(&certificate(None, &[])), None);
    }

    #[test]
    fn other_uris_are_not_ours() {
        for uri in ["spiffe://c", "spiffe://c/broker", "spiffe://c/broker/0/1", "spiffe:///b/0"] {
            assert_eq!(SpiffeId::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn cut_names_give_nothing_instead_of_a_panic() {
        let der = certificate(Some("n0"), &["spiffe://c1/broker/0"]);
        for cut in 0..der.len() {
            let part = CertificateDer::from(der[..cut].to_vec());
            assert_eq!(PeerIdentity::from_certificate(&part), None, "{cut}");
        }
        assert_eq!(common_name(&[0x31, 0x84, 1, 2]), None);
        assert_eq!(common_name(&[0x31, 0x7f]), None);
    }
}
