//! A text that must not be seen: a token's secret, a password, a private key.
//!
//! It has neither `Debug` nor `Display` nor `Serialize`, so that no log line, error, status page or panic can hold it by
//! accident: what contains one cannot derive them either, and whoever writes it somewhere says [`Secret::expose`] there, which
//! `cargo x tidy` allows in few files only. It is overwritten when it is dropped.

use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

/// A text that is shown to nobody unless asked for by name.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(Zeroizing::new(text.into()))
    }

    /// Of bytes that were read, which are overwritten if they are no text.
    pub fn from_utf8(bytes: Vec<u8>) -> Option<Secret> {
        match String::from_utf8(bytes) {
            Ok(text) => Some(Secret::new(text)),
            Err(error) => {
                drop(Zeroizing::new(error.into_bytes()));
                None
            }
        }
    }

    /// Of bytes in which only ASCII counts, as in PEM.
    pub fn from_ascii(bytes: Vec<u8>) -> Secret {
        let bytes = Zeroizing::new(bytes);
        Secret::new(String::from_utf8_lossy(&bytes))
    }

    /// The text itself. Each caller hands it to the one place that it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Without the line end that editors leave.
    #[must_use]
    pub fn trim_end(&self) -> Secret {
        Secret::new(self.0.trim_end_matches(['\r', '\n']))
    }

    /// Which says nothing of it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};
    use std::marker::PhantomData;

    use serde::Serialize;

    use super::*;
    use crate::enrollment::{EnrollRequest, Token};

    /// Whether a type has a trait: an inherent constant, where its bounds hold, goes before that of a trait.
    struct Has<T>(PhantomData<T>);

    trait Otherwise {
        const DEBUG: bool = false;
        const DISPLAY: bool = false;
        const SERIALIZE: bool = false;
        const COMPARED: bool = false;
    }

    impl<T> Otherwise for Has<T> {}

    impl<T: Debug> Has<T> {
        const DEBUG: bool = true;
    }

    impl<T: Display> Has<T> {
        const DISPLAY: bool = true;
    }

    impl<T: Serialize> Has<T> {
        const SERIALIZE: bool = true;
    }

    impl<T: PartialEq> Has<T> {
        const COMPARED: bool = true;
    }

    #[test]
    fn nothing_shows_a_secret_by_accident() {
        macro_rules! traits {
            ($of:ty) => {
                [
                    <Has<$of>>::DEBUG,
                    <Has<$of>>::DISPLAY,
                    <Has<$of>>::SERIALIZE,
                    <Has<$of>>::COMPARED,
                ]
            };
        }
        assert_eq!(traits!(String), [true; 4], "the question can be answered");
        assert_eq!(traits!(Secret), [false; 4]);
        assert_eq!(traits!(Token), [false; 4]);
        assert_eq!(traits!(EnrollRequest), [false; 4]);
        assert_eq!(traits!(Option<Secret>), [false; 4]);
    }

    #[test]
    fn it_is_read_as_it_is_or_not_at_all() {
        let secret = Secret::from_utf8(b"a b\r\n".to_vec()).unwrap();
        assert_eq!((secret.expose(), secret.trim_end().expose()), ("a b\r\n", "a b"));
        assert!(Secret::from_utf8(vec![0xff]).is_none());
        assert!(Secret::from_ascii(b"\xff-----BEGIN".to_vec()).expose().ends_with("-----BEGIN"));
        assert!(Secret::new("\n").trim_end().is_empty());
    }
}
