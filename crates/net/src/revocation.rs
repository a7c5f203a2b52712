//! Certificates that were revoked are refused in the handshake, so that the client is told why.
//!
//! Who knows what was revoked says it by [`Revoked`]; the chain, the validity and the use are verified before.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use tailway_metadata::security::Serial;
use webpki::EndEntityCert;

type Question = Arc<dyn Fn(&Serial) -> bool + Send + Sync>;

/// Whom to ask about a serial number; nobody at first. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Revoked(Arc<RwLock<Option<Question>>>);

impl Revoked {
    pub(crate) fn ask(&self, question: Question) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(question);
    }

    fn has(&self, certificate: &CertificateDer<'_>) -> bool {
        let question = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(question) = question else { return false };
        // What cannot be read here has not passed the verifier before.
        EndEntityCert::try_from(certificate).is_ok_and(|it| question(&Serial::of(it.serial())))
    }
}

impl std::fmt::Debug for Revoked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Revoked")
    }
}

/// Another verifier, and then the question.
#[derive(Debug)]
pub(crate) struct Unrevoked {
    pub(crate) verifier: Arc<dyn ClientCertVerifier>,
    pub(crate) revoked: Revoked,
}

impl ClientCertVerifier for Unrevoked {
    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(end_entity, intermediates, now)?;
        if self.revoked.has(end_entity) && !tailway_faults::is_planted("net.revoked_accepted") {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
