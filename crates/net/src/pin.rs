//! Trust in one CA that is known by its hash only: how a host with nothing but a token meets its coordinator.
//!
//! The server presents its CA with its certificate. Only a CA with the pinned hash counts; with it as the only root the
//! chain, the validity and the name are verified as for every other connection.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tailway_metadata::security::Sha256;

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> Sha256 {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = Sha256([0; 32]);
    hash.0.copy_from_slice(digest.as_ref());
    hash
}

/// No certificate that the server presented is the pinned CA.
#[derive(Debug, thiserror::Error)]
#[error("no certificate of the chain is the CA that was named by its hash")]
pub(crate) struct NotPinned;

/// Verifies servers by the CA with one hash.
#[derive(Debug)]
pub(crate) struct PinnedCa {
    ca: Sha256,
    provider: Arc<CryptoProvider>,
}

impl PinnedCa {
    pub(crate) fn new(ca: Sha256, provider: Arc<CryptoProvider>) -> PinnedCa {
        PinnedCa { ca, provider }
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let pinned = |der: &&CertificateDer<'_>| {
            sha256(der).matches(&self.ca) || tailway_faults::is_planted("net.any_ca_is_pinned")
        };
        let Some(ca) = intermediates.iter().find(pinned) else {
            let other = CertificateError::Other(OtherError(Arc::new(NotPinned)));
            return Err(Error::InvalidCertificate(other));
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(roots.into(), Arc::clone(&self.provider))
                .build()
                .map_err(|error| Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha_256() {
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").to_string(), abc);
    }
}
