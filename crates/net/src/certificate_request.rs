//! A new key, and the request for a certificate that goes with it. The key is made where it will be used and never leaves.

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tailway_metadata::Secret;

/// A key (ECDSA P-256) and a PKCS#10 request for it.
pub struct CertificateRequest {
    /// PKCS#8 in PEM.
    pub key_pem: Secret,
    /// PEM; names nobody, because the coordinator says who it is for.
    pub csr_pem: String,
}

impl CertificateRequest {
    /// Makes a key. The error is the cryptographic library's.
    pub fn generate() -> Result<CertificateRequest, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr_pem = params.serialize_request(&key)?.pem()?;
        Ok(CertificateRequest { key_pem: Secret::new(key.serialize_pem()), csr_pem })
    }
}
