//! A member's papers in a directory: ca.pem, certificate and key, and identity.json, which says whose they are.
//!
//! A daemon has key and certificate in one file, member.pem, which it renews by one rename; clients and admins have
//! cert.pem and cert.key, as most software wants them. All files are 0600 in a directory of 0700, each replaced as a whole.
//! The certificate is written last: a directory that was left half way has none, and is refused as such.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tailway_metadata::security::{Role, Serial};
use tailway_metadata::time::WallMs;
use tailway_metadata::{ClusterId, Secret};
use tailway_net::tls::{TlsFile, read_certificates};
use tailway_net::{ClientTls, ClientTlsFiles, HostPort, validity};
use tailway_storage::{Disk, FsDisk, atomic_replace};

use crate::output::{moment, quoted, span};

/// Where `coordinator init` puts the first admin's identity.
pub(crate) const ADMIN_DIR: &str = "/etc/tailway/admin";
const FILE: &str = "identity.json";
const MEMBER: &str = "member.pem";
/// A renewed certificate and its key, while the two files of the old ones are replaced.
const RENEWED: &str = "renewed.pem";

/// What identity.json says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    pub(crate) version: u32,
    pub(crate) cluster_id: ClusterId,
    pub(crate) role: Role,
    pub(crate) id: String,
    pub(crate) serial: Serial,
    pub(crate) not_after: WallMs,
    /// The coordinator's mTLS listener, for those who call it.
    pub(crate) coordinator: HostPortText,
}

/// An address as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct HostPortText(String);

impl HostPortText {
    pub(crate) fn of(address: &HostPort) -> HostPortText {
        HostPortText(address.to_string())
    }

    pub(crate) fn parse(&self) -> Result<HostPort> {
        self.0.parse().with_context(|| format!("`{}`", self.0))
    }
}

/// Where each file of a directory is.
#[derive(Debug, Clone)]
pub(crate) struct Papers {
    pub(crate) dir: PathBuf,
    /// Key and certificate are one file.
    one_file: bool,
}

impl Papers {
    pub(crate) fn in_dir(dir: &Path) -> Result<Papers> {
        let dir = std::path::absolute(dir).with_context(|| dir.display().to_string())?;
        Ok(Papers { dir, one_file: false })
    }

    /// Those of a daemon.
    pub(crate) fn of_daemon(dir: &Path) -> Result<Papers> {
        Ok(Papers { one_file: true, ..Papers::in_dir(dir)? })
    }

    /// Those that are in a directory, in whichever form.
    pub(crate) fn found(dir: &Path) -> Result<Papers> {
        let papers = Papers::in_dir(dir)?;
        let papers = Papers { one_file: papers.dir.join(MEMBER).exists(), ..papers };
        papers.finish()?;
        Ok(papers)
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.dir.join(if self.one_file { MEMBER } else { "cert.pem" })
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.dir.join(if self.one_file { MEMBER } else { "cert.key" })
    }

    /// Makes the directory, which must have no papers yet: they are never overwritten.
    pub(crate) fn prepare(&self) -> Result<()> {
        if FsDisk.exists(&self.cert())? {
            bail!(
                "{} is there already: this host has an identity\n  next: use it, or move {} away",
                self.cert().display(),
                self.dir.display()
            );
        }
        FsDisk.create_dir_all(&self.dir)?;
        // Found out now, not after a token has been used.
        self.put("key.tmp-check", "")?;
        FsDisk.remove_file(&self.dir.join("key.tmp-check"))?;
        Ok(())
    }

    pub(crate) fn write(
        &self,
        key_pem: &Secret,
        certificate_pem: &str,
        ca_pem: &str,
        identity: &Identity,
    ) -> Result<()> {
        self.put("ca.pem", ca_pem)?;
        self.put(FILE, serde_json::to_string_pretty(identity)?)?;
        if self.one_file {
            let whole = Secret::new(format!("{certificate_pem}{}", key_pem.expose()));
            return self.put(MEMBER, whole.expose());
        }
        self.put("cert.key", key_pem.expose())?;
        self.put("cert.pem", certificate_pem)
    }

    /// Replaces what is there. Whoever reads meanwhile, or after a crash, finds key and certificate that belong together,
    /// or `finish` to be done first.
    pub(crate) fn replace(
        &self,
        key_pem: &Secret,
        certificate_pem: &str,
        ca_pem: &str,
        identity: &Identity,
    ) -> Result<()> {
        self.put("ca.pem", ca_pem)?;
        let whole = Secret::new(format!("{certificate_pem}{}", key_pem.expose()));
        if self.one_file {
            self.put(MEMBER, whole.expose())?;
        } else {
            self.put(RENEWED, whole.expose())?;
            self.finish()?;
        }
        self.put(FILE, serde_json::to_string_pretty(identity)?)
    }

    /// Puts in place what a renewal left half way.
    fn finish(&self) -> Result<()> {
        let renewed = self.dir.join(RENEWED);
        let Ok(whole) = std::fs::read_to_string(&renewed).map(Secret::new) else { return Ok(()) };
        let begin = whole.expose().find("-----BEGIN PRIVATE KEY-----");
        let begin = begin.with_context(|| format!("{} has no key in it", renewed.display()))?;
        let (certificate, key) = whole.expose().split_at(begin);
        self.put("cert.key", key)?;
        self.put("cert.pem", certificate)?;
        Ok(FsDisk.remove_file(&renewed)?)
    }

    /// That the certificate ends before long, in one line; once two thirds of its life are over.
    pub(crate) fn remark(&self, now: WallMs) -> Option<String> {
        let chain = read_certificates(TlsFile::Certificate, &self.cert()).ok()?;
        let (from, until) = validity::validity(chain.first()?)?;
        let life = until.0.saturating_sub(from.0);
        let left = until.0.saturating_sub(now.0);
        if left > life / 3 {
            return None;
        }
        let dir = quoted(&self.dir.display().to_string());
        let ends = if left > 0 {
            format!("ends in {}", span(now, until))
        } else {
            format!("ended at {}, this host's clock says {}", moment(until), moment(now))
        };
        Some(format!("the certificate in {dir} {ends}: tailway cert renew {dir}"))
    }

    /// Writes one file of the directory.
    pub(crate) fn put(&self, file: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.dir.join(file);
        atomic_replace(&FsDisk, &path, content.as_ref())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Whose papers these are.
    pub(crate) fn identity(&self) -> Result<Identity> {
        let path = self.dir.join(FILE);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read {}\n  next: `tailway coordinator init` makes the first admin's identity, `tailway cert issue --role admin NAME` more; name its directory with --identity",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn files(&self) -> ClientTlsFiles {
        ClientTlsFiles {
            ca: self.ca(),
            cert: Some(self.cert()),
            key: Some(self.key()),
            server_name: None,
        }
    }

    pub(crate) fn tls(&self) -> Result<ClientTls> {
        Ok(ClientTls::load(&self.files())?)
    }
}

/// This host's name, as it calls itself.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn papers_are_their_owners_alone_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let papers = Papers::in_dir(&dir.path().join("a/b")).unwrap();
        papers.prepare().unwrap();
        papers.prepare().unwrap();
        let identity = Identity {
            version: 0,
            cluster_id: ClusterId("c".into()),
            role: Role::Admin,
            id: "root".into(),
            serial: Serial("07".into()),
            not_after: WallMs(5),
            coordinator: HostPortText::of(&HostPort::new("c", 9190)),
        };
        papers.write(&Secret::new("k"), "c", "ca", &identity).unwrap();
        assert_eq!(papers.identity().unwrap(), identity);
        assert_eq!(identity.coordinator.parse().unwrap(), HostPort::new("c", 9190));
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&papers.dir), 0o700);
        for entry in std::fs::read_dir(&papers.dir).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "{}", path.display());
        }
        let error = papers.prepare().unwrap_err().to_string();
        assert!(error.contains("cert.pem is there already"), "{error}");
    }

    #[test]
    fn the_last_third_of_its_life_is_remarked_on() {
        let dir = tempfile::tempdir().unwrap();
        let papers = Papers::in_dir(dir.path()).unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 4, 1);
        papers.put("cert.pem", params.self_signed(&key).unwrap().pem()).unwrap();
        let day = |n: i64| WallMs(1_767_225_600_000 + n * 86_400_000);
        let renew = format!("tailway cert renew {}", dir.path().display());
        for (days, said) in [
            (0, None),
            (59, None),
            (61, Some("ends in 29 days")),
            (
                91,
                Some("ended at 2026-04-01T00:00:00Z, this host's clock says 2026-04-02T00:00:00Z"),
            ),
        ] {
            let remark = papers.remark(day(days));
            assert_eq!(remark.is_some(), said.is_some(), "{days}: {remark:?}");
            if let (Some(remark), Some(said)) = (remark, said) {
                assert!(remark.contains(said) && remark.ends_with(&renew), "{remark}");
            }
        }
    }
}
