//! Paths as serde writes them: as text, which nearly all of them are, or else as a list of bytes.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Utf8(String),
    Bytes(Vec<u8>),
}

pub(super) fn serialize<P: AsRef<Path>, S: Serializer>(path: &P, to: S) -> Result<S::Ok, S::Error> {
    let path = path.as_ref();
    match path.to_str() {
        Some(text) => text.serialize(to),
        None => path.as_os_str().as_bytes().serialize(to),
    }
}

pub(super) fn deserialize<'de, P: From<PathBuf>, D: Deserializer<'de>>(
    from: D,
) -> Result<P, D::Error> {
    Ok(P::from(match Text::deserialize(from)? {
        Text::Utf8(text) => PathBuf::from(text),
        Text::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
    }))
}
