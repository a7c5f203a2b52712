//! Where a secret is kept: never in the configuration itself.
//!
//! `{ file: PATH }`, or `{ credential: NAME }` for what systemd's `LoadCredential=` puts into `$CREDENTIALS_DIRECTORY`. It is
//! read anew each time it is needed, so that a replaced file is enough. Invariant: what a file holds is in a [`Secret`] from
//! the first byte on, and an error names the file, never its content. Who writes the secret itself there is told not to, by an
//! error that does not repeat it.

use std::io;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use tailway_metadata::secret::Secret;

use super::Problems;

/// Longest secret, in bytes: who names a large file has named the wrong one.
const BYTES_MAX: u64 = 64 * 1024;
/// Others may not read or change it, its group may not change it: as for private keys.
const MODE_MASK: u32 = 0o037;

/// A secret as it is named in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RawSecret {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// The mapping that a [`RawSecret`] is.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Named {
    file: Option<PathBuf>,
    credential: Option<String>,
}

impl<'de> Deserialize<'de> for RawSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RawSecret, D::Error> {
        deserializer.deserialize_any(NamedOnly)
    }
}

/// Takes a mapping. What else is written may be the secret itself, and serde's errors would repeat it.
struct NamedOnly;

fn written_here<E: Error>() -> E {
    E::custom(
        "a secret is not written here; write { file: PATH } or { credential: NAME }, and take it out of this file",
    )
}

impl<'de> Visitor<'de> for NamedOnly {
    type Value = RawSecret;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{ file: PATH } or { credential: NAME }")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawSecret, A::Error> {
        let Named { file, credential } = Named::deserialize(MapAccessDeserializer::new(map))?;
        Ok(RawSecret { file, credential })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<RawSecret, A::Error> {
        Err(written_here())
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<RawSecret, E> {
        Err(written_here())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<RawSecret, E> {
        Err(written_here())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<RawSecret, E> {
        Err(written_here())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<RawSecret, E> {
        Err(written_here())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<RawSecret, E> {
        Err(written_here())
    }
}

/// Where a secret is read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretSource {
    path: PathBuf,
}

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot read the secret in {path}: {cause}")]
    Read { path: PathBuf, cause: io::Error },
    #[error(
        "others may read or change the secret in {path} (mode {mode:04o}); run: chmod 600 {path}"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error("the secret in {path} is empty")]
    Empty { path: PathBuf },
    #[error("the secret in {path} has more than 64 KiB; is it the right file?")]
    TooLong { path: PathBuf },
    #[error("the secret in {path} is not UTF-8 text")]
    NotText { path: PathBuf },
}

impl RawSecret {
    /// The source, if it can be read now; else `None` and a problem at `path`.
    pub fn check(self, path: &str, problems: &mut Problems) -> Option<SecretSource> {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let source = match (self.file, self.credential) {
            (Some(file), None) => SecretSource { path: file },
            (None, Some(name)) if name.is_empty() || name.contains('/') => {
                problems.at(
                    &format!("{path}.credential"),
                    "it is a name, as in LoadCredential=NAME:FILE",
                );
                return None;
            }
            (None, Some(name)) => {
                let Some(directory) = directory else {
                    problems.at(
                        &format!("{path}.credential"),
                        "$CREDENTIALS_DIRECTORY is not set: systemd sets it where the unit has LoadCredential=; or write file: PATH",
                    );
                    return None;
                };
                SecretSource { path: directory.join(name) }
            }
            (Some(_), Some(_)) | (None, None) => {
                problems.at(path, "write either file: PATH or credential: NAME");
                return None;
            }
        };
        match source.read() {
            Ok(_) => Some(source),
            Err(error) => {
                problems.at(path, error);
                None
            }
        }
    }
}

impl SecretSource {
    pub fn of_file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now, without the line end at its end. Blocks.
    pub fn read(&self) -> Result<Secret, SecretError> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path.clone();
        let failed = |cause| SecretError::Read { path: self.path.clone(), cause };
        let meta = std::fs::metadata(&path).map_err(failed)?;
        let mode = meta.permissions().mode() & 0o777;
        if mode & MODE_MASK != 0 {
            return Err(SecretError::Exposed { path, mode });
        }
        if meta.len() > BYTES_MAX {
            return Err(SecretError::TooLong { path });
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let Some(secret) = Secret::from_utf8(bytes).map(|text| text.trim_end()) else {
            return Err(SecretError::NotText { path });
        };
        if secret.is_empty() { Err(SecretError::Empty { path }) } else { Ok(secret) }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        password: Option<RawSecret>,
    }

    /// A password in the configuration itself is not repeated by the error that refuses it.
    #[test]
    fn a_secret_that_is_written_in_the_configuration_is_refused_and_not_shown() {
        let load = |value: &str| {
            let text = format!("password: {value}\n");
            super::super::load_text::<Holder>(Path::new("b.yaml"), &text)
        };
        for value in
            ["hunter2", "'hunter2'", "8812345", "-8812345", "8812345.5", "[hunter2]", "true"]
        {
            let (holder, problems) = load(value).unwrap();
            assert!(holder.password.is_none());
            let said = problems.finish(()).unwrap_err().to_string();
            assert!(said.contains("password: a secret is not written here"), "{said}");
            assert!(!said.contains("hunter2") && !said.contains("88123"), "{said}");
        }
        for (value, key) in
            [("{ value: hunter2 }", "password.value"), ("{ hunter: hunter2 }", "password.hunter")]
        {
            let said = load(value).unwrap().1.finish(()).unwrap_err().to_string();
            assert!(
                said.contains(&format!("{key}: unknown key")) && !said.contains("hunter2"),
                "{said}"
            );
        }
        let (holder, problems) = load("{ file: /etc/p }").unwrap();
        problems.finish(()).unwrap();
        assert_eq!(holder.password.unwrap().file.unwrap(), Path::new("/etc/p"));
    }

    #[test]
    fn a_secret_is_read_without_its_line_end_or_refused_by_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |text: &[u8], mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let read = SecretSource::of_file(&path).read();
            read.map(|secret| secret.expose().to_owned()).map_err(|error| error.to_string())
        };
        let named = path.display();
        assert_eq!(write(b"s3cret\r\n", 0o600), Ok("s3cret".to_owned()));
        assert_eq!(write(b" two words ", 0o640), Ok(" two words ".to_owned()));
        let cases: [(&[u8], u32, String); 4] = [
            (
                b"x",
                0o644,
                format!(
                    "others may read or change the secret in {named} (mode 0644); run: chmod 600 {named}"
                ),
            ),
            (b"\n", 0o600, format!("the secret in {named} is empty")),
            (b"\xff", 0o600, format!("the secret in {named} is not UTF-8 text")),
            (
                &vec![b'x'; 70_000],
                0o600,
                format!("the secret in {named} has more than 64 KiB; is it the right file?"),
            ),
        ];
        for (text, mode, expected) in cases {
            assert_eq!(write(text, mode), Err(expected));
        }
    }
}
