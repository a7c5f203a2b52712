//! What a low-level failure means, in words an operator can act on.
//!
//! TLS libraries and kernels answer with codes; this file is the only place that turns them into
//! a cause and a next step. The same alert means different things on the two ends, so the side is
//! always an argument.

use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};
use tailway_metadata::time::WallMs;

use crate::own::{ByOurClock, Refused};
use crate::pin::NotPinned;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// A TLS failure by its cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFailure {
    /// What came is no TLS at all.
    NotTls,
    /// The peer closed or reset the connection inside the handshake.
    Closed,
    /// The peer's certificate is signed by nobody we trust.
    UnknownIssuer,
    /// The server does not present the CA that a token pins.
    NotPinned,
    /// The peer's certificate was revoked.
    Revoked,
    /// The peer's certificate is not for this use (its extended key usage).
    WrongUse,
    /// The peer's certificate is for other names.
    NameMismatch {
        expected: String,
        presented: Vec<String>,
    },
    /// The peer's certificate is over; both clocks, if known.
    Expired {
        clocks: String,
    },
    /// The peer's certificate is not valid yet; both clocks, if known.
    NotValidYet {
        clocks: String,
    },
    /// The peer presented no certificate and we require one.
    NoCertificate,
    /// The peer requires a certificate from us.
    CertificateRequired,
    /// The peer does not accept the certificate we presented.
    CertificateRefused {
        alert: String,
    },
    /// The peer does not trust the CA of our certificate.
    OurIssuerUnknown,
    /// The peer says that our certificate is over, or not valid yet; both clocks, if known.
    OurCertificateNotNow {
        ours: ByOurClock,
        clocks: String,
    },
    /// No TLS version or cipher in common.
    NothingInCommon,
    Other(String),
}

impl TlsFailure {
    /// Classifies an error of a TLS stream or handshake; `None` if TLS is not what failed.
    pub fn of_io(error: &io::Error) -> Option<Self> {
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(Self::of(tls));
        }
        let inner = error.get_ref()?;
        inner.downcast_ref::<Refused>().map(|Refused(failure)| failure.clone())
    }

    /// Classifies a rustls error.
    pub fn of(error: &rustls::Error) -> Self {
        use rustls::Error as E;
        match error {
            E::InvalidMessage(InvalidMessage::InvalidContentType) => Self::NotTls,
            E::InvalidCertificate(certificate) => Self::of_certificate(certificate),
            E::NoCertificatesPresented => Self::NoCertificate,
            E::AlertReceived(alert) => Self::of_alert(*alert),
            E::PeerIncompatible(_) => Self::NothingInCommon,
            other => Self::Other(other.to_string()),
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownIssuer,
            CertificateError::NotValidForNameContext { expected, presented } => {
                Self::NameMismatch {
                    expected: expected.to_str().into_owned(),
                    presented: presented.iter().filter_map(|name| host_name(name)).collect(),
                }
            }
            CertificateError::NotValidForName => {
                Self::NameMismatch { expected: "the dialed name".into(), presented: Vec::new() }
            }
            CertificateError::ExpiredContext { time, not_after } => Self::Expired {
                clocks: format!(
                    "it expired at {}, this host's clock says {}",
                    utc_of(not_after.as_secs()),
                    utc_of(time.as_secs())
                ),
            },
            CertificateError::Expired => Self::Expired { clocks: "it has expired".into() },
            CertificateError::NotValidYetContext { time, not_before } => Self::NotValidYet {
                clocks: format!(
                    "it is valid from {}, this host's clock says {}",
                    utc_of(not_before.as_secs()),
                    utc_of(time.as_secs())
                ),
            },
            CertificateError::NotValidYet => {
                Self::NotValidYet { clocks: "it is not valid yet".into() }
            }
            CertificateError::Revoked => Self::Revoked,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongUse
            }
            CertificateError::Other(other) if other.0.is::<NotPinned>() => Self::NotPinned,
            other => Self::Other(format!("its certificate is not accepted: {other}")),
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => {
                Self::CertificateRequired
            }
            // The second where the peer has a CA of the same name with another key: it was made anew.
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Self::OurIssuerUnknown,
            AlertDescription::CertificateExpired => {
                Self::OurCertificateNotNow { ours: ByOurClock::Good, clocks: String::new() }
            }
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::AccessDenied => {
                Self::CertificateRefused { alert: format!("{alert:?}") }
            }
            AlertDescription::ProtocolVersion
            | AlertDescription::HandshakeFailure
            | AlertDescription::InsufficientSecurity => Self::NothingInCommon,
            other => Self::Other(format!("the peer answered with the TLS alert {other:?}")),
        }
    }

    /// The cause in one clause.
    pub fn cause(&self, side: Side) -> String {
        let peer = match side {
            Side::Client => "server",
            Side::Server => "client",
        };
        match self {
            Self::NotTls => format!("the {peer} does not speak TLS on this port"),
            Self::Closed => format!("the {peer} closed the connection during the TLS handshake"),
            Self::UnknownIssuer => {
                format!("the {peer}'s certificate is not signed by the configured CA")
            }
            Self::NotPinned => format!(
                "the {peer} does not show the CA that the token names: the token is of another cluster, or this is not the port of its coordinator where hosts enrol"
            ),
            Self::Revoked => format!("the {peer}'s certificate was revoked"),
            Self::WrongUse => {
                format!("the {peer}'s certificate is not for use by a {peer} (extended key usage)")
            }
            Self::NameMismatch { expected, presented } if presented.is_empty() => {
                format!("the {peer}'s certificate names no host, and not `{expected}`")
            }
            Self::NameMismatch { expected, presented } => format!(
                "the {peer}'s certificate is for {}, not for `{expected}`",
                presented.join(", ")
            ),
            Self::Expired { clocks } | Self::NotValidYet { clocks } => {
                format!("the {peer}'s certificate is not valid now: {clocks}")
            }
            Self::NoCertificate => format!("the {peer} presented no certificate"),
            Self::CertificateRequired => format!("the {peer} requires a certificate from us"),
            Self::CertificateRefused { alert } => {
                format!("the {peer} does not accept our certificate ({alert})")
            }
            Self::OurIssuerUnknown => {
                format!("the {peer} does not trust the CA that signed our certificate")
            }
            Self::OurCertificateNotNow { ours, clocks } => {
                let what = match ours {
                    ByOurClock::Over => "has expired",
                    ByOurClock::Early => "is not valid yet",
                    ByOurClock::Good => "has expired or is not valid yet, by its clock",
                };
                let colon = if clocks.is_empty() { "" } else { ": " };
                format!("the {peer} says our certificate {what}{colon}{clocks}")
            }
            Self::NothingInCommon => {
                format!("the {peer} and we have no TLS version or certificate kind in common")
            }
            Self::Other(text) => text.clone(),
        }
    }
}

/// An IO error of a connection, with TLS failures in words.
pub fn io_error(error: &io::Error) -> String {
    if let Some(tls) = TlsFailure::of_io(error) {
        let hint = match &tls {
            TlsFailure::CertificateRequired => ": configure tls.cert and tls.key",
            TlsFailure::CertificateRefused { .. } | TlsFailure::OurIssuerUnknown => {
                ": use a certificate that its client CA has signed"
            }
            _ => "",
        };
        return format!("{}{hint}", tls.cause(Side::Client));
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "the peer closed the connection".into(),
        io::ErrorKind::ConnectionReset => "the peer reset the connection".into(),
        io::ErrorKind::BrokenPipe => "the peer has closed the connection".into(),
        _ => error.to_string(),
    }
}

/// Whether an error says that the peer closed or reset the connection.
pub(crate) fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::UnexpectedEof | K::ConnectionReset | K::BrokenPipe)
}

/// rustls prints presented names as `DnsName("a")` or `IpAddress(1.2.3.4)`; others, as a member's URI, are no name to dial.
fn host_name(name: &str) -> Option<String> {
    let (kind, rest) = name.split_once('(')?;
    let inner = rest.strip_suffix(')')?.trim_matches('"');
    matches!(kind, "DnsName" | "IpAddress").then(|| format!("`{inner}`"))
}

/// A moment as `2026-11-03T10:00:00Z`, to the second.
pub fn utc(at: WallMs) -> String {
    utc_of(u64::try_from(at.0.div_euclid(1_000)).unwrap_or(0))
}

/// Seconds since 1970, in the same form.
fn utc_of(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, after Howard Hinnant: years start in March, eras last 400 years.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_102_444_799, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc_of(seconds), text);
        }
    }

    #[test]
    fn one_alert_means_two_things() {
        let failure = TlsFailure::of(&rustls::Error::AlertReceived(AlertDescription::UnknownCA));
        assert_eq!(failure, TlsFailure::OurIssuerUnknown);
        assert!(failure.cause(Side::Client).starts_with("the server does not trust"));
        assert!(failure.cause(Side::Server).starts_with("the client does not trust"));
    }

    #[test]
    fn presented_names_lose_their_wrapping_and_what_is_no_host() {
        for (name, host) in [
            ("DnsName(\"kafka.example\")", Some("`kafka.example`")),
            ("IpAddress(10.0.0.1)", Some("`10.0.0.1`")),
            ("UniformResourceIdentifier(\"spiffe://c/broker/1\")", None),
        ] {
            assert_eq!(host_name(name).as_deref(), host);
        }
    }
}
