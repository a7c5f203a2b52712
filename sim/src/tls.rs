//! Certificate files for the configurations: made once, loaded by the daemons' own loaders, used by no simulated byte.
//!
//! The simulated network leaves TLS out (its bytes differ from run to run), but a coordinator has no configuration without
//! it, and the simulation loads what production loads.

use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

/// The cluster that the certificates name.
pub(crate) const CLUSTER: &str = "simulated";

/// PEM files in a directory that goes when this does.
#[derive(Debug)]
pub(crate) struct TlsFiles {
    dir: TempDir,
}

impl TlsFiles {
    pub(crate) fn make() -> Result<TlsFiles> {
        let dir = tempfile::tempdir()?;
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        std::fs::write(dir.path().join("ca.pem"), ca.self_signed(&ca_key)?.pem())?;
        let issuer = Issuer::new(ca, ca_key);
        let files = TlsFiles { dir };
        for role in ["coordinator", "broker"] {
            let key = KeyPair::generate()?;
            let mut leaf = CertificateParams::default();
            let name = format!("spiffe://{CLUSTER}/{role}/0");
            leaf.subject_alt_names = vec![SanType::URI(name.try_into()?)];
            std::fs::write(files.cert(role), leaf.signed_by(&key, &issuer)?.pem())?;
            std::fs::write(files.key(role), key.serialize_pem())?;
            private(&files.key(role))?;
        }
        Ok(files)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    pub(crate) fn cert(&self, role: &str) -> PathBuf {
        self.dir.path().join(format!("{role}.pem"))
    }

    pub(crate) fn key(&self, role: &str) -> PathBuf {
        self.dir.path().join(format!("{role}.key"))
    }
}

fn private(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}
