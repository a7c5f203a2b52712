//! A CA of the cluster: its key and certificate on this host, and what it signs. Which CAs there are: [`crate::authorities`].
//!
//! The key lies in the coordinator's data directory, readable by its user alone, and leaves it never: neither the Raft log
//! nor the record stream has it. What was issued is in both. A certificate says `spiffe://<cluster>/<role>/<id>`; only those
//! of coordinators and brokers name hosts and may serve, so that an agent's key cannot pose as a broker.
//! Invariant: the key is the last file that [`Authority::create`] writes: a directory with a key is whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tailway_metadata::authority::AuthorityId;
use tailway_metadata::security::{IssuedCertificate, Role, Serial, Sha256};
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterId, Secret};
use tailway_net::PeerIdentity;
use tailway_net::pin::sha256;
use tailway_storage::{Disk, StorageError, atomic_replace, read_small};
use time::OffsetDateTime;

/// The CA's directory within the coordinator's data directory.
pub const DIR: &str = "ca";
pub const CERTIFICATE_FILE: &str = "ca.pem";
const KEY_FILE: &str = "ca.key";
/// How the first CA's files begin; those of others by their hash.
const FIRST_STEM: &str = "ca";
const KEY: &str = "key";
/// Certificates that were made before the first start, for the coordinator to record.
const FIRST_FILE: &str = "first.json";
const BYTES_MAX: u64 = 1 << 20;
/// Life of the CA: ten years.
const CA_LIFE: Duration = Duration::from_hours(24 * 3_650);
/// For clocks that are a little behind.
const BACKDATED: Duration = Duration::from_mins(10);

/// The CA, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate that is accepted no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub serial: Serial,
    pub at: WallMs,
}

/// Why there is no CA to sign with.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(transparent)]
    Disk(#[from] StorageError),
    #[error("{} cannot be used: {cause}", path.display())]
    Damaged { path: PathBuf, cause: String },
    #[error("there is a CA in {} already", dir.display())]
    Exists { dir: PathBuf },
    #[error("{}", .0)]
    Exposed(tailway_net::TlsError),
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
    #[error("{0:?} is no name of a host")]
    Name(String),
    #[error("the moment {0} is outside the calendar")]
    Moment(WallMs),
}

impl Authority {
    /// Makes the first CA in `dir`, which has none. Blocks.
    pub fn create(
        disk: &dyn Disk,
        dir: &Path,
        cluster: &ClusterId,
        now: WallMs,
    ) -> Result<Authority, AuthorityError> {
        if disk.exists(&dir.join(KEY_FILE))? {
            return Err(AuthorityError::Exists { dir: dir.to_owned() });
        }
        disk.create_dir_all(dir)?;
        let (authority, key) = Authority::generate(&format!("Tailway CA of {cluster}"), now)?;
        atomic_replace(disk, &dir.join(FIRST_FILE), b"[]")?;
        authority.save(disk, dir, FIRST_STEM, &key)?;
        Ok(authority)
    }

    /// Makes one more beside it. Its name is its own, so that verifiers which look for a CA by its name find one. Blocks.
    pub fn create_another(
        disk: &dyn Disk,
        dir: &Path,
        cluster: &ClusterId,
        now: WallMs,
    ) -> Result<Authority, AuthorityError> {
        let made = now.0.div_euclid(1_000);
        let (authority, key) =
            Authority::generate(&format!("Tailway CA {made} of {cluster}"), now)?;
        authority.save(disk, dir, &stem_of(&authority.sha256()), &key)?;
        Ok(authority)
    }

    fn save(
        &self,
        disk: &dyn Disk,
        dir: &Path,
        stem: &str,
        key: &Secret,
    ) -> Result<(), AuthorityError> {
        atomic_replace(disk, &file(dir, stem, "pem"), self.pem.as_bytes())?;
        Ok(atomic_replace(disk, &file(dir, stem, KEY), key.expose().as_bytes())?)
    }

    fn generate(common_name: &str, now: WallMs) -> Result<(Authority, Secret), AuthorityError> {
        let key = KeyPair::generate()?;
        let secret = Secret::new(key.serialize_pem());
        let mut params = CertificateParams::default();
        params.not_before = moment(earlier(now, BACKDATED))?;
        params.not_after = moment(later(now, CA_LIFE))?;
        params.distinguished_name = name_of(common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&fresh_serial()));
        let certificate = params.self_signed(&key)?;
        let pem = certificate.pem();
        let certificate = certificate.der().clone();
        Ok((Authority { issuer: Issuer::new(params, key), certificate, pem }, secret))
    }

    /// The first CA in `dir`, if it is there. Blocks.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<Option<Authority>, AuthorityError> {
        Authority::open_stem(disk, dir, FIRST_STEM)
    }

    /// Every CA whose key is in `dir`. Blocks.
    pub fn open_all(disk: &dyn Disk, dir: &Path) -> Result<Vec<Authority>, AuthorityError> {
        if !disk.exists(dir)? {
            return Ok(Vec::new());
        }
        let mut all = Vec::new();
        for entry in disk.list(dir)? {
            let stem = entry.name.strip_suffix(".key");
            if let Some(stem) = stem {
                all.extend(Authority::open_stem(disk, dir, stem)?);
            }
        }
        Ok(all)
    }

    /// Removes its files from `dir`: it signs nothing any more, and its key can be stolen no more. Blocks.
    pub fn forget(&self, disk: &dyn Disk, dir: &Path) -> Result<(), AuthorityError> {
        for stem in [FIRST_STEM, &stem_of(&self.sha256())] {
            let its = Authority::open_stem(disk, dir, stem)?.is_some_and(|it| it.pem == self.pem);
            if its {
                disk.remove_file(&file(dir, stem, KEY))?;
                disk.remove_file(&file(dir, stem, "pem"))?;
                disk.sync_dir(dir)?;
            }
        }
        Ok(())
    }

    /// A certificate in which this CA vouches for another: who trusts only this one follows it to what the other signed.
    pub fn vouch_for(&self, other: &Authority) -> Result<CertificateDer<'static>, AuthorityError> {
        let damaged = || AuthorityError::Damaged {
            path: PathBuf::from(CERTIFICATE_FILE),
            cause: "its certificate has no name or no end".into(),
        };
        let named = PeerIdentity::from_certificate(&other.certificate).ok_or_else(damaged)?;
        let (not_before, not_after) =
            tailway_net::validity::validity(&other.certificate).ok_or_else(damaged)?;
        let mut params = CertificateParams::default();
        params.not_before = moment(not_before)?;
        params.not_after = moment(not_after)?;
        params.distinguished_name = name_of(&named.common_name.ok_or_else(damaged)?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.serial_number = Some(SerialNumber::from_slice(&fresh_serial()));
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(other.issuer.key(), &self.issuer)?.der().clone())
    }

    fn open_stem(
        disk: &dyn Disk,
        dir: &Path,
        stem: &str,
    ) -> Result<Option<Authority>, AuthorityError> {
        let key_path = file(dir, stem, KEY);
        tailway_net::tls::check_private(&key_path, 0o077).map_err(AuthorityError::Exposed)?;
        let Some(key) = read(disk, &key_path)?.map(Secret::new) else { return Ok(None) };
        let path = file(dir, stem, "pem");
        let damaged =
            |path: &Path, cause: String| AuthorityError::Damaged { path: path.to_owned(), cause };
        let pem = read(disk, &path)?.ok_or_else(|| damaged(&path, "it is missing".into()))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| damaged(&path, error.to_string()))?;
        let key = KeyPair::from_pem(key.expose())
            .map_err(|error| damaged(&key_path, error.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| damaged(&path, error.to_string()))?;
        Ok(Some(Authority { issuer, certificate, pem }))
    }

    /// The CA's certificate in PEM, which members trust.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What tokens pin.
    pub fn sha256(&self) -> Sha256 {
        sha256(&self.certificate)
    }

    /// Signs what was decided, for the owner of `key`. PEM.
    pub fn sign(
        &self,
        cluster: &ClusterId,
        issued: &IssuedCertificate,
        key: &impl PublicKeyData,
    ) -> Result<String, AuthorityError> {
        let mut params = CertificateParams::default();
        params.not_before = moment(issued.not_before)?;
        params.not_after = moment(issued.not_after)?;
        let serial = issued.serial.octets().unwrap_or_default();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = name_of(&format!("{} {}", issued.role, issued.id));
        let uri = format!("spiffe://{cluster}/{}/{}", issued.role, issued.id);
        params.subject_alt_names = vec![SanType::URI(uri.as_str().try_into()?)];
        for name in &issued.names {
            params.subject_alt_names.push(host_name(name)?);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if issued.role.is_server() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(key, &self.issuer)?.pem())
    }

    /// Signs which of its certificates were revoked (RFC 5280, section 5), and when. PEM.
    ///
    /// It says that the next follows when the CA ends: verifiers that refuse a list of yesterday would refuse everybody on a
    /// host that did not reach the coordinator since.
    pub fn revocation_list(&self, revoked: &[Revocation]) -> Result<String, AuthorityError> {
        let (not_before, not_after) = tailway_net::validity::validity(&self.certificate)
            .ok_or_else(|| AuthorityError::Damaged {
                path: PathBuf::from(CERTIFICATE_FILE),
                cause: "its certificate has no beginning or no end".into(),
            })?;
        let newest = revoked.iter().map(|revocation| revocation.at).max();
        let this_update = newest.map_or(not_before, |newest| earlier(newest, BACKDATED));
        let number = newest.map_or(0, |newest| u64::try_from(newest.0).unwrap_or(0));
        let mut revoked_certs = Vec::with_capacity(revoked.len());
        for Revocation { serial, at } in revoked {
            let serial = serial.octets().unwrap_or_default();
            revoked_certs.push(RevokedCertParams {
                serial_number: SerialNumber::from_slice(&serial),
                revocation_time: moment(*at)?,
                reason_code: None,
                invalidity_date: None,
            });
        }
        let params = CertificateRevocationListParams {
            this_update: moment(this_update)?,
            next_update: moment(not_after)?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            // As in the CA's certificate: some verifiers look for its list by that.
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }
}

/// No key in it.
impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("sha256", &self.sha256()).finish_non_exhaustive()
    }
}

/// A certificate that is made where the CA is, before its coordinator runs.
pub fn first_certificate(
    role: Role,
    id: &str,
    names: &[String],
    now: WallMs,
    life: Duration,
) -> IssuedCertificate {
    let (not_before, not_after) = validity(now, life);
    IssuedCertificate {
        serial: Serial::of(&fresh_serial()),
        role,
        id: id.to_owned(),
        names: names.to_vec(),
        not_before,
        not_after,
        issued_by: "init".to_owned(),
        revoked: None,
        signed_by: AuthorityId::FIRST,
        knows: AuthorityId::FIRST,
    }
}

/// Has the coordinator record these when it starts. Blocks.
pub fn save_first(
    disk: &dyn Disk,
    dir: &Path,
    first: &[IssuedCertificate],
) -> Result<(), AuthorityError> {
    Ok(atomic_replace(disk, &dir.join(FIRST_FILE), &tailway_metadata::enrollment::to_json(&first))?)
}

/// What [`save_first`] wrote, without what has expired. Blocks.
pub fn load_first(
    disk: &dyn Disk,
    dir: &Path,
    now: WallMs,
) -> Result<Vec<IssuedCertificate>, AuthorityError> {
    let path = dir.join(FIRST_FILE);
    let Some(text) = read(disk, &path)? else { return Ok(Vec::new()) };
    let mut first: Vec<IssuedCertificate> = serde_json::from_str(&text)
        .map_err(|error| AuthorityError::Damaged { path, cause: error.to_string() })?;
    first.retain(|issued| now < issued.not_after);
    Ok(first)
}

/// From a little before `now`, for `life`.
pub fn validity(now: WallMs, life: Duration) -> (WallMs, WallMs) {
    (earlier(now, BACKDATED.min(life / 10)), later(now, life))
}

/// A serial number that nobody else has: 122 random bits (RFC 5280 asks for at most 160).
pub fn fresh_serial() -> [u8; 16] {
    tailway_runtime::uuid().into_bytes()
}

/// A DNS name or an IP address as it stands in a certificate. Wildcards are none.
pub fn host_name(name: &str) -> Result<SanType, AuthorityError> {
    let wrong = || AuthorityError::Name(name.to_owned());
    if let Ok(address) = name.parse() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(wrong());
    }
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong())?))
}

fn file(dir: &Path, stem: &str, end: &str) -> PathBuf {
    dir.join(format!("{stem}.{end}"))
}

fn stem_of(sha256: &Sha256) -> String {
    format!("ca-{}", sha256.to_string().get(..16).unwrap_or_default())
}

fn name_of(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Tailway");
    name.push(DnType::CommonName, common_name);
    name
}

fn earlier(now: WallMs, span: Duration) -> WallMs {
    WallMs(now.0.saturating_sub_unsigned(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

fn later(now: WallMs, span: Duration) -> WallMs {
    WallMs(now.0.saturating_add_unsigned(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)))
}

fn moment(at: WallMs) -> Result<OffsetDateTime, AuthorityError> {
    // X.509 counts seconds.
    OffsetDateTime::from_unix_timestamp(at.0.div_euclid(1_000))
        .map_err(|_| AuthorityError::Moment(at))
}

fn read(disk: &dyn Disk, path: &Path) -> Result<Option<String>, AuthorityError> {
    let damaged = |cause: String| AuthorityError::Damaged { path: path.to_owned(), cause };
    let bytes = read_small(disk, path, BYTES_MAX).map_err(|error| match error {
        StorageError::Foreign { reason, .. } => damaged(reason),
        other => other.into(),
    })?;
    let Some(bytes) = bytes else { return Ok(None) };
    String::from_utf8(bytes).map(Some).map_err(|_| damaged("it is no text".into()))
}

#[cfg(test)]
mod tests {
    use tailway_storage::FsDisk;

    use super::*;

    const NOW: WallMs = WallMs(1_790_000_000_000);
    const DAY: Duration = Duration::from_hours(24);

    fn cluster() -> ClusterId {
        ClusterId("c1".into())
    }

    #[test]
    fn a_ca_is_made_once_and_signs_the_same_after_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca");
        assert!(Authority::open(&FsDisk, &path).unwrap().is_none());
        let made = Authority::create(&FsDisk, &path, &cluster(), NOW).unwrap();
        let read = Authority::open(&FsDisk, &path).unwrap().unwrap();
        assert_eq!((made.sha256(), made.pem()), (read.sha256(), read.pem()));
        let again = Authority::create(&FsDisk, &path, &cluster(), NOW).unwrap_err();
        assert!(matches!(again, AuthorityError::Exists { .. }), "{again}");
        let issued = first_certificate(
            Role::Broker,
            "3",
            &["b3.example".into(), "10.0.0.3".into()],
            NOW,
            DAY,
        );
        let key = KeyPair::generate().unwrap();
        for authority in [made, read] {
            let pem = authority.sign(&cluster(), &issued, &key).unwrap();
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let identity = PeerIdentity::from_certificate(&der).unwrap();
            assert_eq!(identity.to_string(), "spiffe://c1/broker/3");
            assert_eq!(identity.serial, issued.serial);
        }
    }

    #[test]
    fn an_exposed_or_damaged_key_is_refused_with_the_command() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Authority::create(&FsDisk, dir.path(), &cluster(), NOW).unwrap();
        let key = dir.path().join(KEY_FILE);
        let mode = |mode| std::fs::set_permissions(&key, PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        for exposed in [0o640, 0o604, 0o644, 0o620] {
            mode(exposed);
            let error = Authority::open(&FsDisk, dir.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod 0600 {}", key.display())), "{error}");
        }
        mode(0o600);
        std::fs::write(&key, "nonsense").unwrap();
        let error = Authority::open(&FsDisk, dir.path()).unwrap_err().to_string();
        assert!(error.contains("ca.key cannot be used"), "{error}");
    }

    #[test]
    fn first_certificates_are_kept_until_they_expire() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load_first(&FsDisk, dir.path(), NOW).unwrap(), []);
        let first = [first_certificate(Role::Admin, "root", &[], NOW, DAY)];
        save_first(&FsDisk, dir.path(), &first).unwrap();
        assert_eq!(load_first(&FsDisk, dir.path(), NOW).unwrap(), first);
        assert_eq!(load_first(&FsDisk, dir.path(), later(NOW, DAY)).unwrap(), []);
    }

    #[test]
    fn names_are_hosts() {
        for good in ["a", "b3.example", "10.0.0.3", "::1", "my_host-1"] {
            assert!(host_name(good).is_ok(), "{good}");
        }
        for bad in ["", "*.example", "a b", "a..b", "\u{e9}", "a/b", &"x".repeat(64)] {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }
}
