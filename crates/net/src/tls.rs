//! TLS configurations from PEM files.
//!
//! The provider (aws-lc-rs) is named explicitly, so that linking a second one can never change or
//! break ours. Every error names the file and what is wrong with it. There is no way to switch
//! off the check of a server's certificate or name; [`ClientTlsFiles::server_name`] only says
//! which name to expect. A private key that others
//! may read is refused. A file of CAs may also hold their revocation lists (`X509 CRL`): what they name is refused, and said
//! to be revoked. A list never becomes too old, because whoever cannot ask for a newer one has no better.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::{Error as PemError, PemObject};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use tailway_metadata::Secret;
use tailway_metadata::security::{Serial, Sha256};

use crate::address::HostPort;
use crate::own::OwnCertificate;
use crate::pin::PinnedCa;
use crate::revocation::{Revoked, Unrevoked};

/// A key may be read by its group (as Debian's ssl-cert), by nobody else, and changed by its owner alone.
const KEY_MODE_MASK: u32 = 0o037;

/// What a listener asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Certificates are not asked for.
    None,
    /// A certificate is verified if presented.
    Optional,
    /// No certificate, no connection.
    Required,
}

/// Where a listener's TLS material lies.
#[derive(Debug, Clone)]
pub struct ServerTlsFiles {
    /// The certificate chain, leaf first.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// CAs whose client certificates are accepted; needed unless `client_auth` is `None`.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// Where a client's TLS material lies.
#[derive(Debug, Clone)]
pub struct ClientTlsFiles {
    /// CAs whose server certificates are accepted.
    pub ca: PathBuf,
    /// Our own certificate and key, both or none.
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The name the server's certificate must have; by default the host that is dialed.
    pub server_name: Option<String>,
}

/// A listener's TLS, ready for use. Cheap to clone; clones share what [`ServerTls::reload`] reads.
#[derive(Clone)]
pub struct ServerTls {
    loaded: Arc<RwLock<Loaded<ServerConfig>>>,
    files: Arc<ServerTlsFiles>,
    /// Shown behind the chain.
    shown: Arc<RwLock<Vec<CertificateDer<'static>>>>,
    revoked: Revoked,
}

/// A client's TLS, ready for use. Cheap to clone; clones share what [`ClientTls::reload`] reads.
#[derive(Clone)]
pub struct ClientTls {
    loaded: Arc<RwLock<Loaded<ClientConfig>>>,
    /// `None` where the CA is known by its hash.
    files: Option<Arc<ClientTlsFiles>>,
    /// Whom it trusts, for hints: the CA's file, or where else the CA is named.
    pub(crate) ca: Arc<str>,
    has_certificate: bool,
    server_name: Option<ServerName<'static>>,
}

/// What was read, and the certificate in it.
type Loaded<C> = (Arc<C>, Option<Arc<OwnCertificate>>);

/// What a PEM file is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    Ca,
    Certificate,
    Key,
}

impl TlsFile {
    const fn name(self) -> &'static str {
        match self {
            TlsFile::Ca => "CA",
            TlsFile::Certificate => "certificate",
            TlsFile::Key => "key",
        }
    }

    /// What has to be in it, and how that begins.
    const fn content(self) -> (&'static str, &'static str) {
        match self {
            TlsFile::Ca | TlsFile::Certificate => ("certificate", "CERTIFICATE"),
            TlsFile::Key => ("private key", "PRIVATE KEY"),
        }
    }

    /// The key of the configuration that names it, the same for every program.
    const fn config_key(self) -> &'static str {
        match self {
            TlsFile::Ca => ".ca",
            TlsFile::Certificate => ".cert",
            TlsFile::Key => ".key",
        }
    }
}

/// Why TLS material cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {} {}: {cause}", file.name(), path.display())]
    Read { file: TlsFile, path: PathBuf, cause: std::io::Error },
    #[error("{} {} is no PEM: {cause}", file.name(), path.display())]
    Pem { file: TlsFile, path: PathBuf, cause: PemError },
    #[error(
        "{} has no {} in it (no `-----BEGIN {}-----` section)",
        path.display(), file.content().0, file.content().1
    )]
    Empty { file: TlsFile, path: PathBuf },
    #[error("the CA {} cannot be used: {cause}", path.display())]
    Ca { path: PathBuf, cause: String },
    #[error("the certificate {} and the key {} do not go together: {cause}", cert.display(), key.display())]
    KeyPair { cert: PathBuf, key: PathBuf, cause: String },
    #[error("a client certificate needs both tls.cert and tls.key; {missing} is missing")]
    Half { missing: &'static str },
    #[error("client certificates are asked for, but no CA is named to check them with")]
    NoClientCa,
    #[error("`{name}` is no server name")]
    ServerName { name: String },
    #[error(
        "the private key {path} may be read or changed by others (mode {mode:04o}): chmod 0600 {path}",
        path = path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

impl TlsError {
    /// The key that it is about in a configuration's section of TLS files, with its dot; empty if it is about all of them.
    pub const fn config_key(&self) -> &'static str {
        match self {
            TlsError::Read { file, .. }
            | TlsError::Pem { file, .. }
            | TlsError::Empty { file, .. } => file.config_key(),
            TlsError::Ca { .. } | TlsError::NoClientCa => TlsFile::Ca.config_key(),
            TlsError::KeyPair { .. } => TlsFile::Certificate.config_key(),
            TlsError::Exposed { .. } => TlsFile::Key.config_key(),
            TlsError::ServerName { .. } => ".server_name",
            TlsError::Half { .. } | TlsError::Setup(_) => "",
        }
    }
}

impl ServerTls {
    pub fn load(files: &ServerTlsFiles) -> Result<Self, TlsError> {
        Self::of(files.clone(), Vec::new())
    }

    /// For an endpoint that asks for no certificate and shows its CAs, one of which the client knows by its hash alone.
    pub fn showing(
        cert: &Path,
        key: &Path,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let files = ServerTlsFiles {
            cert: cert.into(),
            key: key.into(),
            client_ca: None,
            client_auth: ClientAuth::None,
        };
        Self::of(files, authorities)
    }

    /// What [`ServerTls::reload`] shows behind the chain from here on.
    pub fn show(&self, authorities: Vec<CertificateDer<'static>>) {
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = authorities;
    }

    fn of(files: ServerTlsFiles, shown: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let revoked = Revoked::default();
        let loaded = Arc::new(RwLock::new(server_config(&files, &shown, &revoked)?));
        let shown = Arc::new(RwLock::new(shown));
        Ok(Self { loaded, files: Arc::new(files), shown, revoked })
    }

    /// From here on clients are refused whose certificate `is_revoked`, in the handshake.
    pub fn refuse_revoked(&self, is_revoked: impl Fn(&Serial) -> bool + Send + Sync + 'static) {
        self.revoked.ask(Arc::new(is_revoked));
    }

    /// Reads the files again: handshakes from here on use what they hold. On an error all stays as it was. Blocks.
    pub fn reload(&self) -> Result<(), TlsError> {
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = server_config(&self.files, &shown, &self.revoked)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    pub fn client_auth(&self) -> ClientAuth {
        self.files.client_auth
    }

    pub fn files(&self) -> &ServerTlsFiles {
        &self.files
    }

    /// What the next handshake uses, and the certificate that it shows.
    pub(crate) fn loaded(&self) -> Loaded<ServerConfig> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn server_config(
    files: &ServerTlsFiles,
    shown: &[CertificateDer<'static>],
    revoked: &Revoked,
) -> Result<Loaded<ServerConfig>, TlsError> {
    let mut chain = read_certificates(TlsFile::Certificate, &files.cert)?;
    let own = OwnCertificate::of(&files.cert, &chain).map(Arc::new);
    chain.extend_from_slice(shown);
    let key = read_key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?;
    let builder = match files.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        asked => {
            let path = files.client_ca.as_ref().ok_or(TlsError::NoClientCa)?;
            let Authorities { roots, mut revoked_by } = read_authorities(path)?;
            if tailway_faults::is_planted("net.revoked_accepted") {
                revoked_by.clear();
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .with_crls(revoked_by)
                .only_check_end_entity_revocation()
                .allow_unknown_revocation_status();
            let verifier = match asked {
                ClientAuth::Optional => verifier.allow_unauthenticated(),
                ClientAuth::None | ClientAuth::Required => verifier,
            };
            let verifier = verifier
                .build()
                .map_err(|cause| TlsError::Ca { path: path.clone(), cause: cause.to_string() })?;
            let revoked = revoked.clone();
            builder.with_client_cert_verifier(Arc::new(Unrevoked { verifier, revoked }))
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|cause| key_pair(&files.cert, &files.key, &cause))?;
    // A session that is resumed shows no certificate: one that has expired or was revoked since would not be looked at.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((Arc::new(config), own))
}

impl ClientTls {
    pub fn load(files: &ClientTlsFiles) -> Result<Self, TlsError> {
        let loaded = client_config(files)?;
        let server_name = match &files.server_name {
            Some(name) => Some(parse_name(name)?),
            None => None,
        };
        Ok(Self {
            loaded: Arc::new(RwLock::new(loaded)),
            files: Some(Arc::new(files.clone())),
            ca: files.ca.display().to_string().into(),
            has_certificate: files.cert.is_some(),
            server_name,
        })
    }

    /// Reads the files again: connections from here on use what they hold. On an error all stays as it was. Blocks.
    pub fn reload(&self) -> Result<(), TlsError> {
        let Some(files) = &self.files else { return Ok(()) };
        let fresh = client_config(files)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The files that it was loaded from, if it was.
    pub fn files(&self) -> Option<&ClientTlsFiles> {
        self.files.as_deref()
    }

    /// What the next connection uses, and the certificate that it shows.
    pub(crate) fn loaded(&self) -> Loaded<ClientConfig> {
        self.loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Trusts the CA with this hash alone, which the server has to present: for the first connection of a host that has
    /// nothing but a token. Chain, validity and name are checked as always.
    pub fn pinned(ca: Sha256) -> Result<Self, TlsError> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedCa::new(ca, provider())))
            .with_no_client_auth();
        Ok(Self {
            loaded: Arc::new(RwLock::new((Arc::new(config), None))),
            files: None,
            ca: "the token's CA".into(),
            has_certificate: false,
            server_name: None,
        })
    }

    /// The name that the certificate of the server at `address` must carry.
    pub(crate) fn expected_name(
        &self,
        address: &HostPort,
    ) -> Result<ServerName<'static>, TlsError> {
        self.server_name.clone().map_or_else(|| parse_name(&address.host), Ok)
    }

    /// Whether a client certificate is configured.
    pub fn has_certificate(&self) -> bool {
        self.has_certificate
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("client_auth", &self.files.client_auth)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("ca", &self.ca).finish_non_exhaustive()
    }
}

fn client_config(files: &ClientTlsFiles) -> Result<Loaded<ClientConfig>, TlsError> {
    let mut own = None;
    let Authorities { roots, mut revoked_by } = read_authorities(&files.ca)?;
    if tailway_faults::is_planted("net.revoked_server_believed") {
        revoked_by.clear();
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .with_crls(revoked_by)
        .only_check_end_entity_revocation()
        .allow_unknown_revocation_status()
        .build()
        .map_err(|cause| TlsError::Ca { path: files.ca.clone(), cause: cause.to_string() })?;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Setup)?
        .with_webpki_verifier(verifier);
    let mut config = match (&files.cert, &files.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(_), None) => return Err(TlsError::Half { missing: "tls.key" }),
        (None, Some(_)) => return Err(TlsError::Half { missing: "tls.cert" }),
        (Some(cert), Some(key)) => {
            let chain = read_certificates(TlsFile::Certificate, cert)?;
            own = OwnCertificate::of(cert, &chain).map(Arc::new);
            builder
                .with_client_auth_cert(chain, read_key(key)?)
                .map_err(|cause| key_pair(cert, key, &cause))?
        }
    };
    // As above: the server's certificate is looked at each time.
    config.resumption = Resumption::disabled();
    Ok((Arc::new(config), own))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned())
        .map_err(|_| TlsError::ServerName { name: name.to_owned() })
}

fn key_pair(cert: &Path, key: &Path, cause: &rustls::Error) -> TlsError {
    TlsError::KeyPair { cert: cert.into(), key: key.into(), cause: cause.to_string() }
}

/// What a file of CAs says: whom to trust, and which of their certificates not.
struct Authorities {
    roots: Arc<RootCertStore>,
    revoked_by: Vec<CertificateRevocationListDer<'static>>,
}

fn read_authorities(path: &Path) -> Result<Authorities, TlsError> {
    let mut roots = RootCertStore::empty();
    let pem = read(TlsFile::Ca, path)?;
    for certificate in certificates_in(&pem, TlsFile::Ca, path)? {
        roots
            .add(certificate)
            .map_err(|cause| TlsError::Ca { path: path.into(), cause: cause.to_string() })?;
    }
    let revoked_by = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| TlsError::Pem { file: TlsFile::Ca, path: path.into(), cause })?;
    Ok(Authorities { roots: Arc::new(roots), revoked_by })
}

/// The certificates of a PEM file, in its order.
pub fn read_certificates(
    file: TlsFile,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates_in(&read(file, path)?, file, path)
}

fn certificates_in(
    pem: &[u8],
    file: TlsFile,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| TlsError::Pem { file, path: path.into(), cause })?;
    if certificates.is_empty() {
        return Err(TlsError::Empty { file, path: path.into() });
    }
    Ok(certificates)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let file = TlsFile::Key;
    let pem = Secret::from_ascii(read(file, path)?);
    let key = PrivateKeyDer::from_pem_slice(pem.expose().as_bytes());
    let key = key.map_err(|cause| match cause {
        PemError::NoItemsFound => TlsError::Empty { file, path: path.into() },
        cause => TlsError::Pem { file, path: path.into(), cause },
    })?;
    // A file without a key in it may be anybody's.
    check_private(path, KEY_MODE_MASK)?;
    Ok(key)
}

fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|cause| TlsError::Read { file, path: path.into(), cause })
}

/// That nobody else may read or change a private key: none of the bits of `mask` is set.
pub fn check_private(path: &Path, mask: u32) -> Result<(), TlsError> {
    use std::os::unix::fs::PermissionsExt;
    // In a simulation there is no such file; whoever reads it finds that out.
    let Ok(meta) = std::fs::metadata(path) else { return Ok(()) };
    let mode = meta.permissions().mode() & 0o777;
    if mode & mask == 0 || tailway_faults::is_planted("net.exposed_key_accepted") {
        return Ok(());
    }
    Err(TlsError::Exposed { path: path.into(), mode })
}
