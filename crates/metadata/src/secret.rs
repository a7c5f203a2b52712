//! A text that must not be seen: a token's secret, a password, a private key.
//!
//! It has neither `Debug` nor `Display` nor `Serialize`, so that no log line, error, status page or panic can hold it by
//! accident: whoever writes it somewhere says [`Secret::expose`] there. It is overwritten when it is dropped.

/// A text that is shown to nobody unless asked for by name.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself. Each caller hands it to the one place that it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        // Keeps the compiler from leaving out a write that nobody reads.
        std::hint::black_box(&bytes);
    }
}
