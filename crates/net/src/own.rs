//! The certificate that we show, for what to say when a peer does not take it.
//!
//! A peer says no more than an alert: `certificate_expired` stands for "not valid yet" too, and OpenSSL says `bad_certificate`
//! of the latter. What we know ourselves, from when to when it is good and what our clock says, makes a sentence of that.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, UnixTime};
use tailway_metadata::time::WallMs;

use crate::explain::{TlsFailure, utc};
use crate::validity::validity;

/// Where it lies, and from when to when it is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    path: PathBuf,
    not_before: WallMs,
    not_after: WallMs,
}

/// How our own certificate stands to our own clock, where a peer says that its time is not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByOurClock {
    Over,
    Early,
    /// Or it is not known.
    Good,
}

impl OwnCertificate {
    pub(crate) fn of(path: &Path, chain: &[CertificateDer<'_>]) -> Option<OwnCertificate> {
        let (not_before, not_after) = validity(chain.first()?)?;
        Some(OwnCertificate { path: path.to_owned(), not_before, not_after })
    }

    fn by_our_clock(&self, now: WallMs) -> ByOurClock {
        if now > self.not_after {
            ByOurClock::Over
        } else if now < self.not_before {
            ByOurClock::Early
        } else {
            ByOurClock::Good
        }
    }

    fn clocks(&self, now: WallMs) -> String {
        let (path, clock) = (self.path.display(), utc(now));
        match self.by_our_clock(now) {
            ByOurClock::Over => {
                format!("{path} expired at {}, this host's clock says {clock}", utc(self.not_after))
            }
            ByOurClock::Early => format!(
                "{path} is valid from {}, this host's clock says {clock}",
                utc(self.not_before)
            ),
            ByOurClock::Good => format!(
                "{path} is valid from {} to {}, this host's clock says {clock}",
                utc(self.not_before),
                utc(self.not_after)
            ),
        }
    }
}

/// A peer's alert, with what we know of the certificate that it does not take.
pub(crate) fn refine(failure: TlsFailure, own: Option<&OwnCertificate>) -> TlsFailure {
    refine_at(failure, own, now())
}

fn refine_at(failure: TlsFailure, own: Option<&OwnCertificate>, now: WallMs) -> TlsFailure {
    let Some(own) = own else { return failure };
    let ours = own.by_our_clock(now);
    match failure {
        TlsFailure::OurCertificateNotNow { .. } => {
            TlsFailure::OurCertificateNotNow { ours, clocks: own.clocks(now) }
        }
        TlsFailure::CertificateRefused { alert } if ours != ByOurClock::Good => {
            // One that was revoked stays so, whatever the time.
            if alert == "CertificateRevoked" {
                return TlsFailure::CertificateRefused { alert };
            }
            TlsFailure::OurCertificateNotNow { ours, clocks: own.clocks(now) }
        }
        other => other,
    }
}

/// The clock by which rustls verifies.
fn now() -> WallMs {
    WallMs(i64::try_from(UnixTime::now().as_secs()).unwrap_or(i64::MAX).saturating_mul(1_000))
}

/// An alert of the peer on an open connection, refined: in TLS 1.3 a client learns by its first read that it is refused.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) TlsFailure);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.cause(crate::explain::Side::Client))
    }
}

impl std::error::Error for Refused {}

/// The same error, refined where it is such an alert.
pub(crate) fn refine_io(error: io::Error, own: Option<&OwnCertificate>) -> io::Error {
    let Some(failure) = TlsFailure::of_io(&error) else { return error };
    let refined = refine(failure.clone(), own);
    if refined == failure { error } else { io::Error::new(error.kind(), Refused(refined)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400_000;

    #[test]
    fn both_clocks_are_told_whichever_is_wrong() {
        let own = OwnCertificate {
            path: "c.pem".into(),
            not_before: WallMs(10 * DAY),
            not_after: WallMs(20 * DAY),
        };
        let alert =
            || TlsFailure::OurCertificateNotNow { ours: ByOurClock::Good, clocks: String::new() };
        let said = |failure, now| {
            let refined = refine_at(failure, Some(&own), WallMs(now));
            refined.cause(crate::explain::Side::Client)
        };
        for (now, text) in [
            (
                9 * DAY,
                "the server says our certificate is not valid yet: c.pem is valid from 1970-01-11T00:00:00Z, this host's clock says 1970-01-10T00:00:00Z",
            ),
            (
                15 * DAY,
                "the server says our certificate has expired or is not valid yet, by its clock: c.pem is valid from 1970-01-11T00:00:00Z to 1970-01-21T00:00:00Z, this host's clock says 1970-01-16T00:00:00Z",
            ),
            (
                21 * DAY,
                "the server says our certificate has expired: c.pem expired at 1970-01-21T00:00:00Z, this host's clock says 1970-01-22T00:00:00Z",
            ),
        ] {
            assert_eq!(said(alert(), now), text);
        }
        let refused = |alert: &str| TlsFailure::CertificateRefused { alert: alert.into() };
        assert!(said(refused("BadCertificate"), 9 * DAY).contains("valid from"));
        assert!(said(refused("BadCertificate"), 15 * DAY).contains("(BadCertificate)"));
        assert!(said(refused("CertificateRevoked"), 21 * DAY).contains("(CertificateRevoked)"));
        let unknown = refine_at(alert(), None, WallMs(0)).cause(crate::explain::Side::Server);
        assert_eq!(
            unknown,
            "the client says our certificate has expired or is not valid yet, by its clock"
        );
    }
}
